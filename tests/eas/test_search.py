"""The opponents against brute force: uniform scaling, random archs, and evolution in both forms."""

import pytest
import torch
from cases import GLYPHS, LITE, MOBILENET, RAGGED, SMALL, Additive, every_arch, seeded

from eas import search
from eas.predictor import AccuracyPredictor
from eas.search import evolution, ofa_evolution, random_archs, uniform

CLASSES = 20
EFFORT = {"evaluations": 300, "population": 60, "seed": 0}


def some_scenarios(space=GLYPHS, count=40, tightest=0.02):
    """Class masks, and budgets from near the smallest arch's cost to the largest one's."""
    masks = torch.rand(count, CLASSES, generator=seeded()) < 0.4
    masks[:, 0] = True
    low, high = (space.madds(arch, masks.sum(1)).double() for arch in (space.smallest, space.largest))
    return masks, (low + (high - low) * torch.linspace(tightest, 1, count)).floor()


# -------------------------------------------------------------------- uniform scaling


def test_uniform_scaling_is_within_budget_and_uses_it():
    masks, budgets = some_scenarios(count=400)
    archs = uniform(GLYPHS, budgets, masks.sum(1))
    GLYPHS.check(archs)
    use = GLYPHS.madds(archs, masks.sum(1)) / budgets
    assert use.max() <= 1 and use.mean() > 0.95
    assert torch.equal(archs, uniform(GLYPHS, budgets, masks.sum(1)))


@pytest.mark.parametrize("space", [GLYPHS, MOBILENET])
def test_uniform_scaling_starts_from_the_costliest_arch_with_one_depth_and_one_form(space, monkeypatch):
    masks, budgets = some_scenarios(space, count=100)
    filled = uniform(space, budgets, masks.sum(1))
    monkeypatch.setattr(search, "fill", lambda space, archs, *rest: archs)
    archs = uniform(space, budgets, masks.sum(1))
    family = [[depth] * space.stages + [form] * space.blocks for depth in range(3) for form in range(space.forms)]
    costs = space.madds(torch.tensor(family), masks.sum(1)[:, None])
    for arch, cost, budget in zip(archs, costs, budgets, strict=True):
        assert len(set(space.depth(arch).tolist())) == 1
        assert len(set(arch[space.stages :][space.active(arch)].tolist())) == 1
        assert space.madds(arch, 1) - space.madds(space.smallest, 1) == cost[cost <= budget].max() - cost[0]
    assert (space.madds(filled, 1) >= space.madds(archs, 1)).all()


def test_uniform_scaling_at_the_ends():
    for arch in (GLYPHS.smallest, GLYPHS.largest):
        assert torch.equal(uniform(GLYPHS, GLYPHS.madds(arch, 7)[None].double(), torch.tensor([7]))[0], arch)


@pytest.mark.parametrize("space", [RAGGED, LITE])
def test_uniform_scaling_of_a_ragged_space_takes_a_last_choice_where_there_are_fewer(space, monkeypatch):
    masks, budgets = some_scenarios(space, count=100)
    filled, parts = uniform(space, budgets, masks.sum(1)), [space.stages, space.blocks]
    limits = zip((most for _, most in space.gate_shapes), space.choices.split(parts), strict=True)
    space.check(filled)
    assert (space.madds(filled, masks.sum(1)) <= budgets).all() and torch.equal(filled[-1], space.largest)
    monkeypatch.setattr(search, "fill", lambda space, archs, *rest: archs)
    depths, forms = (torch.arange(most)[:, None].minimum(own - 1) for most, own in limits)
    for arch in uniform(space, budgets, masks.sum(1)):
        depth, form = arch.split(parts)
        assert (depths == depth).all(1).any() and ((forms == form) | ~space.active(arch)).all(1).any()


# -------------------------------------------------------------------- random archs


def test_random_archs_are_within_budget_distinct_and_use_it():
    masks, budgets = some_scenarios()
    archs = random_archs(GLYPHS, budgets, masks.sum(1), 50, seeded())
    assert archs.shape == (40, 50, GLYPHS.decisions)
    GLYPHS.check(archs)
    use = GLYPHS.madds(archs, masks.sum(1)[:, None]) / budgets[:, None]
    assert use.max() <= 1 and use.mean() > 0.95
    assert all(len(row.unique(dim=0)) >= 45 for row in archs[10:30])  # between the ends, where there are archs enough
    assert torch.equal(archs, random_archs(GLYPHS, budgets, masks.sum(1), 50, seeded()))
    assert not torch.equal(archs, random_archs(GLYPHS, budgets, masks.sum(1), 50, seeded(1)))


