"""Specialised networks for one's photographs, side by side with fine-tuning and pruning: reports/grocery.

    python -m benchmarks.grocery data/GroceryStoreDataset/dataset --groups superclasses.yaml

runs `eas check` and `eas train` on the Grocery Store Dataset, nothing edited by hand, and asks for a network for each of
its groups, its folders and some pairs of groups at every budget; then it does, on the same photographs, what an engineer
would do instead. Every result is kept under build/grocery, so that a stopped run goes on; `--render` measures nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import pandas as pd
import torch

from benchmarks import baselines, grocery_page
from eas import data, devices, load_kit
from eas.answers import share_of
from eas.data import Dataset
from eas.data.batches import as_input
from eas.files import write_text
from eas.recipes import Training
from pipeline import own_kit, own_study
from pipeline.params import load_study
from pipeline.store import machine

ROOT = Path(__file__).resolve().parent.parent
WORK, FOLDER = ROOT / "build" / "grocery", ROOT / "reports" / "grocery"
PAIRS = 6  # of groups, evenly spread over all
PRUNED = (0.5, 0.25)  # of the published network's multiply-adds
EPOCHS = {"once": 10, "each": 20, "pruned": 20}  # a group has few steps an epoch
Rows = list[dict]


# -------------------------------------------------------------------- scenarios


def scenarios(dataset: Dataset, folders: dict[str, list[str]]) -> dict[str, tuple[str, list[str]]]:
    """By name: the kind, group, pair or folder, and the names of superclasses and classes."""
    groups = dataset.hierarchy.superclasses
    pairs = list(combinations(groups, 2))
    spread = [pairs[index * (len(pairs) - 1) // (PAIRS - 1)] for index in range(PAIRS)]
    found = {name: ("group", [name]) for name in groups}
    found |= {"+".join(pair): ("pair", list(pair)) for pair in spread}
    return found | {name: ("folder", classes) for name, classes in folders.items()}


def folders_of(dataset: Dataset, train: Path) -> dict[str, list[str]]:
    """The folders right under the one to train on, each with the classes that lie in it at any depth."""
    named = set(dataset.hierarchy.classes)
    tops = sorted(path for path in train.iterdir() if path.is_dir())
    return {top.name: sorted(path.name for path in top.rglob("*") if path.name in named) for top in tops}


def rows_of(dataset: Dataset, names: list[str]) -> list[int]:
    """The classes of a scenario, as indices."""
    return dataset.hierarchy.class_mask(names).nonzero()[:, 0].tolist()


# -------------------------------------------------------------------- methods; each gives rows for a seed


def ours(study: Path, seed: int, every: dict, photos: Path, groups: Path) -> Iterator[tuple[str, Callable[[], Rows]]]:
    """The four commands' work: one job trains, one asks for all networks."""

    def specialise() -> Rows:
        start = time.perf_counter()
        own_kit.train(study)
        minutes, kit, rows = (time.perf_counter() - start) / 60, load_kit(study), []
        for name, (kind, names) in every.items():
            for budget in load_study(study.name, study.parent).scenarios.budgets:
                begin = time.perf_counter()
                network, card = kit.specialize(names, budget * 1e6)
                seconds = time.perf_counter() - begin
                tested = kit.tested(network, card).test
                weights = "branches" if kit.branches_for(kit.hierarchy.class_mask(names)) else "shared"
                rows.append(
                    {"method": "eas", "scenario": name, "kind": kind, "budget_madds": budget * 1e6, "madds": card.madds}
                    | {"parameters": card.parameters, "top1": tested.top1[0], "images": tested.images}
                    | {"seconds": seconds, "minutes_before": minutes, "weights": weights}
                )
        return rows

    yield f"eas-{seed}", specialise


def row(method: str, name: str, kind: str, network, test, budget: float | None, seconds: float) -> dict:
    """What is told of a network of an opponent."""
    with torch.inference_mode():
        said = torch.cat([network(as_input(each)).argmax(1) for each in test.images.split(64)])
    right, example = int((said == test.labels).sum()), test.images[:1].float()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    madds = baselines.madds_of(network, example)
    return (
        {"method": method, "scenario": name, "kind": kind, "budget_madds": budget or madds, "madds": madds}
        | {"parameters": parameters, "top1": share_of(right, len(test))[0], "images": len(test), "seconds": seconds}
        | {"minutes_before": 0.0, "weights": "scenario"}
    )


