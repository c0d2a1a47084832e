"""The step `branches`: superclass branches of a supernet, and the choice among ways to tune them."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from eas import devices
from eas.branches import BRANCH_IMAGES, Propose, compose_branches, superclass_shares, tune_branches
from eas.data import Dataset, Hierarchy, Split
from eas.evaluation import PATIENT, calibration_sample, has_images, measure_archs
from eas.recipes import Branch
from eas.spaces import Supernet
from pipeline import steps
from pipeline.generators import load_generator
from pipeline.methods import METHODS, Method
from pipeline.scenarios import MEGA, mixed_sets, set_sampler, whole_sets
from pipeline.store import Job, Record, Workspace
from pipeline.supernets import Base, base_of, load_supernet

NOT_WHOLE = 0  # in the place of a number of whole superclasses


def branch_jobs(workspace: Workspace) -> list[Job]:
    """Every candidate on the first seeds, then those compared on the others; none in a study without branches."""
    first = first_jobs(workspace)
    if not first or not steps.all_there(workspace, "branches", first):
        return first
    return first + [job for job in compared_branch_jobs(workspace) if job not in first]


def first_jobs(workspace: Workspace) -> list[Job]:
    """What is tuned before the choice."""
    study = workspace.study
    seeds = study.first_seeds(study.branches)
    return [branch_job(workspace, branch, seed) for seed in seeds for branch in study.branches.candidates]


def branch_job(workspace: Workspace, branch: Branch, seed: int) -> Job:
    return {"base": base_of(workspace, branch.supernet, seed), "branch": branch}


def chosen_branch_jobs(workspace: Workspace) -> list[Job]:
    """A job for the chosen branches of every seed; none in a study without."""
    study = workspace.study
    return [branch_job(workspace, choose_branch(workspace), seed) for seed in study.seeds if study.branches]


def compared_branch_jobs(workspace: Workspace) -> list[Job]:
    """Jobs of every seed for the best branches that were each trained alone, the best that compose, and a control."""
    kinds = (is_alone, composes, is_control) if workspace.study.branches else ()
    found = [choose_branch(workspace, kind) for kind in kinds]
    return [branch_job(workspace, branch, seed) for branch in found if branch for seed in workspace.study.seeds]


def choose_branch(workspace: Workspace, among: Callable[[Branch], bool] | None = None) -> Branch | None:
    """The candidate with which sets of superclasses reach most on the selection split, in the mean over first seeds.

    `among` some of them, or all but controls; None where that is none. Gains alone would not do: candidates have
    supernets of their own.

    Raises:
        FileNotFoundError: branches that the choice needs are missing; the message says which notebook makes them.
    """
    records = [steps.record_of(workspace, "branches", **job) for job in first_jobs(workspace)]
    mean = pd.DataFrame([{"branch": r["branch"], "top1": mean_top1(r)} for r in records]).groupby("branch").top1.mean()
    candidates = filter(among or (lambda branch: not is_control(branch)), workspace.study.branches.candidates)
    return max(candidates, key=lambda branch: mean[branch.name], default=None)


def composes(branch: Branch) -> bool:
    """Whether branches are trained on unions as well, so that their means serve sets of several superclasses."""
    return branch_method(branch).name == "generator_composed"


def is_alone(branch: Branch) -> bool:
    """Whether each branch is trained on its own superclass only."""
    return branch_method(branch).name == "generator_branch"


def is_control(branch: Branch) -> bool:
    """Whether all superclasses have the same branch, the shared weights tuned on."""
    return branch_method(branch).name == "generator_control"


def serves_unions(branch: Branch) -> bool:
    """Whether sets of several superclasses can be served: means of branches trained alone are worse than nothing."""
    return not is_alone(branch)


def branch_method(branch: Branch) -> Method:
    """How the comparison names a generator with these branches."""
    kind = "control" if branch.alike else "composed" if max(branch.sets) > 1 else "branch"
    return METHODS[f"generator_{kind}"]


def generator_with(branch: Branch | None) -> str:
    """The generator that a kit with these branches has."""
    return (branch and branch_method(branch).archs) or "generator_additive"


def largest_set(record: Record) -> int:
    """How many superclasses a set may have that branches serve; 0 where even a single one has better shared weights.

    As many as they gain with, and with fewer, on the selection split, on unions never trained on.
    """
    served = takewhile(lambda row: row["gain"] > 0, record["gains"])
    return max((row["size"] for row in served), default=0)


def served_sets(record: Record) -> dict[str, int | bool]:
    """Which sets the study's kit serves with these branches: see the fields of eas.serving.kit.Kit of these names.

    The selection images decide, for the study; the comparison has what branches reach either way.
    """
    return {"largest_set": largest_set(record), "mixed_sets": record["mixed"]["gain"] > 0}


def mean_top1(record: Record) -> float:
    """Of all of the study's sets of superclasses, each with the weights that serve it."""
    largest, sets = largest_set(record), sum(row["sets"] for row in record["gains"])
    reached = (row["sets"] * (row["shared"] + row["gain"] * (row["size"] <= largest)) for row in record["gains"])
    return sum(reached) / sets


