"""Generators and opponents compared on the test split, once, and the tables made of that.

The archs are those of `eas.proposals`; what is optional and measured apart, `eas.references` adds. Files, under a
study's folder, as safetensors, with their records (.json) beside them:
    comparison/<supernet>-<seed>/   measured: accuracy of every method's archs; the swap test
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from eas import analysis, data, jobs, references, search
from eas.config import Dropout, Study
from eas.data import Dataset, Hierarchy
from eas.evaluation import measure_archs
from eas.fitting import load_generator, load_model, marked, opened, read_pool, run_generators
from eas.proposals import choose_signal, comparison_folder, final_archs, one_by_one, propose, select
from eas.records import read_timing, timed
from eas.study import Scenarios, calibration_images, new_supernet, require, scenarios, supernet_jobs, train_supernets
from eas.supernet import Supernet
from eas.tuning import branches_path, choose_branch, load_branch, run_branches


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
        if "generator_branch" in top1:  # the same archs, with weights of their superclass
            archs["generator_branch"], seconds["generator_branch"] = archs["generator"], seconds["generator"]
        archs |= references.measured_apart(study, folder, dataset.hierarchy, supernet, seed, archs, top1, seconds)
        for method, found in archs.items():
            columns = {"method": method, "supernet": supernet, "seed": seed, "scenario": wanted.names}
            columns |= {"classes_kept": classes, "budget_madds": wanted.budgets.long()}
            columns |= {"madds": space.madds(found, classes), "top1": top1[method].double().round(decimals=4)}
            rows.append(pd.DataFrame(columns | {"search_seconds": seconds[method]}).dropna())
    return pd.concat(rows, ignore_index=True)


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
    jobs.run(references.measure_long, references.long_jobs(study, folder), "long search")
    jobs.run(references.measure_tuned, references.tuned_jobs(study, folder, signal), "single archs tuned")
    rows = references.rows_from_scratch(study, data.hierarchy(study.data.name))
    jobs.run(references.measure_alone, [(study, folder, row, signal) for row in rows], "archs from scratch")
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
