"""The tiny study end to end: its table, recomputed and repeated, and the specialised networks made from its files."""

import dataclasses
import hashlib
import json
import re
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from eas import comparison, data, deploy, evaluation, fitting, proposals, references, tuning
from eas import study as steps
from eas.analysis import OTHER_WEIGHTS
from eas.data import Split
from eas.evaluation import calibrate, subnet_logits, superclass_top1
from eas.space import SearchSpace
from eas.supernet import extract

ROOT = Path(__file__).parents[1]
COLUMNS = ["method", "supernet", "seed", "scenario", "classes_kept", "budget_madds", "madds", "top1", "search_seconds"]
METHODS = ["generator", "generator_blind", "uniform", "random"]
METHODS += ["ofa_evolution", "evolution", "ofa_evolution_aware", "evolution_aware"]

Finished = namedtuple("Finished", "study folder dataset table signal")


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EAS_DEVICE", "cpu")
        yield


@pytest.fixture(scope="module")
def finished(study, dataset, tmp_path_factory):
    """The tiny study, run by the calls that the notebooks make."""
    folder = tmp_path_factory.mktemp("tiny")
    data.save(dataset, folder / "dataset.safetensors")
    steps.train_supernets(study, folder)
    tuning.run_branches(study, folder)
    fitting.run_generators(study, folder)
    table = comparison.run_comparison(study, folder)
    loaded = data.load(study, folder / "dataset.safetensors")
    return Finished(study, folder, loaded, table, proposals.choose_signal(study, folder))


@pytest.fixture(scope="module")
def copied(finished, tmp_path_factory):
    """A copy of the finished study's folder, to take things out of; every test puts them back."""
    folder = tmp_path_factory.mktemp("copy") / "tiny"
    shutil.copytree(finished.folder, folder)
    return folder


def changed(study, **sections):
    update = {
        name: getattr(study, name).model_copy(update=values) if isinstance(values, dict) else values
        for name, values in sections.items()
    }
    return study.model_copy(update=update)


def hashes(folder, pattern):
    found = {str(path.relative_to(folder)): path for path in folder.rglob(pattern)}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def archs_of(finished, supernet, seed, method):
    """A method's archs for all scenarios."""
    if method == "evolution_long":
        return load_file(proposals.comparison_folder(finished.folder, supernet, seed) / "long.safetensors")["archs"]
    return proposals.final_archs(finished.folder, supernet, seed, finished.signal)[method]


# -------------------------------------------------------------------- the table


