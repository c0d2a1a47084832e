"""Statistics of a study's tables: intervals over seeds, paired differences, regret, supernets."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import product
from typing import Literal, NamedTuple, get_args

import pandas as pd
import torch
from scipy.stats import t as student

from pipeline.methods import METHODS, OFAS_WAY

Side = tuple[str, str]  # a method and the supernet it was applied to
Kind = Literal["superclass", "union", "large_union", "part", "across", "all"]  # of a scenario, see methods.KINDS
COMPARED = ("superclass", "union")  # the kinds that all methods are compared on

SCENARIO = ["seed", "scenario", "budget_madds"]
GENERATED = (
    "generator",
    "generator_gates",
    "generator_additive",
    "generator_branch",
    "generator_composed",
)  # what is held against OFA's way as a whole
RIVALS: dict[str, list[Side]] = {  # of methods with weights of their own, beside the same archs with shared weights
    "generator_branch": [OFAS_WAY, ("ofa_finetuned", "plain")],
    "generator_composed": [
        *(OFAS_WAY, ("generator_control", "plain")),
        *(("generator_branch", "dropout"), ("generator_finetuned", "dropout")),
    ],
    "generator_control": [OFAS_WAY],
    "ofa_finetuned": [],
    "generator_finetuned": [OFAS_WAY],
    "from_scratch": [("generator_branch", "dropout")],
}


# -------------------------------------------------------------------- intervals over seeds


class Interval(NamedTuple):
    """A mean over seeds and its two-sided 95 % confidence bounds."""

    mean: float
    low: float
    high: float


def interval(values: Iterable[float]) -> Interval:
    """Student's t interval of one value per seed; the bounds of a single seed are NaN: it says nothing about others."""
    row = torch.tensor([float(value) for value in values], dtype=torch.float64)
    mean, count = row.mean().item(), len(row)
    if count < 2:
        return Interval(mean, math.nan, math.nan)
    margin = student.ppf(0.975, count - 1).item() * row.std().item() / math.sqrt(count)
    return Interval(mean, mean - margin, mean + margin)


