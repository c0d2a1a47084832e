"""Archs as rows: costs, choices, samples and gates of any search space, on PreResNets and on bare tables of costs."""

import pytest
import torch
from cases import (
    CIFAR100,
    GLYPHS,
    LITE,
    MOBILENET,
    ODD,
    RAGGED,
    SMALL,
    every_arch,
    random_class_masks,
    random_scores,
    seeded,
    table_space,
)

from eas.spaces import SPACES, PreResNetSpace
from eas.spaces.base import PIECE

NARROW = PreResNetSpace(16, 1, widths=(8, 16), depths=(1, 3), ratios=(0.5, 1.0))
EVERY = {"glyphs": GLYPHS, "cifar100": CIFAR100, "small": SMALL, "odd": ODD, "narrow": NARROW, "mobilenet": MOBILENET}
EVERY |= {"ragged": RAGGED, "lite": LITE}


def every_row(space):
    """All rows of choices, also those that differ in blocks that are not kept."""
    return torch.cartesian_prod(*(torch.arange(count) for count in space.choices.tolist()))


# -------------------------------------------------------------------- costs


@pytest.mark.parametrize("name", EVERY)
def test_no_arch_is_cheaper_than_the_smallest_or_dearer_than_the_largest(name):
    space = EVERY[name]
    archs = space.sample(2000, seeded())
    for cost in (space.madds, space.parameters) if space.block_parameters is not None else (space.madds,):
        low, costs, high = cost(space.smallest, 10), cost(archs, 10), cost(space.largest, 10)
        assert low <= costs.min() and costs.max() <= high


def test_a_million_archs_are_costed_like_single_ones():
    archs = CIFAR100.sample(10**6, seeded())
    counts = torch.randint(1, 100, (10**6,), generator=seeded(1))
    madds, parameters = CIFAR100.madds(archs, counts), CIFAR100.parameters(archs, counts)
    assert madds.shape == parameters.shape == (10**6,) and madds.dtype == parameters.dtype == torch.int64
    borders = torch.tensor([0, PIECE - 1, PIECE, 2 * PIECE, 10**6 - 1])
    for row in torch.cat([borders, torch.randint(10**6, (100,), generator=seeded(2))]).tolist():
        assert CIFAR100.madds(archs[row], int(counts[row])) == madds[row]
        assert CIFAR100.parameters(archs[row], int(counts[row])) == parameters[row]


def test_costs_take_any_leading_shape():
    archs, counts = GLYPHS.sample(24, seeded()), torch.tensor([[1], [7], [30]])
    flat = GLYPHS.madds(archs, 7)
    assert torch.equal(GLYPHS.madds(archs.view(2, 3, 4, -1), 7), flat.view(2, 3, 4))
    assert GLYPHS.madds(archs[0], 7).shape == () and GLYPHS.madds(archs[:0], 7).shape == (0,)
    table = GLYPHS.madds(archs, counts)
    assert table.shape == (3, 24) and torch.equal(table[1], flat)
    assert torch.equal(table[2] - table[0], torch.full((24,), 29 * GLYPHS.widths[-1]))


@torch.inference_mode()
def test_tables_that_are_first_asked_for_in_inference_mode_can_be_differentiated_through():
    space = PreResNetSpace(16, 1, widths=(8,), depths=(1,), ratios=(0.5, 1.0))
    space.madds(space.largest, 3)
    with torch.inference_mode(False):
        form = torch.full((1, 2), 0.5, requires_grad=True)
        space.expected_madds(torch.ones(1, 1), form, torch.tensor(3)).backward()
        assert torch.equal(form.grad, space.block_madds.float())


# -------------------------------------------------------------------- archs


def test_a_space_has_its_numbers(space):
    assert space == SMALL
    assert (space.stages, space.blocks_per_stage, space.blocks, space.forms, space.decisions) == (2, 2, 4, 3, 6)
    assert space.choices.tolist() == [2, 2, 3, 3, 3, 3] and space.block_names() == ["1.1", "1.2", "2.1", "2.2"]
    assert MOBILENET.size == (9**2 + 9**3 + 9**4) ** 5 > 10**19


