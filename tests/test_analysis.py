"""eas.analysis on small cases that were worked out by hand, and on planted effects."""

import json
import math

import pandas as pd
import pytest
import torch

from eas import analysis
from eas.space import SearchSpace

SPACE = SearchSpace(16, 1, widths=(8, 16), depths=(1, 2), ratios=(0.25, 0.5, 1.0))


def rows(method, supernet, seed, top1, **columns):
    """Rows of comparison.csv for a single superclass and a union."""
    base = {"method": method, "supernet": supernet, "seed": seed, "scenario": ["greek", "greek+digits"], "top1": top1}
    costs = {"classes_kept": [4, 7], "budget_madds": 1000, "madds": [900, 1000], "search_seconds": 0.5}
    return pd.DataFrame(base | costs | columns)


COMPARISON = pd.concat(
    [
        rows("generator", "eas", 0, [70.0, 60.0], search_seconds=0.01),
        rows("generator", "eas", 1, [72.0, 62.0], search_seconds=0.01),
        rows("generator", "ofa", 0, [69.0, 58.0], search_seconds=0.01),
        rows("generator", "ofa", 1, [70.0, 61.0], search_seconds=0.01),
        rows("random", "eas", 0, [71.0, 59.0]),
        rows("random", "eas", 1, [71.0, 61.0]),
        rows("uniform", "eas", 0, [68.0, 59.5], madds=[1001, 500]),
        rows("uniform", "eas", 1, [73.5, 60.0], madds=[800, 700]),
        rows("generator_branch", "eas", 0, [90.0, 0.0])[:1],
    ],
    ignore_index=True,
)


# -------------------------------------------------------------------- intervals


@pytest.mark.parametrize("freedom, t", [(1, 12.706205), (2, 4.302653), (3, 3.182446), (9, 2.262157), (100, 1.983972)])
def test_t_quantile(freedom, t):
    assert analysis.t_quantile(0.975, freedom) == pytest.approx(t, abs=1e-6)


def test_interval_of_three_seeds():
    mean, low, high = analysis.interval([1.0, 2.0, 3.0])  # deviation 1, standard error 1 / sqrt(3)
    assert mean == 2
    assert high - mean == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    assert mean - low == pytest.approx(high - mean)


def test_interval_of_one_seed_has_no_bounds():
    mean, low, high = analysis.interval([5.0])
    assert mean == 5 and math.isnan(low) and math.isnan(high)


def test_over_seeds_averages_within_a_seed_first():
    frame = pd.DataFrame({"kind": "a", "seed": [0, 0, 0, 1], "value": [0.0, 0.0, 3.0, 3.0]})
    row = analysis.over_seeds(frame, ["kind"], "value").iloc[0]
    assert row["kind"] == "a" and row["mean"] == 2  # of 1 and 3, not of the four values
    assert row["high"] == pytest.approx(2 + 12.706205)


# -------------------------------------------------------------------- methods


def test_regret_is_against_the_best_other_method_on_the_same_weights():
    found = analysis.regret(COMPARISON).set_index(["seed", "scenario"]).regret
    assert found.to_dict() == {  # 'ofa' has no other method, branches have weights of their own
        (0, "greek"): 1.0,
        (0, "greek+digits"): -0.5,
        (1, "greek"): 1.5,
        (1, "greek+digits"): -1.0,
    }
    row = analysis.mean_regret(COMPARISON).iloc[0]
    assert row["mean"] == pytest.approx(0.25)  # both seeds have the same mean
    assert row["low"] == pytest.approx(row["high"])


def test_regret_to_one_method_is_to_the_best_on_average():
    rows = [("a", 0, 70, 60), ("a", 1, 72, 60), ("b", 0, 71, 50), ("b", 1, 60, 50), ("generator", 0, 70, 61)]
    rows += [("generator", 1, 70, 61), ("generator_branch", 0, 99, 99), ("generator_branch", 1, 99, 99)]
    table = [(m, "eas", seed, s, 1.0, t) for m, seed, *top1 in rows for s, t in zip(("greek", "x"), top1, strict=True)]
    frame = pd.DataFrame(table, columns=["method", "supernet", "seed", "scenario", "budget_madds", "top1"])
    row = analysis.regret_to_best_method(frame).iloc[0]
    assert (row.supernet, row.method) == ("eas", "a")
    assert row["mean"] == pytest.approx((0 - 1 + 2 - 1) / 4)


