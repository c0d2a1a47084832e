"""What a specialised network says of images, and how often it is right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from tqdm import tqdm

from eas.data import Split
from eas.data.batches import as_input
from eas.data.images import MODES, read_pixels
from eas.evaluation import PATIENT
from eas.serving.deploy import Accuracy, Card
from eas.spaces.supernet import resized

Network = Callable[[Tensor], Tensor]  # images float [n, channels, size, size] in [0, 1] to logits [n, classes]
Answer = list[
    tuple[str, float]
]  # classes with their probabilities, the most likely first; NONE before all where refused
NONE = "none of these"
BATCH = 64  # images
TOLD = 3  # pairs of classes that a card names
NORMAL_95 = 1.959964  # of a normal distribution, that many standard deviations to either side hold 95 %


def class_probabilities(network: Network, card: Card, images: Tensor) -> Tensor:
    """Probabilities [n, classes] for uint8 images [n, channels, size, size]; ValueError for another type or shape."""
    return weigh(network, card, images)[0]


@torch.inference_mode()
def weigh(network: Network, card: Card, images: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities [n, classes] among the network's classes, and log odds [n] that an image shows one at all.

    The latter are infinite where the network does not tell strangers. ValueError as `class_probabilities`.
    """
    shape = [card.in_channels, card.image_size, card.image_size]
    if images.dtype != torch.uint8 or list(images.shape[1:]) != shape:
        raise ValueError(f"images must be uint8 [n, {str(shape)[1:]}, got {images.dtype} {list(images.shape)}")
    batches = tqdm([batch for batch in images.split(BATCH) if len(batch)], "looking at images", **PATIENT)
    odds = network.odds if card.strangers else lambda batch: (network(batch), torch.full((len(batch),), math.inf))
    rows, certain = [torch.empty(0, len(card.classes))], [torch.empty(0)]
    for batch in batches:
        logits, of_batch = odds(as_input(batch))
        rows.append(logits.softmax(1))
        certain.append(of_batch)
    return torch.cat(rows), torch.cat(certain)


def predict(network: Network, card: Card, images: Tensor | Sequence[str | Path | BinaryIO]) -> list[Answer]:
    """What each image shows: uint8 images [n, channels, size, size], or image files, of which the centre is looked at.

    Where the network tells strangers, probabilities are of all that its supernet knows: what they lack to 1 is that of
    another class. An image that is refused gets that as its first answer, under the name NONE.
    ValueError for images of another type or shape; for files as `read_image`.
    """
    if not isinstance(images, Tensor):
        images = torch.cat([read_image(path, card) for path in images])
    probabilities, odds = weigh(network, card, images)
    own = odds.sigmoid()
    answers = [
        sorted(zip(card.classes, row, strict=True), key=lambda pair: -pair[1])
        for row in (probabilities * own[:, None]).tolist()
    ]
    least = card.strangers.least_odds if card.strangers else -math.inf
    refused = (odds < least).tolist()
    shares = (1 - own).tolist()
    return [[(NONE, share)] * no + answer for answer, no, share in zip(answers, refused, shares, strict=True)]


def refused_on(network: Network, card: Card, images: Tensor) -> float | None:
    """Of images, how many percent are refused; None where there are none."""
    if not len(images):
        return None
    odds = weigh(network, card, resized(images, card.image_size))[1]
    return round(100 * (odds < card.strangers.least_odds).double().mean().item(), 2)


def read_image(path: str | Path | BinaryIO, card: Card) -> Tensor:
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
