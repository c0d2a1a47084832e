"""Calibration and superclass top-1, against loops that are too simple to be wrong."""

import pytest
import reference
import torch
from cases import random_class_masks, seeded
from torch import nn

from eas import evaluation
from eas.data import Split
from eas.data.batches import as_input
from eas.evaluation import (
    SharedStem,
    calibrate,
    calibration_sample,
    correct,
    measure_archs,
    own_superclass_correct,
    superclass_top1,
)
from eas.layers import ElasticNorm

PARENT = torch.tensor([0, 0, 1, 2, 2, 2, 2, 3, 3, 3])  # four superclasses of 2, 1, 4 and 3 classes
CLASSES = len(PARENT)


def random_case(count=300):
    logits = torch.randn(count, CLASSES, generator=seeded())
    labels = torch.randint(CLASSES, (count,), generator=seeded(1))
    logits[torch.arange(count), labels] += 1  # better than chance
    return logits, labels


@pytest.fixture
def lively(supernet):
    """The tiny supernet with random norms and biases."""
    with torch.no_grad():
        for parameter in supernet.parameters():
            if parameter.ndim == 1:
                parameter += torch.randn(parameter.shape, generator=seeded(3)) * 0.3
    return supernet


@pytest.fixture(scope="module")
def archs(space):
    return torch.stack([space.largest, space.smallest, *space.sample(3, seeded())])


# -------------------------------------------------------------------- superclass top-1


def test_superclass_top1_equals_a_naive_loop():
    logits, labels = random_case()
    masks = random_class_masks(40, CLASSES)
    masks[0] = True
    masks[1] = PARENT == 1  # a single class: never wrong
    found = superclass_top1(logits, labels, masks)
    for scenario, accuracy in zip(masks.tolist(), found.tolist(), strict=True):
        right, images = 0, 0
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
            if scenario[label]:
                images += 1
                best = max((c for c in range(CLASSES) if scenario[c]), key=lambda c, row=row: row[c])
                right += best == label
        assert accuracy == pytest.approx(100 * right / images, abs=1e-4)
    assert found.shape == (40,) and found[1] == 100 and found.min() < 60


def test_superclass_top1_ignores_the_logits_of_other_classes():
    logits, labels = random_case()
    masks = (PARENT == 2)[None]
    expected = superclass_top1(logits, labels, masks)
    logits[:, PARENT != 2] += 1000
    assert torch.equal(superclass_top1(logits, labels, masks), expected)
    assert (superclass_top1(-logits.abs() - 1, labels, masks) > 0).all()  # no zero stands in for what is left out


def test_correct_takes_one_set_of_classes_or_one_for_every_image():
    logits, labels = random_case()
    one = correct(logits, labels, PARENT == 2)
    assert one.dtype == torch.bool and torch.equal(one, correct(logits, labels, (PARENT == 2).expand(300, -1)))
    assert not one[PARENT[labels] != 2].any()
    flat = correct(logits, labels, torch.ones(CLASSES, dtype=torch.bool))
    assert torch.equal(flat, logits.argmax(1) == labels)


def test_own_superclass_correct_equals_a_naive_loop():
    logits, labels = random_case()
    found = own_superclass_correct(logits, labels, PARENT)
    for row, label, right in zip(logits, labels.tolist(), found.tolist(), strict=True):
        siblings = [c for c in range(CLASSES) if PARENT[c] == PARENT[label]]
        assert right == (max(siblings, key=lambda c, row=row: row[c]) == label)
    assert found[labels == 2].all()  # the only class of its superclass
    for superclass in range(4):
        top1 = superclass_top1(logits, labels, (superclass == PARENT)[None])
        assert top1.item() == pytest.approx(found[PARENT[labels] == superclass].float().mean().item() * 100)
    flat = logits.argmax(1) == labels
    assert found[flat].all() and found.sum() > flat.sum()


# -------------------------------------------------------------------- calibration


def test_calibration_is_that_of_all_its_images(lively, archs, dataset):
    part, calibration = Split(dataset.test.images[:40], dataset.test.labels[:40]), dataset.calibration
    whole = reference.subnet_logits(lively, archs[0], calibration, part)
    some, order = calibration_sample(calibration, 20), torch.randperm(len(calibration), generator=seeded())
    shuffled = Split(calibration.images[order], calibration.labels[order])
    assert (reference.subnet_logits(lively, archs[0], some, part) - whole).abs().max() > 1e-3
    found = reference.subnet_logits(lively, archs[0], shuffled, part)
    torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-4)