def test_the_table_has_one_row_for_every_method_supernet_seed_and_scenario(finished):
    table, study = finished.table, finished.study
    assert list(table.columns) == COLUMNS
    wanted = steps.scenarios(study, finished.dataset.hierarchy)
    pairs = list(zip(wanted.names, wanted.budgets.long().tolist(), strict=True))
    singles = [pair for pair in pairs if "+" not in pair[0]]
    runs = [(name, seed) for name in ("eas", "ofa") for seed in study.seeds]
    expected = {(method, *run, *pair) for method in METHODS for run in runs for pair in pairs}
    middle = study.scenarios.budgets[len(study.scenarios.budgets) // 2] * 1e6
    unions = [pair for pair in pairs if "+" in pair[0] and pair[1] == middle]
    expected |= {("generator_branch", "eas", seed, *pair) for seed in study.seeds for pair in singles}
    expected |= {("evolution_long", *run, *pair) for run in runs if run[1] == study.seeds[0] for pair in pairs}
    expected |= {("ofa_finetuned", "ofa", study.seeds[0], *pair) for pair in singles}
    expected |= {("generator_finetuned", "eas", study.seeds[0], *pair) for pair in unions}
    expected |= {("from_scratch", "eas", study.seeds[0], *pair) for pair in (singles[0], singles[-1])}
    rows = list(table[["method", "supernet", "seed", "scenario", "budget_madds"]].itertuples(index=False, name=None))
    assert set(rows) == expected and len(rows) == len(expected)
    assert not table.isna().any().any()


def test_no_arch_exceeds_its_budget_and_costs_are_those_of_the_archs(finished):
    table, space = finished.table, SearchSpace.from_study(finished.study, 1)
    assert (table.madds <= table.budget_madds).all()
    wanted = steps.scenarios(finished.study, finished.dataset.hierarchy)
    sizes = dict(zip(wanted.names, wanted.kept.sum(1).tolist(), strict=True))
    assert (table.classes_kept == table.scenario.map(sizes)).all()
    for (method, supernet, seed), rows in table[~table.method.isin(OTHER_WEIGHTS)].groupby(COLUMNS[:3]):
        archs = archs_of(finished, supernet, seed, method)
        space.check(archs)
        assert space.madds(archs, wanted.kept.sum(1)).tolist() == rows.madds.tolist()


def test_weights_of_ones_own_change_no_arch(finished):
    table = finished.table.set_index(["supernet", "seed", "scenario", "budget_madds"])
    for method in OTHER_WEIGHTS:
        rows = table[table.method == method].madds
        shared = table[table.method == ("ofa_evolution" if method == "ofa_finetuned" else "generator")].madds
        assert len(rows) and rows.equals(shared.loc[rows.index])


def test_accuracies_and_times_are_plausible(finished):
    table = finished.table
    assert table.top1.between(0, 100).all() and (table.search_seconds > 0).all()
    seconds = table[table.supernet == "eas"].groupby("method").search_seconds.mean()
    assert (
        seconds["generator"] == pytest.approx(seconds["generator_branch"]) and seconds["generator"] < seconds["random"]
    )
    rows = table[table.supernet == "ofa"].groupby("method").search_seconds.mean()
    assert rows["ofa_finetuned"] > rows["ofa_evolution"]  # it trains, too
    # A random guess is right once in as many times as there are classes: the supernets have begun to learn.
    assert (table.top1 - 100 / table.classes_kept).mean() > 0.5


@pytest.mark.parametrize("method", [*METHODS, "evolution_long", "generator_branch"])
def test_accuracies_are_those_of_the_extracted_networks_on_the_test_images(finished, method):
    """A plain network made of the files' tensors, the test images, the share of right answers."""
    study, folder, dataset, table, _ = finished
    branch = method == "generator_branch"
    name = "eas" if branch else "ofa"
    setting, wanted = steps.settings_of(study, folder)[name].name, steps.scenarios(study, dataset.hierarchy)
    scenarios = list(zip(wanted.names, wanted.budgets.tolist(), strict=True))
    rows = table[(table.method == method) & (table.supernet == name)]
    for row in rows.iloc[[3, len(rows) // 3, len(rows) - 1]].itertuples():
        kept = dataset.hierarchy.kept(row.scenario.split("+"))
        classes, calibration = kept.nonzero()[:, 0], steps.calibration_images(study, dataset)
        weights = load_file(folder / "supernets" / f"{setting}-{row.seed}.safetensors")
        if branch:
            stored = load_file(tuning.branches_path(folder, tuning.choose_branch(study, folder), row.seed))
            index = dataset.hierarchy.superclasses.index(row.scenario)
            own = [name for name in weights if f"{index}.{name}" in stored]
            weights |= {name: stored[f"{index}.{name}"].float() for name in own}
            calibration = dataset.train.only(kept)
        supernet = steps.new_supernet(study, dataset)
        supernet.load_state_dict(weights)
        archs = archs_of(finished, name, row.seed, "generator" if branch else method)
        arch = archs[scenarios.index((row.scenario, row.budget_madds))]
        network = extract(supernet, arch, classes.tolist(), calibrate(supernet, arch, calibration))
        inside = kept[dataset.test.labels]
        with torch.inference_mode():
            said = classes[network(dataset.test.images[inside].float() / 255).argmax(1)]
        top1 = (said == dataset.test.labels[inside]).double().mean().item() * 100
        assert row.top1 == pytest.approx(top1, abs=1e-4)


def test_running_again_changes_nothing(finished):
    before = times(finished.folder)
    steps.train_supernets(finished.study, finished.folder)
    tuning.run_branches(finished.study, finished.folder)
    fitting.run_generators(finished.study, finished.folder)
    table = comparison.run_comparison(finished.study, finished.folder)
    pd.testing.assert_frame_equal(table, finished.table)
    comparison.prepare(finished.study, finished.folder, ROOT)
    assert times(finished.folder) == before


def test_what_shares_weights_depends_on_no_weights_of_ones_own(study, tmp_path):
    def key(**sections):
        return fitting.marked(changed(study, **sections), tmp_path, tmp_path / "pool.safetensors", "0").key

    first = study.branches.candidates[:1]
    apart = {"candidates": first, "ranks": (), "dropouts": ()}
    assert study.branches.dropouts and key(branches=apart, finetune=None, from_scratch=0, long_search=None) == key()
    assert key(dropout={"seeds": 1}) == key(branches={"dropout_seeds": 1}) == key()  # the chosen one is in the key
    assert key(branches={"epochs": 2}) != key() != key(branches=None)  # `ofa` is trained longer for them


@pytest.mark.parametrize("section", ["finetune", "long_search"])
def test_on_how_many_seeds_a_reference_is_measured_makes_none_of_them_stale(study, section):
    def key(**values):
        return references.effort_key(changed(study, **{section: values}), section)

    effort = "epochs" if section == "finetune" else "evaluations"
    assert key(seeds=2) == key(seeds=1) == references.effort_key(study, section) != key(**{effort: 7})


def test_another_run_gives_the_same_and_no_choice_looks_at_the_test_images(finished, dataset, tmp_path):
    """The second run, of the first seed, has noise for test images until all choices are made."""
    chosen = steps.settings_of(finished.study, finished.folder)["eas"]
    again = changed(finished.study, seeds=finished.study.seeds[:1], dropout={"seeds": 1, "candidates": (chosen,)})
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(256, dataset.test.images.shape, generator=rng).byte()
    hidden = dataclasses.replace(dataset, test=Split(noise, dataset.test.labels.flip(0)))
    data.save(hidden, tmp_path / "dataset.safetensors")
    steps.train_supernets(again, tmp_path)
    tuning.run_branches(again, tmp_path)
    fitting.run_generators(again, tmp_path)
    for job in steps.supernet_jobs(again, tmp_path):
        proposals.propose(*job)
        proposals.select(*job)
    found, expected = (
        hashes(folder, "eas-0/*.safetensors") | hashes(folder, "ofa-0/*.safetensors")
        for folder in (tmp_path, finished.folder)
    )
    measured = {name for name in expected if re.search(r"measured|tuned|long", name)}
    assert len(measured) == 8 and len(found) == 10
    assert found == {name: value for name, value in expected.items() if name not in measured}
    found, expected = (hashes(folder / "supernets", "*-0.safetensors") for folder in (tmp_path, finished.folder))
    assert len(found) == 8 and all(found[name] == expected[name] for name in found)

    data.save(dataset, tmp_path / "dataset.safetensors")
    for job in steps.supernet_jobs(again, tmp_path):
        comparison.measure_test(*job, finished.signal)
    for job in references.long_jobs(again, tmp_path):
        references.measure_long(*job)
    for job in references.tuned_jobs(again, tmp_path, finished.signal):
        references.measure_tuned(*job)
    for row in references.rows_from_scratch(again, dataset.hierarchy):
        references.measure_alone(again, tmp_path, row, finished.signal)
    table = comparison.comparison(again, tmp_path, finished.signal)
    first = finished.table[finished.table.seed == again.seeds[0]].reset_index(drop=True)
    pd.testing.assert_frame_equal(table[COLUMNS[:-1]], first[COLUMNS[:-1]], check_exact=True)


def test_a_long_search_finds_what_is_predicted_better(finished):
    study, seed = finished.study, finished.study.seeds[0]
    assert study.long_search.evaluations > study.search.evaluations
    wanted = steps.scenarios(study, finished.dataset.hierarchy)
    for supernet in ("eas", "ofa"):
        model = fitting.load_model(study, finished.folder, finished.dataset, supernet, seed, aware=False)
        archs = (archs_of(finished, supernet, seed, method) for method in ("evolution_long", "evolution"))
        long, short = (model.score(each, wanted.kept) for each in archs)
        assert (
            long.mean() > short.mean()
            and not finished.table.method.eq("evolution_long")[finished.table.seed != seed].any()
        )


@pytest.mark.parametrize(("name", "union"), [("ofa", False), ("eas", True)])
def test_tuned_archs_are_measured_with_the_weights_and_statistics_of_their_scenario(
    finished, copied, monkeypatch, name, union
):
    """Without any training the tuned weights are the shared ones, calibrated on the scenario's own images."""
    study, dataset = finished.study, finished.dataset
    job = next(job for job in steps.supernet_jobs(study, copied) if job[2] == name)
    (proposals.comparison_folder(copied, name, job[-1]) / "tuned-1.json").unlink()
    monkeypatch.setattr(tuning, "train", lambda *args, **kwargs: None)
    references.measure_tuned(*job, finished.signal, 1)
    found = load_file(proposals.comparison_folder(copied, name, job[-1]) / "tuned-1.safetensors")
    wanted = steps.scenarios(study, dataset.hierarchy)
    at_budget = (wanted.budgets == study.scenarios.budgets[1] * 1e6).tolist()
    pairs = zip(wanted.is_union, at_budget, strict=True)
    assert found["rows"].tolist() == [row for row, pair in enumerate(pairs) if pair == (union, True)]
    row = found["rows"][-1].item()
    archs = proposals.final_archs(copied, name, job[-1], finished.signal)[references.TUNED[name][1]]
    supernet = steps.load_supernet(study, dataset, steps.supernet_path(copied, job[3], job[-1]))
    own = dataset.train.only(wanted.kept[row])
    expected = evaluation.measure_archs(supernet, archs[row, None], wanted.kept[row, None], own, dataset.test)
    assert found["top1"][-1] == expected.item()


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, [0]), (2, [0, 37]), (4, [0, 3, 20, 37])])
def test_scenarios_trained_from_scratch_are_spread_over_superclasses_and_budgets(finished, count, expected):
    study = finished.study.model_copy(update={"from_scratch": count})
    rows = references.rows_from_scratch(study, finished.dataset.hierarchy)
    assert rows == expected and not any(steps.scenarios(study, finished.dataset.hierarchy).is_union[r] for r in rows)


