"""Depthwise convolutions are torch's own, in both gradients, whichever way the weight's is taken."""

import pytest
import torch
import torch.nn.functional as F
from cases import seeded

from eas import depthwise
from eas.depthwise import QuickDepthwise, depthwise_conv2d


def gradients(function, x, weight, stride):
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = function(x, weight, stride)
    y.backward(torch.randn(y.shape, generator=seeded(1)).to(y))
    return y.detach(), x.grad, weight.grad


def torchs(x, weight, stride):
    return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=x.shape[1])


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(("channels", "height", "width"), [(16, 9, 9), (24, 7, 12), (5, 4, 3), (16, 2, 2), (3, 1, 1)])
@pytest.mark.parametrize("side", [3, 5, 7])
def test_outputs_and_gradients_are_torchs_in_double_precision(side, channels, height, width, last):
    memory = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(4, channels, height, width, generator=seeded()).contiguous(memory_format=memory)
    weight = torch.randn(channels, 1, side, side, generator=seeded(2))
    found, exact = gradients(depthwise_conv2d, x, weight, 1), gradients(torchs, x.double(), weight.double(), 1)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)
    assert found[1].is_contiguous(memory_format=memory)


def test_the_quick_way_is_taken_where_it_pays(monkeypatch):
    taken = []
    monkeypatch.setattr(
        QuickDepthwise, "apply", lambda x, weight: taken.append(weight.shape[-1]) or torchs(x, weight, 1)
    )
    x, weights = torch.randn(2, 16, 8, 8), [torch.randn(16, 1, side, side, requires_grad=True) for side in (3, 5, 7)]
    for weight in weights:
        assert depthwise_conv2d(x, weight, 1).shape == x.shape
        depthwise_conv2d(x, weight, 2)
        depthwise_conv2d(x, weight.detach(), 1)
        with torch.autocast("cpu", torch.bfloat16):
            depthwise_conv2d(x, weight, 1)
    assert taken == [5, 7] and set(depthwise.FIRST_COLUMNS) == {5, 7}


def test_images_that_need_no_gradient_get_none():
    x, weight = torch.randn(2, 16, 8, 8), torch.randn(16, 1, 5, 5, requires_grad=True)
    depthwise_conv2d(x, weight, 1).sum().backward()
    assert x.grad is None and weight.grad.shape == weight.shape
