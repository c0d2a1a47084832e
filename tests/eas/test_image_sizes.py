"""The size of images as a decision: costs, decoding, training and networks are those of each size alone."""

import dataclasses

import pytest
import reference
import torch
from cases import (
    SIZED,
    SIZED_MOBILENET,
    check_space,
    every_arch,
    lively,
    possible_budgets,
    random_bytes,
    random_class_masks,
    random_images,
    random_scores,
    seeded,
)

from eas import evaluation, search
from eas.additive import AdditiveGenerator
from eas.data import Hierarchy, Split
from eas.data.batches import as_input
from eas.decoding import decode, total_score
from eas.dropout import soft_targets
from eas.evaluation import SharedStem
from eas.generator import GateSignal
from eas.predictor import AccuracyPredictor
from eas.recipes import Training
from eas.sandwich import sliced_step
from eas.serving import deploy
from eas.serving.answers import predict
from eas.spaces import SPACES
from eas.spaces.supernet import resized

CLASSES, SPACES_WITH_SIZES = 12, [SIZED, SIZED_MOBILENET]
RECIPE = Training(epochs=1, batch_size=8, learning_rate=0.1, random_subnets=1, mixed_precision=False)


@pytest.mark.parametrize(("space", "count"), [(SIZED, 30), (SIZED_MOBILENET, 15)])
def test_gated_sliced_and_extracted_are_the_same_network_at_the_cost_of_the_space(space, count):
    check_space(space, count)


# -------------------------------------------------------------------- archs and costs


@pytest.mark.parametrize("space", SPACES_WITH_SIZES)
def test_costs_are_those_of_the_arch_at_its_size(space):
    archs, counts = space.sample(200, seeded()), torch.randint(1, 50, (200,), generator=seeded(1))
    madds, parameters = space.madds(archs, counts), space.parameters(archs, counts)
    for arch, count, cost, weights in zip(archs, counts.tolist(), madds.tolist(), parameters.tolist(), strict=True):
        one, own = space.at_size_of(arch)
        assert one.image_size == space.image_sizes[arch[-1]] and not one.image_sizes
        assert (one.madds(own, count), one.parameters(own, count)) == (cost, weights)
    assert torch.equal(space.madds(archs[:, None], counts[:3]).diagonal(), madds[:3])
    assert space.madds(archs[0], 5).shape == () and space.madds(archs[:0], 5).shape == (0,)
    assert space.madds(space.smallest, 5) < space.madds(space.largest, 5) and space.sized[-1].sized == space.sized[-1:]


