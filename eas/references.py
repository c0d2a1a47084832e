"""What the comparison is held against at far higher cost: a long search, archs tuned alone, archs from scratch.

Each is optional, measured on some seeds or scenarios only, and apart from the rest. Files, under a study's folder, as
safetensors, with their records (.json) beside them:
    comparison/<supernet>-<seed>/   long: archs of the long search and their accuracy on the test split;
                                    tuned-<budget's index>: accuracy of archs tuned alone
    comparison/from_scratch/        accuracy of some generated archs that were trained alone
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from eas import data, jobs, search
from eas.config import Dropout, Study
from eas.data import Hierarchy
from eas.evaluation import measure_archs
from eas.fitting import load_model, marked, opened
from eas.proposals import comparison_folder, final_archs
from eas.records import read_timing
from eas.study import calibration_images, groups, load_teacher, scenarios, settings_of, spaced, supernet_jobs
from eas.tuning import train_alone, tune_archs


def effort_key(study: Study, section: str) -> str:
    """Key of `finetune` or `long_search`: on how many seeds it is done changes nothing on any of them."""
    once = getattr(study, section).model_copy(update={"seeds": 1})
    return study.model_copy(update={section: once}).key(section)


def long_jobs(study: Study, folder: Path) -> list[tuple]:
    """Arguments of `measure_long` for every supernet, on the first seeds; none in a study without."""
    seeds = study.seeds[: study.long_search.seeds] if study.long_search else ()
    return [job for job in supernet_jobs(study, folder) if job[-1] in seeds]


def measure_long(study: Study, folder: Path, supernet_name: str, setting: Dropout, seed: int) -> dict:
    """What a long evolution finds with the accuracy model, and how good that is on the test split.

    Writes long.safetensors: archs, int64 [scenarios, decisions]; top1, float [scenarios].
    """
    path = comparison_folder(folder, supernet_name, seed) / "long.safetensors"
    result = marked(study, folder, path, setting.name, str(seed), effort_key(study, "long_search"))
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
    result = marked(study, folder, path, setting.name, str(seed), signal, effort_key(study, "finetune"))
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
    result = marked(study, folder, path, settings_of(study, folder)["eas"].name, str(row), signal)
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
