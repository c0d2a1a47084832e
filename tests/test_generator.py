"""The generator: archs within every possible budget, decoding against brute force, and both training signals."""

import math
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import nn

from eas import data, generator
from eas.config import load_study
from eas.dropout import mask_logits
from eas.generator import (
    GateSignal,
    Generator,
    ModelSignal,
    decode,
    entropy,
    fill,
    straight_through,
    train_generator,
)
from eas.layers import Statistics
from eas.search import AccuracyModel
from eas.space import SearchSpace
from eas.study import scenario_sampler, scenarios

ROOT = Path(__file__).parents[1]
GLYPHS = load_study("glyphs", ROOT)
SPACES = {
    "glyphs": SearchSpace.from_study(GLYPHS, 1),
    "cifar100": SearchSpace.from_study(load_study("cifar100", ROOT), 3),
    "gap": SearchSpace(16, 1, widths=(8, 16), depths=(1, 3), ratios=(0.25, 0.5, 1.0)),
    "one ratio": SearchSpace(16, 1, widths=(8, 16), depths=(1, 2, 3), ratios=(0.5,)),
    "one depth": SearchSpace(16, 1, widths=(8, 16), depths=(2,), ratios=(0.25, 0.5, 1.0)),
    "one arch": SearchSpace(16, 1, widths=(8, 16), depths=(2,), ratios=(0.5,)),
}
SMALL = {
    "two stages": SearchSpace(16, 1, widths=(8, 16), depths=(1, 2), ratios=(0.25, 0.5, 1.0)),
    "three stages": SearchSpace(16, 1, widths=(8, 16, 32), depths=(1, 2), ratios=(0.25, 0.5, 1.0)),
    "three depths": SearchSpace(16, 1, widths=(8, 16), depths=(1, 2, 3), ratios=(0.25, 0.5, 1.0)),
}
SCORES = {
    "random": lambda scores: scores,
    "times 100": lambda scores: scores * 100,
    "times 1e-6": lambda scores: scores * 1e-6,
    "equal": torch.zeros_like,
    "negative": lambda scores: -10 - scores.abs(),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_scores(space, count, seed=0):
    rng = seeded(seed)
    depth = torch.randn(count, space.stages, len(space.depths), generator=rng)
    return depth, torch.randn(count, space.blocks, len(space.ratios), generator=rng)


def rising_scores(space, count):
    """Scores of a generator that has learned that more is better, by amounts of its own."""
    return tuple(scores.abs().cumsum(-1) for scores in random_scores(space, count))


def possible_budgets(space, count, classes_kept, seed=1):
    """Whole numbers from the cost of the smallest arch to a little beyond the largest; the ends among them."""
    low, high = (space.madds(arch, classes_kept).double() for arch in (space.smallest, space.largest))
    share = torch.rand(count, dtype=torch.float64, generator=seeded(seed)) * 1.05
    share[: count // 20] = 0
    return (low + (high - low) * share).floor()


def random_classes(count, classes=160, seed=2):
    rng = seeded(seed)
    kept = torch.rand(count, classes, generator=rng) < torch.rand(count, 1, generator=rng)
    kept[torch.arange(count), torch.randint(classes, (count,), generator=rng)] = True
    return kept


def every_arch(space):
    archs = torch.cartesian_prod(*(torch.arange(count) for count in space.choices.tolist()))
    archs = space.canonical(archs).unique(dim=0)
    assert len(archs) == space.size
    return archs


def total_score(space, archs, depth, width):
    """What decoding maximises: the scores of the depths and of the widths of kept blocks, [..., n]."""
    chosen_depth, chosen_width = space.gates(archs)
    widths = (chosen_width * width).sum(-1) * space.active(archs)
    return (chosen_depth * depth).sum((-2, -1)) + widths.sum(-1)


def new_generator(space=SPACES["glyphs"], seed=0, blind=False):
    torch.manual_seed(seed)
    return Generator(space, 160, torch.tensor(GLYPHS.scenarios.budgets) * 1e6, blind=blind)


# -------------------------------------------------------------------- within budget


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("space", SPACES)
def test_every_decoded_arch_is_valid_and_within_its_budget(space, scores):
    space, count = SPACES[space], 4000
    classes = random_classes(count).sum(-1)
    budgets = possible_budgets(space, count, classes)
    archs = decode(space, *map(SCORES[scores], random_scores(space, count)), budgets, classes)
    space.check(archs)
    assert torch.equal(archs, space.canonical(archs))
    assert (space.madds(archs, classes) <= budgets).all()


@pytest.mark.parametrize("space", SPACES)
def test_a_budget_one_multiply_add_below_the_best_arch_is_not_exceeded(space):
    space = SPACES[space]
    wanted = space.sample(4000, seeded())
    classes = random_classes(len(wanted)).sum(-1)
    budgets = (space.madds(wanted, classes) - 1).clamp_min(space.madds(space.smallest, classes)).double()
    archs = decode(space, *space.gates(wanted), budgets, classes)
    assert (space.madds(archs, classes) - budgets).max() <= 0


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("space", SPACES)
def test_the_smallest_budget_gives_the_smallest_arch(space, scores):
    space = SPACES[space]
    classes = torch.arange(1, 101)
    budgets = space.madds(space.smallest, classes)
    archs = decode(space, *map(SCORES[scores], random_scores(space, 100)), budgets.double(), classes)
    assert (archs == space.smallest).all()


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("space", ["glyphs", "cifar100", "one ratio", "one depth", "one arch"])
def test_a_budget_beyond_the_largest_arch_gives_the_largest(space, scores):
    space = SPACES[space]
    classes = torch.arange(1, 101)
    for more in (0, 1e3, float("inf")):
        budgets = space.madds(space.largest, classes).double() + more
        archs = decode(space, *map(SCORES[scores], random_scores(space, 100)), budgets, classes)
        assert (archs == space.largest).all()


def test_a_gap_between_depths_is_never_filled_with_a_depth_that_does_not_exist():
    space, classes = SPACES["gap"], torch.full((2000,), 7)
    archs = decode(space, *random_scores(space, 2000), torch.full((2000,), float("inf")), classes)
    assert set(space.depth(archs).flatten().tolist()) == {1, 3}
    assert (space.canonical(space.largest.where(torch.arange(space.decisions) >= 2, archs)) == archs).all()


@pytest.mark.parametrize("scale", [1, 100])
@pytest.mark.parametrize("seed", range(3))
def test_untrained_generators_stay_within_budget(seed, scale):
    made, space, count = new_generator(seed=seed), SPACES["glyphs"], 2000
    with torch.no_grad():
        for parameter in made.layers[-1].parameters():
            parameter.mul_(scale)
    kept = random_classes(count, seed=seed)
    budgets = possible_budgets(space, count, kept.sum(-1), seed=seed)
    archs = made.generate(kept, budgets)
    space.check(archs)
    assert (space.madds(archs, kept.sum(-1)) <= budgets).all()
    assert len(archs.unique(dim=0)) > 300


def test_the_budget_is_used():
    space, wanted = SPACES["glyphs"], scenarios(GLYPHS, data.hierarchy("glyphs"))
    for seed in range(5):
        archs = new_generator(seed=seed).generate(wanted.kept, wanted.budgets)
        use = space.madds(archs, wanted.kept.sum(-1)) / wanted.budgets
        assert use.mean() >= 0.95 and use.min() >= 0.9 and use.max() <= 1


# -------------------------------------------------------------------- decoding against brute force


@pytest.mark.parametrize("space", SMALL)
def test_decoding_reaches_nearly_the_best_score_where_more_scores_higher(space):
    space, count = SMALL[space], 500
    classes = torch.full((count,), 10)
    depth, width = rising_scores(space, count)
    budgets = possible_budgets(space, count, classes)
    archs = every_arch(space)
    score = total_score(space, archs, depth[:, None], width[:, None])  # [scenarios, archs]
    fits = space.madds(archs, 10) <= budgets[:, None]
    best, worst = score.masked_fill(~fits, -1e9).amax(1), score.masked_fill(~fits, 1e9).amin(1)
    found = total_score(space, decode(space, depth, width, budgets, classes), depth, width)
    choice = best > worst
    share = ((found - worst) / (best - worst))[choice]
    assert choice.float().mean() > 0.8
    assert share.mean() > 0.98 and share.quantile(0.05) > 0.9 and (share > 0.9999).float().mean() > 0.65


@pytest.mark.parametrize("space", SMALL)
def test_what_is_found_before_filling_is_the_best_of_its_own_cost(space, monkeypatch):
    monkeypatch.setattr(generator, "fill", lambda space, archs, *rest: space.canonical(archs))
    space, count = SMALL[space], 500
    classes = torch.full((count,), 10)
    depth, width = random_scores(space, count)
    budgets = possible_budgets(space, count, classes)
    archs = every_arch(space)
    score, cost = total_score(space, archs, depth[:, None], width[:, None]), space.madds(archs, 10)
    found = decode(space, depth, width, budgets, classes)
    reached, paid = total_score(space, found, depth, width), space.madds(found, 10)
    no_dearer = score.masked_fill(cost > paid[:, None], -1e9).amax(1)
    torch.testing.assert_close(reached, no_dearer)
    # Little is left on the table by archs that lie between two prices.
    fits = cost <= budgets[:, None]
    best, worst = score.masked_fill(~fits, -1e9).amax(1), score.masked_fill(~fits, 1e9).amin(1)
    assert ((reached - worst) / (best - worst).clamp_min(1e-6))[best > worst].mean() > 0.97


@pytest.mark.parametrize("space", ["glyphs", "cifar100", "one ratio"])
def test_filling_only_adds_and_stops_when_nothing_fits(space):
    space, count = SPACES[space], 1000
    classes = random_classes(count).sum(-1)
    budgets = possible_budgets(space, count, classes)
    start = space.sample(count, seeded())
    start = torch.where((space.madds(start, classes) <= budgets)[:, None], start, space.smallest)
    archs = fill(space, start, random_scores(space, count)[1], budgets, classes)
    assert ((archs >= start) | (start == 0)).all() and (space.depth(archs) >= space.depth(start)).all()
    cost = space.madds(archs, classes)
    assert (cost <= budgets).all()
    for decision in range(space.decisions):  # one choice more, or one more block at its narrowest
        more = archs.clone()
        more[:, decision] += 1
        allowed = more[:, decision] < space.choices[decision]
        more = space.canonical(more.minimum(space.largest))
        dearer = space.madds(more, classes) > cost
        assert (space.madds(more, classes) > budgets)[allowed & dearer].all()


def test_filling_takes_the_change_that_scores_best():
    space = SMALL["two stages"]
    width = torch.zeros(2, space.blocks, len(space.ratios))
    width[0, 0, 1] = width[1, 2, 1] = 1  # the first block of stage 1, of stage 2
    step = space.block_madds[:, 1] - space.block_madds[:, 0]
    room = step[[0, 2]].max()
    budgets = (space.madds(space.smallest, 10) + room).double().expand(2)
    start = space.smallest.expand(2, -1)
    first, second = fill(space, start, width, budgets, torch.tensor([10, 10])).tolist()
    assert first[space.stages] == 1 and second[space.stages + 2] == 1


# -------------------------------------------------------------------- the same, however it is asked


def test_scenarios_do_not_influence_each_other():
    space, count = SPACES["glyphs"], 2000
    classes = random_classes(count).sum(-1)
    scores, budgets = random_scores(space, count), possible_budgets(space, count, classes)
    together = decode(space, *scores, budgets, classes)
    order = torch.randperm(count, generator=seeded())
    shuffled = decode(space, *(s[order] for s in scores), budgets[order], classes[order])
    assert torch.equal(shuffled, together[order])
    for rows in torch.arange(count).split([1] * 50 + [count - 50])[:50]:
        assert torch.equal(decode(space, *(s[rows] for s in scores), budgets[rows], classes[rows]), together[rows])


def test_fifty_scenarios_in_a_batch_are_the_fifty_one_by_one():
    made, kept = new_generator(), random_classes(50)
    budgets = possible_budgets(made.space, 50, kept.sum(-1))
    alone = [made.generate(kept[row : row + 1], budgets[row : row + 1]) for row in range(50)]
    together = made.generate(kept, budgets)
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together, made.generate(kept, budgets))
    assert torch.equal(together, new_generator().generate(kept, budgets))


def test_the_order_of_a_unions_names_is_irrelevant():
    made, hierarchy = new_generator(), data.hierarchy("glyphs")
    budget = torch.tensor([1.2e6])
    first, second, third = hierarchy.superclasses[:3]
    names = [first, second, *hierarchy.members[2]]
    archs = [made.generate(hierarchy.kept(each)[None], budget) for each in ([third, second, first], names[::-1], names)]
    assert torch.equal(archs[0], archs[1]) and torch.equal(archs[1], archs[2])


def test_a_blind_generator_ignores_which_classes_are_kept_and_a_sighted_one_does_not():
    kept, budgets = random_classes(64), torch.linspace(4e5, 2e6, 64)
    blind, sighted = new_generator(blind=True), new_generator()
    shuffled = kept.roll(1, 0)
    for of_blind, of_sighted in zip(
        zip(blind(kept, budgets), blind(shuffled, budgets), strict=True),
        zip(sighted(kept, budgets), sighted(shuffled, budgets), strict=True),
        strict=True,
    ):
        assert torch.equal(*of_blind)
        assert not torch.allclose(*of_sighted)
    same_size = torch.stack([row[torch.randperm(160, generator=seeded(i))] for i, row in enumerate(kept)])
    assert torch.equal(blind.generate(kept, budgets), blind.generate(same_size, budgets))
    assert not torch.equal(sighted.generate(kept, budgets), sighted.generate(same_size, budgets))


# -------------------------------------------------------------------- errors


def test_an_impossible_budget_is_an_error_that_states_the_smallest_possible_one():
    made, kept = new_generator(), random_classes(3)
    smallest = made.space.madds(made.space.smallest, kept.sum(-1)).double()
    with pytest.raises(ValueError) as caught:
        made.generate(kept, smallest - torch.tensor([0, 1, 0]))
    assert f": {int(smallest[1]) / 1e6:g}M MAdds for {int(kept[1].sum())} classes" in str(caught.value)
    assert f"budget of {(smallest[1] - 1) / 1e6:g}M MAdds is below" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (made.generate(kept, smallest) == made.space.smallest).all()


@pytest.mark.parametrize("budget", [float("nan"), 0.0, -1e6, float("-inf")])
def test_a_budget_that_is_no_positive_number_is_an_error(budget):
    with pytest.raises(ValueError, match=r"below the smallest arch: [0-9.]+M MAdds for 160 classes"):
        new_generator().generate(torch.ones(2, 160).bool(), torch.tensor([1e6, budget]))


def test_a_scenario_without_classes_is_an_error():
    kept = torch.ones(3, 160).bool()
    kept[1] = False
    with pytest.raises(ValueError, match="scenario 1 keeps no class: name at least one"):
        new_generator().generate(kept, torch.full((3,), 1e6))


# -------------------------------------------------------------------- the network


def test_the_budgets_embedding_is_linear_between_anchors_and_constant_beyond():
    made = Generator(SPACES["glyphs"], 3, torch.tensor([4e5, 1e6, 1.2e6]))
    at = made.budget_embedding
    budgets = torch.tensor([4e5, 5.5e5, 7e5, 1e6, 1.05e6, 1.2e6, 1e5, 0.0, 9e6])
    expected = [at[0], 0.75 * at[0] + 0.25 * at[1], (at[0] + at[1]) / 2, at[1]]
    expected += [0.75 * at[1] + 0.25 * at[2], at[2], at[0], at[0], at[2]]
    torch.testing.assert_close(made.embed_budget(budgets), torch.stack(expected))


def test_anchors_may_come_in_any_order():
    anchors = torch.tensor([1.2e6, 4e5, 1e6])
    assert Generator(SPACES["glyphs"], 3, anchors).anchors.tolist() == [4e5, 1e6, 1.2e6]


def test_a_study_with_one_budget_has_a_generator():
    torch.manual_seed(0)
    made = Generator(SPACES["glyphs"], 160, torch.tensor([1e6]))
    for scores in made(torch.ones(3, 160).bool(), torch.tensor([5e5, 1e6, 2e6])):
        assert scores.isfinite().all()


def test_straight_through_is_one_hot_and_has_the_relaxed_samples_gradient():
    scores = torch.randn(500, 4, 3, generator=seeded()).requires_grad_()
    sample = straight_through(scores, seeded(1))
    hard = nn.functional.one_hot(sample.argmax(-1), 3).float()
    torch.testing.assert_close(sample, hard)
    weight = torch.randn(3, generator=seeded(2))
    gradient = torch.autograd.grad((sample * weight).sum(), scores)[0]
    noise = -torch.empty_like(scores).exponential_(generator=seeded(1)).log()
    relaxed = torch.autograd.grad(((scores + noise).softmax(-1) * weight).sum(), scores)[0]
    torch.testing.assert_close(gradient, relaxed)
    assert (gradient.abs().sum((0, 1)) > 0).all()


def test_straight_through_samples_each_choice_with_its_probability():
    scores = torch.tensor([0.0, 1.0, 2.0])
    frequency = straight_through(scores.expand(40_000, -1), seeded()).mean(0)
    assert (frequency - scores.softmax(-1)).abs().max() < 0.01


# -------------------------------------------------------------------- training


class Planted(nn.Module):
    """An accuracy model in closed form: the wide blocks of the stage that the superclass likes pay."""

    def __init__(self, space, hierarchy):
        super().__init__()
        pays = torch.rand(len(hierarchy.superclasses), space.stages, generator=seeded()) ** 3
        ratios = torch.tensor(space.ratios)
        widths = pays.repeat_interleave(space.blocks_per_stage, 1)[..., None] * ratios.sqrt()
        depths = torch.zeros(len(pays), space.stages * len(space.depths))
        by_superclass = torch.cat([depths, widths.flatten(1)], 1)
        self.register_buffer("taste", by_superclass[hierarchy.parent])

    def forward(self, features, kept):
        kept = kept.float()
        return (features * ((kept @ self.taste) / kept.sum(-1, keepdim=True))).sum(-1)


def trained(signal, steps, seed=0, blind=False, **changed):
    made, recipe = new_generator(seed=seed, blind=blind), GLYPHS.generator.model_copy(update=changed)
    draw = scenario_sampler(GLYPHS, data.hierarchy("glyphs"))
    history = train_generator(made, signal, draw, recipe, steps=steps, scenarios=64, seed=seed)
    return made, history


def test_training_on_an_accuracy_model_raises_what_it_predicts_for_generated_archs():
    space, hierarchy = SPACES["glyphs"], data.hierarchy("glyphs")
    model, wanted = Planted(space, hierarchy), scenarios(GLYPHS, hierarchy)

    def predicted(made):
        archs = made.generate(wanted.kept, wanted.budgets)
        assert (space.madds(archs, wanted.kept.sum(-1)) <= wanted.budgets).all()
        return model(space.features(*space.gates(archs)), wanted.kept)

    sighted, history = trained(ModelSignal(space, model), 300)
    blind, _ = trained(ModelSignal(space, model), 300, blind=True)
    union = torch.tensor(wanted.is_union)
    assert len(history) == 300 and sum(history[-30:]) < sum(history[:30])
    untrained = torch.stack([predicted(new_generator(seed=seed)) for seed in range(5)]).mean(0)
    for kind in (~union, union):  # the unions were never drawn in training
        assert predicted(sighted)[kind].mean() > untrained[kind].mean() + 0.02
        assert predicted(sighted)[kind].mean() > predicted(blind)[kind].mean()


def test_rewarding_entropy_finds_better_archs():
    space, hierarchy = SPACES["glyphs"], data.hierarchy("glyphs")
    model, wanted = Planted(space, hierarchy), scenarios(GLYPHS, hierarchy)

    def predicted(reward):
        archs = trained(ModelSignal(space, model), 300, entropy=reward)[0].generate(wanted.kept, wanted.budgets)
        return model(space.features(*space.gates(archs)), wanted.kept).mean()

    assert predicted(0.1) > predicted(0.0)


def test_the_entropy_is_that_of_all_choices():
    scores = torch.zeros(2, 3, 4)
    scores[1, 0, 0] = 100.0  # one of its decisions is made
    torch.testing.assert_close(entropy(scores), math.log(4) * torch.tensor([3.0, 2.0]))


def test_training_leaves_the_accuracy_model_as_it_is():
    model = AccuracyModel(SPACES["glyphs"], 160, aware=True).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained(ModelSignal(SPACES["glyphs"], model), 3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_brings_the_expected_cost_to_the_budget():
    def nothing(depth, width, kept):
        return depth.sum((-2, -1)) * 0

    draw = scenario_sampler(GLYPHS, data.hierarchy("glyphs"))
    kept, budgets = draw(500, seeded(9))

    def distance(made):
        expected = made.space.expected_madds(*(s.softmax(-1) for s in made(kept, budgets)), kept.sum(-1))
        return ((expected - budgets) / budgets).square().mean()

    made, history = trained(nothing, 150, entropy=0.0)
    assert distance(made) < 0.01 < distance(new_generator())
    assert history[0] > 10 * history[-1]


def test_equal_seeds_train_equal_generators():
    model = Planted(SPACES["glyphs"], data.hierarchy("glyphs"))
    runs = []
    for seed in (0, 0, 1):
        made, history = trained(ModelSignal(SPACES["glyphs"], model), 5, seed=seed)
        runs.append((history, torch.cat([p.flatten() for p in made.parameters()])))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0] and not torch.equal(runs[0][1], runs[2][1])


# -------------------------------------------------------------------- the paper's signal


def gate_signal(supernet, dataset, seed=0):
    return GateSignal(supernet, dataset.train, 48, seeded(seed))


def test_the_gates_loss_is_the_sliced_networks_masked_cross_entropy(supernet, dataset):
    space = supernet.space
    archs = torch.stack([space.smallest, *space.sample(4, seeded(3)), space.largest])
    names = dataset.hierarchy.superclasses
    kept = torch.stack([dataset.hierarchy.kept(pair) for pair in list(combinations(names, 2))[: len(archs)]])
    losses = gate_signal(supernet, dataset)(*space.gates(archs), kept)
    rows = torch.randint(len(dataset.train), (48,), generator=seeded())
    images, labels = dataset.train.images[rows].float() / 255, dataset.train.labels[rows]
    for arch, classes, loss in zip(archs, kept, losses, strict=True):
        counts = classes[labels]
        assert counts.any()
        logits = mask_logits(supernet(images, arch, Statistics()), classes)[counts]
        expected = nn.functional.cross_entropy(logits, labels[counts])
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_the_gates_gradient_reaches_the_generator_and_no_weight_of_the_supernet(supernet, dataset):
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    torch.manual_seed(0)
    made = Generator(supernet.space, len(dataset.hierarchy.classes), torch.tensor([3e5, 6e5]))
    rng = seeded()
    kept = torch.stack([dataset.hierarchy.kept([name]) for name in dataset.hierarchy.superclasses])
    scores = made(kept, torch.full((len(kept),), 4.5e5))
    gate_signal(supernet, dataset)(*(straight_through(s, rng) for s in scores), kept).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in made.parameters())
    assert all(p.grad is None and not p.requires_grad for p in supernet.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_the_gates_gradient_prefers_the_choice_that_helps(supernet, dataset):
    """Small steps along the gradient lower the loss on the same images."""
    space = supernet.space
    depth, width = (gate.clone() for gate in space.gates(space.sample(4, seeded())))
    depth, width = (gate * 0.8 + 0.2 / gate.shape[-1] for gate in (depth, width))
    kept = torch.ones(4, len(dataset.hierarchy.classes)).bool()
    gates = [gate.requires_grad_() for gate in (depth, width)]
    before = gate_signal(supernet, dataset)(*gates, kept)
    gradients = torch.autograd.grad(before.sum(), gates)
    size = sum(gradient.square().sum() for gradient in gradients)
    moved = [gate - 1e-3 * gradient / size.sqrt() for gate, gradient in zip(gates, gradients, strict=True)]
    after = gate_signal(supernet, dataset)(*moved, kept)
    assert (before - after).sum().item() == pytest.approx(1e-3 * size.sqrt().item(), rel=0.1)


def test_a_scenario_without_images_in_the_batch_has_no_loss(supernet, dataset):
    signal = gate_signal(supernet, dataset)
    absent = torch.ones(1, len(dataset.hierarchy.classes)).bool()
    rows = torch.randint(len(dataset.train), (48,), generator=seeded())
    absent[:, dataset.train.labels[rows]] = False
    assert signal(*supernet.space.gates(supernet.space.largest[None]), absent).item() == 0


def test_generators_trained_by_gates_repeat(supernet, dataset):
    study = load_study("tiny", ROOT)
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        made = Generator(supernet.space, len(dataset.hierarchy.classes), torch.tensor(study.scenarios.budgets) * 1e6)
        draw = scenario_sampler(study, dataset.hierarchy)
        signal = gate_signal(supernet, dataset)
        losses = train_generator(made, signal, draw, study.generator, steps=3, scenarios=4, seed=0)
        weights.append([*losses, *made.layers[-1].bias.tolist()])
    assert weights[0] == weights[1]
