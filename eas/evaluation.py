"""Calibration and superclass top-1."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from eas.data import Split
from eas.data.batches import as_input
from eas.dropout import mask_logits
from eas.layers import CalibratedStatistics, FixedStatistics, Statistics
from eas.ranks import ALONE, Ranks
from eas.spaces import Supernet

MOST_BYTES = 4 * 2**30  # that SharedStem keeps
PATIENT = {"mininterval": 1, "delay": 2, "leave": False}  # a bar, seconds: only where there is something to wait for
Maps = tuple[Tensor, ...]


@torch.inference_mode()
def calibrate(supernet: Supernet, arch: Tensor, calibration: Split, ranks: Ranks = ALONE) -> CalibratedStatistics:
    """Batch-norm statistics of one arch, from one pass over all calibration images, on the supernet's device.

    Of several `ranks` each gives its share of the images, and gets the statistics of all.
    """
    statistics = CalibratedStatistics(ranks)
    supernet(as_input(calibration.images, supernet.mean.device), arch, statistics)
    return statistics


class SharedStem:
    """Many archs measured on the same images: what they have in common ran once, and stays in memory.

    For a PreResNet that is two feature maps of the first stage, of all calibration images and all images of `split`;
    where images have several sizes, of each of them. What would take more than MOST_BYTES is not kept: then every arch
    runs from the images. Of several `ranks` each has its share of both; `split` is then this one's, and all have to ask
    for the logits of the same archs.
    """

    @torch.inference_mode()
    def __init__(self, supernet: Supernet, archs: Tensor, calibration: Split, split: Split, ranks: Ranks = ALONE):
        images = (len(calibration) + len(split)) // ranks.count  # the same on all, who have to agree on what is kept
        calibration, split = (each[ranks.share(len(each))] for each in (calibration, split))
        self.supernet, self.calibration, self.split, self.ranks = supernet, calibration, split, ranks
        self.batch, pixels = batch_size(split), torch.tensor([supernet.pixels(arch) for arch in archs])
        self.kept: dict[int, tuple[Maps, Maps]] = {}  # by size of images: of those to calibrate on, and of the others
        room = MOST_BYTES
        for size in pixels.unique().tolist():
            group = archs[pixels == size]
            one = supernet.run_stem(self.scaled(calibration.images[:2], group), group, Statistics())
            room -= sum(each.nbytes for each in one) // len(one[0]) * images
            if room >= 0:
                self.kept[size] = self.run(group)

    def scaled(self, images: Tensor, archs: Tensor) -> Tensor:
        """uint8 images as archs of one size of images read them."""
        return self.supernet.scaled(as_input(images, self.supernet.mean.device), archs[0])

    def run(self, archs: Tensor) -> tuple[Maps, Maps]:
        """The stem's maps of all images, for archs of one size of images."""
        statistics, whole = CalibratedStatistics(self.ranks), []
        calibrated = self.supernet.run_stem(self.scaled(self.calibration.images, archs), archs, statistics)
        fixed = FixedStatistics(statistics.recorded)
        for start in range(0, len(self.split), self.batch):
            images = self.scaled(self.split.images[start : start + self.batch], archs)
            maps = self.supernet.run_stem(images, archs, fixed)
            if not whole:  # filled batch by batch: joined at the end, they would be there twice
                kind = {"dtype": maps[0].dtype, "device": maps[0].device, "memory_format": torch.channels_last}
                whole = [torch.empty(len(self.split), *each.shape[1:], **kind) for each in maps]
            for all_of_it, each in zip(whole, maps, strict=True):
                all_of_it[start : start + len(each)] = each
        return calibrated, tuple(whole)

    @torch.inference_mode()
    def logits(self, arch: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Logits [n, classes] of one of the archs, calibrated; on the `chosen` images (bool [n]) only, where given."""
        if (size := self.supernet.pixels(arch)) not in self.kept:
            fixed = FixedStatistics(calibrate(self.supernet, arch, self.calibration, self.ranks).recorded)
            images = self.split.images if chosen is None else self.split.images[chosen.to(self.split.images.device)]
            inputs = (as_input(each, self.supernet.mean.device) for each in images.split(self.batch))
            return torch.cat([self.supernet(each, arch, fixed) for each in inputs])
        statistics, (calibrated, maps) = CalibratedStatistics(self.ranks), self.kept[size]
        self.supernet.run_rest(self.supernet.stem_part(calibrated, arch), arch, statistics)
        fixed = FixedStatistics(statistics.recorded)
        picked = maps if chosen is None else [each[chosen] for each in maps]
        batches = zip(*(each.split(self.batch) for each in picked), strict=True)
        parts = (self.supernet.stem_part(each, arch) for each in batches)
        return torch.cat([self.supernet.run_rest(part, arch, fixed) for part in parts])


def calibration_sample(calibration: Split, count: int) -> Split:
    """The first `count` images of a fixed shuffle of the calibration split: a sample of all classes."""
    rows = torch.randperm(len(calibration), generator=torch.Generator().manual_seed(0))[:count]
    rows = rows.to(calibration.labels.device)
    return calibration[rows].decoded()


def measure_archs(supernet: Supernet, archs: Tensor, class_masks: Tensor, calibration: Split, split: Split) -> Tensor:
    """Superclass top-1 in percent of every (arch, scenario) pair, float [n]; an arch that occurs twice is run once.

    `archs` int64 [n, decisions], `class_masks` bool [n, classes]. ValueError where a scenario has no images.
    """
    if not len(split):
        raise ValueError("no images to measure on: a step that is not said to test is given no test images")
    if not (there := has_images(class_masks, split)).all():
        raise ValueError(f"no image to measure on is of the classes of scenario {int((~there).nonzero()[0])}")
    distinct, member = archs.unique(dim=0, return_inverse=True)
    images, top1 = split.only(class_masks.any(0)), torch.empty(len(archs))
    stem = SharedStem(supernet, distinct, calibration, images)
    for index, arch in enumerate(tqdm(distinct, "measuring archs", **PATIENT)):
        rows = (member == index).nonzero()[:, 0]
        chosen = class_masks[rows].any(0).to(images.labels.device)[images.labels]
        logits, labels = stem.logits(arch, chosen), images.labels[chosen]
        top1[rows] = superclass_top1(logits, labels, class_masks[rows])
    return top1


def has_images(class_masks: Tensor, split: Split) -> Tensor:
    """Whether a split has an image of any of a scenario's classes (bool [n, classes]), bool [n]."""
    return (class_masks.cpu() & (split.labels.cpu().bincount(minlength=class_masks.shape[1]) > 0)).any(1)


def batch_size(split: Split) -> int:
    """A batch that fits the processor's cache is twice as fast on a CPU; a GPU wants a large one."""
    images = 2000 if split.labels.is_cuda else 250  # of 32 pixels
    return max(16, images * 32**2 // max(32, split.images.shape[-1]) ** 2)


def superclass_top1(logits: Tensor, labels: Tensor, class_masks: Tensor) -> Tensor:
    """Accuracy in percent for every scenario, float [scenarios].

    On the images of the scenario's classes (`class_masks`, bool [scenarios, classes]), argmax over those classes only.
    """
    masks = class_masks.to(logits.device)
    top1 = [correct(logits[own], labels[own], mask).float().mean() * 100 for mask in masks for own in [mask[labels]]]
    return torch.stack(top1).cpu()


def correct(logits: Tensor, labels: Tensor, class_mask: Tensor) -> Tensor:
    """Whether the argmax over the mask's classes (bool, broadcastable to [n, classes]) is the label, bool [n]."""
    return mask_logits(logits, class_mask).argmax(-1) == labels


def own_superclass_correct(logits: Tensor, labels: Tensor, parent: Tensor) -> Tensor:
    """Whether the argmax over the classes of the image's own superclass is right, bool [n]."""
    parent = parent.to(labels.device)
    return correct(logits, labels, parent[labels][:, None] == parent)
