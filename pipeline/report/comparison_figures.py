"""Plots of the comparison; each function returns a figure of its tables. Call `figures.style` once before them."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.methods import KINDS, METHODS, OFAS_WAY
from pipeline.report import claims, kinds, preferences, stats
from pipeline.report.figures import (
    MADDS,
    TOP1,
    draw_line,
    draw_map,
    label,
    looks,
    method_looks,
    panels,
    plain_names,
    seeds_told,
)
from pipeline.report.stats import Kind, Side

HEADLINE = {  # what the README's figure holds against OFA's way, from the least to the most
    "generator_gates": "EAS with the paper's signal,\nno branches",
    "generator": "EAS, our version,\nno branches",
    "generator_composed": "EAS with branches for any set",
    "generator_branch": "EAS with branches,\neach for one superclass",
    "ofa_finetuned": "each of OFA's archs tuned alone\n(trains for every scenario)",
}


def headline(comparison: pd.DataFrame, title: str) -> Figure:
    """Points over OFA's way with their intervals, of the few methods that tell a study: it stands alone in a README.

    A method that was not measured on every seed is left out.

    Raises:
        ValueError: the comparison lacks OFA's way, or everything else.
    """
    rows = stats.of_kind(stats.measured_everywhere(comparison), "superclass")
    measured = set(zip(rows.method, rows.supernet, strict=True))
    shown = {stats.side_of(rows, method): name for method, name in HEADLINE.items()}
    shown = {side: name for side, name in shown.items() if side in measured}
    if OFAS_WAY not in measured or not shown:
        raise ValueError("the comparison has no method on all seeds to hold against OFA's way")
    figure, ((axis,),) = panels(height=1.6 + 0.5 * len(shown))
    axis.axvline(0, color=METHODS[OFAS_WAY[0]].color, linewidth=1.5)
    for place, side in enumerate((OFAS_WAY, *shown)):
        draw_over_ofas_way(axis, place, rows, side)
    axis.set_yticks(range(len(shown) + 1), ["OFA's way", *shown.values()], fontsize=10)
    axis.set_ylim(-0.6, len(shown) + 0.7)
    axis.margins(x=0.12)
    axis.set_xlabel(f"points of superclass top-1 over OFA's way, test images ({seeds_told(rows.seed, 'lines')})")
    axis.set_title(title, loc="left", fontsize=12)
    plain_names(axis)
    return figure


def draw_over_ofas_way(axis: Axes, place: int, rows: pd.DataFrame, side: Side) -> None:
    """One line of `headline`: a point with its interval, the numbers above it, top-1 in the margin."""
    (mean, low, high), look = stats.paired_difference(rows, side, OFAS_WAY), METHODS[side[0]]
    axis.hlines(place, low, high, color=look.color, linewidth=3, alpha=0.5)
    axis.plot(mean, place, look.marker, color=look.color, markersize=9)
    if side != OFAS_WAY:
        text = f"{mean:+.1f}" if np.isnan(low) else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # so that no line goes through the numbers
        axis.annotate(text, (mean, place), (0, 9), textcoords="offset points", ha="center", bbox=paper)
    top1 = f"{stats.scenarios_of(rows, *side).mean():.1f} %"
    axis.annotate(top1, (1.01, place), xycoords=axis.get_yaxis_transform(), va="center")


# -------------------------------------------------------------------- accuracy


def points_over_budget(comparison: pd.DataFrame, kind: Kind = "superclass") -> Figure:
    """Points over OFA's way at every budget, mean over superclasses (or unions), a panel for each supernet.

    Without what only some scenarios or some seeds have: a mean of others does not stand beside these.
    """
    rows = stats.points_over_ofas_way(stats.of_kind(stats.measured_everywhere(comparison), kind))
    table = stats.over_seeds(rows, ["supernet", "method", "budget_madds"], "points")
    supernets, drawn = sorted(table.supernet.unique()), method_looks(table.method)
    figure, (axes,) = panels(1, len(supernets), height=4.4, sharey=True)
    banded = [name for name in drawn if name in METHODS and METHODS[name].banded]
    for method, look in drawn.items():
        for axis, supernet in zip(axes, supernets, strict=True):
            line = table[(table.method == method) & (table.supernet == supernet)]
            if method in banded:
                draw_line(axis, line.budget_madds / 1e6, line, label=label(method), **look)
            else:
                axis.plot(line.budget_madds / 1e6, line["mean"], label=label(method), **look)
            axis.set(title=f"supernet {supernet}", xlabel=f"budget, {MADDS}", xticks=table.budget_madds.unique() / 1e6)
    axes[0].set_ylabel("points of top-1 over OFA's way" + ", unions" * (kind == "union"))
    title = f"bands: 95 % interval over seeds, of {'; '.join(label(name) for name in banded)}"
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, title=title)
    points = table.assign(name=table.method.map(label)).groupby(["name", "supernet"])["mean"].mean()
    return claims.say(figure, claims.leader(points.groupby("name").max().to_dict()))


def heat_map(comparison: pd.DataFrame, method: str = "generator", supernet: str = "dropout") -> Figure:
    """Top-1 of one method for every superclass and budget, mean over seeds; the easiest superclass first."""
    rows = stats.of_kind(comparison, "superclass")
    rows = rows[(rows.method == method) & (rows.supernet == supernet)]
    table = rows.pivot_table("top1", "scenario", "budget_madds", sort=False).rename(columns=lambda b: f"{b / 1e6:g}")
    table = table.loc[table.mean(axis=1).sort_values(ascending=False, kind="stable").index].rename(label)
    figure, ((axis,),) = panels(height=1.2 + 0.26 * len(table))
    draw_map(axis, table, TOP1)
    axis.set(xlabel=f"budget, multiply-adds (M); {label(method)}, supernet {supernet}", ylabel="")
    return claims.say(figure, claims.spread(table))


def branch_gain(comparison: pd.DataFrame) -> Figure:
    """Points of the generated archs over OFA's way, superclass by superclass: with branches and with shared weights."""
    rows, gains = stats.of_kind(comparison, "superclass"), []
    for method, name in (("generator_branch", "with branches"), ("generator", "shared weights")):
        ours, ofa = (stats.scenarios_of(rows, *side) for side in ((method, "dropout"), OFAS_WAY))
        gains.append((ours - ofa).dropna().rename("gain").reset_index().assign(weights=name))
    table = stats.over_seeds(pd.concat(gains), ["weights", "scenario"], "gain").set_index("scenario")
    order = table[table.weights == "with branches"]["mean"].sort_values().index
    figure, ((axis,),) = panels(height=0.9 + 0.24 * len(order))
    for shift, (name, look) in zip((0.15, -0.15), looks(table.weights).items(), strict=True):
        drawn = table[table.weights == name].loc[order]
        place = np.arange(len(order)) + shift
        axis.hlines(place, drawn.low, drawn.high, color=look["color"], linewidth=1)
        axis.scatter(drawn["mean"], place, s=28, color=look["color"], marker=look["marker"], label=name, zorder=3)
    axis.axvline(0, color="0.3", linewidth=1)
    axis.set_yticks(range(len(order)), [label(name) for name in order])
    plain_names(axis)
    axis.set_xlabel("generator minus OFA's way, points of superclass top-1 (lines: 95 % interval over seeds)")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)  # inside it would cover intervals
    return claims.say(figure, claims.gains(table))


