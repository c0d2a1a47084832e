"""What a network computes, written down as an ONNX graph. Source: ours.

A network runs once on an example; every function of torch that it calls on the way becomes a node (`NODES`). torch's
own exporters know all of torch, but take seven to ten times as long, and load half a second of code first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode, resolve_name

OPSET, IR_VERSION = 20, 9  # of ONNX 1.15, which runtimes have known since 2023
FLOAT = 1  # onnx.TensorProto.FLOAT


@dataclass
class Node:
    """One operation: its kind in ONNX, the names of what it reads and of what it makes."""

    kind: str
    inputs: list[str]
    output: str
    attributes: dict[str, Any] = field(default_factory=dict)


class Recorder(TorchFunctionMode):
    """While it is entered, writes down what torch computes from `image`, a tensor that is given the name `input_name`.

    Weights keep the names that the network has for them; what is computed from weights alone becomes one.
    ValueError for a function that has no node.
    """

    def __init__(self, network: nn.Module, image: Tensor, input_name: str):
        super().__init__()
        self.nodes: list[Node] = []
        self.weights: dict[str, Tensor | np.ndarray] = {}
        self.computed = {id(image): input_name}
        self.named = {id(each): name for name, each in network.state_dict(keep_vars=True).items()}
        self.alive: list[Tensor] = [image]  # as long as a tensor lives, no other one has its id

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if tensors_in([result]) and any(id(each) in self.computed for each in tensors_in([*args, *kwargs.values()])):
            if function not in NODES:
                raise ValueError(f"{resolve_name(function)} has no ONNX node: eas.serving.graph.NODES lacks it")
            try:
                self.computed[id(result)] = NODES[function](self, *args, **kwargs)
            except TypeError as error:  # other arguments than a node has
                raise ValueError(f"{resolve_name(function)} has no ONNX node for how it is called: {error}") from None
            self.alive.append(result)
        return result

    def add(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Write down an operation; returns the name of what it makes."""
        names = [self.name_of(each) for each in inputs]
        self.nodes.append(Node(kind, names, f"{kind}.{len(self.nodes)}", attributes))
        return self.nodes[-1].output

    def name_of(self, value: str | Tensor | np.ndarray | float) -> str:
        """The name of a tensor, or of a number; one that was not computed from the image is a weight."""
        if isinstance(value, str):
            return value
        if id(value) in self.computed:
            return self.computed[id(value)]
        if not isinstance(value, Tensor):
            value = np.asarray(value, None if isinstance(value, np.ndarray) else np.float32)
            name = f"{value.dtype}.{'_'.join(map(str, value.flatten().tolist()))}.{value.ndim}"
        else:
            name = self.named.setdefault(id(value), f"weight.{len(self.named)}")
            self.alive.append(value)
        self.weights[name] = value
        return name


def tensors_in(values: Sequence[Any]) -> list[Tensor]:
    """The tensors among values, and in lists and tuples of them."""
    nested = (tensors_in(each) if isinstance(each, list | tuple) else [each] for each in values)
    return [each for some in nested for each in some if isinstance(each, Tensor)]


# -------------------------------------------------------------------- nodes of torch's functions


def elementwise(kind: str, *constants: float, **attributes: float) -> Callable[..., str]:
    """The node of a function that reads its tensors, and these constants."""

    def add(recorder: Recorder, *tensors: Tensor | float, inplace: bool = False) -> str:
        return recorder.add(kind, *tensors, *constants, **attributes)

    return add


def convolution(
    recorder: Recorder, x: Tensor, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups=1
) -> str:
    strides, pads, dilations = (
        [each, each] if isinstance(each, int) else list(each) for each in (stride, padding, dilation)
    )
    size = {"kernel_shape": list(weight.shape[2:]), "strides": strides, "pads": pads * 2, "dilations": dilations}
    return recorder.add("Conv", x, weight, *[] if bias is None else [bias], **size, group=groups)


