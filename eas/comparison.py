"""Generators and opponents compared: archs are proposed and selected first, then measured on the test split, once.

Files, under a study's folder, as safetensors, with their records (.json) beside them:
    comparison/<supernet>-<seed>/   proposals, selected: every method's arch for every scenario; measured: their
                                    accuracy on the test split; tuned-<budget's index>: of archs tuned alone; long:
                                    archs of the long search and their accuracy
    comparison/from_scratch/        accuracy of some generated archs that were trained alone
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from eas import analysis, data, evaluation, jobs, search
from eas.config import Dropout, Study
from eas.data import Dataset, Hierarchy
from eas.fitting import SIGNALS, load_generator, load_model, marked, opened, read_pool, run_generators
from eas.records import read_timing, timed
from eas.study import (
    Scenarios,
    calibration_images,
    groups,
    load_teacher,
    new_supernet,
    require,
    scenarios,
    spaced,
    supernet_jobs,
    train_supernets,
)
from eas.supernet import Supernet
from eas.tuning import branches_path, choose_branch, load_branch, run_branches, train_alone, tune_archs

# -------------------------------------------------------------------- archs first, then their accuracy


def comparison_folder(folder: Path, supernet: str, seed: int) -> Path:
    return folder / "comparison" / f"{supernet}-{seed}"


def propose(study: Study, folder: Path, supernet_name: str, setting: Dropout, seed: int) -> dict:
    """Every method's arch for every scenario, and its time; looks at the selection split only.

    Writes proposals.safetensors: one int64 [scenarios, decisions] for each method; the wall times, by
    method and scenario, are kept apart. A method that serves all scenarios in one batch is timed as a whole and the
    time is shared out.
    """
    out = comparison_folder(folder, supernet_name, seed)
    result = marked(study, folder, out / "proposals.safetensors", setting.name, str(seed))
    if record := result.finished():
        return record
    dataset = data.load(study, folder / "dataset.safetensors")
    space, wanted = new_supernet(study, dataset).space, scenarios(study, dataset.hierarchy)
    kept, budgets = wanted.kept, wanted.budgets
    generators = {n: load_generator(study, folder, dataset, supernet_name, seed, n) for n in (*SIGNALS, "blind")}
    effort = {"evaluations": study.search.evaluations, "population": study.search.population, "seed": seed}
    methods = {f"generator_{n}": (lambda g=g: g.generate(kept, budgets)) for n, g in generators.items()}
    methods["uniform"] = lambda: search.uniform(space, budgets, kept.sum(-1))
    proposals, seconds, begun = {}, {}, time.perf_counter()
    with torch.inference_mode():
        for suffix in ("", "_aware"):
            model = load_model(study, folder, dataset, supernet_name, seed, aware=bool(suffix))
            methods[f"evolution{suffix}"] = lambda m=model: search.evolution(space, m, kept, budgets, **effort)
            found, taken = one_by_one(lambda k, b, m=model: search.ofa_evolution(space, m, k, b, **effort), wanted)
            proposals[f"ofa_evolution{suffix}"], seconds[f"ofa_evolution{suffix}"] = found, taken
        for name, method in methods.items():
            method()  # warm up: the first call of any torch function is slow
            start = time.perf_counter()
            proposals[name] = method()
            seconds[name] = [(time.perf_counter() - start) / len(wanted)] * len(wanted)
    result.timed({"seconds": time.perf_counter() - begun} | seconds)
    return result.write({n: archs.clone() for n, archs in proposals.items()}, {"supernet": supernet_name, "seed": seed})


def one_by_one(method: Callable[[Tensor, float], Tensor], wanted: Scenarios) -> tuple[Tensor, list[float]]:
    """Archs and seconds of a method that serves one scenario at a time."""
    found, seconds = [], []
    for kept, budget in zip(wanted.kept, wanted.budgets.tolist(), strict=True):
        start = time.perf_counter()
        found.append(method(kept, budget))
        seconds.append(time.perf_counter() - start)
    return torch.stack(found), seconds


def select(study: Study, folder: Path, supernet_name: str, setting: Dropout, seed: int) -> dict:
    """What needs measuring on the selection split: random search, and each generator signal's accuracy.

    Writes selected.safetensors: random, int64 [scenarios, decisions]; the record holds the signals' mean superclass
    top-1.
    """
    out = comparison_folder(folder, supernet_name, seed)
    result = marked(study, folder, out / "selected.safetensors", setting.name, str(seed))
    if record := result.finished():
        return record
    dataset, supernet = opened(study, folder, setting, seed)
    wanted, proposals = scenarios(study, dataset.hierarchy), load_file(out / "proposals.safetensors")
    calibration = calibration_images(study, dataset)
    content, begun = {"supernet": supernet_name, "seed": seed}, time.perf_counter()
    for name in SIGNALS:
        top1 = measure_archs(supernet, proposals[f"generator_{name}"], wanted.kept, calibration, dataset.selection)
        content[f"selection_top1_{name}"] = top1.mean().item()
    start, best = time.perf_counter(), torch.empty(len(wanted), supernet.space.decisions, dtype=torch.long)
    rng = torch.Generator().manual_seed(seed)
    most_classes = wanted.kept.sum(-1).max()[None]
    for budget in wanted.budgets.unique():
        rows = (wanted.budgets == budget).nonzero()[:, 0]
        archs = search.random_archs(supernet.space, budget[None], most_classes, study.search.random, rng)[0]
        shared, labels = evaluation.Begun(supernet, archs, calibration, dataset.selection), dataset.selection.labels
        top1 = [evaluation.superclass_top1(shared.logits(arch), labels, wanted.kept[rows]) for arch in archs]
        best[rows] = archs[torch.stack(top1).argmax(0)]
    ended = time.perf_counter()
    result.timed({"seconds": ended - begun, "random": (ended - start) / len(wanted)})
    return result.write({"random": best}, content)


def measure_archs(
    supernet: Supernet, archs: Tensor, kept: Tensor, calibration: data.Split, split: data.Split
) -> Tensor:
    """Superclass top-1 in percent of every (arch, scenario) pair, float [n]; an arch that occurs twice is run once.

    `archs` int64 [n, decisions], `kept` bool [n, classes].
    """
    distinct, member = archs.unique(dim=0, return_inverse=True)
    images, top1 = split.only(kept.any(0)), torch.empty(len(archs))
    shared = evaluation.Begun(supernet, distinct, calibration, images)
    for index, arch in enumerate(distinct):
        rows = (member == index).nonzero()[:, 0]
        chosen = kept[rows].any(0).to(images.labels.device)[images.labels]
        logits, labels = shared.logits(arch, chosen), images.labels[chosen]
        top1[rows] = evaluation.superclass_top1(logits, labels, kept[rows])
    return top1


def choose_signal(study: Study, folder: Path) -> str:
    """The generator's training signal with the best mean accuracy on the selection split, over supernets and seeds."""
    paths = [
        comparison_folder(folder, name, seed) / "selected.json" for _, _, name, _, seed in supernet_jobs(study, folder)
    ]
    records = pd.DataFrame([json.loads(require(path, study, "04_ablations").read_text()) for path in paths])
    return max(SIGNALS, key=lambda name: records[f"selection_top1_{name}"].mean())


