"""Settings tried on the photographs to validate on: what `eas check` suggests, and how opponents are fine-tuned.

    python -m benchmarks.grocery_trials data/GroceryStoreDataset/dataset --groups superclasses.yaml [TRIAL ...]

trains each trial on the first seed and measures it on the validation photographs of every group, never on test. What
reports/grocery/trials.csv holds is not tried again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import torch
import yaml

from benchmarks import baselines, grocery_page
from benchmarks.grocery import FOLDER, ROOT, SHARES, WORK, Rows, keep
from eas import devices
from eas.data.batches import as_input
from eas.evaluation import calibration_sample, measure_archs, superclass_top1
from eas.files import write_text
from eas.spaces import EfficientNetLiteSpace
from pipeline import own_kit, own_study, steps
from pipeline.generators import load_generator
from pipeline.store import Workspace, open_workspace
from pipeline.supernets import load_supernet, plain_base

TRIALS: dict[str, dict] = {  # by name: what differs from the study that `eas check` suggests
    "suggested": {},
    "expansions-from-2": {"space.expansions": [2.0, 3.0, 4.0, 6.0]},
    "epochs-40": {"training.epochs": 40},
    "rate-0.02": {"training.learning_rate": 0.02},
    "rate-0.1": {"training.learning_rate": 0.1},
    "crop-0.25": {"training.augment.crop": 0.25},
    "distillation-0.8": {"training.distillation": 0.8},
    "two-random": {"training.random_subnets": 2},
    "batch-32": {"training.batch_size": 32},
}
MINIIMAGENET = "from-miniimagenet"  # start (a): this repository's own supernet of photographs
BOTH = "from-both"  # start (b), EfficientNet-Lite0's weights, in a supernet that then learned mini-ImageNet
BOTH_CHANGES = {  # of what `eas check` suggests for mini-ImageNet
    "data.image_size": 96,
    "data.selection": 0.02,
    "data.calibration": 0.02,
    "training.epochs": 3,
    "training.learning_rate": 0.03,
    "scenarios.budgets": [70],
}
BOTH_PHOTOS, BOTH_GROUPS = ROOT / "data" / "mini-imagenet", ROOT / "pipeline" / "superclasses" / "miniimagenet.yaml"
ONCE, EACH = "finetuned-once-", "finetuned-each-"  # a learning rate follows, and images a step where they are fewer
RATES, BATCH, BATCHES = (0.005, 0.02, 0.05, 0.1), "-batch-", (16, 32)
EPOCHS = {ONCE: 10, EACH: 20}  # of the first, half of what the best rate then gets


def names() -> list[str]:
    """All trials."""
    sizes = ("", *(f"{BATCH}{size}" for size in BATCHES))
    finetuned = [f"{how}{rate:g}{size}" for how, size, rate in product(EPOCHS, sizes, RATES)]
    return [*TRIALS, *STARTS, *finetuned]


# -------------------------------------------------------------------- one trial


def study_of(name: str, photos: Path, groups: Path | None) -> Path:
    """The file of a trial's study: the suggested one, with what differs."""
    path = WORK / "trials" / f"{name}.yaml"
    if not path.is_file():
        changes = STARTS[name]() if name in STARTS else TRIALS.get(name, {})
        path.parent.mkdir(parents=True, exist_ok=True)
        own_study.check(photos, groups, to=path)
        change(path, changes)
    return path


def change(path: Path, changes: dict) -> None:
    """Other values in a study's file, by their names with dots."""
    study = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = study
        for section in sections:
            place = place[section]
        place[last] = value
    write_text(path, yaml.safe_dump(study))


def from_miniimagenet() -> dict:
    """Space, size of images and weights of the study miniimagenet; FileNotFoundError where it has not been trained."""
    workspace = open_workspace("miniimagenet")
    result, _ = steps.find(workspace, "supernets", **plain_base(workspace.study, 0).job)
    start = {"weights": str(result.tensor_path().absolute()), "sort_channels": False}
    space = workspace.study.space.model_dump(mode="json", exclude_defaults=True) | {"kind": workspace.study.space.kind}
    size, budgets = workspace.study.data.image_size, list(workspace.study.scenarios.budgets)
    return {"space": space, "data.image_size": size, "training.start": start, "scenarios.budgets": budgets}


def from_both() -> dict:
    """Weights of EfficientNet-Lite0's supernet that was first trained on mini-ImageNet for three epochs.

    Small archs are then networks of photographs already when they meet the few of a shop.
    """
    path = WORK / "both.yaml"
    if not path.is_file():
        WORK.mkdir(parents=True, exist_ok=True)
        own_study.check(BOTH_PHOTOS, BOTH_GROUPS, to=path)
        change(path, BOTH_CHANGES | {"data.test": own_study.relative(BOTH_PHOTOS / "val", WORK)})
    workspace = open_workspace(str(path))
    own_kit.images_of(workspace)
    job = plain_base(workspace.study, 0).job
    steps.make(workspace, "supernets", job)
    weights = steps.find(workspace, "supernets", **job)[0].tensor_path()
    return {"training.start": {"weights": str(weights.absolute()), "sort_channels": False}}