def train_branches(
    workspace: Workspace, base: Base, branch: Branch, checkpoint: Path | None = None
) -> tuple[dict[str, Tensor], Record]:
    """Tune the branches on sets of superclasses; the branches, and their accuracy."""
    study, dataset = workspace.study, workspace.dataset().to(devices.device())
    supernet, start = load_supernet(workspace, dataset, base), time.perf_counter()
    recipe = branch.training(study.training, study.branches.epochs, study.branches.batch_size)
    draw_sets = set_sampler(study, dataset.hierarchy, branch.sets)
    given = (supernet, dataset.train, dataset.hierarchy, branch.part, recipe, draw_sets)
    options = {"propose": proposer(workspace, dataset, base) if branch.archs == "generated" else None}
    options |= {"common": branch.common, "alike": branch.alike, "seed": base.seed, "checkpoint": checkpoint}
    branches = tune_branches(*given, **options)
    content = {"seconds": time.perf_counter() - start, "images": len(dataset.train) * recipe.epochs}
    content |= {"branch": branch.name, "seed": base.seed}
    content |= {"bytes": sum(tensor.nbytes for tensor in branches.values())}
    return branches, content | measure(workspace, base, supernet, branches, dataset, branch)


def proposer(workspace: Workspace, dataset: Dataset, base: Base) -> Propose:
    """The archs of the generator in closed form for sets of classes, each at a budget between the study's ends."""
    generator = load_generator(workspace, dataset, base, "generator_additive")
    low, high = min(workspace.study.scenarios.budgets) * MEGA, max(workspace.study.scenarios.budgets) * MEGA

    def propose(class_masks: Tensor, rng: torch.Generator) -> Tensor:
        share = torch.rand(len(class_masks), dtype=torch.float64, generator=rng)
        return generator.generate(class_masks, low + (high - low) * share)

    return propose


