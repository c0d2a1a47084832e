"""Every plot of the study: each function takes data and returns a figure. Call `style` once before them.

Markers, lines and shades carry the meaning as well as colours, so that a print in grey can be read. Bands and bars of
uncertainty are 95 % intervals over seeds (Student's t), left out where there is one seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from eas import analysis
from eas.analysis import Kind
from eas.data import SPLITS, Dataset, Hierarchy
from eas.space import SearchSpace

WIDTH = 8.0  # inches, with the dots per inch of `style` as wide as a page on GitHub
TOP1, MADDS = "superclass top-1 (%)", "multiply-adds (M)"
BAND = "bands: 95 % interval over seeds"
BANDED = ("generator", "generator_branch", "ofa_evolution")  # eight bands on top of each other show nothing
# Methods look the same in every figure, whichever of them it shows; one that is not listed gets the next free look.
METHODS = (
    *("generator", "ofa_evolution", "uniform", "random", "evolution", "generator_blind"),
    *("ofa_evolution_aware", "evolution_aware", "generator_branch", "ofa_finetuned"),
    "evolution_long",
)
SUBNETS = ("largest", "random", "smallest")


def style() -> None:
    """Set the look of all figures."""
    # DejaVu Sans comes with matplotlib and can draw every character that names a class.
    sns.set_theme("paper", "ticks", "colorblind", font="DejaVu Sans", rc={"axes.titleweight": "bold"})
    plt.rcParams |= {"figure.dpi": 110, "savefig.dpi": 110, "axes.spines.top": False, "axes.spines.right": False}
    plt.rcParams |= {
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "0.9",
        "axes.titlesize": "medium",
        "legend.frameon": False,
    }


def panels(rows: int = 1, columns: int = 1, height: float = 3.5, **options) -> tuple[Figure, np.ndarray]:
    """A figure of page width, laid out without overlaps, and its axes [rows, columns]."""
    return plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False, layout="constrained", **options)


def label(name: str) -> str:
    """A method's or class's name as a reader would write it."""
    return name.replace("ofa_", "OFA ").replace("_", " ")


def looks(names: Iterable[str], known: Sequence[str] = ()) -> dict[str, dict]:
    """Colour, marker and line of every name, known names first."""
    names = [*known, *dict.fromkeys(name for name in names if name not in known)]
    darker = [tuple(0.75 * part for part in colour) for colour in sns.color_palette("colorblind", 10)]
    colours, dashes = cycle(darker), cycle(("-", "--", "-.", ":"))  # the palette's yellow and pink are pale on white
    every = zip(names, colours, cycle("os^vDPX<>*h"), dashes, strict=False)
    return {name: {"color": c, "marker": m, "linestyle": d, "markersize": 5} for name, c, m, d in every}


def draw_line(axis: Axes, x: Iterable[float], table: pd.DataFrame, **look) -> None:
    """A mean and its band, from a table with columns mean, low and high."""
    axis.plot(x, table["mean"], **look)
    axis.fill_between(x, table.low, table.high, color=look["color"], alpha=0.12, linewidth=0)


def plain_names(axis: Axes) -> None:
    """A vertical axis of names: they need no ticks and no grid."""
    axis.grid(False, axis="y")
    axis.tick_params(axis="y", which="both", length=0)


def draw_map(axis: Axes, table: pd.DataFrame, unit: str, **options) -> None:
    """A heat map with its numbers, whose shades keep their order in grey; what is missing stays blank."""
    shades = sns.color_palette("cividis", 256)[128:]  # light enough for black numbers
    drawn = {"cmap": shades, "linewidths": 0.5, "annot": True, "fmt": ".1f", "cbar_kws": {"label": unit}} | options
    drawn["annot_kws"] = {"color": "black", "size": 8 if table.shape[1] <= 12 else 6}
    sns.heatmap(table, ax=axis, **drawn)
    axis.tick_params(length=0)
    axis.tick_params(axis="y", rotation=0)
    axis.grid(False)


# -------------------------------------------------------------------- data


def contact_sheet(images: Tensor, labels: Tensor, hierarchy: Hierarchy, per_superclass: int = 8) -> Figure:
    """Pictures of up to `per_superclass` classes of every superclass; images uint8 [n, channels, side, side]."""
    rng, side = torch.Generator().manual_seed(0), images.shape[-1]
    across = min(per_superclass, max(map(len, hierarchy.members)))
    rows = -(-len(hierarchy.members) // 2)
    figure, axes = panels(rows, 2, height=rows * (4.2 / across + 0.42))
    for axis in axes.flat:
        axis.axis("off")
    for axis, superclass, members in zip(axes.flat, hierarchy.superclasses, hierarchy.members, strict=False):
        picked = np.linspace(0, len(members) - 1, min(across, len(members))).round().astype(int)
        strip = torch.full((images.shape[1], side, across * (side + 1) - 1), 255, dtype=torch.uint8)
        for place, member in enumerate(picked):
            found = (labels == hierarchy.classes.index(members[member])).nonzero()[:, 0]
            left, chosen = place * (side + 1), found[torch.randint(len(found), (), generator=rng)]
            strip[:, :, left : left + side] = images[chosen]
            axis.text(left + side / 2, side * 1.17, label(members[member]), ha="center", fontsize=7)
        axis.imshow(strip.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
        axis.set_title(superclass, loc="left")
    return figure


def predictions(images: Tensor, truth: Sequence[str], said: Sequence[str], across: int = 12) -> Figure:
    """Images (uint8 [n, channels, side, side]) with their class; a wrong answer follows in brackets, and a frame."""
    rows = -(-len(images) // across)
    figure, axes = panels(rows, across, height=rows * (WIDTH / across + 0.25))
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, right, answer in zip(axes.flat, images, truth, said, strict=False):
        axis.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
        wrong = right != answer
        axis.set_title(f"{label(right)} ({label(answer)})" if wrong else label(right), fontsize=8, fontweight="normal")
        axis.axis("on" if wrong else "off")
        axis.set(xticks=[], yticks=[])
    return figure


def class_counts(dataset: Dataset) -> Figure:
    """How many classes a superclass has, and how many images of it are in every split."""
    parent, names = dataset.hierarchy.parent, dataset.hierarchy.superclasses
    splits = {name: parent[getattr(dataset, name).labels.cpu()] for name in SPLITS}
    counts = pd.DataFrame({name: torch.bincount(rows, minlength=len(names)) for name, rows in splits.items()}, names)
    figure, ((left, right),) = panels(1, 2, height=1 + 0.22 * len(names), sharey=True)
    left.barh(names, torch.bincount(parent).numpy(), color="0.4")
    counts.plot.barh(stacked=True, ax=right, width=0.8, cmap="cividis", edgecolor="white", linewidth=0.5, legend=False)
    for axis, unit in ((left, "classes"), (right, "images")):
        axis.set_xlabel(unit)
        plain_names(axis)
    left.invert_yaxis()
    figure.legend(loc="outside upper right", ncols=len(SPLITS))
    return figure


# -------------------------------------------------------------------- supernets


def learning_curves(records: Sequence[dict]) -> Figure:
    """Training loss over epochs by setting of superclass dropout. Settings score different logits: compare shapes."""
    rows = [{"setting": r["setting"], "seed": r["seed"], **epoch} for r in records for epoch in r["history"]]
    table = analysis.over_seeds(pd.DataFrame(rows), ["setting", "epoch"], "loss")
    figure, ((axis,),) = panels()
    for setting, look in looks(table.setting).items():
        line = table[table.setting == setting]
        draw_line(axis, line.epoch, line, label=setting, **look | {"markersize": 3})
    axis.set(xlabel="epoch", ylabel="training loss")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(title=f"superclass dropout\n({BAND})")
    return figure


def subnet_accuracy(records: Sequence[dict]) -> Figure:
    """Selection top-1 of the measured subnets over their cost, by setting of superclass dropout, bars over seeds.

    No lines: archs of the same cost may lie points apart. Settings stand side by side at the cost that they share.
    """
    table = analysis.over_seeds(analysis.accuracy_table(records), ["setting", "subnet", "madds"], "top1")
    settings = looks(table.setting)
    figure, ((axis,),) = panels()
    shifts = (np.arange(len(settings)) - (len(settings) - 1) / 2) * (table.madds.max() - table.madds.min()) / 1e6 / 150
    for shift, (setting, look) in zip(shifts, settings.items(), strict=True):
        line = table[table.setting == setting]
        look = look | {"linestyle": "", "elinewidth": 1, "alpha": 0.9}
        axis.errorbar(line.madds / 1e6 + shift, line["mean"], line.high - line["mean"], label=setting, **look)
    for name in ("smallest", "largest"):
        madds = table[table.subnet == name].madds.iloc[0] / 1e6
        axis.axvline(madds, color="0.8", linewidth=1, zorder=0)
        axis.text(madds, 1.01, name, ha="center", transform=axis.get_xaxis_transform())
    axis.set(xlabel=MADDS, ylabel=f"selection {TOP1}")
    title = f"superclass dropout ({BAND.replace('bands', 'bars')})"
    figure.legend(title=title, loc="outside lower center", ncols=min(len(settings), 4))
    return figure


def dropout_effect(records: Sequence[dict]) -> Figure:
    """Selection top-1 of the largest, random and smallest subnets by setting; a point a seed, a bar at their mean."""
    table = (
        analysis.accuracy_table(records).groupby(["setting", "subnet", "seed"], sort=False).top1.mean().reset_index()
    )
    seeds, settings = looks(table.seed), list(table.setting.unique())
    figure, (axes,) = panels(1, len(SUBNETS))
    for axis, subnet in zip(axes, SUBNETS, strict=True):
        top1 = table[table.subnet == subnet].pivot(index="setting", columns="seed", values="top1").loc[settings]
        axis.scatter(range(len(settings)), top1.mean(axis=1), marker="_", s=600, color="0.6", linewidth=2, label="mean")
        for shift, seed in zip(np.linspace(-0.12, 0.12, len(seeds)), seeds, strict=True):
            look = {name: seeds[seed][name] for name in ("color", "marker")}
            axis.scatter(np.arange(len(settings)) + shift, top1[seed], s=22, label=f"seed {seed}", zorder=3, **look)
        axis.set(title=subnet, xlim=(-0.5, len(settings) - 0.5))
        axis.set_xticks(range(len(settings)), settings, rotation=30, ha="right")
    axes[0].set_ylabel(f"selection {TOP1}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(seeds) + 1)
    return figure


# -------------------------------------------------------------------- generator


def generator_losses(records: Sequence[dict]) -> Figure:
    """Loss of the generator over steps, a panel for each signal: mean over seeds, smoothed over 2 % of the steps."""
    signals = list(dict.fromkeys(name for record in records for name in record if name.startswith("loss_")))
    figure, (axes,) = panels(1, len(signals), height=3)
    look = looks([record["supernet"] for record in records])
    for axis, signal in zip(axes, signals, strict=True):
        for supernet in look:
            histories = [r[signal] for r in records if r["supernet"] == supernet and signal in r]
            loss = pd.Series(np.mean(histories, 0)).rolling(max(1, len(histories[0]) // 50), min_periods=1).mean()
            axis.plot(range(1, len(loss) + 1), loss, label=supernet, **look[supernet] | {"marker": ""})
        axis.set(title=signal.removeprefix("loss_"), xlabel="step")
    axes[0].set_ylabel("loss")
    axes[-1].legend(title="supernet")
    return figure


def generated_archs(archs: Tensor, names: Sequence[str], space: SearchSpace) -> Figure:
    """Relative width of every block of every superclass's arch (int64 [n, decisions]); an absent block is blank."""
    widths = analysis.relative_widths(archs, space).numpy()
    table = pd.DataFrame(widths, names, analysis.block_names(space))
    figure, ((axis,),) = panels(height=1.2 + 0.24 * len(table))
    draw_map(axis, table, "width / stage's width", vmin=0, vmax=1, fmt=".2g")
    for stage in range(1, space.stages):
        axis.axvline(stage * space.blocks_per_stage, color="black", linewidth=1.5)
    axis.set(xlabel="stage.block", ylabel="")
    return figure