def test_what_was_measured_on_some_seeds_only_is_no_rival():
    long = COMPARISON[(COMPARISON.method == "random") & (COMPARISON.seed == 0)].assign(
        method="evolution_long", top1=99.0
    )
    assert len(long)
    frame = pd.concat([COMPARISON, long], ignore_index=True)
    pd.testing.assert_frame_equal(analysis.regret(frame), analysis.regret(COMPARISON))
    pd.testing.assert_frame_equal(analysis.regret_to_best_method(frame), analysis.regret_to_best_method(COMPARISON))
    found = analysis.opponent_differences(frame)
    assert found["generator_minus_evolution_long_mean_eas"] < 0 and math.isnan(
        found["generator_minus_evolution_long_low_eas"]
    )


def test_paired_difference():
    sides = ("generator", "eas"), ("generator", "ofa")
    assert analysis.paired_difference(COMPARISON, *sides).mean == pytest.approx((1 + 2 + 2 + 1) / 4)
    mean, low, high = analysis.paired_difference(COMPARISON, *sides, kind="single")
    assert mean == 1.5 and high - mean == pytest.approx(12.706205 * 0.5)
    assert analysis.paired_difference(COMPARISON, *sides, kind="union").mean == 1.5
    only_one = analysis.paired_difference(COMPARISON, ("generator_branch", "eas"), ("generator", "eas"))
    assert only_one.mean == 20 and math.isnan(only_one.low)
    with pytest.raises(ValueError, match="random/ofa"):
        analysis.paired_difference(COMPARISON, ("generator", "eas"), ("random", "ofa"))


def test_headline():
    table = analysis.headline(COMPARISON).set_index(["supernet", "method"])
    assert len(table) == 5
    generator, uniform = table.loc[("eas", "generator")], table.loc[("eas", "uniform")]
    assert generator.top1 == 71 and generator.union_top1 == 61
    assert generator.high == pytest.approx(71 + 12.706205)
    assert generator.budget_use == pytest.approx(95) and generator.within_budget == 100
    assert uniform.within_budget == 75
    assert generator.times_generator == 1 and uniform.times_generator == pytest.approx(50)
    assert math.isnan(table.loc[("eas", "generator_branch")].union_top1)


# -------------------------------------------------------------------- split halves


def simulated(interaction, archs=200, superclasses=6, images=1200):
    """`own`, labels and parent of archs with a main effect of 5 points and a planted interaction, in points."""
    rng = torch.Generator().manual_seed(0)
    parent = torch.arange(superclasses).repeat_interleave(3)
    labels = torch.randint(len(parent), (images,), generator=rng)
    main = torch.linspace(-7, 7, archs)[:, None]
    planted = interaction * torch.randn(archs, superclasses, generator=rng)
    chance = 70 + main + planted
    own = torch.rand(archs, images, generator=rng) * 100 < chance[:, parent[labels]]
    return own, labels, parent


def test_halves_divide_every_class_and_average_to_the_whole():
    own, labels, parent = simulated(0, archs=3, images=400)
    accuracy = analysis.half_accuracy(own, labels, parent, repeats=5, seed=1)
    assert accuracy.shape == (5, 2, 3, 6)
    assert torch.equal(accuracy, analysis.half_accuracy(own, labels, parent, repeats=5, seed=1))
    everywhere_right = analysis.half_accuracy(own | True, labels, parent, repeats=2)
    assert (everywhere_right == 100).all()
    # One class right: on both halves it is half of its images, up to the odd one.
    one_class = analysis.half_accuracy((labels == 0)[None], labels, parent, repeats=4)[..., 0, 0] / 100
    share = (labels == 0).sum() / (parent[labels] == 0).sum()
    assert (one_class - share).abs().max() < 1 / 60
    with pytest.raises(ValueError, match="two images"):
        analysis.half_accuracy(own[:, :1], labels[:1], parent)


