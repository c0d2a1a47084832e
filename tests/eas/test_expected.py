"""What networks are expected to reach: counted answers, interpolated costs, and the line to weights of one's own."""

import dataclasses
import math

import pytest
import torch
from cases import seeded
from tiny_kit import make_kit, write_tiny_kit

from eas import load_kit
from eas.evaluation import SharedStem, calibration_sample, measure_archs
from eas.expected import ExpectedAccuracy, answers_of, log_odds
from eas.serving import deploy

LINE = torch.tensor([0.5, 1.0, -0.25], dtype=torch.float64)


def made(right, madds=(1e6, 4e6), classes=6, images=200, errors=(0.0, 0.0)):
    """Two archs that answer so many of each class's images right, and say the next class else."""
    labels = torch.arange(classes).repeat_interleave(images)
    answers = torch.zeros(len(right), len(labels), classes, dtype=torch.int8)
    for row, count in zip(answers, right, strict=True):
        wrong = torch.arange(images).repeat(classes) >= count
        row[torch.arange(len(labels)), (labels + wrong.long()) % classes] = 100
    double = {"dtype": torch.float64}
    return ExpectedAccuracy(answers, labels, torch.tensor(madds, **double), LINE, torch.tensor(errors, **double))


def mask(*classes):
    return torch.zeros(6, dtype=torch.bool).index_fill(0, torch.tensor(classes), True)


def test_shared_weights_reach_what_the_archs_have_answered_and_what_lies_between():
    expected = made((100, 180))
    costs = torch.tensor([5e5, 1e6, 2e6, 4e6, 9e6])
    top1 = expected(torch.ones(6, dtype=torch.bool), costs)[:, 0]
    assert top1[[0, 1]].tolist() == pytest.approx([50, 50], abs=0.1)
    assert top1[[3, 4]].tolist() == pytest.approx([90, 90], abs=0.1)
    middle = (log_odds(torch.tensor(600.0), 1200) + log_odds(torch.tensor(1080.0), 1200)) / 2  # of log multiply-adds
    assert top1[2].item() == pytest.approx(100 * middle.sigmoid().item(), abs=1e-4)


def test_only_the_classes_of_the_set_compete():
    """Whoever says the next class is right where that is none of them: among all others the first one is said."""
    expected = made((0, 0))
    assert expected(torch.ones(6, dtype=torch.bool), torch.tensor([1e6]))[0, 0] < 1
    two = expected.right_answers(mask(0, 3))
    assert two[1] == 400 and two[0].tolist() == [200, 200]  # class 0 wins all ties


def test_branches_lie_on_a_line_of_log_odds():
    expected, everything, costs = made((100, 180)), torch.ones(6, dtype=torch.bool), torch.tensor([1e6])
    for superclasses in (1, 2, 5):
        odds = 0.5 + log_odds(torch.tensor(600.0), 1200).item() - 0.25 * math.log(superclasses)
        top1 = expected(everything, costs, superclasses)[0, 0].item()
        assert top1 == pytest.approx(100 / (1 + math.exp(-odds)), abs=1e-6)


def test_the_interval_has_the_noise_of_the_images_and_what_the_model_leaves_open():
    costs, everything = torch.tensor([1e6]), torch.ones(6, dtype=torch.bool)
    top1, low, high = made((100, 180))(everything, costs)[0].tolist()
    assert high - top1 == pytest.approx(196 * math.sqrt(0.25 / 1200), abs=1e-3) and top1 - low == pytest.approx(
        high - top1
    )
    _, _, wider = made((100, 180), errors=(4.0, 8.0))(everything, costs)[0].tolist()
    assert wider - top1 == pytest.approx(196 * math.sqrt(0.25 / 1200 + 0.04**2), abs=1e-3)
    few = made((100, 180))(mask(0), costs)[0]
    assert few[0] > 99 and few[2] <= 100 and few[1] >= 0  # one class has no other: all is right


def test_odds_of_none_and_of_all_are_those_of_half_an_image():
    assert log_odds(torch.tensor(3.0), 4).item() == pytest.approx(math.log(3.5 / 1.5))
    assert log_odds(torch.tensor([0.0, 4.0]), 4).tolist() == pytest.approx([math.log(0.5 / 4.5), math.log(4.5 / 0.5)])


def test_answers_in_eight_bits_say_the_same_class():
    logits = torch.randn(500, 30, generator=seeded()) * 7
    answers = answers_of(logits)
    assert answers.dtype == torch.int8 and answers.abs().amax(1).eq(127).all()
    same = (answers.argmax(1) == logits.argmax(1)).float().mean()
    assert same > 0.97 and answers_of(torch.zeros(2, 3)).eq(0).all()


@pytest.mark.parametrize("name", ["answers", "labels", "madds", "branches", "errors"])
def test_what_does_not_belong_together_is_refused(name):
    whole = vars(made((100, 180)))
    with pytest.raises(ValueError, match="they do not belong together"):
        ExpectedAccuracy(**whole | {name: whole[name][:1][..., None]})


# -------------------------------------------------------------------- kits that know


