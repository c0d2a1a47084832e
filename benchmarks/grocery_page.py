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
MANY = 3  # seeds that an interval is told of
BUDGETS = {1.0: "the whole", 0.5: "half", 0.25: "a quarter"}  # of the multiply-adds, as findings name them
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
        "machine": timed(of_groups).machine.iloc[0],
        "verdict": verdict(numbers),
        "table": told_of_means(groups, of_groups).to_markdown(index=False, disable_numparse=True),
        "minutes": minutes(timed(of_groups)).to_markdown(index=False, disable_numparse=True),
        "by_group": markdown(by_set(networks), floatfmt=".1f"),
        "fewer": fewer(of_groups),
        "weights": weights(networks),
        "trials": trials(folder / "trials.csv"),
    }
    write_text(folder / "README.md", PAGE.read_text(encoding="utf-8").format(**parts))


def markdown(table: pd.DataFrame, **options) -> str:
    """A table as Markdown; what was not measured is an empty cell."""
    return table.astype(object).where(table.notna(), None).to_markdown(index=False, missingval="", **options)


def whole_seeds(networks: pd.DataFrame) -> pd.DataFrame:
    """The rows of methods and seeds that have all groups: means over some of the groups would not compare."""
    groups = networks[networks.kind == "group"]
    count = groups.groupby(["method", "seed"]).scenario.nunique()
    whole = count.index[count == groups.scenario.nunique()]
    return networks[pd.MultiIndex.from_frame(networks[["method", "seed"]]).isin(whole)]


