"""Whether an exported network does, on this machine, what it did where it was made."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eas.data.batches import as_input
from eas.serving import deploy
from eas.serving.answers import Network, read_image
from eas.serving.onnx_files import CHECK, CHECKED, OnnxNetwork, check_images, session_of

MOST_OFF = 1e-2  # of logits: runtimes add in another order
RUNS = 50  # of one image


class Verified(NamedTuple):
    """What was found, differences of logits in absolute numbers."""

    as_exported: float  # from what the network said where it was exported
    as_saved: float | None  # from the .safetensors file beside it, where there is one
    images: int  # that this was seen on
    ms: float  # of one image, on one thread: the median


@torch.inference_mode()
def largest_difference(one: Network, other: Network, images: Tensor) -> float:
    """Of the logits of uint8 images [n, channels, size, size]."""
    return float((one(as_input(images)) - other(as_input(images))).abs().max())


def verify(path: str | Path, images: Sequence[str | Path] = ()) -> Verified:
    """Run an exported network on its own check, and on image files beside the network that it was exported from.

    Raises:
        FileNotFoundError, ModuleNotFoundError: as eas.load.
        ValueError: the file is damaged or no exported network, an image cannot be read, or the answers are others than
            when it was made, or than those of the .safetensors file beside it.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"{path} is no .onnx file: only these leave the package that made them")
    network, card = deploy.load(path)
    made = check_images(card)
    with torch.inference_mode():
        off = float((network(as_input(made)) - expected(network, path)).abs().max())
    seen = torch.cat([made, *(read_image(each, card) for each in images)])
    twin = path.with_suffix("")
    saved = None
    if not off <= MOST_OFF:
        raise ValueError(f"{path} says something else than it did when it was made: logits differ by {off:.2g}")
    if Path(f"{twin}.safetensors").is_file():
        other, same_card = deploy.load(twin)
        if same_card != card:
            raise ValueError(f"{path} was not exported from {twin}.safetensors: their cards differ")
        if not (saved := largest_difference(network, other, seen)) <= MOST_OFF:
            raise ValueError(f"{path} says something else than {twin}.safetensors: logits differ by {saved:.2g}")
    alone = OnnxNetwork(session_of(path.read_bytes(), threads=1))
    return Verified(off, saved, len(seen), milliseconds(alone, made[:1]))


def expected(network: OnnxNetwork, path: Path) -> Tensor:
    """The logits that the file holds of its check."""
    told = network.session.get_modelmeta().custom_metadata_map
    if CHECK not in told:
        raise ValueError(f"{path} holds no check: export it again with this version")
    try:
        logits, due = torch.tensor(json.loads(told[CHECK])), (CHECKED, network.session.get_outputs()[0].shape[1])
    except (RuntimeError, TypeError, ValueError, RecursionError):  # no numbers, or rows of several lengths
        logits, due = torch.zeros(0), None
    if logits.shape != due:
        raise ValueError(f"{path} holds a check of another network: export it again")
    return logits


def milliseconds(network: Network, image: Tensor) -> float:
    """The median of RUNS runs of one image, uint8 [1, channels, size, size]."""
    times, example = [], as_input(image)
    for _ in range(RUNS):
        start = time.perf_counter()
        network(example)
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times))
