"""Costs as sums over blocks, and decoding under several bounds at once."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cases import (
    CIFAR100,
    DECODED,
    GLYPHS,
    LITE,
    ONE_ARCH,
    SIZED,
    SIZED_MOBILENET,
    SMALL,
    every_arch,
    possible_budgets,
    random_class_masks,
    random_scores,
    seeded,
)

from eas.costs import MADDS, PARAMETERS, Bound, check_bounds, like_madds, total
from eas.decoding import MIXTURES, Room, decode, mixtures, total_score
from eas.generator import Generator
from eas.spaces import PreResNetSpace
from eas.spaces.base import rounded_up

COUNTED = {"small": SMALL, "cifar100": CIFAR100, "lite": LITE, "sized": SIZED, "sized mobilenet": SIZED_MOBILENET}
ENUMERATED = {"small": SMALL, "depths": PreResNetSpace(16, 1, (8, 16), (1, 2, 3), (0.25, 0.5, 1.0))}


@dataclass(frozen=True)
class Milliseconds:
    """A made-up cost that is no whole number, and orders forms and blocks otherwise than multiply-adds do."""

    seed: int = 3
    name, unit, scale = "latency", "ms", 1e-3

    def of_blocks(self, space):
        each = 1e-3 * (0.2 + torch.rand(space.blocks, space.forms, generator=seeded(self.seed)).double().cumsum(1))
        return (
            each.where(space.exists[1], each[:, :1]) * space.in_stage[:, None] * getattr(space, "image_size", 16) / 16
        )

    def fixed(self, space, class_counts):
        return 1e-3 * (1 + 0.01 * torch.as_tensor(class_counts).double())


def some_bound(space, cost, classes, seed=7):
    """Of every scenario, from what the smallest arch costs to what the largest does."""
    low, high = (total(space, cost, arch, classes) for arch in (space.smallest, space.largest))
    return Bound(cost, low + (high - low) * torch.rand(len(classes), generator=seeded(seed), dtype=torch.float64))


@pytest.mark.parametrize("space", COUNTED)
def test_what_is_counted_is_what_the_space_counts(space):
    space = COUNTED[space]
    archs, classes = space.sample(200, seeded()), random_class_masks(200).sum(-1)
    for cost, count in ((MADDS, space.madds), (PARAMETERS, space.parameters)):
        assert torch.equal(total(space, cost, archs, classes), count(archs, classes).double())
        assert total(space, cost, space.largest, 3) == count(space.largest, 3)
    assert total(space, MADDS, archs[None], classes[:4, None]).shape == (4, 200)


@pytest.mark.parametrize("space", ENUMERATED)
@pytest.mark.parametrize("costs", [[Milliseconds()], [Milliseconds(), Milliseconds(4)]], ids=["two", "three"])
def test_under_several_bounds_nearly_the_best_of_all_archs_is_found(space, costs):
    space, count = ENUMERATED[space], 300
    classes = torch.full((count,), 10)
    depth, form = (each.abs().cumsum(-1) for each in random_scores(space, count))
    budgets, archs = possible_budgets(space, count, classes), every_arch(space)
    bounds = [some_bound(space, cost, classes, seed) for seed, cost in enumerate(costs)]
    found = decode(space, depth, form, budgets, classes, bounds=bounds)
    every = [Bound(MADDS, budgets), *bounds]
    assert all((total(space, cost, found, classes) <= most).all() for cost, most in every)
    fits = torch.stack([total(space, cost, archs, 10) <= most[:, None] for cost, most in every]).all(0)
    rows = archs.repeat(count, 1), *(each.repeat_interleave(len(archs), 0) for each in (depth, form))
    score, reached = total_score(space, *rows).view(count, -1), total_score(space, found, depth, form)
    best, worst = score.masked_fill(~fits, -1e9).amax(1), score.masked_fill(~fits, 1e9).amin(1)
    share = ((reached - worst) / (best - worst))[best > worst]
    assert len(share) > 0.8 * count
    assert share.mean() > 0.98 and share.quantile(0.05) > 0.9 and (share > 0.9999).float().mean() > 0.65


@pytest.mark.parametrize("space", ["small", "lite", "ragged"])
def test_nothing_that_fits_under_all_bounds_is_left(space):
    space, count = DECODED[space], 200
    classes = random_class_masks(count).sum(-1)
    bounds = [Bound(MADDS, possible_budgets(space, count, classes)), some_bound(space, Milliseconds(), classes)]
    archs = decode(space, *random_scores(space, count), bounds[0].most, classes, bounds=bounds[1:])
    paid = [total(space, cost, archs, classes) for cost, _ in bounds]
    for decision in range(space.decisions):
        for choice in range(int(space.choices[decision])):
            more = archs.clone()
            more[:, decision] = choice
            more = space.canonical(more)
            one_block = (space.active(more).sum(1) - space.active(archs).sum(1)).abs() <= 1
            now = [total(space, cost, more, classes) for cost, _ in bounds]
            dearer = (now[0] > paid[0]) & (now[1] >= paid[1])
            over = torch.stack([each > most for each, (_, most) in zip(now, bounds, strict=True)]).any(0)
            assert over[dearer & one_block].all()


@pytest.mark.parametrize("space", ["glyphs", "lite", "ragged", "mobilenet"])
def test_a_bound_that_bounds_nothing_changes_nothing(space):
    space, count = DECODED[space], 100
    classes = random_class_masks(count).sum(-1)
    given = *random_scores(space, count), possible_budgets(space, count, classes), classes
    nothing = Bound(Milliseconds(), torch.full((count,), torch.inf, dtype=torch.float64))
    assert torch.equal(decode(space, *given, bounds=[nothing]), decode(space, *given))


def test_without_a_budget_of_multiply_adds_the_other_bound_alone_counts():
    count = 100
    classes = random_class_masks(count).sum(-1)
    scores, bound = random_scores(CIFAR100, count), some_bound(CIFAR100, Milliseconds(), classes)
    none = torch.full((count,), torch.inf, dtype=torch.float64)
    archs = decode(CIFAR100, *scores, none, classes, bounds=[bound])
    share = total(CIFAR100, bound.cost, archs, classes) / bound.most
    assert share.max() <= 1 and share.mean() > 0.97


class Finer(Milliseconds):
    """The same in a far larger unit: exactly so, as this is a power of two."""

    def of_blocks(self, space):
        return super().of_blocks(space) * 2.0**-20

    def fixed(self, space, class_counts):
        return super().fixed(space, class_counts) * 2.0**-20


def test_the_unit_of_a_cost_does_not_matter():
    classes = random_class_masks(100).sum(-1)
    bound, none = some_bound(CIFAR100, Milliseconds(), classes), torch.full((100,), torch.inf, dtype=torch.float64)
    given = *random_scores(CIFAR100, 100), none, classes
    finer = decode(CIFAR100, *given, bounds=[Bound(Finer(), bound.most * 2.0**-20)])
    assert torch.equal(finer, decode(CIFAR100, *given, bounds=[bound]))


def test_a_mixture_prices_each_cost_as_a_share_of_its_room():
    costs, most = np.array([[[1.0, 2.0], [3.0, 6.0]], [[10.0, 40.0], [20.0, 10.0]]]), np.array([[4.0, 2.0], [0.0, 5.0]])
    room = most.copy()
    room[1, 0] = 20e-6  # a millionth of the mean cost, in place of none
    found = mixtures(Room(costs, most)).reshape(MIXTURES + 1, 2, 2, 2)
    for part, mixture in enumerate(found):  # of the first cost, rising
        first, second = (share * cost for share, cost in zip((part / 4, 1 - part / 4), costs, strict=True))
        for scenario in (0, 1):
            expected = first / room[0, scenario] + second / room[1, scenario]
            np.testing.assert_allclose(mixture[scenario], expected)


def test_no_scenario_is_nothing_to_decode():
    none, classes = torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.long)
    for bounds in ([], [Bound(Milliseconds(), none)]):
        assert decode(GLYPHS, *random_scores(GLYPHS, 0), none, classes, bounds=bounds).shape == (0, GLYPHS.decisions)


@pytest.mark.parametrize("space", ["glyphs", "mobilenet"])
def test_scenarios_under_several_bounds_do_not_influence_each_other(space):
    space, count = DECODED[space], 60
    classes = random_class_masks(count).sum(-1)
    (depth, form), budgets = random_scores(space, count), possible_budgets(space, count, classes)
    bound = some_bound(space, Milliseconds(), classes)
    together = decode(space, depth, form, budgets, classes, bounds=[bound])
    for rows in torch.arange(count)[:, None]:
        own = depth[rows], form[rows], budgets[rows], classes[rows]
        assert torch.equal(decode(space, *own, bounds=[bound.rows(rows)]), together[rows])


def test_bounds_hold_over_sizes_of_images():
    count = 100
    classes = random_class_masks(count).sum(-1)
    for space in (SIZED, SIZED_MOBILENET):
        depth, form, size = random_scores(space, count)
        bound, budgets = some_bound(space, Milliseconds(), classes), possible_budgets(space, count, classes)
        archs = decode(space, depth, form, budgets, classes, size, [bound])
        space.check(archs)
        assert (total(space, bound.cost, archs, classes) <= bound.most).all()
        assert (space.madds(archs, classes) <= budgets).all() and len(archs[:, -1].unique()) > 1


# -------------------------------------------------------------------- bounds of a generator


def generator():
    return Generator(GLYPHS, 160, torch.tensor([1e6, 2e6, 4e6]))


def test_a_generator_keeps_to_all_bounds_in_one_pass():
    masks, count = random_class_masks(2000), 2000  # more than are decoded at once
    classes = masks.sum(-1)
    budgets, bound = possible_budgets(GLYPHS, count, classes), some_bound(GLYPHS, PARAMETERS, classes)
    archs = generator().generate(masks, budgets, [bound])
    assert (GLYPHS.parameters(archs, classes) <= bound.most).all() and (GLYPHS.madds(archs, classes) <= budgets).all()


def test_a_generator_is_told_what_the_tightest_of_all_bounds_leaves(monkeypatch):
    masks, made, seen = random_class_masks(200), generator(), []
    classes = masks.sum(-1)
    budgets, bound = possible_budgets(GLYPHS, 200, classes), some_bound(GLYPHS, PARAMETERS, classes)
    monkeypatch.setattr(made, "forward", lambda m, b, f=made.forward: seen.append(b) or f(m, b))
    made.generate(masks, budgets, [bound])
    alike = like_madds(GLYPHS, [bound], classes)
    assert torch.equal(torch.cat(seen), budgets.minimum(alike)) and (alike < budgets).any() and (alike > budgets).any()


def test_an_impossible_bound_is_told_with_what_is_possible():
    masks, least = random_class_masks(3), float(GLYPHS.parameters(GLYPHS.smallest, 160))
    for wrong in (1000.0, float("nan")):
        most = torch.tensor([1e9, wrong, 1e9], dtype=torch.float64)
        with pytest.raises(ValueError, match=r"M of parameters is below the smallest arch: [\d.]+ M for \d+ classes"):
            generator().generate(masks, torch.full((3,), torch.inf, dtype=torch.float64), [Bound(PARAMETERS, most)])
    check_bounds(GLYPHS, [Bound(PARAMETERS, torch.tensor([least]))], torch.tensor([160]))


@pytest.mark.parametrize("least", [3.65382e6, 3653821.0, 14.7e6, 99999.0, 1.0])
def test_a_smallest_budget_that_is_told_can_be_asked_for(least):
    for digits in (4, 6):
        told = float(rounded_up(least / 1e6, digits)) * 1e6
        assert least <= told * (1 + 1e-12) and told <= least * (1 + 10.0 ** (1 - digits))
        assert len(rounded_up(least / 1e6, digits).replace(".", "").lstrip("0")) <= digits


def test_bounds_are_read_as_budgets_from_the_smallest_to_the_largest():
    classes = torch.tensor([5, 5, 5])
    ends = [total(GLYPHS, cost, arch, 5) for cost in (PARAMETERS, MADDS) for arch in (GLYPHS.smallest, GLYPHS.largest)]
    low, high, least, most = ends
    bound = Bound(PARAMETERS, torch.stack([low, (low + high) / 2, high]))
    loose = Bound(MADDS, torch.full((3,), float(most), dtype=torch.float64))
    torch.testing.assert_close(
        like_madds(GLYPHS, [bound, loose], classes), torch.stack([least, (least + most) / 2, most])
    )
    nothing = Bound(PARAMETERS, torch.full((3,), torch.inf, dtype=torch.float64))
    for space in (GLYPHS, ONE_ARCH):
        told = like_madds(space, [nothing], classes)
        assert told.isfinite().all() and (told >= space.madds(space.largest, 5)).all()
