"""The opponents against brute force, and the accuracy model on planted accuracies."""

from pathlib import Path

import pytest
import torch

from eas import search
from eas.config import load_study
from eas.search import AccuracyModel, evolution, fit_accuracy_model, ofa_evolution, random_archs, uniform
from eas.space import SearchSpace

SPACE = SearchSpace.from_study(load_study("glyphs", Path(__file__).parents[1]), 1)
SMALL = SearchSpace(16, 1, widths=(8, 16), depths=(1, 2), ratios=(0.25, 0.5, 1.0))
CLASSES = 20
EFFORT = {"evaluations": 300, "population": 60, "seed": 0}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def some_scenarios(space=SPACE, count=40, tightest=0.02):
    """Classes kept, and budgets from near the smallest arch's cost to the largest one's."""
    kept = torch.rand(count, CLASSES, generator=seeded()) < 0.4
    kept[:, 0] = True
    low, high = (space.madds(arch, kept.sum(1)).double() for arch in (space.smallest, space.largest))
    return kept, (low + (high - low) * torch.linspace(tightest, 1, count)).floor()


class Additive:
    """In the place of an accuracy model: every choice has its worth, for every scenario alike or by its classes."""

    def __init__(self, space, aware=False):
        self.space = space
        size = space.stages * len(space.depths) + space.blocks * len(space.ratios)
        rising = torch.rand(CLASSES if aware else 1, size, generator=seeded(5))
        depth, width = rising.split([space.stages * len(space.depths), space.blocks * len(space.ratios)], 1)
        width = width.unflatten(1, (space.blocks, -1)).cumsum(-1).flatten(1)
        self.worth = torch.cat([depth, width], 1)

    def score(self, archs, kept):
        worth = self.worth
        if len(worth) > 1:
            kept = kept.float()
            worth = kept @ worth / kept.sum(-1, keepdim=True)
        return (self.space.features(*self.space.gates(archs)) * worth).sum(-1)


def every_arch(space):
    return space.canonical(torch.cartesian_prod(*(torch.arange(n) for n in space.choices.tolist()))).unique(dim=0)


# -------------------------------------------------------------------- uniform scaling


def test_uniform_scaling_is_within_budget_and_uses_it():
    kept, budgets = some_scenarios(count=400)
    archs = uniform(SPACE, budgets, kept.sum(1))
    SPACE.check(archs)
    use = SPACE.madds(archs, kept.sum(1)) / budgets
    assert use.max() <= 1 and use.mean() > 0.95
    assert torch.equal(archs, uniform(SPACE, budgets, kept.sum(1)))


def test_uniform_scaling_starts_from_the_costliest_arch_with_one_depth_and_one_ratio(monkeypatch):
    kept, budgets = some_scenarios(count=400)
    filled = uniform(SPACE, budgets, kept.sum(1))
    monkeypatch.setattr(search, "fill", lambda space, archs, *rest: archs)
    archs = uniform(SPACE, budgets, kept.sum(1))
    assert len(archs.unique(dim=0)) == len(SPACE.depths) * len(SPACE.ratios)
    for arch, more, classes, budget in zip(archs, filled, kept.sum(1), budgets, strict=True):
        assert len(set(SPACE.depth(arch).tolist())) == 1
        assert len(set(arch[SPACE.stages :][SPACE.active(arch)].tolist())) == 1
        assert (more >= arch).all()
        others = [[depth] * SPACE.stages + [ratio] * SPACE.blocks for depth in range(3) for ratio in range(5)]
        costs = [int(SPACE.madds(torch.tensor(other), classes)) for other in others]
        assert SPACE.madds(arch, classes) == max(cost for cost in costs if cost <= budget)


def test_uniform_scaling_at_the_ends():
    for arch in (SPACE.smallest, SPACE.largest):
        assert torch.equal(uniform(SPACE, SPACE.madds(arch, 7)[None].double(), torch.tensor([7]))[0], arch)


