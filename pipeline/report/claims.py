"""What a figure says, as a sentence over it, found from the numbers that are drawn: so it holds for every study."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

FALL = 0.9  # of a loss's whole fall
INCOMPARABLE = "Losses over different sets of classes: shapes compare, heights do not"


def say(figure: Figure, sentence: str) -> Figure:
    """Write a sentence over a figure, at its left edge; returns the figure."""
    figure.suptitle(sentence[:1].upper() + sentence[1:], x=0.01, ha="left", fontsize="large", fontweight="bold")
    return figure


def span(values: pd.Series | np.ndarray, form: str = ".1f") -> str:
    """From the least to the largest, or the one value that all have."""
    low, high = (format(each, form) for each in (np.min(values), np.max(values)))
    return low if low == high else f"{low} to {high}"


def sizes(classes: np.ndarray, images: np.ndarray) -> str:
    """Classes and images [superclasses] of all superclasses."""
    each = "Every superclass has" if len(set(classes)) == len(set(images)) == 1 else "A superclass has"
    return f"{each} {span(classes, 'd')} classes and {span(images, ',d')} images"


def curves(frame: pd.DataFrame) -> str:
    """Columns dropout, epoch, all_classes_loss and top-1 of both ends: what ends best, over all classes and its own."""
    last = frame[frame.epoch == frame.groupby("dropout").epoch.transform("max")].groupby("dropout", sort=False)
    ends = last[["all_classes_loss", "largest_top1", "smallest_top1"]].mean()
    top1 = ends[["largest_top1", "smallest_top1"]].mean(axis=1)
    return f"Lowest loss over all classes at the end: {ends.all_classes_loss.idxmin()}; most top-1: {top1.idxmax()}"


def settings(means: Mapping[str, float], seeds: Collection[int] = (), without: str = "none") -> str:
    """Mean top-1 of the settings of superclass dropout: the best of them beside none; of which seed, if it is one."""
    others = {name: mean - means[without] for name, mean in means.items() if name != without}
    if not others:
        return f"The subnets of one supernet reach {span(list(means.values()))} % in the mean"
    best = max(others, key=others.get)
    which = f"The best of {len(others)} dropouts, {best}," if len(others) > 1 else f"Dropout {best}"
    mean = f"seed {min(seeds)}'s mean" if len(seeds) == 1 else "the mean"
    return f"{which} changes {mean} by {others[best]:+.1f} points"


def losses(fractions: Mapping[str, float]) -> str:
    """Of every signal's loss, after which share of the steps it has done FALL of its fall."""
    done = span(100 * np.array(list(fractions.values())), ".0f")
    return f"{100 * FALL:.0f} % of a loss's fall is over after {done} % of the steps"


def fall_done(loss: pd.Series) -> float:
    """After which share of the steps a loss has done FALL of its fall, from its first to its least value."""
    reached = loss <= loss.iloc[0] - FALL * (loss.iloc[0] - loss.min())
    return (int(np.argmax(reached)) + 1) / len(loss)


def archs(count: int, different: int) -> str:
    """How many of the drawn archs differ."""
    if different == count:
        return f"All {count} archs differ"
    return f"Among {count} archs there are {different} different ones"


def leader(points: Mapping[str, float]) -> str:
    """Points over OFA's way by method: who is ahead."""
    best = max(points, key=points.get)
    return f"Most accurate: {best}, {points[best]:+.1f} points over OFA's way"


def spread(table: pd.DataFrame) -> str:
    """A table of top-1, superclasses x budgets: how far they differ along each."""
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    return f"Superclasses differ by {np.ptp(rows):.0f} points, budgets by {np.ptp(columns):.1f}"


def gains(table: pd.DataFrame) -> str:
    """Mean points over OFA's way with columns weights, mean: in how many superclasses each has any."""
    ahead = {name: int((rows["mean"] > 0).sum()) for name, rows in table.groupby("weights", sort=False)}
    count = len(table) // len(ahead)
    told = ", ".join(f"{name} in {many}" for name, many in ahead.items())
    return f"Ahead of OFA's way, of {count} superclasses: {told}"


def kinds(table: pd.DataFrame) -> str:
    """Columns kind, name, mean: which method gains most on how many kinds of sets."""
    best = table.loc[table.groupby("kind", sort=False)["mean"].idxmax()]
    name, count = best["name"].mode()[0], best["name"].value_counts().max()
    return f"Best on {count} of {len(best)} kinds of sets: {name}"


def expected(errors: pd.Series) -> str:
    """Measured minus expected top-1 of networks, in points."""
    return f"What a network will reach is told to {errors.abs().mean():.1f} points in the mean"


def times(ratios: Mapping[str, float]) -> str:
    """The slowest search, in times of the generator's."""
    slowest = max(ratios, key=ratios.get)
    return f"{slowest} takes {float(f'{ratios[slowest]:.2g}'):,.0f} times as long as the generator"


def shares(percent: Mapping[str, float]) -> str:
    """Which two kinds of operation take most."""
    first, second = sorted(percent, key=percent.get, reverse=True)[:2]
    return f"{percent[first] + percent[second]:.0f} % of a training step are {first} and {second}"


def halves(arch: float, interaction: float) -> str:
    """Correlations between two halves of the images: of an arch's effect, and of arch and superclass together."""
    return f"Correlation of the halves: arch {arch:.2f}, arch x superclass {interaction:.2f}"