def test_effects_add_up():
    accuracy = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    arch, superclass, interaction = analysis.effects(accuracy)
    rebuilt = accuracy.mean((-2, -1), keepdim=True) + arch + superclass + interaction
    torch.testing.assert_close(rebuilt, accuracy)
    torch.testing.assert_close(interaction.sum(-1), torch.zeros(2, 5, dtype=torch.float64))
    additive = torch.tensor([[1.0], [2.0]]) + torch.tensor([10.0, 20.0, 30.0])
    assert analysis.effects(additive)[2].abs().max() < 1e-5


def test_split_half_recovers_a_planted_interaction():
    found = analysis.split_half(*simulated(interaction=6, images=2400), repeats=10).mean()
    # A row's mean takes a sixth of what was planted; one half's noise has a variance of about 0.2 / 200 images.
    shared, noise = 36 * 5 / 6, 10
    assert found.interaction_variance == pytest.approx(shared, rel=0.15)
    assert found.interaction_correlation == pytest.approx(shared / (shared + noise * 5 / 6), abs=0.06)
    assert found.gain > 5


def test_split_half_finds_nothing_where_there_is_nothing():
    found = analysis.split_half(*simulated(interaction=0), repeats=10).mean()
    assert abs(found.interaction_correlation) < 0.08 and abs(found.interaction_variance) < 1.5
    assert found.arch_correlation > 0.7
    assert math.sqrt(found.arch_variance) == pytest.approx(14 / math.sqrt(12), rel=0.1)  # uniform from -7 to 7
    assert found.gain < 0.5


def test_gain_shares_ties():
    chosen_on = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    judged_on = torch.tensor([[4.0, 0.0], [0.0, 2.0], [0.0, 8.0]])
    # By superclass: (4 + 0) / 2 and (2 + 8) / 2, mean 3.5. One for all: the second, (0 + 2) / 2.
    assert analysis.gain_of_choosing(chosen_on, judged_on).item() == pytest.approx(2.5)


# -------------------------------------------------------------------- archs


def test_swap_cost():
    table = [(a, b, 80.0 if a == b else 77.0 + seed, seed) for seed in (0, 1) for a in "xyz" for b in "xyz"]
    swap = pd.DataFrame(table, columns=["arch_of", "used_for", "top1", "seed"]).assign(supernet="eas", budget_madds=1)
    row = analysis.swap_cost(swap).iloc[0]
    assert row["mean"] == pytest.approx(2.5) and row["high"] == pytest.approx(2.5 + 12.706205 * 0.5)


def test_relative_widths_and_archs_differ():
    archs = torch.tensor([[0, 1, 2, 0, 0, 1], [1, 1, 0, 1, 2, 2]])
    widths = analysis.relative_widths(archs, SPACE)
    assert widths[0].isnan().tolist() == [False, True, False, False]
    assert widths[1].tolist() == [0.25, 0.5, 1.0, 1.0]
    table = analysis.archs_differ(archs, ["greek", "greek"], SPACE)
    assert list(table.index) == ["greek"]
    assert list(table) == ["depth 1", "depth 2", "width 1.1", "width 1.2", "width 2.1", "width 2.2"]
    assert table.loc["greek"].tolist() == [1.5, 2.0, 0.625, 0.5, 0.625, 0.75]


# -------------------------------------------------------------------- supernets and metrics


def record(setting, seed, largest, random):
    accuracy = [("largest", 300, largest), *(("random", 200, value) for value in random)]
    named = [{"subnet": s, "madds": m, "top1": t, "flat_top1": t - 20} for s, m, t in accuracy]
    return {"setting": setting, "seed": seed, "seconds": 1.0, "history": [], "accuracy": named}


RECORDS = [
    record("none", 0, 70.0, [60.0, 62.0]),
    record("none", 1, 71.0, [60.0, 60.0]),
    record("own-0.5", 0, 71.0, [63.0, 63.0]),
    record("own-0.5", 1, 73.0, [61.0, 63.0]),
    record("sample-0.5", 0, 69.0, [60.0, 60.0]),
]