STARTS = {MINIIMAGENET: from_miniimagenet, BOTH: from_both}


def supernet_rows(workspace: Workspace) -> Rows:
    """Top-1 of shared weights on the validation photographs of every group, at every budget that the space reaches."""
    start, dataset = time.perf_counter(), own_kit.images_of(workspace).to(devices.device())
    base = plain_base(workspace.study, workspace.study.seeds[0])
    for name, job in own_kit.kit_jobs(workspace):
        if name not in ("supernets", "pools", "additive"):
            break
        steps.make(workspace, name, job)
    minutes = (time.perf_counter() - start) / 60
    supernet = load_supernet(workspace, dataset, base)
    generator = load_generator(workspace, dataset, base, "generator_additive")
    calibration = calibration_sample(dataset.calibration, workspace.study.evaluation.calibration_images)
    whole, rows = EfficientNetLiteSpace(workspace.study.data.image_size, 3), []
    for group, share in product(dataset.hierarchy.superclasses, SHARES):
        mask = dataset.hierarchy.class_mask([group])
        budget = share * whole.madds(whole.largest, mask.sum()).double()
        smallest = supernet.space.madds(supernet.space.smallest, mask.sum())
        if budget < smallest:
            continue
        arch = generator.generate(mask[None], budget[None])
        top1 = measure_archs(supernet, arch, mask[None], calibration, dataset.selection).item()
        rows.append({"group": group, "share": share, "top1": top1, "minutes": minutes})
    return rows


def finetuned_rows(workspace: Workspace, classes: list[int], changes: dict) -> Rows:
    """Top-1 of EfficientNet-Lite0, fine-tuned for the classes of some groups, on the validation photographs of each."""
    dataset = own_kit.images_of(workspace).to(devices.device())
    recipe = workspace.study.training.model_copy(update=changes)
    start, network = time.perf_counter(), baselines.pretrained_lite(dataset, classes, seed=0)
    count = len(dataset.hierarchy.classes)
    train, chosen = (baselines.of_classes(each, classes, count) for each in (dataset.train, dataset.selection))
    baselines.finetune(network, train, recipe, seed=0)
    minutes, rows = (time.perf_counter() - start) / 60, []
    with torch.inference_mode():
        logits = torch.cat([network(as_input(images)) for images in chosen.images.split(64)])
    for name in dataset.hierarchy.superclasses:
        mask = dataset.hierarchy.class_mask([name])[classes]
        if mask.any():
            (top1,) = superclass_top1(logits, chosen.labels, mask[None]).tolist()
            rows.append({"group": name, "share": 1.0, "top1": top1, "minutes": minutes})
    return rows


# -------------------------------------------------------------------- all of them


def parts_of(name: str, photos: Path, groups: Path | None) -> list[tuple[dict, Callable[[], Rows]]]:
    """What a trial is made of, each kept as soon as it is there: columns of the table, and what makes their rows."""
    workspace = open_workspace(str(study_of(name, photos, groups)))
    how = next((how for how in EPOCHS if name.startswith(how)), None)
    if how is None:
        return [({"trial": name}, partial(supernet_rows, workspace))]
    hierarchy = workspace.study.data.hierarchy(workspace.root)
    rate, _, batch = name.removeprefix(how).partition(BATCH)
    changes = {"epochs": EPOCHS[how], "learning_rate": float(rate)} | ({"batch_size": int(batch)} if batch else {})
    finetuned = partial(finetuned_rows, workspace, changes=changes)
    if how == ONCE:
        return [({"trial": name}, partial(finetuned, list(range(len(hierarchy.classes)))))]
    own = {group: hierarchy.class_mask([group]).nonzero()[:, 0].tolist() for group in hierarchy.superclasses}
    return [({"trial": name, "group": group}, partial(finetuned, classes)) for group, classes in own.items()]


def main(arguments: list[str] | None = None) -> int:
    """The command; an error is one line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grocery_trials", description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path, help="the folder that holds train/, val/ and test/")
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=f"of {', '.join(names())}; all by default")
    parser.add_argument("--groups", type=Path, help="YAML: lists of classes by superclass")
    options = parser.parse_intermixed_args(arguments)  # trials may come behind --groups
    try:
        if unknown := [name for name in options.trials if name not in names()]:
            raise ValueError(f"no trial {unknown[0]}: there are {', '.join(names())}")
        devices.keep_memory()
        for name in options.trials or names():
            for part, make in parts_of(name, options.photos, options.groups):
                rows = keep(FOLDER / "trials.csv", part, make)
            print(grocery_page.trials_table(rows).to_string(index=False), flush=True)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