@pytest.mark.parametrize("space", [GLYPHS, RAGGED, LITE])
def test_random_archs_use_every_choice(space):
    budget = torch.lerp(*(space.madds(arch, 10)[None].double() for arch in (space.smallest, space.largest)), 0.4)
    archs = random_archs(space, budget, torch.tensor([10]), 2000, seeded())[0]
    space.check(archs)
    for decision, count in enumerate(space.choices.tolist()):
        assert archs[:, decision].bincount(minlength=count).min() > 50


# -------------------------------------------------------------------- evolution


@pytest.mark.parametrize("search_for", ["uniform", "random archs", "evolution"])
def test_a_budget_that_no_arch_fits_is_an_error(search_for):
    masks, budgets = some_scenarios(count=2)
    budgets[1] = 1.0
    with pytest.raises(ValueError, match="below the smallest arch"):
        if search_for == "uniform":
            uniform(GLYPHS, budgets, masks.sum(1))
        elif search_for == "random archs":
            random_archs(GLYPHS, budgets, masks.sum(1), 2, seeded())
        else:
            ofa_evolution(GLYPHS, None, masks[1], 1.0, **EFFORT)


def side_by_side(space, model, masks, budgets, **effort):
    return evolution(space, model, masks, budgets, **EFFORT | effort)


def one_by_one(space, model, masks, budgets, **effort):
    pairs = zip(masks, budgets.tolist(), strict=True)
    return torch.stack([ofa_evolution(space, model, *pair, **EFFORT | effort) for pair in pairs])


BOTH = pytest.mark.parametrize("search_for", [side_by_side, one_by_one])


@BOTH
def test_evolution_is_within_budget_repeats_and_beats_random_archs(search_for):
    masks, budgets = some_scenarios(count=4, tightest=0.3)
    torch.manual_seed(0)
    model = AccuracyPredictor(GLYPHS, CLASSES, aware=True).requires_grad_(False)
    archs = search_for(GLYPHS, model, masks, budgets)
    GLYPHS.check(archs)
    assert torch.equal(archs, GLYPHS.canonical(archs))
    assert (GLYPHS.madds(archs, masks.sum(1)) <= budgets).all()
    others = random_archs(GLYPHS, budgets, masks.sum(1), 100, seeded())
    assert (model.score(archs, masks) > model.score(others, masks[:, None]).mean(1)).all()
    assert torch.equal(archs, search_for(GLYPHS, model, masks, budgets))
    assert not torch.equal(archs, search_for(GLYPHS, model, masks, budgets, seed=1))


@BOTH
@pytest.mark.parametrize(("space", "aware"), [(SMALL, False), (SMALL, True), (RAGGED, True)])
def test_evolution_finds_nearly_the_best_of_a_small_space(search_for, space, aware):
    model, archs = Additive(space, CLASSES, aware), every_arch(space)
    masks, budgets = some_scenarios(space, count=10)
    score = model.score(archs, masks[:, None])
    fits = space.madds(archs, masks.sum(1)[:, None]) <= budgets[:, None]
    best, worst = score.masked_fill(~fits, -1e9).amax(1), score.masked_fill(~fits, 1e9).amin(1)
    found = search_for(space, model, masks, budgets)
    space.check(found)
    assert (space.madds(found, masks.sum(1)) <= budgets).all()
    share = (model.score(found, masks) - worst) / (best - worst).clamp_min(1e-6)
    assert share[best > worst].mean() > 0.97 and share[best > worst].median() > 0.999


@BOTH
def test_evolution_with_more_evaluations_is_not_worse(search_for):
    masks, budgets = some_scenarios(count=3, tightest=0.3)
    model = Additive(GLYPHS, CLASSES)
    few, many = (
        model.score(search_for(GLYPHS, model, masks, budgets, evaluations=count), masks) for count in (60, 600)
    )
    assert (many >= few).all() and (many > few).any()


@BOTH
def test_evolution_crosses_parents_too(search_for, monkeypatch):
    monkeypatch.setattr(search, "MUTATION", 0.0)
    masks, budgets = some_scenarios(count=10, tightest=0.3)
    model = Additive(GLYPHS, CLASSES)
    first, found = (
        model.score(search_for(GLYPHS, model, masks, budgets, evaluations=count), masks) for count in (60, 300)
    )
    assert (found > first).any()


def test_evolution_breeds_and_mutates_as_ofas_does():
    assert (search.PARENTS, search.MUTATION) == (0.25, 0.1)


@BOTH
def test_evolution_within_the_smallest_budget_finds_the_smallest_arch(search_for):
    masks = some_scenarios(count=2)[0]
    budgets = SMALL.madds(SMALL.smallest, masks.sum(1)).double()
    found = search_for(SMALL, Additive(SMALL, CLASSES), masks, budgets, evaluations=40, population=20)
    assert (found == SMALL.smallest).all()
