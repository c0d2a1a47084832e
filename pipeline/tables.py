"""The tables that notebooks 04 and 05 make of a study's results: comparison.csv, costs, those of the ablations."""

from __future__ import annotations

from itertools import product

import pandas as pd
from torch import Tensor

from pipeline import costly_baselines, steps
from pipeline.branches import branch_method, compared_branch_jobs
from pipeline.comparison import Archs, other_jobs, shared_archs, time_jobs
from pipeline.generators import load_pool
from pipeline.report import preferences
from pipeline.scenarios import other_scenarios, scenarios
from pipeline.store import Workspace
from pipeline.supernets import Base, bases, new_space

# By method: archs, top-1 (NaN where not measured) and seconds of the search, each by scenario.
Measured = tuple[Archs, dict[str, Tensor], dict[str, list[float]]]


def comparison_table(workspace: Workspace) -> pd.DataFrame:
    """The comparison: one row for every method, supernet, seed and scenario that was measured."""
    dataset, rows = workspace.dataset(), []
    space, study = new_space(workspace.study, dataset), workspace.study
    parts = (
        (scenarios(study, dataset.hierarchy), measured),
        (other_scenarios(study, dataset.hierarchy), measured_others),
    )
    for base, (every, found) in product(bases(workspace), parts):
        archs, top1, seconds = found(workspace, base)
        for method, each in archs.items():
            columns = {"method": method, "supernet": base.name, "seed": base.seed, "scenario": every.names}
            columns |= {"kind": every.kinds, "classes": every.class_counts, "budget_madds": every.budgets.long()}
            columns |= {what: getattr(space, what)(each, every.class_counts) for what in ("madds", "parameters")}
            columns |= {"top1": top1[method].double().round(decimals=4), "search_seconds": seconds[method]}
            rows.append(pd.DataFrame(columns).dropna(subset="top1"))  # seconds are unknown where a killed run went on
    return pd.concat(rows, ignore_index=True)


def measured(workspace: Workspace, base: Base) -> Measured:
    """What all methods reach for `scenarios` on one supernet."""
    archs, top1 = shared_archs(workspace, base), steps.tensors_of(workspace, "measured", base=base)
    seconds = steps.record_of(workspace, "proposals", base=base)["per_scenario"]
    seconds = seconds | steps.record_of(workspace, "selected", base=base)["per_scenario"]
    rows = slice(None, len(archs["generator"]))
    for step in ("measured_gates", "measured_additive"):
        add_generator(workspace, base, step, rows, (archs, top1, seconds))
    add_branches(workspace, base, rows, (archs, top1, seconds))
    for method, baseline in costly_baselines.measured(workspace, base, archs, seconds).items():
        archs[method], top1[method], seconds[method] = baseline
    return archs, top1, seconds


def measured_others(workspace: Workspace, base: Base) -> Measured:
    """What some methods reach for `other_scenarios` on one supernet."""
    if not other_jobs(workspace):
        return {}, {}, {}
    found, seconds = steps.tensors_of(workspace, "other_sets", base=base), {}
    archs = {name: found[name] for name in ("generator", "ofa_evolution")}
    top1, record = {name: found[f"{name}.top1"] for name in archs}, steps.record_of(workspace, "other_sets", base=base)
    seconds |= record["per_scenario"]
    rows = slice(-len(archs["generator"]), None)
    add_generator(workspace, base, "measured_additive", rows, (archs, top1, seconds))
    add_branches(workspace, base, rows, (archs, top1, seconds))
    if {"base": base} in costly_baselines.other_tuned_jobs(workspace):
        archs["generator_finetuned"] = archs["generator"]
        top1["generator_finetuned"] = steps.tensors_of(workspace, "other_tuned", base=base)["top1"]
        each = steps.record_of(workspace, "other_tuned", base=base)["per_scenario"]
        seconds["generator_finetuned"] = [time + each for time in seconds["generator"]]
    return archs, top1, seconds


def add_generator(workspace: Workspace, base: Base, step: str, rows: slice, measured: Measured) -> None:
    """Add the one generator that a step has measured; `rows` are those of every_scenario."""
    (archs, top1, seconds), (result, record) = measured, steps.find(workspace, step, base=base)
    ((method, taken),), tensors = record["per_scenario"].items(), result.tensors()
    archs[method], top1[method], seconds[method] = tensors["archs"][rows], tensors["top1"][rows], taken[rows]


