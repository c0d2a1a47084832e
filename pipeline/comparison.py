"""The steps from trained generators to measured archs: they are proposed, selected, then measured on test, once.

Nothing before `measure` sees a test image. What costs far more is in `costly_baselines`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from eas import devices, search
from eas.data import Dataset
from eas.evaluation import SharedStem, calibration_sample, measure_archs, superclass_top1
from eas.recipes import Branch
from eas.spaces import Supernet
from pipeline import steps
from pipeline.branches import branch_method, measure_composed, serves_unions, superclass_counts
from pipeline.generators import load_generator, load_predictor
from pipeline.scenarios import Scenarios, every_scenario, other_scenarios, scenarios
from pipeline.store import Job, Record, Workspace
from pipeline.supernets import Base, base_jobs, base_of, load_supernet, new_space

Archs = dict[str, Tensor]  # method to its archs, int64 [scenarios, decisions]


def load_inputs(workspace: Workspace, base: Base) -> tuple[Dataset, Supernet, Scenarios]:
    """The study's images and one of its supernets, on the job's device, and its scenarios."""
    dataset = workspace.dataset().to(devices.device())
    return dataset, load_supernet(workspace, dataset, base), scenarios(workspace.study, dataset.hierarchy)


def search_effort(workspace: Workspace, seed: int) -> dict[str, int]:
    """The effort of evolution."""
    return workspace.study.search.model_dump(include={"evaluations", "population"}) | {"seed": seed}


# -------------------------------------------------------------------- archs, before any test image is seen


def propose(workspace: Workspace, base: Base) -> tuple[Archs, Record]:
    """The archs of every method that measures none, for every scenario; looks at the selection split only.

    The record has each method's wall times by scenario (`per_scenario`). A method that serves all scenarios in one
    batch is timed as a whole and the time is shared out.
    """
    dataset = workspace.dataset()
    space, every = new_space(workspace.study, dataset), scenarios(workspace.study, dataset.hierarchy)
    masks, budgets, effort = every.class_masks, every.budgets, search_effort(workspace, base.seed)
    archs, seconds, methods = {}, {}, {}
    for name in ("generator", "generator_blind"):
        generator = load_generator(workspace, dataset, base, name)
        methods[name] = lambda g=generator: g.generate(masks, budgets)
    methods["uniform"] = lambda: search.uniform(space, budgets, every.class_counts)
    with torch.inference_mode():
        for suffix in ("", "_aware"):
            predictor = load_predictor(workspace, dataset, base, aware=bool(suffix))
            methods[f"evolution{suffix}"] = lambda p=predictor: search.evolution(space, p, masks, budgets, **effort)
            name = f"ofa_evolution{suffix}"
            archs[name], seconds[name] = one_by_one(
                lambda mask, budget, p=predictor: search.ofa_evolution(space, p, mask, budget, **effort), every
            )
        for name, method in methods.items():
            archs[name], seconds[name] = in_one_batch(method, len(every))
    content = {"supernet": base.name, "seed": base.seed, "per_scenario": seconds}
    return {name: found.clone() for name, found in archs.items()}, content


def in_one_batch(method: Callable[[], Tensor], count: int) -> tuple[Tensor, list[float]]:
    """Archs of a method that serves all scenarios at once, and the seconds that are each one's share."""
    method()  # warm up: the first call of any torch function is slow
    start = time.perf_counter()
    archs = method()
    return archs, [(time.perf_counter() - start) / count] * count


def one_by_one(method: Callable[[Tensor, float], Tensor], every: Scenarios) -> tuple[Tensor, list[float]]:
    """Archs and seconds of a method that serves one scenario at a time."""
    archs, seconds = [], []
    for mask, budget in zip(every.class_masks, every.budgets.tolist(), strict=True):
        start = time.perf_counter()
        archs.append(method(mask, budget))
        seconds.append(time.perf_counter() - start)
    return torch.stack(archs), seconds


def select(workspace: Workspace, base: Base) -> tuple[Archs, Record]:
    """What needs measuring on the selection split: random search, and how good the generator's archs are there."""
    dataset, supernet, every = load_inputs(workspace, base)
    calibration = calibration_sample(dataset.calibration, workspace.study.evaluation.calibration_images)
    archs = steps.tensors_of(workspace, "proposals", base=base)["generator"]
    top1 = measure_archs(supernet, archs, every.class_masks, calibration, dataset.selection)
    start, best = time.perf_counter(), torch.empty_like(archs)
    rng, most_classes = torch.Generator().manual_seed(base.seed), every.class_counts.max()[None]
    for budget in every.budgets.unique():
        rows = (every.budgets == budget).nonzero()[:, 0]
        count = workspace.study.search.random
        archs = search.random_archs(supernet.space, budget[None], most_classes, count, rng)[0]
        stem, labels = SharedStem(supernet, archs, calibration, dataset.selection), dataset.selection.labels
        scores = [superclass_top1(stem.logits(arch), labels, every.class_masks[rows]) for arch in archs]
        best[rows] = archs[torch.stack(scores).argmax(0)]
    each = (time.perf_counter() - start) / len(every)
    content = {"supernet": base.name, "seed": base.seed, "selection_top1": top1.mean().item()}
    return {"random": best}, content | {"per_scenario": {"random": [each] * len(every)}}