def measure_test(study: Study, folder: Path, supernet_name: str, setting: Dropout, seed: int, signal: str) -> dict:
    """The one look at the test split: top-1 of every method for every scenario, and the swap test.

    Writes measured.safetensors: for every method float [scenarios]; swap [budgets, superclasses, superclasses], the
    accuracy for the last one of the generated arch of the one before.
    """
    out = comparison_folder(folder, supernet_name, seed)
    branch = choose_branch(study, folder) if study.branches and supernet_name == "eas" else None
    more = (setting.name, str(seed), signal, *([branch.name] if branch else []))
    result = marked(study, folder, out / "measured.safetensors", *more)
    if record := result.finished():
        return record
    dataset, supernet = opened(study, folder, setting, seed)
    wanted, calibration = scenarios(study, dataset.hierarchy), calibration_images(study, dataset)
    archs, begun = final_archs(folder, supernet_name, seed, signal), time.perf_counter()
    together = measure_archs(
        supernet, torch.cat(list(archs.values())), wanted.kept.repeat(len(archs), 1), calibration, dataset.test
    )
    top1 = dict(zip(archs, together.split(len(wanted)), strict=True))
    singles = len(dataset.hierarchy.superclasses)
    by_budget = archs["generator"].view(len(wanted.budgets.unique()), -1, supernet.space.decisions)[:, :singles]
    pairs = by_budget.repeat_interleave(singles, 1).flatten(0, 1)
    kept = wanted.kept[:singles].repeat(len(pairs) // singles, 1)
    swap = measure_archs(supernet, pairs, kept, calibration, dataset.test)
    top1["swap"] = swap.view(len(by_budget), singles, singles)
    if branch:
        path = require(branches_path(folder, branch, seed), study, "02_supernet")
        top1["generator_branch"] = measure_branches(study, supernet, path, dataset, archs["generator"])
    result.timed({"seconds": time.perf_counter() - begun})
    return result.write(top1, {"supernet": supernet_name, "seed": seed, "signal": signal})


def final_archs(folder: Path, supernet: str, seed: int, signal: str) -> dict[str, Tensor]:
    """Every method's archs, int64 [scenarios, decisions]; 'generator' is the one trained with the chosen signal."""
    out = comparison_folder(folder, supernet, seed)
    archs = load_file(out / "proposals.safetensors") | load_file(out / "selected.safetensors")
    trained = {name: archs.pop(f"generator_{name}") for name in SIGNALS}
    return {"generator": trained[signal]} | archs


def measure_branches(study: Study, supernet: Supernet, path: Path, dataset: Dataset, archs: Tensor) -> Tensor:
    """Test top-1 of the generated archs with each superclass's own weights, float [scenarios]; NaN for unions.

    `path` is the file of all branches. A branch is calibrated on the images that it was tuned on: its norms have only
    seen the superclass.
    """
    wanted = scenarios(study, dataset.hierarchy)
    top1 = torch.full((len(wanted),), float("nan"))
    for index, name in enumerate(dataset.hierarchy.superclasses):
        branch = load_branch(supernet, path, index)
        rows = torch.tensor([row for row, scenario in enumerate(wanted.names) if scenario == name])
        own = dataset.train.only(wanted.kept[rows[0]])
        top1[rows] = measure_archs(branch, archs[rows], wanted.kept[rows], own, dataset.test)
    return top1


def long_jobs(study: Study, folder: Path) -> list[tuple]:
    """Arguments of `measure_long` for every supernet, on the first seeds; none in a study without."""
    seeds = study.seeds[: study.long_search.seeds] if study.long_search else ()
    return [job for job in supernet_jobs(study, folder) if job[-1] in seeds]


def measure_long(study: Study, folder: Path, supernet_name: str, setting: Dropout, seed: int) -> dict:
    """What a long evolution finds with the accuracy model, and how good that is on the test split.

    Writes long.safetensors: archs, int64 [scenarios, decisions]; top1, float [scenarios].
    """
    path = comparison_folder(folder, supernet_name, seed) / "long.safetensors"
    result = marked(study, folder, path, setting.name, str(seed), study.key("long_search"))
    if record := result.finished():
        return record
    dataset, supernet = opened(study, folder, setting, seed)
    wanted, begun = scenarios(study, dataset.hierarchy), time.perf_counter()
    model = load_model(study, folder, dataset, supernet_name, seed, aware=False)
    effort = {"evaluations": study.long_search.evaluations, "population": study.search.population, "seed": seed}
    with torch.inference_mode():
        archs = search.evolution(supernet.space, model, wanted.kept, wanted.budgets, **effort).clone()
    seconds = time.perf_counter() - begun
    top1 = measure_archs(supernet, archs, wanted.kept, calibration_images(study, dataset), dataset.test)
    result.timed({"seconds": time.perf_counter() - begun, "per_scenario": seconds / len(wanted)})
    return result.write({"archs": archs, "top1": top1}, {"supernet": supernet_name, "seed": seed})


TUNED = {"ofa": ("ofa_finetuned", "ofa_evolution"), "eas": ("generator_finetuned", "generator")}


def tuned_jobs(study: Study, folder: Path, signal: str) -> list[tuple]:
    """Arguments of `measure_tuned` for every supernet and budget, on the first seeds; none in a study without."""
    if not study.finetune:
        return []
    every = [job for job in supernet_jobs(study, folder) if job[-1] in study.seeds[: study.finetune.seeds]]
    return [(*job, signal, budget) for job in every for budget in tuned_budgets(study, job[2])]


def tuned_budgets(study: Study, supernet: str) -> list[int]:
    """Which of the study's budgets archs are tuned at: OFA's at all; those for unions at the middle one only."""
    count = len(study.scenarios.budgets)
    return list(range(count)) if supernet == "ofa" else [count // 2]


def measure_tuned(
    study: Study, folder: Path, supernet_name: str, setting: Dropout, seed: int, signal: str, budget: int
) -> dict:
    """Archs tuned on their scenario's images, each for itself, then measured on the test split.

    On `ofa` what OFA's way found for every superclass; on `eas` what the generator emits for unions, which have no
    branch; at the study's `budget`th budget. Writes tuned-<budget>.safetensors: rows, int64 [n], of the scenarios;
    top1, float [n].
    """
    path = comparison_folder(folder, supernet_name, seed) / f"tuned-{budget}.safetensors"
    result = marked(study, folder, path, setting.name, str(seed), signal, study.key("finetune"))
    if record := result.finished():
        return record
    dataset, supernet = opened(study, folder, setting, seed)
    wanted, archs = scenarios(study, dataset.hierarchy), final_archs(folder, supernet_name, seed, signal)
    union, at_budget = torch.tensor(wanted.is_union), wanted.budgets == wanted.budgets.unique()[budget]
    rows = (at_budget & (union == (supernet_name == "eas"))).nonzero()[:, 0]
    archs, kept, begun = archs[TUNED[supernet_name][1]][rows], wanted.kept[rows], time.perf_counter()
    top1 = torch.empty(len(rows))
    teacher = load_teacher(study, folder, dataset, seed)
    for index, tuned in tune_archs(study, supernet, dataset, archs, kept, seed, teacher):
        own = dataset.train.only(kept[index])
        top1[index] = measure_archs(tuned, archs[index, None], kept[index, None], own, dataset.test)[0]
    seconds = time.perf_counter() - begun
    result.timed({"seconds": seconds, "per_scenario": seconds / max(1, len(rows))})
    return result.write({"rows": rows, "top1": top1}, {"supernet": supernet_name, "seed": seed}, resumable=True)


def measure_alone(study: Study, folder: Path, row: int, signal: str) -> dict:
    """One scenario's generated arch (first seed, supernet `eas`), trained from scratch and measured on the test split.

    Writes from_scratch/<row>.safetensors: top1, float [1]; `row` is the scenario's.
    """
    seed = study.seeds[0]
    path = folder / "comparison" / "from_scratch" / f"{row}.safetensors"
    result = marked(study, folder, path, str(row), signal)
    if record := result.finished():
        return record
    dataset, start = data.load(study, folder / "dataset.safetensors").to(jobs.device()), time.perf_counter()
    arch, kept = final_archs(folder, "eas", seed, signal)["generator"][row], scenarios(study, dataset.hierarchy).kept
    network = train_alone(study, dataset, arch, seed, load_teacher(study, folder, dataset, seed))
    result.timed({"seconds": time.perf_counter() - start})
    calibration = calibration_images(study, dataset)
    top1 = measure_archs(network, arch[None], kept[row, None], calibration, dataset.test)
    return result.write({"top1": top1}, {"row": row}, resumable=True)


def rows_from_scratch(study: Study, hierarchy: Hierarchy) -> list[int]:
    """The scenarios of `measure_alone`: from the first superclass and budget to the last, both spaced evenly."""
    singles, budgets = len(hierarchy.superclasses), len(study.scenarios.budgets)
    per_budget = len(groups(study, hierarchy))
    steps = zip(spaced(study.from_scratch, budgets), spaced(study.from_scratch, singles), strict=True)
    return [budget * per_budget + superclass for budget, superclass in steps]


def comparison(study: Study, folder: Path, signal: str) -> pd.DataFrame:
    """The comparison table: one row for every method, supernet, seed and scenario."""
    dataset, rows = data.load(study, folder / "dataset.safetensors"), []
    space, wanted = new_supernet(study, dataset).space, scenarios(study, dataset.hierarchy)
    classes = wanted.kept.sum(-1)
    for _, _, supernet, _, seed in supernet_jobs(study, folder):
        out = comparison_folder(folder, supernet, seed)
        archs, top1 = final_archs(folder, supernet, seed, signal), load_file(out / "measured.safetensors")
        seconds = read_timing(folder, f"comparison/{out.name}/proposals")
        seconds |= read_timing(folder, f"comparison/{out.name}/selected")
        seconds["generator"] = seconds[f"generator_{signal}"]
        archs |= measured_apart(study, folder, dataset.hierarchy, supernet, seed, archs, top1, seconds)
        for method, found in archs.items():
            columns = {"method": method, "supernet": supernet, "seed": seed, "scenario": wanted.names}
            columns |= {"classes_kept": classes, "budget_madds": wanted.budgets.long()}
            columns |= {"madds": space.madds(found, classes), "top1": top1[method].double().round(decimals=4)}
            rows.append(pd.DataFrame(columns | {"search_seconds": seconds[method]}).dropna())
    return pd.concat(rows, ignore_index=True)


def measured_apart(
    study: Study,
    folder: Path,
    hierarchy: Hierarchy,
    supernet: str,
    seed: int,
    archs: dict[str, Tensor],
    top1: dict[str, Tensor],
    seconds: dict[str, list[float]],
) -> dict[str, Tensor]:
    """The archs of the long search and of methods with weights of their own, where there are any.

    Adds their accuracy and their times to `top1` and `seconds`.
    """
    found = {}
    if study.long_search and seed in study.seeds[: study.long_search.seeds]:
        name = f"comparison/{supernet}-{seed}/long"
        long, spent = load_file(folder / f"{name}.safetensors"), read_timing(folder, name)["per_scenario"]
        found["evolution_long"], top1["evolution_long"] = long["archs"], long["top1"]
        seconds["evolution_long"] = [spent] * len(long["top1"])
    if "generator_branch" in top1:
        found["generator_branch"], seconds["generator_branch"] = archs["generator"], seconds["generator"]
    if study.finetune and seed in study.seeds[: study.finetune.seeds]:
        method, base = TUNED[supernet]
        found[method], accuracy, times = archs[base], torch.full_like(top1[base], float("nan")), list(seconds[base])
        for budget in tuned_budgets(study, supernet):
            name = f"comparison/{supernet}-{seed}/tuned-{budget}"
            tuned, spent = load_file(folder / f"{name}.safetensors"), read_timing(folder, name)["per_scenario"]
            accuracy[tuned["rows"]] = tuned["top1"]
            for row in tuned["rows"].tolist():
                times[row] += spent
        top1[method], seconds[method] = accuracy, times
    if study.from_scratch and (supernet, seed) == ("eas", study.seeds[0]):
        found["from_scratch"], accuracy = archs["generator"], torch.full_like(top1["generator"], float("nan"))
        times = accuracy.tolist()
        for row in rows_from_scratch(study, hierarchy):
            accuracy[row] = load_file(folder / "comparison" / "from_scratch" / f"{row}.safetensors")["top1"]
            times[row] = read_timing(folder, f"comparison/from_scratch/{row}")["seconds"]
        top1["from_scratch"], seconds["from_scratch"] = accuracy, times
    return found


TURNS, REPEATS = 10, 10  # in which methods are timed; runs of the generator in each


def measure_time(study: Study, folder: Path) -> pd.DataFrame:
    """time_search for the first seed, in a process with one thread."""
    return jobs.run(time_search, [(study, folder, study.seeds[0])], "times", gpu=False)[0]


def time_search(study: Study, folder: Path, seed: int) -> pd.DataFrame:
    """Wall times of every method for all single superclasses at all budgets, in one process and one thread.

    Columns method, scenarios, seconds_total, seconds_per_scenario: medians over the runs, but for OFA's search, which
    has all scenarios once. The methods take turns, so that a machine that slows down slows them all. Random search is
    the time that `select` took, the measuring of its archs included.
    """
    dataset = data.load(study, folder / "dataset.safetensors")
    space, every = new_supernet(study, dataset).space, scenarios(study, dataset.hierarchy)
    rows = [i for i, union in enumerate(every.is_union) if not union]
    wanted = Scenarios([every.names[i] for i in rows], every.kept[rows], every.budgets[rows])
    generator = load_generator(study, folder, dataset, "eas", seed, choose_signal(study, folder))
    model = load_model(study, folder, dataset, "eas", seed, aware=True)
    effort = {"evaluations": study.search.evaluations, "population": study.search.population, "seed": seed}
    batched = {
        "generator": lambda: generator.generate(wanted.kept, wanted.budgets),
        "uniform": lambda: search.uniform(space, wanted.budgets, wanted.kept.sum(-1)),
        "evolution_aware": lambda: search.evolution(space, model, wanted.kept, wanted.budgets, **effort),
    }
    taken, turns, one_scenario = {name: [] for name in batched}, min(TURNS, len(wanted)), []
    with torch.inference_mode():
        for turn in range(turns):
            for name, method in batched.items():
                method()  # warms up: the methods before have filled the caches
                taken[name] += [seconds_of(method) for _ in range(REPEATS if name == "generator" else 1)]
            part = Scenarios(*(each[turn::turns] for each in (wanted.names, wanted.kept, wanted.budgets)))
            one_scenario += one_by_one(lambda k, b: search.ofa_evolution(space, model, k, b, **effort), part)[1]
    seconds = {name: median(runs) for name, runs in taken.items()} | {"ofa_evolution_aware": sum(one_scenario)}
    seconds["random"] = read_timing(folder, f"comparison/eas-{seed}/selected")["random"] * len(wanted)
    kept = timed(folder, f"methods-{seed}", study.key(), seconds)
    table = pd.DataFrame({"method": list(seconds), "scenarios": len(wanted)})
    table["seconds_total"] = [kept[name] for name in seconds]
    return table.assign(seconds_per_scenario=table.seconds_total / len(wanted))


def seconds_of(method: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    method()
    return time.perf_counter() - start


def swap_table(study: Study, folder: Path) -> pd.DataFrame:
    """The swap test: supernet, seed, budget_madds, arch_of, used_for, top1 for all ordered pairs of superclasses."""
    dataset, tables = data.load(study, folder / "dataset.safetensors"), []
    names = dataset.hierarchy.superclasses
    budgets = [int(b * 1e6) for b in study.scenarios.budgets]
    index = pd.MultiIndex.from_product([budgets, names, names], names=["budget_madds", "arch_of", "used_for"])
    for _, _, supernet, _, seed in supernet_jobs(study, folder):
        swap = load_file(comparison_folder(folder, supernet, seed) / "measured.safetensors")["swap"]
        tables.append(pd.DataFrame({"top1": swap.flatten()}, index).reset_index().assign(supernet=supernet, seed=seed))
    return pd.concat(tables, ignore_index=True).round(4)[["supernet", "seed", *index.names, "top1"]]


def split_half_table(study: Study, folder: Path, hierarchy: Hierarchy) -> pd.DataFrame:
    """The split-half test (analysis.split_half) for all supernets and seeds, in two columns before its own."""
    tables = []
    for _, _, supernet, _, seed in supernet_jobs(study, folder):
        pool = read_pool(study, folder, supernet, seed)
        halves = analysis.split_half(pool["own"], pool["labels"], hierarchy.parent)
        tables.append(halves.assign(supernet=supernet, seed=seed))
    return pd.concat(tables, ignore_index=True)


def run_comparison(study: Study, folder: Path) -> pd.DataFrame:
    """All steps from trained generators to the comparison table."""
    every = supernet_jobs(study, folder)
    jobs.run(propose, every, "archs of every method", gpu=False)
    jobs.run(select, every, "selection split")
    signal = choose_signal(study, folder)
    jobs.run(measure_test, [(*job, signal) for job in every], "test split")
    jobs.run(measure_long, long_jobs(study, folder), "long search")
    jobs.run(measure_tuned, tuned_jobs(study, folder, signal), "single archs tuned")
    rows = rows_from_scratch(study, data.hierarchy(study.data.name))
    jobs.run(measure_alone, [(study, folder, row, signal) for row in rows], "archs from scratch")
    shutil.rmtree(folder / "resume", ignore_errors=True)
    return comparison(study, folder, signal)


def prepare(study: Study, folder: Path, root: str | Path) -> None:
    """Make, for the tiny study only, what the notebooks before would have made, so that each one runs alone."""
    if study.name != "tiny":
        return
    if not (folder / "dataset.safetensors").is_file():
        data.save(data.build(study, root)[0], folder / "dataset.safetensors")
    train_supernets(study, folder)
    run_branches(study, folder)
    run_generators(study, folder)
    run_comparison(study, folder)