def specialized_comparison(rows: pd.DataFrame) -> Figure:
    """One scenario: top-1 of every row as a point, with its cost; columns method, top1, madds."""
    figure, ((axis,),) = panels(height=1 + 0.3 * len(rows))
    axis.plot(rows.top1, range(len(rows)), "o", color="0.3")
    for place, row in enumerate(rows.itertuples()):
        text = f"{row.top1:.1f} %, {row.madds / 1e6:.2f} M MAdds"
        axis.annotate(text, (row.top1, place), (8, 0), textcoords="offset points", va="center")
    axis.set_yticks(range(len(rows)), [label(name) for name in rows.method])
    reach = max(1.0, rows.top1.max() - rows.top1.min())
    axis.set(xlabel=TOP1, xlim=(rows.top1.min() - 0.1 * reach, rows.top1.max() + 0.6 * reach))
    axis.margins(y=0.2)
    axis.invert_yaxis()
    plain_names(axis)
    best = rows.loc[rows.top1.idxmax()]
    return claims.say(figure, f"{label(best.method)} reaches most here: {best.top1:.1f} %")


# -------------------------------------------------------------------- any set of classes


def points_by_kind(comparison: pd.DataFrame) -> Figure:
    """Points over OFA's way with their intervals, by the kind of the set of classes; one seed has no interval."""
    table = kinds.points_by_kind(comparison)
    shown, drawn = list(table.kind.unique()), method_looks(table.method)
    figure, ((axis,),) = panels(height=1.4 + 0.75 * len(shown))
    for shift, (method, look) in zip(np.linspace(-0.27, 0.27, len(drawn)), drawn.items(), strict=True):
        rows = table[table.method == method]
        place = np.array([shown.index(kind) for kind in rows.kind]) + shift
        axis.hlines(place, rows.low, rows.high, color=look["color"], linewidth=2, alpha=0.5)
        axis.plot(rows["mean"], place, look["marker"], color=look["color"], markersize=7, label=label(method))
    axis.axvline(0, color="0.3", linewidth=1)
    counts = {kind: table.sets[table.kind == kind].max() for kind in shown}
    told = [f"{KINDS[kind]}\n({counts[kind]} set{'s' if counts[kind] > 1 else ''})" for kind in shown]
    axis.set_yticks(range(len(shown)), told)
    axis.invert_yaxis()
    axis.set_xlabel("points of top-1 over OFA's way, test images")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    plain_names(axis)
    return claims.say(figure, claims.kinds(table.assign(name=table.method.map(label))))


