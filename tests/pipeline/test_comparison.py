"""The comparison: archs are proposed and selected without the test images, then measured on them, once."""

import dataclasses
import json
import re
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from study_cases import ALL, NOTEBOOKS, hashes, six_classes, with_study

from eas import data, search
from eas.branches import compose_branches, superclass_shares
from eas.data import Split
from eas.data.batches import as_input
from eas.evaluation import calibrate, calibration_sample, measure_archs
from pipeline import branches, comparison, costly_baselines, generators, steps, supernets, tables
from pipeline.methods import METHODS
from pipeline.scenarios import every_scenario, other_scenarios, scenarios
from pipeline.steps import STEPS
from pipeline.store import Workspace

SHARED = ["generator", "generator_blind", "uniform", "random", "ofa_evolution", "evolution"]
SHARED += ["ofa_evolution_aware", "evolution_aware"]
MEASURED = (
    r"measured|gates|additive|branches|other_sets|tuned|long|from_scratch|search_times|throughput"  # in comparison/
)


@pytest.fixture(scope="module")
def table(finished):
    return tables.comparison_table(finished)


def archs_of(workspace, base, method):
    """A method's archs for all scenarios, those of other sets where it has any."""
    others = steps.tensors_of(workspace, "other_sets", base=base)
    if method == "evolution_long":
        return steps.tensors_of(workspace, "long", base=base)["archs"]
    if method in ("generator_gates", "generator_additive"):
        return steps.tensors_of(workspace, method.replace("generator", "measured"), base=base)["archs"]
    archs = comparison.shared_archs(workspace, base)[method]
    return torch.cat([archs, others[method]]) if method in others else archs


# -------------------------------------------------------------------- archs


def test_every_method_proposes_an_arch_for_every_scenario_within_budget(finished):
    study, dataset = finished.study, finished.dataset()
    space, every = supernets.new_space(study, dataset), scenarios(study, dataset.hierarchy)
    for base in supernets.bases(finished):
        archs = comparison.shared_archs(finished, base)
        assert set(archs) == set(SHARED)
        for found in (*archs.values(), archs_of(finished, base, "generator_gates")):
            space.check(found)
            assert len(found) == len(every) and (space.madds(found, every.class_counts) <= every.budgets).all()
        seconds = steps.record_of(finished, "proposals", base=base)["per_scenario"]
        assert set(seconds) == set(SHARED) - {"random"} and all(len(each) == len(every) for each in seconds.values())
        assert all(min(each) > 0 for each in seconds.values()) and len(set(seconds["generator"])) == 1
        assert len(set(seconds["ofa_evolution"])) > 1  # scenario after scenario


def test_random_search_takes_the_best_of_its_archs_on_the_selection_split(micro):
    base, dataset = supernets.base_of(micro, "dropout", 0), micro.dataset()
    every, supernet = scenarios(micro.study, dataset.hierarchy), supernets.load_supernet(micro, dataset, base)
    calibration = calibration_sample(dataset.calibration, micro.study.evaluation.calibration_images)
    selected, rng = steps.tensors_of(micro, "selected", base=base)["random"], torch.Generator().manual_seed(base.seed)
    for budget in every.budgets.unique():
        rows = (every.budgets == budget).nonzero()[:, 0]
        most = every.class_counts.max()[None]
        archs = search.random_archs(supernet.space, budget[None], most, micro.study.search.random, rng)[0]
        for row in rows:
            masks = every.class_masks[row].expand(len(archs), -1)
            top1 = measure_archs(supernet, archs, masks, calibration, dataset.selection)
            assert torch.equal(selected[row], archs[top1.argmax()])
    record = steps.record_of(micro, "selected", base=base)
    archs = steps.tensors_of(micro, "proposals", base=base)["generator"]
    expected = measure_archs(supernet, archs, every.class_masks, calibration, dataset.selection).mean().item()
    assert record["selection_top1"] == pytest.approx(expected, abs=1e-4)
    assert set(record["per_scenario"]) == {"random"} and len(record["per_scenario"]["random"]) == len(every)


