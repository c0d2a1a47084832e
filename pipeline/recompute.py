"""Recompute a study's accuracies from its published kit, on the test images.

python -m pipeline.recompute cifar100                      with branches, for every superclass at every budget
python -m pipeline.recompute cifar100 --shared --count 2   with the shared weights, two scenarios
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from eas import data, devices
from eas.additive import AdditiveGenerator
from eas.branches import BRANCH_IMAGES
from eas.data import Hierarchy, Split
from eas.data.batches import as_input
from eas.evaluation import batch_size, calibration_sample
from eas.serving.deploy import Card
from eas.serving.kit_files import load_kit
from eas.spaces.supernet import resized
from pipeline.params import Study, load_study
from pipeline.report.inputs import read_comparison
from pipeline.report.stats import side_of
from pipeline.scenarios import evenly_spaced

LARGEST, MEAN = 1.5, 0.15  # points that one scenario, and their mean, may differ: machines round differently


def recompute(study: Study, root: str | Path, *, shared: bool = False, count: int | None = None) -> pd.DataFrame:
    """Specialise scenarios anew and measure them: columns scenario, budget_madds, reported, recomputed.

    The weights are the kit under weights/<study>/ (the first seed), the reported numbers those of
    reports/<study>/comparison.csv, with the kit's branches or, `shared`, without; `count` superclasses, spread over
    superclasses and budgets, or all.

    Raises:
        FileNotFoundError: weights, report or test images are missing; the message says how to get them.
        ValueError: the report has no such rows.
    """
    if count is not None and count < 1:
        raise ValueError(f"--count {count}: must be 1 or more")
    report = read_report(study, Path(root))
    kit, (dataset, _) = load_kit(Path(root) / "weights" / study.name), data.build(study.data, root)
    composed = isinstance(kit.generator, AdditiveGenerator)  # see pipeline.branches.branch_method
    own, same = ("generator_composed", "generator_additive") if composed else ("generator_branch", "generator")
    rows = reported(report, own, same if shared else own)
    rows = rows if count is None else rows.iloc[evenly_spaced(count, len(rows))]
    # Fewer images, and others, do for a kit; here they are those of the study.
    sample = calibration_sample(dataset.calibration, study.evaluation.calibration_images)
    images = {"calibration": sample, "branch_images": dataset.train, "calibrated": max(len(sample), BRANCH_IMAGES)}
    kit = dataclasses.replace(kit, branches=None if shared else kit.branches, **images)
    top1 = []
    for row in tqdm(rows.itertuples(), rows.method.iloc[0], len(rows)):
        network, card = kit.specialize([row.scenario], row.budget_madds)
        top1.append(superclass_top1(network, card, dataset.hierarchy, dataset.test))
    table = rows[["scenario", "budget_madds", "top1"]].rename(columns={"top1": "reported"})
    return table.assign(recomputed=top1).reset_index(drop=True)


def superclass_top1(network: nn.Module, card: Card, hierarchy: Hierarchy, split: Split) -> float:
    """Superclass top-1 of a specialised network in percent, on the images of its classes."""
    chosen = split.only(hierarchy.class_mask(card.classes))
    rows = torch.tensor([hierarchy.classes.index(name) for name in card.classes])
    with torch.inference_mode():
        pieces = (resized(as_input(images), card.image_size) for images in chosen.images.split(batch_size(chosen)))
        answers = rows[torch.cat([network(images).argmax(1) for images in pieces])]
    return (answers == chosen.labels).double().mean().item() * 100


def read_report(study: Study, root: Path) -> pd.DataFrame:
    """The report's rows of the first seed and superclasses; FileNotFoundError where there is none."""
    path = root / "reports" / study.name / "comparison.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the study {study.name} has no report")
    table = read_comparison(path)
    return table[(table.kind == "superclass") & (table.seed == study.seeds[0])]


def reported(report: pd.DataFrame, own: str, method: str) -> pd.DataFrame:
    """The rows of one method on the supernet that the method with branches, `own`, has; ValueError without any."""
    rows = report[(report.method == method) & (report.supernet == side_of(report, own)[1])]
    if rows.empty:
        raise ValueError(f"the report has no method {method}; methods: {', '.join(report.method.unique())}")
    return rows


def main(arguments: list[str] | None = None) -> int:
    """The command; an error is one line, and numbers that are not the reported ones make it fail."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.recompute", description=__doc__.partition("\n")[0])
    parser.add_argument("study")
    parser.add_argument("--shared", action="store_true", help="with the weights that all sets of classes share")
    parser.add_argument("--count", type=int, help="of scenarios; all by default")
    options = parser.parse_args(arguments)
    devices.keep_memory()
    try:
        table = recompute(load_study(options.study), ".", shared=options.shared, count=options.count)
    except (OSError, ValueError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    difference = table.recomputed - table.reported
    print(table.round(2).to_string(index=False))
    print(
        f"mean: reported {table.reported.mean():.2f} %, recomputed {table.recomputed.mean():.2f} %; "
        f"largest difference of a scenario: {difference.abs().max():.2f} points"
    )
    return int(difference.abs().max() > LARGEST or (len(table) > 20 and abs(difference.mean()) > MEAN))


if __name__ == "__main__":
    sys.exit(main())