def draw_arch(space: SearchSpace, arch: Tensor, classes_kept: int = 0) -> Figure:
    """One arch as a row of blocks, as high as they have inner channels; outlines show the largest possible."""
    figure, ((axis,),) = panels(height=2.6)
    full = space.inner_channels[:, -1].tolist()
    kept = [row + [0] * (space.blocks_per_stage - len(row)) for row in space.describe(arch)]
    channels = [width for row in kept for width in row]
    shades = np.repeat(sns.color_palette("cividis", space.stages), space.blocks_per_stage, axis=0)
    axis.bar(range(space.blocks), full, 0.8, fill=False, edgecolor="0.7", linestyle=":")
    bars = axis.bar(range(space.blocks), channels, 0.8, color=shades)
    axis.bar_label(bars, [width or "" for width in channels], padding=1)
    for stage in range(space.stages):
        side, middle = space.resolution(stage), (stage + 0.5) * space.blocks_per_stage - 0.5
        axis.text(middle, max(full) * 1.15, f"stage {stage + 1}, {side} x {side} pixels", ha="center")
        axis.axvline(middle + space.blocks_per_stage / 2, color="0.5", linewidth=0.8 * (stage + 1 < space.stages))
    axis.set_xticks(range(space.blocks), analysis.block_names(space))
    counted = f"classifier of {classes_kept} classes" if classes_kept else "without classifier"
    axis.set_title(f"{space.madds(arch, classes_kept).item() / 1e6:.2f} M MAdds, {counted}", loc="left")
    axis.set(xlabel="stage.block", ylabel="inner channels", ylim=(0, max(full) * 1.3), xlim=(-0.5, space.blocks - 0.5))
    axis.grid(False)
    return figure


