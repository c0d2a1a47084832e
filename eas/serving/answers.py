"""What a specialised network says of images, and how often it is right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from eas.data import Split
from eas.data.batches import as_input
from eas.data.images import MODES, read_pixels
from eas.evaluation import PATIENT
from eas.serving.deploy import Accuracy, Card

Network = Callable[[Tensor], Tensor]  # images float [n, channels, size, size] in [0, 1] to logits [n, classes]
Answer = list[tuple[str, float]]  # classes with their probabilities, the most likely first
BATCH = 64  # images
TOLD = 3  # pairs of classes that a card names
NORMAL_95 = 1.959964  # of a normal distribution, that many standard deviations to either side hold 95 %


@torch.inference_mode()
def class_probabilities(network: Network, card: Card, images: Tensor) -> Tensor:
    """Probabilities [n, classes] for uint8 images [n, channels, size, size]; ValueError for another type or shape."""
    shape = [card.in_channels, card.image_size, card.image_size]
    if images.dtype != torch.uint8 or list(images.shape[1:]) != shape:
        raise ValueError(f"images must be uint8 [n, {str(shape)[1:]}, got {images.dtype} {list(images.shape)}")
    batches = tqdm([batch for batch in images.split(BATCH) if len(batch)], "looking at images", **PATIENT)
    rows = [network(as_input(batch)).softmax(1) for batch in batches]
    return torch.cat([torch.empty(0, len(card.classes)), *rows])


def predict(network: Network, card: Card, images: Tensor | Sequence[str | Path]) -> list[Answer]:
    """What each image shows: uint8 images [n, channels, size, size], or image files, of which the centre is looked at.

    ValueError for images of another type or shape; for files as `read_image`.
    """
    if isinstance(images, Tensor):
        rows = class_probabilities(network, card, images).tolist()
    else:
        rows = [class_probabilities(network, card, read_image(path, card))[0].tolist() for path in images]
    return [sorted(zip(card.classes, row, strict=True), key=lambda pair: -pair[1]) for row in rows]


def read_image(path: str | Path, card: Card) -> Tensor:
    """An image file as the network wants it, uint8 [1, channels, size, size]; raises as `read_pixels`.

    ValueError also where the network reads another number of channels than 1 or 3.
    """
    if card.in_channels not in MODES:
        raise ValueError(f"image files have 1 or 3 channels, but the network reads {card.in_channels}")
    return read_pixels(path, card.image_size, card.in_channels)[None]


def accuracy_on(network: Network, card: Card, split: Split) -> Accuracy:
    """How often a network is right on images of its classes; `split.labels` are indices into these."""
    said = class_probabilities(network, card, split.images).argmax(1)
    wrong, count = said != split.labels, len(card.classes)
    pairs, times = (split.labels * count + said)[wrong].unique(return_counts=True)
    most = times.argsort(descending=True, stable=True)[:TOLD]
    names = ((card.classes[pair // count], card.classes[pair % count]) for pair in pairs[most].tolist())
    confused = tuple((*pair, often) for pair, often in zip(names, times[most].tolist(), strict=True))
    right = len(split) - int(wrong.sum())
    return Accuracy(top1=share_of(right, len(split)), images=len(split), confused=confused)


def share_of(right: int, count: int) -> tuple[float, float, float]:
    """A share in percent, and its 95 % interval (Wilson 1927)."""
    share, squared = right / count, NORMAL_95**2
    middle = (right + squared / 2) / (count + squared)
    margin = NORMAL_95 / (count + squared) * math.sqrt(count * share * (1 - share) + squared / 4)
    return tuple(round(100 * each, 2) for each in (share, max(0.0, middle - margin), min(1.0, middle + margin)))
