"""Weights beyond the shared supernet: a branch for every superclass; single archs tuned, or trained from scratch.

Files, under a study's folder:
    supernets/branches/<branch>-<seed>.safetensors + .json   weights of every superclass's branch; their accuracy on the
                                                             selection split
    supernets/branches/<dropout>/<branch>-<seed>...          the same, tuned from another supernet
    supernets/low_rank/<branch>-<seed>-<rank>.safetensors + .json   accuracy of branches stored as low-rank differences
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from eas import data, evaluation, jobs
from eas.config import Branch, Dropout, Study
from eas.data import Dataset
from eas.dropout import KeptClasses
from eas.records import Result
from eas.study import (
    NONE,
    dropout_of,
    load_supernet,
    load_teacher,
    measured_archs,
    new_supernet,
    require,
    settings_of,
    supernet_path,
    train_supernet,
    untrained,
)
from eas.supernet import Supernet
from eas.training import Network, step_function, train

# -------------------------------------------------------------------- superclass branches


def branches_path(folder: Path, branch: Branch, seed: int, other: Dropout | None = None) -> Path:
    """Of branches of the study's supernet, or of an `other` one."""
    return folder / "supernets" / "branches" / (other.name if other else "") / f"{branch.name}-{seed}.safetensors"


def train_branches(
    study: Study, folder: Path, setting: Dropout, branch: Branch, seed: int, *, other: bool = False
) -> dict:
    """Tune the shared supernet on every superclass's own images in turn; returns the record (accuracy).

    The supernet is that of a setting of superclass dropout, the study's own or an `other` one. All branches go into one
    file: the tensors that were tuned, as bfloat16, under '<superclass's index>.<name>'. Source: ours.
    """
    key = branch_key(study, setting, branch, seed)
    result = Result(folder, branches_path(folder, branch, seed, setting if other else None), key)
    if record := result.finished():
        return record
    dataset = data.load(study, folder / "dataset.safetensors").to(jobs.device())
    supernet = load_supernet(study, dataset, supernet_path(folder, setting, seed))
    tuned = set(begin_tuning(supernet, branch.part))
    shared = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    recipe = {"epochs": study.branches.epochs, "batch_size": branch.batch_size or study.branches.batch_size}
    recipe = study.training.model_copy(update=recipe | {"learning_rate": branch.learning_rate})
    compute = step_function(supernet, recipe)
    options = {"seed": seed, "compute": compute, "teacher": load_teacher(study, folder, dataset, seed)}
    checkpoints = result.resume.with_suffix(f".{key}")
    uninterrupted, branches, start = not checkpoints.is_dir(), {}, time.perf_counter()
    for index, name in enumerate(dataset.hierarchy.superclasses):
        kept = dataset.hierarchy.kept([name])
        supernet.load_state_dict(shared)
        where = {"checkpoint": checkpoints / str(index), "label": name}
        train(supernet, dataset.train.only(kept), KeptClasses(kept.to(jobs.device())), recipe, **where, **options)
        branches |= {f"{index}.{n}": t.bfloat16() for n, t in supernet.state_dict().items() if n in tuned}
    if uninterrupted:  # else a part of the time is not known
        result.timed({"seconds": time.perf_counter() - start, "images": len(dataset.train) * recipe.epochs})
    supernet.load_state_dict(shared)
    supernet.requires_grad_(False)
    content = {"branch": branch.name, "seed": seed, "values": sum(tensor.numel() for tensor in branches.values())}
    content["accuracy"] = branch_accuracy(supernet, branches, dataset)
    record = result.write(branches, content, resumable=True)
    shutil.rmtree(checkpoints)
    return record


def branch_key(study: Study, setting: Dropout, branch: Branch, seed: int) -> str:
    """What a branch depends on, whatever else is tried."""
    alone = study.model_copy(update={"branches": study.branches.only(branch)})
    key = alone.key("data", "space", "training", "branches", "evaluation")
    return f"{key}-{setting.name}-{branch.name}-{seed}"


