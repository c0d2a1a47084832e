"""Decoding: equal to its plain form, never over budget, nothing left over, and close to the best that there is."""

import pytest
import reference
import torch
from cases import (
    CIFAR100,
    DECODED,
    GLYPHS,
    MOBILENET,
    ODD,
    ONE_ARCH,
    RAGGED,
    SMALL,
    every_arch,
    possible_budgets,
    random_class_masks,
    random_scores,
    seeded,
)

from eas import decoding
from eas.costs import MADDS, Bound
from eas.decoding import Room, decode
from eas.spaces import PreResNetSpace

SPACES = DECODED | {
    "cifar100": CIFAR100,
    "one form": PreResNetSpace(16, 1, widths=(8, 16, 24, 32), depths=(1, 2, 3, 4), ratios=(0.5,)),
    "one depth": PreResNetSpace(16, 1, widths=(8, 16), depths=(2,), ratios=(0.25, 0.5, 1.0)),
    "one arch": ONE_ARCH,
}
SCORES = {
    "random": lambda scores: scores,
    "times 100": lambda scores: scores * 100,
    "times 1e-6": lambda scores: scores * 1e-6,
    "equal": torch.zeros_like,
    "rising": lambda scores: scores.abs().cumsum(-1),
    "negative": lambda scores: -10 - scores.abs(),
}
ENUMERATED = {
    "two stages": SMALL,
    "three depths": PreResNetSpace(16, 1, widths=(8, 16), depths=(1, 2, 3), ratios=(0.25, 0.5, 1.0)),
    "ragged": RAGGED,
}


def case(space, count, scores="random"):
    """Scores, budgets and numbers of classes of so many scenarios."""
    classes = random_class_masks(count).sum(-1)
    return *map(SCORES[scores], random_scores(space, count)), possible_budgets(space, count, classes), classes


def fill(space, archs, form, budgets, classes):
    """decoding.fill under budgets of multiply-adds."""
    return decoding.fill(space, archs, form, Room.under(space, [Bound(MADDS, budgets)], classes))


def total_score(space, archs, depth, form):
    """What decoding maximises: the scores of the depths and of the kept blocks' forms, [..., n]."""
    chosen_depth, chosen_form = space.gates(archs)
    forms = (chosen_form * form).sum(-1) * space.active(archs)
    return (chosen_depth * depth).sum((-2, -1)) + forms.sum(-1)


def share_of_best(space, archs, score, fits, found):
    """Where a choice is left, how far what was found lies from the worst (0) to the best (1) that fits."""
    best, worst = score.masked_fill(~fits, -1e9).amax(1), score.masked_fill(~fits, 1e9).amin(1)
    return ((found - worst) / (best - worst))[best > worst]


# -------------------------------------------------------------------- equal to the plain form


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("space", SPACES)
def test_decoding_is_the_plain_decoding_of_each_scenario(space, scores):
    space = SPACES[space]
    depth, form, budgets, classes = case(space, 40 if space is not MOBILENET else 12, scores)
    budgets[1::7] += 0.5  # a budget need be no whole number
    found = decode(space, depth, form, budgets, classes)
    for row, arch in enumerate(found):
        expected = reference.decode(space, depth[row], form[row], float(budgets[row]), int(classes[row]))
        assert arch.tolist() == expected.tolist(), row


@pytest.mark.parametrize("space", DECODED)
def test_filling_is_the_plain_filling_of_each_arch(space):
    space = DECODED[space]
    _, form, budgets, classes = case(space, 60)
    start = space.sample(60, seeded())
    start = torch.where((space.madds(start, classes) <= budgets)[:, None], start, space.smallest)
    found = fill(space, start, form, budgets, classes)
    for row, arch in enumerate(found):
        expected = reference.fill(space, start[row], form[row], float(budgets[row]), int(classes[row]))
        assert arch.tolist() == expected.tolist(), row


def test_scores_of_one_stage_do_not_drown_those_of_the_next():
    depth, form, budgets, classes = case(GLYPHS, 40)
    form[:, : GLYPHS.blocks_per_stage] += 1e7  # of which a float32 holds no fractions
    for row, arch in enumerate(decode(GLYPHS, depth, form, budgets, classes)):
        expected = reference.decode(GLYPHS, depth[row], form[row], float(budgets[row]), int(classes[row]))
        assert arch.tolist() == expected.tolist(), row


def test_scores_of_choices_that_do_not_exist_do_not_matter():
    depth, form, budgets, classes = case(RAGGED, 200)
    expected = decode(RAGGED, depth, form, budgets, classes)
    for odd in (-torch.inf, -1e9, 1e9):
        scores = [each.where(there, odd) for each, there in zip((depth, form), RAGGED.exists, strict=True)]
        assert torch.equal(decode(RAGGED, *scores, budgets, classes), expected)
        filled = [fill(RAGGED, expected, each, budgets + 30, classes) for each in (form, scores[1])]
        assert torch.equal(*filled) and not torch.equal(filled[0], expected)


