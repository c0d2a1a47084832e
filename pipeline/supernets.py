"""The step `supernets`: training with and without superclass dropout, and the choice among its settings."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from eas import devices, training
from eas.data import Dataset
from eas.dropout import SuperclassDropout
from eas.evaluation import SharedStem, calibration_sample, own_superclass_correct
from eas.ranks import ALONE, Ranks
from eas.recipes import NO_DROPOUT, Dropout, Training
from eas.registry import Section
from eas.spaces import ChoiceSpace, Supernet
from pipeline import steps
from pipeline.params import Study
from pipeline.scenarios import MEGA, scenarios, set_sampler
from pipeline.store import Job, Record, Workspace

MEASURED = 8  # random subnets whose accuracy is reported beside the largest and the smallest
GENEROUS = 10  # times what the largest arch needs: a budget above this is in other units
WATCHED = 500  # images that a training is watched on


class Base(Section):
    """A supernet of the comparison, by its name there: `plain`, or `dropout` with the chosen superclass dropout."""

    name: str
    dropout: Dropout
    epochs: int
    seed: int

    @property
    def job(self) -> Job:
        """That of its training."""
        return {"dropout": self.dropout, "epochs": self.epochs, "seed": self.seed}


# -------------------------------------------------------------------- which are trained


def supernet_jobs(workspace: Workspace) -> list[Job]:
    """None on all seeds, every candidate of superclass dropout on the first few, then the chosen one on the others."""
    first, study = first_jobs(workspace.study), workspace.study
    if not steps.all_there(workspace, "supernets", first):
        check_branch_sets(workspace)
    if not study.dropout or not steps.all_there(workspace, "supernets", candidate_jobs(study)):
        return first
    chosen, rest = choose_dropout(workspace), study.seeds[study.dropout.seeds :]
    return first + [{"dropout": chosen, "epochs": study.training.epochs, "seed": seed} for seed in rest]


def check_branch_sets(workspace: Workspace) -> None:
    """ValueError where branches would be trained on sets that are not there: better now than after the supernets."""
    study, hierarchy = workspace.study, workspace.study.data.hierarchy(workspace.root)
    for branch in study.branches.candidates if study.branches else ():
        set_sampler(study, hierarchy, branch.sets)


def first_jobs(study: Study) -> list[Job]:
    """What can be trained before the choice."""
    return [plain_base(study, seed).job for seed in study.seeds] + candidate_jobs(study)


def candidate_jobs(study: Study) -> list[Job]:
    """What the choice is made among."""
    return [
        {"dropout": dropout, "epochs": study.training.epochs, "seed": seed}
        for seed in study.first_seeds(study.dropout)
        for dropout in (study.dropout.candidates if study.dropout else ())
    ]


def plain_base(study: Study, seed: int) -> Base:
    """The supernet without superclass dropout of a seed."""
    return Base(name="plain", dropout=NO_DROPOUT, epochs=plain_epochs(study), seed=seed)


def plain_epochs(study: Study) -> int:
    """Beside one with dropout a supernet without trains longer: by the epochs of branches, tuned from that one."""
    return study.training.epochs + (study.branches.epochs if study.branches and study.dropout else 0)


def choose_dropout(workspace: Workspace) -> Dropout:
    """The candidate with the best mean superclass top-1 on the selection split, over subnets and the first seeds.

    Raises:
        FileNotFoundError: a supernet that the choice needs is missing; the message says which notebook makes it.
    """
    records = [steps.record_of(workspace, "supernets", **job) for job in candidate_jobs(workspace.study)]
    mean = accuracy_table(records).groupby("dropout").top1.mean()
    return max(workspace.study.dropout.candidates, key=lambda dropout: mean[dropout.name])


def accuracy_table(records: list[Record]) -> pd.DataFrame:
    """The records of supernets as columns dropout, seed, subnet, madds, top1, flat_top1 (selection split)."""
    return pd.DataFrame([{k: r[k] for k in ("dropout", "seed")} | row for r in records for row in r["accuracy"]])


def bases(workspace: Workspace) -> list[Base]:
    """The supernets of the comparison on all seeds: those with the chosen dropout, if any, then those without."""
    study = workspace.study
    chosen = choose_dropout(workspace) if study.dropout else None
    with_dropout = [
        Base(name="dropout", dropout=chosen, epochs=study.training.epochs, seed=seed) for seed in study.seeds if chosen
    ]
    return with_dropout + [plain_base(study, seed) for seed in study.seeds]


def base_jobs(workspace: Workspace) -> list[Job]:
    """A job for every supernet of the comparison."""
    return [{"base": base} for base in bases(workspace)]


def base_of(workspace: Workspace, name: str, seed: int) -> Base:
    """The supernet of the comparison of that name and seed; the one without dropout needs no choice."""
    if name == "plain":
        return plain_base(workspace.study, seed)
    found = [base for base in bases(workspace) if (base.name, base.seed) == (name, seed)]
    if not found:
        raise ValueError(f"the study {workspace.study.name} has no supernet {name} of seed {seed}")
    return found[0]


def unbranched_base(workspace: Workspace) -> Base:
    """The first seed's supernet that a kit without branches is made of."""
    return base_of(workspace, "dropout" if workspace.study.dropout else "plain", workspace.study.seeds[0])


