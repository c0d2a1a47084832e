"""The search space: archs as rows, and costs that are exactly those of the extracted network."""

from math import prod
from pathlib import Path

import pytest
import torch
from torch import nn

from eas.config import load_study
from eas.layers import CalibratedStatistics
from eas.space import PIECE, SearchSpace
from eas.supernet import Supernet, extract

ROOT = Path(__file__).parents[1]
GLYPHS = SearchSpace.from_study(load_study("glyphs", ROOT), 1)
CIFAR100 = SearchSpace.from_study(load_study("cifar100", ROOT), 3)
TINY = SearchSpace.from_study(load_study("tiny", ROOT), 1)
ODD = SearchSpace(15, 3, widths=(10, 7, 7), depths=(1, 3), ratios=(0.05, 0.25, 0.4, 1.0))
NARROW = SearchSpace(16, 1, widths=(8, 16), depths=(1, 3), ratios=(0.5, 1.0))
SPACES = {"glyphs": GLYPHS, "cifar100": CIFAR100, "tiny": TINY, "odd": ODD, "narrow": NARROW}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def every_row(space):
    """All rows of choices, also those that differ in blocks that are not kept."""
    return torch.cartesian_prod(*(torch.arange(count) for count in space.choices.tolist()))


def counted(network, image):
    """Multiply-adds of a network's convolutions and linear layers, as its forward pass goes."""
    found = []

    def hook(layer, inputs, output):
        if isinstance(layer, nn.Conv2d):
            found.append(output[0].numel() * layer.in_channels * prod(layer.kernel_size))
        else:
            found.append(output[0].numel() * layer.in_features)

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(hook) for layer in layers]
    with torch.no_grad():
        network(image)
    for each in hooks:
        each.remove()
    assert len(found) == len(layers)
    return sum(found)


# -------------------------------------------------------------------- costs


@pytest.mark.parametrize(("name", "archs"), [("tiny", 200), ("glyphs", 200), ("cifar100", 40), ("odd", 100)])
def test_costs_are_those_counted_on_the_extracted_network(name, archs):
    space, classes, rng = SPACES[name], 30, seeded()
    supernet = Supernet(space, classes, [0.5] * space.in_channels, [0.5] * space.in_channels)
    image = torch.rand(1, space.in_channels, space.image_size, space.image_size)
    rows = torch.cat([space.sample(archs - 2, rng), space.largest[None], space.smallest[None]])
    kept = torch.randint(1, classes + 1, (archs,), generator=rng)
    madds, parameters = space.madds(rows, kept), space.parameters(rows, kept)
    for index, arch in enumerate(rows):
        statistics = CalibratedStatistics(1)
        with torch.no_grad():
            supernet(image, arch, statistics)
        picked = torch.randperm(classes, generator=rng)[: kept[index]].tolist()
        network = extract(supernet, arch, picked, statistics)
        assert counted(network, image) == madds[index]
        assert sum(p.numel() for p in network.parameters() if p.requires_grad) == parameters[index]


def test_madds_of_a_case_worked_out_by_hand():
    space = SearchSpace(8, 1, widths=(4, 6), depths=(1, 2), ratios=(0.5, 1.0))
    arch = torch.tensor([0, 1, 1, 0, 0, 1])  # inner channels [4], [3, 6]
    stem = 9 * 1 * 4 * 64
    first = 9 * (4 * 4 + 4 * 4) * 64
    second = (9 * (4 * 3 + 3 * 6) + 4 * 6) * 16 + 9 * (6 * 6 + 6 * 6) * 16
    assert space.describe(arch) == [[4], [3, 6]]
    assert space.madds(arch, 5) == stem + first + second + 6 * 5
    norms = 2 * (4 + 4) + 2 * (4 + 3) + 2 * (6 + 6) + 2 * 6
    weights = 9 * 4 + 9 * 32 + 9 * (12 + 18) + 24 + 9 * 72
    assert space.parameters(arch, 5) == weights + norms + (6 + 1) * 5


@pytest.mark.parametrize("name", SPACES)
def test_no_arch_is_cheaper_than_the_smallest_or_dearer_than_the_largest(name):
    space = SPACES[name]
    archs = space.sample(5000, seeded())
    for cost in (space.madds, space.parameters):
        low, costs, high = cost(space.smallest, 10), cost(archs, 10), cost(space.largest, 10)
        assert low <= costs.min() and costs.max() <= high


@pytest.mark.parametrize(("name", "classes"), [("glyphs", 160), ("cifar100", 100)])
def test_a_study_has_leverage(name, classes):
    space = SPACES[name]
    assert space.madds(space.largest, classes) >= 5 * space.madds(space.smallest, classes)
    assert space.size > 10**6