# -------------------------------------------------------------------- random archs


def test_random_archs_are_within_budget_distinct_and_use_it():
    kept, budgets = some_scenarios()
    archs = random_archs(SPACE, budgets, kept.sum(1), 50, seeded())
    assert archs.shape == (40, 50, SPACE.decisions)
    SPACE.check(archs)
    use = SPACE.madds(archs, kept.sum(1)[:, None]) / budgets[:, None]
    assert use.max() <= 1 and use.mean() > 0.95
    for row in archs[10:30]:  # between the ends, where there are archs enough
        assert len(row.unique(dim=0)) >= 45
    assert torch.equal(archs, random_archs(SPACE, budgets, kept.sum(1), 50, seeded()))
    assert not torch.equal(archs, random_archs(SPACE, budgets, kept.sum(1), 50, seeded(1)))


def test_random_archs_use_every_choice():
    budget = SPACE.madds(SPACE.largest, 10)[None] * 0.5
    archs = random_archs(SPACE, budget, torch.tensor([10]), 2000, seeded())[0]
    for decision, count in enumerate(SPACE.choices.tolist()):
        assert archs[:, decision].bincount(minlength=count).min() > 50


# -------------------------------------------------------------------- evolution


def side_by_side(space, model, kept, budgets, **effort):
    return evolution(space, model, kept, budgets, **EFFORT | effort)


def one_by_one(space, model, kept, budgets, **effort):
    pairs = zip(kept, budgets.tolist(), strict=True)
    return torch.stack([ofa_evolution(space, model, *pair, **EFFORT | effort) for pair in pairs])


BOTH = pytest.mark.parametrize("search_for", [side_by_side, one_by_one])


@BOTH
def test_evolution_is_within_budget_repeats_and_beats_random_archs(search_for):
    kept, budgets = some_scenarios(count=6, tightest=0.3)
    torch.manual_seed(0)
    model = AccuracyModel(SPACE, CLASSES, aware=True).requires_grad_(False)
    archs = search_for(SPACE, model, kept, budgets)
    SPACE.check(archs)
    assert torch.equal(archs, SPACE.canonical(archs))
    assert (SPACE.madds(archs, kept.sum(1)) <= budgets).all()
    others = random_archs(SPACE, budgets, kept.sum(1), 100, seeded())
    assert (model.score(archs, kept) > model.score(others, kept[:, None]).mean(1)).all()
    assert torch.equal(archs, search_for(SPACE, model, kept, budgets))
    assert not torch.equal(archs, search_for(SPACE, model, kept, budgets, seed=1))


@BOTH
@pytest.mark.parametrize("aware", [False, True])
def test_evolution_finds_nearly_the_best_of_a_small_space(search_for, aware):
    model, archs = Additive(SMALL, aware), every_arch(SMALL)
    kept, budgets = some_scenarios(SMALL, count=15)
    score = model.score(archs, kept[:, None])
    fits = SMALL.madds(archs, kept.sum(1)[:, None]) <= budgets[:, None]
    best, worst = score.masked_fill(~fits, -1e9).amax(1), score.masked_fill(~fits, 1e9).amin(1)
    found = search_for(SMALL, model, kept, budgets)
    assert (SMALL.madds(found, kept.sum(1)) <= budgets).all()
    share = (model.score(found, kept) - worst) / (best - worst).clamp_min(1e-6)
    assert share[best > worst].mean() > 0.97 and share[best > worst].median() > 0.999


@BOTH
def test_evolution_with_more_evaluations_is_not_worse(search_for):
    kept, budgets = some_scenarios(count=4, tightest=0.3)
    model = Additive(SPACE)
    few, many = (model.score(search_for(SPACE, model, kept, budgets, evaluations=count), kept) for count in (60, 600))
    assert (many >= few).all() and (many > few).any()