def test_a_budget_that_no_arch_fits_is_an_error_not_an_endless_search(micro):
    impossible = with_study(micro, scenarios={"budgets": (0.05, 0.6)})

    def give_up(*args):
        raise TimeoutError("still searching")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(5)
    try:
        with pytest.raises(ValueError, match="below the smallest arch"):
            comparison.propose(impossible, supernets.base_of(micro, "plain", 0))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# -------------------------------------------------------------------- the test split


@pytest.mark.parametrize(
    "method",
    [*SHARED, "generator_gates", "generator_additive", "evolution_long", "generator_branch", "generator_composed"],
)
def test_accuracies_are_those_of_the_extracted_networks_on_the_test_images(method, finished, table):
    """A plain network made of the files' tensors, the test images, the share of right answers."""
    study, dataset = finished.study, finished.dataset()
    branch = {"generator_branch": branches.is_alone, "generator_composed": branches.composes}.get(method)
    name, every = "dropout" if branch else "plain", every_scenario(study, dataset.hierarchy)
    pairs = list(zip(every.names, every.budgets.tolist(), strict=True))
    rows = table[(table.method == method) & (table.supernet == name)]
    for row in rows.iloc[[3, len(rows) // 3, len(rows) - 1]].itertuples():
        base = supernets.base_of(finished, name, row.seed)
        index = pairs.index((row.scenario, row.budget_madds))
        mask = every.class_masks[index]
        classes = mask.nonzero()[:, 0]
        calibration = calibration_sample(dataset.calibration, study.evaluation.calibration_images)
        supernet = supernets.new_supernet(study, dataset)
        supernet.load_state_dict(
            load_file(finished.folder / "supernets" / f"{base.dropout.name}-{row.seed}.safetensors")
        )
        if branch:
            chosen = branches.choose_branch(finished, branch)
            path = finished.folder / "branches" / f"{chosen.name}-{row.seed}.safetensors"
            supernet = compose_branches(supernet, load_file(path), superclass_shares(dataset.hierarchy, mask))
            calibration = branches.own_images(dataset, mask)
        arch = archs_of(finished, base, METHODS[method].archs or method)[index]
        network = supernet.extract(arch, classes.tolist(), calibrate(supernet, arch, calibration))
        inside = mask[dataset.test.labels]
        with torch.inference_mode():
            said = classes[network(as_input(dataset.test.images[inside])).argmax(1)]
        top1 = (said == dataset.test.labels[inside]).double().mean().item() * 100
        assert row.top1 == pytest.approx(top1, abs=1e-4)


@pytest.mark.parametrize("sets", [{1: 1.0}, {1: 1.0, 2: 1.0}])
def test_branches_that_were_each_trained_alone_are_measured_on_superclasses_only(sets, micro_copy, inline):
    branch = ALL.model_copy(update={"sets": sets})
    workspace = with_study(micro_copy, branches={"candidates": (branch,)})
    for name in ("branches", "measured_branches"):
        steps.run_step(workspace, STEPS[name])
    every = every_scenario(workspace.study, workspace.dataset().hierarchy)
    alone = len(sets) == 1
    for job in branches.chosen_branch_jobs(workspace):
        top1 = steps.tensors_of(workspace, "measured_branches", **job)["top1"]
        assert torch.equal(top1.isnan(), ~every.of_kind("superclass") & torch.tensor(alone))


def test_other_sets_are_measured_with_the_archs_of_the_generator_and_of_ofas_way(micro):
    every, budgets = other_scenarios(micro.study, micro.dataset().hierarchy), {micro.study.other_sets.budget * 1e6}
    assert set(every.budgets.tolist()) == budgets and set(every.kinds) == {"across", "all"}  # of three superclasses
    table = tables.comparison_table(micro)
    rows = table[~table.kind.isin(("superclass", "union"))]
    base = supernets.base_of(micro, "plain", 0)
    archs = steps.tensors_of(micro, "other_sets", base=base)
    archs["generator_additive"] = archs_of(micro, base, "generator_additive")[-len(every) :]
    generator = generators.load_generator(micro, micro.dataset(), base, "generator")
    assert torch.equal(archs["generator"], generator.generate(every.class_masks, every.budgets))
    mine = rows[(rows.supernet == "plain") & (rows.seed == 0)]
    assert set(mine.method) == {"generator", "generator_additive", "ofa_evolution"}
    assert (rows.madds <= rows.budget_madds).all()
    supernet, dataset = supernets.load_supernet(micro, micro.dataset(), base), micro.dataset()
    calibration = calibration_sample(dataset.calibration, micro.study.evaluation.calibration_images)
    for method, some in mine.groupby("method"):
        top1 = measure_archs(supernet, archs[method], every.class_masks, calibration, dataset.test)
        assert list(some.scenario) == every.names and list(some.top1) == pytest.approx(top1.tolist(), abs=1e-4)


def test_a_study_without_other_sets_measures_none(micro, micro_copy, inline):
    none = with_study(micro_copy, other_sets=None)
    assert comparison.other_jobs(none) == costly_baselines.other_tuned_jobs(none) == []
    for notebook in NOTEBOOKS[1:4]:
        steps.run(none, notebook)
    assert set(tables.comparison_table(none).kind) == {"superclass", "union"}


def test_the_diagonal_of_the_swap_test_is_the_generators_accuracy(finished):
    every = scenarios(finished.study, finished.dataset().hierarchy)
    single = every.of_kind("superclass")
    for base in supernets.bases(finished):
        measured = steps.tensors_of(finished, "measured", base=base)
        assert measured["swap"].shape == (len(finished.study.scenarios.budgets), 10, 10)
        diagonal = measured["swap"].diagonal(dim1=1, dim2=2).flatten()
        assert (diagonal - measured["generator"][single]).abs().max() < 2e-4
        assert len(measured["swap"].unique()) > 10


def test_the_gates_generator_is_measured_on_both_splits(micro):
    base, dataset = supernets.base_of(micro, "plain", 0), micro.dataset()
    every, supernet = scenarios(micro.study, dataset.hierarchy), supernets.load_supernet(micro, dataset, base)
    tensors, record = (ask(micro, "measured_gates", base=base) for ask in (steps.tensors_of, steps.record_of))
    generator = generators.load_generator(micro, dataset, base, "generator_gates")
    assert torch.equal(tensors["archs"], generator.generate(every.class_masks, every.budgets))
    calibration = calibration_sample(dataset.calibration, micro.study.evaluation.calibration_images)
    given = (supernet, tensors["archs"], every.class_masks, calibration)
    assert torch.equal(tensors["top1"], measure_archs(*given, dataset.test))
    expected = measure_archs(*given, dataset.selection).mean().item()
    assert record["selection_top1"] == pytest.approx(expected, abs=1e-4)


def test_seeds_differ(finished):
    for name in ("dropout", "plain"):
        for part in ("generators", "comparison"):
            first, second = (hashes(finished.folder / part / f"{name}-{seed}") for seed in (0, 1))
            both = first.keys() & second.keys()
            assert len(both) >= 3 and not any(first[each] == second[each] for each in both)


# -------------------------------------------------------------------- another run


def test_another_run_gives_the_same_and_no_choice_looks_at_the_test_images(micro, dataset, tmp_path, inline):
    """The second run has noise for test images until all choices are made."""
    again = Workspace(micro.study, tmp_path)
    real = six_classes(dataset)
    noise = torch.randint(256, real.test.images.shape, generator=torch.Generator().manual_seed(0)).byte()
    data.save(dataclasses.replace(real, test=Split(noise, real.test.labels.flip(0))), again.dataset_path)
    for notebook in NOTEBOOKS[:3]:
        steps.run(again, notebook)
    for name in ("proposals", "selected", "expected"):
        steps.run_step(again, STEPS[name])
    found, expected = hashes(tmp_path), hashes(micro.folder)
    later = {name for name in expected if name.startswith("comparison") and re.search(MEASURED, name)}
    assert (
        len(later) > 12 and len(found) > 20 and found.pop("dataset.safetensors") != expected.pop("dataset.safetensors")
    )
    assert found == {name: digest for name, digest in expected.items() if name not in later}
    records = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.json")}
    told = "history", "accuracy", "selection_top1", "r2_predictor", "loss_generator", "loss_generator_gates", "penalty"
    for path in records:
        first, second = (json.loads((folder / path).read_text()) for folder in (micro.folder, tmp_path))
        assert {name: first.get(name) for name in told} == {name: second.get(name) for name in told}

    data.save(real, again.dataset_path)
    for notebook in NOTEBOOKS[3:]:
        steps.run(again, notebook)
    assert hashes(tmp_path) == hashes(micro.folder)
    columns = [name for name in tables.comparison_table(micro) if name != "search_seconds"]
    assert tables.comparison_table(again)[columns].equals(tables.comparison_table(micro)[columns])


def test_what_is_measured_on_the_test_images_does_depend_on_them(micro_copy, inline):
    """Or the test above would show nothing."""
    real = micro_copy.dataset()
    turned = Split(real.test.images, real.test.labels.flip(0))
    data.save(dataclasses.replace(real, test=turned), micro_copy.dataset_path)
    before = hashes(micro_copy.folder / "comparison")
    shutil.rmtree(micro_copy.folder / "comparison")
    steps.run(micro_copy, "04_comparison")
    after = hashes(micro_copy.folder / "comparison")
    changed_ones = {name for name, digest in before.items() if after[name] != digest}
    assert {re.sub(r".*/", "", name).partition("-")[0].removesuffix(".safetensors") for name in changed_ones} >= {
        "measured", "gates", "branches", "long", "tuned"
    }  # fmt: skip
    assert not any("proposals" in name or "selected" in name for name in changed_ones)


# -------------------------------------------------------------------- times


def test_times_of_all_methods_are_told_for_all_superclasses(finished):
    (job,) = comparison.time_jobs(finished)
    assert (job["base"].name, job["base"].seed) == ("dropout", 0)
    record = steps.record_of(finished, "search_times", **job)
    methods = {"generator", "uniform", "random", "evolution", "evolution_aware", "ofa_evolution", "ofa_evolution_aware"}
    assert set(record["total"]) == methods | {"generator_additive"}
    assert all(seconds > 0 for seconds in record["total"].values())
    assert record["scenarios"] == 10 * len(finished.study.scenarios.budgets) and record["sha256"] is None
    assert record["total"]["generator"] < record["total"]["ofa_evolution"]


def test_methods_that_are_timed_take_turns_and_serve_every_scenario_once(micro, monkeypatch):
    served, order = [], []
    one_search, seconds_of = search.ofa_evolution, comparison.seconds_of

    def ofa_evolution(space, predictor, mask, budget, **effort):
        served.append((id(predictor), tuple(mask.tolist()), budget))
        return one_search(space, predictor, mask, budget, **effort)

    monkeypatch.setattr(search, "ofa_evolution", ofa_evolution)
    monkeypatch.setattr(comparison, "seconds_of", lambda method: order.append(method) or seconds_of(method))
    record = comparison.time_search(micro, supernets.base_of(micro, "dropout", 0))[1]
    assert len(served) == len(set(served)) == 2 * record["scenarios"] == 2 * 3 * 2
    turns = min(comparison.TURNS, record["scenarios"])
    assert len(order) == turns * (2 * comparison.REPEATS + 3)
    assert order[: len(order) // turns] == order[-len(order) // turns :]