# -------------------------------------------------------------------- within budget, and nothing left over


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("space", SPACES)
def test_no_decoded_arch_is_over_budget_and_nothing_that_fits_is_left(space, scores):
    space = SPACES[space]
    depth, form, budgets, classes = case(space, 1000, scores)
    archs = decode(space, depth, form, budgets, classes)
    space.check(archs)
    assert torch.equal(archs, space.canonical(archs))
    cost = space.madds(archs, classes)
    assert (cost <= budgets).all()
    for decision in range(space.decisions):
        for choice in range(int(space.choices[decision])):
            more = archs.clone()
            more[:, decision] = choice
            more = space.canonical(more)
            one_block = (space.active(more).sum(1) - space.active(archs).sum(1)).abs() <= 1
            dearer = space.madds(more, classes) > cost
            assert (space.madds(more, classes) > budgets)[dearer & one_block].all()


@pytest.mark.parametrize("space", SPACES)
def test_a_budget_one_multiply_add_below_the_best_arch_is_not_exceeded(space):
    space = SPACES[space]
    wanted = space.sample(1000, seeded())
    classes = random_class_masks(len(wanted)).sum(-1)
    budgets = (space.madds(wanted, classes) - 1).maximum(space.madds(space.smallest, classes)).double()
    archs = decode(space, *space.gates(wanted), budgets, classes)
    assert (space.madds(archs, classes) - budgets).max() <= 0


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("space", ["glyphs", "cifar100", "ragged", "one form", "one depth", "one arch"])
def test_the_smallest_budget_gives_the_smallest_arch_and_one_beyond_the_largest_the_largest(space, scores):
    space, classes = SPACES[space], torch.arange(1, 51)
    scored = [SCORES[scores](each) for each in random_scores(space, 50)]
    for more in (0, 1e3, float("inf")):
        budgets = space.madds(space.largest, classes).double() + more
        assert (decode(space, *scored, budgets, classes) == space.largest).all()
    budgets = space.madds(space.smallest, classes).double()
    assert (decode(space, *scored, budgets, classes) == space.smallest).all()


def test_a_gap_between_depths_is_never_filled_with_a_depth_that_does_not_exist():
    classes = torch.full((500,), 7)
    archs = decode(ODD, *random_scores(ODD, 500), torch.full((500,), float("inf")), classes)
    assert set(ODD.depth(archs).flatten().tolist()) == {1, 3}
    assert (ODD.canonical(ODD.largest.where(torch.arange(ODD.decisions) >= 3, archs)) == archs).all()


# -------------------------------------------------------------------- against brute force


@pytest.mark.parametrize("space", ["two stages", "three depths"])
def test_decoding_reaches_nearly_the_best_score_where_more_scores_higher(space):
    space, count = ENUMERATED[space], 300
    depth, form, budgets, _ = case(space, count, "rising")
    archs, classes = every_arch(space), torch.full((count,), 10)
    budgets = possible_budgets(space, count, classes)
    score = total_score(space, archs, depth[:, None], form[:, None])  # [scenarios, archs]
    found = total_score(space, decode(space, depth, form, budgets, classes), depth, form)
    share = share_of_best(space, archs, score, space.madds(archs, 10) <= budgets[:, None], found)
    assert len(share) > 0.8 * count
    assert share.mean() > 0.98 and share.quantile(0.05) > 0.9 and (share > 0.9999).float().mean() > 0.65


@pytest.mark.parametrize("space", ENUMERATED)
def test_what_is_found_before_filling_is_the_best_of_its_own_cost(space, monkeypatch):
    monkeypatch.setattr(decoding, "fill", lambda space, archs, *rest: space.canonical(archs))
    space, count = ENUMERATED[space], 300
    archs, classes, (depth, form) = every_arch(space), torch.full((count,), 10), random_scores(space, count)
    budgets = possible_budgets(space, count, classes)
    score, cost = total_score(space, archs, depth[:, None], form[:, None]), space.madds(archs, 10)
    found = decode(space, depth, form, budgets, classes)
    reached, paid = total_score(space, found, depth, form), space.madds(found, 10)
    most = score.masked_fill(cost > paid[:, None], -1e9).amax(1)
    torch.testing.assert_close(reached, most)
    # Little is left on the table by archs that lie between two prices.
    assert share_of_best(space, archs, score, cost <= budgets[:, None], reached).mean() > 0.97
    monkeypatch.undo()
    again = decode(space, depth, form, paid.double(), classes)
    torch.testing.assert_close(total_score(space, again, depth, form), most)


def test_filling_takes_the_change_that_scores_best():
    form = torch.zeros(2, SMALL.blocks, SMALL.forms)
    form[0, 0, 1] = form[1, 2, 1] = 1  # the first block of stage 1, of stage 2
    step = SMALL.block_madds[:, 1] - SMALL.block_madds[:, 0]
    budgets = (SMALL.madds(SMALL.smallest, 10) + step[[0, 2]].max()).double().expand(2)
    first, second = fill(SMALL, SMALL.smallest.expand(2, -1), form, budgets, torch.tensor([10, 10])).tolist()
    assert first[SMALL.stages] == 1 and second[SMALL.stages + 2] == 1


# -------------------------------------------------------------------- the same, however it is asked


def test_scenarios_do_not_influence_each_other():
    count = 1000
    depth, form, budgets, classes = case(GLYPHS, count)
    together = decode(GLYPHS, depth, form, budgets, classes)
    for rows in (torch.randperm(count, generator=seeded()), *torch.arange(30)[:, None]):
        alone = decode(GLYPHS, depth[rows], form[rows], budgets[rows], classes[rows])
        assert torch.equal(alone, together[rows])