@pytest.mark.parametrize("space", [SMALL, NARROW])
def test_equal_networks_have_equal_canonical_rows_and_size_counts_them(space):
    rows = every_row(space)
    canonical = space.canonical(rows)
    networks = {str(space.describe(row)) for row in rows}
    assert len(networks) == len(canonical.unique(dim=0)) == space.size < len(rows)
    assert torch.equal(space.canonical(canonical), canonical)
    assert all(space.describe(row) == space.describe(same) for row, same in zip(rows, canonical, strict=True))
    assert torch.equal(space.madds(rows, 3), space.madds(canonical, 3))
    assert torch.equal(space.parameters(rows, 3), space.parameters(canonical, 3))
    assert torch.equal(space.active(rows), space.active(canonical))


@pytest.mark.parametrize("name", EVERY)
def test_samples_are_canonical_archs_of_the_space(name):
    space = EVERY[name]
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


@pytest.mark.parametrize("space", [GLYPHS, RAGGED])
def test_samples_are_uniform_in_every_decision(space):
    archs = space.sample(30_000, seeded())
    for decision, choices in enumerate(space.choices.tolist()):
        block = decision - space.stages
        made = archs[:, decision] if block < 0 else archs[space.active(archs)[:, block], decision]
        if block < 0 or space.in_stage[block]:
            assert (made.bincount(minlength=choices) / len(made) - 1 / choices).abs().max() < 0.02


def test_a_ragged_space_has_what_its_stages_and_blocks_have():
    assert (RAGGED.stages, RAGGED.blocks_per_stage, RAGGED.blocks, RAGGED.gate_shapes) == (3, 3, 9, [(3, 3), (9, 4)])
    assert RAGGED.choices.tolist() == [3, 1, 2, 4, 3, 2, 4, 1, 1, 2, 3, 1]
    assert RAGGED.depth_table.tolist() == [[1, 2, 3], [1, 1, 1], [2, 3, 2]]
    assert RAGGED.in_stage.tolist() == [True] * 4 + [False] * 2 + [True] * 3
    assert RAGGED.block_names() == ["1.1", "1.2", "1.3", "2.1", "3.1", "3.2", "3.3"]
    assert [there.sum(1).tolist() for there in RAGGED.exists] == [[3, 1, 2], [4, 3, 2, 4, 1, 1, 2, 3, 1]]
    assert RAGGED.size == (4 + 12 + 24) * 4 * (6 + 6) == len(every_arch(RAGGED))
    for arch in (RAGGED.largest, RAGGED.smallest):
        assert torch.equal(RAGGED.canonical(arch), arch)
    for decision in range(RAGGED.decisions):
        beyond = RAGGED.largest.clone()
        beyond[decision] += 1
        with pytest.raises(ValueError, match="outside 0"):
            RAGGED.check(beyond)


def test_a_block_that_its_stage_never_has_is_one_form_if_nothing_else_is_said():
    space = table_space(2, (), torch.tensor([[1, 2], [1, 2], [3, 4], [0, 0]]), stage_depths=((1, 2), (1,)))
    assert space.choices.tolist() == [2, 1, 2, 2, 2, 1] and space.size == (2 + 4) * 2 == len(every_arch(space))


