"""pipeline.report.metrics: which numbers a study's tables give, and that the committed ones are those of its tables."""

import json
import math
import re

import pandas as pd
import pytest
import torch
from test_preferences import simulated
from test_stats import COMPARISON, RECORDS, rows

from pipeline.report import preferences
from pipeline.report.inputs import read_metrics
from pipeline.report.metrics import metrics


def test_metrics():
    halves = [
        preferences.split_half(*simulated(0, images=200), repeats=2).assign(supernet="dropout", seed=s) for s in (0, 1)
    ]
    timing = pd.DataFrame(
        [("generator", 1, 0.01, 0.01), ("generator", 50, 0.1, 0.002), ("ofa_evolution", 50, 25.0, 0.5)],
        columns=["method", "scenarios", "seconds_total", "seconds_per_scenario"],
    )
    found = metrics(
        COMPARISON,
        records=RECORDS,
        chosen="own-0.5",
        archs=torch.tensor([[0, 1], [0, 1], [1, 0]]),
        halves=pd.concat(halves),
        timing=timing,
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert all(name.isidentifier() and name == name.lower() for name in found)
    expected = {
        "top1_generator_dropout": 71.0,
        "union_top1_generator_plain": 59.5,
        "regret_mean_dropout": 0.25,
        "budget_use_mean_dropout": 95.0,
        "budget_use_min_dropout": 90.0,
        "within_budget_dropout": 100.0,
        "dropout_minus_plain_mean_generator": 1.5,
        "dropout_gain_mean_largest": 1.5,  # on both seeds, though another setting has one only
        "distinct_archs": 2.0,
        "timed_scenarios": 50.0,
        "generator_ms": 100.0,
        "times_generator_ofa_evolution": 250.0,
        "generator_branch_minus_mean_generator": 20.0,
        "generator_minus_uniform_mean_dropout": 0.25,  # of superclasses; unions are 0.5 more
    }
    assert {name: found[name] for name in expected} == expected
    assert "split_half_gain_mean_dropout" in found and "swap_cost_mean_dropout" not in found
    bound = math.sqrt(max(0, found["split_half_interaction_variance_high_dropout"]))
    assert found["split_half_interaction_sd_upper_dropout"] == pytest.approx(bound, rel=1e-3)
    assert "generator_branch_minus_mean_ofa_evolution" not in found and "machine" not in found
    assert not [name for name in found if name.startswith(("union_top1_generator_branch", "top1_generator_branch"))]


def test_what_was_measured_on_one_seed_is_compared_in_pairs_only():
    random = COMPARISON[(COMPARISON.method == "random") & (COMPARISON.seed == 0)]
    found = metrics(pd.concat([COMPARISON, random.assign(method="evolution_long", top1=99.0)]))
    assert found["generator_minus_evolution_long_mean_dropout"] < 0
    assert "generator_minus_evolution_long_low_dropout" not in found and "top1_evolution_long_dropout" not in found


def test_both_generators_are_held_against_ofas_way():
    ofa = [rows("ofa_evolution", "plain", 0, [71.0, 50.0]), rows("ofa_evolution", "plain", 1, [71.0, 51.0])]
    gates = [rows("generator_gates", "dropout", seed, [70.0, 60.0]) for seed in (0, 1)]
    found = metrics(pd.concat([COMPARISON, *ofa, *gates], ignore_index=True))
    assert found["generator_minus_ofas_way_mean_superclass"] == 0
    assert found["generator_minus_ofas_way_mean_union"] == 10.5
    assert found["generator_minus_ofas_way_high_superclass"] == 12.71  # standard error 1
    assert found["generator_gates_minus_ofas_way_mean_superclass"] == -1
    assert found["generator_minus_generator_gates_mean_dropout"] == 1
    assert "generator_minus_generator_gates_mean_plain" not in found  # not measured there
    assert not [name for name in metrics(COMPARISON) if "ofas_way" in name or "gates" in name]


def test_metrics_name_what_every_step_cost():
    costs = pd.DataFrame({"step": ["supernets", "pools"], "name": ["own-0.5", ""], "runs": [3, 6]})
    costs = costs.assign(seconds=[12.0, 3.0], images_per_second=[100.0, math.nan], memory_gb=math.nan)
    costs = costs.assign(machine="a machine", gpu=True)
    elsewhere = costs[1:].assign(runs=2, seconds=1.0, machine="another")
    several = metrics(COMPARISON, costs=pd.concat([elsewhere, costs], ignore_index=True))
    assert several["seconds_pools"] == 3 and several["machine"] == "another; a machine"
    found = metrics(COMPARISON, costs=costs)
    assert found["seconds_supernets_own_0_5"] == 12 and found["seconds_pools"] == 3
    assert found["images_per_second_supernets_own_0_5"] == 100 and found["machine"] == "a machine"
    assert not any(name.startswith("memory") for name in found)


def test_metrics_tell_how_long_a_seed_takes_and_where():
    seeds = pd.DataFrame({"seed": [0, 1, 2], "minutes": [1.0, 2.0, 4.0], "machine": ["a", "b", "a"]})
    found = metrics(COMPARISON, seeds=seeds)
    assert found["minutes_a_seed"] == 2 and found["minutes_a_seed_machine"] == "a; b"
    assert metrics(COMPARISON, seeds=seeds[:0]) == metrics(COMPARISON)


def test_metrics_tell_how_fast_training_was():
    speed = {"images_per_second": 100.0, "tflops": 0.02, "matrix_tflops": 0.1, "shares": {"batch norm": 25.0}}
    found = metrics(COMPARISON, throughput=speed | {"machine": "a machine"})
    assert found["training_share_of_matrix_rate"] == 20 and found["training_images_per_second"] == 100
    assert found["training_share_batch_norm"] == 25 and found["training_machine"] == "a machine"


def test_metrics_of_one_seed_leave_out_what_is_unknown():
    halves = preferences.split_half(*simulated(0, images=200), repeats=2).assign(supernet="dropout", seed=0)
    found = metrics(COMPARISON[COMPARISON.seed == 0], halves=halves)
    assert found["regret_mean_dropout"] == 0.25 and "regret_low_dropout" not in found
    assert "split_half_gain_mean_dropout" in found and "split_half_interaction_sd_upper_dropout" not in found


def test_numbers_are_read_from_a_flat_file_only(tmp_path):
    path = tmp_path / "metrics.json"
    with pytest.raises(FileNotFoundError, match="dvc repro"):
        read_metrics(path)
    path.write_text('{"top1": {"mean": 1}}')
    with pytest.raises(ValueError, match="without nesting"):
        read_metrics(path)
    path.write_text('{"top1": 1.5, "chosen": "own-0.5"}')
    assert read_metrics(path) == {"top1": 1.5, "chosen": "own-0.5"}


ACCURACIES = re.compile(r"(union_)?top1_|regret_|budget_use_|within_budget_|(\w+_)?minus_")


@pytest.mark.parametrize("study", ["cifar100", "glyphs"])
def test_committed_numbers_are_those_of_the_committed_comparison(request, study):
    report = request.config.rootpath / "reports" / study
    committed = read_metrics(report / "metrics.json")
    assert metrics(pd.read_csv(report / "comparison.csv")) == {
        name: value for name, value in committed.items() if ACCURACIES.match(name)
    }
