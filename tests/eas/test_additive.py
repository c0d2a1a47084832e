"""The generator in closed form, on planted accuracies."""

import pytest
import torch
from cases import GLYPHS, RAGGED, Additive, possible_budgets, seeded

from eas.additive import PENALTIES, AdditiveGenerator, fit_additive, ridge
from eas.decoding import decode

CLASSES, GROUPS, IMAGES = 20, 4, 4000
PARENT = torch.arange(CLASSES) // 5
LABELS = torch.arange(IMAGES) % CLASSES


def pool(worth, archs):
    """Which images archs [n] get right, where the chance of it is 0.7 and what their choices are worth [n, groups]."""
    chance = 0.7 + 0.04 * (worth - worth.mean(0)) / worth.std(0)
    return torch.rand(len(archs), IMAGES, generator=seeded(1)) < chance[:, PARENT[LABELS]]


def fitted(archs, correct, space=GLYPHS):
    return fit_additive(space, archs, correct, LABELS, PARENT, budget_range=(1e5, 1e6), seed=0)


@pytest.fixture(scope="module")
def archs():
    return GLYPHS.sample(150, seeded())


@pytest.fixture(scope="module")
def masks():
    return torch.arange(GROUPS)[:, None] == PARENT


def test_what_all_superclasses_share_is_found_and_nothing_is_made_up_for_one(archs, masks):
    truth = Additive(GLYPHS, CLASSES)
    made, told = fitted(archs, pool(truth.score(archs[:, None], masks[:1]).expand(-1, GROUPS), archs))
    assert told["r2_additive"] > 0.5 and told["r2_additive_classes"] < 0.02
    assert made.budget_range.tolist() == [1e5, 1e6]
    assert made.of_class.std() < 0.1 * made.effects.std()
    fresh = GLYPHS.sample(500, seeded(7))
    features = GLYPHS.features(*GLYPHS.gates(fresh))
    both = torch.stack([truth.score(fresh, masks[:1]), features @ made.effects])
    assert torch.corrcoef(both)[0, 1] > 0.9


def test_what_superclasses_have_of_their_own_is_found(archs, masks):
    worth = torch.randn(GLYPHS.features(*GLYPHS.gates(archs)).shape[1], GROUPS, generator=seeded(5))
    made, told = fitted(archs, pool(GLYPHS.features(*GLYPHS.gates(archs)) @ worth, archs))
    assert told["r2_additive_classes"] > 0.3 and told["penalty_classes"] < PENALTIES[-1]
    features = GLYPHS.features(*GLYPHS.gates(GLYPHS.sample(500, seeded(7))))
    found = features @ (made.effects + made.of_class[::5]).T
    own = [each - each.mean(1, keepdim=True) for each in (features @ worth, found)]
    own = [(each - each.mean(0)).flatten() for each in own]
    assert torch.corrcoef(torch.stack(own))[0, 1] > 0.8
    budget = GLYPHS.madds(archs, 5).double().median().expand(GROUPS)
    assert len(made.generate(masks, budget).unique(dim=0)) == GROUPS


def test_what_differs_from_image_to_image_is_not_taken_for_a_superclass_of_its_own(archs):
    features = GLYPHS.features(*GLYPHS.gates(archs))
    own = features @ torch.randn(features.shape[1], 200, generator=seeded(5))
    correct = own > own.mean(0)
    _, told = fit_additive(GLYPHS, archs, correct, LABELS[:200], PARENT, budget_range=(1e5, 1e6), seed=0)
    assert told["r2_additive_classes"] < 0.02


def test_what_does_not_exist_in_a_ragged_space_is_worth_nothing_and_never_chosen(masks):
    truth, archs = Additive(RAGGED, CLASSES), RAGGED.sample(150, seeded())
    made, told = fitted(archs, pool(truth.score(archs[:, None], masks[:1]).expand(-1, GROUPS), archs), RAGGED)
    there = torch.cat([each.flatten() for each in RAGGED.exists])
    assert told["r2_additive"] > 0.5 and made.effects[~there].abs().max() < 1e-6 < made.effects[there].abs().max()
    budgets = possible_budgets(RAGGED, 100, torch.full((100,), 5))
    found = made.generate(masks[:1].expand(100, -1), budgets)
    RAGGED.check(found)
    assert (RAGGED.madds(found, 5) <= budgets).all() and found.unique(dim=0).shape[0] > 10


def test_a_union_has_the_mean_of_its_classes_and_the_scores_are_what_is_decoded(masks):
    made = AdditiveGenerator(GLYPHS, CLASSES)
    made.effects.copy_(torch.rand(made.effects.shape, generator=seeded()))
    made.of_class.copy_(torch.rand(made.of_class.shape, generator=seeded(1)))
    union, budgets = masks[:1] | masks[1:2], possible_budgets(GLYPHS, 10, 4)
    scores = made(union, budgets[:1])
    together = torch.cat([each.flatten(1) for each in scores], 1)[0]
    torch.testing.assert_close(together, made.effects + made.of_class[:10].mean(0))
    every = union.expand(len(budgets), -1)
    archs = made.generate(every, budgets)
    assert torch.equal(archs, decode(GLYPHS, *made(every, budgets), budgets, every.sum(1)))
    assert (GLYPHS.madds(archs, 10) <= budgets).all()
    with pytest.raises(ValueError, match="smallest"):
        made.generate(union, torch.tensor([1.0]))


def test_fitting_repeats_and_superclasses_with_few_images_are_fitted_on(archs):
    correct = torch.rand(len(archs), 12, generator=seeded(2)) < 0.5
    labels = torch.tensor([0, 0, 5, 5, 5, 10, 10, 15, 15, 15, 16, 16])
    first, second = (
        fit_additive(GLYPHS, archs, correct, labels, PARENT, budget_range=(1, 2), seed=3) for _ in range(2)
    )
    assert first[1] == second[1] and torch.equal(first[0].effects, second[0].effects)
    assert first[0].effects.isfinite().all() and first[0].of_class.isfinite().all()


@pytest.mark.parametrize("few", [0, 1])
def test_a_superclass_of_one_image_or_none_has_nothing_of_its_own(archs, few):
    rows = torch.cat([(LABELS < 15).nonzero()[:, 0], (LABELS == 15).nonzero()[:few, 0]])
    correct = torch.rand(len(archs), len(rows), generator=seeded()) < 0.5
    budgets = {"budget_range": (1e5, 1e6), "seed": 0}
    made, _ = fit_additive(GLYPHS, archs, correct, LABELS[rows], PARENT, **budgets)
    assert made.effects.isfinite().all() and made.of_class.isfinite().all()
    if not few:
        others, _ = fit_additive(GLYPHS, archs, correct, LABELS[rows], PARENT[:15], **budgets)
        assert torch.equal(made.effects, others.effects) and torch.equal(made.of_class[:15], others.of_class)
        assert (made.of_class[15:] == 0).all()


def test_ridge_is_least_squares_without_a_penalty_and_nothing_with_a_large_one():
    x, w = torch.randn(50, 6, dtype=torch.double, generator=seeded()), torch.arange(12.0).double().view(6, 2)
    found = ridge(x, x @ w + 3)
    torch.testing.assert_close(found(0.0), w)
    assert found(1e12).abs().max() < 1e-6