def batch_norm(recorder: Recorder, x, mean, variance, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if training:
        raise ValueError("a network is exported in eval mode: call its eval() first")
    return recorder.add("BatchNormalization", x, weight, bias, mean, variance, epsilon=eps)


def linear(recorder: Recorder, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> str:
    return recorder.add("Gemm", x, weight, *[] if bias is None else [bias], transB=1)


def pad(recorder: Recorder, x: Tensor, sides: Sequence[int], mode: str = "constant", value: float | None = None) -> str:
    if mode != "constant" or value:
        raise ValueError("padding with anything but zeros has no ONNX node here")
    before, after = ([0] * (x.ndim - len(sides) // 2) + list(sides[start::2])[::-1] for start in (0, 1))
    return recorder.add("Pad", x, np.array(before + after), mode="constant")


def permute(recorder: Recorder, x: Tensor, *order: int) -> str:
    return recorder.add("Transpose", x, perm=list(order))


def reduce(kind: str) -> Callable[..., str]:
    """The node of a function that leaves dimensions out."""

    def add(recorder: Recorder, x: Tensor, dim: int | Sequence[int], keepdim: bool = False) -> str:
        return recorder.add(kind, x, np.atleast_1d(dim), keepdims=int(keepdim))

    return add


def pick(recorder: Recorder, x: Tensor, index: tuple) -> str:
    """Of slices, and of None for a new dimension."""
    kept = [each for each in index if each is not None]
    if not all(isinstance(each, slice) and each.step is None for each in kept):
        raise ValueError(f"[{index}] has no ONNX node: only slices and None have one")
    axes = [axis for axis, each in enumerate(kept) if each != slice(None)]
    name = recorder.name_of(x)
    if axes:
        ends = [kept[axis].indices(x.shape[axis])[:2] for axis in axes]
        name = recorder.add("Slice", name, *map(np.array, zip(*ends, strict=True)), np.array(axes))
    if new := [axis for axis, each in enumerate(index) if each is None]:
        name = recorder.add("Unsqueeze", name, np.array(new))
    return name


NODES: dict[Callable, Callable[..., str]] = {
    F.conv2d: convolution,
    F.batch_norm: batch_norm,
    F.linear: linear,
    F.pad: pad,
    F.relu: elementwise("Relu"),
    F.relu6: elementwise("Clip", 0.0, 6.0),
    F.hardswish: elementwise("HardSwish"),
    F.hardsigmoid: elementwise("HardSigmoid", alpha=1 / 6, beta=0.5),
    Tensor.add: elementwise("Add"),
    Tensor.sub: elementwise("Sub"),
    Tensor.mul: elementwise("Mul"),
    Tensor.div: elementwise("Div"),
    Tensor.ge: elementwise("GreaterOrEqual"),
    Tensor.float: elementwise("Cast", to=FLOAT),
    Tensor.permute: permute,
    Tensor.mean: reduce("ReduceMean"),
    Tensor.logsumexp: reduce("ReduceLogSumExp"),
    Tensor.__getitem__: pick,
}


# -------------------------------------------------------------------- the graph


def fold_norms(recorder: Recorder, outputs: Sequence[str]) -> list[Node]:
    """The nodes, in place of a convolution and a norm that alone reads it one convolution; its weights are added."""
    readers = Counter([*outputs, *(name for node in recorder.nodes for name in node.inputs)])
    kept: dict[str, Node] = {}  # by what they make
    for node in recorder.nodes:
        before = kept.get(node.inputs[0])
        if node.kind == "BatchNormalization" and before and before.kind == "Conv" and readers[before.output] == 1:
            weight, bias = [*(recorder.weights[name] for name in before.inputs[1:]), None][:2]
            scale, shift, mean, variance = (recorder.weights[name] for name in node.inputs[1:])
            folded = fuse_conv_bn_weights(weight, bias, mean, variance, node.attributes["epsilon"], scale, shift)
            names = [f"{node.output}.{part}" for part in ("weight", "bias")]
            recorder.weights |= dict(zip(names, folded, strict=True))
            node = Node("Conv", [before.inputs[0], *names], node.output, before.attributes)
            del kept[before.output]
        kept[node.output] = node
    return list(kept.values())


@torch.inference_mode()
def graph_of(network: nn.Module, example: Tensor, input_name: str, output_names: Sequence[str]) -> bytes:
    """A network in eval mode as an ONNX model, of inputs like the example [1, ...], in any number.

    ValueError where it calls a function of torch that has no node.
    """
    from onnx import helper, numpy_helper

    with Recorder(network, example, input_name) as recorder:
        results = network(example)
    results = [results] if isinstance(results, Tensor) else list(results)
    made = [recorder.computed[id(each)] for each in results]
    nodes = fold_norms(recorder, made)
    new_names = dict(zip(made, output_names, strict=True))

    def value(name: str, like: Tensor):
        kind = helper.np_dtype_to_tensor_dtype(like.numpy().dtype)
        return helper.make_tensor_value_info(name, kind, ["n", *like.shape[1:]])

    def node_of(node: Node):
        inputs = [new_names.get(name, name) for name in node.inputs]
        output = new_names.get(node.output, node.output)
        return helper.make_node(node.kind, inputs, [output], name=output, **node.attributes)

    read = {name for node in nodes for name in node.inputs}
    weights = {name: each for name, each in recorder.weights.items() if name in read}
    graph = helper.make_graph(
        [node_of(node) for node in nodes],
        "network",
        [value(input_name, example)],
        [value(name, each) for name, each in zip(output_names, results, strict=True)],
        [numpy_helper.from_array(np.ascontiguousarray(each), name) for name, each in weights.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION).SerializeToString()
