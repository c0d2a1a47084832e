"""pipeline.report.stats on small cases that were worked out by hand, and on planted effects."""

import math

import pandas as pd
import pytest
import torch
from report_cases import make_record

from pipeline.report import stats


def rows(method, supernet, seed, top1, **columns):
    """Rows of comparison.csv for a superclass, whose name looks like a union's, and a union."""
    base = {"method": method, "supernet": supernet, "seed": seed, "scenario": ["c++", "both"], "top1": top1}
    costs = {"classes": [4, 7], "budget_madds": 1000, "madds": [900, 1000], "search_seconds": 0.5}
    return pd.DataFrame(base | {"kind": ["superclass", "union"]} | costs | columns)


COMPARISON = pd.concat(
    [
        rows("generator", "dropout", 0, [70.0, 60.0], search_seconds=0.01),
        rows("generator", "dropout", 1, [72.0, 62.0], search_seconds=0.01),
        rows("generator", "plain", 0, [69.0, 58.0], search_seconds=0.01),
        rows("generator", "plain", 1, [70.0, 61.0], search_seconds=0.01),
        rows("random", "dropout", 0, [71.0, 59.0]),
        rows("random", "dropout", 1, [71.0, 61.0]),
        rows("uniform", "dropout", 0, [68.0, 59.5], madds=[1001, 500]),
        rows("uniform", "dropout", 1, [73.5, 60.0], madds=[800, 700]),
        rows("generator_branch", "dropout", 0, [90.0, 0.0])[:1],
    ],
    ignore_index=True,
)


# -------------------------------------------------------------------- intervals


@pytest.mark.parametrize("seeds, t", [(2, 12.706205), (3, 4.302653), (4, 3.182446), (10, 2.262157), (101, 1.983972)])
def test_the_interval_is_students(seeds, t):
    values = torch.arange(float(seeds))
    mean, low, high = stats.interval(values)
    assert high - mean == pytest.approx(t * values.std().item() / math.sqrt(seeds), rel=1e-6)
    assert mean - low == pytest.approx(high - mean)


def test_interval_of_three_seeds():
    mean, low, high = stats.interval([1.0, 2.0, 3.0])  # deviation 1, standard error 1 / sqrt(3)
    assert mean == 2
    assert high - mean == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    assert mean - low == pytest.approx(high - mean)


def test_interval_of_one_seed_has_no_bounds():
    mean, low, high = stats.interval([5.0])
    assert mean == 5 and math.isnan(low) and math.isnan(high)


def test_over_seeds_averages_within_a_seed_first():
    frame = pd.DataFrame({"kind": "a", "seed": [0, 0, 0, 1], "value": [0.0, 0.0, 3.0, 3.0]})
    row = stats.over_seeds(frame, ["kind"], "value").iloc[0]
    assert row["kind"] == "a" and row["mean"] == 2  # of 1 and 3, not of the four values
    assert row["high"] == pytest.approx(2 + 12.706205)


def test_common_seeds_are_those_of_every_group():
    frame = pd.DataFrame({"dropout": list("aaabb"), "seed": [0, 1, 2, 2, 1], "value": range(5)})
    assert stats.on_common_seeds(frame, "dropout").value.tolist() == [1, 2, 3, 4]
    assert stats.on_common_seeds(frame[:0], "dropout").empty


# -------------------------------------------------------------------- methods


def test_a_kind_is_read_from_its_column_not_from_the_name():
    assert set(stats.of_kind(COMPARISON, "superclass").scenario) == {"c++"}
    assert set(stats.of_kind(COMPARISON, "union").scenario) == {"both"}
    assert len(stats.of_kind(COMPARISON, None)) == len(COMPARISON)


def test_regret_is_against_the_best_other_method_on_the_same_weights():
    found = stats.regret(COMPARISON).set_index(["seed", "scenario"]).regret
    assert found.to_dict() == {  # 'plain' has no other method, branches have weights of their own
        (0, "c++"): 1.0,
        (0, "both"): -0.5,
        (1, "c++"): 1.5,
        (1, "both"): -1.0,
    }
    row = stats.mean_regret(COMPARISON).iloc[0]
    assert row["mean"] == pytest.approx(0.25)  # both seeds have the same mean
    assert row["low"] == pytest.approx(row["high"])


