"""A study's scenarios and supernets: steps that the notebooks and a GPU machine run, each skipping what is there.

Files, under a study's folder:
    supernets/teacher-<seed>.safetensors + .json     weights; accuracy on the selection split
    supernets/<setting>-<seed>.safetensors + .json   weights; learning curve, accuracy on the selection split
    supernets/<setting>-taught-<seed>...             the same, with a teacher that the study only tries
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from eas import data, evaluation, jobs
from eas.config import Dropout, Study
from eas.data import Dataset, Hierarchy
from eas.dropout import SuperclassDropout
from eas.layers import FixedStatistics
from eas.records import Result
from eas.space import SearchSpace
from eas.supernet import Supernet, begin_as_identity
from eas.training import Network, mixed_precision, train

NONE = Dropout(variant="none", rate=0.0)
MEASURED = 8  # random subnets whose accuracy is reported beside the largest and the smallest


# -------------------------------------------------------------------- scenarios


@dataclass(frozen=True)
class Scenarios:
    """Deployment scenarios: names, classes kept (bool [n, classes]) and budgets (multiply-adds, float64 [n])."""

    names: list[str]
    kept: Tensor
    budgets: Tensor

    def __len__(self) -> int:
        return len(self.names)

    @property
    def is_union(self) -> list[bool]:
        return ["+" in name for name in self.names]


def groups(study: Study, hierarchy: Hierarchy) -> list[tuple[str, ...]]:
    """The study's sets of superclasses: every single one, then the seeded unions of two and of three."""
    singles = [(name,) for name in hierarchy.superclasses]
    rng = torch.Generator().manual_seed(study.data.seed)
    for size, count in ((2, study.scenarios.unions_of_two), (3, study.scenarios.unions_of_three)):
        candidates = list(combinations(hierarchy.superclasses, size))
        picked = torch.randperm(len(candidates), generator=rng)[:count].sort().values
        singles += [candidates[i] for i in picked.tolist()]
    return singles


def scenarios(study: Study, hierarchy: Hierarchy) -> Scenarios:
    """Every group of `groups` at every budget of the study, budget after budget."""
    sets = groups(study, hierarchy)
    kept = torch.stack([hierarchy.kept(names) for names in sets])
    budgets = torch.tensor(study.scenarios.budgets, dtype=torch.float64) * 1e6
    names = ["+".join(names) for names in sets] * len(budgets)
    return Scenarios(names, kept.repeat(len(budgets), 1), budgets.repeat_interleave(len(sets)))


