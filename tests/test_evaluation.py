"""Calibration and superclass top-1, against loops that are too simple to be wrong."""

import pytest
import torch
from torch import nn

from eas.data import Split, as_input
from eas.evaluation import Begun, calibrate, correct, own_superclass_correct, subnet_logits, superclass_top1
from eas.layers import CalibratedStatistics, ElasticNorm, FixedStatistics
from eas.supernet import extract

PARENT = torch.tensor([0, 0, 1, 2, 2, 2, 2, 3, 3, 3])  # four superclasses of 2, 1, 4 and 3 classes
CLASSES = len(PARENT)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


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
    kept = torch.rand(40, CLASSES, generator=seeded(2)) < 0.5
    kept[:, 0] |= ~kept.any(1)
    kept[0] = True
    kept[1] = PARENT == 1  # a single class: never wrong
    found = superclass_top1(logits, labels, kept)
    for scenario, accuracy in zip(kept.tolist(), found.tolist(), strict=True):
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
    kept = (PARENT == 2)[None]
    expected = superclass_top1(logits, labels, kept)
    logits[:, PARENT != 2] += 1000
    assert torch.equal(superclass_top1(logits, labels, kept), expected)
    assert (superclass_top1(-logits.abs() - 1, labels, kept) > 0).all()  # no zero stands in for what is dropped


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


def test_calibrated_logits_do_not_depend_on_the_evaluation_batch(lively, archs, dataset):
    part = Split(dataset.test.images[:60], dataset.test.labels[:60])
    for arch in archs:
        whole = subnet_logits(lively, arch, dataset.calibration, part)
        assert whole.shape == (60, 160) and whole.std(0).min() > 1e-3
        for batch in (1, 7, 60):
            found = subnet_logits(lively, arch, dataset.calibration, part, batch)
            torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)


def test_archs_that_share_their_beginning_get_the_logits_that_they_get_alone(lively, archs, dataset):
    part = Split(dataset.test.images[:300], dataset.test.labels[:300])  # more than a batch
    begun, chosen = Begun(lively, archs, dataset.calibration, part), part.labels % 3 == 0
    assert len({lively.first_inner(arch) for arch in archs}) > 1 and chosen.any()
    for arch in archs:
        alone = subnet_logits(lively, arch, dataset.calibration, part)
        torch.testing.assert_close(begun.logits(arch), alone, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(begun.logits(arch, chosen), alone[chosen], rtol=1e-4, atol=1e-4)


def test_calibrated_logits_do_not_depend_on_the_other_images(lively, archs, dataset):
    first = Split(dataset.test.images[:20], dataset.test.labels[:20])
    mixed = Split(torch.cat([first.images, 255 - dataset.test.images[:30]]), dataset.test.labels[:50])
    alone = subnet_logits(lively, archs[2], dataset.calibration, first)
    torch.testing.assert_close(subnet_logits(lively, archs[2], dataset.calibration, mixed)[:20], alone)


def test_calibration_matters_and_is_that_of_all_its_images(lively, archs, dataset):
    part = Split(dataset.test.images[:40], dataset.test.labels[:40])
    calibration = dataset.calibration
    some = Split(calibration.images[:20], calibration.labels[:20])
    whole = subnet_logits(lively, archs[0], calibration, part)
    assert (subnet_logits(lively, archs[0], some, part) - whole).abs().max() > 1e-3
    order = torch.randperm(len(calibration), generator=seeded())
    shuffled = Split(calibration.images[order], calibration.labels[order])
    torch.testing.assert_close(subnet_logits(lively, archs[0], shuffled, part), whole, rtol=1e-3, atol=1e-4)


def test_calibrated_statistics_are_those_that_torch_batch_norm_would_record(lively, archs, dataset):
    for arch in archs:
        statistics = calibrate(lively, arch, dataset.calibration)
        network = extract(lively, arch, range(160), statistics)
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


def test_calibration_does_not_change_the_supernet(lively, archs, dataset):
    before = {name: tensor.clone() for name, tensor in lively.state_dict().items()}
    mode = lively.training
    for arch in archs:
        statistics = calibrate(lively, arch, dataset.calibration)
        subnet_logits(lively, arch, dataset.calibration, dataset.selection)
        assert isinstance(statistics, CalibratedStatistics) and statistics.images == len(dataset.calibration)
    after = lively.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert lively.training == mode and all(parameter.grad is None for parameter in lively.parameters())


def test_only_the_norms_of_the_arch_are_recorded_at_its_widths(lively, archs, space, dataset):
    names = {norm: name for name, norm in lively.named_modules() if isinstance(norm, ElasticNorm)}
    for arch in archs:
        recorded = calibrate(lively, arch, dataset.calibration).recorded
        widths = {names[norm]: mean.shape[-1] for norm, (mean, _) in recorded.items()}
        expected = {"norm": space.widths[-1]}
        for stage, inner in enumerate(space.describe(arch)):
            for block, channels in enumerate(inner):
                entering = space.widths[stage - 1] if stage and not block else space.widths[stage]
                expected |= {f"stages.{stage}.{block}.norm1": entering, f"stages.{stage}.{block}.norm2": channels}
        assert widths == expected


def test_measured_is_what_an_extracted_network_does(lively, archs, dataset):
    part = Split(dataset.test.images[:50], dataset.test.labels[:50])
    for arch in archs:
        network = extract(lively, arch, range(160), calibrate(lively, arch, dataset.calibration))
        with torch.no_grad():
            alone = network(as_input(part.images))
        measured = subnet_logits(lively, arch, dataset.calibration, part)
        torch.testing.assert_close(measured, alone, rtol=1e-4, atol=1e-4)
        fixed = FixedStatistics(calibrate(lively, arch, dataset.calibration).recorded)
        with torch.no_grad():
            torch.testing.assert_close(lively(as_input(part.images), arch, fixed), alone, rtol=1e-4, atol=1e-4)
