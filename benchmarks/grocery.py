"""Specialised networks for one's photographs, side by side with fine-tuning and pruning: reports/grocery.

    python -m benchmarks.grocery data/GroceryStoreDataset/dataset --groups superclasses.yaml

runs `eas check` and `eas train` on the Grocery Store Dataset, nothing edited by hand, and asks for a network for each
of its groups, its folders and some pairs of groups at every budget; then it does, on the same photographs, what an
engineer would do instead for the groups. What networks.csv holds is not measured again: a stopped run goes on, here or
on another machine. `--methods` takes some of the methods only, so that each processor can have its own. `--render`
measures nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations, product
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock
from torch import nn

from benchmarks import baselines, grocery_page
from eas import devices
from eas.data import Dataset, Split
from eas.data.batches import as_input
from eas.files import write_text
from eas.recipes import Training
from eas.serving.answers import share_of
from eas.spaces import EfficientNetLiteSpace
from pipeline import own_kit, own_study, steps
from pipeline.store import Workspace, machine, open_workspace

ROOT = Path(__file__).resolve().parent.parent
WORK, FOLDER = ROOT / "build" / "grocery", ROOT / "reports" / "grocery"
PAIRS = 6  # of groups, evenly spread over all
SHARES = (1.0, 0.75, 0.5, 0.35, 0.25)  # budgets: of the multiply-adds of the published network at this image size
PRUNED = (0.5, 0.25)  # the budgets of pruning, likewise
# How opponents differ from the study's recipe: as many epochs as the kit's supernet has, also after each pruning; the
# best learning rates of those tried, and few images a step where there are few photographs: see grocery_trials.
ONCE = {"epochs": 20, "learning_rate": 0.05}
EACH = {"epochs": 20, "learning_rate": 0.02, "batch_size": 16}
METHODS = ("eas", "finetuned_once", "finetuned_each")
Rows = list[dict]
Scenarios = dict[str, tuple[str, list[str]]]  # by name: kind, and the names of superclasses and classes


# -------------------------------------------------------------------- scenarios


def scenarios(dataset: Dataset, folders: dict[str, list[str]]) -> Scenarios:
    """Every group, some pairs of groups, and the folders that are no group."""
    groups = dataset.hierarchy.superclasses
    pairs = list(combinations(groups, 2))
    spread = [pairs[index * (len(pairs) - 1) // (PAIRS - 1)] for index in range(PAIRS) if pairs]
    found = {name: ("group", [name]) for name in groups} | {"+".join(pair): ("pair", list(pair)) for pair in spread}
    return found | {name: ("folder", classes) for name, classes in folders.items() if name not in found}


def folders_of(dataset: Dataset, train: Path) -> dict[str, list[str]]:
    """The folders right under the one to train on, each with the classes that lie in it at any depth."""
    named = set(dataset.hierarchy.classes)
    tops = sorted(path for path in train.iterdir() if path.is_dir())
    return {top.name: sorted(path.name for path in top.rglob("*") if path.name in named) for top in tops}


def classes_of(dataset: Dataset, names: list[str]) -> list[int]:
    """The classes of a scenario, as indices."""
    return dataset.hierarchy.class_mask(names).nonzero()[:, 0].tolist()


# -------------------------------------------------------------------- methods; each gives rows


def ours(study: Path, every: Scenarios) -> Rows:
    """`eas train`, then a network for every scenario at every budget."""
    kit = own_kit.train(study)
    minutes, rows = minutes_of(open_workspace(str(study))), []
    whole = EfficientNetLiteSpace(kit.supernet.space.image_size, 3)
    for (name, (kind, names)), share in product(every.items(), SHARES):
        mask, start = kit.hierarchy.class_mask(names), time.perf_counter()
        budget = share * float(whole.madds(whole.largest, mask.sum()))
        network, card = kit.specialize(names, budget)
        seconds, tested = time.perf_counter() - start, kit.tested(network, card).test
        rows.append(
            {"method": "eas", "scenario": name, "kind": kind, "share": share, "madds": card.madds}
            | {"parameters": card.parameters, "top1": tested.top1[0], "images": tested.images, "seconds": seconds}
            | {"minutes_before": minutes, "weights": "branches" if kit.branches_for(mask) else "shared"}
        )
    return rows


def minutes_of(workspace: Workspace) -> float:
    """Minutes that the trainings and measurements of a kit took; NaN where one was stopped and went on."""
    records = [steps.STEPS[name].result(workspace, job).find() for name, job in own_kit.kit_jobs(workspace)]
    return sum(float("nan") if record["seconds"] is None else record["seconds"] for record in records) / 60


def row(method: str, name: str, kind: str, network: nn.Module, test: Split, share: float, seconds: float) -> dict:
    """What is told of a network of an opponent, made in so many seconds for this scenario alone."""
    with torch.inference_mode():
        said = torch.cat([network(as_input(each)).argmax(1) for each in test.images.split(64)])
    right, madds = int((said == test.labels).sum()), baselines.madds_of(network, test.images[:1].float())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return (
        {"method": method, "scenario": name, "kind": kind, "share": share, "madds": madds, "parameters": parameters}
        | {"top1": share_of(right, len(test))[0], "images": len(test), "seconds": seconds}
        | {"minutes_before": 0.0, "weights": "scenario"}
    )


def finetuned_once(dataset: Dataset, seed: int, every: Scenarios, recipe: Training) -> Rows:
    """EfficientNet-Lite0 fine-tuned for all classes; a scenario takes its outputs."""
    start, count = time.perf_counter(), len(dataset.hierarchy.classes)
    network = baselines.pretrained_lite(dataset, range(count), seed=seed)
    baselines.finetune(network, dataset.train, recipe.model_copy(update=ONCE), seed=seed)
    minutes, weights, rows = (time.perf_counter() - start) / 60, network.classifier.state_dict(), []
    for name, (kind, names) in every.items():
        classes = classes_of(dataset, names)
        network.classifier = nn.Linear(network.classifier.in_features, len(classes)).to(devices.device())
        network.classifier.load_state_dict({each: tensor[classes] for each, tensor in weights.items()})
        own = baselines.of_classes(dataset.test, classes, count)
        rows.append(row("finetuned_once", name, kind, network, own, 1.0, 0.0) | {"minutes_before": minutes})
    return rows


def finetuned_each(dataset: Dataset, seed: int, name: str, recipe: Training) -> Rows:
    """EfficientNet-Lite0 fine-tuned for a group; also pruned, a first and a second time, and tuned."""
    count, start, classes = len(dataset.hierarchy.classes), time.perf_counter(), classes_of(dataset, [name])
    recipe = recipe.model_copy(update=EACH)
    train, test = (baselines.of_classes(split, classes, count) for split in (dataset.train, dataset.test))
    network = baselines.pretrained_lite(dataset, classes, seed=seed)
    baselines.finetune(network, train, recipe, seed=seed, label=f"fine-tuning for {name}")
    rows = [row("finetuned_each", name, "group", network, test, 1.0, time.perf_counter() - start)]
    for share in PRUNED:
        baselines.prune(network, train, share * rows[0]["madds"], seed=seed)
        baselines.finetune(network, train, recipe, seed=seed, label=f"tuning {name}, pruned")
        rows.append(row("pruned", name, "group", network, test, share, time.perf_counter() - start))
    return rows


# -------------------------------------------------------------------- running them


def measure(photos: Path, groups: Path | None, seeds: int, methods: Sequence[str]) -> None:
    """Everything, or what of it networks.csv lacks, which holds what there is after every part."""
    devices.keep_memory()
    for seed in range(seeds):
        study = WORK / f"grocery-{seed}.yaml"
        WORK.mkdir(parents=True, exist_ok=True)
        if not study.is_file():
            own_study.check(photos, groups, to=study, seed=seed)
        workspace = open_workspace(str(study))
        dataset = own_kit.images_of(workspace)
        every = scenarios(dataset, folders_of(dataset, photos / "train"))
        if not seed:
            grocery_page.save_photographs(dataset, FOLDER)
        given, recipe = (dataset.to(devices.device()), seed), workspace.study.training
        parts = {"eas": partial(ours, study, every), "finetuned_once": partial(finetuned_once, *given, every, recipe)}
        for name in dataset.hierarchy.superclasses:
            parts[f"finetuned_each {name}"] = partial(finetuned_each, *given, name, recipe)
        for name, make in parts.items():
            if name.split()[0] in methods:
                keep(FOLDER / "networks.csv", {"seed": seed, "part": name}, make)


def keep(path: Path, part: dict, make: Callable[[], Rows]) -> pd.DataFrame:
    """A table of results; the rows of a part are made and added where it has none, other runs may add to it meanwhile.

    A part is columns and their values; rows also tell the machine that they were made on.
    """
    locks = WORK / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / "-".join([path.stem, *map(str, part.values())])):
        if not has(read(path), part):
            rows = pd.DataFrame(make()).assign(machine=machine())
            told = pd.DataFrame({name: [value] * len(rows) for name, value in part.items()})
            rows = pd.concat([told, rows.drop(columns=[*part], errors="ignore")], axis=1)
            with FileLock(locks / path.stem):
                text = pd.concat([read(path), rows]).to_csv(index=False, float_format="%.6g")
                write_text(path, text)
    return read(path)


def has(table: pd.DataFrame, part: dict) -> bool:
    """Whether a table holds rows of a part."""
    return not table.empty and bool((table[list(part)] == pd.Series(part)).all(axis=1).any())


def read(path: Path) -> pd.DataFrame:
    """A table of results; empty where there is none."""
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()


def main(arguments: list[str] | None = None) -> int:
    """The command; an error is one line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grocery", description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path, nargs="?", help="the folder that holds train/, val/ and test/")
    parser.add_argument("--groups", type=Path, help="YAML: lists of classes by superclass")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="all by default")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the page anew")
    options = parser.parse_args(arguments)
    try:
        if not options.render:
            if options.photos is None:
                raise ValueError("name the folder of photographs")
            measure(options.photos, options.groups, options.seeds, options.methods)
        grocery_page.render(FOLDER)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {FOLDER.relative_to(ROOT)}/README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