def test_seeds_differ(finished):
    for supernet in ("eas", "ofa"):
        folders = [finished.folder / "generators" / f"{supernet}-{seed}" for seed in finished.study.seeds[:2]]
        first, second = (hashes(folder, "*.safetensors") for folder in folders)
        assert first.keys() == second.keys() and not set(first.values()) & set(second.values())


# -------------------------------------------------------------------- steps


def test_archs_measured_together_are_as_archs_measured_alone(supernet, dataset, study):
    archs = supernet.space.sample(3, torch.Generator().manual_seed(0))[[0, 1, 0, 2, 1, 0]]
    names = dataset.hierarchy.superclasses
    kept = torch.stack([dataset.hierarchy.kept(names[i : i + 1 + i % 2]) for i in range(6)])
    calibration = steps.calibration_images(study, dataset)
    together = evaluation.measure_archs(supernet, archs, kept, calibration, dataset.test)
    for arch, classes, top1 in zip(archs, kept, together, strict=True):
        alone = evaluation.measure_archs(supernet, arch[None], classes[None], calibration, dataset.test)
        logits = subnet_logits(supernet, arch, calibration, dataset.test)
        assert alone.item() == top1 == superclass_top1(logits, dataset.test.labels, classes[None]).item()


def test_the_pool_is_measured_on_training_scenarios_and_spread_over_the_budgets(finished):
    study, hierarchy = finished.study, finished.dataset.hierarchy
    pool = fitting.read_pool(study, finished.folder, "eas", study.seeds[0])
    kept = steps.scenarios(study, hierarchy).kept
    held_out = {tuple(row.tolist()) for row in kept[10 : len(kept) // len(study.scenarios.budgets)]}
    assert held_out and not held_out & {tuple(row.tolist()) for row in pool["kept"]}
    assert torch.equal(pool["kept"][:10], kept[:10])
    assert pool["archs"].shape[0] == study.search.pool == len(pool["accuracy"]) == len(pool["own"])
    cost = SearchSpace.from_study(study, 1).madds(pool["archs"], 16) / 1e6
    low, high = min(study.scenarios.budgets), max(study.scenarios.budgets)
    assert cost.max() <= high and cost.min() < low + 0.1 * (high - low) and cost.max() > high - 0.2 * (high - low)
    # The superclasses' accuracies follow from which images were classified right among their own superclass.
    parent = hierarchy.parent[pool["labels"]]
    by_superclass = torch.stack([pool["own"][:, parent == s].float().mean(1) * 100 for s in range(10)], 1)
    torch.testing.assert_close(pool["accuracy"][:, :10], by_superclass)


def test_the_signal_with_the_best_mean_on_the_selection_split_is_chosen(finished, copied):
    paths = sorted(copied.glob("comparison/*/selected.json"))
    kept = [path.read_text() for path in paths]
    try:
        for better, worse in (("model", "gates"), ("gates", "model")):
            for index, (path, text) in enumerate(zip(paths, kept, strict=True)):
                # The worse one wins on all supernets but the first, by less.
                values = {f"selection_top1_{better}": 60.0 if index == 0 else 50.0, f"selection_top1_{worse}": 50.1}
                path.write_text(json.dumps(json.loads(text) | values))
            assert proposals.choose_signal(finished.study, copied) == better
    finally:
        for path, text in zip(paths, kept, strict=True):
            path.write_text(text)


def swap_as_the_table(swap, table):
    """The diagonal of the swap test beside the generator's rows for single superclasses."""
    diagonal = swap[swap.arch_of == swap.used_for].rename(columns={"used_for": "scenario"})
    keys = ["supernet", "seed", "budget_madds", "scenario"]
    both = diagonal.merge(table[table.method == "generator"], on=keys, suffixes=("_swap", ""))
    assert len(both) == len(diagonal)
    return both


def test_the_diagonal_of_the_swap_test_is_the_generators_accuracy(finished):
    swap = comparison.swap_table(finished.study, finished.folder)
    assert list(swap.columns) == ["supernet", "seed", "budget_madds", "arch_of", "used_for", "top1"]
    assert len(swap) == 2 * len(finished.study.seeds) * len(finished.study.scenarios.budgets) * 100
    both = swap_as_the_table(swap, finished.table)
    assert (both.top1_swap - both.top1).abs().max() < 2e-4


def test_the_order_of_the_budgets_in_params_yaml_does_not_mix_up_the_swap_test(finished, copied, monkeypatch):
    study, seed = finished.study, finished.study.seeds[0]
    turned = changed(study, scenarios={"budgets": study.scenarios.budgets[::-1]})
    jobs = [job for job in steps.supernet_jobs(turned, copied) if job[2] == "ofa" and job[4] == seed]
    monkeypatch.setattr(comparison, "supernet_jobs", lambda *args: jobs)
    out = copied / "comparison" / f"ofa-{seed}"
    kept = {path: path.read_bytes() for path in out.iterdir()}
    try:
        for name in ("proposals", "selected"):
            archs = load_file(out / f"{name}.safetensors")
            by_budget = {n: t.unflatten(0, (len(study.scenarios.budgets), -1)).flip(0) for n, t in archs.items()}
            data.save_tensors({n: t.flatten(0, 1) for n, t in by_budget.items()}, out / f"{name}.safetensors")
        comparison.measure_test(*jobs[0], finished.signal)
        table, swap = comparison.comparison(turned, copied, finished.signal), comparison.swap_table(turned, copied)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    both = swap_as_the_table(swap, table)
    assert (both.top1_swap - both.top1).abs().max() < 2e-4


def test_a_budget_that_no_arch_fits_is_an_error_not_an_endless_search(finished, copied):
    study = finished.study
    impossible = changed(study, scenarios={"budgets": (0.1, *study.scenarios.budgets[1:])})
    setting = steps.settings_of(study, copied)["ofa"]

    def give_up(*args):
        raise TimeoutError("still searching")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(5)
    try:
        with pytest.raises(ValueError, match="below the smallest arch"):
            proposals.propose(impossible, copied, "ofa", setting, study.seeds[0])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_times_of_all_methods_are_measured_once(finished):
    table = comparison.measure_time(finished.study, finished.folder)
    assert list(table.columns) == ["method", "scenarios", "seconds_total", "seconds_per_scenario"]
    assert set(table.method) == {"generator", "uniform", "random", "evolution_aware", "ofa_evolution_aware"}
    assert (table.scenarios == 10 * len(finished.study.scenarios.budgets)).all() and (table.seconds_total > 0).all()
    assert (table.seconds_total / table.scenarios - table.seconds_per_scenario).abs().max() < 1e-12
    pd.testing.assert_frame_equal(table, comparison.measure_time(finished.study, finished.folder))


def test_records_of_fitting_hold_every_loss(finished):
    study, records = finished.study, fitting.fit_records(finished.study, finished.folder)
    assert len(records) == 2 * len(study.seeds)
    assert {(r["supernet"], r["seed"]) for r in records} == {(n, s) for n in ("eas", "ofa") for s in study.seeds}
    for each in records:
        lengths = {name: len(each[f"loss_{name}"]) for name in ("model", "blind", "gates")}
        recipe = study.generator
        assert lengths == {"model": recipe.steps, "blind": recipe.steps, "gates": recipe.gate_steps}
        assert all(-1e6 < each[name] <= 1 for name in ("r2", "r2_aware"))


def test_the_split_half_test_covers_every_supernet_and_seed(finished):
    halves = comparison.split_half_table(finished.study, finished.folder, finished.dataset.hierarchy)
    pairs = {(name, seed) for name in ("eas", "ofa") for seed in finished.study.seeds}
    assert set(halves.groupby(["supernet", "seed"]).groups) == pairs


def test_what_is_missing_names_the_notebook_that_makes_it(finished, tmp_path):
    study, dataset = finished.study, finished.dataset
    with pytest.raises(FileNotFoundError, match="pool.safetensors is missing: run notebooks/03_generator for the stud"):
        fitting.read_pool(study, tmp_path, "eas", 0)
    with pytest.raises(FileNotFoundError, match="gates.safetensors is missing: run notebooks/03_generator"):
        fitting.load_generator(study, tmp_path, dataset, "eas", 0, "gates")
    with pytest.raises(FileNotFoundError, match="run notebooks/02_supernet for the study tiny first"):
        fitting.run_generators(study, tmp_path)


def test_only_the_tiny_study_is_prepared_in_passing(finished, tmp_path):
    comparison.prepare(changed(finished.study, name="glyphs"), tmp_path, ROOT)
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------- specialised networks from the study's files


@pytest.fixture(scope="module")
def specializer(finished):
    return deploy.load_specializer(finished.study, finished.folder, finished.dataset, finished.study.seeds[0])


def test_a_superclass_gets_its_own_weights_and_a_union_the_shared_ones(finished, specializer):
    study, folder, dataset, table, _ = finished
    budget, seed = study.scenarios.budgets[1] * 1e6, study.seeds[0]
    rows = table[(table.supernet == "eas") & (table.seed == seed) & (table.budget_madds == budget)]
    singles = rows[rows.method == "generator_branch"]
    unions = rows[(rows.method == "generator") & rows.scenario.str.contains("+", regex=False)]
    for row in [*singles.iloc[:3].itertuples(), *unions.iloc[:3].itertuples()]:
        network, card = specializer.specialize(row.scenario.split("+"), budget)
        assert card.madds == row.madds and card.synthetic
        assert deploy.top1(network, card, dataset.hierarchy, dataset.test) == pytest.approx(row.top1, abs=1e-4)
    before = {name: tensor.clone() for name, tensor in specializer.supernet.state_dict().items()}
    specializer.specialize([dataset.hierarchy.superclasses[0]], budget)
    assert all(torch.equal(tensor, before[name]) for name, tensor in specializer.supernet.state_dict().items())


def test_a_single_class_of_a_superclass_gets_the_shared_weights(finished, specializer):
    budget = finished.study.scenarios.budgets[1] * 1e6
    names = finished.dataset.hierarchy.members[0][:3]
    network, card = specializer.specialize(names, budget)
    assert card.classes == names
    channels = network.stem.weight.shape[0]
    assert torch.equal(network.stem.weight, specializer.supernet.stem.weight[:channels])


def test_the_comparison_with_opponents_is_within_budget_and_on_the_selection_split(finished, specializer):
    study, dataset = finished.study, finished.dataset
    names = list(dataset.hierarchy.superclasses[:2])
    budget = study.scenarios.budgets[1] * 1e6
    table = specializer.compare(names, budget)
    assert list(table.columns) == ["method", "madds", "top1"]
    assert list(table.method) == ["generator", "uniform", "evolution_aware"]
    assert (table.madds <= budget).all()
    network, card = specializer.specialize(names, budget)
    assert table.madds[0] == card.madds
    top1 = deploy.top1(network, card, dataset.hierarchy, dataset.selection)
    assert table.top1[0] == pytest.approx(top1, abs=1e-4)
    pd.testing.assert_frame_equal(table, specializer.compare(names, budget))


@pytest.mark.parametrize(
    ("part", "notebook"),
    [
        ("supernets/{setting}-{seed}.json", "02_supernet"),
        ("supernets/{setting}-{seed}.safetensors", "02_supernet"),
        ("supernets/branches/{branch}-{seed}.safetensors", "02_supernet"),
        ("generators/eas-{seed}/models.safetensors", "03_generator"),
        ("comparison/eas-{seed}/selected.json", "04_ablations"),
    ],
)
def test_a_missing_part_of_a_specializer_names_the_notebook_that_makes_it(finished, copied, part, notebook):
    study, seed = finished.study, finished.study.seeds[0]
    setting = steps.settings_of(study, copied)["eas"].name
    path = copied / part.format(setting=setting, seed=seed, branch=tuning.choose_branch(study, copied).name)
    aside = path.rename(path.with_name("aside"))
    try:
        with pytest.raises(FileNotFoundError, match=f"run notebooks/{notebook}") as caught:
            deploy.load_specializer(study, copied, finished.dataset, seed)
        assert "\n" not in str(caught.value)
    finally:
        aside.rename(path)
