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
    """Logits [n, classes] of one calibrated arch on the images of `split`."""
    statistics = FixedStatistics(calibrate(supernet, arch, calibration).recorded)
    batches = split.images.split(batch or batch_size(split))
    return torch.cat([supernet(as_input(images), arch, statistics) for images in batches])


class Begun:
    """Many archs measured on the same images: what they have in common ran once, and stays in memory.

    That is two feature maps of the first stage, of all calibration images and all images of `split`.
    """

    @torch.inference_mode()
    def __init__(self, supernet: Supernet, archs: Tensor, calibration: Split, split: Split):
        self.supernet, self.count, self.batch = supernet, len(calibration), batch_size(split)
        statistics = CalibratedStatistics(self.count)
        self.calibration = supernet.begin(as_input(calibration.images), archs, statistics)
        fixed = FixedStatistics(statistics.recorded)
        self.images: list[Tensor] = []
        for index, images in enumerate(split.images.split(self.batch)):
            maps = supernet.begin(as_input(images), archs, fixed)
            if not self.images:  # filled batch by batch: joined at the end, they would be there twice
                kind = {"dtype": maps[0].dtype, "device": maps[0].device, "memory_format": torch.channels_last}
                self.images = [torch.empty(len(split), *each.shape[1:], **kind) for each in maps]
            for whole, each in zip(self.images, maps, strict=True):
                whole[index * self.batch :][: len(each)] = each

    @torch.inference_mode()
    def logits(self, arch: Tensor, chosen: Tensor | None = None) -> Tensor:
        """As `subnet_logits`, of one of the archs; on the `chosen` images (bool [n]) only, where that is given."""
        statistics = CalibratedStatistics(self.count)
        self.supernet.finish(*self.calibration, arch, statistics)
        fixed = FixedStatistics(statistics.recorded)
        images = self.images if chosen is None else [each[chosen] for each in self.images]
        batches = zip(*(each.split(self.batch) for each in images), strict=True)
        return torch.cat([self.supernet.finish(*each, arch, fixed) for each in batches])


def measure_archs(supernet: Supernet, archs: Tensor, kept: Tensor, calibration: Split, split: Split) -> Tensor:
    """Superclass top-1 in percent of every (arch, scenario) pair, float [n]; an arch that occurs twice is run once.

    `archs` int64 [n, decisions], `kept` bool [n, classes].
    """
    distinct, member = archs.unique(dim=0, return_inverse=True)
    images, top1 = split.only(kept.any(0)), torch.empty(len(archs))
    shared = Begun(supernet, distinct, calibration, images)
    for index, arch in enumerate(distinct):
        rows = (member == index).nonzero()[:, 0]
        chosen = kept[rows].any(0).to(images.labels.device)[images.labels]
        logits, labels = shared.logits(arch, chosen), images.labels[chosen]
        top1[rows] = superclass_top1(logits, labels, kept[rows])
    return top1


def batch_size(split: Split) -> int:
    """A batch that fits the processor's cache is twice as fast on a CPU; a GPU wants a large one."""
    return 2000 if split.images.is_cuda else 250


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
