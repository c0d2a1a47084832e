"""Pictures that teach what weights are made of: superclass dropout's masks, calibration, branches that compose.

As in pipeline.report.figures, shades and marks carry the meaning as well as colours. Titles are sentences that state
what is seen, with numbers of the study at hand. Those of the generator are in pipeline.report.generator_lessons.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from eas.branches import read_branch
from eas.data import Hierarchy, Split
from eas.data.batches import as_input
from eas.evaluation import batch_size, own_superclass_correct
from eas.layers import FixedStatistics, Statistics
from eas.spaces import Supernet
from pipeline.report import figures

DARK, LIGHT, MARK = "#1f3a5f", "0.88", "white"  # what counts, is chosen or is left out, in grey too
TAUGHT = (2, 2, 1, 1)  # images that the dropout is shown on, superclass by superclass
ACROSS, WRAPPED = 2, 12  # panels beside one another; letters in a line of a name

# -------------------------------------------------------------------- superclass dropout


def six_images(split: Split, hierarchy: Hierarchy) -> Tensor:
    """Rows of images of the first four superclasses, of different classes where there are, in the order of `TAUGHT`."""
    labels, rows = split.labels.cpu(), []
    for superclass, count in zip(range(len(hierarchy.superclasses)), TAUGHT, strict=False):
        classes = (hierarchy.parent == superclass).nonzero()[:, 0].tolist()
        picked = [classes[place * len(classes) // count] for place in range(count)]
        rows += [(labels == label).nonzero()[place, 0] for place, label in enumerate(picked)]
    return torch.stack(rows)


def dropout_masks(
    hierarchy: Hierarchy, labels: Tensor, drawn: Mapping[str, tuple[Tensor, Tensor]], images: Tensor | None = None
) -> Figure:
    """What settings of superclass dropout drew for a few images: a panel each, a row an image, a column a superclass.

    `drawn`: a class mask [n, classes] and weights [n] by the setting's name, see SuperclassDropout; `images` uint8,
    left out where they may not be shown.
    """
    rows = -(-len(drawn) // ACROSS)
    figure, axes = figures.panels(rows, ACROSS, height=0.9 + rows * (0.3 + 0.3 * len(labels)), sharex=True, sharey=True)
    names = [textwrap.shorten(figures.label(hierarchy.classes[i]), 18, placeholder="…") for i in labels.tolist()]
    shown = hierarchy.parent[labels].unique().tolist()
    for axis in axes.flat[len(drawn) :]:
        axis.set_visible(False)
    for axis, (name, (class_mask, weight)) in zip(axes.flat, drawn.items(), strict=False):
        draw_masks(axis, hierarchy, shown, labels, class_mask, weight)
        if images is not None:
            draw_thumbnails(axis, images)
        axis.set_title(name, loc="left")
        axis.set_yticks(range(len(labels)), names, fontsize=8)
        titles = [textwrap.fill(figures.label(hierarchy.superclasses[i]), WRAPPED) for i in shown]
        axis.set_xticks(np.arange(len(shown)) + 0.47, titles, fontsize=8)
        axis.set(xlim=(-0.06 if images is None else -0.5, len(shown)), ylim=(len(labels) - 0.5, -0.5))
        axis.tick_params(length=0)
        axis.grid(False)
    title = "Dropout scores an image against some classes only, the dark ones; its own class is marked"
    figure.suptitle(title, weight="bold", size="medium")
    return figure


def draw_masks(
    axis: Axes, hierarchy: Hierarchy, shown: Sequence[int], labels: Tensor, class_mask: Tensor, weight: Tensor
) -> None:
    """A cell for every class of the superclasses `shown`; a row that carries no loss says so."""
    for row, label in enumerate(labels.tolist()):
        for column, superclass in enumerate(shown):
            classes = (hierarchy.parent == superclass).nonzero()[:, 0]
            width, edge = 0.94 / len(classes), 1.2 if len(classes) <= figures.CROWDED else 0.4
            spans = [(column + place * width, width) for place in range(len(classes))]
            colours = [DARK if weight[row] and counts else LIGHT for counts in class_mask[row, classes].tolist()]
            axis.broken_barh(spans, (row - 0.4, 0.8), facecolors=colours, edgecolor="white", linewidth=edge)
            if superclass == hierarchy.parent[label]:
                own, middle = column, spans[classes.tolist().index(label)][0] + width / 2
        axis.plot(middle, row, "D", color=MARK, markeredgecolor="black", markeredgewidth=0.6, markersize=5)
        if not weight[row]:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            place, side = (len(shown) - 0.12, "right") if own == 0 else (0.06, "left")
            axis.text(place, row, "carries no loss", ha=side, va="center", fontsize=8, bbox=box)


def draw_thumbnails(axis: Axes, images: Tensor) -> None:
    """Images uint8 [n, channels, side, side], a row each, left of the masks."""
    for row, image in enumerate(images):
        place = (-0.45, -0.06, row + 0.42, row - 0.42)
        axis.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255, extent=place, aspect="auto")


# -------------------------------------------------------------------- calibration


class BorrowedStatistics(FixedStatistics):
    """Statistics of a larger arch, their leading channels: what a subnet would run on without calibration."""

    def normalize(self, norm: nn.Module, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        mean, variance = (each[: x.shape[1]] for each in self.recorded[norm])
        return nn.functional.batch_norm(x, mean, variance, weight, bias, eps=norm.epsilon)


@torch.inference_mode()
def subnet_top1(supernet: Supernet, arch: Tensor, statistics: Statistics, images: Split, parent: Tensor) -> float:
    """Superclass top-1 in percent of one subnet on images, with the given statistics."""
    device, pieces = supernet.mean.device, images.images.split(batch_size(images))
    logits = torch.cat([supernet(as_input(each, device), arch, statistics) for each in pieces])
    return own_superclass_correct(logits, images.labels.to(device), parent).float().mean().item() * 100


def calibration_effect(table: pd.DataFrame) -> Figure:
    """Top-1 of subnets with borrowed and with their own statistics: columns madds, borrowed, own; arrows join them."""
    table = table.sort_values("madds").reset_index(drop=True)
    figure, ((axis,),) = figures.panels(height=3)
    arrow = {"arrowstyle": "-|>", "color": "0.5", "linewidth": 1, "shrinkA": 5, "shrinkB": 5}
    for place, row in table.iterrows():
        axis.annotate("", (place, row.own), (place, row.borrowed), arrowprops=arrow)
    look = {"linestyle": "", "markersize": 7, "color": DARK}
    axis.plot(
        table.index, table.borrowed, "o", **look, markerfacecolor="white", label="of the largest (not calibrated)"
    )
    axis.plot(table.index, table.own, "s", **look, label="its own (calibrated)")
    axis.set_xticks(table.index, [f"{madds / 1e6:.3g}" for madds in table.madds])
    axis.set(xlabel=f"{figures.MADDS} of an arch", ylabel=f"selection {figures.TOP1}")
    axis.set_title(calibration_told(table), loc="left")
    figure.legend(title="batch-norm statistics", loc="outside right upper")
    return figure


def calibration_told(table: pd.DataFrame) -> str:
    """What calibration does, in a sentence."""
    gain = (table.own - table.borrowed).max()
    if gain < 1:
        return "Calibration changes next to nothing here"
    return f"Calibration brings a subnet up to {gain:.0f} points"


# -------------------------------------------------------------------- branches


@torch.no_grad()
def composed_norms(supernet: Supernet, branches: Mapping[str, Tensor], shares: Tensor) -> pd.DataFrame:
    """Norms of the weights that branches tune, block by block, for a set with `shares`, float [superclasses].

    Of the `shared` ones, of the difference of each superclass of the set (by its place), and of their `mean`.
    """
    of_set = shares.nonzero()[:, 0].tolist()
    differences = {index: read_branch(supernet, dict(branches), index) for index in of_set}
    square: dict[str, dict[int | str, float]] = {}
    place = "stem"
    for name, parameter in supernet.named_parameters():
        if found := re.match(r"stages\.(\d+)\.(\d+)\.", name):
            place = f"{int(found[1]) + 1}.{int(found[2]) + 1}"
        elif place != "stem":
            place = "head"
        if name not in differences[of_set[0]]:
            continue
        parts = {index: difference[name] for index, difference in differences.items()}
        parts |= {"mean": sum(shares[index] * part for index, part in parts.items()), "shared": parameter.cpu()}
        row = square.setdefault(place, dict.fromkeys(parts, 0.0))
        for which, part in parts.items():
            row[which] += part.square().sum().item()
    return pd.DataFrame.from_dict(square, orient="index") ** 0.5


def composed_weights(norms: pd.DataFrame, shares: Tensor, names: Sequence[str]) -> Figure:
    """Norms of composed_norms as shares of the shared weights' own; `names` are those of all superclasses."""
    percent = norms.drop(columns="shared").div(norms.shared, axis=0) * 100
    figure, ((axis,),) = figures.panels(height=3)
    lines = cycle([("o", "0.55", ":"), ("s", "0.55", "-."), ("^", "0.55", "--")])
    for column in percent:
        marker, colour, line = ("D", DARK, "-") if column == "mean" else next(lines)
        told = "their mean" if column == "mean" else figures.label(names[column])
        axis.plot(percent.index, percent[column], marker=marker, color=colour, linestyle=line, label=told)
    axis.set(xlabel="part of the network (stage.block)", ylabel="norm of the difference\n(% of the shared weights')")
    axis.set_ylim(0, None)
    axis.set_title(composed_told(norms, shares), loc="left")
    axis.tick_params(axis="x", labelsize=7 if len(percent) > figures.CROWDED + 2 else 9)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def composed_told(norms: pd.DataFrame, shares: Tensor) -> str:
    """How long the mean of the differences is, if one way were 100 %, in a sentence."""
    whole = (norms**2).sum() ** 0.5
    one_way = sum(shares[index].item() * whole[index] for index in shares.nonzero()[:, 0].tolist())
    if not one_way:
        return "These branches have not moved from the shared weights"
    return f"The mean keeps {100 * whole['mean'] / one_way:.0f} % of the length that its branches have"
