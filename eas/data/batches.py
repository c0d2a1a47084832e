"""Batches on the device: random order, random changes, float images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from eas import devices
from eas.data.base import Split
from eas.data.photographs import Photographs, load_batches
from eas.ranks import ALONE, Ranks
from eas.recipes import Augment

Batches = Iterator[tuple[Tensor, Tensor]]


def batches(
    split: Split, size: int, augment: Augment, generator: torch.Generator, skip: int = 0, ranks: Ranks = ALONE
) -> Batches:
    """One epoch in random order: float images [size, channels, side, side] in [0, 1] and labels; the rest is left out.

    `generator` is on the split's device; a split smaller than `size` is one batch. The first `skip` batches are of an
    epoch that is gone on with: nothing is read for them, and their images may be black. Of several `ranks` each gets
    the images of its part, and all labels.

    Raises:
        ValueError: there are no images, or `augment` shifts them by their own side or more; see also Ranks.part.
    """
    if not len(split):
        raise ValueError("there are no images to make batches of")
    if augment.shift >= (side := split.images.shape[-1]):
        raise ValueError(f"augment.shift must be below the image size, {side} pixels, got {augment.shift}")
    size, device = min(size, len(split)), split.labels.device
    order = torch.randperm(len(split), generator=generator, device=device)
    return changed_batches(split, order[: len(order) // size * size].split(size), augment, generator, skip, ranks)


def changed_batches(
    split: Split,
    rows: Sequence[Tensor],
    augment: Augment,
    generator: torch.Generator,
    skip: int = 0,
    ranks: Ranks = ALONE,
) -> Batches:
    """The batches of these rows, in this order, changed at random; `skip` and `ranks` as in `batches`."""
    for some, images in zip(rows, read_batches(split, rows, augment, generator, skip, ranks), strict=True):
        yield as_input(augmented(images, augment, generator, ranks)), split.labels[some]


def read_batches(
    split: Split, rows: Sequence[Tensor], augment: Augment, generator: torch.Generator, skip: int, ranks: Ranks
) -> Iterator[Tensor]:
    """The uint8 images of these rows, on the device of the labels; workers read what is no tensor, and crop it."""
    device, own = split.labels.device, [some[ranks.part(len(some))] for some in rows]
    if isinstance(split.images, Tensor) and not augment.by_image:
        yield from map(split.pick, own)
        return
    seeds = torch.randint(2**62, (sum(map(len, rows)),), generator=generator, device=device)
    seeds = [each[ranks.part(len(each))] for each in seeds.split(list(map(len, rows)))]  # an image's, whoever reads it
    black = torch.zeros(1, *split.images.shape[1:], dtype=torch.uint8, device=device)
    yield from (black.expand(len(some), -1, -1, -1) for some in own[:skip])
    if own[skip:]:
        workers = devices.reading_workers()
        for images in load_batches(split.images, own[skip:], torch.cat(seeds[skip:]), augment, workers):
            yield images.to(device, non_blocking=True)


def as_input(images: Tensor | Photographs, device: torch.device | None = None) -> Tensor:
    """uint8 images, or files, as float images in [0, 1]; on this device, or on theirs."""
    images = images.decoded() if isinstance(images, Photographs) else images
    return images.to(device or images.device).float().div_(255)


def augmented(images: Tensor, augment: Augment, generator: torch.Generator, ranks: Ranks = ALONE) -> Tensor:
    """Shift, flip and cut out each image at random, the whole batch at once; uint8 [n, channels, side, side]."""
    count, _, side, _ = images.shape
    device, whole = images.device, count * ranks.count

    def draw(high: int) -> Tensor:
        return torch.randint(high, (whole, 1), generator=generator, device=device)[ranks.part(whole)]

    def reflect(index: Tensor) -> Tensor:
        return side - 1 - (side - 1 - index.abs()).abs()

    base = torch.arange(side, device=device)
    if augment.shift:
        rows, columns = (reflect(base + draw(2 * augment.shift + 1) - augment.shift) for _ in range(2))  # [n, side]
        if augment.flip:
            columns = torch.where(draw(2).bool(), columns, columns.flip(1))
        each = torch.arange(count, device=device)[:, None, None]
        images = images.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
    elif augment.flip:  # without a shift, in a tenth of the time
        images = torch.where(draw(2).bool()[:, :, None, None], images.flip(3), images)
    if augment.cutout:
        offsets = [base - draw(side) + augment.cutout // 2 for _ in range(2)]
        inside = [(offset >= 0) & (offset < augment.cutout) for offset in offsets]
        images = images.masked_fill((inside[0][:, :, None] & inside[1][:, None])[:, None], 0)
    return images
