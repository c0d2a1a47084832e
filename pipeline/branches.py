"""The step `branches`: superclass branches of the supernet with dropout, and the choice among ways to tune them."""

from __future__ import annotations

import time
from itertools import takewhile
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from eas import devices
from eas.branches import load_branches, superclass_shares, tune_branches
from eas.data import Dataset
from eas.evaluation import SharedStem, calibration_sample, measure_archs, superclass_top1
from eas.recipes import Branch
from eas.spaces import Supernet
from pipeline import steps
from pipeline.params import Study
from pipeline.scenarios import set_sampler, superclass_sets
from pipeline.store import Job, Record, Workspace
from pipeline.supernets import Base, base_of, load_supernet, measured_archs


def branch_jobs(workspace: Workspace) -> list[Job]:
    """Every candidate on the first seeds, then the chosen one on the others; none in a study without branches."""
    first, study = first_jobs(workspace), workspace.study
    if not first or not steps.all_there(workspace, "branches", first):
        return first
    chosen = choose_branch(workspace)
    return first + [branch_job(workspace, chosen, seed) for seed in study.seeds[study.branches.seeds :]]


def first_jobs(workspace: Workspace) -> list[Job]:
    """What is tuned before the choice."""
    study = workspace.study
    seeds = study.first_seeds(study.branches)
    return [branch_job(workspace, branch, seed) for seed in seeds for branch in study.branches.candidates]


def branch_job(workspace: Workspace, branch: Branch, seed: int) -> Job:
    return {"base": base_of(workspace, "dropout", seed), "branch": branch}


def chosen_branch_jobs(workspace: Workspace) -> list[Job]:
    """A job for the chosen branches of every seed; none in a study without."""
    if not workspace.study.branches:
        return []
    chosen = choose_branch(workspace)
    return [branch_job(workspace, chosen, seed) for seed in workspace.study.seeds]


def choose_branch(workspace: Workspace) -> Branch:
    """The candidate that gains most over shared weights on the selection split, in the mean over the first seeds.

    Raises:
        FileNotFoundError: branches that the choice needs are missing; the message says which notebook makes them.
    """
    records = [steps.record_of(workspace, "branches", **job) for job in first_jobs(workspace)]
    mean = pd.DataFrame([{"branch": r["branch"], "gain": mean_gain(r)} for r in records]).groupby("branch").gain.mean()
    return max(workspace.study.branches.candidates, key=lambda branch: mean[branch.name])


def largest_set(record: Record) -> int:
    """How many superclasses a set may have that branches serve; 0 where even a single one has better shared weights.

    The rule of the study's kit; the comparison has what they reach either way. Branches are for sets no larger than
    those that they were trained on, and only as far as they gain on the selection split, on unions never trained on.
    """
    served = takewhile(lambda row: row["gain"] > 0, record["gains"])
    return max((row["size"] for row in served), default=0)


def mean_gain(record: Record) -> float:
    """Points over shared weights, mean over all of the study's sets; none for sets that shared weights serve."""
    rows, largest = record["gains"], largest_set(record)
    return sum(row["sets"] * row["gain"] for row in rows if row["size"] <= largest) / sum(row["sets"] for row in rows)


def train_branches(
    workspace: Workspace, base: Base, branch: Branch, checkpoint: Path | None = None
) -> tuple[dict[str, Tensor], Record]:
    """Tune the branches on sets of superclasses; the branches, and their accuracy."""
    study, dataset = workspace.study, workspace.dataset().to(devices.device())
    supernet, start = load_supernet(workspace, dataset, base), time.perf_counter()
    recipe = {"epochs": study.branches.epochs, "batch_size": branch.batch_size or study.branches.batch_size}
    recipe = study.training.model_copy(update=recipe | {"learning_rate": branch.learning_rate})
    draw_sets, options = (
        set_sampler(study, dataset.hierarchy, branch.sets),
        {"seed": base.seed, "checkpoint": checkpoint},
    )
    branches = tune_branches(supernet, dataset.train, dataset.hierarchy, branch.part, recipe, draw_sets, **options)
    content = {"seconds": time.perf_counter() - start, "images": len(dataset.train) * recipe.epochs}
    content |= {"branch": branch.name, "seed": base.seed}
    content |= {"values": sum(tensor.numel() for tensor in branches.values())}
    return branches, content | measure(study, supernet, branches, dataset, len(branch.sets))