def test_regret_to_one_method_is_to_the_best_on_average():
    found = [("a", 0, 70, 60), ("a", 1, 72, 60), ("b", 0, 71, 50), ("b", 1, 60, 50), ("generator", 0, 70, 61)]
    found += [("generator", 1, 70, 61), ("generator_branch", 0, 99, 99), ("generator_branch", 1, 99, 99)]
    table = [(m, "dropout", seed, s, 1.0, t) for m, seed, *top1 in found for s, t in zip(("x", "y"), top1, strict=True)]
    frame = pd.DataFrame(table, columns=["method", "supernet", "seed", "scenario", "budget_madds", "top1"])
    frame = frame.assign(kind="superclass")
    row = stats.regret_to_best_method(frame).iloc[0]
    assert (row.supernet, row.method) == ("dropout", "a")
    assert row["mean"] == pytest.approx((0 - 1 + 2 - 1) / 4)


def test_what_was_measured_on_some_seeds_only_is_no_rival_and_no_row_of_the_table():
    random = COMPARISON[(COMPARISON.method == "random") & (COMPARISON.seed == 0)]
    frame = pd.concat([COMPARISON, random.assign(method="evolution_long", top1=99.0)], ignore_index=True)
    assert len(frame) > len(COMPARISON)
    pd.testing.assert_frame_equal(stats.regret(frame), stats.regret(COMPARISON))
    pd.testing.assert_frame_equal(stats.regret_to_best_method(frame), stats.regret_to_best_method(COMPARISON))
    pd.testing.assert_frame_equal(stats.method_table(frame), stats.method_table(COMPARISON))


@pytest.mark.parametrize("method", ["generator_finetuned", "from_scratch"])
def test_what_only_some_scenarios_have_is_no_row_of_the_table(method):
    some = COMPARISON[COMPARISON.method == "generator"].assign(method=method)  # on both seeds
    pd.testing.assert_frame_equal(stats.method_table(pd.concat([COMPARISON, some])), stats.method_table(COMPARISON))


def test_paired_difference():
    sides = ("generator", "dropout"), ("generator", "plain")
    assert stats.paired_difference(COMPARISON, *sides).mean == pytest.approx((1 + 2 + 2 + 1) / 4)
    mean, low, high = stats.paired_difference(COMPARISON, *sides, kind="superclass")
    assert mean == 1.5 and high - mean == pytest.approx(12.706205 * 0.5)
    assert stats.paired_difference(COMPARISON, *sides, kind="union").mean == 1.5
    only_one = stats.paired_difference(COMPARISON, ("generator_branch", "dropout"), ("generator", "dropout"))
    assert only_one.mean == 20 and math.isnan(only_one.low)
    with pytest.raises(ValueError, match="random/plain"):
        stats.paired_difference(COMPARISON, ("generator", "dropout"), ("random", "plain"))


def test_method_table():
    table = stats.method_table(COMPARISON).set_index(["supernet", "method"])
    assert len(table) == 4  # the branch has one of two seeds
    generator, uniform = table.loc[("dropout", "generator")], table.loc[("dropout", "uniform")]
    assert generator.top1 == 71 and generator.union_top1 == 61
    assert generator.high == pytest.approx(71 + 12.706205)
    assert generator.budget_use == pytest.approx(95) and generator.within_budget == 100
    assert uniform.within_budget == 75 and uniform.seconds == 0.5
    both = pd.concat([COMPARISON, rows("generator_branch", "dropout", 1, [91.0, 0.0])[:1]])
    row = stats.method_table(both).set_index("method").loc["generator_branch"]
    assert row.top1 == 90.5 and math.isnan(row.union_top1)


def test_eas_as_a_whole_is_compared_with_ofas_way():
    ofa = [rows("ofa_evolution", "plain", 0, [71.0, 50.0]), rows("ofa_evolution", "plain", 1, [71.0, 51.0])]
    gates = [rows("generator_gates", "dropout", seed, [70.0, 60.0]) for seed in (0, 1)]
    table = stats.against_ofas_way(pd.concat([COMPARISON, *ofa, *gates], ignore_index=True))
    assert table.set_index(["method", "kind"])["mean"].to_dict() == {
        ("generator", "superclass"): 0.0,  # -1 and 1
        ("generator", "union"): 10.5,
        ("generator_gates", "superclass"): -1.0,
        ("generator_gates", "union"): 9.5,
        ("generator_branch", "superclass"): 19.0,
    }
    assert table.set_index("method").seeds.to_dict() == {"generator": 2, "generator_gates": 2, "generator_branch": 1}
    assert stats.against_ofas_way(COMPARISON).empty