def begin_tuning(supernet: Supernet, part: str) -> list[str]:
    """Let gradients flow to a part of the supernet only; returns the names of its parameters."""
    chosen = {
        "all": lambda name, parameter: True,
        "norms": lambda name, parameter: parameter.ndim == 1 or name.startswith("classifier"),
        "classifier": lambda name, parameter: name.startswith("classifier"),
    }[part]
    for name, parameter in supernet.named_parameters():
        parameter.requires_grad_(chosen(name, parameter))
    return [name for name, parameter in supernet.named_parameters() if parameter.requires_grad]


def load_branch(supernet: Supernet, branches: Path | dict[str, Tensor], superclass: int) -> Supernet:
    """Put one superclass's branch into `supernet`, in place; what was not tuned must be the shared weights already."""
    prefix = f"{superclass}."
    if isinstance(branches, Path):
        with safe_open(branches, "pt") as file:
            branches = {n: file.get_tensor(n) for n in file.keys() if n.startswith(prefix)}  # noqa: SIM118 (not a dict)
    state = {name.removeprefix(prefix): tensor for name, tensor in branches.items() if name.startswith(prefix)}
    supernet.load_state_dict(state, strict=False)
    return supernet


def branch_accuracy(supernet: Supernet, branches: Path | dict[str, Tensor], dataset: Dataset) -> list[dict]:
    """Calibrated accuracy of the largest, the smallest and some random subnets with their superclass's branch.

    On the selection split, mean over superclasses; the subnets are those of the shared weights' records.
    """
    hierarchy, (names, archs) = dataset.hierarchy, measured_archs(supernet.space)
    top1 = torch.zeros(len(archs), len(hierarchy.superclasses))
    for index, name in enumerate(hierarchy.superclasses):
        kept = hierarchy.kept([name])
        load_branch(supernet, branches, index)
        own, images = dataset.train.only(kept), dataset.selection.only(kept)
        begun = evaluation.Begun(supernet, archs, own, images)
        for row, arch in enumerate(archs):
            top1[row, index] = evaluation.superclass_top1(begun.logits(arch), images.labels, kept[None])[0]
    return [{"subnet": name, "top1": mean} for name, mean in zip(names, top1.mean(1).tolist(), strict=True)]


def measure_low_rank(study: Study, folder: Path, setting: Dropout, branch: Branch, seed: int, rank: int) -> dict:
    """Measure branches that are stored as low-rank differences to the shared weights; returns the record."""
    path = folder / "supernets" / "low_rank" / f"{branch.name}-{seed}-{rank}.safetensors"
    result = Result(folder, path, f"{branch_key(study, setting, branch, seed)}-{rank}")
    if record := result.finished():
        return record
    dataset = data.load(study, folder / "dataset.safetensors").to(jobs.device())
    supernet = load_supernet(study, dataset, supernet_path(folder, setting, seed))
    branches = load_file(require(branches_path(folder, branch, seed), study, "02_supernet"))
    approximate, values = low_rank(supernet, {n: t.to(jobs.device()) for n, t in branches.items()}, rank)
    rows = branch_accuracy(supernet, approximate, dataset)
    top1 = torch.tensor([row["top1"] for row in rows])
    content = {"branch": branch.name, "seed": seed, "rank": rank, "values": values, "top1": top1.mean().item()}
    return result.write({"top1": top1}, content, resumable=True)


def low_rank(supernet: Supernet, branches: dict[str, Tensor], rank: int) -> tuple[dict[str, Tensor], int]:
    """Branches with each tensor's difference to the shared one cut to a rank, and how many values these take.

    A tensor that takes fewer values as it is stays as it is.
    """
    shared, approximate, values = supernet.state_dict(), {}, 0
    for name, tensor in branches.items():
        base = shared[name.partition(".")[2]]
        difference = (tensor.to(base) - base).flatten(1) if base.ndim > 1 else None
        if difference is None or rank * sum(difference.shape) >= difference.numel():
            approximate[name], values = tensor, values + tensor.numel()
            continue
        u, s, v = torch.linalg.svd(difference, full_matrices=False)
        approximate[name] = base + ((u[:, :rank] * s[:rank]) @ v[:rank]).view_as(base)
        values += rank * sum(difference.shape)
    return approximate, values