def test_every_size_multiplies_the_archs_and_the_size_outlives_what_is_left_out():
    assert SIZED.size == 3 * SIZED.sized[0].size and SIZED.decisions == SIZED.sized[0].decisions + 1
    archs = every_arch(SIZED)
    assert archs[:, -1].bincount().tolist() == [SIZED.size // 3] * 3
    assert SIZED.stage_names()[0] == "stage 1, up to 16 x 16 pixels"
    assert SIZED_MOBILENET.stage_names()[2] == "stage 3, up to 5 x 5 pixels"


@pytest.mark.parametrize("space", SPACES_WITH_SIZES)
def test_gates_features_and_the_expected_cost_read_the_size(space):
    archs, counts = space.sample(50, seeded()), torch.arange(1, 51)
    depth, form, size = (gates.double() for gates in space.gates(archs))
    assert size.shape == (50, 1, len(space.image_sizes)) and torch.equal(size[:, 0].argmax(1), archs[:, -1])
    assert torch.equal(space.expected_madds(depth, form, counts, size), space.madds(archs, counts).double())
    features = space.features(depth, form, size)
    assert torch.equal(features[:, -size.shape[-1] :], size[:, 0])
    even = torch.full_like(size, 1 / size.shape[-1])
    each = [one.expected_madds(depth, form, counts) for one in space.sized]
    expected = space.expected_madds(depth, form, counts, even)
    torch.testing.assert_close(expected, torch.stack(each).mean(0))
    for shape in ((5, 10), (25, 2)):
        parts = (part.unflatten(0, shape) for part in (depth, form, counts, even))
        torch.testing.assert_close(space.expected_madds(*parts), expected.view(shape))
    torch.testing.assert_close(space.expected_madds(depth[3], form[3], counts[3], even[3]), expected[3])
    assert AccuracyPredictor(space, CLASSES, aware=True)(features.float(), torch.ones(1, CLASSES)).shape == (50,)


@pytest.mark.parametrize(
    ("sizes", "size", "message"),
    [
        ((16, 12), 16, "image_sizes must be two or more, strictly ascending"),
        ((16,), 16, "image_sizes must be two or more"),
        ((4, 16), 16, "greater than or equal to 8"),
        (tuple(range(8, 80)), 79, "at most 64 items"),
        ((8, 12), 16, "the largest of image_sizes must be that of the images, 16"),
    ],
)
def test_sizes_that_make_no_space_are_refused(sizes, size, message):
    described = {"kind": "preresnet", "widths": (8, 16), "depths": (1, 2), "ratios": (0.5, 1.0), "image_sizes": sizes}
    with pytest.raises(ValueError, match=message):
        SPACES["preresnet"].model_validate(described).build(size, 1)


# -------------------------------------------------------------------- decoding and search


def scenarios(space, count):
    classes = random_class_masks(count, CLASSES).sum(-1)
    return possible_budgets(space, count, classes), classes


@pytest.mark.parametrize("space", SPACES_WITH_SIZES)
def test_decoding_takes_the_best_arch_of_all_sizes_within_the_budget(space):
    depth, form, size = random_scores(space, 300)
    budgets, classes = scenarios(space, 300)
    archs = decode(space, depth, form, budgets, classes, size)
    assert (space.madds(archs, classes) <= budgets).all() and torch.equal(archs, space.canonical(archs))
    for row, (budget, count) in enumerate(zip(budgets.tolist(), classes.tolist(), strict=True)):
        best = None
        for index, one in enumerate(space.sized):
            if one.madds(one.smallest, count) <= budget:
                own = reference.decode(one, depth[row], form[row], budget, count)
                score = total_score(one, own[None], depth[row, None], form[row, None])[0] + size[row, 0, index]
                best = max(best or (-torch.inf, None), (score, [*own.tolist(), index]), key=lambda pair: pair[0])
        assert archs[row].tolist() == best[1]
    assert len(archs[:, -1].unique()) == len(space.image_sizes)


@pytest.mark.parametrize("space", SPACES_WITH_SIZES)
def test_a_size_that_no_budget_allows_is_passed_over(space):
    masks = random_class_masks(5, CLASSES)
    budgets = space.madds(space.smallest, masks.sum(-1)).double()
    scores = random_scores(space, 5)
    assert torch.equal(decode(space, *scores[:2], budgets, masks.sum(-1), scores[2]), space.smallest.expand(5, -1))
    assert decode(space, *(each[:0] for each in (*scores[:2], budgets, masks.sum(-1), scores[2]))).shape == (
        0,
        space.decisions,
    )


@pytest.mark.parametrize("space", SPACES_WITH_SIZES)
def test_a_size_whose_smallest_arch_takes_the_whole_budget_is_decoded_and_of_equal_ones_the_smallest(space):
    for index, one in enumerate(space.sized):
        wanted = torch.cat([one.smallest, torch.tensor([index])])
        depth, form, size = (torch.zeros(1, *shape) for shape in space.gate_shapes)
        budgets, classes = space.madds(wanted, 5).double()[None], torch.tensor([5])
        assert decode(space, depth, form, budgets, classes, size)[0, -1] == 0
        size[0, 0, index] = 1
        assert torch.equal(decode(space, depth, form, budgets, classes, size)[0], wanted)


@pytest.mark.parametrize("space", SPACES_WITH_SIZES)
def test_searches_stay_within_the_budget_and_use_all_sizes(space):
    masks = random_class_masks(40, CLASSES)
    budgets, classes = possible_budgets(space, 40, masks.sum(-1)), masks.sum(-1)

    class Worth:
        def score(self, archs, class_masks):
            return space.parameters(archs, 1).double() + torch.zeros(class_masks.shape[:-1])

    effort = {"evaluations": 300, "population": 50, "seed": 0}
    found = search.evolution(space, Worth(), masks, budgets, **effort)
    even, random = search.uniform(space, budgets, classes), search.random_archs(space, budgets, classes, 20, seeded())
    for archs in (found, even, *random.unbind(1)):
        space.check(archs)
        assert (space.madds(archs, classes) <= budgets).all()
    assert len(random[..., -1].unique()) == len(even[:, -1].unique()) == len(space.image_sizes)
    alone = search.ofa_evolution(space, Worth(), masks[-1], budgets[-1].item(), **effort)
    assert space.madds(alone, classes[-1]) <= budgets[-1]


# -------------------------------------------------------------------- training, measuring, networks


@pytest.mark.parametrize("scale", [1.0, 90])
def test_images_of_fewer_pixels_are_means_over_all_pixels_around(scale):
    line = torch.zeros(12, 12).index_fill(0, torch.tensor([3]), scale)  # beside the centre of the second of four
    images = torch.stack([line, line.T])[None].to(torch.uint8 if scale > 1 else torch.float32)
    found, expected = resized(images, 4), scale * torch.tensor([1 / 8, 2 / 9, 0, 0])  # the first lacks what lies beyond
    assert found.dtype == images.dtype and resized(images, 12) is images
    torch.testing.assert_close(found[0, 0], expected[:, None].expand(4, 4).to(images.dtype))
    torch.testing.assert_close(found[0, 1], found[0, 0].T)


@pytest.mark.parametrize("space", SPACES_WITH_SIZES)
def test_a_step_trains_every_arch_at_its_size(space):
    images, labels = random_images(8, space), torch.arange(8)
    class_mask, weight = torch.ones(8, CLASSES, dtype=torch.bool), torch.ones(8)
    archs = torch.stack([space.largest, *space.sample(4, seeded(3)), space.smallest])
    found = []
    for step in (sliced_step, reference.train_step):
        supernet = lively(space, CLASSES)
        loss = step(supernet, RECIPE, images, soft_targets(labels, class_mask, 0.1), class_mask, weight, archs)
        found.append({"loss": loss} | {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None})
    assert len(archs[:, -1].unique()) > 1 and found[0].keys() == found[1].keys()
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("room", [2**32, 200_000, 0])
def test_many_archs_are_measured_like_each_alone_however_much_is_kept(room, monkeypatch):
    monkeypatch.setattr(evaluation, "MOST_BYTES", room)
    supernet, archs = lively(SIZED, CLASSES), SIZED.sample(6, seeded())
    calibration, split = (Split(random_bytes(n, SIZED, n), torch.arange(n) % CLASSES) for n in (16, 20))
    shared, chosen = SharedStem(supernet, archs, calibration, split), split.labels % 2 == 0
    sizes = archs[:, -1].unique()
    assert len(shared.kept) == (0 if not room else len(sizes) if room == 2**32 else 1) and len(sizes) == 3
    for arch in archs:
        alone = reference.subnet_logits(supernet, arch, calibration, split)
        torch.testing.assert_close(shared.logits(arch), alone, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(shared.logits(arch, chosen), alone[chosen], rtol=1e-4, atol=1e-4)


def test_the_signal_of_gates_runs_the_size_that_was_drawn_and_reaches_the_others():
    supernet, split = lively(SIZED, CLASSES), Split(random_bytes(48, SIZED), torch.arange(48) % CLASSES)
    signal, masks = GateSignal(supernet, split, 16, RECIPE, seeded()), torch.ones(1, CLASSES, dtype=torch.bool)
    arch = SIZED.sample(1, seeded(4))
    depth, form, size = SIZED.gates(arch)
    images = as_input(split.images[:8])
    logits = signal.relaxed_logits(images, depth[0], form[0], size[0])
    one = resized(images, SIZED.image_sizes[arch[0, -1]])
    torch.testing.assert_close(logits, signal.relaxed_logits(one, depth[0], form[0]))
    even = torch.full_like(size, 1 / 3).requires_grad_()
    signal(masks, depth, form, even).sum().backward()
    assert (even.grad != 0).all()


def test_a_specialised_network_reads_images_of_its_own_size(tmp_path):
    supernet, hierarchy = lively(SIZED, CLASSES), Hierarchy(("one",), (tuple("abcdefghijkl"),))
    generator, calibration = AdditiveGenerator(SIZED, CLASSES), Split(random_bytes(16, SIZED), torch.arange(16) % 12)
    mask = torch.arange(CLASSES) < 5
    for index, pixels in enumerate(SIZED.image_sizes):
        generator.effects.zero_()[-3 + index] = 1e6
        parts = (supernet, generator, hierarchy, mask, 1e9, calibration)
        network, card = deploy.specialize(*parts, synthetic=True)
        assert card.image_size == pixels and card.space == dataclasses.replace(SIZED, image_sizes=()).recipe
        deploy.save(network, card, tmp_path / "network")
        read, told = deploy.load(tmp_path / "network")
        images = random_bytes(4, SIZED.sized[index])
        assert told == card and predict(read, told, images) == predict(network, card, images)
        with pytest.raises(ValueError, match=f"{pixels}, {pixels}"):
            predict(network, card, random_bytes(4, SIZED)[..., :10, :10])