def add_branches(workspace: Workspace, base: Base, rows: slice, measured: Measured) -> None:
    """Add generators' archs with branches to what was measured; `rows` are those of every_scenario."""
    archs, top1, seconds = measured
    for job in steps.STEPS["measured_branches"].all_jobs(workspace):
        if job["base"] == base:
            method = branch_method(job["branch"])
            archs[method.name], seconds[method.name] = archs[method.archs], seconds[method.archs]
            top1[method.name] = steps.tensors_of(workspace, "measured_branches", **job)["top1"][rows]


def branch_costs(workspace: Workspace) -> pd.DataFrame:
    """What a seed's branches cost before any set is served: columns method, seconds (NaN if unknown), megabytes."""
    rows = []
    for job in compared_branch_jobs(workspace):
        record = steps.record_of(workspace, "branches", **job)
        rows.append({"method": branch_method(job["branch"]).name, **{n: record[n] for n in ("seconds", "bytes")}})
    table = pd.DataFrame(rows, columns=["method", "seconds", "bytes"])
    means = table.astype({"seconds": float}).groupby("method", sort=False).mean()
    return means.assign(megabytes=means.bytes / 1e6).drop(columns="bytes").reset_index()


def swap_table(workspace: Workspace) -> pd.DataFrame:
    """The swap test: supernet, seed, budget_madds, arch_of, used_for, top1 for all ordered pairs of superclasses."""
    names, tables = workspace.dataset().hierarchy.superclasses, []
    budgets = [int(budget * 1e6) for budget in workspace.study.scenarios.budgets]
    index = pd.MultiIndex.from_product([budgets, names, names], names=["budget_madds", "arch_of", "used_for"])
    for base in bases(workspace):
        swap = steps.tensors_of(workspace, "measured", base=base)["swap"]
        table = pd.DataFrame({"top1": swap.flatten()}, index).reset_index()
        tables.append(table.assign(supernet=base.name, seed=base.seed))
    return pd.concat(tables, ignore_index=True).round(4)[["supernet", "seed", *index.names, "top1"]]


def split_half_table(workspace: Workspace) -> pd.DataFrame:
    """The split-half test (preferences.split_half) for all supernets and seeds, with columns supernet and seed."""
    parent, tables = workspace.dataset().hierarchy.parent, []
    for base in bases(workspace):
        pool = load_pool(workspace, base)
        halves = preferences.split_half(pool["correct"], pool["labels"], parent)
        tables.append(halves.assign(supernet=base.name, seed=base.seed))
    return pd.concat(tables, ignore_index=True)


def time_table(workspace: Workspace) -> pd.DataFrame:
    """What `time_search` measured: columns method, scenarios, seconds_total, seconds_per_scenario.

    Without random search where that was measured on another machine than the others: times of two do not compare.
    """
    ((record, job),) = zip(steps.records(workspace, "search_times"), time_jobs(workspace), strict=True)
    total, selected = record["total"], steps.record_of(workspace, "selected", **job)
    here = selected["machine"] == record["machine"]
    total = {name: took for name, took in total.items() if here or name != "random"}
    table = pd.DataFrame({"method": total.keys(), "scenarios": record["scenarios"]})
    table["seconds_total"] = list(total.values())
    return table.assign(seconds_per_scenario=table.seconds_total / table.scenarios)


def result_costs(workspace: Workspace) -> pd.DataFrame:
    """What every result cost that was timed, in the columns that report.costs reads."""
    rows = []
    for step in steps.STEPS.values():
        for job in step.all_jobs(workspace):
            record, base = steps.record_of(workspace, step.name, **job), job.get("base")
            name = next((job[what].name for what in ("branch", "dropout") if what in job), "")
            row = {"step": step.name, "name": name, "seed": base.seed if base else job.get("seed")}
            row |= {what: record.get(what) for what in ("seconds", "images", "memory_gb", "machine")}
            rows.append(row | {"gpu": step.gpu and "no GPU" not in (record.get("machine") or ""), "apart": step.apart})
    table = pd.DataFrame(rows).astype({"seed": float, "seconds": float, "images": float, "memory_gb": float})
    return table.dropna(subset="seconds").reset_index(drop=True)
