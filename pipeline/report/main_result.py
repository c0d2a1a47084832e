"""The figure that tells the main result alone: accuracy over budget on every data set, for four ways to a network."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.methods import METHODS, OFAS_WAY
from pipeline.report import claims, stats
from pipeline.report.figures import TOP1, panels
from pipeline.report.stats import Side

WAYS = {  # what is drawn, and what its line is called; the least known first
    "ofa_evolution": "OFA's way",
    "generator_gates": "the paper's parts",
    "generator_branch": "ours: branches",
    "ofa_finetuned": "each arch tuned",
}
APART = 0.055  # of an axis's height: names of lines that end closer are moved


def draw(comparisons: dict[str, pd.DataFrame], claim: str) -> Figure:
    """A panel for each study, by its title: mean top-1 of superclasses over the mean cost at every budget.

    ValueError where a study lacks OFA's way.
    """
    figure, (axes,) = panels(1, len(comparisons), height=3.9)
    for axis, (title, comparison) in zip(axes, comparisons.items(), strict=True):
        draw_study(axis, comparison)
        axis.set_title(title, loc="left")
        axis.set_xlabel("multiply-adds (M); hollow: on one seed only")
    axes[0].set_ylabel(f"{TOP1}, test images")
    return claims.say(figure, claim)


def draw_study(axis: Axes, comparison: pd.DataFrame) -> None:
    """The lines of a study, each with its name at its end; hollow marks where it was measured on some seeds only."""
    rows = stats.of_kind(comparison, "superclass")
    measured = set(zip(rows.method, rows.supernet, strict=True))
    if OFAS_WAY not in measured:
        raise ValueError("the comparison lacks OFA's way")
    ends: dict[Side, tuple[float, float]] = {}
    for name in WAYS:
        side = OFAS_WAY if name == OFAS_WAY[0] else stats.side_of(rows, name)
        if side not in measured:
            continue
        own = rows[(rows.method == side[0]) & (rows.supernet == side[1])]
        line = stats.over_seeds(own, ["budget_madds"], "top1").sort_values("budget_madds")
        madds = own.groupby("budget_madds").madds.mean() / 1e6
        look = METHODS[name]
        marks = {"markersize": 6} if own.seed.nunique() == rows.seed.nunique() else {"markersize": 6, "mfc": "white"}
        axis.plot(madds, line["mean"], look.marker + look.linestyle, color=look.color, **marks)
        ends[side] = madds.iloc[-1], line["mean"].iloc[-1]
    axis.set_xticks((rows.budget_madds.unique() / 1e6).round(2))
    low, high = axis.get_xlim()
    axis.set_xlim(low, high + 0.55 * (high - low))  # room for the names
    bottom, top = axis.get_ylim()
    places = spread([height for _, height in ends.values()], APART * (top - bottom))
    for (side, (right, height)), place in zip(ends.items(), places, strict=True):
        name, _ = side
        end, written = (right, height), (right + 0.05 * (high - low), place)
        axis.annotate(WAYS[name], end, written, color=METHODS[name].color, va="center", annotation_clip=False)


def spread(heights: list[float], apart: float) -> list[float]:
    """Places near these heights, in their order, no two of them closer."""
    order = np.argsort(heights, kind="stable")
    places = np.array(heights, dtype=float)[order]
    for _ in range(100):  # push neighbours apart until none are too close
        close = [(a, b) for a, b in pairwise(range(len(places))) if places[b] - places[a] < apart * 0.999]
        for a, b in close:
            middle = (places[a] + places[b]) / 2
            places[a], places[b] = middle - apart / 2, middle + apart / 2
    found = np.empty_like(places)
    found[order] = places
    return found.tolist()
