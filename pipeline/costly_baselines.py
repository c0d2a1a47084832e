"""The steps `long`, `tuned` and `from_scratch`: what the comparison is held against at far higher cost.

Each is optional, and measured on some seeds or scenarios only.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from eas import devices, search
from eas.branches import require_gradients
from eas.dropout import FixedClasses
from eas.evaluation import calibration_sample, measure_archs
from eas.files import read_json, reason, write_json
from eas.recipes import NO_DROPOUT
from eas.training import make_step, train
from pipeline import comparison, steps
from pipeline.params import Study
from pipeline.scenarios import evenly_spaced, other_scenarios, scenarios, superclass_sets
from pipeline.store import Job, Record, Workspace
from pipeline.supernets import Base, base_jobs, base_of, plain_epochs, seeded_supernet, train_on_all

Baseline = tuple[Tensor, Tensor, list[float]]  # archs, top-1 (NaN where not measured), seconds by scenario
TUNED = {  # of each supernet: the method, whose archs it tunes, and for which kind of scenario
    "plain": ("ofa_finetuned", "ofa_evolution", "superclass"),
    "dropout": ("generator_finetuned", "generator", "union"),
}


def measured(workspace: Workspace, base: Base, archs: dict[str, Tensor], seconds: dict) -> dict[str, Baseline]:
    """The baselines that there are on one supernet, by method; `archs` and `seconds` are those of the others."""
    found = {}
    if {"base": base} in long_jobs(workspace):
        (result, record), count = steps.find(workspace, "long", base=base), len(archs["generator"])
        tensors = result.tensors()
        found["evolution_long"] = tensors["archs"], tensors["top1"], [record["per_scenario"]] * count
    method, source, _ = TUNED[base.name]
    for job in (job for job in tuned_jobs(workspace) if job["base"] == base):
        (result, record), tensors = steps.find(workspace, "tuned", **job), steps.tensors_of(workspace, "tuned", **job)
        nothing = archs[source], torch.full((len(archs[source]),), float("nan")), list(seconds[source])
        _, top1, times = found.setdefault(method, nothing)
        top1[tensors["rows"]] = tensors["top1"]
        for row in tensors["rows"].tolist():
            times[row] += record["per_scenario"]
    for job in (job for job in from_scratch_jobs(workspace) if job["base"] == base):
        (result, record), count = steps.find(workspace, "from_scratch", **job), len(archs["generator"])
        nothing = archs["generator"], torch.full((count,), float("nan")), [float("nan")] * count
        _, top1, times = found.setdefault("from_scratch", nothing)
        top1[job["row"]], times[job["row"]] = result.tensors()["top1"].item(), record["seconds"]
    return found


# -------------------------------------------------------------------- a long search


def long_jobs(workspace: Workspace) -> list[Job]:
    """Every supernet, on the first seeds; none in a study without."""
    seeds = workspace.study.first_seeds(workspace.study.long_search)
    return [job for job in base_jobs(workspace) if job["base"].seed in seeds]


def search_long(workspace: Workspace, base: Base) -> tuple[dict[str, Tensor], Record]:
    """What a long evolution finds with the predictor, and how good that is on the test split.

    Tensors: archs, int64 [scenarios, decisions]; top1, float [scenarios].
    """
    dataset, supernet, every = comparison.load_inputs(workspace, base)
    start = time.perf_counter()
    predictor = comparison.load_predictor(workspace, dataset, base, aware=False)
    effort = comparison.search_effort(workspace, base.seed)
    effort |= {"evaluations": workspace.study.long_search.evaluations}
    with torch.inference_mode():
        archs = search.evolution(supernet.space, predictor, every.class_masks, every.budgets, **effort).clone()
    seconds = time.perf_counter() - start
    calibration = calibration_sample(dataset.calibration, workspace.study.evaluation.calibration_images)
    top1 = measure_archs(supernet, archs, every.class_masks, calibration, dataset.test)
    content = {"supernet": base.name, "seed": base.seed, "per_scenario": seconds / len(every)}
    return {"archs": archs, "top1": top1}, content


# -------------------------------------------------------------------- archs tuned alone


def tuned_jobs(workspace: Workspace) -> list[Job]:
    """Every supernet and budget, on the first seeds; none in a study without."""
    study = workspace.study
    seeds, count = study.first_seeds(study.finetune), len(study.scenarios.budgets)
    # OFA's archs at every budget; those for unions at the middle one only.
    budgets = {"plain": range(count), "dropout": [count // 2] if count_unions(study) else []}
    every = [job["base"] for job in base_jobs(workspace) if job["base"].seed in seeds]
    return [{"base": base, "budget": budget} for base in every for budget in budgets[base.name]]


def count_unions(study: Study) -> int:
    """How many unions a study asks for."""
    return study.scenarios.unions_of_two + study.scenarios.unions_of_three


def tune_archs(
    workspace: Workspace, base: Base, budget: int, checkpoint: Path | None = None
) -> tuple[dict[str, Tensor], Record]:
    """Archs tuned on their scenario's images, each for itself, then measured on the test split.

    On `plain` what OFA's way found for every superclass; on `dropout` what the generator emits for unions, which have
    no branch; at the study's `budget`th budget. Tensors: rows, int64 [n], of the scenarios; top1, float [n].
    """
    every = scenarios(workspace.study, workspace.dataset().hierarchy)
    _, source, kind = TUNED[base.name]
    rows = (every.of_kind(kind) & (every.budgets == every.budgets.unique()[budget])).nonzero()[:, 0]
    archs = comparison.shared_archs(workspace, base)[source][rows]
    top1, record = tune_alone(workspace, base, archs, every.class_masks[rows], checkpoint)
    return {"rows": rows, "top1": top1}, record


def other_tuned_jobs(workspace: Workspace) -> list[Job]:
    """The supernet `dropout` of the first seeds; none in a study without other sets of classes, or without tuning."""
    study = workspace.study
    count = study.other_sets.tuned if study.other_sets and study.finetune else 0
    return [{"base": base_of(workspace, "dropout", seed)} for seed in study.seeds[:count]]


def tune_other_archs(
    workspace: Workspace, base: Base, checkpoint: Path | None = None
) -> tuple[dict[str, Tensor], Record]:
    """The generator's archs for parts of superclasses and classes of several, each tuned alone.

    Tensors: top1 on test, float [other scenarios]; NaN for the larger sets, which cost most and are not tuned for.
    """
    every = other_scenarios(workspace.study, workspace.dataset().hierarchy)
    archs, top1 = (
        steps.tensors_of(workspace, "other_sets", base=base)["generator"],
        torch.full((len(every),), torch.nan),
    )
    rows = every.of_kind("part") | every.of_kind("across")
    top1[rows], record = tune_alone(workspace, base, archs[rows], every.class_masks[rows], checkpoint)
    return {"top1": top1}, record


def tune_alone(
    workspace: Workspace, base: Base, archs: Tensor, class_masks: Tensor, checkpoint: Path | None
) -> tuple[Tensor, Record]:
    """Top-1 on test, float [n], of archs that were each tuned on the images of a set of classes; what it took.

    What a killed run has tuned is read from the checkpoint, which is written after every arch.
    """
    dataset, supernet, _ = comparison.load_inputs(workspace, base)
    recipe = workspace.study.training.model_copy(update=workspace.study.finetune.model_dump(exclude={"seeds"}))
    shared, done = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}, load_done(checkpoint)
    require_gradients(supernet, "all")
    step_function = make_step(supernet, recipe)
    for index, (arch, mask) in list(enumerate(zip(archs, class_masks, strict=True)))[len(done) :]:
        start = time.perf_counter()
        supernet.load_state_dict(shared)
        own, classes = dataset.train.only(mask), FixedClasses(mask.to(devices.device()))
        options = {"seed": base.seed, "label": f"arch {index}", "step_function": step_function}
        options["draw_archs"] = lambda rng, arch=arch: arch[None]
        train(supernet, own, classes, recipe, **options)
        top1 = measure_archs(supernet, arch[None], mask[None], own, dataset.test).item()
        done.append({"top1": top1, "seconds": time.perf_counter() - start})
        if checkpoint:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            write_json(checkpoint, json.dumps({"done": done}))
    seconds = sum(each["seconds"] for each in done)
    content = {"supernet": base.name, "seed": base.seed, "per_scenario": seconds / max(1, len(archs))}
    return torch.tensor([each["top1"] for each in done]), content | {"seconds": seconds}


def load_done(checkpoint: Path | None) -> list[dict[str, float]]:
    """What a killed run had measured of each arch that it had tuned; nothing where there is no such file."""
    if checkpoint is None or not checkpoint.is_file():
        return []
    try:
        told = json.loads(read_json(checkpoint))["done"]
        return [{name: float(each[name]) for name in ("top1", "seconds")} for each in told]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        tqdm.write(f"{checkpoint} is damaged ({reason(error)}): tuning begins anew")
        return []


# -------------------------------------------------------------------- archs from scratch


def from_scratch_jobs(workspace: Workspace) -> list[Job]:
    """Superclasses from the first one and budget to the last, both spaced evenly; the first seed's generated archs."""
    study = workspace.study
    if not study.from_scratch:
        return []
    hierarchy, count = study.data.hierarchy(workspace.root), study.from_scratch
    base, size = base_of(workspace, "dropout", study.seeds[0]), len(superclass_sets(study, hierarchy))
    budgets, singles = (evenly_spaced(count, n) for n in (len(study.scenarios.budgets), len(hierarchy.superclasses)))
    return [{"base": base, "row": b * size + s} for b, s in zip(budgets, singles, strict=True)]


def train_from_scratch(
    workspace: Workspace, base: Base, row: int, checkpoint: Path | None = None
) -> tuple[dict[str, Tensor], Record]:
    """One scenario's generated arch trained alone, on all classes, for as many images as the supernet `plain`.

    Tensors: top1 on the test split, float [1]; `row` is the scenario's.
    """
    study, dataset = workspace.study, workspace.dataset().to(devices.device())
    arch = steps.tensors_of(workspace, "proposals", base=base)["generator"][row]
    network, start = seeded_supernet(workspace, dataset, base.seed), time.perf_counter()
    recipe = study.training.model_copy(update={"epochs": plain_epochs(study)})
    options = {"draw_archs": lambda rng: arch[None], "label": f"from scratch, scenario {row}"}
    train_on_all(network, dataset, NO_DROPOUT, recipe, base.seed, checkpoint, **options)
    seconds, every = time.perf_counter() - start, scenarios(study, dataset.hierarchy)
    calibration = calibration_sample(dataset.calibration, study.evaluation.calibration_images)
    top1 = measure_archs(
        network.requires_grad_(False), arch[None], every.class_masks[row, None], calibration, dataset.test
    )
    return {"top1": top1}, {"row": row, "seconds": seconds}