def measure(
    workspace: Workspace, base: Base, supernet: Supernet, branches: dict[str, Tensor], dataset: Dataset, branch: Branch
) -> Record:
    """What branches gain over shared weights on the selection split, with archs that are generated for the sets.

    At the lowest, the middle and the highest budget. `singles`: for each `budget`, the means over superclasses with
    `shared` weights and with branches (`top1`). `gains`: for every `size` of the study's sets, how many `sets` of so
    many superclasses there are, and in the mean over sets and budgets the top-1 of `shared` weights and the points
    that branches `gain`; 0 for unions where they do not serve them. `mixed`: the same for mixed_sets.
    """
    study, every = workspace.study, sorted(workspace.study.scenarios.budgets)
    whole, mixed = whole_sets(study, dataset.hierarchy), mixed_sets(study, dataset.hierarchy)
    budgets = sorted({every[0], every[len(every) // 2], every[-1]})
    masks = torch.stack([dataset.hierarchy.class_mask(each) for each in whole + mixed])
    sizes = torch.tensor([len(each) for each in whole] + [NOT_WHOLE] * len(mixed))
    there = has_images(masks, dataset.selection)  # a class may have none to choose on, a superclass has some
    masks, sizes = masks[there].repeat(len(budgets), 1), sizes[there]
    asked = torch.tensor(budgets, dtype=torch.float64).repeat_interleave(len(sizes)) * MEGA
    archs = load_generator(workspace, dataset, base, "generator_additive").generate(masks, asked)
    calibration = calibration_sample(dataset.calibration, study.evaluation.calibration_images)
    shared = measure_archs(supernet, archs, masks, calibration, dataset.selection)
    served, top1 = ((sizes == 1) | torch.tensor(serves_unions(branch))).repeat(len(budgets)), shared.clone()
    given, images = (archs[served], masks[served], dataset.selection), calibration if branch.alike else None
    top1[served] = measure_composed(supernet, branches, dataset, *given, images)
    shared, top1 = (each.view(len(budgets), -1) for each in (shared, top1))
    singles = [
        {"budget": budget, "shared": low.mean().item(), "top1": high.mean().item()}
        for budget, low, high in zip(budgets, shared[:, sizes == 1], top1[:, sizes == 1], strict=True)
    ]
    means = {}
    for size in sizes.unique().tolist():
        low, high = (each[:, sizes == size] for each in (shared, top1))
        means[size] = {"sets": low.shape[1], "shared": low.mean().item(), "gain": (high - low).mean().item()}
    record = {"singles": singles, "mixed": means.pop(NOT_WHOLE, {"sets": 0, "gain": 0.0})}
    return record | {"gains": [{"size": size} | row for size, row in means.items()]}


def measure_composed(
    supernet: Supernet,
    branches: dict[str, Tensor],
    dataset: Dataset,
    archs: Tensor,
    masks: Tensor,
    split: Split,
    calibration: Split | None = None,
) -> Tensor:
    """Top-1 with branches of every pair of an arch and a set of classes (bool [n, classes]), float [n].

    Calibrated on the set's own training images, as the norms of branches have seen no other classes; or on those of
    `calibration`, which a control needs, whose norms have seen all.
    """
    top1, (distinct, member) = torch.empty(len(archs)), masks.unique(dim=0, return_inverse=True)
    for index, mask in enumerate(tqdm(distinct, "measuring branches", **PATIENT)):
        rows = (member == index).nonzero()[:, 0]
        composed = compose_branches(supernet, branches, superclass_shares(dataset.hierarchy, mask))
        top1[rows] = measure_archs(composed, archs[rows], masks[rows], calibration or own_images(dataset, mask), split)
    return top1


def superclass_counts(hierarchy: Hierarchy, masks: Tensor) -> Tensor:
    """Of how many superclasses each set has classes, int64 [n]."""
    touched = torch.zeros(len(masks), len(hierarchy.superclasses), dtype=torch.long)
    return touched.index_add_(1, hierarchy.parent, masks.long()).count_nonzero(1)


def own_images(dataset: Dataset, class_mask: Tensor) -> Split:
    """The training images of a set of classes, or a sample of so many that statistics need no more."""
    return calibration_sample(dataset.train.only(class_mask), BRANCH_IMAGES)


def branch_table(workspace: Workspace) -> pd.DataFrame:
    """Top-1 of superclasses on the selection split, with the shared weights and with every candidate.

    On the seeds that have all of them. Columns weights, megabytes (that a seed's branches add), and for each measured
    budget its million multiply-adds, such as '15M'. Empty without any.
    """
    records = [steps.record_of(workspace, "branches", **job) for job in first_jobs(workspace)]
    rows = [
        {"weights": weights, "megabytes": size, "budget": f"{row['budget']:g}M", "top1": row[which]}
        for record in records
        for row in record["singles"]
        for weights, size, which in (("shared", 0.0, "shared"), (record["branch"], record["bytes"] / 1e6, "top1"))
    ]
    if not rows:
        return pd.DataFrame()
    return pd.DataFrame(rows).pivot_table("top1", ["weights", "megabytes"], "budget", sort=False).reset_index()


def gain_table(workspace: Workspace) -> pd.DataFrame:
    """Points of every candidate over shared weights on the selection split, on the seeds that have all of them.

    Columns weights, superclasses (in a set), sets, shared (their top-1 with shared weights), gain; means over sets,
    subnets and seeds. Empty without any.
    """
    records = [steps.record_of(workspace, "branches", **job) for job in first_jobs(workspace)]
    rows = [{"weights": record["branch"], **row} for record in records for row in record["gains"] if row["gain"]]
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows).rename(columns={"size": "superclasses"})
    return table.groupby(["weights", "superclasses", "sets"], sort=False)[["shared", "gain"]].mean().reset_index()