# -------------------------------------------------------------------- comparison


def accuracy_over_madds(comparison: pd.DataFrame, kind: Kind = "single") -> Figure:
    """Mean top-1 of single superclasses (or unions) over the mean cost at every budget, a panel for each supernet.

    Without what only some scenarios or some seeds have: a mean of other supernets does not stand beside these.
    """
    rows = analysis.only(analysis.on_all_seeds(comparison[~comparison.method.isin(analysis.FEW)]), kind)
    by = ["supernet", "method", "budget_madds"]
    table = analysis.over_seeds(rows, by, "top1").assign(madds=analysis.over_seeds(rows, by, "madds")["mean"] / 1e6)
    supernets, every = table.supernet.unique(), looks(table.method, METHODS)
    figure, (axes,) = panels(1, len(supernets), height=4.2, sharey=True)
    for method in (name for name in every if name in set(table.method)):
        for axis, supernet in zip(axes, supernets, strict=True):
            line = table[(table.method == method) & (table.supernet == supernet)]
            if method in BANDED:
                draw_line(axis, line.madds, line, label=label(method), **every[method])
            else:
                axis.plot(line.madds, line["mean"], label=label(method), **every[method])
            axis.set(title=f"supernet {supernet}", xlabel=MADDS)
    axes[0].set_ylabel(f"{TOP1}, {kind}s" if kind == "union" else TOP1)
    title = f"{BAND}, of {', '.join(label(name) for name in BANDED if name in set(table.method))}"
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, title=title)
    return figure


