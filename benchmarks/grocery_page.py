"""reports/grocery: a page, a figure and metrics.json, from networks.csv alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from eas.data import Dataset
from eas.files import write_text
from pipeline.report import figures
from pipeline.report.stats import Interval, interval

PAGE = Path(__file__).with_name("grocery.md")
LABELS = {
    "eas": "EAS, one kit",
    "finetuned_once": "Lite0 fine-tuned once",
    "finetuned_each": "Lite0 fine-tuned for each",
    "pruned": "pruned for each, tuned",
}
LOOKS = {  # color, marker, line
    "eas": ("#0b5fa5", "o", "-"),
    "finetuned_once": ("#202020", "s", ""),
    "finetuned_each": ("#d4a300", "*", ""),
    "pruned": ("#b5122b", "v", "--"),
}


def render(folder: Path) -> None:
    """Write README.md, the figure and metrics.json beside networks.csv.

    A method's means are over the seeds that it has all groups of; differences are of the seeds that both have.
    FileNotFoundError where the table is missing; ValueError where a method has no such seed.
    """
    path = folder / "networks.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: measure first, without --render")
    networks = whole_seeds(pd.read_csv(path))
    if lacking := [method for method in LABELS if method not in set(networks.method)]:
        raise ValueError(f"{path} lacks {', '.join(lacking)}: the same command without --methods measures the rest")
    groups = means(networks, "group")
    numbers = differences(networks)
    save_figure(draw(groups, numbers), folder, "groups")
    told = {name: [round(each, 3) for each in value if math.isfinite(each)] for name, value in numbers.items()}
    write_text(folder / "metrics.json", json.dumps(told, indent=1) + "\n")
    of_groups = networks[networks.kind == "group"]
    parts = {
        "groups": of_groups.scenario.nunique(),
        "seeds": seeds_of(networks),
        "machine": " and ".join(networks.machine.unique()),
        "verdict": verdict(numbers),
        "table": with_minutes(groups, of_groups).to_markdown(index=False),
        "by_group": by_group(of_groups).to_markdown(index=False),
        "others": others(networks).to_markdown(index=False),
        "weights": weights(networks),
        "trials": trials(folder / "trials.csv"),
    }
    write_text(folder / "README.md", PAGE.read_text(encoding="utf-8").format(**parts))


def whole_seeds(networks: pd.DataFrame) -> pd.DataFrame:
    """The rows of methods and seeds that have all groups: means over some of the groups would not compare."""
    groups = networks[networks.kind == "group"]
    count = groups.groupby(["method", "seed"]).scenario.nunique()
    whole = count.index[count == groups.scenario.nunique()]
    return networks[pd.MultiIndex.from_frame(networks[["method", "seed"]]).isin(whole)]


def seeds_of(networks: pd.DataFrame) -> str:
    """How many seeds the methods have, where they differ the fewest and the most."""
    counts = networks.groupby("method").seed.nunique()
    fewest, most = counts.min(), counts.max()
    return f"{most}" if fewest == most else f"{fewest} to {most}, as the table says"


def means(networks: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Columns method, share, madds, kilobytes and top1, low, high: the mean over a kind's scenarios, over seeds."""
    rows = []
    for (method, share), table in networks[networks.kind == kind].groupby(["method", "share"]):
        top1 = interval(table.groupby("seed").top1.mean())
        rows.append([method, share, table.madds.mean() / 1e6, table.parameters.mean() * 4 / 1e3, *top1])
    table = pd.DataFrame(rows, columns=["method", "share", "madds", "kilobytes", "top1", "low", "high"])
    order = {name: place for place, name in enumerate(LABELS)}
    return table.sort_values(["method", "share"], key=lambda c: c.map(order) if c.name == "method" else -c)


def differences(networks: pd.DataFrame) -> dict[str, Interval]:
    """Points of the kit's networks over opponents', on groups, paired by seed; and the top-1 of each by itself."""
    top1 = networks[networks.kind == "group"].groupby(["method", "share", "seed"]).top1.mean()
    found = {f"top1_{method}_{share:g}": interval(top1[method, share]) for method, share in top1.index.droplevel(2)}
    for share in networks[networks.method == "eas"].share.unique():
        for method in ("finetuned_once", "finetuned_each"):
            found[f"eas_{share:g}_minus_{method}"] = interval((top1["eas", share] - top1[method, 1.0]).dropna())
        if ("pruned", share) in found or (top1.index.droplevel(2) == ("pruned", share)).any():
            found[f"eas_{share:g}_minus_pruned"] = interval((top1["eas", share] - top1["pruned", share]).dropna())
    return found


