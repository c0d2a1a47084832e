"""Statistics by the kind of a set: gains over shared weights, and how right expectations are."""

import numpy as np
import pandas as pd
import pytest

from pipeline import demo, publish, tables
from pipeline.report import kinds

COLUMNS = ["method", "supernet", "seed", "scenario", "kind", "budget_madds", "top1"]


def test_points_are_over_ofas_way_or_the_same_archs_on_the_sets_and_seeds_that_both_have():
    rows = []
    for seed, extra in ((0, 0.0), (1, 1.0)):
        for scenario, kind in (("a", "superclass"), ("a+b", "union"), ("x+y", "part")):
            rows.append(("generator", "dropout", seed, scenario, kind, 5, 68.0))
            rows.append(("ofa_evolution", "plain", seed, scenario, kind, 5, 69.0))
            for supernet, top1 in (("dropout", 67.0), ("plain", 70.0)):
                rows.append(("generator_additive", supernet, seed, scenario, kind, 5, top1))
            if kind != "part":
                rows.append(("generator_composed", "plain", seed, scenario, kind, 5, 72.0 + extra))
    rows.append(("generator_finetuned", "dropout", 0, "a+b", "union", 5, 76.0))
    frame = pd.DataFrame(rows, columns=COLUMNS)
    table = kinds.points_by_kind(frame).set_index(["kind", "method"])
    assert set(table.loc["part"].index) == {"generator_additive"} and len(table) == 3 + 2 + 1
    composed = table.loc[("union", "generator_composed")]
    assert (composed.supernet, composed.sets, composed.seeds, composed["mean"]) == ("plain", 1, 2, 3.5)
    assert composed.low < 3 < 4 < composed.high
    tuned = table.loc[("union", "generator_finetuned")]
    assert (tuned["mean"], tuned.seeds) == (7, 1) and np.isnan(tuned.low)
    assert (table.xs("generator_additive", level="method")["mean"] == 1).all()  # on the supernet of the composed ones
    own = kinds.points_by_kind(frame, over_shared=True).set_index(["kind", "method"])
    assert set(own.index.get_level_values("method")) == {"generator_composed", "generator_finetuned"}
    assert own.loc[("union", "generator_composed"), "mean"] == 2.5  # over the same archs on its own supernet
    assert own.loc[("union", "generator_finetuned"), "mean"] == 8


def test_prices_tell_what_is_paid_once_and_what_for_every_set():
    columns = ["method", "supernet", "search_seconds", "parameters"]
    rows = [("generator_additive", "dropout", each, 5) for each in (0.1, 0.3)] + [("ofa_evolution", "plain", 9.0, 5)]
    rows += [("generator_composed", "dropout", 0.2, 5), ("generator_finetuned", "dropout", 60.0, 250_000)]
    rows += [("generator_gates", "dropout", 0.2, 5), ("ofa_evolution", "dropout", 1.0, 5)]
    branches = pd.DataFrame({"method": ["generator_composed"], "seconds": [1000.0], "megabytes": [4.0]})
    table = kinds.prices(pd.DataFrame(rows, columns=columns), branches).set_index("method")
    assert list(table.index) == ["ofa_evolution", "generator_additive", "generator_composed", "generator_finetuned"]
    assert table.seconds_a_set.tolist() == [9, 0.2, 0.2, 60] and table.megabytes_a_set.tolist() == [0, 0, 0, 1]
    assert table.seconds_before.tolist() == [0, 0, 1000, 0] and table.megabytes_before.tolist() == [0, 0, 4, 0]


def test_expectations_are_judged_by_error_slope_and_coverage():
    expected = np.array([50.0, 60.0, 70.0, 80.0])
    frame = pd.DataFrame({"kind": ["part", "part", "union", "union"], "expected": expected})
    frame = frame.assign(low=expected - 2, high=expected + 2, measured=expected * 0.5 + 30, images=10**8)
    table = kinds.expectation_errors(frame).set_index("kind")
    assert list(table.index) == ["every", "part", "union"]
    assert table.networks.tolist() == [4, 2, 2] and table.slope.tolist() == pytest.approx([0.5] * 3)
    assert table.mean_error["every"] == pytest.approx(-2.5) and table.coverage.tolist() == [25, 50, 0]
    few = kinds.expectation_errors(frame.assign(images=20))  # whose noise is wider than all errors
    assert (few.coverage == 100).all()


def test_what_was_expected_stands_beside_what_was_measured_with_the_kits_weights(finished):
    kit, comparison = publish.study_kit(finished, finished.dataset()), tables.comparison_table(finished)
    frame = demo.expected_and_measured(finished, kit, comparison)
    rows = comparison[(comparison.supernet == "dropout") & (comparison.seed == finished.study.seeds[0])]
    assert set(frame.kind) == set(comparison.kind)
    for row in frame.iloc[[0, 20, -1]].itertuples():
        mask = finished.dataset().hierarchy.class_mask(
            finished.dataset().hierarchy.superclasses if row.kind == "all" else row.scenario.split("+")
        )
        method = "generator_composed" if kit.branches_for(mask) else "generator"
        same = (rows.method == method) & (rows.scenario == row.scenario) & (rows.budget_madds == row.budget_madds)
        assert row.measured == rows[same].top1.item() and row.low <= row.expected <= row.high
        assert row.images == len(finished.dataset().test.only(mask))