def test_dropout_gain_is_paired_by_seed():
    assert len(analysis.accuracy_table(RECORDS)) == 15
    gain = analysis.dropout_gain(RECORDS).set_index(["setting", "subnet"])
    assert gain.loc[("own-0.5", "largest"), "mean"] == 1.5 and gain.loc[("own-0.5", "random"), "mean"] == 2
    assert gain.loc[("sample-0.5", "largest"), "mean"] == -1
    assert math.isnan(gain.loc[("sample-0.5", "largest"), "low"])


def test_metrics():
    halves = [analysis.split_half(*simulated(0, images=200), repeats=2).assign(supernet="eas", seed=s) for s in (0, 1)]
    timing = pd.DataFrame(
        [("generator", 1, 0.01, 0.01), ("generator", 50, 0.1, 0.002), ("ofa_evolution", 50, 25.0, 0.5)],
        columns=["method", "scenarios", "seconds_total", "seconds_per_scenario"],
    )
    found = analysis.metrics(COMPARISON, records=RECORDS, chosen="own-0.5", halves=pd.concat(halves), timing=timing)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert all(name.isidentifier() and name == name.lower() for name in found)
    expected = {
        "top1_generator_eas": 71.0,
        "union_top1_generator_ofa": 59.5,
        "regret_mean_eas": 0.25,
        "budget_use_mean_eas": 95.0,
        "budget_use_min_eas": 90.0,
        "within_budget_eas": 100.0,
        "eas_minus_ofa_mean_generator": 1.5,
        "dropout_gain_mean_largest": 1.5,
        "timed_scenarios": 50.0,
        "generator_ms": 100.0,
        "times_generator_ofa_evolution": 250.0,
    }
    assert {name: found[name] for name in expected} == expected
    assert "split_half_gain_mean_eas" in found and "swap_cost_mean_eas" not in found
    assert found["generator_branch_minus_mean_generator"] == 20
    assert "generator_branch_minus_mean_ofa_evolution" not in found and "machine" not in found
    assert found["generator_minus_uniform_mean_eas"] == 0.75
    assert "union_top1_generator_branch_eas" not in found


def test_eas_as_a_whole_is_compared_with_ofas_way():
    ofa = [rows("ofa_evolution", "ofa", 0, [71.0, 50.0]), rows("ofa_evolution", "ofa", 1, [71.0, 51.0])]
    comparison = pd.concat([COMPARISON, *ofa], ignore_index=True)
    table = analysis.against_ofa(comparison).set_index(["method", "scenarios"])["mean"]
    assert table.to_dict() == {
        ("generator", "single"): 0.0,  # -1 and 1
        ("generator", "union"): 10.5,
        ("generator_branch", "single"): 19.0,
    }
    found = analysis.metrics(comparison)
    assert found["eas_minus_ofas_way_mean_single"] == 0 and found["eas_minus_ofas_way_mean_union"] == 10.5
    assert found["eas_minus_ofas_way_high_single"] == 12.71  # standard error 1
    assert analysis.against_ofa(COMPARISON).empty and not [n for n in analysis.metrics(COMPARISON) if "ofas_way" in n]


def test_weights_of_ones_own_are_compared_with_their_rivals_where_both_were_measured():
    table = analysis.own_weights(COMPARISON)
    assert list(table.columns) == ["method", "rival", "scenarios", "seeds", "mean", "low", "high"]
    (row,) = table.itertuples(index=False)
    assert (row.method, row.rival, row.scenarios, row.seeds, row.mean) == ("generator_branch", "generator", 1, 1, 20)
    assert analysis.own_weights(COMPARISON[COMPARISON.method == "generator"]).empty


@pytest.mark.parametrize("method", analysis.FEW)
def test_what_only_some_scenarios_have_is_no_line_of_the_headline(method):
    few = COMPARISON[COMPARISON.method == "generator"].head(1).assign(method=method)
    table = analysis.headline(pd.concat([COMPARISON, few]))
    assert table.equals(analysis.headline(COMPARISON))


