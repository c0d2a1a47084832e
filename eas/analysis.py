"""From a study's tables to its numbers: intervals over seeds, regret, the split-half test, metrics.json."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Literal, NamedTuple, get_args

import pandas as pd
import torch
from torch import Tensor

from eas.space import SearchSpace

Method = tuple[str, str]  # a method and the supernet it was applied to
Kind = Literal["single", "union"]

# Not the shared supernet's weights: no rivals in choosing archs.
OTHER_WEIGHTS = ("generator_branch", "generator_finetuned", "ofa_finetuned", "from_scratch")
FEW = ("generator_finetuned", "from_scratch")  # measured on some of the scenarios: their means are none of all
SCENARIO = ["seed", "scenario", "budget_madds"]
RIVALS = {
    ("generator_branch", "eas"): [("generator", "eas"), ("ofa_evolution", "ofa"), ("ofa_finetuned", "ofa")],
    ("ofa_finetuned", "ofa"): [("ofa_evolution", "ofa")],
    ("generator_finetuned", "eas"): [("generator", "eas"), ("ofa_evolution", "ofa")],
    ("from_scratch", "eas"): [("generator", "eas"), ("generator_branch", "eas")],
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
    margin = t_quantile(0.975, count - 1) * row.std().item() / math.sqrt(count)
    return Interval(mean, mean - margin, mean + margin)


def t_quantile(probability: float, freedom: int) -> float:
    """The t for which `t_distribution` is the probability (0.5 or more), by bisection; saves a dependency on scipy."""
    low, high = 0.0, 1e4
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if t_distribution(middle, freedom) < probability else (low, middle)
    return middle


def t_distribution(t: float, freedom: int) -> float:
    """Student's cumulative distribution, exact for whole degrees of freedom (Abramowitz & Stegun, 26.7.3-4)."""
    angle = math.atan(t / math.sqrt(freedom))
    odd, cosine, total = freedom % 2, math.cos(angle), 0.0
    term = cosine if odd else 1.0
    for k in range(odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (k + 1) / (k + 2)
    total *= math.sin(angle)
    return 0.5 + ((angle + total) / math.pi if odd else total / 2)


def over_seeds(frame: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Columns `by`, mean, low, high: the mean of `value` for each seed, then its interval over the seeds."""
    each = frame.groupby([*by, "seed"], sort=False)[value].mean().reset_index()
    rows = [(*key, *interval(values)) for key, values in each.groupby(by, sort=False)[value]]
    return pd.DataFrame(rows, columns=[*by, *Interval._fields])


# -------------------------------------------------------------------- the comparison of methods


def only(comparison: pd.DataFrame, kind: Kind | None) -> pd.DataFrame:
    """The rows of single superclasses or of unions; all of them without a kind."""
    if kind is None:
        return comparison
    return comparison[comparison.scenario.str.contains("+", regex=False) == (kind == "union")]


def on_all_seeds(comparison: pd.DataFrame) -> pd.DataFrame:
    """The rows of methods that were measured on every seed, with their supernet: only their means compare."""
    seeds = comparison.groupby(["supernet", "method"]).seed.transform("nunique")
    return comparison[seeds == comparison.seed.nunique()]


def rivals(comparison: pd.DataFrame) -> pd.DataFrame:
    """The rows of the generator's rivals in choosing archs: with the shared weights, and measured on all seeds.

    A rival on some seeds only would raise their maximum, and its mean would be that of other supernets.
    """
    others = on_all_seeds(comparison)
    return others[~others.method.isin(["generator", *OTHER_WEIGHTS])]


def regret(comparison: pd.DataFrame) -> pd.DataFrame:
    """Columns supernet, seed, scenario, budget_madds, regret: the best rival's top-1 minus the generator's.

    Negative where the generator beats all others. The best of several noisy opponents, picked on the very test images,
    is better than any of them will be again: with k equally good archs the mean is not 0 but about the largest of k
    noise terms. Read it as an upper bound, and `paired_difference` for one opponent without that bias.
    """
    keys = ["supernet", *SCENARIO]
    generated = comparison[comparison.method == "generator"].set_index(keys).top1
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


def paired_difference(comparison: pd.DataFrame, a: Method, b: Method, kind: Kind | None = None) -> Interval:
    """Top-1 of `a` minus that of `b` in points, over the scenarios and seeds that both were measured on.

    Both see the same images with the same seed, so this is far narrower than the intervals of the two.

    Raises:
        ValueError: no scenario was measured for both.
    """
    rows = only(comparison, kind)
    difference = (scenarios_of(rows, *a) - scenarios_of(rows, *b)).dropna()
    if difference.empty:
        raise ValueError(f"no {kind or 'scenario'} was measured for both {'/'.join(a)} and {'/'.join(b)}")
    return interval(difference.groupby(level="seed").mean())


def against_ofa(comparison: pd.DataFrame) -> pd.DataFrame:
    """EAS as a whole against OFA's way: columns method, scenarios (single, union), mean, low, high; in points.

    Top-1 of the generator on the supernet `eas`, and with branches where there are any, minus that of OFA's search on
    the supernet `ofa`.
    """
    rows, ofa = [], ("ofa_evolution", "ofa")
    for method, kind in product(("generator", "generator_branch"), get_args(Kind)):
        eas, of_kind = (method, "eas"), only(comparison, kind)
        if all(len(scenarios_of(of_kind, *side)) for side in (eas, ofa)):  # branches serve no unions
            rows.append({"method": method, "scenarios": kind} | paired_difference(of_kind, eas, ofa)._asdict())
    return pd.DataFrame(rows, columns=["method", "scenarios", *Interval._fields])


def own_weights(comparison: pd.DataFrame) -> pd.DataFrame:
    """What weights of one's own are worth: columns method, rival, scenarios (a count), seeds, mean, low, high.

    Points of top-1 of a method with weights of its own minus those of a rival (RIVALS), over the scenarios and seeds
    that both were measured on.
    """
    measured, rows = set(zip(comparison.method, comparison.supernet, strict=True)), []
    for method, rivals in RIVALS.items():
        for rival in rivals:
            if {method, rival} <= measured:
                each = [scenarios_of(comparison, *side) for side in (method, rival)]
                both = each[0].index.intersection(each[1].index)
                counts = {"scenarios": len(both.droplevel("seed").unique()), "seeds": len(both.unique("seed"))}
                names = {"method": method[0], "rival": rival[0]}
                rows.append(names | counts | paired_difference(comparison, method, rival)._asdict())
    return pd.DataFrame(rows, columns=["method", "rival", "scenarios", "seeds", *Interval._fields])


def scenarios_of(comparison: pd.DataFrame, method: str, supernet: str) -> pd.Series:
    """A method's top-1 by scenario and seed."""
    return comparison[(comparison.method == method) & (comparison.supernet == supernet)].set_index(SCENARIO).top1


def headline(comparison: pd.DataFrame) -> pd.DataFrame:
    """One row for each supernet and method: what it reaches, how it uses the budget, and what it costs.

    Top-1, its bounds, the budget's use and the share within budget are in percent; times_generator is the median time
    of a scenario in times of the generator's for the same supernet. Without what only some scenarios have (FEW).
    """
    rows = []
    comparison = comparison[~comparison.method.isin(FEW)]
    for (supernet, method), group in comparison.groupby(["supernet", "method"], sort=False):
        row = {"supernet": supernet, "method": method}
        for kind, prefix in (("single", ""), ("union", "union_")):
            found = interval(only(group, kind).groupby("seed").top1.mean())
            row |= {f"{prefix}top1": found.mean, f"{prefix}low": found.low, f"{prefix}high": found.high}
        row["budget_use"] = (group.madds / group.budget_madds).mean() * 100
        row["within_budget"] = (group.madds <= group.budget_madds).mean() * 100
        rows.append(row | {"seconds": group.search_seconds.median()})
    table = pd.DataFrame(rows)
    generator = table[table.method == "generator"].set_index("supernet").seconds
    return table.assign(times_generator=table.seconds / table.supernet.map(generator))


# -------------------------------------------------------------------- is there anything superclass-specific to find?


def half_accuracy(own: Tensor, labels: Tensor, parent: Tensor, repeats: int = 20, seed: int = 0) -> Tensor:
    """Superclass top-1 in percent on both halves of the images, float64 [repeats, 2, archs, superclasses].

    `own` bool [archs, images]: right among the image's own superclass; `labels` int64 [images]; `parent` int64
    [classes]. Every repeat splits the images anew, class by class.

    Raises:
        ValueError: a superclass has fewer than two images.
    """
    member = torch.nn.functional.one_hot(parent[labels])  # [images, superclasses]
    if member.sum(0).min() < 2:
        raise ValueError("every superclass needs at least two images to be split in halves")
    rng = torch.Generator().manual_seed(seed)
    keys = labels + torch.rand(repeats, len(labels), dtype=torch.float64, generator=rng)
    second = torch.zeros(keys.shape, dtype=torch.bool)
    second.scatter_(1, keys.argsort(-1)[:, 1::2], True)  # every other one of the images sorted by class
    halves = torch.stack([~second, second], 1)[..., None] * member  # [repeats, 2, images, superclasses]
    right = torch.einsum("ai,rhis->rhas", own.float(), halves.float()).double()
    return right / halves.sum(2)[:, :, None] * 100


def effects(accuracy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What makes up an accuracy [..., archs, superclasses] beside its mean: arch, superclass, and their interaction.

    [..., archs, 1], [..., 1, superclasses] and [..., archs, superclasses], each summing to zero along its dimensions.
    """
    mean = accuracy.mean((-2, -1), keepdim=True)
    arch, superclass = accuracy.mean(-1, keepdim=True) - mean, accuracy.mean(-2, keepdim=True) - mean
    return arch, superclass, accuracy - mean - arch - superclass


def split_half(own: Tensor, labels: Tensor, parent: Tensor, repeats: int = 20, seed: int = 0) -> pd.DataFrame:
    """Does what one half of the images says about archs hold on the other half? One row a repeat; see `half_accuracy`.

    - arch_correlation, interaction_correlation: of the effect's estimates on the two halves; 0 is noise
    - arch_variance, interaction_variance: what the two estimates share (their covariance, in squared points): noise
      adds nothing on average, and it may come out negative
    - gain: points of top-1 won on one half by the best arch of every superclass over the best one arch for all,
      both chosen on the other half; mean of both directions

    An arch that helps hard superclasses more than easy ones counts as interaction, although one order of archs suits
    all: the gain tells the two apart. Repeats share their images: take the interval over seeds, not over repeats.
    """
    accuracy = half_accuracy(own, labels, parent, repeats, seed)
    arch, _, interaction = effects(accuracy)
    columns = {}
    for name, effect in (("arch", arch), ("interaction", interaction)):
        first, second = effect.flatten(-2).unbind(1)
        shared = (first * second).mean(-1)  # effects have mean zero
        columns[f"{name}_correlation"] = shared / (first.square().mean(-1) * second.square().mean(-1)).sqrt()
        columns[f"{name}_variance"] = shared
    first, second = accuracy.unbind(1)
    columns["gain"] = (gain_of_choosing(first, second) + gain_of_choosing(second, first)) / 2
    return pd.DataFrame({name: column.numpy() for name, column in columns.items()})


def gain_of_choosing(chosen_on: Tensor, judged_on: Tensor) -> Tensor:
    """Top-1 of the best arch of every superclass minus that of the best one for all, [...].

    `chosen_on` and `judged_on`: accuracy [..., archs, superclasses].
    """

    def judge(score: Tensor) -> Tensor:
        best = (score == score.amax(-2, keepdim=True)).double()  # ties, frequent on few images, share the choice
        return (judged_on * best / best.sum(-2, keepdim=True)).sum(-2).mean(-1)

    return judge(chosen_on) - judge(chosen_on.mean(-1, keepdim=True))


def swap_cost(swap: pd.DataFrame) -> pd.DataFrame:
    """Columns supernet, mean, low, high: points that a superclass loses with an arch generated for another one.

    The own arch's top-1 minus the mean of the others', at the same budget; the interval is over seeds.
    """
    keys, own = ["supernet", "seed", "budget_madds", "used_for"], swap.arch_of == swap.used_for
    cost = swap[own].groupby(keys).top1.mean() - swap[~own].groupby(keys).top1.mean()
    return over_seeds(cost.rename("cost").reset_index(), ["supernet"], "cost")


def relative_widths(archs: Tensor, space: SearchSpace) -> Tensor:
    """Width of every block as a fraction of its stage's, NaN where the block is absent, float [..., blocks]."""
    widths = torch.tensor(space.ratios)[archs[..., space.stages :]]
    return widths.masked_fill(~space.active(archs), math.nan)


def block_names(space: SearchSpace) -> list[str]:
    """'1.1', '1.2', ...: stage and block, counted from one."""
    return [f"{s + 1}.{b + 1}" for s in range(space.stages) for b in range(space.blocks_per_stage)]


def archs_differ(archs: Tensor, names: Sequence[str], space: SearchSpace) -> pd.DataFrame:
    """One row for each name (of a superclass): mean blocks kept in every stage, mean relative width of every block.

    `archs` int64 [n, decisions]; `names` [n], each as often as it has archs (budgets, seeds). The width's mean is over
    the archs that keep the block, NaN if none does.
    """
    depth = pd.DataFrame(space.depth(archs).numpy(), columns=[f"depth {s + 1}" for s in range(space.stages)])
    blocks = [f"width {name}" for name in block_names(space)]
    width = pd.DataFrame(relative_widths(archs, space).numpy(), columns=blocks)
    return pd.concat([depth, width], axis=1).groupby(list(names), sort=False).mean().rename_axis("superclass")


# -------------------------------------------------------------------- supernets


def accuracy_table(records: Iterable[dict]) -> pd.DataFrame:
    """The records of supernets as columns setting, seed, subnet, madds, top1, flat_top1 (selection split)."""
    return pd.DataFrame([{k: r[k] for k in ("setting", "seed")} | row for r in records for row in r["accuracy"]])


def dropout_gain(records: Iterable[dict]) -> pd.DataFrame:
    """Columns setting, subnet, mean, low, high: points that superclass dropout adds to 'none', seed by seed.

    In a study with branches, 'none' has trained longer, by what the branches cost: the gain is then understated.
    """
    keys = ["subnet", "seed"]
    top1 = accuracy_table(records).groupby(["setting", *keys], sort=False).top1.mean().reset_index()
    none = top1[top1.setting == "none"].set_index(keys).top1.rename("none")
    gain = top1[top1.setting != "none"].join(none, on=keys).dropna()
    return over_seeds(gain.assign(gain=gain.top1 - gain.none), ["setting", "subnet"], "gain")


def other_branches(branches: pd.DataFrame) -> pd.DataFrame:
    """What branches reach on supernets with other settings of superclass dropout: a row for each setting.

    Columns setting, shared, branches (means over seeds) and mean, low, high: points of these branches minus those of
    the study's own supernet, the first setting, seed by seed. `branches` as `tuning.read_other_branches` returns it.
    """
    own = branches[branches.setting == branches.setting.iloc[0]].set_index("seed").branches
    minus = over_seeds(branches.assign(minus=branches.branches - branches.seed.map(own)), ["setting"], "minus")
    means = branches.groupby("setting", sort=False)[["shared", "branches"]].mean()
    return means.reset_index().merge(minus, on="setting")


def teacher_gain(taught: dict[str, dict]) -> pd.DataFrame:
    """What a teacher adds to a supernet (selection split): columns subnet, without, with, gain (points).

    The last row, 'all', is the mean over the measured subnets. `taught` as `study.read_taught` returns it.
    """
    each = pd.DataFrame({name: pd.DataFrame(taught[name]["accuracy"]).top1 for name in ("without", "with")})
    means = each.groupby([row["subnet"] for row in taught["with"]["accuracy"]], sort=False).mean()
    table = pd.concat([means, each.mean().to_frame("all").T])
    return table.assign(gain=table["with"] - table["without"]).rename_axis("subnet").reset_index()


# -------------------------------------------------------------------- metrics.json


def metrics(
    comparison: pd.DataFrame,
    *,
    records: Sequence[dict] = (),
    chosen: str | None = None,
    halves: pd.DataFrame | None = None,
    swap: pd.DataFrame | None = None,
    timing: pd.DataFrame | None = None,
    costs: pd.DataFrame | None = None,
    seeds: pd.DataFrame | None = None,
    throughput: dict | None = None,
    branches: pd.DataFrame | None = None,
    taught: dict[str, dict] | None = None,
) -> dict[str, float | str]:
    """The numbers of a study by name, four significant digits; without those that a single seed cannot tell.

    `records` of the supernets and the chosen setting of dropout; `halves`: `split_half` of every supernet and seed, in
    columns supernet and seed beside its own; `costs` and `seeds` of `records.cost_table` and `records.seed_costs` (a
    step that ran on several machines: see `most_runs`); `throughput` of training, as `throughput.measure_throughput`
    returns it; `branches` of other supernets (see `other_branches`); `taught`: see `teacher_gain`; what is not given is
    left out.
    """
    numbers = accuracy_numbers(comparison) | generator_numbers(comparison)
    numbers |= opponent_differences(comparison) | supernet_differences(comparison) | own_weight_differences(comparison)
    if records and chosen:
        gain = dropout_gain(records)
        numbers |= spread("dropout_gain", gain[gain.setting == chosen], "subnet")
    if halves is not None:
        for name in ("arch_correlation", "arch_variance", "interaction_correlation", "interaction_variance", "gain"):
            numbers |= spread(f"split_half_{name}", over_seeds(halves, ["supernet"], name), "supernet")
    if branches is not None and len(branches):
        own, others = (table := other_branches(branches)).iloc[0], table[1:]
        numbers |= spread("other_branches_minus_own", others, "setting")
        numbers |= {f"other_shared_minus_own_{row.setting}": row.shared - own.shared for row in others.itertuples()}
    if taught:
        numbers["teacher_top1"] = taught["teacher"]["top1"]
        numbers |= {f"teacher_gain_{row.subnet}": row.gain for row in teacher_gain(taught).itertuples()}
    if swap is not None:
        numbers |= spread("swap_cost", swap_cost(swap), "supernet")
    if timing is not None:
        numbers |= timing_numbers(timing)
    if costs is not None:
        numbers |= cost_numbers(costs)
    if seeds is not None and len(seeds):
        numbers["minutes_a_seed"] = seeds.minutes.median()
    if throughput is not None:
        numbers |= throughput_numbers(throughput)
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
    named = {plain(name): float(f"{value:.4g}") for name, value in finite.items()}
    if throughput is not None:
        named["training_machine"] = throughput["machine"]
    if seeds is not None and len(seeds):
        named["minutes_a_seed_machine"] = "; ".join(seeds.machine.unique())
    if costs is not None and len(costs):
        named["machine"] = "; ".join(costs.machine.unique())
        if costs.machine.nunique() > 1:
            named |= {plain(f"machine_{row.step}"): row.machine for row in most_runs(costs).itertuples()}
    return named


def plain(name: str) -> str:
    """A name in metrics.json: small letters, digits and underscores."""
    return re.sub(r"\W+", "_", name).lower()


def most_runs(costs: pd.DataFrame) -> pd.DataFrame:
    """Of `records.cost_table` one row for each step: that of the machine where it ran most often, or first."""
    most = costs.sort_values("runs", ascending=False, kind="stable").drop_duplicates("step")
    return most.sort_index()


def spread(name: str, table: pd.DataFrame, by: str) -> dict[str, float]:
    """<name>_mean_<by>, <name>_low_<by> and <name>_high_<by> of every row."""
    return {f"{name}_{bound}_{row[by]}": row[bound] for _, row in table.iterrows() for bound in Interval._fields}


def accuracy_numbers(comparison: pd.DataFrame) -> dict[str, float]:
    """Mean top-1 of every method and supernet, for single superclasses and for unions."""
    numbers = {}
    for row in headline(comparison).itertuples():
        numbers[f"top1_{row.method}_{row.supernet}"] = row.top1
        if not math.isnan(row.union_top1):  # branches serve no unions
            numbers[f"union_top1_{row.method}_{row.supernet}"] = row.union_top1
    return numbers


def generator_numbers(comparison: pd.DataFrame) -> dict[str, float]:
    """The generator's regret and how it uses its budgets, in percent, for every supernet."""
    numbers = spread("regret", mean_regret(comparison), "supernet")
    numbers |= spread("regret_to_best_method", regret_to_best_method(comparison), "supernet")
    for supernet, rows in comparison[comparison.method == "generator"].groupby("supernet", sort=False):
        use = rows.madds / rows.budget_madds * 100
        numbers |= {f"budget_use_mean_{supernet}": use.mean(), f"budget_use_min_{supernet}": use.min()}
        numbers[f"within_budget_{supernet}"] = (rows.madds <= rows.budget_madds).mean() * 100
    return numbers


def opponent_differences(comparison: pd.DataFrame) -> dict[str, float]:
    """The generator's top-1 minus that of every other method on the same supernet, and EAS's minus OFA's way's."""
    systems = against_ofa(comparison)
    numbers = spread("eas_minus_ofas_way", systems[systems.method == "generator"], "scenarios")
    for method in comparison.method.unique():
        if method not in ("generator", *OTHER_WEIGHTS):
            supernets = [s for s, rows in comparison.groupby("supernet", sort=False) if method in set(rows.method)]
            rows = [
                {"supernet": s} | paired_difference(comparison, ("generator", s), (method, s))._asdict()
                for s in supernets
            ]
            numbers |= spread(f"generator_minus_{method}", pd.DataFrame(rows), "supernet")
    return numbers


def own_weight_differences(comparison: pd.DataFrame) -> dict[str, float]:
    """The rows of `own_weights` by name."""
    table = own_weights(comparison)
    rows = [spread(f"{method}_minus", rows, "rival") for method, rows in table.groupby("method", sort=False)]
    return {name: value for numbers in rows for name, value in numbers.items()}


def supernet_differences(comparison: pd.DataFrame) -> dict[str, float]:
    """Top-1 with the supernet 'eas' minus that with 'ofa', for every method that was applied to both."""
    methods = [name for name, rows in comparison.groupby("method", sort=False) if {"eas", "ofa"} <= set(rows.supernet)]
    rows = [{"method": m} | paired_difference(comparison, (m, "eas"), (m, "ofa"))._asdict() for m in methods]
    return spread("eas_minus_ofa", pd.DataFrame(rows, columns=["method", *Interval._fields]), "method")


def cost_numbers(costs: pd.DataFrame) -> dict[str, float]:
    """Seconds, images a second and memory of every step of `records.cost_table`, on one machine each."""
    columns, steps = ("seconds", "images_per_second", "memory_gb"), list(most_runs(costs).itertuples())
    return {f"{column}_{row.step}": getattr(row, column) for column in columns for row in steps}


def throughput_numbers(throughput: dict) -> dict[str, float]:
    """Training's speed, its share of the machine's matrix rate, and the shares of a step, in percent."""
    numbers = {f"training_{name}": throughput[name] for name in ("images_per_second", "tflops", "matrix_tflops")}
    numbers["training_share_of_matrix_rate"] = throughput["tflops"] / throughput["matrix_tflops"] * 100
    shares = {f"training_share_{name}": share for name, share in throughput["shares"].items()}
    convolutions = sum(share for name, share in throughput["shares"].items() if "convolutions" in name)
    return numbers | shares | {"training_share_convolutions": convolutions}


def timing_numbers(timing: pd.DataFrame) -> dict[str, float]:
    """Milliseconds of the generator for its scenarios, and every other method's time in times of the generator's.

    A method that was timed on several numbers of scenarios is compared on the largest.
    """
    timing = timing.sort_values("scenarios").groupby("method", sort=False).last()
    generator = timing.loc["generator"]
    ratios = (timing.seconds_per_scenario / generator.seconds_per_scenario).drop("generator")
    numbers = {"timed_scenarios": generator.scenarios, "generator_ms": generator.seconds_total * 1e3}
    return numbers | {f"times_generator_{method}": ratio for method, ratio in ratios.items()}
