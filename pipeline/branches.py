"""The step `branches`: superclass branches of the supernet with dropout, and the choice among ways to tune them."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from eas import devices
from eas.branches import load_branches, superclass_shares, tune_branches
from eas.data import Dataset
from eas.evaluation import SharedStem, superclass_top1
from eas.recipes import Branch
from eas.spaces import Supernet
from pipeline import steps
from pipeline.scenarios import set_sampler
from pipeline.store import Job, Record, Workspace
from pipeline.supernets import Base, accuracy_table, base_of, load_supernet, measured_archs


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
    """The candidate with the best mean superclass top-1 on the selection split, over subnets and the first seeds.

    Raises:
        FileNotFoundError: branches that the choice needs are missing; the message says which notebook makes them.
    """
    records = [steps.record_of(workspace, "branches", **job) for job in first_jobs(workspace)]
    rows = [{"branch": r["branch"], "top1": row["top1"]} for r in records for row in r["accuracy"]]
    mean = pd.DataFrame(rows).groupby("branch").top1.mean()
    return max(workspace.study.branches.candidates, key=lambda branch: mean[branch.name])


def train_branches(
    workspace: Workspace, base: Base, branch: Branch, checkpoint: Path | None = None
) -> tuple[dict[str, Tensor], Record]:
    """Tune the branches on sets of superclasses; the branches, and their accuracy."""
    study, dataset = workspace.study, workspace.dataset().to(devices.device())
    supernet, start = load_supernet(workspace, dataset, base), time.perf_counter()
    recipe = {"epochs": study.branches.epochs, "batch_size": branch.batch_size or study.branches.batch_size}
    recipe = study.training.model_copy(update=recipe | {"learning_rate": branch.learning_rate})
    draw_set, options = (
        set_sampler(study, dataset.hierarchy, branch.sets),
        {"seed": base.seed, "checkpoint": checkpoint},
    )
    branches = tune_branches(supernet, dataset.train, dataset.hierarchy, branch.part, recipe, draw_set, **options)
    content = {"seconds": time.perf_counter() - start, "images": len(dataset.train) * recipe.epochs}
    content |= {"branch": branch.name, "seed": base.seed}
    content |= {"values": sum(tensor.numel() for tensor in branches.values())}
    return branches, content | {"accuracy": branch_accuracy(supernet, branches, dataset)}


def branch_accuracy(supernet: Supernet, branches: dict[str, Tensor], dataset: Dataset) -> list[dict]:
    """Calibrated accuracy of the largest, the smallest and some random subnets with their superclass's branch.

    On the selection split, mean over superclasses; the subnets are those of the shared weights' records. A branch is
    calibrated on its superclass's training images.
    """
    hierarchy, (names, archs) = dataset.hierarchy, measured_archs(supernet.space)
    top1 = torch.zeros(len(archs), len(hierarchy.superclasses))
    for index, name in enumerate(hierarchy.superclasses):
        class_mask = hierarchy.class_mask([name])
        load_branches(supernet, branches, superclass_shares(hierarchy, class_mask))
        own, images = dataset.train.only(class_mask), dataset.selection.only(class_mask)
        stem = SharedStem(supernet, archs, own, images)
        for row, arch in enumerate(archs):
            top1[row, index] = superclass_top1(stem.logits(arch), images.labels, class_mask[None])[0]
    return [{"subnet": name, "top1": mean} for name, mean in zip(names, top1.mean(1).tolist(), strict=True)]


def branch_table(workspace: Workspace) -> pd.DataFrame:
    """Top-1 on the selection split of the shared weights and of every candidate, on the seeds that have all of them.

    Columns weights, stored (million values that a seed's branches add), largest, random, smallest. Empty without any.
    """
    jobs = first_jobs(workspace)
    if not jobs:
        return pd.DataFrame()
    shared = accuracy_table([steps.record_of(workspace, "supernets", **job["base"].job) for job in jobs])
    tables = [shared.assign(weights="shared", stored=0.0)]
    for record in (steps.record_of(workspace, "branches", **job) for job in jobs):
        rows = pd.DataFrame(record["accuracy"])
        tables.append(rows.assign(weights=record["branch"], stored=record["values"] / 1e6))
    table = pd.concat(tables)[["weights", "stored", "subnet", "top1"]]
    return table.pivot_table("top1", ["weights", "stored"], "subnet", sort=False).reset_index()
