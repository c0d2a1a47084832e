"""The generator: archs within every possible budget, whatever the set of classes; its training, and both signals."""

import math
from itertools import combinations

import pytest
import torch
from cases import GLYPHS, RAGGED, possible_budgets, random_class_masks, seeded
from torch import nn

from eas import generator
from eas.data.batches import as_input
from eas.dropout import mask_logits
from eas.generator import (
    ClassMean,
    GateSignal,
    Generator,
    PredictorSignal,
    entropy,
    straight_through,
    train_generator,
)
from eas.layers import Statistics
from eas.predictor import AccuracyPredictor
from eas.recipes import GeneratorTraining, Training

ANCHORS = torch.tensor([0.4, 0.8, 1.2, 1.6, 2.0]) * 1e6
FLOAT32 = Training(epochs=1, batch_size=1, learning_rate=0.1, random_subnets=0, mixed_precision=False)


def new(seed=0, blind=False):
    torch.manual_seed(seed)
    return Generator(GLYPHS, 160, ANCHORS, blind=blind)


@pytest.fixture(scope="module")
def by_superclass(hierarchy):
    return torch.stack([hierarchy.class_mask([name]) for name in hierarchy.superclasses])


@pytest.fixture(scope="module")
def draw(by_superclass):
    """Scenarios to train on: a superclass, and a budget between the anchors."""

    def drawn(count, rng):
        budgets = ANCHORS[0] + (ANCHORS[-1] - ANCHORS[0]) * torch.rand(count, generator=rng)
        return by_superclass[torch.randint(len(by_superclass), (count,), generator=rng)], budgets

    return drawn


# -------------------------------------------------------------------- from scenarios to archs


@pytest.mark.parametrize("scale", [1, 100])
def test_untrained_generators_stay_within_budget_and_use_it(scale):
    made, count = new(), 2000
    with torch.no_grad():
        for parameter in made.layers[-1].parameters():
            parameter.mul_(scale)
    masks = random_class_masks(count)
    budgets = possible_budgets(GLYPHS, count, masks.sum(-1))
    archs = made.generate(masks, budgets)
    GLYPHS.check(archs)
    use = GLYPHS.madds(archs, masks.sum(-1)) / budgets
    assert use.max() <= 1 and use[budgets < GLYPHS.madds(GLYPHS.largest, 1)].mean() >= 0.95
    assert len(archs.unique(dim=0)) > 200


def test_scenarios_in_a_batch_are_those_one_by_one_and_in_pieces(monkeypatch):
    made, masks = new(), random_class_masks(50)
    budgets = possible_budgets(GLYPHS, 50, masks.sum(-1))
    together = made.generate(masks, budgets)
    alone = [made.generate(masks[row : row + 1], budgets[row : row + 1]) for row in range(50)]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together, new().generate(masks, budgets))
    monkeypatch.setattr(generator, "PIECE", 7)
    assert torch.equal(together, made.generate(masks, budgets))


def test_the_order_of_a_unions_names_is_irrelevant(hierarchy):
    made, budget = new(), torch.tensor([1.2e6])
    first, second, third = hierarchy.superclasses[:3]
    names = [first, second, *hierarchy.members[2]]
    masks = [hierarchy.class_mask(each)[None] for each in ([third, second, first], names[::-1], names)]
    archs = [made.generate(mask, budget) for mask in masks]
    assert torch.equal(archs[0], archs[1]) and torch.equal(archs[1], archs[2])


def test_a_set_of_classes_is_the_mean_of_its_embeddings():
    torch.manual_seed(0)
    mean, masks = ClassMean(6, 4, 1.0, blind=False), random_class_masks(20, 6)
    for mask, found in zip(masks, mean(masks), strict=True):
        torch.testing.assert_close(found, mean.weight[mask].mean(0))
    assert (ClassMean(6, 4, 1.0, blind=True)(masks) == 0).all()


