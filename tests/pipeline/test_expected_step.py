"""The step `expected`: on which sets of classes it is fitted, and that the line is the one that networks lie on."""

import dataclasses
import math

import pytest
import torch
from cases import seeded
from study_cases import with_study

from eas import data
from eas.evaluation import has_images
from eas.expected import ExpectedAccuracy
from pipeline import branches, expected, steps
from pipeline.branches import choose_branch
from pipeline.scenarios import every_scenario
from pipeline.steps import STEPS
from pipeline.supernets import load_supernet


def test_it_is_fitted_on_sets_of_all_sizes_that_are_no_scenarios(study, hierarchy):
    masks = expected.fitted_sets(study, hierarchy, 10, seeded())
    assert masks.shape == (40, 160) and len(masks.unique(dim=0)) == 40 and masks.sum(1).min() >= 2
    scenarios = every_scenario(study, hierarchy).class_masks
    assert not (masks[:, None] == scenarios).all(-1).any()
    superclasses = torch.stack([hierarchy.class_mask([name]) for name in hierarchy.superclasses])
    touched = (masks[:, None] & superclasses).any(2).sum(1)
    assert touched.min() == 1 and touched.max() >= 8 and (touched <= 3).float().mean() > 0.4
    whole = (masks[:, None] | ~superclasses).all(2).sum(1)
    assert (whole == touched).any() and (whole == 0).any()
    assert torch.equal(expected.fitted_sets(study, hierarchy, 10, seeded()), masks)
    parts = expected.fitted_sets(study, hierarchy, 1, seeded())
    assert len(parts) == 40 and ((parts[:, None] & superclasses).any(2).sum(1) == 1).all()


def test_classes_without_images_to_choose_on_do_no_harm(copied):
    dataset = copied.dataset()
    few = dataset.selection.only(dataset.selection.labels % 5 == 0)
    data.save(dataclasses.replace(dataset, selection=few), copied.dataset_path)
    masks = expected.fitted_sets(copied.study, dataset.hierarchy, len(dataset.hierarchy.superclasses), seeded())
    assert not has_images(masks, few).all()  # sets that the fit, and what branches gain, must leave out
    (job,) = STEPS["expected"].all_jobs(copied)
    model = ExpectedAccuracy(**expected.fit_expected(copied, **job)[0])
    assert model.errors.isfinite().all() and torch.equal(model.labels, few.labels)
    given = load_supernet(copied, dataset, job["base"]), steps.tensors_of(copied, "branches", **job)
    gains = branches.measure(copied, job["base"], *given, dataclasses.replace(dataset, selection=few), job["branch"])
    assert math.isfinite(gains["mixed"]["gain"])


def test_where_all_classes_are_the_only_set_nothing_is_known_of_errors(micro_copy, monkeypatch):
    nothing = torch.zeros(0, len(micro_copy.dataset().hierarchy.classes), dtype=torch.bool)
    monkeypatch.setattr(expected, "fitted_sets", lambda *arguments: nothing)
    (job,) = STEPS["expected"].all_jobs(micro_copy)
    model = ExpectedAccuracy(**expected.fit_expected(micro_copy, **job)[0])
    assert model.errors.tolist() == [expected.UNKNOWN] * 2


def test_the_line_is_the_one_that_networks_lie_on():
    shared, superclasses = torch.linspace(40, 95, 12).double(), torch.tensor([1, 2, 3, 10] * 3)
    images = torch.full((12,), 100_000)
    odds = 0.3 + 0.9 * (shared / (100 - shared)).log() - 0.2 * superclasses.double().log()
    line = expected.fit_line(shared, odds.sigmoid() * 100, superclasses, images)
    assert line.tolist() == pytest.approx([0.3, 0.9, -0.2], abs=1e-3)


def test_a_record_tells_what_was_measured_and_what_was_expected(finished):
    (job,) = STEPS["expected"].all_jobs(finished)
    tensors, record = steps.tensors_of(finished, "expected", **job), steps.record_of(finished, "expected", **job)
    model = ExpectedAccuracy(**tensors)
    assert job["branch"] == choose_branch(finished) and job["base"].seed == finished.study.seeds[0]
    assert len(record["points"]) == 40 * 2 and torch.equal(model.labels, finished.dataset().selection.labels)
    points = torch.tensor([[row["measured"], row["expected"]] for row in record["points"]])
    assert model.errors[1].item() == pytest.approx(
        (points[:, 0] - points[:, 1]).square().mean().sqrt().item(), abs=1e-4
    )
    assert (model.errors > 0).all() and model.madds.diff().gt(0).all()


def test_without_branches_it_knows_what_shared_weights_reach(micro, micro_copy, inline):
    """Those that were trained alone serve parts of a superclass, of which a hierarchy of pairs has none."""
    assert steps.records(micro, "expected")[0]["points"] == []
    (job,) = STEPS["expected"].all_jobs(micro)
    assert steps.tensors_of(micro, "expected", **job)["errors"][1] == 100  # nothing is known of them
    none = with_study(micro_copy, branches=None)
    steps.run_step(none, STEPS["expected"])
    (job,) = STEPS["expected"].all_jobs(none)
    model = ExpectedAccuracy(**steps.tensors_of(none, "expected", **job))
    assert job["branch"] is None and model.branches.tolist() == [0, 1, 0] and model.errors[0] > 0 == model.errors[1]