def test_branches_of_other_supernets_are_compared_with_the_studys_own_seed_by_seed():
    rows = [
        ("sample-0.5", 0, 86.0, 90.0),
        ("sample-0.5", 1, 84.0, 91.0),
        ("own-0", 0, 87.0, 92.0),
        ("own-0", 1, 83.5, 91.0),
    ]
    table = pd.DataFrame(rows, columns=["setting", "seed", "shared", "branches"])
    own, other = analysis.other_branches(table).itertuples(index=False)
    assert (own.setting, own.shared, own.branches, own.mean, own.high) == ("sample-0.5", 85, 90.5, 0, 0)
    assert (other.setting, other.shared, other.branches, other.mean) == ("own-0", 85.25, 91.5, 1)
    assert other.high == pytest.approx(1 + 12.7062, abs=1e-4)
    found = analysis.metrics(COMPARISON, branches=table)
    assert found["other_branches_minus_own_mean_own_0"] == 1 and found["other_shared_minus_own_own_0"] == 0.25
    assert "other_branches_minus_own_mean_sample_0_5" not in found
    assert analysis.metrics(COMPARISON, branches=table[:0]) == analysis.metrics(COMPARISON)


def test_what_a_teacher_adds_is_the_difference_subnet_by_subnet():
    taught = {
        "teacher": {"top1": 80.0},
        "without": record("own-0.5", 0, 71.0, [63.0, 62.0]),
        "with": record("own-0.5", 0, 74.0, [64.0, 65.0]),
    }
    table = analysis.teacher_gain(taught).set_index("subnet")
    kinds = [row["subnet"] for row in taught["with"]["accuracy"]]
    assert list(table.index) == [*dict.fromkeys(kinds), "all"] and list(table.columns) == ["without", "with", "gain"]
    assert table.loc["largest"].tolist() == [71.0, 74.0, 3.0] and table.loc["random"].tolist() == [62.5, 64.5, 2.0]
    assert table.gain["all"] == pytest.approx(7 / 3)
    found = analysis.metrics(COMPARISON, taught=taught)
    assert (found["teacher_top1"], found["teacher_gain_largest"], found["teacher_gain_all"]) == (80.0, 3.0, 2.333)
    assert analysis.metrics(COMPARISON, taught={}) == analysis.metrics(COMPARISON)


def test_metrics_name_what_every_step_cost():
    costs = pd.DataFrame({"step": ["supernets/own-0.5", "generators/pool"], "runs": [3, 6], "seconds": [12.0, 3.0]})
    costs = costs.assign(images_per_second=[100.0, math.nan], memory_gb=math.nan, machine="a machine")
    elsewhere = costs[1:].assign(runs=2, seconds=1.0, machine="another")
    several = analysis.metrics(COMPARISON, costs=pd.concat([elsewhere, costs], ignore_index=True))
    assert several["seconds_generators_pool"] == 3 and several["machine"] == "another; a machine"
    assert several["machine_generators_pool"] == several["machine_supernets_own_0_5"] == "a machine"
    found = analysis.metrics(COMPARISON, costs=costs)
    assert found["seconds_supernets_own_0_5"] == 12 and found["seconds_generators_pool"] == 3
    assert found["images_per_second_supernets_own_0_5"] == 100 and found["machine"] == "a machine"
    assert not any(name.startswith("memory") for name in found)


def test_metrics_tell_how_fast_training_was():
    speed = {"images_per_second": 100.0, "tflops": 0.02, "matrix_tflops": 0.1, "shares": {"batch norm": 25.0}}
    found = analysis.metrics(COMPARISON, throughput=speed | {"machine": "a machine"})
    assert found["training_share_of_matrix_rate"] == 20 and found["training_images_per_second"] == 100
    assert found["training_share_batch_norm"] == 25 and found["training_machine"] == "a machine"


def test_metrics_of_one_seed_leave_out_what_is_unknown():
    found = analysis.metrics(COMPARISON[COMPARISON.seed == 0])
    assert found["regret_mean_eas"] == 0.25 and "regret_low_eas" not in found