@pytest.mark.parametrize("name", ["glyphs", "cifar100"])
def test_a_million_archs_are_costed_like_single_ones(name):
    space = SPACES[name]
    archs = space.sample(10**6, seeded())
    kept = torch.randint(1, 100, (10**6,), generator=seeded(1))
    madds, parameters = space.madds(archs, kept), space.parameters(archs, kept)
    assert madds.shape == parameters.shape == (10**6,) and madds.dtype == parameters.dtype == torch.int64
    borders = torch.tensor([0, PIECE - 1, PIECE, 2 * PIECE, 10**6 - 1])
    for row in torch.cat([borders, torch.randint(10**6, (300,), generator=seeded(2))]).tolist():
        assert space.madds(archs[row], int(kept[row])) == madds[row]
        assert space.parameters(archs[row], int(kept[row])) == parameters[row]


def test_costs_take_any_leading_shape():
    archs = GLYPHS.sample(24, seeded())
    kept = torch.tensor([[1], [7], [30]])
    flat = GLYPHS.madds(archs, 7)
    assert torch.equal(GLYPHS.madds(archs.view(2, 3, 4, -1), 7), flat.view(2, 3, 4))
    assert GLYPHS.madds(archs[0], 7).shape == () and GLYPHS.madds(archs[:0], 7).shape == (0,)
    table = GLYPHS.madds(archs, kept)
    assert table.shape == (3, 24) and torch.equal(table[1], flat)
    assert torch.equal(table[2] - table[0], torch.full((24,), 29 * GLYPHS.widths[-1]))


def test_resolution_halves_and_rounds_up():
    assert [GLYPHS.resolution(stage) for stage in range(3)] == [16, 8, 4]
    assert [ODD.resolution(stage) for stage in range(3)] == [15, 8, 4]


# -------------------------------------------------------------------- archs


def test_a_space_of_a_study_has_its_numbers(study):
    space = SearchSpace.from_study(study, 3)
    assert space == SearchSpace(16, 3, widths=(8, 16), depths=(1, 2), ratios=(0.25, 0.5, 1.0))
    assert (space.stages, space.blocks_per_stage, space.blocks, space.decisions) == (2, 2, 4, 6)
    assert space.choices.tolist() == [2, 2, 3, 3, 3, 3]
    assert space.inner_channels.tolist() == [[2, 4, 8], [2, 4, 8], [4, 8, 16], [4, 8, 16]]


def test_inner_channels_are_rounded_and_never_zero():
    assert ODD.inner_channels[0].tolist() == [1, 2, 4, 10]  # of 0.5, 2.5, 4 and 10
    assert ODD.inner_channels.min() == 1


def test_the_largest_and_the_smallest_make_every_last_and_first_choice():
    assert GLYPHS.describe(GLYPHS.largest) == [[8] * 3, [16] * 3, [32] * 3]
    assert GLYPHS.describe(GLYPHS.smallest) == [[2], [4], [8]]
    GLYPHS.check(torch.stack([GLYPHS.largest, GLYPHS.smallest]))


@pytest.mark.parametrize("name", ["tiny", "narrow"])
def test_size_counts_the_distinct_networks(name):
    space = SPACES[name]
    rows = every_row(space)
    networks = {str(space.describe(row)) for row in rows}
    assert len(networks) == len(space.canonical(rows).unique(dim=0)) == space.size < len(rows)


@pytest.mark.parametrize("name", ["tiny", "narrow"])
def test_canonical_rows_are_equal_exactly_where_networks_are(name):
    space = SPACES[name]
    rows = every_row(space)
    canonical = space.canonical(rows)
    assert torch.equal(space.canonical(canonical), canonical)
    for row, same in zip(rows, canonical, strict=True):
        assert space.describe(row) == space.describe(same)
    assert torch.equal(space.madds(rows, 3), space.madds(canonical, 3))
    assert torch.equal(space.parameters(rows, 3), space.parameters(canonical, 3))
    assert all(map(torch.equal, map(space.active, rows), map(space.active, canonical)))


@pytest.mark.parametrize("name", SPACES)
def test_samples_are_canonical_archs_of_the_space(name):
    space = SPACES[name]
    archs = space.sample(1000, seeded())
    assert archs.shape == (1000, space.decisions) and archs.dtype == torch.int64
    space.check(archs)
    assert torch.equal(space.canonical(archs), archs)