def over_seeds(frame: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Columns `by`, mean, low, high: the mean of `value` for each seed, then its interval over the seeds.

    Rows compare only where all have the same seeds: see `on_all_seeds` and `on_common_seeds`.
    """
    means = frame.groupby([*by, "seed"], sort=False)[value].mean().reset_index()
    rows = [(*key, *interval(values)) for key, values in means.groupby(by, sort=False)[value]]
    return pd.DataFrame(rows, columns=[*by, *Interval._fields])


def on_common_seeds(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """The rows of the seeds that every value of the column `by` has."""
    seeds = frame.groupby(by).seed.agg(set)
    return frame[frame.seed.isin(set.intersection(*seeds))] if len(seeds) else frame


# -------------------------------------------------------------------- the comparison of methods


def of_kind(comparison: pd.DataFrame, kind: Kind | None) -> pd.DataFrame:
    """The rows of a kind of scenario; without a kind, those of the kinds that all methods are compared on."""
    return comparison[comparison.kind.isin(COMPARED if kind is None else [kind])]


def shares_weights(method: str) -> bool:
    """Whether a method uses the supernet's own weights, so that it competes in choosing archs only."""
    return method not in METHODS or METHODS[method].weights == "shared"


def side_of(comparison: pd.DataFrame, method: str) -> Side:
    """A method on the supernet `dropout`, or on the only one that it was applied to."""
    supernets = comparison[comparison.method == method].supernet.unique()
    return method, supernets[0] if len(supernets) == 1 else "dropout"


def same_archs(side: Side) -> Side:
    """The method whose archs one with weights of its own takes, on the same supernet."""
    return METHODS[side[0]].archs or side[0], side[1]


def measured_everywhere(comparison: pd.DataFrame) -> pd.DataFrame:
    """The rows of methods whose means compare: of every seed, and not of some scenarios only."""
    comparison = of_kind(comparison, None)
    return on_all_seeds(comparison[~comparison.method.map(lambda name: name in METHODS and METHODS[name].few)])


def on_all_seeds(comparison: pd.DataFrame) -> pd.DataFrame:
    """The rows of methods that were measured on every seed, with their supernet: only their means compare."""
    seeds = comparison.groupby(["supernet", "method"]).seed.transform("nunique")
    return comparison[seeds == comparison.seed.nunique()]


def rivals(comparison: pd.DataFrame) -> pd.DataFrame:
    """The rows of the generator's rivals in choosing archs: with the shared weights, and measured on all seeds.

    A rival on some seeds only would raise their maximum, and its mean would be that of other supernets.
    """
    others = on_all_seeds(of_kind(comparison, None))
    return others[others.method.map(shares_weights) & (others.method != "generator")]


def regret(comparison: pd.DataFrame) -> pd.DataFrame:
    """Columns supernet, seed, scenario, budget_madds, regret: the best rival's top-1 minus the generator's.

    Negative where the generator beats all others. The best of several noisy opponents, picked on the very test images,
    is better than any of them will be again: with k equally good archs the mean is not 0 but about the largest of k
    noise terms. Read it as an upper bound, and `paired_difference` for one opponent without that bias.
    """
    keys = ["supernet", *SCENARIO]
    generated = of_kind(comparison, None)
    generated = generated[generated.method == "generator"].set_index(keys).top1
    return (rivals(comparison).groupby(keys).top1.max() - generated).dropna().rename("regret").reset_index()


def mean_regret(comparison: pd.DataFrame) -> pd.DataFrame:
    """Columns supernet, mean, low, high: the regret over all scenarios, with its interval over seeds."""
    return over_seeds(regret(comparison), ["supernet"], "regret")


def regret_to_best_method(comparison: pd.DataFrame) -> pd.DataFrame:
    """Columns supernet, method, mean, low, high: the regret to the one other method that is best on average.

    Hardly biased, unlike `mean_regret`: one of a few methods is picked, by its mean over all scenarios and seeds.
    """
    rows = []
    for supernet, others in rivals(comparison).groupby("supernet", sort=False):
        best = others.groupby("method").top1.mean().idxmax()
        difference = paired_difference(comparison, (best, supernet), ("generator", supernet))
        rows.append({"supernet": supernet, "method": best} | difference._asdict())
    return pd.DataFrame(rows, columns=["supernet", "method", *Interval._fields])


def scenarios_of(comparison: pd.DataFrame, method: str, supernet: str) -> pd.Series:
    """A method's top-1 by seed, scenario and budget."""
    return comparison[(comparison.method == method) & (comparison.supernet == supernet)].set_index(SCENARIO).top1


def paired_difference(comparison: pd.DataFrame, a: Side, b: Side, kind: Kind | None = None) -> Interval:
    """Top-1 of `a` minus that of `b` in points, over the scenarios and seeds that both were measured on.

    Both see the same images with the same seed, so this is far narrower than the intervals of the two.

    Raises:
        ValueError: no scenario was measured for both.
    """
    rows = of_kind(comparison, kind)
    difference = (scenarios_of(rows, *a) - scenarios_of(rows, *b)).dropna()
    if difference.empty:
        raise ValueError(f"no {kind or 'scenario'} was measured for both {'/'.join(a)} and {'/'.join(b)}")
    return interval(difference.groupby(level="seed").mean())


def points_over_ofas_way(comparison: pd.DataFrame) -> pd.DataFrame:
    """The rows with a column points: top-1 minus that of OFA's way in the same scenario, at one budget and seed."""
    keys = ["scenario", "budget_madds", "seed"]
    ofa = comparison[(comparison.method == OFAS_WAY[0]) & (comparison.supernet == OFAS_WAY[1])]
    there = comparison.merge(ofa[[*keys, "top1"]], on=keys, suffixes=("", "_ofa"))
    return there.assign(points=there.top1 - there.top1_ofa).drop(columns="top1_ofa")


def generators_minus_others(comparison: pd.DataFrame) -> pd.DataFrame:
    """Generators against others on the same supernet: columns method, minus, supernet, mean, low, high; in points.

    On single superclasses, as all that is told beside these. The generator minus every method that chooses archs; the
    one in closed form minus OFA's search and the long one.
    """
    measured, rows = set(zip(comparison.method, comparison.supernet, strict=True)), []
    pairs = [("generator", other) for other in comparison.method.unique() if shares_weights(other)]
    pairs += [("generator_additive", other) for other in ("ofa_evolution", "evolution_long")]
    for (one, other), supernet in product(pairs, comparison.supernet.unique()):
        if one != other and {(one, supernet), (other, supernet)} <= measured:
            difference = paired_difference(comparison, (one, supernet), (other, supernet), "superclass")
            rows.append({"method": one, "minus": other, "supernet": supernet} | difference._asdict())
    return pd.DataFrame(rows, columns=["method", "minus", "supernet", *Interval._fields])


def against_ofas_way(comparison: pd.DataFrame) -> pd.DataFrame:
    """EAS as a whole against OFA's way: columns method, kind (of scenario), seeds, mean, low, high; in points.

    Top-1 of the generators on the supernet `dropout`, and with branches (of `plain` where they were tuned from that)
    where there are any, minus that of OFA's search on the supernet `plain`.
    """
    rows = []
    for method, kind in product(GENERATED, get_args(Kind)):
        ours, some = side_of(comparison, method), of_kind(comparison, kind)
        sides = [scenarios_of(some, *side) for side in (ours, OFAS_WAY)]
        if all(map(len, sides)):  # branches serve no unions
            seeds = len(sides[0].index.intersection(sides[1].index).unique("seed"))
            difference = paired_difference(some, ours, OFAS_WAY, kind)._asdict()
            rows.append({"method": method, "kind": kind, "seeds": seeds} | difference)
    return pd.DataFrame(rows, columns=["method", "kind", "seeds", *Interval._fields])


def own_weights(comparison: pd.DataFrame) -> pd.DataFrame:
    """What weights of one's own are worth: columns method, rival, kind, scenarios (a count), seeds, mean, low, high.

    Points of top-1 of a method with weights of its own minus those of a rival (the same archs with shared weights, or
    of RIVALS), over the scenarios and seeds of that kind that both were measured on.
    """
    rows = []
    for method, opponents in RIVALS.items():
        ours = side_of(comparison, method)
        for rival, kind in product([same_archs(ours), *opponents], get_args(Kind)):
            sides = [scenarios_of(of_kind(comparison, kind), *side) for side in (ours, rival)]
            both = sides[0].index.intersection(sides[1].index)
            if len(both):
                counts = {"scenarios": len(both.droplevel("seed").unique()), "seeds": len(both.unique("seed"))}
                names = {"method": method, "rival": rival[0], "kind": kind}
                rows.append(names | counts | paired_difference(comparison, ours, rival, kind)._asdict())
    return pd.DataFrame(rows, columns=["method", "rival", "kind", "scenarios", "seeds", *Interval._fields])


def method_table(comparison: pd.DataFrame) -> pd.DataFrame:
    """One row for each supernet and method: what it reaches, how it uses the budget, and what it costs.

    Top-1, its bounds, the budget's use and the share within budget are in percent; seconds are the median of a
    scenario's. Without what only some scenarios or some seeds have: such means do not compare with the others.
    """
    rows = []
    for (supernet, method), group in measured_everywhere(comparison).groupby(["supernet", "method"], sort=False):
        row = {"supernet": supernet, "method": method}
        for kind, prefix in (("superclass", ""), ("union", "union_")):
            some, every = of_kind(group, kind), of_kind(comparison, kind)
            whole = some.scenario.nunique() == every.scenario.nunique()  # or its mean would be that of other scenarios
            found = interval((some if whole else some.iloc[:0]).groupby("seed").top1.mean())
            row |= {f"{prefix}top1": found.mean, f"{prefix}low": found.low, f"{prefix}high": found.high}
        row["budget_use"] = (group.madds / group.budget_madds).mean() * 100
        row["within_budget"] = (group.madds <= group.budget_madds).mean() * 100
        rows.append(row | {"seconds": group.search_seconds.median()})
    return pd.DataFrame(rows)


# -------------------------------------------------------------------- supernets, on the selection split


def accuracy_table(records: Iterable[dict], chosen: str | None = None) -> pd.DataFrame:
    """The records of supernets as columns dropout, seed, arch, subnet, madds, top1, flat_top1; means of them compare.

    All settings of superclass dropout on the seeds that all of them have; with `chosen`, that one and none only, which
    have more seeds in common. `arch` numbers the measured archs, the same ones for every supernet.
    """
    rows = [
        {"dropout": record["dropout"], "seed": record["seed"], "arch": arch} | measured
        for record in records
        for arch, measured in enumerate(record["accuracy"])
    ]
    table = pd.DataFrame(rows)
    return on_common_seeds(table[table.dropout.isin(["none", chosen])] if chosen else table, "dropout")


def dropout_means(records: Iterable[dict], chosen: str | None = None) -> pd.DataFrame:
    """Columns dropout, subnet, top1, flat_top1, seeds (a count, the same in all rows): see `accuracy_table`."""
    groups = accuracy_table(records, chosen).groupby(["dropout", "subnet"], sort=False)
    return groups[["top1", "flat_top1"]].mean().assign(seeds=groups.seed.nunique()).reset_index()


def dropout_gain(records: Iterable[dict], chosen: str | None = None) -> pd.DataFrame:
    """Columns dropout, subnet, seeds (a count, the same in all rows), mean, low, high: see `accuracy_table`.

    Points that superclass dropout adds to 'none', seed by seed. In a study with branches, 'none' has trained longer, by
    what the branches cost: the gain is then understated.
    """
    keys = ["subnet", "seed"]
    top1 = accuracy_table(records, chosen).groupby(["dropout", *keys], sort=False).top1.mean().reset_index()
    none = top1[top1.dropout == "none"].set_index(keys).top1.rename("none")
    gain = top1[top1.dropout != "none"].join(none, on=keys)
    table = over_seeds(gain.assign(gain=gain.top1 - gain.none), ["dropout", "subnet"], "gain")
    table.insert(2, "seeds", top1.seed.nunique())
    return table
