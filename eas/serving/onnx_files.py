"""Specialised networks as ONNX files: one file for runtimes that know neither torch nor this package."""

from __future__ import annotations

import json
import math
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from eas.data.batches import as_input
from eas.files import UNSEALED, read_bytes, reason, sealed, write_bytes
from eas.serving.deploy import Card
from eas.serving.graph import graph_of

INPUT, CHECK, SEAL = "input", "check", "sha256"  # in the metadata, beside the card's fields
CHECKED = 4  # images whose logits are there
MOST_BYTES = 2**28  # of a file
MOST_VALUES = 2**26  # of what a layer makes of an image
# Of networks that are exported here: none has a graph of its own; how much each makes is looked at.
OPERATORS = """Add BatchNormalization Cast Clip Constant Conv DequantizeLinear Div Flatten Gemm
GlobalAveragePool GreaterOrEqual HardSigmoid HardSwish Identity MatMul Mul Pad QuantizeLinear ReduceLogSumExp
ReduceMean Relu Sigmoid Slice Sub Transpose Unsqueeze"""


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
    model = onnx.load_model_from_string(content)
    more = {INPUT: how_to_make_ready(card), CHECK: check, SEAL: UNSEALED}
    del model.metadata_props[:]  # what quantising leaves there
    for name, value in (card.model_dump(mode="json") | more).items():
        model.metadata_props.add(key=name, value=json.dumps(value))
    write_bytes(f"{path}.onnx", sealed(model.SerializeToString()))
    return Path(f"{path}.onnx")


def write_card(card: Card, path: str | Path) -> None:
    """Tell another card in an exported file, such as one with what was measured of it since."""
    import onnx

    model, told = onnx.load(path), card.model_dump(mode="json") | {SEAL: UNSEALED}
    for entry in model.metadata_props:
        if entry.key in told:
            entry.value = json.dumps(told[entry.key])
    write_bytes(path, sealed(model.SerializeToString()))


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
    require("onnx")
    outputs = ["logits"] if least_odds is None else ["logits", "odds", "known"]
    image = torch.zeros(1, pixels, pixels, channels, dtype=torch.uint8)
    return graph_of(Exported(network, least_odds).eval(), image, "images", outputs)


def session_of(model: bytes, threads: int | None = None):
    """An onnxruntime.InferenceSession on the CPU, with that many threads; as many as there are where None."""
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong becomes an error, of one line
    if threads:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    else:  # others work beside it, as torch does: threads that wait by running in circles take their time
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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
    content = read_bytes(path, MOST_BYTES)
    require("onnx", "onnxruntime")
    try:
        card = read_model(content)
        session = session_of(content)
    except Exception as error:  # both packages have errors of their own, for every kind of damage
        raise ValueError(f"{path} is damaged, or no network that was exported here: {reason(error)}") from None
    return OnnxNetwork(session), card


def read_model(content: bytes) -> Card:
    """The card of an exported network, which is whole and computes what the card says; an error where it does not."""
    import onnx

    model = onnx.load_model_from_string(content)
    told = {each.key: each.value for each in model.metadata_props}
    if SEAL not in told:
        raise ValueError("it has no SHA-256; export it again with this version")
    seal = json.loads(told.pop(SEAL))
    if len(seal) != len(UNSEALED) or sealed(content, seal) != content:
        raise ValueError("its SHA-256 is not the one that it was written with")
    fields = {name: json.loads(value) for name, value in told.items() if name not in (INPUT, CHECK)}
    card = Card.model_validate_json(json.dumps(fields))
    shapes = checked_shapes(model, card)
    due = {"logits": [1, len(card.classes)]} | ({"odds": [1], "known": [1]} if card.strangers else {})
    if {each.name: shapes[each.name] for each in model.graph.output} != due:
        raise ValueError("its outputs are not those of its card")
    return card


def checked_shapes(model, card: Card) -> dict[str, list[int]]:
    """The shapes of all that an onnx.ModelProto makes of one image; ValueError where it could make what is huge."""
    import onnx

    graph = model.graph
    if strange := {node.op_type for node in graph.node} - set(OPERATORS.split()):
        raise ValueError(f"no network has an operator {min(strange)}")
    outside = any(each.data_location == onnx.TensorProto.EXTERNAL for each in graph.initializer)
    if outside or model.functions or graph.sparse_initializer or len(graph.input) != 1:
        raise ValueError("it holds more than a network, or a part of it lies elsewhere")
    if not all(np.isfinite(onnx.numpy_helper.to_array(each)).all() for each in graph.initializer):
        raise ValueError("it holds impossible values")
    image = [1, card.image_size, card.image_size, card.in_channels]
    value = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, image)
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:], bare.graph.input[:], bare.graph.output[:]  # what is told of shapes is not believed
    bare.graph.input.append(value)
    found = onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True).graph.value_info
    shapes = {each.name: [side.dim_value for side in each.type.tensor_type.shape.dim] for each in found}
    known = {each.name for each in graph.initializer} | shapes.keys()
    if {name for node in graph.node for name in node.output if name} - known:
        raise ValueError("it has layers whose size cannot be told")
    if any(math.prod(shape) > MOST_VALUES or 0 in shape for shape in shapes.values()):
        raise ValueError("it has layers that are too large")
    return shapes