def run_branches(study: Study, folder: Path) -> list[dict]:
    """Every candidate on the first seeds, then the chosen one on the others, where the study has branches.

    With them training is over: only here is deleted what a killed stage would find again, the supernets included.
    """
    if study.branches:
        setting = settings_of(study, folder)["eas"]
        first = [(study, folder, setting, branch, seed) for branch, seed in first_branches(study)]
        jobs.run(train_branches, first, "superclass branches")
        chosen = choose_branch(study, folder)
        rest = [(study, folder, setting, chosen, seed) for seed in study.seeds[study.branches.seeds :]]
        jobs.run(train_branches, rest, f"superclass branches, chosen: {chosen.name}")
        jobs.run(measure_low_rank, low_rank_jobs(study, folder, setting), "low-rank branches")
        jobs.run(train_other_branches, other_jobs(study, folder), "branches of other supernets")
    shutil.rmtree(folder / "resume", ignore_errors=True)
    return read_branches(study, folder)


def low_rank_jobs(study: Study, folder: Path, setting: Dropout) -> list[tuple]:
    """Arguments of `measure_low_rank` for the chosen branch of the first seeds."""
    chosen, seeds = choose_branch(study, folder), study.seeds[: study.branches.seeds]
    return [(study, folder, setting, chosen, seed, rank) for seed in seeds for rank in study.branches.ranks]


def read_low_rank(study: Study, folder: Path) -> pd.DataFrame:
    """Columns branch, seed, rank, values, top1: the records of `measure_low_rank`, and of the whole branch above."""
    rows = []
    for _, _, _, branch, seed, rank in low_rank_jobs(study, folder, NONE) if study.branches else []:
        whole = json.loads(branches_path(folder, branch, seed).with_suffix(".json").read_text())
        path = folder / "supernets" / "low_rank" / f"{branch.name}-{seed}-{rank}.json"
        every = sum(row["top1"] for row in whole["accuracy"]) / len(whole["accuracy"])
        rows += [whole | {"rank": "all", "top1": every}, json.loads(require(path, study, "02_supernet").read_text())]
    columns = ["branch", "seed", "rank", "values", "top1"]
    return pd.DataFrame(rows, columns=columns).drop_duplicates(["branch", "seed", "rank"])


def other_jobs(study: Study, folder: Path) -> list[tuple]:
    """Arguments of `train_other_branches`: the chosen branch, settings of dropout but the study's own."""
    if not (study.branches and study.branches.dropouts):
        return []
    own, branch = settings_of(study, folder)["eas"], choose_branch(study, folder)
    others = [setting for setting in study.branches.dropouts if setting != own]
    seeds = study.seeds[: study.branches.dropout_seeds]
    return [(study, folder, setting, branch, seed) for setting in others for seed in seeds]


def train_other_branches(study: Study, folder: Path, setting: Dropout, branch: Branch, seed: int) -> dict:
    """Train a supernet with another setting of superclass dropout, as long as the study's, and tune its branches."""
    train_supernet(study, folder, setting, seed)
    return train_branches(study, folder, setting, branch, seed, other=True)


def read_other_branches(study: Study, folder: Path) -> pd.DataFrame:
    """Columns setting, seed, shared, branches: mean top-1 of the measured subnets, with shared weights and branches.

    The study's own setting of superclass dropout comes first, on the same seeds; selection split. Empty in a study that
    tunes no others.
    """
    rows, others = [], [(setting, branch, seed, setting) for _, _, setting, branch, seed in other_jobs(study, folder)]
    if others:
        own, branch = settings_of(study, folder)["eas"], choose_branch(study, folder)
        seeds = study.seeds[: study.branches.dropout_seeds]
        others = [(own, branch, seed, None) for seed in seeds] + others
    for setting, branch, seed, other in others:
        paths = supernet_path(folder, setting, seed), branches_path(folder, branch, seed, other)
        records = [require(path.with_suffix(".json"), study, "02_supernet").read_text() for path in paths]
        means = [pd.DataFrame(json.loads(record)["accuracy"]).top1.mean() for record in records]
        rows.append((setting.name, seed, *means))
    return pd.DataFrame(rows, columns=["setting", "seed", "shared", "branches"])