def heat_map(comparison: pd.DataFrame, method: str = "generator", supernet: str = "eas") -> Figure:
    """Top-1 of one method for every single superclass and budget, mean over seeds."""
    rows = analysis.only(comparison, "single")
    rows = rows[(rows.method == method) & (rows.supernet == supernet)]
    table = rows.pivot_table("top1", "scenario", "budget_madds", sort=False).rename(columns=lambda b: f"{b / 1e6:g}")
    figure, ((axis,),) = panels(height=1.2 + 0.26 * len(table))
    draw_map(axis, table, TOP1)
    axis.set(xlabel="budget, multiply-adds (M)", ylabel="", title=f"{label(method)}, supernet {supernet}")
    return figure


def branch_gain(comparison: pd.DataFrame) -> Figure:
    """Points of the generated archs over OFA's way, superclass by superclass: with branches and with shared weights."""
    gains = []
    for method, name in (("generator_branch", "with branches"), ("generator", "shared weights")):
        sides = [analysis.scenarios_of(comparison, *side) for side in ((method, "eas"), ("ofa_evolution", "ofa"))]
        gain = (sides[0] - sides[1]).dropna().rename("gain").reset_index().assign(weights=name)
        gains.append(gain[~gain.scenario.str.contains("+", regex=False)])
    table = analysis.over_seeds(pd.concat(gains), ["weights", "scenario"], "gain").set_index("scenario")
    order = table[table.weights == "with branches"]["mean"].sort_values().index
    figure, ((axis,),) = panels(height=0.9 + 0.24 * len(order))
    for shift, (name, look) in zip((0.15, -0.15), looks(table.weights).items(), strict=True):
        rows = table[table.weights == name].loc[order]
        place = np.arange(len(order)) + shift
        axis.hlines(place, rows.low, rows.high, color=look["color"], linewidth=1)
        axis.scatter(rows["mean"], place, s=28, color=look["color"], marker=look["marker"], label=name, zorder=3)
    axis.axvline(0, color="0.3", linewidth=1)
    axis.set_yticks(range(len(order)), [label(name) for name in order])
    plain_names(axis)
    axis.set_xlabel("generator minus OFA's way, points of superclass top-1 (lines: 95 % interval over seeds)")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)  # inside it would cover intervals
    return figure