def test_a_blind_generator_ignores_the_classes_but_for_their_number_and_a_sighted_one_does_not():
    masks, budgets = random_class_masks(64), torch.linspace(4e5, 2e6, 64)
    blind, sighted = new(blind=True), new()
    for one, other in zip(blind(masks, budgets), blind(masks.roll(1, 0), budgets), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(sighted(masks, budgets), sighted(masks.roll(1, 0), budgets), strict=True):
        assert not torch.allclose(one, other)
    same_size = torch.stack([row[torch.randperm(160, generator=seeded(i))] for i, row in enumerate(masks)])
    assert torch.equal(blind.generate(masks, budgets), blind.generate(same_size, budgets))
    assert not torch.equal(sighted.generate(masks, budgets), sighted.generate(same_size, budgets))


def test_what_is_no_scenario_is_an_error():
    made, masks = new(), random_class_masks(3)
    smallest = GLYPHS.madds(GLYPHS.smallest, masks.sum(-1)).double()
    assert (made.generate(masks, smallest) == GLYPHS.smallest).all()
    with pytest.raises(ValueError, match="below the smallest arch"):
        made.generate(masks, smallest - torch.tensor([0, 1, 0]))
    with pytest.raises(ValueError, match="scenario 1 keeps no class"):
        made.generate(masks & torch.tensor([[True], [False], [True]]), smallest)


# -------------------------------------------------------------------- the budget's embedding


def test_the_budgets_embedding_is_linear_between_anchors_and_constant_beyond():
    made = Generator(GLYPHS, 3, torch.tensor([1.2e6, 4e5, 1e6]))  # in any order
    assert made.anchors.tolist() == [4e5, 1e6, 1.2e6]
    at, budgets = made.budget_embedding, torch.tensor([4e5, 5.5e5, 7e5, 1e6, 1.05e6, 1.2e6, 1e5, 0.0, 9e6])
    expected = [at[0], 0.75 * at[0] + 0.25 * at[1], (at[0] + at[1]) / 2, at[1]]
    expected += [0.75 * at[1] + 0.25 * at[2], at[2], at[0], at[0], at[2]]
    torch.testing.assert_close(made.embed_budget(budgets), torch.stack(expected))


def test_a_study_with_one_budget_has_a_generator():
    made = Generator(GLYPHS, 160, torch.tensor([1e6]))
    for scores in made(torch.ones(3, 160).bool(), torch.tensor([5e5, 1e6, 2e6])):
        assert scores.isfinite().all()


# -------------------------------------------------------------------- samples


def test_straight_through_is_one_hot_and_has_the_relaxed_samples_gradient():
    scores = torch.randn(500, 4, 3, generator=seeded()).requires_grad_()
    sample = straight_through(scores, seeded(1))
    torch.testing.assert_close(sample, nn.functional.one_hot(sample.argmax(-1), 3).float())
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


def test_the_entropy_is_that_of_all_choices():
    scores = torch.zeros(2, 3, 4)
    scores[1, 0, 0] = 100.0  # one of its decisions is made
    torch.testing.assert_close(entropy(scores), math.log(4) * torch.tensor([3.0, 2.0]))


def test_a_choice_that_does_not_exist_is_never_made_and_leaves_the_entropy_as_it_is():
    torch.manual_seed(0)
    made, masks = Generator(RAGGED, 20, torch.tensor([1100.0, 1300.0])), random_class_masks(300, 20)
    budgets = possible_budgets(RAGGED, 300, masks.sum(-1))
    scores = made(masks, budgets)
    for each, there in zip(scores, RAGGED.exists, strict=True):
        assert (each.softmax(-1)[:, ~there] == 0).all() and (straight_through(each, seeded())[:, ~there] == 0).all()
        alone = sum(entropy(each[:, [row], :choices]) for row, choices in enumerate(there.sum(1).tolist()))
        torch.testing.assert_close(entropy(each), alone)
    RAGGED.check(made.generate(masks, budgets))
    model = AccuracyPredictor(RAGGED, 20, aware=True)

    def draw(count, rng):
        rows = torch.randint(300, (count,), generator=rng)
        return masks[rows], budgets[rows]

    history = train_generator(
        made, PredictorSignal(model), draw, GeneratorTraining(steps=30, scenarios=32, entropy=1.0), seed=0
    )
    assert torch.tensor(history).isfinite().all() and all(p.isfinite().all() for p in made.parameters())
    archs = made.generate(masks, budgets)
    RAGGED.check(archs)
    assert (RAGGED.madds(archs, masks.sum(-1)) <= budgets).all()


# -------------------------------------------------------------------- training on a predictor


class Planted(nn.Module):
    """A predictor in closed form: the large blocks of the stage that the superclass likes pay."""

    def __init__(self, hierarchy):
        super().__init__()
        self.space = GLYPHS
        pays = torch.rand(len(hierarchy.superclasses), GLYPHS.stages, generator=seeded()) ** 3
        forms = pays.repeat_interleave(GLYPHS.blocks_per_stage, 1)[..., None] * torch.tensor(GLYPHS.ratios).sqrt()
        depths = torch.zeros(len(pays), GLYPHS.stages * len(GLYPHS.depths))
        self.register_buffer("taste", torch.cat([depths, forms.flatten(1)], 1)[hierarchy.parent])

    def forward(self, features, class_masks):
        masks = class_masks.float()
        return (features * ((masks @ self.taste) / masks.sum(-1, keepdim=True))).sum(-1)


def trained(signal, draw, steps, seed=0, blind=False, **changed):
    made, recipe = new(seed, blind), GeneratorTraining(steps=steps, scenarios=64, **changed)
    return made, train_generator(made, signal, draw, recipe, seed=seed)


def test_training_on_a_predictor_raises_what_it_predicts_for_generated_archs(hierarchy, by_superclass, draw):
    model = Planted(hierarchy)
    unions = torch.stack([one | other for one, other in combinations(by_superclass, 2)])

    def predicted(made, masks):
        scenarios = masks.repeat_interleave(len(ANCHORS), 0), ANCHORS.repeat(len(masks))
        archs = made.generate(*scenarios)
        assert (GLYPHS.madds(archs, scenarios[0].sum(-1)) <= scenarios[1]).all()
        return model(GLYPHS.features(*GLYPHS.gates(archs)), scenarios[0]).mean()

    sighted, history = trained(PredictorSignal(model), draw, 200, entropy=1.0)
    undecided, _ = trained(PredictorSignal(model), draw, 200, entropy=0.0)
    blind, _ = trained(PredictorSignal(model), draw, 200, blind=True, entropy=1.0)
    assert len(history) == 200 and sum(history[-30:]) < sum(history[:30])
    for masks in (by_superclass, unions):  # the unions were never drawn in training
        untrained = torch.stack([predicted(new(seed), masks) for seed in range(5)]).mean()
        assert predicted(sighted, masks) > untrained + 0.02
        assert predicted(sighted, masks) > predicted(blind, masks)
    assert predicted(sighted, by_superclass) > predicted(undecided, by_superclass)


def test_training_leaves_the_predictor_as_it_is(draw):
    model = AccuracyPredictor(GLYPHS, 160, aware=True).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained(PredictorSignal(model), draw, 3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_brings_the_expected_cost_to_the_budget(draw):
    def nothing(depth, form, class_masks):
        return depth.sum((-2, -1)) * 0

    masks, budgets = draw(500, seeded(9))

    def distance(made):
        expected = GLYPHS.expected_madds(*(s.softmax(-1) for s in made(masks, budgets)), masks.sum(-1))
        return ((expected - budgets) / budgets).square().mean()

    made, history = trained(nothing, draw, 150)
    assert distance(made) < 0.01 < distance(new())
    assert history[0] > 10 * history[-1]


def test_equal_seeds_train_equal_generators(hierarchy, draw):
    runs = []
    for seed in (0, 0, 1):
        made, history = trained(PredictorSignal(Planted(hierarchy)), draw, 5, seed=seed)
        runs.append((history, torch.cat([p.flatten() for p in made.parameters()])))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0] and not torch.equal(runs[0][1], runs[2][1])


# -------------------------------------------------------------------- the paper's signal


@pytest.fixture
def gate_signal(supernet, dataset):
    """Makes a signal that draws the same images every time."""
    return lambda images=48: GateSignal(supernet, dataset.train, images, FLOAT32, seeded())


@pytest.fixture
def pairs(dataset):
    """Class masks of six pairs of superclasses."""
    names = list(combinations(dataset.hierarchy.superclasses, 2))[:6]
    return torch.stack([dataset.hierarchy.class_mask(pair) for pair in names])


def test_half_of_the_gates_images_are_of_the_scenarios_classes_each_as_likely_as_the_others(gate_signal, dataset):
    signal, mask = gate_signal(6000), dataset.hierarchy.class_mask(["digits", "arrows"])
    own = dataset.train.labels[signal.draw(mask)]
    assert len(own) == 3000 and mask[own].all()
    share = own.bincount(minlength=160)[mask] / 3000
    assert (share - 1 / mask.sum()).abs().max() < 0.02
    every = dataset.train.labels[signal.draw(torch.ones(160).bool())]
    assert len(every.unique()) == 160 and (every.bincount() / 3000).max() < 0.02
    assert len(signal.draw(mask).unique()) == mask.sum() * (dataset.train.labels == 0).sum()  # every image of a class


def test_classes_without_images_are_not_drawn(supernet, dataset):
    mask = dataset.hierarchy.class_mask(["digits"])
    without = dataset.train.only(torch.arange(160) < 155).only(torch.arange(160) != 3)
    signal = GateSignal(supernet, without, 400, FLOAT32, seeded())
    mask[159] = True
    drawn = without.labels[signal.draw(mask)].unique().tolist()
    assert drawn == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_the_gates_loss_is_the_sliced_networks_masked_cross_entropy(supernet, dataset, gate_signal, pairs):
    space, images = supernet.space, dataset.train
    archs = torch.stack([space.smallest, *space.sample(4, seeded(3)), space.largest])
    losses, again = gate_signal()(pairs, *space.gates(archs)), gate_signal()
    for arch, mask, loss in zip(archs, pairs, losses, strict=True):
        rows = torch.cat([again.draw(mask), again.draw(torch.ones(160).bool())])
        logits = supernet(as_input(images.images[rows]), arch, Statistics())  # norms run on both halves
        expected = nn.functional.cross_entropy(mask_logits(logits, mask)[:24], images.labels[rows[:24]])
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_the_gates_gradient_reaches_the_generator_and_no_weight_of_the_supernet(supernet, gate_signal, by_superclass):
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    torch.manual_seed(0)
    made, rng = Generator(supernet.space, 160, torch.tensor([3e5, 6e5])), seeded()
    scores = made(by_superclass, torch.full((len(by_superclass),), 4.5e5))
    gate_signal()(by_superclass, *(straight_through(s, rng) for s in scores)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in made.parameters())
    assert all(p.grad is None and not p.requires_grad for p in supernet.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_the_gates_gradient_prefers_the_choice_that_helps(supernet, gate_signal, pairs):
    """Small steps along the gradient lower the loss on the same images."""
    gates = [gate * 0.8 + 0.2 / gate.shape[-1] for gate in supernet.space.gates(supernet.space.sample(4, seeded()))]
    gates = [gate.requires_grad_() for gate in gates]
    before = gate_signal()(pairs[:4], *gates)
    gradients = torch.autograd.grad(before.sum(), gates)
    size = sum(gradient.square().sum() for gradient in gradients).sqrt()
    moved = [gate - 1e-3 * gradient / size for gate, gradient in zip(gates, gradients, strict=True)]
    after = gate_signal()(pairs[:4], *moved)
    assert (before - after).sum().item() == pytest.approx(1e-3 * size.item(), rel=0.1)


def test_generators_trained_by_gates_repeat(supernet, gate_signal, by_superclass):
    def draw(count, rng):
        return by_superclass[torch.randint(10, (count,), generator=rng)], torch.full((count,), 4.5e5)

    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        made = Generator(supernet.space, 160, torch.tensor([3e5, 6e5]))
        losses = train_generator(made, gate_signal(), draw, GeneratorTraining(steps=3, scenarios=4), seed=0)
        weights.append([*losses, *made.layers[-1].bias.tolist()])
    assert weights[0] == weights[1]


def test_the_signal_of_gates_may_run_in_bfloat16(supernet, dataset, pairs, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    gates, mixed = supernet.space.gates(supernet.space.sample(6, seeded())), {"mixed_precision": True}
    recipes = FLOAT32, FLOAT32.model_copy(update=mixed)
    whole, half = (GateSignal(supernet, dataset.train, 32, each, seeded())(pairs, *gates) for each in recipes)
    assert not torch.equal(half, whole) and half.dtype == torch.float32
    torch.testing.assert_close(half, whole, rtol=0.1, atol=0.1)
