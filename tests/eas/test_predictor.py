"""The accuracy predictor on planted accuracies."""

import pytest
import torch
from cases import GLYPHS, Additive, random_class_masks, seeded

from eas.predictor import AccuracyPredictor, fit_predictor

CLASSES, GROUPS = 20, 8


def new(aware):
    torch.manual_seed(0)
    return AccuracyPredictor(GLYPHS, CLASSES, aware=aware)


def fitted(accuracy, archs, class_masks, aware, steps=400):
    model = new(aware)
    return model, fit_predictor(model, archs, class_masks, accuracy, steps=steps, seed=0)


@pytest.fixture(scope="module")
def planted():
    """Archs, class masks and two accuracies in percent: alike for all scenarios, and by their classes."""
    archs = GLYPHS.sample(200, seeded())
    masks = torch.arange(CLASSES) // 2 == torch.arange(GROUPS)[:, None]
    alike, by_class = (Additive(GLYPHS, CLASSES, aware).score(archs[:, None], masks) for aware in (False, True))
    level = torch.linspace(40, 90, GROUPS)  # scenarios differ in difficulty: that must not count
    return archs, masks, level + 3 * alike.expand(-1, GROUPS), level + 3 * by_class


def test_a_predictor_explains_additive_accuracies_and_ranks_new_archs(planted):
    archs, masks, alike, by_class = planted
    model, explained = fitted(alike, archs, masks, aware=False)
    assert explained > 0.9 and fitted(alike, archs, masks, aware=True)[1] > 0.9
    unaware, aware = (fitted(by_class, archs, masks, aware)[1] for aware in (False, True))
    assert aware > 0.85 and unaware < aware - 0.05
    fresh = GLYPHS.sample(500, seeded(7))
    truth = Additive(GLYPHS, CLASSES).score(fresh, masks[:1])
    predicted = model.score(fresh, masks[:1]).detach()
    assert torch.corrcoef(torch.stack([truth, predicted]))[0, 1] > 0.95


def test_a_predictor_explains_no_noise(planted):
    archs, masks, *_ = planted
    noise = 70 + 5 * torch.randn(len(archs), len(masks), generator=seeded())
    assert fitted(noise, archs, masks, aware=True)[1] < 0.1


def test_fitting_repeats(planted):
    archs, masks, alike, _ = planted
    first, second = (fitted(alike, archs, masks, aware=True, steps=20) for _ in range(2))
    assert first[1] == second[1]
    for one, other in zip(first[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("aware", [False, True])
def test_an_unaware_predictor_ignores_the_classes_and_an_aware_one_does_not(aware):
    scores = new(aware).score(GLYPHS.sample(30, seeded())[:, None], torch.eye(CLASSES).bool())
    assert scores.shape == (30, CLASSES)
    assert torch.allclose(scores, scores[:, :1]) != aware


def test_scores_broadcast():
    model, archs = new(aware=True), GLYPHS.sample(24, seeded()).view(6, 4, -1)
    masks = random_class_masks(6, CLASSES)
    together = model.score(archs, masks[:, None])
    assert together.shape == (6, 4)
    for i in range(6):
        for j in range(4):
            torch.testing.assert_close(model.score(archs[i, j], masks[i]), together[i, j])
