"""Superclass branches as the study trains them: which, on which images, what a record says, and the choice."""

import shutil
from pathlib import Path

import pytest
import torch
from cases import seeded
from safetensors.torch import load_file
from study_cases import ALL, NORMS, OWN, base, one_line, same, with_study

from eas.branches import compose_branches, superclass_shares
from eas.evaluation import SharedStem, calibration_sample, measure_archs, superclass_top1
from eas.recipes import Branch
from pipeline import branches, generators, scenarios, steps, supernets, tables
from pipeline.report import stats
from pipeline.steps import STEPS
from pipeline.store import Workspace

BASE = base(epochs=2)  # of the study of six classes


def job(branch=ALL, seed=0):
    return {"base": base(epochs=2, seed=seed), "branch": branch}


@pytest.fixture
def fresh(micro, tmp_path):
    """The study of six classes with supernets and generators, but no branches."""
    for part in ("supernets", "generators"):
        shutil.copytree(micro.folder / part, tmp_path / "fresh" / part)
    shutil.copy(micro.dataset_path, tmp_path / "fresh")
    return Workspace(micro.study, tmp_path / "fresh")


def test_a_record_tells_what_the_branches_are_and_cost(micro, dataset):
    (result, record), stored = steps.find(micro, "branches", **job()), steps.tensors_of(micro, "branches", **job())
    assert result.path == micro.folder / "branches" / "all-0.1-0.safetensors"
    assert (record["branch"], record["seed"], record["images"]) == ("all-0.1", 0, len(micro.dataset().train))
    assert record["bytes"] == sum(tensor.nbytes for tensor in stored.values()) and record["seconds"] > 0
    supernet = supernets.load_supernet(micro, micro.dataset(), BASE)
    names = [name for name in stored if not name.endswith(".scale")]
    assert set(names) == {f"{index}.{name}" for index in range(3) for name, _ in supernet.named_parameters()}
    norms = steps.tensors_of(micro, "branches", **job(NORMS))
    assert set(norms) < set(stored) and steps.record_of(micro, "branches", **job(NORMS))["bytes"] < record["bytes"]


def test_the_accuracy_of_branches_is_the_mean_over_superclasses_on_the_selection_split(micro):
    dataset, record = micro.dataset(), steps.record_of(micro, "branches", **job())
    budgets = sorted(micro.study.scenarios.budgets)
    assert [row["budget"] for row in record["singles"]] == budgets  # it has two
    supernet, stored, top1 = (
        supernets.load_supernet(micro, dataset, BASE),
        steps.tensors_of(micro, "branches", **job()),
        [],
    )
    generator = generators.load_generator(micro, dataset, BASE, "generator_additive")
    for name in dataset.hierarchy.superclasses:
        mask = dataset.hierarchy.class_mask([name])
        (arch,) = generator.generate(mask[None], torch.tensor([budgets[-1] * 1e6]))
        branch = compose_branches(supernet, stored, superclass_shares(dataset.hierarchy, mask))
        images, own = dataset.selection.only(mask), dataset.train.only(mask)
        logits = SharedStem(branch, arch[None], own, images).logits(arch)
        top1.append(superclass_top1(logits, images.labels, mask[None]).item())
    assert record["singles"][-1]["top1"] == pytest.approx(sum(top1) / 3, abs=1e-4)


def test_gains_are_over_shared_weights_by_the_size_of_a_set(micro):
    record = steps.record_of(micro, "branches", **job())
    points = [row["top1"] - row["shared"] for row in record["singles"]]
    single, pair, every = record["gains"]
    assert [(row["size"], row["sets"]) for row in record["gains"]] == [(1, 3), (2, 1), (3, 1)]
    assert single["gain"] == pytest.approx(sum(points) / len(points), abs=1e-3)
    shared = [row["shared"] for row in record["singles"]]
    assert single["shared"] == pytest.approx(sum(shared) / len(shared), abs=1e-3) and 0 < every["shared"] < 100
    assert record["mixed"]["sets"] > 0 and 0 < record["mixed"]["shared"] < 100
    assert (
        pair["gain"] == every["gain"] == record["mixed"]["gain"] == 0
    )  # trained on single superclasses only: shared weights serve


