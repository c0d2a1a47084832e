"""From a study in a YAML file of its own to the kit that serves it: `eas train`.

The steps are those of every study, one after the other in this process, which has all processors; each is made once and
goes on where it was stopped.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from eas import data, devices
from eas.data import Dataset
from eas.data.batches import batches
from eas.dropout import SuperclassDropout, soft_targets
from eas.files import write_text
from eas.recipes import NO_DROPOUT
from eas.serving.deploy import in_turn
from eas.serving.kit import Kit
from eas.serving.kit_files import kit_of_study, load_kit
from eas.training import make_step, sandwich
from pipeline import publish, steps
from pipeline.branches import is_alone
from pipeline.expected import expected_jobs
from pipeline.params import is_file
from pipeline.store import Job, Workspace, copy_file, open_workspace
from pipeline.supernets import check_branch_sets, plain_base, seeded_supernet

TIMED = 4  # steps of a training, to tell how long an epoch takes
SUPERNET, BRANCHES = 0.65, 0.2  # of the minutes: what the trainings may take; the rest measures
ONE_OF_SANDWICH = 0.4  # what a branch's step, of one arch, takes of a supernet's step on as many images
MOST_EPOCHS = 150
KIT_IMAGES = 3000  # that a kit takes statistics from
COMPARED = ("02_supernet", "03_generator", "04_comparison")


def train(study: str | Path, *, minutes: float | None = None, compare: bool = False) -> Kit:
    """Train what serves a study's scenarios, write its kit, and return that; goes on with what was begun.

    `study` is a YAML file, as pipeline.own_study.check writes it. `minutes` first sets the file's epochs to what takes
    about so long here, unless the training has begun. With `compare` all other methods are run and measured as well.

    Raises:
        FileNotFoundError: the file, or images, are missing.
        ValueError: the file, or the images, cannot be used; one line.
        eas.training.Diverged: a training came to no numbers; says what to change.
    """
    if not is_file(str(study)):
        raise ValueError(f"{study} is no YAML file of a study: `eas check FOLDER` writes one")
    if minutes is not None and not 0 < minutes < math.inf:
        raise ValueError(f"--minutes {minutes:g}: must be above zero and finite")
    devices.keep_memory()
    workspace = open_workspace(str(study))
    require_sections(workspace, compare)
    dataset = images_of(workspace)
    if minutes and begun(workspace):
        tqdm.write(f"the training has begun with the epochs in {study}: it goes on with these")
    elif minutes:
        set_epochs(Path(study), workspace, dataset, minutes)
        workspace = open_workspace(str(study))
    for name, job in kit_jobs(workspace):
        told = {"label": "supernet"} if name == "supernets" else {}
        steps.make(workspace, name, job, **told)
    write_kit(workspace, kit_of_study(Path(study)))
    if compare:
        for notebook in COMPARED:
            steps.run(workspace, notebook)
    return load_kit(study)


def require_sections(workspace: Workspace, compare: bool) -> None:
    """ValueError, before any work, where the study's file lacks what is asked for."""
    study = workspace.study
    if compare and not study.dropout:
        raise ValueError(f"{study.name} has no section dropout to compare with: `eas check --compare` writes one")
    if study.branches and any(branch.supernet != "plain" for branch in study.branches.candidates):
        raise ValueError(f"{study.name}: branches of a kit begin with the supernet: plain, the one without dropout")
    if study.dropout and not study.branches:
        raise ValueError(f"{study.name}: there is no kit of a section dropout alone: take it out, or add branches")
    check_branch_sets(workspace)


def images_of(workspace: Workspace) -> Dataset:
    """The study's images, read again where there are others than there were."""
    try:
        return workspace.dataset()
    except (FileNotFoundError, ValueError):
        return data.make(workspace.study.data, workspace.root, workspace.dataset_path)[0]


