"""Made-up results for the tests of reports: every method of a study, in which the generator is good and fast."""

from itertools import pairwise, product

import numpy as np
import pandas as pd
import torch

from eas.spaces import SPACES
from eas.spaces.base import ChoiceSpace
from pipeline.methods import METHODS

SPACE = SPACES["preresnet"](
    kind="preresnet", widths=(8, 16, 32), depths=(1, 2, 3, 4), ratios=(0.25, 0.5, 0.75, 1.0)
).build(16, 1)
SCENARIO = ["method", "supernet", "seed", "scenario", "kind", "classes", "budget_madds"]
COLUMNS = [*SCENARIO, "madds", "top1", "search_seconds"]
OWN_WEIGHTS = {  # the supernet that a method with weights of its own builds on
    "generator_branch": "dropout",
    "generator_composed": "dropout",
    "generator_finetuned": "dropout",
    "from_scratch": "dropout",
    "ofa_finetuned": "plain",
}


class OtherSpace(ChoiceSpace):
    """Two stages of blocks with a kernel and an expansion: another search space, as far as it is drawn and costed."""

    image_size, in_channels, depths = 32, 3, (1, 2)
    stages, forms = 2, 4
    block_madds = torch.tensor([[10, 20, 30, 40]] * 4)
    block_parameters = block_madds
    recipe = supernet = network = None

    def fixed_madds(self, class_counts):
        return torch.as_tensor(class_counts) * 2

    fixed_parameters = fixed_madds

    def form_names(self):
        return [["3, x3", "3, x6", "5, x3", "5, x6"]] * 4

    def form_sizes(self):
        return torch.tensor([[0.25, 0.5, 0.75, 1.0]] * 4)

    def stage_names(self):
        return ["first", "second"]


def make_comparison(superclasses, seeds=3, unions=("union one", "union two")):
    """comparison.csv with every method; tuned archs and those from scratch on some scenarios only."""
    rng = np.random.default_rng(0)
    kinds = dict.fromkeys(superclasses, "superclass") | dict.fromkeys(unions, "union")
    hard = {name: rng.normal(0, 8) for name in kinds}
    sides = [(name, supernet) for name in METHODS for supernet in ("dropout", "plain")]
    sides = [(name, supernet) for name, supernet in sides if OWN_WEIGHTS.get(name, supernet) == supernet]
    rows = []
    for (method, supernet), seed, budget, scenario in product(sides, range(seeds), range(5), kinds):
        if not measured(method, seed, budget, scenario, kinds[scenario], superclasses[0]):
            continue
        gains = {"generator_branch": 4, "generator_composed": 3, "ofa_finetuned": 5}
        gain = gains.get(method, -0.3 * list(METHODS).index(method) / 5)
        top1 = 70 + budget + hard[scenario] + gain + rng.normal(0, 0.5) + seed / 2
        seconds = 2e-4 if "generator" in method else 10.0 ** rng.uniform(-2, 2)
        madds = int((15 + 5 * budget) * 1e6)
        costs = (madds, int(madds * rng.uniform(0.9, 1)), top1, seconds)
        rows.append((method, supernet, seed, scenario, kinds[scenario], 5, *costs))
    return pd.DataFrame(rows, columns=COLUMNS)


def measured(method, seed, budget, scenario, kind, first):
    """Whether a study would have this row."""
    if method == "from_scratch":
        return seed == 0 and budget == 2 and scenario == first
    if method == "generator_finetuned":
        return budget == 2 and kind == "union"
    return kind == "superclass" or method not in ("generator_branch", "ofa_finetuned")


def make_record(dropout, seed, largest, random):
    """Record of a supernet; `random` are the accuracies of random archs, all of the same cost."""
    accuracy = [("largest", 300, largest), *(("random", 200, value) for value in random)]
    named = [{"subnet": s, "madds": m, "top1": t, "flat_top1": t - 20} for s, m, t in accuracy]
    return {"dropout": dropout, "seed": seed, "seconds": 1.0, "history": [], "accuracy": named}


def make_records():
    """Records of supernets with five settings, two of them late or on a single seed."""
    rng, records = np.random.default_rng(0), []
    settings = [*product(("none", "own-0.5", "sample-0.5"), range(3)), ("batch-0.1", 0), ("own-0.9-from-0.8", 0)]
    for dropout, seed in settings:
        loss = 3 * np.exp(-np.arange(10) / 4) + 1 + rng.normal(0, 0.03, 10)
        points = {"largest_top1": 80 - 5 * loss, "smallest_top1": 70 - 5 * loss, "all_classes_loss": loss + 0.2}
        history = [{"epoch": e + 1, "loss": value} for e, value in enumerate(loss)]
        history = [epoch | {name: values[row] for name, values in points.items()} for row, epoch in enumerate(history)]
        random = [("random", m * 1e6, 70 + m) for m in (1.0, 1.8, 2.2, 3.1)]
        subnets = [("largest", 4.1e6, 75), *random, ("smallest", 4e5, 66)]
        accuracy = [(name, int(madds), top1 + rng.normal(0, 0.4)) for name, madds, top1 in subnets]
        named = [{"subnet": n, "madds": m, "top1": t, "flat_top1": t - 20} for n, m, t in accuracy]
        records.append({"dropout": dropout, "seed": seed, "history": history, "accuracy": named})
    return records


def check_readable(figure):
    """A figure of page width with a title, whose labels on an axis do not overlap."""
    figure.canvas.draw()
    assert figure.get_figwidth() == 8 and (figure.get_suptitle() or figure.axes[0].get_title("left"))
    for axis in figure.axes:
        shown = [label for label in axis.get_xticklabels() if label.get_text() and label.get_visible()]
        boxes = [label.get_window_extent() for label in shown if axis.get_visible() and axis.axison]
        assert all(left.x1 <= right.x0 for left, right in pairwise(boxes)), axis.get_title("left")
        for title in (axis.title, axis._left_title):
            assert title.get_window_extent().x1 <= figure.bbox.x1