@pytest.mark.parametrize(
    ("gains", "largest", "mean"),
    [
        ([2.0], 1, 2.0),
        ([-1.0], 0, 0.0),
        ([2.0, 0.0], 1, 4 / 3),
        ([2.0, 1.0, -1.0], 2, (4 * 2 + 2 * 1) / 7),
        ([2.0, -1.0, 5.0], 1, 4 * 2 / 7),
        ([2.0, 1.0, 3.0], 3, (4 * 2 + 2 * 1 + 3) / 7),
    ],
)
def test_branches_serve_sets_as_large_as_they_gain_on(gains, largest, mean):
    rows = [{"size": n, "sets": 4 // n, "shared": 50.0, "gain": gain} for n, gain in enumerate(gains, start=1)]
    record = {"gains": rows, "mixed": {"gain": mean}}
    assert branches.served_sets(record) == {"largest_set": largest, "mixed_sets": mean > 0}
    assert branches.mean_top1(record) == pytest.approx(50 + mean)


def watched(monkeypatch):
    """Has `tune_branches` do nothing but note what it is given."""
    seen = []

    def tune(supernet, split, hierarchy, part, recipe, draw_sets, **options):
        seen.append((supernet, split, part, draw_sets, recipe, options))
        return {f"{index}.classifier.bias": supernet.classifier.bias.detach() for index in range(3)}

    monkeypatch.setattr(branches, "tune_branches", tune)
    monkeypatch.setattr(branches, "measure", lambda *args: {})
    return seen


def test_branches_are_tuned_from_the_bases_weights_on_the_training_images_by_the_candidates_recipe(fresh, monkeypatch):
    seen, study = watched(monkeypatch), fresh.study
    small = NORMS.model_copy(update={"batch_size": 3, "learning_rate": 0.7})
    steps.make(fresh, "branches", job(ALL))
    steps.make(fresh, "branches", job(small, seed=1))
    (first, split, _, draw_sets, *_), (second, *_) = seen
    for seed, supernet in enumerate((first, second)):
        assert same(supernet.state_dict(), load_file(fresh.folder / "supernets" / f"own-0.5-{seed}.safetensors"))
    assert torch.equal(split.images, fresh.dataset().train.images)
    masks = [tuple(mask.nonzero()[:, 0].tolist()) for mask in draw_sets(30, seeded())]
    assert {mask: masks.count(mask) for mask in masks} == {(0, 1): 10, (2, 3): 10, (4, 5): 10}  # every one alone
    assert [part for _, _, part, *_ in seen] == ["all", "norms"] and small.name == "norms-0.7-batch-3"
    recipes = [recipe for *_, recipe, _ in seen]
    told = [(recipe.epochs, recipe.batch_size, recipe.learning_rate) for recipe in recipes]
    assert told == [(study.branches.epochs, study.branches.batch_size, 0.1), (study.branches.epochs, 3, 0.7)]
    same_as = {"epochs": 1, "batch_size": 1, "learning_rate": 1.0}
    assert all(recipe.model_copy(update=same_as) == study.training.model_copy(update=same_as) for recipe in recipes)
    assert [options["seed"] for *_, options in seen] == [0, 1]


def test_a_recipe_changes_of_the_supernets_training_what_it_names(study):
    plain, recipe = Branch(part="all", learning_rate=0.5), study.training
    assert plain.name == "all-0.5" and plain.training(recipe, 3, 7) == recipe.model_copy(
        update={"epochs": 3, "batch_size": 7, "learning_rate": 0.5}
    )
    other = {"batch_size": 9, "epochs": 2, "common": 0.25, "decay": 0.1, "sets": {3: 1.0, 1: 2.5}}
    other = plain.model_copy(update=other)
    assert other.name == "all-0.5-batch-9"
    assert other.model_copy(update={"label": "short"}).name == "short"
    made = other.training(recipe, 3, 7)
    assert (made.epochs, made.batch_size, made.weight_decay) == (2, 9, 0.1)


def test_branches_may_be_tuned_with_the_archs_that_are_generated_for_the_sets(micro, monkeypatch):
    seen, dataset = watched(monkeypatch), micro.dataset()
    wanted = job(NORMS.model_copy(update={"archs": "generated", "common": 0.25}))
    branches.train_branches(micro, **wanted)
    ((_, _, _, draw_sets, _, options),) = seen
    assert options["common"] == 0.25
    masks = draw_sets(40, seeded())
    archs = options["propose"](masks, seeded())
    space, budgets = supernets.new_space(micro.study, dataset), micro.study.scenarios.budgets
    madds = space.madds(archs, masks.sum(1)) / 1e6
    assert (madds <= max(budgets)).all() and len(archs.unique(dim=0)) > 1
    generator = generators.load_generator(micro, dataset, wanted["base"], "generator_additive")
    possible = torch.linspace(min(budgets), max(budgets), 2000, dtype=torch.float64) * 1e6
    known = generator.generate(masks[:1].expand(2000, -1), possible)
    assert (known == archs[0]).all(1).any()


def test_the_best_candidate_on_the_first_seeds_is_trained_on_the_others(micro, micro_copy):
    chosen, jobs = branches.choose_branch(micro), branches.branch_jobs(micro)
    assert jobs == [job(ALL, 0), job(NORMS, 0), job(chosen, 1)]
    assert branches.chosen_branch_jobs(micro) == [job(chosen, 0), job(chosen, 1)]
    reached = {each.name: branches.mean_top1(steps.record_of(micro, "branches", **job(each))) for each in (ALL, NORMS)}
    assert reached[chosen.name] == max(reached.values())
    other = NORMS if chosen == ALL else ALL
    result, record = steps.find(micro_copy, "branches", **job(other))
    better = {"gains": [row | {"gain": 100.0} for row in record["gains"]]}
    result.write(result.tensors(), {name: record[name] for name in ("branch", "seed", "bytes", "singles")} | better)
    assert branches.choose_branch(micro_copy) == other
    worse = {"gains": [row | {"shared": row["shared"] - 100.0} for row in better["gains"]]}
    result.write(result.tensors(), {name: record[name] for name in ("branch", "seed", "bytes", "singles")} | worse)
    assert branches.choose_branch(micro_copy) == chosen  # what is reached counts, not what is gained over how little
    result.write(result.tensors(), {name: record[name] for name in ("branch", "seed", "bytes", "singles")} | better)
    assert branches.branch_jobs(micro_copy) == [job(ALL, 0), job(NORMS, 0), job(other, 1)]
    both = with_study(micro_copy, branches={"seeds": 2})
    assert branches.branch_jobs(both) == [job(ALL, 0), job(NORMS, 0), job(ALL, 1), job(NORMS, 1)]


def test_a_control_is_compared_and_never_chosen(fresh, inline, monkeypatch):
    control = Branch(
        part="norms", supernet="plain", learning_rate=0.1, sets={3: 1}, common=1.0, alike=True, label="control"
    )
    composed = control.model_copy(update={"label": "composed", "sets": {1: 1, 3: 1}, "alike": False})
    workspace = with_study(fresh, branches={"candidates": (NORMS, composed, control)})
    steps.run_step(workspace, STEPS["branches"])
    monkeypatch.setattr(branches, "mean_top1", lambda record: float(record["branch"] == "control"))
    assert branches.choose_branch(workspace) in (NORMS, composed)
    methods = [branches.branch_method(branch).name for branch in (NORMS, composed, control)]
    assert methods == ["generator_branch", "generator_composed", "generator_control"]
    wanted = [branches.branch_job(workspace, each, seed) for each in (NORMS, composed, control) for seed in (0, 1)]
    assert branches.compared_branch_jobs(workspace) == wanted
    stored = steps.tensors_of(workspace, "branches", **wanted[-2])
    assert all(torch.equal(stored[name], stored[f"0.{name.partition('.')[2]}"]) for name in stored)
    gains = steps.record_of(workspace, "branches", **wanted[-2])["gains"]
    assert [row["size"] for row in gains] == [1, 2, 3]
    steps.run(workspace, "04_comparison")
    top1 = [steps.tensors_of(workspace, "measured_branches", **each)["top1"] for each in (wanted[0], wanted[-2])]
    assert top1[0].isnan().any() and not top1[1].isnan().any()
    # Its norms have seen all classes: it is calibrated as shared weights are.
    dataset, base = workspace.dataset(), wanted[-2]["base"]
    every = scenarios.scenarios(workspace.study, dataset.hierarchy)
    tuned = compose_branches(supernets.load_supernet(workspace, dataset, base), stored, torch.ones(3) / 3)
    generator = generators.load_generator(workspace, dataset, base, "generator_additive")
    archs = generator.generate(every.class_masks, every.budgets)
    few = calibration_sample(dataset.calibration, workspace.study.evaluation.calibration_images)
    found = measure_archs(tuned, archs, every.class_masks, few, dataset.test)
    torch.testing.assert_close(top1[1][: len(every)], found)
    found = tables.comparison_table(workspace)
    assert {"superclass", "union"} <= set(found[found.method == "generator_control"].kind)
    rivals = stats.own_weights(found)
    pairs = set(zip(rivals.method, rivals.rival, strict=True))
    assert {("generator_composed", "generator_control"), ("generator_control", "generator_additive")} <= pairs


def test_the_table_compares_what_all_of_the_first_seeds_have(micro):
    table, budgets = branches.branch_table(micro), [f"{each:g}M" for each in sorted(micro.study.scenarios.budgets)]
    assert list(table.weights) == ["shared", "all-0.1", "norms-0.1"]
    assert list(table.columns) == ["weights", "megabytes", *budgets]
    assert table.megabytes[0] == 0 < table.megabytes[2] < table.megabytes[1] and table.notna().all(axis=None)
    for row, branch in enumerate((ALL, NORMS), start=1):  # the second seed has one candidate only: not among the rows
        for single in steps.record_of(micro, "branches", **job(branch))["singles"]:
            name = f"{single['budget']:g}M"
            assert (table[name][0], table[name][row]) == (single["shared"], single["top1"])


def test_a_study_without_branches_trains_none(micro, inline):
    none = with_study(micro, branches=None)
    assert branches.branch_jobs(none) == branches.chosen_branch_jobs(none) == [] and branches.branch_table(none).empty
    assert STEPS["measured_branches"].all_jobs(none) == []
    steps.run_step(none, STEPS["branches"])


def test_a_missing_record_of_a_branch_names_the_notebook_that_makes_it(fresh):
    for ask in (branches.choose_branch, branches.chosen_branch_jobs, branches.branch_table):
        with pytest.raises(FileNotFoundError, match="all-0.1-0.safetensors is missing: run notebooks/03_generator for"):
            ask(fresh)
    nothing = Workspace(fresh.study, Path("nothing"))
    with pytest.raises(
        FileNotFoundError, match="own-0.5-0.safetensors is missing: run notebooks/02_supernet"
    ) as caught:
        branches.branch_jobs(nothing)
    one_line(caught)


def test_branches_belong_to_one_supernet(micro):
    """Branches of other weights with the same name have another key."""
    key = STEPS["branches"].result(micro, job()).key
    other = {"base": BASE.model_copy(update={"dropout": OWN.model_copy(update={"begin": 0.5})}), "branch": ALL}
    assert STEPS["branches"].result(micro, other).key != key != STEPS["branches"].result(micro, job(seed=1)).key