def points(difference: Interval) -> str:
    """A difference with its interval, where there is one."""
    bounds = "" if math.isnan(difference.low) else f" [{difference.low:+.1f}, {difference.high:+.1f}]"
    return f"{difference.mean:+.1f}{bounds}"


def verdict(numbers: dict[str, Interval]) -> str:
    """What was found, before its numbers."""
    better = max(("finetuned_once", "finetuned_each"), key=lambda name: numbers[f"top1_{name}_1"].mean)
    part, same = (compared(numbers, name) for name in (better, "pruned"))
    whole = points(numbers[f"eas_1_minus_{better}"])
    return "\n".join(
        (
            f"- **With a part of the multiply-adds the kit's networks are {part} the better of the fine-tuned ones** "
            f"({LABELS[better]}), which has all of them: {at_parts(numbers, better)}; with all: {whole} points.",
            f"- **At the same multiply-adds they are {same} networks that were pruned for each group**: "
            f"{at_parts(numbers, 'pruned')}.",
        )
    )


def parts(numbers: dict[str, Interval], opponent: str) -> dict[str, Interval]:
    """By the part of the multiply-adds in words: points of the kit's networks over an opponent's."""
    return {words: numbers[f"eas_{share:g}_minus_{opponent}"] for share, words in ((0.5, "half"), (0.25, "a quarter"))}


def compared(numbers: dict[str, Interval], opponent: str) -> str:
    """Whether the kit's networks are ahead."""
    ahead = {found.mean > 0 for found in parts(numbers, opponent).values()}
    if len(ahead) > 1:
        return "at one budget ahead of, at the other behind"
    return "ahead of" if ahead == {True} else "behind"


def at_parts(numbers: dict[str, Interval], opponent: str) -> str:
    """By how many points, at each part."""
    return ", ".join(f"{points(found)} points at {words}" for words, found in parts(numbers, opponent).items())


def draw(groups: pd.DataFrame, numbers: dict[str, Interval]) -> Figure:
    """Top-1 over multiply-adds, a line or a point for each method."""
    figures.style()
    figure, axes = figures.panels(height=3.6)
    axis = axes[0, 0]
    for method, table in groups.groupby("method", sort=False):
        color, marker, line = LOOKS[method]
        error = [table.top1 - table.low, table.high - table.top1]
        look = {"color": color, "marker": marker, "linestyle": line, "capsize": 2, "markersize": 8 if not line else 5}
        axis.errorbar(table.madds, table.top1, None if table.low.isna().any() else error, label=LABELS[method], **look)
    axis.set_xlabel("million multiply-adds")
    axis.set_ylabel("top-1 on test (%)")
    axis.set_title(f"At the same multiply-adds, one kit's networks are {compared(numbers, 'pruned')} pruned ones")
    axis.legend()
    return figure


def save_photographs(dataset: Dataset, folder: Path) -> None:
    """A photograph of every group, of those to test on, as a figure of the page."""
    figures.style()
    hierarchy, test = dataset.hierarchy, dataset.test
    figure, axes = figures.panels(1, len(hierarchy.superclasses), height=1.3)
    for axis, name in zip(axes.flat, hierarchy.superclasses, strict=True):
        row = int(hierarchy.class_mask([name])[test.labels].nonzero()[0])
        axis.imshow(test.images[row].permute(1, 2, 0).numpy())
        axis.set_title(name.replace("_", "\n"), fontsize=7, loc="center")
        axis.axis("off")
    save_figure(figure, folder, "photographs")


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure where the page looks for it."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "figures" / f"{name}.png")
    plt.close(figure)