def test_a_space_that_says_nothing_of_its_names_and_sizes_has_numbers_and_parameters():
    assert RAGGED.stage_names() == ["stage 1", "stage 2", "stage 3"]
    assert RAGGED.form_names() == [[*"1234"], [*"123"], [*"12"], [*"1234"], ["1"], ["1"], [*"12"], [*"123"], ["1"]]
    parameters = torch.tensor([[1, 2], [4, 3]])
    space = table_space(2, (1,), torch.tensor([[1, 2], [1, 2]]), block_parameters=parameters)
    assert space.form_sizes().tolist() == [[0.25, 0.5], [1, 0.75]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arch: arch.float(), "must be integers"),
        (lambda arch: arch[:-1], "must be integers"),
        (lambda arch: torch.cat([arch, arch[:1]]), "must be integers"),
        (lambda arch: arch[None, :3], r"\[\.\.\., 12\], got torch.int64 \[1, 3\]"),
        (lambda arch: torch.tensor(0), "must be integers"),
        (lambda arch: arch + 1, "outside 0"),
        (lambda arch: torch.stack([arch, arch * 0 - 1]), "outside 0"),
    ],
)
def test_what_is_no_arch_is_refused(change, message):
    GLYPHS.check(torch.stack([GLYPHS.largest, GLYPHS.smallest]))
    with pytest.raises(ValueError, match=message) as caught:
        GLYPHS.check(change(GLYPHS.largest))
    assert "\n" not in str(caught.value)


def test_depth_and_active_blocks():
    archs = torch.tensor([[0, 1, 2, 0, 2, 1], [1, 0, 0, 1, 2, 2]])
    assert SMALL.depth(archs).tolist() == [[1, 2], [2, 1]]
    assert SMALL.active(archs).tolist() == [[True, False, True, True], [True, True, True, False]]


# -------------------------------------------------------------------- gates and features


def test_gates_are_one_hots_of_the_choices():
    archs = GLYPHS.sample(40, seeded()).view(4, 10, -1)
    depth, form = GLYPHS.gates(archs)
    assert depth.shape == (4, 10, 3, 3) and form.shape == (4, 10, 9, 5)
    assert torch.equal(torch.cat([depth.argmax(-1), form.argmax(-1)], -1), archs)
    assert (depth.sum(-1) == 1).all() and (form.sum(-1) == 1).all() and (depth.amax(-1) == 1).all()


@pytest.mark.parametrize("name", EVERY)
def test_expected_madds_of_one_hots_are_the_madds(name):
    space = EVERY[name]
    archs, counts = space.sample(500, seeded()), torch.randint(1, 50, (500,), generator=seeded(1))
    depth, form = (gates.double() for gates in space.gates(archs))
    assert torch.equal(space.expected_madds(depth, form, counts), space.madds(archs, counts).double())
    assert torch.equal(space.keep_probability(depth), space.active(archs).double())


@pytest.mark.parametrize("space", [NARROW, RAGGED])
def test_expected_madds_are_the_mean_over_drawn_archs(space):
    pairs = zip(random_scores(space, 1), space.exists, strict=True)
    depth, form = (each[0].double().where(there, -torch.inf).softmax(-1) for each, there in pairs)
    rows = every_row(space)
    levels, forms = rows.split([space.stages, space.blocks], 1)
    chance = depth.expand(len(rows), -1, -1).gather(2, levels[..., None]).prod(1)[:, 0]
    chance *= form.expand(len(rows), -1, -1).gather(2, forms[..., None]).prod(1)[:, 0]
    assert chance.sum() == pytest.approx(1)
    expected = (chance * space.madds(rows, 7)).sum()
    torch.testing.assert_close(space.expected_madds(depth, form, torch.tensor(7)), expected)
    torch.testing.assert_close(space.keep_probability(depth), (chance[:, None] * space.active(rows)).sum(0))


def test_features_hold_what_the_network_has_and_nothing_else():
    rows = every_row(SMALL)
    features = SMALL.features(*SMALL.gates(rows))
    assert features.shape == (len(rows), 2 * 2 + 4 * 3)
    assert torch.equal(features, SMALL.features(*SMALL.gates(SMALL.canonical(rows))))
    assert len(features.unique(dim=0)) == len(every_arch(SMALL))
    arch = torch.tensor([0, 1, 2, 1, 0, 1])
    expected = [1, 0, 0, 1] + [0, 0, 1] + [0, 0, 0] + [1, 0, 0] + [0, 1, 0]
    assert SMALL.features(*SMALL.gates(arch)).tolist() == expected


# -------------------------------------------------------------------- scenarios