def scenario_sampler(study: Study, hierarchy: Hierarchy) -> Callable[[int, torch.Generator], tuple[Tensor, Tensor]]:
    """Draws training scenarios: one to three superclasses, never a union of the comparison; any budget in range."""
    count = len(hierarchy.superclasses)
    names = hierarchy.superclasses
    held_out = {frozenset(names.index(n) for n in group) for group in groups(study, hierarchy) if len(group) > 1}
    every = [frozenset(c) for size in (1, 2, 3) for c in combinations(range(count), size)]
    allowed = [group for group in every if group not in held_out]
    member = torch.zeros(len(allowed), count, dtype=torch.bool)
    for row, group in enumerate(allowed):
        member[row, list(group)] = True
    kept = member[:, hierarchy.parent]
    size = member.sum(1)
    weight = 1.0 / torch.bincount(size)[size]  # one, two and three superclasses equally often
    low, high = min(study.scenarios.budgets) * 1e6, max(study.scenarios.budgets) * 1e6

    def draw(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.multinomial(weight, n, replacement=True, generator=rng)
        return kept[rows], low + (high - low) * torch.rand(n, dtype=torch.float64, generator=rng)

    return draw


# -------------------------------------------------------------------- supernets


def new_supernet(study: Study, dataset: Dataset) -> Supernet:
    """The study's supernet, untrained, on the CPU.

    Raises:
        ValueError: no arch fits one of the study's budgets: better now than after the training.
    """
    space = SearchSpace.from_study(study, dataset.train.images.shape[1])
    wanted = scenarios(study, dataset.hierarchy)
    space.check_scenarios(wanted.kept, wanted.budgets)
    return Supernet(space, len(dataset.hierarchy.classes), dataset.mean, dataset.std)


def untrained(build: Callable[[Study, Dataset], Supernet], study: Study, dataset: Dataset, seed: int) -> Supernet:
    """What `build` makes, on the job's device, with the initial weights of a seed."""
    torch.manual_seed(seed)
    supernet = build(study, dataset).to(jobs.device())
    if study.training.zero_init:
        begin_as_identity(supernet)
    return supernet


def dropout_of(dataset: Dataset, setting: Dropout) -> SuperclassDropout:
    """Superclass dropout on the job's device."""
    return SuperclassDropout(dataset.hierarchy.parent.to(jobs.device()), setting)


def require(path: Path, study: Study, notebook: str) -> Path:
    """`path`, if the file is there.

    Raises:
        FileNotFoundError: it is not; the message says which notebook makes it.
    """
    if not path.is_file():
        only_record = path.suffix != ".json" and path.with_suffix(".json").is_file()
        hint = f", without weights/{study.name}: that has only its record" if only_record else ""
        raise FileNotFoundError(f"{path} is missing: run notebooks/{notebook} for the study {study.name} first{hint}")
    return path


def spaced(count: int, length: int) -> list[int]:
    """`count` indices from 0 to length - 1, evenly spaced, ends included."""
    return [i * (length - 1) // max(1, count - 1) for i in range(count)]


def load_supernet(study: Study, dataset: Dataset, path: Path) -> Supernet:
    """A trained supernet, frozen, on the job's device.

    Raises:
        FileNotFoundError: the weights are not there; the message says which step makes them.
        ValueError: the file holds other tensors than this study's supernet.
    """
    supernet = new_supernet(study, dataset)
    try:
        supernet.load_state_dict(load_file(require(path, study, "02_supernet")))
    except SafetensorError as err:
        raise ValueError(f"{path} is damaged, or no safetensors file: {err}") from None
    except RuntimeError as err:
        raise ValueError(f"{path} does not fit the study {study.name}: {str(err).splitlines()[1].strip()}") from None
    return supernet.requires_grad_(False).to(jobs.device())


def teacher_path(folder: Path, seed: int) -> Path:
    return folder / "supernets" / f"teacher-{seed}.safetensors"


def train_teacher(study: Study, folder: Path, seed: int) -> dict:
    """Train the teacher of a seed, alone and on all classes; returns its record (accuracy on the selection split)."""
    key = f"{study.key('data', 'space', 'training', 'evaluation')}-teacher-{seed}"
    result = Result(folder, teacher_path(folder, seed), key)
    if record := result.finished():
        return record
    dataset = data.load(study, folder / "dataset.safetensors").to(jobs.device())
    network = untrained(build_teacher, study, dataset, seed)
    recipe = study.training.model_copy(update={"epochs": study.training.teacher.epochs, "teacher": None})
    start, largest = time.perf_counter(), network.space.largest
    options = {"seed": seed, "label": result.path.stem, "arch": largest}
    train(network, dataset.train, dropout_of(dataset, NONE), recipe, **options)
    result.timed({"seconds": time.perf_counter() - start, "images": len(dataset.train) * recipe.epochs})
    logits = evaluation.subnet_logits(network, largest, calibration_images(study, dataset), dataset.selection)
    own = evaluation.own_superclass_correct(logits, dataset.selection.labels, dataset.hierarchy.parent)
    return result.write(network.state_dict(), {"seed": seed, "top1": own.float().mean().item() * 100}, resumable=True)


def build_teacher(study: Study, dataset: Dataset) -> Supernet:
    """The teacher, untrained, on the CPU: the largest arch of a space with its widths."""
    wide = study.space.model_copy(update={"widths": study.training.teacher.widths})
    space = SearchSpace.from_study(study.model_copy(update={"space": wide}), dataset.train.images.shape[1])
    return Supernet(space, len(dataset.hierarchy.classes), dataset.mean, dataset.std)


def load_teacher(study: Study, folder: Path, dataset: Dataset, seed: int) -> Network | None:
    """The trained teacher of a seed, images to logits; None in a study without.

    Its norms run on the statistics of a sample of all classes, whatever the images are.
    """
    if not study.training.teacher:
        return None
    network = build_teacher(study, dataset).to(jobs.device())
    network.load_state_dict(load_file(require(teacher_path(folder, seed), study, "02_supernet")))
    largest = network.requires_grad_(False).space.largest
    statistics = FixedStatistics(evaluation.calibrate(network, largest, calibration_images(study, dataset)).recorded)

    @torch.no_grad()
    def teacher(images: Tensor) -> Tensor:
        with mixed_precision(study.training, images.device):
            return network(images, largest, statistics)

    return teacher


def supernet_path(folder: Path, setting: Dropout, seed: int, taught: bool = False) -> Path:
    return folder / "supernets" / f"{setting.name}{'-taught' if taught else ''}-{seed}.safetensors"


def train_supernet(study: Study, folder: Path, setting: Dropout, seed: int, taught: bool = False) -> dict:
    """Train one supernet and measure it on the selection split; returns its record (history, accuracy).

    A `taught` one learns from the teacher that the study only tries.
    """
    study = study.taught if taught else study
    recipe = study.longer if setting == NONE else study.training
    same = study.model_copy(update={"training": recipe}).key("data", "space", "training", "evaluation")
    key = f"{same}-{setting.name}-{seed}"
    result = Result(folder, supernet_path(folder, setting, seed, taught), key)
    if record := result.finished():
        return record
    dataset = data.load(study, folder / "dataset.safetensors").to(jobs.device())
    supernet = untrained(new_supernet, study, dataset, seed)
    checkpoint = result.resume.with_suffix(f".{key}")
    uninterrupted, start = not checkpoint.is_file(), time.perf_counter()
    history = train(
        supernet,
        dataset.train,
        dropout_of(dataset, setting),
        recipe,
        seed=seed,
        checkpoint=checkpoint,
        label=result.path.stem,
        teacher=load_teacher(study, folder, dataset, seed),
    )
    if uninterrupted:  # else a part of the time is not known
        result.timed({"seconds": time.perf_counter() - start, "images": len(dataset.train) * recipe.epochs})
    accuracy = selection_accuracy(study, supernet, dataset)
    content = {"setting": setting.name, "seed": seed, "history": history, "accuracy": accuracy}
    record = result.write(supernet.state_dict(), content, resumable=True)
    checkpoint.unlink()
    return record


def measured_archs(space: SearchSpace) -> tuple[list[str], Tensor]:
    """What is reported of every set of weights: the largest arch, some random ones, the smallest; names and archs."""
    random = space.sample(MEASURED, torch.Generator().manual_seed(0))
    return ["largest", *["random"] * MEASURED, "smallest"], torch.stack([space.largest, *random, space.smallest])


def selection_accuracy(study: Study, supernet: Supernet, dataset: Dataset) -> list[dict]:
    """Calibrated accuracy of the largest, the smallest and some random subnets, the same ones for every supernet."""
    space, parent, rows = supernet.space, dataset.hierarchy.parent, []
    names, archs = measured_archs(space)
    begun = evaluation.Begun(supernet, archs, calibration_images(study, dataset), dataset.selection)
    for subnet, arch in zip(names, archs, strict=True):
        logits, labels = begun.logits(arch), dataset.selection.labels
        own = evaluation.own_superclass_correct(logits, labels, parent).float().mean().item() * 100
        flat = (logits.argmax(1) == labels).float().mean().item() * 100
        rows.append({"subnet": subnet, "madds": int(space.madds(arch, len(parent))), "top1": own, "flat_top1": flat})
    return rows


def calibration_images(study: Study, dataset: Dataset) -> data.Split:
    """The first images of a fixed shuffle of the calibration split: a sample of all classes."""
    count = len(dataset.calibration)
    rows = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: study.evaluation.calibration_images]
    return data.Split(dataset.calibration.images[rows], dataset.calibration.labels[rows])


def train_supernets(study: Study, folder: Path) -> list[dict]:
    """None on all seeds, every candidate of superclass dropout on the first few, then the chosen one on the others.

    Before them the teachers, where the study has any.
    """
    if study.training.teacher:
        jobs.run(train_teacher, [(study, folder, seed) for seed in study.seeds], "teachers")
    jobs.run(train_supernet, [(study, folder, *run) for run in first_runs(study)], "supernets")
    chosen = choose_dropout(study, read_records(study, folder))
    rest = [(study, folder, chosen, seed) for seed in study.seeds[study.dropout.seeds :]]
    jobs.run(train_supernet, rest, f"supernets, chosen: {chosen.name}")
    if study.dropout.with_teacher:
        jobs.run(try_teacher, [(study, folder, chosen)], "with a teacher")
    return read_records(study, folder)


def try_teacher(study: Study, folder: Path, setting: Dropout) -> dict:
    """On the first seed, train the teacher that the study only tries, then a supernet with it; returns its record."""
    train_teacher(study.taught, folder, study.seeds[0])
    return train_supernet(study, folder, setting, study.seeds[0], taught=True)


def read_taught(study: Study, folder: Path) -> dict[str, dict]:
    """The records of the `teacher` that the study only tries and of the supernets `without` and `with` it.

    Empty where none is tried.
    """
    if not study.dropout.with_teacher:
        return {}
    chosen, seed = choose_dropout(study, read_records(study, folder)), study.seeds[0]
    paths = {name: supernet_path(folder, chosen, seed, name == "with") for name in ("without", "with")}
    return {name: read_record(study, path) for name, path in {"teacher": teacher_path(folder, seed), **paths}.items()}


def read_teachers(study: Study, folder: Path) -> list[dict]:
    """The records of the teachers, seed by seed; none in a study without."""
    seeds = study.seeds if study.training.teacher else ()
    return [read_record(study, teacher_path(folder, seed)) for seed in seeds]


def read_record(study: Study, path: Path) -> dict:
    """The record beside a file of weights; FileNotFoundError, which says what makes it, if there is none."""
    return json.loads(require(path.with_suffix(".json"), study, "02_supernet").read_text())


def first_runs(study: Study) -> list[tuple[Dropout, int]]:
    """What is trained before the choice of the dropout."""
    candidates = [
        (setting, seed) for seed in study.seeds[: study.dropout.seeds] for setting in study.dropout.candidates
    ]
    return [(NONE, seed) for seed in study.seeds] + candidates


def read_records(study: Study, folder: Path) -> list[dict]:
    """The records of all trained supernets.

    Raises:
        FileNotFoundError: one of those that the choice needs is missing; the message says which step makes it.
    """
    for setting, seed in first_runs(study):
        require(supernet_path(folder, setting, seed).with_suffix(".json"), study, "02_supernet")
    every = [supernet_path(folder, s, seed) for s in (NONE, *study.dropout.candidates) for seed in study.seeds]
    return [json.loads(r.read_text()) for path in every if (r := path.with_suffix(".json")).is_file()]


def choose_dropout(study: Study, records: list[dict]) -> Dropout:
    """The candidate with the best mean superclass top-1 on the selection split, over subnets and the first seeds."""
    seeds = study.seeds[: study.dropout.seeds]
    rows = [{"setting": r["setting"], **row} for r in records if r["seed"] in seeds for row in r["accuracy"]]
    mean = pd.DataFrame(rows).groupby("setting").top1.mean()
    return max(study.dropout.candidates, key=lambda setting: mean[setting.name])


def settings_of(study: Study, folder: Path) -> dict[str, Dropout]:
    """The two supernets of the comparison: 'eas' with the chosen superclass dropout, 'ofa' without any."""
    return {"eas": choose_dropout(study, read_records(study, folder)), "ofa": NONE}


def supernet_jobs(study: Study, folder: Path) -> list[tuple[Study, Path, str, Dropout, int]]:
    """Arguments of a job for every supernet of the comparison and every seed."""
    return [(study, folder, name, s, seed) for name, s in settings_of(study, folder).items() for seed in study.seeds]
