"""What the steps of a study cost: tables of wall times, speed and memory, made of the rows that their records hold.

A row is a result: step (of the pipeline), name (what of it, without supernet and seed: a setting of superclass dropout,
a branch; empty where there is one kind only), seed (NaN: of no single seed), seconds, images (trained on; NaN: no
training), memory_gb (the peak, of the GPU where one worked, else of the process; NaN: not recorded), machine, gpu
(whether one worked), apart (measured beside the study: long search, archs tuned alone or from scratch).
"""

from __future__ import annotations

import pandas as pd

COLUMNS = ["step", "name", "runs", "seconds", "images_per_second", "memory_gb", "gpu", "machine"]
UNKNOWN = "a machine that was not recorded"


def cost_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The median of the rows of each step and name on each machine, over supernets and seeds; of the memory the most.

    Columns step, name, runs, seconds, images_per_second, memory_gb, gpu, machine. An image counts once, although every
    step of a training sends it through several subnets.
    """
    rows = rows.assign(images_per_second=rows.images / rows.seconds, machine=rows.machine.fillna(UNKNOWN))
    groups = rows.groupby(["step", "name", "gpu", "machine"], sort=False)
    medians = groups[["seconds", "images_per_second"]].median().assign(memory_gb=groups.memory_gb.max())
    return medians.assign(runs=groups.size()).reset_index()[COLUMNS]


def most_runs(costs: pd.DataFrame) -> pd.DataFrame:
    """Of `cost_table` one row for each step and name: that of the machine where it ran most often, or first."""
    most = costs.sort_values("runs", ascending=False, kind="stable").drop_duplicates(["step", "name"])
    return most.sort_index()


def seed_costs(rows: pd.DataFrame) -> pd.DataFrame:
    """What a seed costs, where all of it, but for what is measured apart, ran on one machine.

    Columns seed, minutes (all in turn), the seconds of each step, apart (as far as it ran there, not in the minutes),
    machine.
    """
    table = rows.dropna(subset="seed").astype({"seed": int})
    table = table.assign(step=table.step.mask(table.apart, "apart"), machine=table.machine.fillna(UNKNOWN))
    machines = table[~table.apart].groupby("seed").machine
    machine = machines.first()[machines.nunique() == 1]
    table = table[table.machine == table.seed.map(machine)]
    steps = [step for step in table.step.unique() if step != "apart"]
    costs = table.pivot_table("seconds", "seed", "step", "sum").reindex(columns=[*steps, "apart"]).fillna(0.0)
    costs.insert(0, "minutes", costs[steps].sum(axis=1) / 60)
    return costs.assign(machine=machine).rename_axis(columns=None).reset_index()


def numbered_machines(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The table with a number for each machine, and a line that says which is which: their names are long."""
    numbers = {name: number for number, name in enumerate(table.machine.unique(), start=1)}
    legend = "; ".join(f"machine {number}: {name}" for name, number in numbers.items())
    return table.assign(machine=table.machine.map(numbers)), f"M{legend[1:]}." if legend else ""
