"""The pool of measured archs, and the generators and predictors that are fitted on it."""

import shutil

import pytest
import torch
from study_cases import base, changed, hashes, one_line, same

from eas import data
from eas.additive import fit_additive
from eas.evaluation import SharedStem, calibration_sample, superclass_top1
from pipeline import generators, steps, supernets
from pipeline.scenarios import scenarios
from pipeline.steps import STEPS
from pipeline.store import Workspace

NAMES = ("dropout", "plain")


# -------------------------------------------------------------------- the pool


def test_the_pool_is_measured_on_training_scenarios_and_spread_over_the_budgets(finished):
    study, dataset = finished.study, finished.dataset()
    hierarchy, space = dataset.hierarchy, supernets.new_space(study, dataset)
    pool = generators.load_pool(finished, supernets.base_of(finished, "dropout", 0))
    masks = scenarios(study, hierarchy).class_masks
    held_out = {tuple(row.tolist()) for row in masks[10 : len(masks) // len(study.scenarios.budgets)]}
    assert held_out and not held_out & {tuple(row.tolist()) for row in pool["class_masks"]}
    assert torch.equal(pool["class_masks"][:10], masks[:10]) and len(pool["class_masks"]) == 10 + 30
    assert len(pool["archs"]) == study.search.pool == len(pool["accuracy"]) == len(pool["correct"])
    assert torch.equal(pool["labels"], dataset.selection.labels)
    cost = space.madds(pool["archs"], 16) / 1e6
    low, high = min(study.scenarios.budgets), max(study.scenarios.budgets)
    assert cost.max() <= high and cost.min() < low + 0.1 * (high - low) and cost.max() > high - 0.2 * (high - low)
    # The superclasses' accuracies follow from which images were classified right among their own superclass.
    parent = hierarchy.parent[pool["labels"]]
    by_superclass = torch.stack([pool["correct"][:, parent == s].float().mean(1) * 100 for s in range(10)], 1)
    torch.testing.assert_close(pool["accuracy"][:, :10], by_superclass)


def test_the_pools_accuracies_are_those_of_the_supernets_calibrated_subnets(micro):
    dataset, wanted = micro.dataset(), supernets.base_of(micro, "plain", 1)
    pool, supernet = generators.load_pool(micro, wanted), supernets.load_supernet(micro, dataset, wanted)
    calibration = calibration_sample(dataset.calibration, micro.study.evaluation.calibration_images)
    for arch, accuracy in zip(pool["archs"], pool["accuracy"], strict=True):
        logits = SharedStem(supernet, arch[None], calibration, dataset.selection).logits(arch)
        top1 = superclass_top1(logits, dataset.selection.labels, pool["class_masks"])
        torch.testing.assert_close(accuracy, top1)


def test_every_supernet_has_a_pool_of_its_own_seed(finished):
    pools = {(name, seed): steps.tensors_of(finished, "pools", base=supernets.base_of(finished, name, seed))
             for name in NAMES for seed in (0, 1)}  # fmt: skip
    assert torch.equal(pools["dropout", 0]["archs"], pools["plain", 0]["archs"])
    assert not torch.equal(pools["dropout", 0]["archs"], pools["dropout", 1]["archs"])
    assert not torch.equal(pools["dropout", 0]["accuracy"], pools["plain", 0]["accuracy"])


# -------------------------------------------------------------------- what is fitted on it


def test_records_of_fitting_hold_every_loss(finished):
    study, records = finished.study, generators.generator_records(finished)
    assert [(r["supernet"], r["seed"]) for r in records] == [(name, seed) for name in NAMES for seed in study.seeds]
    recipe = study.generator
    steps_taken = {"generator": recipe.predictor, "generator_blind": recipe.predictor, "generator_gates": recipe.gates}
    for record in records:
        for name, each in steps_taken.items():
            losses = record[f"loss_{name}"]
            assert len(losses) == each.steps and all(loss == round(loss, 6) for loss in losses)
        assert all(-1e6 < record[name] <= 1 for name in ("r2_predictor", "r2_predictor_aware"))
    parts = steps.record_of(finished, "predictors", base=supernets.base_of(finished, "plain", 1))["parts"]
    assert set(parts) == {"predictor", "predictor_aware", "generator", "generator_blind"}
    assert min(parts.values()) > 0


def test_the_additive_generator_is_fitted_on_the_pool_and_read_back(finished):
    dataset, wanted = finished.dataset(), supernets.base_of(finished, "plain", 1)
    pool, every = generators.load_pool(finished, wanted), scenarios(finished.study, dataset.hierarchy)
    made = generators.load_generator(finished, dataset, wanted, "generator_additive")
    space, parent = supernets.new_space(finished.study, dataset), dataset.hierarchy.parent
    budgets = finished.study.scenarios.budgets
    options = {"budget_range": (budgets[0] * 1e6, budgets[-1] * 1e6), "seed": 1}
    again, told = fit_additive(space, pool["archs"], pool["correct"], pool["labels"], parent, **options)
    assert same(made.state_dict(), again.state_dict())
    record = steps.record_of(finished, "additive", base=wanted)
    assert {name: record[name] for name in told} == told
    archs = made.generate(every.class_masks, every.budgets)
    assert (space.madds(archs, every.class_counts) <= every.budgets).all()


@pytest.mark.parametrize("name", ["generator", "generator_blind", "generator_gates"])
def test_a_generator_is_read_back_as_it_was_trained(name, finished):
    dataset, wanted = finished.dataset(), supernets.base_of(finished, "dropout", 0)
    generator = generators.load_generator(finished, dataset, wanted, name)
    tensors = steps.tensors_of(finished, "gates" if name == "generator_gates" else "predictors", base=wanted)
    found = {key: tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
    assert same(found, generators.with_prefix(name, generator)) and not generator.training
    assert generator.class_embedding.blind == (name == "generator_blind")
    assert generator.anchors.tolist() == [budget * 1e6 for budget in finished.study.scenarios.budgets]
    every = scenarios(finished.study, dataset.hierarchy)
    archs = generator.generate(every.class_masks, every.budgets)
    assert (generator.space.madds(archs, every.class_counts) <= every.budgets).all()
    untrained = generators.new_generator(finished.study, generator.space, dataset.hierarchy)
    assert not same(untrained.state_dict(), generator.state_dict())


def test_a_predictor_that_is_aware_sees_the_classes_and_the_other_does_not(finished):
    dataset, wanted = finished.dataset(), supernets.base_of(finished, "plain", 0)
    masks = scenarios(finished.study, dataset.hierarchy).class_masks[:10]
    for aware in (True, False):
        predictor = generators.load_predictor(finished, dataset, wanted, aware=aware)
        with torch.inference_mode():
            scores = predictor.score(predictor.space.largest.expand(10, -1), masks)
        assert bool(scores.max() - scores.min() > 1e-5) == aware and not predictor.training


def test_a_generators_size_is_that_of_the_study(study, dataset):
    sized = study.generator.model_copy(update={"width": 24, "embedding": 12})
    small = changed(study, generator=sized)
    generator = generators.new_generator(small, supernets.new_space(small, dataset), dataset.hierarchy)
    assert generator.layers[0].out_features == 24 and generator.class_embedding.weight.shape == (160, 12)


def test_equal_inputs_train_equal_generators_and_other_seeds_others(micro, micro_copy):
    for name in ("predictors", "gates"):
        for seed in (0, 1):
            steps.make(micro_copy, name, {"base": supernets.base_of(micro, "dropout", seed)})
    assert hashes(micro_copy.folder / "generators") == hashes(micro.folder / "generators")
    first, second = (hashes(micro.folder / "generators" / f"dropout-{seed}") for seed in (0, 1))
    assert first.keys() == second.keys() and not set(first.values()) & set(second.values())


def test_training_scenarios_of_the_gates_see_the_training_images_only(micro, micro_copy):
    """Noise for images of the other splits changes nothing."""
    dataset = micro_copy.dataset()
    noise = {
        name: data.Split(torch.randint_like(split.images, 256), split.labels)
        for name, split in ((name, getattr(dataset, name)) for name in ("selection", "test", "calibration"))
    }
    data.save(data.Dataset(**{**vars(dataset), **noise}), micro_copy.dataset_path)
    job = {"base": supernets.base_of(micro, "plain", 0)}
    before = STEPS["gates"].result(micro, job).path.read_bytes()
    steps.make(micro_copy, "gates", job)
    assert STEPS["gates"].result(micro_copy, job).path.read_bytes() == before


# -------------------------------------------------------------------- what is missing


def test_what_is_missing_names_the_notebook_that_makes_it(micro, tmp_path):
    dataset, wanted = micro.dataset(), base(epochs=2)
    empty = Workspace(micro.study, tmp_path)
    for name, file in generators.FITTED_BY.items():
        with pytest.raises(
            FileNotFoundError, match=f"{file}.safetensors is missing: run notebooks/03_generator for the"
        ):
            generators.load_generator(empty, dataset, wanted, name)
    shutil.copy(micro.dataset_path, tmp_path)
    files = {"pools": "own-0.5-0", "gates": "own-0.5-0", "predictors": "pool", "additive": "pool"}
    for step, file in files.items():
        with pytest.raises(FileNotFoundError, match=f"{file}.safetensors is missing: run notebooks/0[23]_") as caught:
            steps.make(empty, step, {"base": wanted})
        one_line(caught)
    with pytest.raises(FileNotFoundError, match="run notebooks/02_supernet for the study tiny first"):
        steps.run(empty, "03_generator")
    assert not (tmp_path / "generators").exists()