def test_generators_are_compared_with_others_on_the_same_supernet():
    more = [rows(name, "dropout", seed, [70.0 + seed, 60.0]) for seed in (0, 1)
            for name in ("generator_additive", "evolution_long")]  # fmt: skip
    table = stats.generators_minus_others(pd.concat([COMPARISON, *more], ignore_index=True))
    pairs = {("generator", name) for name in ("uniform", "random", "generator_additive", "evolution_long")}
    found = table.set_index(["method", "minus"])
    assert set(found.index) == pairs | {("generator_additive", "evolution_long")} and set(table.supernet) == {"dropout"}
    assert found.loc[("generator_additive", "evolution_long")][["mean", "low", "high"]].tolist() == [0, 0, 0]
    difference = stats.paired_difference(COMPARISON, ("generator", "dropout"), ("uniform", "dropout"), "superclass")
    assert found.loc[("generator", "uniform"), "mean"] == difference.mean  # unions are told apart


def test_weights_of_ones_own_are_compared_with_their_rivals_where_both_were_measured():
    table = stats.own_weights(COMPARISON)
    assert list(table.columns) == ["method", "rival", "kind", "scenarios", "seeds", "mean", "low", "high"]
    (row,) = table.itertuples(index=False)
    assert (row.method, row.rival, row.scenarios, row.seeds, row.mean) == ("generator_branch", "generator", 1, 1, 20)
    assert stats.own_weights(COMPARISON[COMPARISON.method == "generator"]).empty


def test_weights_of_ones_own_are_held_against_the_same_archs_on_their_own_supernet():
    found = [rows("generator_additive", name, 0, [top1, top1]) for name, top1 in (("dropout", 60.0), ("plain", 65.0))]
    found += [rows("generator_composed", "plain", 0, [70.0, 66.0]), rows("ofa_evolution", "plain", 0, [64.0, 64.0])]
    table = stats.own_weights(pd.concat(found, ignore_index=True)).set_index(["rival", "kind"])["mean"].to_dict()
    assert table == {
        ("generator_additive", "superclass"): 5,
        ("generator_additive", "union"): 1,
        ("ofa_evolution", "superclass"): 6,
        ("ofa_evolution", "union"): 2,
    }
    systems = stats.against_ofas_way(pd.concat(found, ignore_index=True)).set_index(["method", "kind"])["mean"]
    assert systems[("generator_composed", "superclass")] == 6 and systems[("generator_additive", "superclass")] == -4


# -------------------------------------------------------------------- supernets

RECORDS = [
    make_record("none", 0, 70.0, [60.0, 62.0]),
    make_record("none", 1, 71.0, [60.0, 60.0]),
    make_record("own-0.5", 0, 71.0, [63.0, 63.0]),
    make_record("own-0.5", 1, 73.0, [61.0, 63.0]),
    make_record("sample-0.5", 0, 69.0, [60.0, 60.0]),
]


def test_settings_of_dropout_are_compared_on_the_seeds_that_all_have():
    assert len(stats.accuracy_table(RECORDS)) == 9 and set(stats.accuracy_table(RECORDS).seed) == {0}
    means = stats.dropout_means(RECORDS).set_index(["dropout", "subnet"])
    assert means.loc[("none", "largest"), "top1"] == 70 and means.loc[("none", "random"), "flat_top1"] == 41
    assert set(means.seeds) == {1}
    gain = stats.dropout_gain(RECORDS).set_index(["dropout", "subnet"])
    # What a reader takes off the table of means is what the table of gains says.
    for dropout, subnet in gain.index:
        read_off = means.loc[(dropout, subnet), "top1"] - means.loc[("none", subnet), "top1"]
        assert gain.loc[(dropout, subnet), "mean"] == pytest.approx(read_off)
    assert set(gain.seeds) == {1} and gain.low.isna().all()


def test_the_chosen_dropout_is_compared_with_none_on_all_seeds_that_both_have():
    assert len(stats.accuracy_table(RECORDS, "own-0.5")) == 12
    gain = stats.dropout_gain(RECORDS, "own-0.5").set_index("subnet")
    assert gain.loc["largest", "mean"] == 1.5 and gain.loc["random", "mean"] == 2
    assert set(gain.dropout) == {"own-0.5"} and set(gain.seeds) == {2} and gain.low.notna().all()
    assert set(stats.dropout_means(RECORDS, "own-0.5").seeds) == {2}
    assert set(stats.dropout_gain(RECORDS, "sample-0.5").seeds) == {1}


def test_archs_of_the_same_cost_stay_apart():
    table = stats.accuracy_table(RECORDS[:1])
    assert table[table.subnet == "random"].arch.tolist() == [1, 2] and table.madds.nunique() == 2