def test_calibrated_statistics_are_those_that_torch_batch_norm_would_record(lively, archs, dataset):
    for arch in archs:
        network = lively.extract(arch, range(160), calibrate(lively, arch, dataset.calibration))
        norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
        recorded = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
        counts = {}

        def count(layer, inputs, counts=counts):
            counts[layer] = inputs[0].numel() / inputs[0].shape[1]

        for norm in norms:
            norm.momentum = None  # the plain average, of one batch here
            norm.reset_running_stats()
            norm.register_forward_pre_hook(count)
        with torch.no_grad():
            network.train()(as_input(dataset.calibration.images))
        for norm, (mean, variance) in zip(norms, recorded, strict=True):
            biased = norm.running_var * (counts[norm] - 1) / counts[norm]
            torch.testing.assert_close(mean, norm.running_mean, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(variance, biased, rtol=1e-3, atol=1e-4)


def test_only_the_norms_of_the_arch_are_recorded_at_its_widths(lively, archs, space, dataset):
    names = {norm: name for name, norm in lively.named_modules() if isinstance(norm, ElasticNorm)}
    for arch in archs:
        recorded = calibrate(lively, arch, dataset.calibration).recorded
        widths = {names[norm]: len(mean) for norm, (mean, _) in recorded.items()}
        expected = {"norm": space.widths[-1]}
        for stage, inner in enumerate(space.describe(arch)):
            for block, channels in enumerate(inner):
                entering = space.widths[stage - 1] if stage and not block else space.widths[stage]
                expected |= {f"stages.{stage}.{block}.norm1": entering, f"stages.{stage}.{block}.norm2": channels}
        assert widths == expected


# -------------------------------------------------------------------- many archs on the same images


@pytest.mark.parametrize("batch", [None, 70])
def test_archs_that_share_a_stem_get_the_logits_that_they_get_alone(batch, lively, archs, dataset, monkeypatch):
    if batch:
        monkeypatch.setattr(evaluation, "batch_size", lambda split: batch)
    part = Split(dataset.test.images[:300], dataset.test.labels[:300])  # more than a batch
    stem, chosen = SharedStem(lively, archs, dataset.calibration, part), part.labels % 3 == 0
    assert len({lively.first_inner(arch) for arch in archs}) > 1 and chosen.any()
    for arch in archs:
        alone = reference.subnet_logits(lively, arch, dataset.calibration, part)
        assert alone.shape == (300, 160) and alone.std(0).min() > 1e-3
        torch.testing.assert_close(stem.logits(arch), alone, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(stem.logits(arch, chosen), alone[chosen], rtol=1e-4, atol=1e-4)


def test_a_scenario_without_images_is_named(lively, archs, dataset):
    few = dataset.selection.only(dataset.selection.labels == 0)
    masks = torch.zeros(2, 160, dtype=torch.bool)
    masks[0, 0] = masks[1, 1] = True
    with pytest.raises(ValueError, match="no image to measure on is of the classes of scenario 1"):
        measure_archs(lively, archs[:2], masks, dataset.calibration, few)


def test_measuring_does_not_change_the_supernet(lively, archs, dataset):
    before = {name: tensor.clone() for name, tensor in lively.state_dict().items()}
    mode, masks = lively.training, random_class_masks(len(archs))
    measure_archs(lively, archs, masks, dataset.calibration, dataset.selection)
    after = lively.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert lively.training == mode and all(parameter.grad is None for parameter in lively.parameters())


def test_measured_is_what_extracted_networks_get_right(lively, archs, dataset):
    rows, masks = torch.tensor([0, 3, 1, 3, 2, 3]), random_class_masks(6)  # one arch for several scenarios
    calibration, split = dataset.calibration, dataset.selection
    found = measure_archs(lively, archs[rows], masks, calibration, split)
    assert found.shape == (6,) and len(found.unique()) == 6
    for arch, mask, top1 in zip(archs[rows], masks, found.tolist(), strict=True):
        classes = mask.nonzero()[:, 0]
        network, images = lively.extract(arch, classes.tolist(), calibrate(lively, arch, calibration)), split.only(mask)
        with torch.no_grad():
            answers = classes[network(as_input(images.images)).argmax(1)]
        assert top1 == pytest.approx(100 * (answers == images.labels).float().mean().item(), abs=0.3)  # a tie, at most


def test_the_sample_for_calibration(dataset):
    whole, rest = dataset.calibration, 10**6
    some = calibration_sample(whole, 20)
    assert len(some) == 20 and len(calibration_sample(whole, rest)) == len(whole)
    assert torch.equal(some.labels, calibration_sample(whole, 20).labels)
