"""Calibration and superclass top-1."""

from __future__ import annotations

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
    """Logits [n, classes] of one calibrated arch on the images of `split`.

    A batch that fits the processor's cache is twice as fast on a CPU; a GPU wants a large one.
    """
    statistics = FixedStatistics(calibrate(supernet, arch, calibration).recorded)
    batch = batch or (2000 if split.images.is_cuda else 250)
    return torch.cat([supernet(as_input(images), arch, statistics) for images in split.images.split(batch)])


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
