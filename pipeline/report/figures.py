"""Plots of data and generators, and what all figures share; each returns a figure. Call `style` once before them.

Markers, lines and shades carry the meaning as well as colours, so that a print in grey can be read. Bands and bars of
uncertainty are 95 % intervals over seeds (Student's t), left out where there is one seed.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from itertools import accumulate, cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from eas.data import SPLITS, Dataset, Hierarchy
from eas.spaces.base import ChoiceSpace
from pipeline.methods import METHODS
from pipeline.report import claims

NOT_SHOWN = "*The images are not shown here, as their terms do not allow it.*"
CROWDED = 12  # blocks, of more the forms are written small
WRAPPED, LETTERS = 10, 76  # of a class's name in a line; of all names beside one another
WIDTH = 8.0  # inches, with the dots per inch of `style` as wide as a page on GitHub
TOP1, MADDS = "superclass top-1 (%)", "multiply-adds (M)"
BAND = "bands: 95 % interval over seeds"
WRONG = "#b5122b"  # the colour of a wrong answer
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
    return METHODS[name].label if name in METHODS else name.replace("ofa_", "OFA ").replace("_", " ")


def looks(names: Iterable[str]) -> dict[str, dict]:
    """Colour, marker and line of every name, in turn."""
    darker = [tuple(0.75 * part for part in colour) for colour in sns.color_palette("colorblind", 10)]
    colours, dashes = cycle(darker), cycle(("-", "--", "-.", ":"))  # the palette's yellow and pink are pale on white
    turns = zip(dict.fromkeys(names), colours, cycle("os^vDPX<>*h"), dashes, strict=False)
    return {name: {"color": c, "marker": m, "linestyle": d, "markersize": 5} for name, c, m, d in turns}


def method_looks(names: Iterable[str]) -> dict[str, dict]:
    """Those of methods: the same in every figure, whichever of them it shows, in the order of METHODS."""
    names = set(names)
    known = {name: METHODS[name] for name in METHODS if name in names}
    drawn = {
        name: {"color": m.color, "marker": m.marker, "linestyle": m.linestyle, "markersize": 5}
        for name, m in known.items()
    }
    return drawn | looks(sorted(names - set(METHODS)))


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


def seeds_told(seeds: Iterable[int], drawn: str = "bands") -> str:
    """Which seeds a figure is of, and what it draws of their spread."""
    seeds = sorted(set(seeds))
    if len(seeds) == 1:
        return f"seed {seeds[0]} only"
    return f"{len(seeds)} seeds, {drawn}: 95 % interval"


def same_span(axes: Iterable[Axes]) -> None:
    """Give vertical axes the same length, so that a distance means the same in all of them."""
    limits = [axis.get_ylim() for axis in axes]
    half = max(high - low for low, high in limits) / 2
    for axis, (low, high) in zip(axes, limits, strict=True):
        axis.set_ylim((low + high) / 2 - half, (low + high) / 2 + half)


# -------------------------------------------------------------------- data


def contact_sheet(images: Tensor, labels: Tensor, hierarchy: Hierarchy, per_superclass: int = 8) -> Figure:
    """Pictures of up to `per_superclass` classes of every superclass; images uint8 [n, channels, side, side]."""
    rng, side = torch.Generator().manual_seed(0), images.shape[-1]
    names = {name: textwrap.fill(label(name), WRAPPED, break_long_words=False) for name in hierarchy.classes}
    widest = max(len(line) for name in names.values() for line in name.splitlines())
    across = min(per_superclass, max(map(len, hierarchy.members)), max(1, LETTERS // widest))
    rows, lines = -(-len(hierarchy.members) // 2), 1 + max(name.count("\n") for name in names.values())
    figure, axes = panels(rows, 2, height=rows * (4.2 / across + 0.32 + 0.1 * lines))
    for axis in axes.flat:
        axis.axis("off")
    for axis, superclass, members in zip(axes.flat, hierarchy.superclasses, hierarchy.members, strict=False):
        picked = np.linspace(0, len(members) - 1, min(across, len(members))).round().astype(int)
        strip = torch.full((images.shape[1], side, across * (side + 1) - 1), 255, dtype=torch.uint8)
        for place, member in enumerate(picked):
            found = (labels == hierarchy.classes.index(members[member])).nonzero()[:, 0]
            left, chosen = place * (side + 1), found[torch.randint(len(found), (), generator=rng)]
            strip[:, :, left : left + side] = images[chosen]
            axis.text(left + side / 2, side * 1.05, names[members[member]], ha="center", va="top", fontsize=7)
        axis.imshow(strip.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
        axis.set_title(superclass, loc="left")
    return figure


def predictions(images: Tensor, truth: Sequence[str], said: Sequence[str], across: int = 8) -> Figure:
    """Images (uint8 [n, channels, side, side]) under their class; a wrong answer stands below, in red."""
    rows = -(-len(images) // across)
    figure, axes = panels(rows, across, height=rows * (WIDTH / across + 0.4))
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, right, answer in zip(axes.flat, images, truth, said, strict=False):
        axis.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
        axis.set_title(label(right), fontsize=8, fontweight="normal")
        axis.set(xticks=[], yticks=[])
        if right != answer:
            axis.axis("on")
            axis.set_xlabel(label(answer), fontsize=8, color=WRONG)
    return figure


def class_counts(dataset: Dataset) -> Figure:
    """How many classes a superclass has, and how many images of it are in every split."""
    parent, names = dataset.hierarchy.parent, dataset.hierarchy.superclasses
    splits = {name: parent[getattr(dataset, name).labels.cpu()] for name in SPLITS}
    counts = pd.DataFrame({name: torch.bincount(rows, minlength=len(names)) for name, rows in splits.items()}, names)
    figure, ((left, right),) = panels(1, 2, height=1 + 0.22 * len(names), sharey=True)
    classes = torch.bincount(parent, minlength=len(names)).numpy()
    left.barh(names, classes, color="0.4")
    counts.plot.barh(stacked=True, ax=right, width=0.8, cmap="cividis", edgecolor="white", linewidth=0.5, legend=False)
    for axis, unit in ((left, "classes"), (right, "images")):
        axis.set_xlabel(unit)
        plain_names(axis)
    left.invert_yaxis()
    figure.legend(loc="outside lower right", ncols=len(SPLITS))
    return claims.say(figure, claims.sizes(classes, counts.sum(axis=1).to_numpy()))


# -------------------------------------------------------------------- generator


def generator_losses(records: Sequence[dict]) -> Figure:
    """Loss of the generator over steps, a panel for each signal: mean over seeds, smoothed over 2 % of the steps."""
    signals = list(dict.fromkeys(name for record in records for name in record if name.startswith("loss_")))
    figure, (axes,) = panels(1, len(signals), height=3)
    look, done = looks([record["supernet"] for record in records]), {}
    for axis, signal in zip(axes, signals, strict=True):
        for supernet in look:
            histories = [r[signal] for r in records if r["supernet"] == supernet and signal in r]
            loss = pd.Series(np.mean(histories, 0)).rolling(max(1, len(histories[0]) // 50), min_periods=1).mean()
            axis.plot(range(1, len(loss) + 1), loss, label=supernet, **look[supernet] | {"marker": ""})
            done[signal, supernet] = claims.fall_done(loss)
        axis.set(title=label(signal.removeprefix("loss_")), xlabel="step")
    axes[0].set_ylabel("loss")
    axes[-1].legend(title="supernet")
    return claims.say(figure, claims.losses(done))


def block_sizes(archs: Tensor, space: ChoiceSpace) -> Tensor:
    """How large every block is drawn (see ChoiceSpace.form_sizes), NaN where it is absent, float [..., blocks].

    Here and below, of the blocks that there are (ChoiceSpace.in_stage).
    """
    sizes = space.form_sizes()[torch.arange(space.blocks), space.form_of(archs)]
    return sizes.masked_fill(~space.active(archs), math.nan)[..., space.in_stage]


def full_sizes(space: ChoiceSpace) -> Tensor:
    """How large every block is drawn at most, float [blocks]."""
    return space.form_sizes().amax(-1)[space.in_stage]


def stage_ends(space: ChoiceSpace) -> list[int]:
    """How many blocks there are up to the end of every stage."""
    return list(accumulate(depths[-1] for depths in space.stage_depths))


def block_forms(arch: Tensor, space: ChoiceSpace) -> list[str]:
    """What a reader calls the form of every block of one arch, nothing where it is absent; [blocks]."""
    of_arch = space.form_of(arch).tolist(), space.active(arch).tolist(), space.in_stage.tolist()
    rows = zip(space.form_names(), *of_arch, strict=True)
    return [names[form] if kept else "" for names, form, kept, there in rows if there]


def generated_archs(archs: Tensor, names: Sequence[str], space: ChoiceSpace) -> Figure:
    """Every block's size as a share of its largest form, of archs int64 [n, decisions]; an absent block is blank."""
    sizes = block_sizes(archs, space) / full_sizes(space)
    if space.image_sizes:
        pixels = (space.at_size_of(arch)[0].image_size for arch in archs)
        names = [f"{name}, {size} pixels" for name, size in zip(names, pixels, strict=True)]
    table = pd.DataFrame(sizes.numpy(), names, space.block_names())
    figure, ((axis,),) = panels(height=1.2 + 0.24 * len(table))
    draw_map(axis, table, "share of the block's largest form", vmin=0, vmax=1, fmt=".2g")
    for end in stage_ends(space)[:-1]:
        axis.axvline(end, color="black", linewidth=1.5)
    axis.set(xlabel="stage.block", ylabel="")
    return claims.say(figure, claims.archs(len(archs), len(archs.unique(dim=0))))


