"""Calibration and superclass top-1."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from eas.data import Split, as_input
from eas.dropout import mask_logits
from eas.layers import CalibratedStatistics, FixedStatistics
from eas.supernet import Supernet


@torch.inference_mode()
def calibrate(supernet: Supernet, arch: Tensor, calibration: Split) -> CalibratedStatistics:
    """Batch-norm statistics of one arch, from one pass over all calibration images, on the supernet's device."""
    statistics = CalibratedStatistics(len(calibration))
    supernet(as_input(calibration.images), arch, statistics)
    return statistics


@torch.inference_mode()
def subnet_logits(
    supernet: Supernet, arch: Tensor, calibration: Split, split: Split, batch: int | None = None
) -> Tensor:
    """Logits [n, classes] of one calibrated arch on the images of `split`."""
    statistics = FixedStatistics(calibrate(supernet, arch, calibration).recorded)
    return torch.cat([supernet(as_input(images), arch, statistics) for images in parts(split, batch)])


@torch.inference_mode()
def logits_of_each(supernet: Supernet, archs: Tensor, calibration: Split, split: Split) -> Iterator[Tensor]:
    """`subnet_logits` of archs [n, decisions], one after another; what they have in common runs once.

    It stays in memory: two feature maps of the first stage, of all images.
    """
    statistics = CalibratedStatistics(len(calibration))
    begun = supernet.begin(as_input(calibration.images), archs, statistics)
    fixed = FixedStatistics(statistics.recorded)
    batches = [supernet.begin(as_input(images), archs, fixed) for images in parts(split)]
    for arch in archs:
        statistics = CalibratedStatistics(len(calibration))
        supernet.finish(*begun, arch, statistics)
        fixed = FixedStatistics(statistics.recorded)
        yield torch.cat([supernet.finish(*each, arch, fixed) for each in batches])


def parts(split: Split, batch: int | None = None) -> tuple[Tensor, ...]:
    """Images in batches: those that fit the processor's cache are twice as fast on a CPU; a GPU wants large ones."""
    return split.images.split(batch or (2000 if split.images.is_cuda else 250))


def superclass_top1(logits: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
    """Accuracy in percent for every scenario, float [scenarios].

    On the images of the scenario's classes (`kept`, bool [scenarios, classes]), argmax over those classes only.
    """
    kept = kept.to(logits.device)
    return torch.stack([correct(logits, labels, row)[row[labels]].float().mean() * 100 for row in kept]).cpu()


def correct(logits: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
    """Whether the argmax over the kept classes (bool, broadcastable to [n, classes]) is the label, bool [n]."""
    return mask_logits(logits, kept).argmax(-1) == labels


def own_superclass_correct(logits: Tensor, labels: Tensor, parent: Tensor) -> Tensor:
    """Whether the argmax over the classes of the image's own superclass is right, bool [n]."""
    parent = parent.to(labels.device)
    return correct(logits, labels, parent[labels][:, None] == parent)
