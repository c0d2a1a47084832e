"""metrics.json: the numbers of a study by name, made of its tables."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pandas as pd
from torch import Tensor

from pipeline.report import Metrics, preferences, stats
from pipeline.report.costs import most_runs
from pipeline.report.stats import Interval, over_seeds, paired_difference

SPLIT_HALF = ("arch_correlation", "arch_variance", "interaction_correlation", "interaction_variance", "gain")


def metrics(
    comparison: pd.DataFrame,
    *,
    records: Sequence[dict] = (),
    chosen: str | None = None,
    archs: Tensor | None = None,
    halves: pd.DataFrame | None = None,
    swap: pd.DataFrame | None = None,
    timing: pd.DataFrame | None = None,
    costs: pd.DataFrame | None = None,
    seeds: pd.DataFrame | None = None,
    throughput: dict | None = None,
) -> Metrics:
    """The numbers of a study by name, four significant digits; without those that a single seed cannot tell.

    `records` of the supernets and the name of the chosen superclass dropout; `archs` int64 [scenarios, decisions]: the
    generator's for every superclass and budget (first seed); `halves`: `preferences.split_half` of every supernet and
    seed, in columns supernet and seed beside its own; `costs` and `seeds` of `costs.cost_table` and `costs.seed_costs`;
    `throughput` of training, as `throughput.measure_throughput` returns it. What is not given is left out.
    """
    numbers = accuracy_numbers(comparison) | generator_numbers(comparison)
    numbers |= opponent_differences(comparison) | supernet_differences(comparison) | own_weight_differences(comparison)
    if records and chosen:
        numbers |= spread("dropout_gain", stats.dropout_gain(records, chosen), "subnet")
    if archs is not None:
        numbers["distinct_archs"] = len(archs.unique(dim=0))
    if halves is not None:
        numbers |= split_half_numbers(halves)
    if swap is not None:
        numbers |= spread("swap_cost", preferences.swap_cost(swap), "supernet")
    if timing is not None:
        numbers |= timing_numbers(timing)
    if costs is not None:
        numbers |= cost_numbers(costs)
    if seeds is not None and len(seeds):
        numbers["minutes_a_seed"] = seeds.minutes.median()
    if throughput is not None:
        numbers |= throughput_numbers(throughput)
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
    named: Metrics = {plain(name): float(f"{value:.4g}") for name, value in finite.items()}
    if throughput is not None:
        named["training_machine"] = throughput["machine"]
    if seeds is not None and len(seeds):
        named["minutes_a_seed_machine"] = "; ".join(seeds.machine.unique())
    if costs is not None and len(costs):
        named["machine"] = "; ".join(costs.machine.unique())
    return named


def plain(name: str) -> str:
    """A name in metrics.json: small letters, digits and underscores."""
    return re.sub(r"\W+", "_", name).lower()


def spread(name: str, table: pd.DataFrame, by: str) -> dict[str, float]:
    """<name>_mean_<by>, <name>_low_<by> and <name>_high_<by> of every row."""
    return {f"{name}_{bound}_{row[by]}": row[bound] for _, row in table.iterrows() for bound in Interval._fields}


# -------------------------------------------------------------------- accuracies


def accuracy_numbers(comparison: pd.DataFrame) -> dict[str, float]:
    """Mean top-1 of every method and supernet, for superclasses and for unions."""
    numbers = {}
    for row in stats.method_table(comparison).itertuples():
        numbers[f"top1_{row.method}_{row.supernet}"] = row.top1
        if not math.isnan(row.union_top1):  # of some methods, some unions only
            numbers[f"union_top1_{row.method}_{row.supernet}"] = row.union_top1
    return numbers


def generator_numbers(comparison: pd.DataFrame) -> dict[str, float]:
    """The generator's regret and how it uses its budgets, in percent, for every supernet."""
    numbers = spread("regret", stats.mean_regret(comparison), "supernet")
    numbers |= spread("regret_to_best_method", stats.regret_to_best_method(comparison), "supernet")
    generated = comparison[comparison.method == "generator"]
    for supernet, rows in stats.of_kind(generated, None).groupby("supernet", sort=False):
        use = rows.madds / rows.budget_madds * 100
        numbers |= {f"budget_use_mean_{supernet}": use.mean(), f"budget_use_min_{supernet}": use.min()}
        numbers[f"within_budget_{supernet}"] = (rows.madds <= rows.budget_madds).mean() * 100
    return numbers


def opponent_differences(comparison: pd.DataFrame) -> dict[str, float]:
    """Generators' top-1 of superclasses minus that of other methods on the same supernet; EAS minus OFA's way.

    With branches, the latter is `own_weight_differences`.
    """
    systems, numbers = stats.against_ofas_way(comparison), {}
    for method in ("generator", "generator_gates", "generator_additive"):
        numbers |= spread(f"{method}_minus_ofas_way", systems[systems.method == method], "kind")
    for (one, other), rows in stats.generators_minus_others(comparison).groupby(["method", "minus"], sort=False):
        numbers |= spread(f"{one}_minus_{other}", rows, "supernet")
    return numbers


def supernet_differences(comparison: pd.DataFrame) -> dict[str, float]:
    """Top-1 of superclasses with the supernet `dropout` minus that with `plain`, for every method on both."""
    rows = []
    for method, group in comparison.groupby("method", sort=False):
        if {"dropout", "plain"} <= set(group.supernet):
            difference = paired_difference(comparison, (method, "dropout"), (method, "plain"), "superclass")
            rows.append({"method": method} | difference._asdict())
    return spread("dropout_minus_plain", pd.DataFrame(rows, columns=["method", *Interval._fields]), "method")


def own_weight_differences(comparison: pd.DataFrame) -> dict[str, float]:
    """The rows of `stats.own_weights` by name; those on other kinds of sets than superclasses end in the kind."""
    numbers = {}
    for (method, kind), rows in stats.own_weights(comparison).groupby(["method", "kind"], sort=False):
        suffix = "" if kind == "superclass" else f"_{kind}"
        numbers |= spread(f"{method}_minus", rows.assign(rival=rows.rival + suffix), "rival")
    return numbers


def split_half_numbers(halves: pd.DataFrame) -> dict[str, float]:
    """The split-half test's quantities for every supernet, and the bound on what it could not find."""
    numbers = {}
    for name in SPLIT_HALF:
        numbers |= spread(f"split_half_{name}", over_seeds(halves, ["supernet"], name), "supernet")
    bounds = preferences.interaction_sd_upper(halves)
    return numbers | {f"split_half_interaction_sd_upper_{row.supernet}": row.points for row in bounds.itertuples()}


# -------------------------------------------------------------------- times


def cost_numbers(costs: pd.DataFrame) -> dict[str, float]:
    """Seconds, images a second and memory of every row of `costs.cost_table`, on one machine each."""
    columns, steps = ("seconds", "images_per_second", "memory_gb"), list(most_runs(costs).itertuples())
    return {f"{column}_{row.step}_{row.name}".rstrip("_"): getattr(row, column) for column in columns for row in steps}


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