def means(networks: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Columns method, share, madds, kilobytes and top1, low, high: the mean over a kind's scenarios, over seeds.

    Fewer than MANY seeds have no interval: that of two is too wide to tell anything.
    """
    rows = []
    for (method, share), table in networks[networks.kind == kind].groupby(["method", "share"]):
        top1 = interval(table.groupby("seed").top1.mean())
        if table.seed.nunique() < MANY:
            top1 = Interval(top1.mean, math.nan, math.nan)
        rows.append([method, share, table.madds.mean() / 1e6, table.parameters.mean() * 4 / 1e3, *top1])
    table = pd.DataFrame(rows, columns=["method", "share", "madds", "kilobytes", "top1", "low", "high"])
    order = {name: place for place, name in enumerate(LABELS)}
    return table.sort_values(["method", "share"], key=lambda c: c.map(order) if c.name == "method" else -c)


def differences(networks: pd.DataFrame) -> dict[str, Interval]:
    """Points of the kit's networks over opponents', and the top-1 of each by itself.

    The mean over the groups and its interval over them, of what the seeds that both have come to: these are few.
    """
    top1 = networks[networks.kind == "group"].pivot_table("top1", ["scenario", "seed"], ["method", "share"])
    found = {
        f"top1_{method}_{share:g}": interval(top1[method, share].groupby("scenario").mean()) for method, share in top1
    }
    for method, share in top1.drop(columns="eas", level="method"):
        for own in [share] if method == "pruned" else top1["eas"].columns:
            points = (top1["eas", own] - top1[method, share]).dropna().groupby("scenario").mean()
            found[f"eas_{own:g}_minus_{method}"] = interval(points)
    return found


def verdict(numbers: dict[str, Interval]) -> str:
    """What was found, before its numbers."""
    better = max(("finetuned_once", "finetuned_each"), key=lambda name: numbers[f"top1_{name}_1"].mean)
    return "\n".join(
        (
            f"- **Against {LABELS[better]}, the better of the fine-tuned networks, the kit's are "
            f"{standing(numbers, better)}** of its multiply-adds: {points(numbers, better)} points.",
            f"- **Against networks pruned for each group they are {standing(numbers, 'pruned')}**: "
            f"{points(numbers, 'pruned')} points.",
        )
    )


def against(numbers: dict[str, Interval], opponent: str) -> dict[str, Interval]:
    """The kit's points over an opponent, by budget in words."""
    names = {words: f"eas_{share:g}_minus_{opponent}" for share, words in BUDGETS.items()}
    return {words: numbers[name] for words, name in names.items() if name in numbers}


def standing(numbers: dict[str, Interval], opponent: str) -> str:
    """Ahead, level or behind, as far as the groups agree, at each budget."""
    stands: dict[str, list[str]] = {}
    for words, found in against(numbers, opponent).items():
        how = "ahead" if found.low > 0 else "behind" if found.high < 0 else "level"
        stands.setdefault(how, []).append(f"at {words}")
    return ", ".join(f"{how} {' and '.join(budgets)}" for how, budgets in stands.items())


def points(numbers: dict[str, Interval], opponent: str) -> str:
    """By how many points, at each budget."""
    found = against(numbers, opponent).values()
    return ", ".join(f"{each.mean:+.1f} [{each.low:+.1f}, {each.high:+.1f}]" for each in found)


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
    told = standing(numbers, "pruned")
    axis.set_title(f"One kit against pruning for each group: {told}, as far as groups agree")
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


def told_of_means(groups: pd.DataFrame, networks: pd.DataFrame) -> pd.DataFrame:
    """The table of the groups' means."""
    seeds, rows = networks.groupby("method").seed.nunique(), []
    for each in groups.itertuples():
        top1 = f"{each.top1:.1f}" + ("" if math.isnan(each.low) else f" [{each.low:.1f}, {each.high:.1f}]")
        rows.append([LABELS[each.method], f"{each.madds:.1f}", f"{each.kilobytes:,.0f}", top1, seeds[each.method]])
    return pd.DataFrame(rows, columns=["networks", "M multiply-adds", "kB", "top-1 (%)", "seeds"])


def timed(networks: pd.DataFrame) -> pd.DataFrame:
    """Rows of one machine, as minutes of several do not compare: of those with most methods, that with most rows."""
    machines = networks.groupby("machine").agg(methods=("method", "nunique"), rows=("method", "size"))
    return networks[networks.machine == max(machines.itertuples(), key=lambda each: (each.methods, each.rows)).Index]


def minutes(networks: pd.DataFrame) -> pd.DataFrame:
    """How long a method takes for its first network and for all of the groups', in the median over seeds."""
    rows = []
    for method, label in LABELS.items():
        own = networks[networks.method == method]
        largest = own[own.share == own.share.max()]
        first = (largest.minutes_before + largest.seconds / 60).median()
        # A group's pruned networks go on from one another: the last one's seconds are all of them.
        of_group = own.groupby(["seed", "scenario"]).seconds
        spent = (of_group.max() if method == "pruned" else of_group.sum()).groupby("seed").sum() / 60
        every = (own.groupby("seed").minutes_before.max() + spent).median()
        count = len(own) // own.seed.nunique()
        rows.append([label, count, f"{first:.1f}", f"{every:.1f}"])
    return pd.DataFrame(rows, columns=["networks", "how many", "minutes to the first", "minutes to all"])


def by_set(networks: pd.DataFrame) -> pd.DataFrame:
    """Top-1 of every group, and the mean of pairs and of folders, on the seeds that all methods have."""
    seeds = networks.groupby("method").seed.unique()
    common = networks[networks.seed.isin(set.intersection(*map(set, seeds)))]
    names = common.scenario.where(common.kind == "group", "the mean of all " + common.kind + "s")
    table = common.assign(scenario=names).groupby(["scenario", "method", "share"], sort=False).top1.mean()
    table = table.unstack(["method", "share"])
    columns = [("eas", share) for share in (1.0, 0.5, 0.25)] + [("pruned", 0.5), ("pruned", 0.25)]
    columns += [("finetuned_once", 1.0), ("finetuned_each", 1.0)]
    short = {"eas": "kit", "finetuned_once": "once", "finetuned_each": "each"}
    found = {f"{short.get(method, method)} {share:.0%}": table[method, share] for method, share in columns}
    images = common[common.kind == "group"].groupby("scenario").images.first().astype("Int64").astype(str)
    images = images.reindex(table.index).fillna("")
    return pd.DataFrame({"test images": images} | found).rename_axis("set of classes").reset_index()


def fewer(networks: pd.DataFrame) -> str:
    """By how many percent pruned networks have fewer multiply-adds than the kit's."""
    mean = networks.groupby(["method", "share"]).madds.mean()
    found = [100 * (1 - mean["pruned", share] / mean["eas", share]) for share in mean["pruned"].index]
    return f"{min(found):.0f} to {max(found):.0f} %"


def weights(networks: pd.DataFrame) -> str:
    """Of how many scenarios the kit's weights are branches."""
    own = networks[networks.method == "eas"].drop_duplicates(["seed", "scenario"])
    branches = int((own.weights == "branches").sum())
    return (
        f"branches serve {branches} of {len(own)}: {own.scenario.nunique()} sets of classes, {own.seed.nunique()} seeds"
    )


def trials(path: Path) -> str:
    """What was tried on the validation photographs, where that was kept."""
    if not path.is_file():
        return "No trials were kept: `python -m benchmarks.grocery_trials` makes them."
    rows = pd.read_csv(path)
    table = trials_table(rows.assign(trial=rows.trial.map(in_words)))
    text = markdown(table, floatfmt=("", "g", *[".1f"] * (len(table.columns) - 2)))
    return f"{text}\n\n{same_groups(rows)}".strip()


def in_words(trial: str) -> str:
    """A trial of fine-tuning as a reader would name it; the kit's have names of their own."""
    for how in ("once", "each"):
        trial = trial.replace(f"finetuned-{how}-", f"fine-tuned {how}, rate ")
    return trial.replace("-batch-", ", images a step: ")


def trials_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns trial, groups (some trials were given a few), and their mean top-1 at each share of multiply-adds."""
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