@pytest.fixture
def kit(supernet, dataset):
    kit, space = make_kit(supernet, dataset), supernet.space
    archs = torch.stack([space.smallest, space.largest])
    calibration = calibration_sample(dataset.calibration, 50)
    stem = SharedStem(supernet, archs, calibration, dataset.selection)
    answers = torch.stack([answers_of(stem.logits(arch)) for arch in archs])
    madds, nothing = space.madds(archs, 160).double(), torch.zeros(2).double()
    return dataclasses.replace(kit, expected=ExpectedAccuracy(answers, dataset.selection.labels, madds, LINE, nothing))


def test_a_card_says_what_its_network_is_expected_to_reach(kit, hierarchy, tmp_path):
    network, card = kit.specialize(["arrows"], 5e5)
    expected = kit.expected_top1(hierarchy.class_mask(["arrows"]), torch.tensor([card.madds]))[0]
    assert card.expected_top1 == pytest.approx(expected.tolist(), abs=0.01)
    deploy.save(network, card, tmp_path / "network")
    assert deploy.load(tmp_path / "network")[1] == card


def test_where_branches_serve_a_set_what_they_reach_is_expected(kit, hierarchy):
    own, class_mask = dataclasses.replace(kit, branches={"0.bias": torch.zeros(1)}), hierarchy.class_mask(["arrows"])
    shared, reached = (kit.expected(class_mask, torch.tensor([4e5]), count) for count in (0, 1))
    assert torch.equal(own.expected_top1(class_mask, torch.tensor([4e5])), reached) and not torch.equal(shared, reached)
    assert torch.equal(kit.expected_top1(class_mask, torch.tensor([4e5])), shared)


def test_the_cheapest_network_for_an_accuracy_is_the_cheapest(kit, hierarchy):
    class_mask, space = hierarchy.class_mask(["arrows", "0"]), kit.supernet.space
    budgets = torch.linspace(3e5, 6e5, 64, dtype=torch.float64)
    archs = kit.generator.generate(class_mask.expand(64, -1), budgets)
    madds = space.madds(archs, class_mask.sum())
    top1 = kit.expected_top1(class_mask, madds)[:, 0]
    wanted = (top1.min() + 0.7 * (top1.max() - top1.min())).item()
    _, card = kit.specialize(["arrows", "0"], top1=wanted)
    assert card.madds == madds[top1 >= wanted].min() and card.expected_top1[0] >= wanted - 0.01
    assert kit.specialize(["arrows", "0"], top1=0)[1].madds == madds.min()


def test_an_accuracy_can_be_asked_for_where_outputs_for_strangers_cost_more_than_the_least_budget(kit):
    space = kit.supernet.space
    kit.generator.budget_range[0] = int(space.madds(space.smallest, 2))
    assert kit.specialize(["0", "1"], top1=0, refuse=True)[1].strangers


def test_of_classes_without_images_nothing_is_expected(kit):
    known = kit.expected
    digits = kit.hierarchy.class_mask(["digits"])[known.labels]
    fewer = dataclasses.replace(known, answers=known.answers[:, ~digits], labels=known.labels[~digits])
    kit = dataclasses.replace(kit, expected=fewer)
    assert kit.specialize("digits", 5e5)[1].expected_top1 is None and kit.specialize("arrows", 5e5)[1].expected_top1
    with pytest.raises(ValueError, match="does not know what networks for these classes reach"):
        kit.specialize("digits", top1=10)


def test_an_accuracy_that_is_out_of_reach_is_an_error_that_says_what_is_not(kit, supernet, dataset):
    with pytest.raises(ValueError, match=r"no network is expected to reach 100 %: the best \d+\.\d %, with 0\.\d+M"):
        kit.specialize(["arrows", "digits"], top1=100)
    for wrong in ({}, {"budget_madds": 5e5, "top1": 90}):
        with pytest.raises(ValueError, match="give either a budget of multiply-adds, or other bounds, or a top-1"):
            kit.specialize(["arrows"], **wrong)
    unknowing = make_kit(supernet, dataset)
    assert unknowing.specialize(["arrows"], 5e5)[1].expected_top1 is None
    with pytest.raises(ValueError, match="does not know what networks for these classes reach"):
        unknowing.specialize(["arrows"], top1=50)


def test_a_kit_is_read_back_with_what_it_expects(kit, dataset, tmp_path):
    folder = write_tiny_kit(tmp_path, kit, dataset)
    read = load_kit(folder)
    assert all(torch.equal(tensor, getattr(kit.expected, name)) for name, tensor in vars(read.expected).items())


def test_what_it_expects_is_near_what_its_networks_reach(kit, supernet, dataset):
    """On the very images and archs that it has: only eight bits and half an image lie between."""
    space, classes = supernet.space, torch.zeros(160, dtype=torch.bool).index_fill(0, torch.arange(0, 160, 9), True)
    archs, calibration = torch.stack([space.smallest, space.largest]), calibration_sample(dataset.calibration, 50)
    measured = measure_archs(supernet, archs, classes.expand(2, -1), calibration, dataset.selection)
    expected = kit.expected_top1(classes, space.madds(archs, 160))[:, 0]
    assert (measured - expected).abs().max() < 3