@BOTH
def test_evolution_within_the_smallest_budget_finds_the_smallest_arch(search_for):
    kept = some_scenarios(count=2)[0]
    budgets = SMALL.madds(SMALL.smallest, kept.sum(1)).double()
    assert (search_for(SMALL, Additive(SMALL), kept, budgets) == SMALL.smallest).all()


# -------------------------------------------------------------------- the accuracy model


def fitted(accuracy, archs, kept, aware, steps=400, space=SPACE):
    torch.manual_seed(0)
    model = AccuracyModel(space, CLASSES, aware=aware)
    return model, fit_accuracy_model(model, archs, kept, accuracy, steps=steps, seed=0)


def planted(count=200, groups=8):
    """Archs, classes kept and two accuracies in percent: alike for all scenarios, and by their classes."""
    archs = SPACE.sample(count, seeded())
    kept = torch.arange(CLASSES) // 2 == torch.arange(groups)[:, None]
    alike, by_class = (Additive(SPACE, aware).score(archs[:, None], kept) for aware in (False, True))
    level = torch.linspace(40, 90, groups)  # scenarios differ in difficulty: that must not count
    return archs, kept, level + 3 * alike.expand(-1, groups), level + 3 * by_class


def test_an_accuracy_model_explains_additive_accuracies():
    archs, kept, alike, by_class = planted()
    for aware in (False, True):
        assert fitted(alike, archs, kept, aware)[1] > 0.9
    unaware, aware = (fitted(by_class, archs, kept, aware)[1] for aware in (False, True))
    assert aware > 0.85 and unaware < aware - 0.05


def test_an_accuracy_model_explains_no_noise():
    archs, kept, *_ = planted()
    noise = 70 + 5 * torch.randn(len(archs), len(kept), generator=seeded())
    for aware in (False, True):
        assert fitted(noise, archs, kept, aware)[1] < 0.1


def test_predictions_rank_new_archs():
    archs, kept, alike, _ = planted()
    model, _ = fitted(alike, archs, kept, aware=False)
    fresh = SPACE.sample(500, seeded(7))
    truth, predicted = Additive(SPACE).score(fresh, kept[:1]), model.score(fresh, kept[:1]).detach()
    assert torch.corrcoef(torch.stack([truth, predicted]))[0, 1] > 0.95


def test_fitting_repeats():
    archs, kept, alike, _ = planted()
    first, second = (fitted(alike, archs, kept, aware=True, steps=20) for _ in range(2))
    assert first[1] == second[1]
    for one, other in zip(first[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_unaware_model_ignores_the_classes_and_an_aware_one_does_not():
    archs, kept = SPACE.sample(30, seeded()), torch.eye(CLASSES).bool()
    for aware in (False, True):
        torch.manual_seed(0)
        scores = AccuracyModel(SPACE, CLASSES, aware=aware).score(archs[:, None], kept)
        assert scores.shape == (30, CLASSES)
        assert torch.allclose(scores, scores[:, :1]) != aware


def test_scores_broadcast():
    torch.manual_seed(0)
    model = AccuracyModel(SPACE, CLASSES, aware=True)
    archs, (kept, _) = SPACE.sample(24, seeded()).view(6, 4, -1), some_scenarios(count=6)
    together = model.score(archs, kept[:, None])
    assert together.shape == (6, 4)
    for i in range(6):
        for j in range(4):
            torch.testing.assert_close(model.score(archs[i, j], kept[i]), together[i, j])


def test_what_a_model_reads_is_equal_for_equal_networks_and_differs_for_others():
    archs = (torch.rand(3000, SMALL.decisions, generator=seeded()) * SMALL.choices).long()
    features = SMALL.features(*SMALL.gates(archs))
    assert torch.equal(features, SMALL.features(*SMALL.gates(SMALL.canonical(archs))))
    assert len(features.unique(dim=0)) == len(SMALL.canonical(archs).unique(dim=0)) == SMALL.size