def test_samples_depend_on_the_generator_alone():
    first = GLYPHS.sample(50, seeded(3))
    torch.manual_seed(99)
    assert torch.equal(GLYPHS.sample(50, seeded(3)), first)
    assert not torch.equal(GLYPHS.sample(50, seeded(4)), first)
    rng = seeded(3)
    assert not torch.equal(GLYPHS.sample(50, rng), GLYPHS.sample(50, rng))


def test_samples_are_uniform_in_every_decision():
    archs = GLYPHS.sample(30_000, seeded())
    for decision in range(GLYPHS.decisions):
        choices = int(GLYPHS.choices[decision])
        block = decision - GLYPHS.stages
        made = archs[:, decision] if block < 0 else archs[GLYPHS.active(archs)[:, block], decision]
        assert (made.bincount(minlength=choices) / len(made) - 1 / choices).abs().max() < 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arch: arch.float(), "must be integers"),
        (lambda arch: arch[:-1], "must be integers"),
        (lambda arch: torch.cat([arch, arch[:1]]), "must be integers"),
        (lambda arch: arch[None, :3], r"\[\.\.\., 12\], got torch.int64 \[1, 3\]"),
        (lambda arch: torch.tensor(0), "must be integers"),
        (lambda arch: arch + 1, "outside 0"),
        (lambda arch: arch - 9, "outside 0"),
        (lambda arch: torch.stack([arch, arch * 0 - 1]), "outside 0"),
    ],
)
def test_what_is_no_arch_is_refused(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        GLYPHS.check(change(GLYPHS.largest))
    assert "\n" not in str(caught.value)


def test_depth_and_active_blocks():
    archs = torch.tensor([[0, 1, 2, 0, 2, 1], [1, 0, 0, 1, 2, 2]])
    assert TINY.depth(archs).tolist() == [[1, 2], [2, 1]]
    assert TINY.active(archs).tolist() == [[True, False, True, True], [True, True, True, False]]
    assert [TINY.describe(arch) for arch in archs] == [[[8], [16, 8]], [[2, 4], [16]]]


# -------------------------------------------------------------------- gates


def test_gates_are_one_hots_of_the_choices():
    archs = GLYPHS.sample(40, seeded()).view(4, 10, -1)
    depth, width = GLYPHS.gates(archs)
    assert depth.shape == (4, 10, 3, 3) and width.shape == (4, 10, 9, 5)
    assert torch.equal(torch.cat([depth.argmax(-1), width.argmax(-1)], -1), archs)
    assert (depth.sum(-1) == 1).all() and (width.sum(-1) == 1).all() and (depth.amax(-1) == 1).all()


@pytest.mark.parametrize("name", SPACES)
def test_expected_madds_of_one_hots_are_the_madds(name):
    space = SPACES[name]
    archs, kept = space.sample(500, seeded()), torch.randint(1, 50, (500,), generator=seeded(1))
    depth, width = (gates.double() for gates in space.gates(archs))
    assert torch.equal(space.expected_madds(depth, width, kept), space.madds(archs, kept).double())
    assert torch.equal(space.keep_probability(depth), space.active(archs).double())


def test_expected_madds_are_the_mean_over_drawn_archs():
    rng = seeded()
    depth = torch.rand(NARROW.stages, 2, generator=rng, dtype=torch.float64).softmax(-1)
    width = torch.rand(NARROW.blocks, 2, generator=rng, dtype=torch.float64).softmax(-1)
    rows = every_row(NARROW)
    chances = torch.cat([depth, width])
    chance = chances[torch.arange(NARROW.decisions), rows].prod(-1)
    assert chance.sum() == pytest.approx(1)
    expected = (chance * NARROW.madds(rows, 7)).sum()
    torch.testing.assert_close(NARROW.expected_madds(depth, width, torch.tensor(7)), expected)
    torch.testing.assert_close(NARROW.keep_probability(depth), (chance[:, None] * NARROW.active(rows)).sum(0))


def test_features_hold_what_the_network_has_and_nothing_else():
    rows = every_row(TINY)
    features = TINY.features(*TINY.gates(rows))
    assert features.shape == (len(rows), 2 * 2 + 4 * 3)
    assert torch.equal(features, TINY.features(*TINY.gates(TINY.canonical(rows))))
    assert len(features.unique(dim=0)) == TINY.size
    arch = torch.tensor([0, 1, 2, 1, 0, 1])
    expected = [1, 0, 0, 1] + [0, 0, 1] + [0, 0, 0] + [1, 0, 0] + [0, 1, 0]
    assert TINY.features(*TINY.gates(arch)).tolist() == expected