def draw_arch(space: ChoiceSpace, arch: Tensor, class_count: int = 0) -> Figure:
    """One arch as a row of blocks, each with its form's name and size; outlines show the largest possible."""
    figure, ((axis,),) = panels(height=2.6)
    full, sizes, ends = full_sizes(space), block_sizes(arch, space).nan_to_num(), stage_ends(space)
    blocks = range(len(full))
    shades = np.repeat(sns.color_palette("cividis", space.stages), np.diff(ends, prepend=0), 0)
    axis.bar(blocks, full.numpy(), 0.8, fill=False, edgecolor="0.7", linestyle=":")
    forms = [form.replace(", ", "\n") for form in block_forms(arch, space)]
    bars = axis.bar(blocks, sizes.numpy(), 0.8, color=shades)
    small = {"fontsize": 7} if len(blocks) > CROWDED else {}
    axis.bar_label(bars, forms, padding=1, **small)
    top = full.max().item()
    for first, end, name in zip([0, *ends[:-1]], ends, space.at_size_of(arch)[0].stage_names(), strict=True):
        axis.text(
            (first + end - 1) / 2, top * 1.24, name.replace(", ", "\n").replace("pixels", "px"), ha="center", **small
        )
        axis.axvline(end - 0.5, color="0.5", linewidth=0.8 * (end < len(blocks)))
    axis.set_xticks(blocks, space.block_names())
    counted = f"classifier of {class_count} classes" if class_count else "without classifier"
    pixels = f", images of {space.at_size_of(arch)[0].image_size} pixels" if space.image_sizes else ""
    axis.set_title(f"{space.madds(arch, class_count).item() / 1e6:.2f} M MAdds, {counted}{pixels}", loc="left")
    axis.set(xlabel="stage.block", ylabel="size of a block", yticks=[], ylim=(0, top * 1.55))
    axis.set_xlim(-0.5, len(blocks) - 0.5)
    axis.grid(False)
    return figure
