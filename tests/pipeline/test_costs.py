"""What the steps of a study cost, on rows that were made up."""

import math

import pandas as pd
import pytest

from pipeline.report.costs import cost_table, most_runs, numbered_machines, seed_costs

H100, CPU = "16 CPUs, a GPU", "2 CPUs, no GPU"


def row(step, name, seed, seconds, machine=H100, **columns):
    base = {"step": step, "name": name, "seed": seed, "seconds": seconds, "images": math.nan, "memory_gb": math.nan}
    return base | {"machine": machine, "gpu": machine == H100, "apart": False} | columns


def test_a_step_costs_the_median_over_supernets_and_seeds_on_each_machine():
    rows = pd.DataFrame(
        [
            row("pools", "", 0, 1.0),
            row("pools", "", 1, 3.0),
            row("pools", "", 2, 9.0, CPU),
            row("supernets", "own-0.5", 0, 2.0, images=100, memory_gb=1.5),
            row("supernets", "own-0.5", 1, 4.0, images=100, memory_gb=2.5),
            row("supernets", "none", 0, 5.0, images=100),
        ]
    )
    table = cost_table(rows)
    keys = ["step", "name", "machine"]
    assert table[[*keys, "runs"]].values.tolist() == [
        ["pools", "", H100, 2],
        ["pools", "", CPU, 1],
        ["supernets", "own-0.5", H100, 2],
        ["supernets", "none", H100, 1],
    ]
    assert table.seconds.tolist() == [2, 9, 3, 5] and table.gpu.tolist() == [True, False, True, True]
    assert table.images_per_second.tolist()[2:] == [37.5, 20]  # the median of 50 and 25
    assert table.memory_gb[2] == 2.5 and math.isnan(table.memory_gb[3])
    assert most_runs(table).seconds.tolist() == [2, 3, 5]
    assert len(cost_table(rows.assign(machine=None))) == 4  # none is lost


def test_what_a_seed_costs_where_one_machine_did_all_of_it():
    """The second seed's pool is of another machine; what is measured apart may be so, and is not in the sum."""
    rows = pd.DataFrame(
        [
            row("supernets", "none", 0, 60.0),
            row("supernets", "own-0.1", 0, 30.0),
            row("branches", "all-0.1", 0, 12.0),
            row("pools", "", 0, 6.0),
            row("pools", "", 0, 4.0),
            row("measured", "", 0, 8.0),
            row("tuned", "", 0, 100.0, CPU, apart=True),
            row("long", "", 0, 7.0, apart=True),
            row("from_scratch", "", 0, 900.0, apart=True),
            row("throughput", "", math.nan, 5.0),
            row("supernets", "none", 1, 60.0),
            row("pools", "", 1, 6.0, CPU),
        ]
    )
    table = seed_costs(rows)
    assert table.columns.tolist() == [
        *("seed", "minutes", "supernets", "branches", "pools", "measured", "apart", "machine")
    ]
    assert table.values.tolist() == [[0, 2.0, 90, 12, 10, 8, 907, H100]]
    none = seed_costs(rows[rows.step == "from_scratch"])
    assert none.empty and "minutes" in none


def test_machines_are_numbered_and_told_once():
    table = pd.DataFrame({"step": ["a", "b", "c"], "machine": [H100, CPU, H100]})
    numbered, legend = numbered_machines(table)
    assert numbered.machine.tolist() == [1, 2, 1]
    assert legend == f"Machine 1: {H100}; machine 2: {CPU}."
    assert numbered_machines(table[:0])[1] == ""


@pytest.mark.parametrize("function", [cost_table, seed_costs])
def test_a_study_without_rows_costs_nothing(function):
    assert function(pd.DataFrame([row("pools", "", 0, 1.0)])[:0]).empty