# -------------------------------------------------------------------- training


def new_space(study: Study, dataset: Dataset) -> ChoiceSpace:
    """The study's search space.

    Raises:
        ValueError: no arch fits one of the study's budgets, or any does by far: better now than after the training.
    """
    space = study.space.build(study.data.image_size, dataset.train.images.shape[1])
    every = scenarios(study, dataset.hierarchy)
    space.check_scenarios(every.class_masks, every.budgets)
    most, needed = (
        float(each.max()) / MEGA for each in (every.budgets, space.madds(space.largest, every.class_counts))
    )
    if most > GENEROUS * needed:
        raise ValueError(
            f"a budget of {most:g}: they are in millions, and the largest arch needs {needed:.3g} of these"
        )
    return space


def new_supernet(study: Study, dataset: Dataset) -> Supernet:
    """The study's supernet, untrained, on the CPU; see `new_space`."""
    return new_space(study, dataset).supernet(len(dataset.hierarchy.classes), dataset.mean, dataset.std)


def seeded_supernet(workspace: Workspace, dataset: Dataset, seed: int) -> Supernet:
    """The same with the initial weights of a seed, or the published ones that training starts from.

    On the job's device. Errors as Supernet.load_start.
    """
    torch.manual_seed(seed)
    recipe, supernet = workspace.study.training, new_supernet(workspace.study, dataset)
    if recipe.start:
        supernet.load_start(supernet.start_file(recipe.start.weights, workspace.root))
        if recipe.start.sort_channels:
            supernet.sort_channels()
    elif recipe.zero_init:
        supernet.begin_as_identity()
    return supernet.to(devices.device())


def train_supernet(
    workspace: Workspace,
    dropout: Dropout,
    epochs: int,
    seed: int,
    checkpoint: Path | None = None,
    *,
    label: str = "",
    ranks: Ranks = ALONE,
) -> tuple[dict[str, Tensor], Record]:
    """Train one supernet and measure it on the selection split; its weights, and learning curve and accuracy.

    The curve tells after every epoch what the supernet's ends reach there. `label`: before the progress bar. Several
    `ranks` measure the trained supernet together, each its share of the images, and give the same.
    """
    study, dataset = workspace.study, workspace.dataset().to(devices.device())
    supernet, start = seeded_supernet(workspace, dataset, seed), time.perf_counter()
    recipe = study.training.model_copy(update={"epochs": epochs})
    told = {"label": label or f"{dropout.name}, seed {seed}", "watch": lambda: curve_point(study, supernet, dataset)}
    history = train_on_all(supernet, dataset, dropout, recipe, seed, checkpoint, ranks=ranks, **told)
    content = {"seconds": time.perf_counter() - start, "images": len(dataset.train) * epochs}
    accuracy = selection_accuracy(study, supernet, dataset, ranks)
    content |= {"dropout": dropout.name, "seed": seed, "history": history, "accuracy": accuracy}
    return supernet.state_dict(), content