def measure(study: Study, supernet: Supernet, branches: dict[str, Tensor], dataset: Dataset, largest: int) -> Record:
    """Calibrated accuracy of the largest, the smallest and some random subnets with branches, on the selection split.

    `accuracy`, and `shared` for the shared weights: means over superclasses, by subnet. `gains`: for every `size`
    of the study's sets, how many `sets` of so many superclasses there are, and how many points branches gain over
    shared weights in the mean over sets and subnets; 0 for those of more than the `largest` that were trained on.
    Branches are calibrated on the set's own training images.
    """
    hierarchy, (names, archs), sets = (
        dataset.hierarchy,
        measured_archs(supernet.space),
        superclass_sets(study, dataset.hierarchy),
    )
    masks, sizes = (
        torch.stack([hierarchy.class_mask(each) for each in sets]),
        torch.tensor([len(each) for each in sets]),
    )
    calibration = calibration_sample(dataset.calibration, study.evaluation.calibration_images)
    stem, labels = SharedStem(supernet, archs, calibration, dataset.selection), dataset.selection.labels
    shared = torch.stack([superclass_top1(stem.logits(arch), labels, masks) for arch in archs])
    top1 = shared.clone()
    for index in (sizes <= largest).nonzero()[:, 0].tolist():
        load_branches(supernet, branches, superclass_shares(hierarchy, masks[index]))
        own, mask = dataset.train.only(masks[index]), masks[index].expand(len(archs), -1)
        top1[:, index] = measure_archs(supernet, archs, mask, own, dataset.selection)
    gain = (top1 - shared).mean(0)
    single = sizes == 1
    accuracy, without = (
        [{"subnet": name, "top1": mean} for name, mean in zip(names, each[:, single].mean(1).tolist(), strict=True)]
        for each in (top1, shared)
    )
    gains = [
        {"size": size, "sets": int((sizes == size).sum()), "gain": gain[sizes == size].mean().item()}
        for size in sizes.unique().tolist()
    ]
    return {"accuracy": accuracy, "shared": without, "gains": gains}


def branch_table(workspace: Workspace) -> pd.DataFrame:
    """Top-1 on the selection split of the shared weights and of every candidate, on the seeds that have all of them.

    Columns weights, stored (million values that a seed's branches add), largest, random, smallest. Empty without any.
    """
    jobs = first_jobs(workspace)
    if not jobs:
        return pd.DataFrame()
    records = [steps.record_of(workspace, "branches", **job) for job in jobs]
    tables = [pd.DataFrame(record["shared"]).assign(weights="shared", stored=0.0) for record in records]
    for record in records:
        rows = pd.DataFrame(record["accuracy"])
        tables.append(rows.assign(weights=record["branch"], stored=record["values"] / 1e6))
    table = pd.concat(tables)[["weights", "stored", "subnet", "top1"]]
    return table.pivot_table("top1", ["weights", "stored"], "subnet", sort=False).reset_index()


def gain_table(workspace: Workspace) -> pd.DataFrame:
    """Points of every candidate over shared weights on the selection split, on the seeds that have all of them.

    Columns weights, superclasses (in a set), sets, gain (mean over sets, subnets and seeds). Empty without any.
    """
    records = [steps.record_of(workspace, "branches", **job) for job in first_jobs(workspace)]
    rows = [{"weights": record["branch"], **row} for record in records for row in record["gains"] if row["gain"]]
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows).rename(columns={"size": "superclasses"})
    return table.groupby(["weights", "superclasses", "sets"], sort=False).gain.mean().reset_index()
