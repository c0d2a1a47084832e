"""One training on several processes: it is the training of one that sees the parts of every batch apart."""

import socket
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from eas import data
from eas.data.batches import batches
from eas.dropout import SuperclassDropout
from eas.evaluation import SharedStem, calibrate
from eas.ranks import ALONE, Ranks, join
from eas.recipes import Augment, Dropout, Training
from eas.sandwich import sliced_step
from eas.spaces import SPACES
from eas.training import train

SOURCE = {"kind": "glyphs", "image_size": 16, "per_typeface": 1, "selection": 0.25, "calibration": 0.1, "seed": 0}
SPACE = {"kind": "preresnet", "widths": [8, 16], "depths": [1, 2], "ratios": [0.25, 0.5, 1.0]}
RECIPE = Training(epochs=2, batch_size=64, learning_rate=0.2, random_subnets=1, augment=Augment(shift=2, flip=True))
DROPOUTS = [Dropout(variant="own", rate=0.9), Dropout(variant="batch", rate=0.5)]
COUNTS = [64, 75]  # images to calibrate on


def parts():
    """A small data set, an untrained supernet of it, always the same."""
    dataset, _ = data.build(data.SOURCES.validate(SOURCE))
    split = data.Split(dataset.train.images[:640], dataset.train.labels[:640])
    torch.manual_seed(0)
    supernet = SPACES.validate(SPACE).build(16, 1).supernet(160, dataset.mean, dataset.std)
    return dataset, split, supernet


def trained(dropout, recipe=RECIPE, **options):
    dataset, split, supernet = parts()
    history = train(supernet, split, SuperclassDropout(dataset.hierarchy.parent, dropout), recipe, seed=3, **options)
    return history, supernet


def apart(supernet, recipe, count):
    """A step of one process that normalises `count` parts of a batch apart."""
    ranks = [Ranks(index, count) for index in range(count)]

    def step(images, targets, class_mask, weight, archs):
        total, sums = torch.zeros(()), [torch.zeros_like(p) for p in supernet.parameters()]
        for rank in ranks:
            supernet.zero_grad(set_to_none=False)
            own = rank.part(len(images))
            loss = sliced_step(supernet, recipe, images[own], targets[own], class_mask[own], weight[own], archs)
            share = weight[own].sum().clamp_min(1) / weight.sum().clamp_min(1)
            total += loss * share
            sums = [each + p.grad * share for each, p in zip(sums, supernet.parameters(), strict=True)]
        for parameter, each in zip(supernet.parameters(), sums, strict=True):
            parameter.grad = each
        return total

    return step


def one_rank(index, count, port, asked, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=index, world_size=count)
    for place, (function, argument) in enumerate(asked):
        torch.save(function(argument, Ranks(index, count)), f"{folder}/{place}-{index}.pt")
    dist.destroy_process_group()


def training_of(dropout, ranks):
    history, supernet = trained(dropout, ranks=ranks)
    return history, supernet.state_dict()


def calibration_of(count, ranks):
    """What the norms of an arch record, of so many images, and its logits of ten others."""
    dataset, split, supernet = parts()
    arch = supernet.space.sample(1, torch.Generator().manual_seed(0))[0]
    recorded = calibrate(supernet, arch, split[:count][ranks.share(count)], ranks).recorded
    stem = SharedStem(supernet, arch[None], split[:count], dataset.selection[:11], ranks)
    names = {module: name for name, module in supernet.named_modules()}
    return {names[norm]: moments for norm, moments in recorded.items()}, stem.logits(arch)


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    """What two processes have saved of a function and an argument: they are started once, and do all of it."""
    asked = [*((training_of, dropout) for dropout in DROPOUTS), *((calibration_of, count) for count in COUNTS)]
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(one_rank, (2, port, asked, str(folder)), 2)

    def saved(*one):
        return [torch.load(folder / f"{asked.index(one)}-{index}.pt", weights_only=True) for index in range(2)]

    return saved


@pytest.mark.parametrize("dropout", DROPOUTS, ids=lambda each: each.name)
def test_two_processes_train_what_one_does_that_sees_the_halves_apart(dropout, on_two):
    dataset, split, supernet = parts()
    for parameter in supernet.parameters():
        parameter.grad = torch.zeros_like(parameter)
    classes = SuperclassDropout(dataset.hierarchy.parent, dropout)
    expected = train(supernet, split, classes, RECIPE, seed=3, step_function=apart(supernet, RECIPE, 2))
    (first, weights), (second, others) = on_two(training_of, dropout)
    for name, tensor in supernet.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-5, atol=1e-5)
        assert torch.equal(weights[name], others[name])
    for rows in (first, second):
        assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], abs=1e-5)
    alone, whole = trained(dropout)
    assert not torch.equal(whole.state_dict()["stem.weight"], weights["stem.weight"])  # norms see halves


@pytest.mark.parametrize("count", COUNTS)
def test_two_processes_calibrate_as_one_does_on_all_images(count, on_two):
    expected, logits = calibration_of(count, ALONE)
    (first, part), (second, rest) = on_two(calibration_of, count)
    assert len(part) == 5 and len(rest) == 6
    torch.testing.assert_close(torch.cat([part, rest]), logits, rtol=1e-4, atol=1e-5)
    assert expected.keys() == first.keys() == second.keys() and len(expected) > 3
    for name, moments in expected.items():
        for mine, others, alone in zip(first[name], second[name], moments, strict=True):
            assert torch.equal(mine, others)
            torch.testing.assert_close(mine, alone, rtol=1e-5, atol=1e-6)
    halves, _ = calibration_of(count // 2, ALONE)  # what one would record without the other is not it
    assert all((halves[name][0] - mean).abs().max() > 1e-4 for name, (mean, _) in expected.items())


def test_images_are_divided_and_changed_as_for_one():
    _, split, _ = parts()
    augment = Augment(shift=2, flip=True, cutout=4)

    def epoch(ranks):
        return list(batches(split, 64, augment, torch.Generator().manual_seed(1), 0, ranks))

    whole, halves = epoch(ALONE), [epoch(Ranks(index, 2)) for index in range(2)]
    for (images, labels), *both in zip(whole, *halves, strict=True):
        assert torch.equal(torch.cat([half for half, _ in both]), images)
        assert all(torch.equal(told, labels) for _, told in both)


def test_a_batch_that_cannot_be_divided_is_told_before_any_step():
    with pytest.raises(ValueError, match="a batch of 64 images cannot be divided among 3 processes"):
        trained(DROPOUTS[0], ranks=replace(ALONE, count=3))


def test_without_torchrun_there_is_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join() is ALONE and ALONE.writes and ALONE.part(10) == slice(0, 10)