def search_time(timing: pd.DataFrame) -> Figure:
    """Seconds for a scenario on a logarithmic axis, and in times of the generator's.

    `timing` has columns method and seconds_per_scenario, or is the comparison; medians where a method has several rows.
    """
    column = "seconds_per_scenario" if "seconds_per_scenario" in timing else "search_seconds"
    seconds = timing.groupby("method")[column].median().sort_values()
    figure, ((axis,),) = panels(height=1 + 0.3 * len(seconds))
    bars = axis.barh([label(name) for name in seconds.index], seconds, color="0.45")
    axis.bar_label(bars, [f"× {float(f'{ratio:.3g}'):,.10g}" for ratio in seconds / seconds["generator"]], padding=4)
    axis.set(xscale="log", xlim=(seconds.min() / 2, seconds.max() * 12), xlabel="seconds for a scenario")
    axis.invert_yaxis()
    plain_names(axis)
    return figure


def step_shares(shares: Mapping[str, float]) -> Figure:
    """Where the time of a training step goes: percent by kind of operation."""
    figure, ((axis,),) = panels(height=0.8 + 0.25 * len(shares))
    bars = axis.barh(list(shares), list(shares.values()), color="0.45")
    axis.bar_label(bars, [f"{share:.0f} %" for share in shares.values()], padding=4)
    axis.set(xlim=(0, 1.1 * max(shares.values())), xlabel="share of a training step's time (%)")
    axis.invert_yaxis()
    plain_names(axis)
    return figure


def split_half_scatter(accuracy: Tensor) -> Figure:
    """Effects as estimated on two halves of the images: of the arch, and of arch and superclass together.

    `accuracy` [2, archs, superclasses], one repeat of `analysis.half_accuracy`. What is real lies on the diagonal.
    """
    arch, _, interaction = analysis.effects(accuracy)
    figure, (axes,) = panels(1, 2, height=4.2)
    for axis, name, effect in zip(axes, ("arch", "arch x superclass"), (arch, interaction), strict=True):
        first, second = effect.flatten(1).numpy()
        reach = effect.abs().max().item() * 1.05
        correlation = np.corrcoef(first, second)[0, 1]
        axis.axline((0, 0), slope=1, color="0.6", linewidth=1, linestyle="--")
        axis.scatter(first, second, s=8, alpha=min(1, 200 / len(first) + 0.1), color="black", linewidth=0)
        axis.set(
            title=f"{name}: correlation {correlation:.2f}", xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal"
        )
        axis.set(xlabel="effect on half A (points)", ylabel="effect on half B (points)")
    return figure


def swap_matrix(swap: pd.DataFrame, supernet: str = "eas") -> Figure:
    """Points lost (above 0) by the row's arch in place of the column's own, mean over budgets and seeds."""
    rows = swap[swap.supernet == supernet]
    top1 = rows.pivot_table("top1", "arch_of", "used_for", sort=False)
    top1 = top1[top1.index]
    loss = (np.diag(top1) - top1).round(1) + 0.0  # no -0.0
    figure, ((axis,),) = panels(height=2.2 + 0.28 * len(loss))
    draw_map(axis, loss, "loss of top-1 (points)")
    axis.set(xlabel="used for", ylabel="arch of", title=f"supernet {supernet}")
    plt.setp(axis.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
    return figure


def specialized_comparison(rows: pd.DataFrame) -> Figure:
    """One scenario: top-1 of every row as a bar, with its cost; columns method, top1, madds."""
    figure, ((axis,),) = panels(height=1 + 0.3 * len(rows))
    bars = axis.barh([label(name) for name in rows.method], rows.top1, color="0.45")
    texts = [f"{row.top1:.1f} %, {row.madds / 1e6:.2f} M MAdds" for row in rows.itertuples()]
    axis.bar_label(bars, texts, padding=4)
    axis.set(xlabel=TOP1, xlim=(0, 130), xticks=range(0, 101, 20))
    axis.invert_yaxis()
    plain_names(axis)
    return figure