def shared_archs(workspace: Workspace, base: Base) -> Archs:
    """The archs of every method of `propose` and `select`."""
    return steps.tensors_of(workspace, "proposals", base=base) | steps.tensors_of(workspace, "selected", base=base)


# -------------------------------------------------------------------- the test split, once


def measure(workspace: Workspace, base: Base) -> tuple[dict[str, Tensor], Record]:
    """Top-1 of every method's archs with the shared weights, for every scenario, and the swap test.

    Tensors: for every method float [scenarios]; swap [budgets, superclasses, superclasses], the accuracy for the last
    one of the generated arch of the one before.
    """
    dataset, supernet, every = load_inputs(workspace, base)
    calibration = calibration_sample(dataset.calibration, workspace.study.evaluation.calibration_images)
    archs = shared_archs(workspace, base)
    together = torch.cat(list(archs.values()))
    top1 = measure_archs(supernet, together, every.class_masks.repeat(len(archs), 1), calibration, dataset.test)
    tensors = dict(zip(archs, top1.split(len(every)), strict=True))
    count = len(dataset.hierarchy.superclasses)
    by_budget = archs["generator"].view(len(every.budgets.unique()), -1, supernet.space.decisions)[:, :count]
    pairs = by_budget.repeat_interleave(count, 1).flatten(0, 1)
    masks = every.class_masks[:count].repeat(len(pairs) // count, 1)
    swap = measure_archs(supernet, pairs, masks, calibration, dataset.test)
    tensors["swap"] = swap.view(len(by_budget), count, count)
    return tensors, {"supernet": base.name, "seed": base.seed}


def measure_gates(workspace: Workspace, base: Base) -> tuple[dict[str, Tensor], Record]:
    """The archs of `generator_gates` for all scenarios but those of other sets, and their top-1."""
    every = scenarios(workspace.study, workspace.dataset().hierarchy)
    return measure_generator(workspace, base, "generator_gates", every)


def measure_additive(workspace: Workspace, base: Base) -> tuple[dict[str, Tensor], Record]:
    """The archs of `generator_additive` for every_scenario, and their top-1."""
    every = every_scenario(workspace.study, workspace.dataset().hierarchy)
    return measure_generator(workspace, base, "generator_additive", every)


def measure_generator(
    workspace: Workspace, base: Base, name: str, every: Scenarios
) -> tuple[dict[str, Tensor], Record]:
    """Archs of a generator and their top-1; the record has that on the selection split, and the time."""
    dataset, supernet, _ = load_inputs(workspace, base)
    generator = load_generator(workspace, dataset, base, name)
    archs, seconds = in_one_batch(lambda: generator.generate(every.class_masks, every.budgets), len(every))
    calibration = calibration_sample(dataset.calibration, workspace.study.evaluation.calibration_images)
    given = (supernet, archs, every.class_masks, calibration)
    selection, top1 = (measure_archs(*given, split) for split in (dataset.selection, dataset.test))
    content = {"supernet": base.name, "seed": base.seed, "selection_top1": selection.mean().item()}
    return {"archs": archs, "top1": top1}, content | {"per_scenario": {name: seconds}}


def measure_branches(workspace: Workspace, base: Base, branch: Branch) -> tuple[dict[str, Tensor], Record]:
    """Top-1 of a generator's archs with branches, float [every scenario].

    NaN for sets of several superclasses where each branch was trained on its superclass alone: their means are worse
    than shared weights.
    """
    dataset, supernet, _ = load_inputs(workspace, base)
    every = every_scenario(workspace.study, dataset.hierarchy)
    generator = load_generator(workspace, dataset, base, branch_method(branch).archs)
    archs, top1 = generator.generate(every.class_masks, every.budgets), torch.full((len(every),), float("nan"))
    branches = steps.tensors_of(workspace, "branches", base=base, branch=branch)
    served = (superclass_counts(dataset.hierarchy, every.class_masks) == 1) | torch.tensor(serves_unions(branch))
    pairs = archs[served], every.class_masks[served]
    calibration = calibration_sample(dataset.calibration, workspace.study.evaluation.calibration_images)
    given = (*pairs, dataset.test, calibration if branch.alike else None)
    top1[served] = measure_composed(supernet, branches, dataset, *given)
    return {"top1": top1}, {"branch": branch.name, "seed": base.seed}


def other_jobs(workspace: Workspace) -> list[Job]:
    """Every supernet of every seed; none in a study without other sets of classes."""
    return base_jobs(workspace) if workspace.study.other_sets else []


def measure_other_sets(workspace: Workspace, base: Base) -> tuple[dict[str, Tensor], Record]:
    """The other sets of classes with shared weights: the generator's archs, and those of OFA's search.

    Tensors: archs by method, int64 [other scenarios, decisions]; '<method>.top1', float [other scenarios].
    """
    dataset, supernet, _ = load_inputs(workspace, base)
    every = other_scenarios(workspace.study, dataset.hierarchy)
    masks, budgets, effort = every.class_masks, every.budgets, search_effort(workspace, base.seed)
    generator = load_generator(workspace, dataset, base, "generator")
    predictor = load_predictor(workspace, dataset, base, aware=False)
    archs, seconds = {}, {}
    with torch.inference_mode():
        archs["generator"], seconds["generator"] = in_one_batch(lambda: generator.generate(masks, budgets), len(every))
        archs["ofa_evolution"], seconds["ofa_evolution"] = one_by_one(
            lambda mask, budget: search.ofa_evolution(supernet.space, predictor, mask, budget, **effort), every
        )
    calibration = calibration_sample(dataset.calibration, workspace.study.evaluation.calibration_images)
    both = torch.cat(list(archs.values()))
    top1 = measure_archs(supernet, both, masks.repeat(len(archs), 1), calibration, dataset.test).split(len(every))
    tensors = {name: found.clone() for name, found in archs.items()}
    tensors |= {f"{name}.top1": each.clone() for name, each in zip(archs, top1, strict=True)}
    return tensors, {"supernet": base.name, "seed": base.seed, "per_scenario": seconds}


# -------------------------------------------------------------------- times

TURNS, REPEATS = 10, 10  # in which methods are timed; runs of a generator in each


def time_jobs(workspace: Workspace) -> list[Job]:
    """On the first seed, where there is a supernet with dropout: without, nobody is compared."""
    return [{"base": base_of(workspace, "dropout", workspace.study.seeds[0])}] if workspace.study.dropout else []


def time_search(workspace: Workspace, base: Base) -> tuple[dict, Record]:
    """Wall times of every method for all superclasses at all budgets, in one process and one thread; see also `random`.

    The record has `scenarios`, their number, and `total`, seconds by method: medians over the runs, but for OFA's
    search, which has all scenarios once. The methods take turns, so that a machine that slows down slows them all.
    `random` is the time that `select` took, wherever that was, the measuring of its archs included. All on one
    supernet's predictors: the times do not depend on which.
    """
    dataset, effort = workspace.dataset(), search_effort(workspace, base.seed)
    space, every = new_space(workspace.study, dataset), scenarios(workspace.study, dataset.hierarchy)
    every = every.subset(every.of_kind("superclass").nonzero()[:, 0])
    masks, budgets = every.class_masks, every.budgets
    generator, additive = (load_generator(workspace, dataset, base, n) for n in ("generator", "generator_additive"))
    blind, aware = (load_predictor(workspace, dataset, base, aware=aware) for aware in (False, True))
    batched = {
        "generator": lambda: generator.generate(masks, budgets),
        "generator_additive": lambda: additive.generate(masks, budgets),
        "uniform": lambda: search.uniform(space, budgets, every.class_counts),
        "evolution": lambda: search.evolution(space, blind, masks, budgets, **effort),
        "evolution_aware": lambda: search.evolution(space, aware, masks, budgets, **effort),
    }
    alone = {"ofa_evolution": blind, "ofa_evolution_aware": aware}
    taken, turns, total = {name: [] for name in batched}, min(TURNS, len(every)), dict.fromkeys(alone, 0.0)
    with torch.inference_mode():
        for turn in range(turns):
            for name, method in batched.items():
                method()  # warms up: the methods before have filled the caches
                taken[name] += [seconds_of(method) for _ in range(REPEATS if name.startswith("generator") else 1)]
            part = every.subset(torch.arange(turn, len(every), turns))
            for name, predictor in alone.items():
                one = one_by_one(lambda m, b, p=predictor: search.ofa_evolution(space, p, m, b, **effort), part)
                total[name] += sum(one[1])
    total |= {name: median(runs) for name, runs in taken.items()}
    random = steps.record_of(workspace, "selected", base=base)["per_scenario"]["random"]
    return {}, {"scenarios": len(every), "total": total | {"random": random[0] * len(every)}}


def seconds_of(method: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    method()
    return time.perf_counter() - start