def expected_accuracy(frame: pd.DataFrame) -> Figure:
    """What networks reached on test over what was expected of them, a colour for each kind of set."""
    figure, ((axis,),) = panels(height=5)
    for kind, look in looks(frame.kind).items():
        rows = frame[frame.kind == kind]
        axis.scatter(rows.expected, rows.measured, s=18, color=look["color"], marker=look["marker"], label=KINDS[kind])
    ends = [frame[["expected", "measured"]].min().min(), frame[["expected", "measured"]].max().max()]
    axis.plot(ends, ends, color="0.3", linewidth=1)
    axis.set(xlabel="expected top-1, %", ylabel="measured top-1, test images, %")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return claims.say(figure, claims.expected(frame.measured - frame.expected))


# -------------------------------------------------------------------- time


def search_time(timing: pd.DataFrame) -> Figure:
    """Seconds for a scenario on a logarithmic axis, and in times of the generator's.

    `timing` has columns method and seconds_per_scenario; medians where a method has several rows.
    """
    seconds = timing.groupby("method").seconds_per_scenario.median().sort_values()
    figure, ((axis,),) = panels(height=1 + 0.3 * len(seconds))
    bars = axis.barh([label(name) for name in seconds.index], seconds, color="0.45")
    ratios = seconds / seconds["generator"]
    axis.bar_label(bars, [f"× {float(f'{ratio:.3g}'):,.10g}" for ratio in ratios], padding=4)
    axis.set(xscale="log", xlim=(seconds.min() / 2, seconds.max() * 12), xlabel="seconds for a scenario")
    axis.invert_yaxis()
    plain_names(axis)
    return claims.say(figure, claims.times({label(name): each for name, each in ratios.items()}))


def step_shares(shares: Mapping[str, float]) -> Figure:
    """Where the time of a training step goes: percent by kind of operation."""
    figure, ((axis,),) = panels(height=0.8 + 0.25 * len(shares))
    bars = axis.barh(list(shares), list(shares.values()), color="0.45")
    axis.bar_label(bars, [f"{share:.0f} %" for share in shares.values()], padding=4)
    axis.set(xlim=(0, 1.1 * max(shares.values())), xlabel="share of a training step's time (%)")
    axis.invert_yaxis()
    plain_names(axis)
    return claims.say(figure, claims.shares(shares))


# -------------------------------------------------------------------- does the best arch depend on the superclass?


def split_half_scatter(accuracy: Tensor) -> Figure:
    """Effects as estimated on two halves of the images: of the arch, and of arch and superclass together.

    `accuracy` [2, archs, superclasses], one repeat of `preferences.half_accuracy`: one split of one seed, which the
    titles say, as a mean over splits and seeds differs. What is real lies on the diagonal.
    """
    arch, _, interaction = preferences.effects(accuracy)
    figure, (axes,) = panels(1, 2, height=4.6)
    correlations = {}
    for axis, name, effect in zip(axes, ("arch", "arch x superclass"), (arch, interaction), strict=True):
        first, second = effect.flatten(1).numpy()
        reach = effect.abs().max().item() * 1.05
        correlations[name] = np.corrcoef(first, second)[0, 1]
        axis.axline((0, 0), slope=1, color="0.6", linewidth=1, linestyle="--")
        axis.scatter(first, second, s=8, alpha=min(1, 200 / len(first) + 0.1), color="black", linewidth=0)
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axis.set(title=f"{name}, one split of one seed", xlabel="effect on half A (points)")
        axis.set(ylabel="effect on half B (points)")
    return claims.say(figure, claims.halves(*correlations.values()))


def swap_matrix(swap: pd.DataFrame, supernet: str = "dropout") -> Figure:
    """Points lost (above 0) by the row's arch in place of the column's own, mean over budgets and seeds."""
    rows = swap[swap.supernet == supernet]
    top1 = rows.pivot_table("top1", "arch_of", "used_for", sort=False)
    top1 = top1[top1.index]
    loss = (np.diag(top1) - top1).rename(index=label, columns=label)
    figure, ((axis,),) = panels(height=2.2 + 0.28 * len(loss))
    reach = max(1.0, loss.abs().max().max())  # zero is white, and noise of a fraction of a point stays pale
    draw_map(axis, loss, "loss of top-1 (points)", cmap="RdBu_r", vmin=-reach, vmax=reach, annot=False)
    cost = preferences.swap_cost(rows).iloc[0]["mean"]
    title = f"What another superclass's arch loses: {cost:+.2f} points on average (supernet {supernet})"
    axis.set(xlabel="used for", ylabel="arch of", title=title)
    plt.setp(axis.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
    return figure