def first_branches(study: Study) -> list[tuple[Branch, int]]:
    """What is trained before the choice of the branch."""
    return [(b, seed) for seed in study.seeds[: study.branches.seeds] for b in study.branches.candidates]


def read_branches(study: Study, folder: Path) -> list[dict]:
    """The records of all branches; none in a study without.

    Raises:
        FileNotFoundError: one of those that the choice needs is missing; the message says which step makes it.
    """
    if not study.branches:
        return []
    for branch, seed in first_branches(study):
        require(branches_path(folder, branch, seed).with_suffix(".json"), study, "02_supernet")
    every = [branches_path(folder, b, seed) for b in study.branches.candidates for seed in study.seeds]
    return [json.loads(r.read_text()) for path in every if (r := path.with_suffix(".json")).is_file()]


def choose_branch(study: Study, folder: Path) -> Branch:
    """The candidate with the best mean superclass top-1 on the selection split, over subnets and the first seeds."""
    seeds = study.seeds[: study.branches.seeds]
    records = [record for record in read_branches(study, folder) if record["seed"] in seeds]
    rows = [{"branch": r["branch"], "top1": row["top1"]} for r in records for row in r["accuracy"]]
    mean = pd.DataFrame(rows).groupby("branch").top1.mean()
    return max(study.branches.candidates, key=lambda branch: mean[branch.name])


def branch_table(branches: Sequence[dict], supernets: Sequence[dict], setting: Dropout) -> pd.DataFrame:
    """Mean superclass top-1 of the branches' subnets by candidate, below the shared weights' (selection split).

    Columns weights, stored (million values), largest, random, smallest: over the seeds that have all candidates, so
    that rows differ by nothing else.
    """
    of_candidate = [{r["seed"] for r in branches if r["branch"] == name} for name in {r["branch"] for r in branches}]
    seeds = set.intersection(*of_candidate) if of_candidate else set()
    shared = [r | {"weights": "shared"} for r in supernets if r["setting"] == setting.name and r["seed"] in seeds]
    rows = [
        {"weights": r.get("weights", r.get("branch")), "stored": r.get("values", 0) / 1e6} | row
        for r in (*shared, *(r for r in branches if r["seed"] in seeds))
        for row in r["accuracy"]
    ]
    table = pd.DataFrame(rows, columns=["weights", "stored", "subnet", "top1"])
    return table.pivot_table("top1", ["weights", "stored"], "subnet", sort=False).reset_index()


# -------------------------------------------------------------------- single archs


def tune_archs(
    study: Study, supernet: Supernet, dataset: Dataset, archs: Tensor, kept: Tensor, seed: int, teacher: Network | None
) -> Iterator[tuple[int, Supernet]]:
    """For each arch in turn, the supernet tuned for it alone on the images of its classes; yields (index, supernet).

    `archs` int64 [n, decisions], `kept` bool [n, classes]. The weights that are yielded change with the next one.
    """
    shared = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    recipe = study.training.model_copy(update=study.finetune.model_dump(exclude={"seeds"}))
    begin_tuning(supernet, "all")
    options = {"seed": seed, "compute": step_function(supernet, recipe), "teacher": teacher}
    for index, (arch, classes) in enumerate(zip(archs, kept, strict=True)):
        supernet.load_state_dict(shared)
        own, dropout = dataset.train.only(classes), KeptClasses(classes.to(jobs.device()))
        train(supernet, own, dropout, recipe, label=f"arch {index}", arch=arch, **options)
        yield index, supernet
    supernet.load_state_dict(shared)
    supernet.requires_grad_(False)


def train_alone(study: Study, dataset: Dataset, arch: Tensor, seed: int, teacher: Network | None) -> Supernet:
    """One arch trained from scratch, on all classes, for as many images as the supernet `ofa`; frozen afterwards."""
    supernet = untrained(new_supernet, study, dataset, seed)
    options = {"seed": seed, "arch": arch, "teacher": teacher}
    train(supernet, dataset.train, dropout_of(dataset, NONE), study.longer, label="from scratch", **options)
    return supernet.requires_grad_(False)