def test_an_impossible_budget_is_an_error_that_states_the_smallest_possible_one():
    masks = random_class_masks(PIECE + 3)  # longer than a piece
    smallest = GLYPHS.madds(GLYPHS.smallest, masks.sum(-1)).double()
    GLYPHS.check_scenarios(masks, smallest)
    smallest[PIECE + 1] -= 1
    with pytest.raises(ValueError) as caught:
        GLYPHS.check_scenarios(masks, smallest)
    classes, budget = int(masks[PIECE + 1].sum()), float(smallest[PIECE + 1])
    expected = f"budget of {budget / 1e6:g}M MAdds is below the smallest arch: {(budget + 1) / 1e6:g}M MAdds"
    advice = "ask for as much, or train a narrower space"
    assert str(caught.value) == f"{expected} for {classes} classes; {advice}"


def test_a_budget_is_for_all_outputs_where_a_network_has_more_than_classes():
    mask, outputs = torch.zeros(1, 160).bool().index_fill(1, torch.arange(5), True), torch.tensor([40])
    least = GLYPHS.madds(GLYPHS.smallest, outputs)
    GLYPHS.check_scenarios(mask, least, outputs)
    with pytest.raises(ValueError, match="for 40 classes"):
        GLYPHS.check_scenarios(mask, least - 1, outputs)
    GLYPHS.check_scenarios(mask, least - 1)


@pytest.mark.parametrize(("least", "told"), [(2_000_000, "2.0M"), (3_653_821, "3.65383M")])
def test_a_budget_and_the_smallest_possible_one_are_told_in_six_digits(least, told):
    space = table_space(1, (1,), torch.tensor([[least - int(RAGGED.fixed_madds(1)), 9_000_000]]))
    with pytest.raises(ValueError, match=f"budget of 1M MAdds is below the smallest arch: {told} MAdds for 1 classes"):
        space.check_scenarios(torch.ones(1, 1).bool(), torch.tensor([1e6]))


def test_budgets_are_compared_exactly_where_a_float32_does_not_tell_them_apart():
    space, masks = table_space(1, (1,), torch.tensor([[123_456_789]])), torch.ones(9, 9).tril().bool()
    least = space.madds(space.smallest, masks.sum(-1)).double()
    space.check_scenarios(masks, least)
    for mask, budget in zip(masks.split(1), (least - 1).split(1), strict=True):
        with pytest.raises(ValueError, match=f"for {int(mask.sum())} classes"):
            space.check_scenarios(mask, budget)


@pytest.mark.parametrize("budget", [float("nan"), 0.0, -1e6, float("-inf")])
def test_a_budget_that_is_no_positive_number_is_an_error(budget):
    with pytest.raises(ValueError, match=r"below the smallest arch: [0-9.]+M MAdds for 160 classes"):
        GLYPHS.check_scenarios(torch.ones(2, 160).bool(), torch.tensor([1e6, budget]))


def test_a_scenario_without_classes_is_an_error():
    masks = torch.ones(3, 160).bool()
    masks[1] = False
    with pytest.raises(ValueError, match="scenario 1 keeps no class: name at least one"):
        GLYPHS.check_scenarios(masks, torch.full((3,), 1e6))


# -------------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "prersnet"}, "did you mean 'preresnet'"),
        ({"depths": [2, 1]}, "depths must be strictly ascending"),
        ({"ratios": [0.5, 0.5]}, "ratios must be strictly ascending"),
        ({"ratios": [0.5, 1.5]}, "less than or equal to 1"),
        ({"widths": []}, "at least 1 item"),
        ({"widths": [0]}, "greater than 0"),
        ({"width": [8]}, "Extra inputs"),
    ],
)
def test_a_recipe_that_makes_no_space_is_refused(changes, message):
    recipe = {"kind": "preresnet", "widths": [8, 16], "depths": [1, 2], "ratios": [0.25, 0.5, 1.0]}
    assert SPACES.validate(recipe).build(16, 1) == SMALL
    with pytest.raises(ValueError, match=message):
        SPACES.validate(recipe | changes)
