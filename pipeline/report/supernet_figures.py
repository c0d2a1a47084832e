"""Plots of the training of supernets, and of what they reach; each function returns a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report import claims, stats
from pipeline.report.figures import MADDS, SUBNETS, TOP1, draw_line, looks, panels, same_span, seeds_told

CURVES = {  # of a supernet's record, after every epoch, and what they are called; all on selection images
    "all_classes_loss": "loss over all classes",
    "largest_top1": f"{TOP1}, largest",
    "smallest_top1": f"{TOP1}, smallest",
}


def learning_curves(records: Sequence[dict], begins: Mapping[str, float]) -> Figure:
    """What supernets reach after every epoch by setting of superclass dropout, on the seeds that all settings have.

    `begins`: after which share of the training a setting's dropout begins, by its name; marked where that is late.
    Records from before these were kept have their training loss only, whose heights do not compare.
    """
    rows = [{"dropout": r["dropout"], "seed": r["seed"], **epoch} for r in records for epoch in r["history"]]
    frame = stats.on_common_seeds(pd.DataFrame(rows), "dropout")
    kept = {name: text for name, text in CURVES.items() if name in frame and frame[name].notna().all()}
    figure, (axes,) = panels(1, len(kept) or 1, height=3)
    for axis, (quantity, text) in zip(axes, (kept or {"loss": "training loss"}).items(), strict=True):
        table = stats.over_seeds(frame, ["dropout", "epoch"], quantity)
        for name, look in looks(table.dropout).items():
            line = table[table.dropout == name]
            draw_line(axis, line.epoch, line, label=name, **look | {"markersize": 3})
            if begins.get(name):
                axis.axvline(math.ceil(begins[name] * line.epoch.max()), color=look["color"], linestyle=":")
        axis.set(xlabel="epoch", title=text)
        axis.xaxis.get_major_locator().set_params(integer=True)
    title = f"superclass dropout ({seeds_told(frame.seed)}; dotted: it begins late)"
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, title=title, loc="outside lower center", ncols=min(len(handles[0]), 5))
    return claims.say(figure, claims.curves(frame) if kept else claims.INCOMPARABLE)


def subnet_accuracy(records: Sequence[dict], chosen: str | None = None) -> Figure:
    """Selection top-1 of the measured subnets, a column each, ordered by cost, by setting of superclass dropout.

    All settings on the seeds that all have, hollow if that is a single one; with `chosen`, that setting and none on
    theirs.
    """
    frame = stats.accuracy_table(records, chosen)
    table = stats.over_seeds(frame, ["dropout", "arch"], "top1")
    archs = frame.drop_duplicates("arch").sort_values("madds", kind="stable")
    places = {arch: place for place, arch in enumerate(archs.arch)}
    settings, one_seed = looks(frame.dropout), frame.seed.nunique() == 1
    figure, ((axis,),) = panels()
    for shift, (name, look) in zip(np.linspace(-0.25, 0.25, len(settings)), settings.items(), strict=True):
        line = table[table.dropout == name]
        look = look | {"linestyle": "", "elinewidth": 1} | ({"markerfacecolor": "white"} if one_seed else {})
        axis.errorbar(line.arch.map(places) + shift, line["mean"], line.high - line["mean"], label=name, **look)
    ticks = [f"{row.madds / 1e6:.3g}" + f"\n{row.subnet}" * (row.subnet != "random") for row in archs.itertuples()]
    axis.set_xticks(range(len(archs)), ticks)
    axis.set(xlabel=f"{MADDS} of an arch", ylabel=f"selection {TOP1}")
    title = f"superclass dropout ({seeds_told(frame.seed, 'bars')})"
    figure.legend(title=title, loc="outside lower center", ncols=min(len(settings), 5))
    return claims.say(figure, claims.settings(table.groupby("dropout")["mean"].mean()))


def dropout_effect(records: Sequence[dict]) -> Figure:
    """Selection top-1 of the largest, random and smallest subnets by setting of superclass dropout; a point a seed.

    Seeds that some settings lack are hollow; the bar is the mean over the others, left out if that is a single one.
    """
    rows = [{"dropout": r["dropout"], "seed": r["seed"], **row} for r in records for row in r["accuracy"]]
    table = pd.DataFrame(rows).groupby(["dropout", "subnet", "seed"], sort=False).top1.mean().reset_index()
    seeds, settings = looks(table.seed), list(table.dropout.unique())
    common = set(stats.on_common_seeds(table, "dropout").seed)
    figure, (axes,) = panels(1, len(SUBNETS))
    for axis, subnet in zip(axes, SUBNETS, strict=True):
        top1 = table[table.subnet == subnet].pivot(index="dropout", columns="seed", values="top1").loc[settings]
        if len(common) > 1:
            mean = top1[sorted(common)].mean(axis=1)
            axis.scatter(range(len(mean)), mean, marker="_", s=600, color="0.6", linewidth=2, label="their mean")
        for shift, seed in zip(np.linspace(-0.12, 0.12, len(seeds)), seeds, strict=True):
            draw_seed(axis, np.arange(len(settings)) + shift, top1[seed], seed, seeds[seed], seed in common)
        axis.set(title=subnet, xlim=(-0.5, len(settings) - 0.5))
        axis.set_xticks(range(len(settings)), settings, rotation=30, ha="right")
    same_span(axes)
    axes[0].set_ylabel(f"selection {TOP1}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(seeds) + 1)
    return claims.say(figure, claims.settings(table[table.seed.isin(common)].groupby("dropout").top1.mean(), common))


def draw_seed(axis: Axes, x: np.ndarray, top1: pd.Series, seed: int, look: dict, filled: bool) -> None:
    """The points of one seed, hollow where some settings lack it: they then compare in pairs only."""
    name = f"seed {seed}" if filled else f"seed {seed} (not of all settings)"
    face = look["color"] if filled else "white"
    axis.scatter(x, top1, s=22, facecolor=face, edgecolor=look["color"], marker=look["marker"], label=name, zorder=3)