def train_on_all(
    supernet: Supernet,
    dataset: Dataset,
    dropout: Dropout,
    recipe: Training,
    seed: int,
    checkpoint: Path | None,
    **options,
) -> list[dict[str, float]]:
    """eas.training.train on the data set's training images with superclass dropout."""
    classes = SuperclassDropout(dataset.hierarchy.parent.to(devices.device()), dropout)
    return training.train(supernet, dataset.train, classes, recipe, seed=seed, checkpoint=checkpoint, **options)


def load_supernet(workspace: Workspace, dataset: Dataset, base: Base) -> Supernet:
    """A trained supernet, frozen, on the job's device.

    Raises:
        FileNotFoundError: the weights are not there; the message says which notebook makes them.
        ValueError: the file holds other tensors than this study's supernet.
    """
    supernet, result = new_supernet(workspace.study, dataset), steps.find(workspace, "supernets", **base.job)[0]
    try:
        supernet.load_state_dict(result.tensors())
    except RuntimeError as err:
        reason = str(err).splitlines()[1].strip()
        raise ValueError(f"{result.path} does not fit the study {workspace.study.name}: {reason}") from None
    return supernet.requires_grad_(False).to(devices.device())


# -------------------------------------------------------------------- measuring


def measured_archs(space: ChoiceSpace) -> tuple[list[str], Tensor]:
    """What is reported of every set of weights: the largest arch, some random ones, the smallest; names and archs."""
    random = space.sample(MEASURED, torch.Generator().manual_seed(0))
    return ["largest", *["random"] * MEASURED, "smallest"], torch.stack([space.largest, *random, space.smallest])


def curve_point(study: Study, supernet: Supernet, dataset: Dataset) -> dict[str, float]:
    """What a learning curve tells of an epoch, on a sample of the selection split, whatever the dropout.

    Superclass top-1 of the smallest and the largest arch, and the loss of the largest over all classes.
    """
    images = calibration_sample(dataset.selection, WATCHED)
    calibration = calibration_sample(dataset.calibration, study.evaluation.calibration_images)
    found, parent = {}, dataset.hierarchy.parent
    for name in ("smallest", "largest"):
        arch = getattr(supernet.space, name)
        logits = SharedStem(supernet, arch[None], calibration, images).logits(arch)
        found[f"{name}_top1"] = 100 * own_superclass_correct(logits, images.labels, parent).float().mean().item()
    return found | {"all_classes_loss": F.cross_entropy(logits, images.labels).item()}


def selection_accuracy(study: Study, supernet: Supernet, dataset: Dataset, ranks: Ranks = ALONE) -> list[dict]:
    """Calibrated accuracy of the largest, the smallest and some random subnets, the same ones for every supernet."""
    space, parent, rows = supernet.space, dataset.hierarchy.parent, []
    names, archs = measured_archs(space)
    calibration = calibration_sample(dataset.calibration, study.evaluation.calibration_images)
    stem = SharedStem(supernet, archs, calibration, dataset.selection, ranks)
    labels, whole = stem.split.labels, len(dataset.selection)
    for subnet, arch in zip(names, archs, strict=True):
        logits = stem.logits(arch)
        correct = torch.stack([own_superclass_correct(logits, labels, parent), logits.argmax(1) == labels])
        own, flat = (100 * share for share in (ranks.total(correct.float().sum(1)) / whole).tolist())
        rows.append({"subnet": subnet, "madds": int(space.madds(arch, len(parent))), "top1": own, "flat_top1": flat})
    return rows
