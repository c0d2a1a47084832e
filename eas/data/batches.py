"""Batches on the device: random order, random changes, float images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from eas.data.base import Split
from eas.recipes import Augment


def batches(split: Split, size: int, augment: Augment, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order: float images [size, channels, side, side] in [0, 1] and labels; the rest is left out.

    `generator` is on the split's device; a split smaller than `size` is one batch.

    Raises:
        ValueError: there are no images, or `augment` shifts them by their own side or more.
    """
    if not len(split):
        raise ValueError("there are no images to make batches of")
    if augment.shift >= (side := split.images.shape[-1]):
        raise ValueError(f"augment.shift must be below the image size, {side} pixels, got {augment.shift}")
    return epoch(split, min(size, len(split)), augment, generator)


def epoch(split: Split, size: int, augment: Augment, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches themselves; apart, so that a wrong argument is told at the call and not at the first batch."""
    order = torch.randperm(len(split), generator=generator, device=split.labels.device)
    for rows in order[: len(order) // size * size].split(size):
        yield as_input(augmented(split.images[rows], augment, generator)), split.labels[rows]


def as_input(images: Tensor) -> Tensor:
    """uint8 images as float in [0, 1]."""
    return images.float().div_(255)


def augmented(images: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
    """Shift, flip and cut out each image at random, the whole batch at once; uint8 [n, channels, side, side]."""
    count, _, side, _ = images.shape
    device = images.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (count, 1), generator=generator, device=device)

    def reflect(index: Tensor) -> Tensor:
        return side - 1 - (side - 1 - index.abs()).abs()

    base = torch.arange(side, device=device)
    rows, columns = (reflect(base + draw(2 * augment.shift + 1) - augment.shift) for _ in range(2))  # [n, side]
    if augment.flip:
        columns = torch.where(draw(2).bool(), columns, columns.flip(1))
    each = torch.arange(count, device=device)[:, None, None]
    picked = images.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None]]
    images = picked.permute(0, 3, 1, 2)
    if augment.cutout:
        offsets = [base - draw(side) + augment.cutout // 2 for _ in range(2)]
        inside = [(offset >= 0) & (offset < augment.cutout) for offset in offsets]
        images = images.masked_fill((inside[0][:, :, None] & inside[1][:, None])[:, None], 0)
    return images
