"""Networks as ONNX graphs: every function that has a node, and what has none."""

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eas.serving.graph import NODES, graph_of
from eas.serving.onnx_files import session_of

IMAGE = torch.randint(-40, 40, (1, 8, 6, 6), generator=torch.Generator().manual_seed(0)).float() / 8


class Calling(nn.Module):
    """A network that calls one function of its image."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(4, 8, 3, 3))
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.function(self, x)


CASES = {
    "convolution": (F.conv2d, lambda self, x: F.conv2d(x, self.weight, None, (2, 1), (1, 0), 1)),
    "convolution with a bias": (F.conv2d, lambda self, x: F.conv2d(x, self.weight, self.weight[:, 0, 0, 0], padding=2)),
    "depthwise, dilated": (
        F.conv2d,
        lambda self, x: F.conv2d(x, self.weight.view(8, 4, 3, 3)[:, :1], dilation=2, groups=8),
    ),
    "norm": (F.batch_norm, lambda self, x: self.norm(x)),
    "linear": (F.linear, lambda self, x: F.linear(x.mean((2, 3)), self.weight[:, :, 0, 0])),
    "linear with a bias": (
        F.linear,
        lambda self, x: F.linear(x.mean((2, 3)), self.weight[:, :, 0, 0], self.weight[:, 0, 1, 1]),
    ),
    "pad": (F.pad, lambda self, x: F.pad(x, (0, 1, 2, 3))),
    "pad columns": (F.pad, lambda self, x: F.pad(x, (2, 1))),
    "relu": (F.relu, lambda self, x: F.relu(x * 1.0, inplace=True)),
    "relu6": (F.relu6, lambda self, x: F.relu6(x * 3.0, inplace=True)),
    "hardswish": (F.hardswish, lambda self, x: F.hardswish(x)),
    "hardsigmoid": (F.hardsigmoid, lambda self, x: F.hardsigmoid(x)),
    "add": (torch.Tensor.add, lambda self, x: x + F.relu(x)),
    "sub": (torch.Tensor.sub, lambda self, x: F.relu(x) - x),
    "mul": (torch.Tensor.mul, lambda self, x: x * self.weight[0, :, :1, :1]),
    "div": (torch.Tensor.div, lambda self, x: x / 7),
    "ge": (torch.Tensor.ge, lambda self, x: x >= 0.25),
    "float": (torch.Tensor.float, lambda self, x: (x >= 0.25).float()),
    "permute": (torch.Tensor.permute, lambda self, x: x.permute(0, 2, 3, 1)),
    "mean": (torch.Tensor.mean, lambda self, x: x.mean((2, 3), keepdim=True)),
    "logsumexp": (torch.Tensor.logsumexp, lambda self, x: x.logsumexp(1)),
    "slices": (torch.Tensor.__getitem__, lambda self, x: x[:, 2:, :-1, 1:4]),
    "new dimensions": (torch.Tensor.__getitem__, lambda self, x: x.mean((2, 3))[:, :5, None, None]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_node_computes_what_its_function_does_for_any_number_of_images(name):
    network = Calling(CASES[name][1]).eval()
    nn.init.normal_(network.norm.running_mean)
    model = graph_of(network, IMAGE.clone(), "image", ["answer"])
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    images = torch.randn(3, 8, 6, 6)
    (said,) = session_of(model).run(None, {"image": images.numpy()})
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(said), network(images), rtol=1e-5, atol=1e-5)


def test_every_node_has_a_case():
    assert {function for function, _ in CASES.values()} == set(NODES)


WITHOUT = {
    "a function": (lambda self, x: x.tanh(), "torch.Tensor.tanh has no ONNX node: eas.serving.graph.NODES lacks it"),
    "a function of several tensors": (lambda self, x: torch.cat([x, x]), "torch.cat has no ONNX node"),
    "a function that makes several": (lambda self, x: x.split(4, 1)[0], "torch.Tensor.split has no ONNX node"),
    "a property": (lambda self, x: x.mT, "mT.* has no ONNX node"),
    "other arguments": (lambda self, x: x.add(x, alpha=2), "torch.Tensor.add has no ONNX node for how it is called"),
    "all dimensions": (lambda self, x: x.mean(), "torch.Tensor.mean has no ONNX node for how it is called"),
    "a slice alone": (lambda self, x: x[:1], "__getitem__ has no ONNX node for how it is called"),
    "a padding": (lambda self, x: F.pad(x, (1, 1, 1, 1), mode="reflect"), "anything but zeros"),
    "a padding's value": (lambda self, x: F.pad(x, (1, 1), value=2.0), "anything but zeros"),
    "a step": (lambda self, x: x[:, ::2], "only slices and None"),
    "a row": (lambda self, x: x[:, 0], "only slices and None"),
    "training": (lambda self, x: self.norm.train()(x), r"call its eval\(\) first"),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_what_has_no_node_is_an_error_of_one_line(name):
    function, reason = WITHOUT[name]
    with pytest.raises(ValueError, match=reason) as caught:
        graph_of(Calling(function).eval(), IMAGE.clone(), "image", ["answer"])
    assert "\n" not in str(caught.value)


class Normed(nn.Module):
    """A convolution and its norm; `shared`: what the convolution makes is read elsewhere, too."""

    def __init__(self, shared):
        super().__init__()
        self.conv, self.norm, self.shared = nn.Conv2d(8, 4, 3, bias=not shared), nn.BatchNorm2d(4), shared

    def forward(self, x):
        x = self.conv(x)
        return self.norm(x) + x if self.shared else self.norm(x)


@pytest.mark.parametrize("shared", [False, True])
def test_a_norm_becomes_a_part_of_the_convolution_that_nothing_else_reads(shared):
    network = Normed(shared)
    network(torch.randn(20, 8, 6, 6))  # statistics that are not one and nothing
    model = onnx.load_model_from_string(graph_of(network.eval(), IMAGE.clone(), "image", ["answer"]))
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == (["Conv", "BatchNormalization", "Add"] if shared else ["Conv"])
    names = {each.name for each in model.graph.initializer}
    assert ("conv.weight" in names) == shared and all(names.intersection(node.input) for node in model.graph.node[:2])
    (said,) = session_of(model.SerializeToString()).run(None, {"image": IMAGE.numpy()})
    torch.testing.assert_close(torch.from_numpy(said), network(IMAGE).detach(), rtol=1e-5, atol=1e-5)
