"""The step `expected`: what a kit's networks are expected to reach, fitted on measured ones (see eas.expected)."""

from __future__ import annotations

import torch
from torch import Tensor

from eas import devices
from eas.data import Dataset, Hierarchy
from eas.evaluation import SharedStem, calibration_sample, has_images, measure_archs
from eas.expected import ExpectedAccuracy, answers_of, log_odds
from eas.generator import ArchGenerator
from eas.recipes import Branch
from eas.spaces import Supernet
from pipeline import steps
from pipeline.branches import (
    chosen_branch_jobs,
    composes,
    generator_with,
    measure_composed,
    superclass_counts,
)
from pipeline.generators import load_generator
from pipeline.params import Study
from pipeline.scenarios import MEGA, every_scenario, some
from pipeline.store import Job, Record, Workspace
from pipeline.supernets import Base, load_supernet, unbranched_base

SETS, BUDGETS = 40, 2  # of classes that it is fitted on, with either weights, and budgets of each, at random
FEWEST, UNKNOWN = 20, 100.0  # networks that a line is fitted on; the error, in points, where there are fewer
REFERENCES = 3  # archs whose answers are kept


def expected_jobs(workspace: Workspace) -> list[Job]:
    """The first seed, whose networks the study's kit makes."""
    jobs = chosen_branch_jobs(workspace)[:1]
    return jobs or [{"base": unbranched_base(workspace), "branch": None}]


def fit_expected(workspace: Workspace, base: Base, branch: Branch | None) -> tuple[dict[str, Tensor], Record]:
    """The fields of ExpectedAccuracy, fitted on the selection split, on sets of classes that are no scenario's.

    The record has `points`: of every network with branches that it was fitted on the number of superclasses, what was
    measured, and what is expected.
    """
    study, dataset = workspace.study, workspace.dataset().to(devices.device())
    supernet, rng = load_supernet(workspace, dataset, base), torch.Generator().manual_seed(base.seed)
    generator = load_generator(workspace, dataset, base, generator_with(branch))
    model = ask_references(study, supernet, generator, dataset)
    # Branches that were each trained alone serve sets of one superclass: as many of those, too.
    largest = [len(dataset.hierarchy.superclasses)] + ([1] if branch and not composes(branch) else [])
    masks = torch.cat([fitted_sets(study, dataset.hierarchy, most, rng) for most in largest])
    masks = masks[has_images(masks, dataset.selection)]
    masks = masks.repeat_interleave(BUDGETS, 0)
    low, high = min(study.scenarios.budgets) * MEGA, max(study.scenarios.budgets) * MEGA
    archs = generator.generate(masks, low + (high - low) * torch.rand(len(masks), dtype=torch.float64, generator=rng))
    calibration = calibration_sample(dataset.calibration, study.evaluation.calibration_images)
    shared = measure_archs(supernet, archs, masks, calibration, dataset.selection).double()
    madds, sizes = supernet.space.madds(archs, masks.sum(1)), superclass_counts(dataset.hierarchy, masks)
    model.errors[0] = UNKNOWN
    if len(masks):  # there may be no set but all classes together
        model.errors[0] = deviation(shared, expected_of(model, masks, madds, torch.zeros_like(sizes)))
    model.errors[1] = UNKNOWN if branch else 0.0
    points: list[dict[str, float]] = []
    served = (sizes == 1) | torch.tensor(bool(branch and composes(branch)))
    if branch and served.sum() >= FEWEST:
        masks, madds, sizes = masks[served], madds[served], sizes[served]
        branches = steps.tensors_of(workspace, "branches", base=base, branch=branch)
        top1 = measure_composed(supernet, branches, dataset, archs[served], masks, dataset.selection).double()
        told = expected_of(model, masks, madds, torch.zeros_like(sizes))
        images = torch.tensor([model.right_answers(mask)[1] for mask in masks])
        model.branches.copy_(fit_line(told, top1, sizes, images))
        expected = expected_of(model, masks, madds, sizes)
        model.errors[1] = deviation(top1, expected)
        rows = zip(sizes.tolist(), top1.tolist(), expected.tolist(), strict=True)
        points = [{"superclasses": size, "measured": reached, "expected": said} for size, reached, said in rows]
    return vars(model), {"supernet": base.name, "seed": base.seed, "points": points}


def expected_of(model: ExpectedAccuracy, masks: Tensor, madds: Tensor, superclasses: Tensor) -> Tensor:
    """What is expected of networks, each for a set of its own, float64 [n]."""
    triples = zip(masks, madds, superclasses.tolist(), strict=True)
    return torch.stack([model(mask, cost[None], count)[0, 0] for mask, cost, count in triples])


def deviation(measured: Tensor, expected: Tensor) -> Tensor:
    """The root of the mean squared error."""
    return (measured - expected).square().mean().sqrt()


def ask_references(study: Study, supernet: Supernet, generator: ArchGenerator, dataset: Dataset) -> ExpectedAccuracy:
    """The answers to the selection images of the generator's archs for all classes, nothing fitted yet."""
    budgets = torch.tensor(study.scenarios.budgets, dtype=torch.float64)[[0, len(study.scenarios.budgets) // 2, -1]]
    everything = torch.ones(REFERENCES, len(dataset.hierarchy.classes), dtype=torch.bool)
    archs = generator.generate(everything, budgets * MEGA).unique(dim=0)
    madds = supernet.space.madds(archs, len(dataset.hierarchy.classes)).double()
    archs, madds = archs[madds.argsort()], madds.sort().values
    calibration = calibration_sample(dataset.calibration, study.evaluation.calibration_images)
    stem = SharedStem(supernet, archs, calibration, dataset.selection)
    answers = torch.stack([answers_of(stem.logits(arch)).cpu() for arch in archs])
    line, nothing = torch.tensor([0.0, 1.0, 0.0]).double(), torch.zeros(2).double()
    return ExpectedAccuracy(answers, dataset.selection.labels.cpu(), madds, line, nothing)


def fitted_sets(study: Study, hierarchy: Hierarchy, most: int, rng: torch.Generator) -> Tensor:
    """Random sets of classes of one to `most` superclasses, whole or in part, bool [n, classes]; no scenario's.

    SETS of them, fewer where a hierarchy has hardly more.
    """
    known = {tuple(mask.tolist()) for mask in every_scenario(study, hierarchy).class_masks}
    found: dict[tuple[bool, ...], None] = {}
    members = dict(zip(hierarchy.superclasses, hierarchy.members, strict=True))
    for _ in range(20 * SETS):
        size = int(most ** torch.rand(1, generator=rng).item() + 0.5)
        names: list[str] = []
        for superclass in some(hierarchy.superclasses, size, rng):
            classes = members[superclass]
            whole = torch.rand(1, generator=rng).item() < 0.5
            count = len(classes) if whole else int(torch.randint(1, len(classes) + 1, (1,), generator=rng))
            names += some(classes, count, rng)
        mask = tuple(hierarchy.class_mask(names).tolist())
        if len(names) > 1 and mask not in known:
            found[mask] = None
    return torch.tensor(list(found)[:SETS], dtype=torch.bool).view(-1, len(hierarchy.classes))


def fit_line(shared: Tensor, top1: Tensor, superclasses: Tensor, images: Tensor) -> Tensor:
    """From the log odds with shared weights to those with branches: see ExpectedAccuracy.branches."""
    inputs, target = (log_odds(each / 100 * images, images) for each in (shared, top1))
    columns = torch.stack([torch.ones_like(inputs), inputs, superclasses.double().log()], -1)
    return torch.linalg.lstsq(columns, target[:, None]).solution[:, 0]
