"""The tables of notebooks 04 and 05: comparison.csv, the swap and the split-half test, times, and all costs."""

import pytest
from study_cases import every_job, with_study

from pipeline import comparison, costly_baselines, steps, supernets, tables
from pipeline.methods import METHODS, OFAS_WAY
from pipeline.scenarios import every_scenario, other_scenarios, scenarios
from pipeline.store import Workspace

SCENARIO = ["method", "supernet", "seed", "scenario", "kind", "classes", "budget_madds"]
COLUMNS = [*SCENARIO, "madds", "parameters", "top1", "search_seconds"]
OTHER_WEIGHTS = [name for name, method in METHODS.items() if method.weights not in ("shared", "tuned")]
SHARED = [name for name in METHODS if name not in (*OTHER_WEIGHTS, "evolution_long", "generator_control")]


@pytest.fixture(scope="module")
def table(finished):
    return tables.comparison_table(finished)


def test_the_table_has_one_row_for_every_method_supernet_seed_and_scenario(finished, table):
    study = finished.study
    assert list(table.columns) == COLUMNS
    every = scenarios(study, finished.dataset().hierarchy)
    pairs = list(zip(every.names, every.budgets.long().tolist(), strict=True))
    singles = [pair for pair, kind in zip(pairs, every.kinds, strict=True) if kind == "superclass"]
    runs = [(name, seed) for name in ("dropout", "plain") for seed in study.seeds]
    expected = {(method, *run, *pair) for method in SHARED for run in runs for pair in pairs}
    middle = study.scenarios.budgets[len(study.scenarios.budgets) // 2] * 1e6
    unions = [pair for pair in pairs if pair not in singles and pair[1] == middle]
    first = study.seeds[0]
    others = other_scenarios(study, finished.dataset().hierarchy)
    other_kinds, others = others.kinds, list(zip(others.names, others.budgets.long().tolist(), strict=True))
    parts = [pair for pair, kind in zip(others, other_kinds, strict=True) if kind == "part"]
    expected |= {("generator_composed", "dropout", seed, *pair) for seed in study.seeds for pair in pairs + others}
    expected |= {("generator_branch", "dropout", seed, *pair) for seed in study.seeds for pair in singles + parts}
    on_others = ("generator", "generator_additive", "ofa_evolution")
    expected |= {(method, *run, *pair) for method in on_others for run in runs for pair in others}
    small = [pair for pair, kind in zip(others, other_kinds, strict=True) if kind in ("part", "across")]
    expected |= {("generator_finetuned", "dropout", first, *pair) for pair in small}
    expected |= {("evolution_long", *run, *pair) for run in runs if run[1] == first for pair in pairs}
    expected |= {("ofa_finetuned", "plain", first, *pair) for pair in singles}
    expected |= {("generator_finetuned", "dropout", first, *pair) for pair in unions}
    expected |= {("from_scratch", "dropout", first, *pair) for pair in (singles[0], singles[-1])}
    rows = list(table[["method", "supernet", "seed", "scenario", "budget_madds"]].itertuples(index=False, name=None))
    assert set(rows) == expected and len(rows) == len(expected)
    assert set(table.method) == set(METHODS) - {"generator_control"} and OFAS_WAY in set(
        zip(table.method, table.supernet, strict=True)
    )
    assert not table.isna().any().any()


def test_no_arch_exceeds_its_budget_and_costs_are_those_of_the_archs(finished, table):
    space = supernets.new_space(finished.study, finished.dataset())
    assert (table.madds <= table.budget_madds).all()
    every = every_scenario(finished.study, finished.dataset().hierarchy)
    sizes = dict(zip(every.names, every.class_counts.tolist(), strict=True))
    kinds = dict(zip(every.names, every.kinds, strict=True))
    assert (table.classes == table.scenario.map(sizes)).all() and (table.kind == table.scenario.map(kinds)).all()
    compared = table[table.method.isin(SHARED) & table.kind.isin(("superclass", "union"))]
    every = scenarios(finished.study, finished.dataset().hierarchy)
    for (method, name, seed), rows in compared.groupby(COLUMNS[:3]):
        base = supernets.base_of(finished, name, seed)
        archs = comparison.shared_archs(finished, base)
        for signal in ("gates", "additive"):
            archs[f"generator_{signal}"] = steps.tensors_of(finished, f"measured_{signal}", base=base)["archs"]
        found = archs[method][: len(every)]
        assert space.madds(found, every.class_counts).tolist() == rows.madds.tolist()
        assert space.parameters(found, every.class_counts).tolist() == rows.parameters.tolist()


def test_weights_of_ones_own_change_no_arch(table):
    indexed = table.set_index(["supernet", "seed", "scenario", "budget_madds"])
    for method in OTHER_WEIGHTS:
        rows = indexed[indexed.method == method].madds
        shared = indexed[indexed.method == METHODS[method].archs].madds
        assert len(rows) and rows.equals(shared.loc[rows.index])


def test_accuracies_and_times_are_plausible(table):
    assert table.top1.between(0, 100).all() and (table.search_seconds > 0).all()
    compared = table[table.kind.isin(("superclass", "union"))]
    seconds = compared[compared.supernet == "dropout"].groupby("method").search_seconds.mean()
    assert seconds["generator"] == pytest.approx(seconds["generator_branch"])
    assert seconds["generator"] < seconds["random"]
    rows = table[table.supernet == "plain"].groupby("method").search_seconds.mean()
    assert rows["ofa_finetuned"] > rows["ofa_evolution"]  # it trains, too
    # A random guess is right once in as many times as there are classes: the supernets have begun to learn.
    assert (table.top1 - 100 / table.classes).mean() > 0.5


def test_what_branches_cost_is_told_by_the_method_that_they_serve(finished):
    table, (record, *_) = tables.branch_costs(finished), steps.records(finished, "branches")
    assert set(table.method) == {"generator_branch", "generator_composed"} and (table.seconds > 0).all()
    assert table.megabytes.tolist() == pytest.approx([record["bytes"] / 1e6] * 2, rel=0.9)


def test_without_what_is_optional_the_table_has_the_other_methods(micro):
    none = with_study(micro, finetune=None, long_search=None, from_scratch=0)
    assert set(tables.comparison_table(none).method) == {*SHARED, "generator_branch"}
    assert costly_baselines.tuned_jobs(none) == []


def test_the_swap_test_has_all_ordered_pairs_and_its_diagonal_is_the_generators_accuracy(finished, table):
    swap = tables.swap_table(finished)
    assert list(swap.columns) == ["supernet", "seed", "budget_madds", "arch_of", "used_for", "top1"]
    keys = ["supernet", "seed", "budget_madds"]
    assert len(swap) == 2 * 2 * 3 * 100 and not swap.duplicated([*keys, "arch_of", "used_for"]).any()
    diagonal = swap[swap.arch_of == swap.used_for].rename(columns={"used_for": "scenario"})
    own = table[table.method == "generator"]
    both = diagonal.merge(own, on=[*keys, "scenario"], suffixes=("_swap", ""))
    assert len(both) == len(diagonal) == 120 and (both.top1_swap - both.top1).abs().max() < 2e-4


def test_the_split_half_test_covers_every_supernet_and_seed(finished):
    halves = tables.split_half_table(finished)
    pairs = {(name, seed) for name in ("dropout", "plain") for seed in finished.study.seeds}
    assert set(halves.groupby(["supernet", "seed"]).groups) == pairs and not halves.isna().all().any()


def test_times_are_of_all_superclasses_at_all_budgets(finished):
    table = tables.time_table(finished)
    assert list(table.columns) == ["method", "scenarios", "seconds_total", "seconds_per_scenario"]
    assert {"generator", "uniform", "random", "ofa_evolution"} <= set(table.method)
    assert (table.scenarios == 10 * len(finished.study.scenarios.budgets)).all() and (table.seconds_total > 0).all()
    assert (table.seconds_total / table.scenarios - table.seconds_per_scenario).abs().max() < 1e-12


def test_random_search_that_was_measured_elsewhere_is_not_timed_beside_the_others(micro_copy):
    assert "random" in set(tables.time_table(micro_copy).method)
    (job,) = steps.STEPS["search_times"].all_jobs(micro_copy)
    result, record = steps.find(micro_copy, "selected", **job)
    result.write(result.tensors(), record | {"machine": "with a GPU"})
    assert "random" not in set(tables.time_table(micro_copy).method)


def test_what_a_resumed_training_reached_is_compared_though_its_time_is_unknown(micro_copy):
    before = tables.comparison_table(micro_copy)
    (job,) = steps.STEPS["from_scratch"].all_jobs(micro_copy)
    result, record = steps.find(micro_copy, "from_scratch", **job)
    result.write(result.tensors(), record | {"seconds": None})
    after = tables.comparison_table(micro_copy)
    assert len(after) == len(before) and after[after.method == "from_scratch"].search_seconds.isna().all()


def test_what_every_result_cost_is_told_with_its_step(micro):
    costs = tables.result_costs(micro)
    columns = ["step", "name", "seed", "seconds", "images", "memory_gb", "machine", "gpu", "apart"]
    assert list(costs.columns) == columns and len(costs) == len(every_job(micro))
    assert not costs.gpu.any() and costs.seconds.gt(0).all() and costs.machine.nunique() == 1
    assert set(costs.step[costs.apart]) == {"long", "tuned", "other_tuned", "from_scratch"}
    rows = costs[costs.step == "supernets"]
    assert rows[["name", "seed"]].values.tolist() == [["none", 0], ["none", 1], ["own-0.5", 0], ["own-0.5", 1]]
    images = len(micro.dataset().train)
    assert rows.images.tolist() == [3 * images] * 2 + [2 * images] * 2
    assert set(costs.name[costs.step == "branches"]) == {"all-0.1", "norms-0.1"}
    assert costs.images[~costs.step.isin(["supernets", "branches"])].isna().all()


def test_a_result_whose_time_is_not_known_has_no_cost(micro_copy):
    job = {"base": supernets.base_of(micro_copy, "plain", 1)}
    result, record = steps.find(micro_copy, "gates", **job)
    content = {name: value for name, value in record.items() if name not in ("key", "sha256")}
    result.write(result.tensors(), content | {"seconds": None})
    before, costs = len(every_job(micro_copy)), tables.result_costs(micro_copy)
    assert len(costs) == before - 1 and (costs.step == "gates").sum() == 3


def test_what_is_missing_names_the_notebook_that_makes_it(micro, tmp_path):
    with pytest.raises(FileNotFoundError, match="run notebooks/01_superclasses first"):
        tables.comparison_table(Workspace(micro.study, tmp_path))
    other = with_study(micro, search={"random": 7})
    with pytest.raises(FileNotFoundError, match="selected.safetensors is missing: run notebooks/04_comparison for the"):
        tables.comparison_table(other)