def opponents(dataset: Dataset, seed: int, every: dict, recipe: Training) -> Iterator[tuple[str, Callable[[], Rows]]]:
    """EfficientNet-Lite0 fine-tuned once, whose outputs are cut; fine-tuned for each scenario; pruned for each group."""
    count, device = len(dataset.hierarchy.classes), devices.device()
    train, test = dataset.train.to(device), dataset.test.to(device)

    def once() -> Rows:
        start = time.perf_counter()
        network = baselines.pretrained_lite(dataset, range(count), ROOT)
        baselines.finetune(network, train, recipe.model_copy(update={"epochs": EPOCHS["once"]}), seed=seed)
        seconds, weight, bias = time.perf_counter() - start, network.classifier.weight, network.classifier.bias
        rows = []
        for name, (kind, names) in every.items():
            classes = rows_of(dataset, names)
            network.classifier = torch.nn.Linear(weight.shape[1], len(classes))
            network.classifier.load_state_dict({"weight": weight[classes].detach(), "bias": bias[classes].detach()})
            some = baselines.of_classes(test, classes, count)
            rows.append(row("finetuned_once", name, kind, network, some, None, 0.0) | {"minutes_before": seconds / 60})
        return rows

    def each(name: str, kind: str, names: list[str]) -> Rows:
        classes, start = rows_of(dataset, names), time.perf_counter()
        own, some = (baselines.of_classes(split, classes, count) for split in (train, test))
        network = baselines.pretrained_lite(dataset, classes, ROOT)
        tuned = recipe.model_copy(update={"epochs": EPOCHS["each"]})
        baselines.finetune(network, own, tuned, seed=seed, label=f"fine-tuning for {name}")
        rows = [row("finetuned_each", name, kind, network, some, None, time.perf_counter() - start)]
        whole = rows[0]["madds"]
        for share in PRUNED if kind == "group" else ():
            tuned = recipe.model_copy(update={"epochs": EPOCHS["pruned"]})
            baselines.prune(network, own, share * whole, seed=seed)
            baselines.finetune(network, own, tuned, seed=seed, label=f"tuning {name}, pruned")
            rows.append(row("pruned", name, kind, network, some, share * whole, time.perf_counter() - start))
        return rows

    yield f"finetuned_once-{seed}", once
    for name, (kind, names) in every.items():
        yield f"finetuned_each-{name}-{seed}", lambda name=name, kind=kind, names=names: each(name, kind, names)


# -------------------------------------------------------------------- running them


def measure(photos: Path, groups: Path, seeds: int) -> pd.DataFrame:
    """Everything, or what of it is not there."""
    devices.keep_memory()
    rows: Rows = []
    for seed in range(seeds):
        study = WORK / f"grocery-{seed}.yaml"
        WORK.mkdir(parents=True, exist_ok=True)
        if not study.is_file():
            own_study.check(photos, groups, to=study, seed=seed)
        workspace = own_kit.open_workspace(str(study))
        dataset = own_kit.images_of(workspace)
        every = scenarios(dataset, folders_of(dataset, photos / "train"))
        recipe = workspace.study.training
        parts = [*ours(study, seed, every, photos, groups), *opponents(dataset, seed, every, recipe)]
        for name, make in parts:
            rows += [{"seed": seed, **each} for each in kept(WORK / "results" / f"{name}.json", make)]
    return pd.DataFrame(rows)


def kept(path: Path, make: Callable[[], Rows]) -> Rows:
    """What is in a file of results; made and written where it is missing."""
    if not path.is_file():
        write_text(path, json.dumps(make(), indent=1) + "\n")
    return json.loads(path.read_text(encoding="utf-8"))


def main(arguments: list[str] | None = None) -> int:
    """The command; an error is one line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grocery", description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path, nargs="?", help="the folder that holds train/, val/ and test/")
    parser.add_argument("--groups", type=Path, help="YAML: lists of classes by superclass")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--render", action="store_true", help="measure nothing, write the page anew")
    options = parser.parse_args(arguments)
    try:
        if not options.render:
            if options.photos is None:
                raise ValueError("name the folder of photographs")
            table = measure(options.photos, options.groups, options.seeds).assign(machine=machine())
            FOLDER.mkdir(parents=True, exist_ok=True)
            table.to_csv(FOLDER / "networks.csv", index=False)
        grocery_page.render(FOLDER)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {FOLDER.relative_to(ROOT)}/README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
