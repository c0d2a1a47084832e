"""Specialised networks as ONNX files: one file for runtimes that know neither torch nor this package."""

from __future__ import annotations

import io
import json
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from eas.data.batches import as_input
from eas.files import write_bytes
from eas.serving.deploy import Card

INPUT, CHECK = "input", "check"  # in the metadata, beside the card's fields
CHECKED = 4  # images whose logits are there


def require(*packages: str) -> None:
    """ModuleNotFoundError, in one line that says how to install it, where a package is missing."""
    for name in packages:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"this needs the package {name}: pip install 'eas[onnx]'")


def export_onnx(network: nn.Module, card: Card, path: str | Path, *, int8: Tensor | None = None) -> Path:
    """Write `path`.onnx; returns it. With `int8`, images to calibrate on, in 8-bit integers: eas.serving.quantize.

    Input `images` uint8 [n, size, size, channels], as image libraries hold them; all else happens inside, and a runtime
    refuses any other type or shape. Output `logits` float32 [n, classes]; where the network tells strangers also `odds`
    float32 [n], log odds that an image shows one of the classes, and `known` bool [n], whether these are enough.
    The card is in the model's metadata, a JSON value for each of its fields: `classes` are those of the logits; and
    `input` says in words how images are made ready, `check` holds the logits of `check_images`, for eas.serving.verify.
    Without the package onnx, a ModuleNotFoundError that says how to install it.
    """
    require("onnx")
    import onnx

    least = card.strangers.least_odds if card.strangers else None
    content, serves = as_onnx(network, card.in_channels, card.image_size, least), network
    if int8 is not None:
        content = import_module("eas.serving.quantize").quantized(content, int8)
        serves = OnnxNetwork(session_of(content))
    with torch.inference_mode():
        check = serves(as_input(check_images(card))).tolist()
    model, more = onnx.load_model_from_string(content), {INPUT: how_to_make_ready(card), CHECK: check}
    del model.metadata_props[:]  # what quantising leaves there
    for name, value in (card.model_dump(mode="json") | more).items():
        model.metadata_props.add(key=name, value=json.dumps(value))
    write_bytes(f"{path}.onnx", model.SerializeToString())
    return Path(f"{path}.onnx")


def check_images(card: Card) -> Tensor:
    """Images that every machine makes for itself, uint8 [CHECKED, channels, size, size]: noise of numpy's PCG64."""
    shape = CHECKED, card.in_channels, card.image_size, card.image_size
    return torch.from_numpy(np.random.Generator(np.random.PCG64(0)).integers(256, size=shape, dtype=np.uint8))


def how_to_make_ready(card: Card) -> str:
    """What has to be done to a photograph."""
    colours = {1: "grey", 3: "red, green, blue"}.get(card.in_channels, f"{card.in_channels} channels")
    size = card.image_size
    return f"uint8 [n, {size}, {size}, {card.in_channels}]: {colours}, 0 to 255; the centre square, scaled (bicubic)"


class Exported(nn.Module):
    """What is exported: from bytes as image libraries hold them to everything that a network says."""

    def __init__(self, network: nn.Module, least_odds: float | None):
        super().__init__()
        self.network, self.least_odds = network, least_odds

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """`images` uint8 [n, size, size, channels]; outputs as export_onnx says."""
        images = images.permute(0, 3, 1, 2).float() / 255
        if self.least_odds is None:
            return self.network(images)
        logits, odds = self.network.odds(images)
        return logits, odds, odds >= self.least_odds


def as_onnx(network: nn.Module, channels: int, pixels: int, least_odds: float | None = None) -> bytes:
    """A network of images of that many channels, and pixels a side, as an ONNX model without metadata."""
    outputs = ["logits"] if least_odds is None else ["logits", "odds", "known"]
    graph, names = io.BytesIO(), {"input_names": ["images"], "output_names": outputs}
    with warnings.catch_warnings():
        # By tracing, of whose age torch warns, it takes 0.06 s; by torch.export 3 s, for equal logits and speed.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # that what sizes of images decide stays as it is
        warnings.filterwarnings(
            "ignore", "Constant folding"
        )  # that a slice of every second pixel is left to the runtime
        axes = {name: {0: "n"} for name in ("images", *outputs)}
        example = torch.zeros(2, pixels, pixels, channels, dtype=torch.uint8)
        torch.onnx.export(
            Exported(network, least_odds).eval(), (example,), graph, **names, dynamic_axes=axes, dynamo=False
        )
    return graph.getvalue()


def session_of(model: bytes, threads: int | None = None):
    """An onnxruntime.InferenceSession on the CPU, with that many threads; as many as there are where None."""
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxNetwork:
    """An exported network, run by onnxruntime: images float [n, channels, size, size] in [0, 1] to logits."""

    def __init__(self, session):
        self.session = session

    def __call__(self, images: Tensor) -> Tensor:
        return self.run(images, "logits")[0]

    def odds(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As eas.serving.strangers.Refusing.odds."""
        return self.run(images, "logits", "odds")

    def run(self, images: Tensor, *outputs: str) -> tuple[Tensor, ...]:
        """What the file says of images, which it takes as bytes."""
        pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        return tuple(map(torch.from_numpy, self.session.run(list(outputs), {"images": pixels})))


def load_onnx(path: Path) -> tuple[OnnxNetwork, Card]:
    """Read what `export_onnx` wrote; errors as eas.serving.deploy.load."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    require("onnxruntime")
    try:
        session = session_of(path.read_bytes())
        told = session.get_modelmeta().custom_metadata_map
        told = {name: json.loads(value) for name, value in told.items() if name not in (INPUT, CHECK)}
        card = Card.model_validate_json(json.dumps(told))
    except Exception as error:  # onnxruntime has errors of its own, for every kind of damage
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is damaged, or no network that was exported here: {reason}") from None
    return OnnxNetwork(session), card
