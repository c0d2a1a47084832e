"""Specialised networks as ONNX files: one file for runtimes that know neither torch nor this package."""

from __future__ import annotations

import io
import json
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from eas.files import write_bytes
from eas.serving.deploy import Card


def require(*packages: str) -> None:
    """ModuleNotFoundError, in one line that says how to install it, where a package is missing."""
    for name in packages:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"this needs the package {name}: pip install 'eas[onnx]'")


def export_onnx(network: nn.Module, card: Card, path: str | Path) -> Path:
    """Write `path`.onnx; returns it.

    Input `images` float32 [n, channels, size, size] in [0, 1], normalised inside; output `logits` float32 [n, classes].
    The card is in the model's metadata, a JSON value for each of its fields: `classes` are those of the logits.
    Without the package onnx, a ModuleNotFoundError that says how to install it.
    """
    require("onnx")
    import onnx

    model = onnx.load_model_from_string(as_onnx(network, card.in_channels, card.image_size))
    for name, value in card.model_dump(mode="json").items():
        model.metadata_props.add(key=name, value=json.dumps(value))
    write_bytes(f"{path}.onnx", model.SerializeToString())
    return Path(f"{path}.onnx")


def as_onnx(network: nn.Module, channels: int, pixels: int) -> bytes:
    """A network of images of that many channels, and pixels a side, as an ONNX model without metadata."""
    graph, names = io.BytesIO(), {"input_names": ["images"], "output_names": ["logits"]}
    with warnings.catch_warnings():
        # By tracing, of whose age torch warns, it takes 0.06 s; by torch.export 3 s, for equal logits and speed.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # that what sizes of images decide stays as it is
        warnings.filterwarnings(
            "ignore", "Constant folding"
        )  # that a slice of every second pixel is left to the runtime
        axes = {name: {0: "n"} for name in ("images", "logits")}
        example = torch.zeros(2, channels, pixels, pixels)
        torch.onnx.export(network, (example,), graph, **names, dynamic_axes=axes, dynamo=False)
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
        return torch.from_numpy(self.session.run(["logits"], {"images": images.numpy()})[0])


def load_onnx(path: Path) -> tuple[OnnxNetwork, Card]:
    """Read what `export_onnx` wrote; errors as eas.serving.deploy.load."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    require("onnxruntime")
    try:
        session = session_of(path.read_bytes())
        told = session.get_modelmeta().custom_metadata_map
        card = Card.model_validate_json(json.dumps({name: json.loads(value) for name, value in told.items()}))
    except Exception as error:  # onnxruntime has errors of its own, for every kind of damage
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is damaged, or no network that was exported here: {reason}") from None
    return OnnxNetwork(session), card