def kit_jobs(workspace: Workspace) -> Iterator[tuple[str, Job]]:
    """Step and job of all that the first seed's kit is made of; the later ones are told when the earlier are done."""
    study = workspace.study
    base = plain_base(study, study.seeds[0])
    yield "supernets", base.job
    yield from ((name, {"base": base}) for name in ("pools", "additive"))
    for branch in study.branches.candidates if study.branches else ():
        yield "branches", {"base": base, "branch": branch}
        if is_alone(branch):  # the archs of such are the trained generator's
            yield "predictors", {"base": base}
    yield "expected", expected_jobs(workspace)[0]


# -------------------------------------------------------------------- as many epochs as there are minutes


def begun(workspace: Workspace) -> bool:
    """Whether the kit's supernet is trained, or in training, on these photographs and by these parameters."""
    result = steps.STEPS["supernets"].result(workspace, plain_base(workspace.study, workspace.study.seeds[0]).job)
    return result.find() is not None or steps.checkpoint_of(workspace, result).is_file()


def set_epochs(path: Path, workspace: Workspace, dataset: Dataset, minutes: float) -> None:
    """Write into a study's file how many epochs the minutes allow, which is estimated from a few steps."""
    study, epoch = workspace.study, seconds_an_epoch(workspace, dataset)
    supernet = min(MOST_EPOCHS, max(1, int(60 * minutes * SUPERNET / epoch)))
    text, told = path.read_text(encoding="utf-8"), f"{supernet} epochs of the supernet"
    if study.branches:
        tuned = min(MOST_EPOCHS, max(1, int(60 * minutes * BRANCHES / (epoch * ONE_OF_SANDWICH))))
        told += f", {tuned} of the branches"
        text = with_epochs(text, "branches", tuned)
        supernet = max(1, supernet - tuned * bool(study.dropout))  # see plain_epochs
    write_text(path, with_epochs(text, "training", supernet))
    tqdm.write(f"{told}: about {minutes:g} minutes here, at {epoch:.3g} seconds an epoch; written into {path}")


def with_epochs(text: str, section: str, epochs: int) -> str:
    """A study's file with other epochs in a section; ValueError where there are none to be found."""
    text, times = re.subn(rf"(?ms)^({section}:.*?\bepochs: *)\d+", rf"\g<1>{epochs}", text, count=1)
    if not times:
        raise ValueError(f"no epochs are found in the section {section}: write `epochs: {epochs}` there yourself")
    return text


def seconds_an_epoch(workspace: Workspace, dataset: Dataset) -> float:
    """What an epoch of the supernet takes on this machine."""
    study, device = workspace.study, devices.device()
    recipe, split = study.training, dataset.train.to(device)
    supernet = seeded_supernet(workspace, dataset, study.seeds[0])
    step, draw = make_step(supernet, recipe), sandwich(supernet.space, recipe, 0)
    classes = SuperclassDropout(dataset.hierarchy.parent.to(device), NO_DROPOUT)
    rng, archs, times = torch.Generator(device).manual_seed(0), torch.Generator().manual_seed(0), []
    start = time.perf_counter()
    for _, (images, labels) in zip(range(TIMED), batches(split, recipe.batch_size, recipe.augment, rng), strict=False):
        mask, weight = classes(labels, rng, 0.0)
        step(images, soft_targets(labels, mask, recipe.label_smoothing), mask, weight, draw(archs)).item()
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
    return min(times) * max(1, len(split) // recipe.batch_size)


# -------------------------------------------------------------------- the kit


def write_kit(workspace: Workspace, folder: Path) -> None:
    """Copy what a kit is made of into a folder of its own, with images to take statistics from and to test on.

    The former are training images, as of the study's own split for that there are few of a superclass.
    """
    dataset = workspace.dataset()
    for result, _ in publish.kit_parts(workspace).values():
        copy_file(result.tensor_path(), folder / f"{result.name}.safetensors")
    images = replace(dataset, calibration=in_turn(dataset.train, max(KIT_IMAGES, len(dataset.hierarchy.classes))))
    publish.write_study_kit(workspace, folder, images, tested=True)