def with_minutes(groups: pd.DataFrame, networks: pd.DataFrame) -> pd.DataFrame:
    """The table of the groups: with minutes to the first network and to all of them, in the median over seeds."""
    rows = []
    for each in groups.itertuples():
        own = networks[networks.method == each.method]
        first = (own.minutes_before + own.seconds / 60).median()
        every = (own.groupby("seed").minutes_before.max() + own.groupby("seed").seconds.sum() / 60).median()
        if each.method == "pruned":  # a group's rows go on from one another: the last one's seconds are all of them
            every = own.groupby(["seed", "scenario"]).seconds.max().groupby("seed").sum().median() / 60
        top1 = f"{each.top1:.1f}" + ("" if math.isnan(each.low) else f" [{each.low:.1f}, {each.high:.1f}]")
        size = f"{each.kilobytes:,.0f}"
        seeds, minutes = own.seed.nunique(), [f"{first:.1f}", f"{every:.1f}"]
        rows.append([LABELS[each.method], f"{each.madds:.1f}", size, top1, seeds, *minutes])
    names = ["networks", "M multiply-adds", "kB", "top-1 (%)", "seeds", "minutes: first", "all"]
    return pd.DataFrame(rows, columns=names)


def by_group(networks: pd.DataFrame) -> pd.DataFrame:
    """Top-1 of every group, mean over seeds, by method and share of the multiply-adds; and its images on test."""
    columns = [("eas", 1.0), ("eas", 0.5), ("eas", 0.25), ("pruned", 0.5), ("pruned", 0.25)]
    columns += [("finetuned_once", 1.0), ("finetuned_each", 1.0)]
    table = networks.groupby(["scenario", "method", "share"], sort=False).top1.mean().unstack(["method", "share"])
    found = {f"{LABELS[method]}, {share:.0%}": table[method, share].round(1) for method, share in columns}
    images = networks.groupby("scenario", sort=False).images.first()
    return pd.DataFrame({"images": images} | found).rename_axis("group").reset_index()


def others(networks: pd.DataFrame) -> pd.DataFrame:
    """Top-1 of folders and pairs, mean over seeds and over sets of a kind."""
    rows = []
    for kind in ("pair", "folder"):
        table = networks[networks.kind == kind].groupby(["method", "share"]).top1.mean()
        cells = {f"EAS, {share:.0%}": table["eas", share] for share in (1.0, 0.5, 0.25)}
        cells[LABELS["finetuned_once"]] = table["finetuned_once", 1.0]
        rows.append({"sets": f"{kind}s", "networks": networks[networks.kind == kind].scenario.nunique(), **cells})
    return pd.DataFrame(rows).round(1)


def weights(networks: pd.DataFrame) -> str:
    """Of how many scenarios the kit's weights are branches."""
    own = networks[networks.method == "eas"].drop_duplicates(["seed", "scenario"])
    branches = int((own.weights == "branches").sum())
    return f"branches serve {branches} of {len(own)} sets of classes and seeds"


def trials(path: Path) -> str:
    """What was tried on the validation photographs, where that was kept."""
    if not path.is_file():
        return "No trials were kept: `python -m benchmarks.grocery_trials` makes them."
    rows = pd.read_csv(path)
    table = trials_table(rows.assign(trial=rows.trial.map(in_words)))
    text = table.to_markdown(index=False, floatfmt=("", "g", *[".1f"] * (len(table.columns) - 2))).replace("nan", "")
    return f"{text}\n\n{same_groups(rows)}".strip()


def in_words(trial: str) -> str:
    """A trial of fine-tuning as a reader would name it; the kit's have names of their own."""
    for how in ("once", "each"):
        trial = trial.replace(f"finetuned-{how}-", f"fine-tuned {how}, rate ")
    return trial.replace("-batch-", ", images a step: ")


def trials_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns trial, groups, and top-1 for each share of multiply-adds: the mean over the groups, of which some trials
    were given a few only."""
    table = rows.pivot_table("top1", "trial", "share", "mean").sort_index(axis=1)
    table.columns = [f"top-1 at {share:.0%}" for share in table.columns]
    table.insert(0, "groups", rows.groupby("trial").group.nunique())
    return table.round(2).reset_index()


def same_groups(rows: pd.DataFrame) -> str:
    """Trials of fine-tuning for each group that were given several groups, on the groups that all of them have."""
    own = rows[rows.trial.str.startswith("finetuned-each-")].pivot_table("top1", "trial", "group", "mean")
    common = own[own.notna().sum(axis=1) > 1].dropna(axis=1)
    told = "; ".join(f"{in_words(name)}, {top1:.1f} %" for name, top1 in common.mean(axis=1).items())
    return f"Top-1 on the {common.shape[1]} groups that these share: {told}." if len(common) > 1 else ""
