"""Elastic layers: what a slice computes, the statistics that norms run on, and a convolution that oneDNN gets wrong."""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import reference
import torch
import torch.nn.functional as F
from cases import GLYPHS, lively, random_images, seeded
from torch import nn

from eas.dropout import soft_targets
from eas.layers import CalibratedStatistics, ElasticConv2d, ElasticNorm, FixedStatistics, Statistics
from eas.recipes import Training
from eas.spaces import PreResNetSpace
from eas.training import make_step

HERE = Path(__file__).parent


# -------------------------------------------------------------------- convolutions


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (1, 2)])
@pytest.mark.parametrize("gated", [False, True])
def test_a_convolution_uses_its_leading_filters_and_channels(kernel, stride, gated):
    layer, x = ElasticConv2d(6, 10, kernel, stride), torch.randn(2, 4, 9, 9, generator=seeded())
    gate = torch.tensor([0.0, 0.3, 1.0, 0.7]) if gated else None
    plain = nn.Conv2d(4, 7, kernel, stride, kernel // 2, bias=False)
    plain.weight.data = layer.weight.detach()[:7, :4]
    expected = plain(x if gate is None else x * gate[:, None, None])
    torch.testing.assert_close(layer(x, 7, gate=gate), expected)
    assert layer(x).shape[1] == 10 and layer.bias is None


@pytest.mark.parametrize("channels", [1, 8, 15, 16, 24])
@pytest.mark.parametrize("side", [15, 16])
def test_a_strided_1x1_convolution_is_the_exact_one_forward_and_backward(channels, side):
    layer = ElasticConv2d(channels, 12, 1, stride=2)
    x = torch.randn(3, channels, side, side, generator=seeded()).to(memory_format=torch.channels_last)
    found, exact = x.clone().requires_grad_(), x.double().contiguous().requires_grad_()
    weight = layer.weight.detach().double().requires_grad_()
    y, expected = layer(found), F.conv2d(exact, weight, stride=2)
    assert y.shape == expected.shape and (channels >= 16 or y.is_contiguous(memory_format=torch.channels_last))
    direction = torch.randn(y.shape, generator=seeded(1))
    y.backward(direction)
    expected.backward(direction.double())
    for one, other in ((y, expected), (found.grad, exact.grad), (layer.weight.grad, weight.grad)):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


def step_by_convolutions_that_are_safe(side):
    """A training step's gradients against those with every convolution in double precision, which is another code."""
    space = PreResNetSpace(side, 1, widths=(8, 16), depths=(1, 2), ratios=(0.25, 0.5, 1.0))
    supernet, exact = lively(space, 10), lively(space, 10)
    recipe = Training(epochs=1, batch_size=8, learning_rate=0.1, random_subnets=1, mixed_precision=False)
    archs = torch.stack([space.largest, *space.sample(1, seeded()), space.smallest])
    class_mask, conv2d, seen = torch.ones(8, 10).bool(), F.conv2d, []
    case = soft_targets(torch.arange(8), class_mask, 0.0), class_mask, torch.ones(8), archs

    def watched(x, weight, bias=None, stride=(1, 1), *rest):
        strided = weight.shape[2:] == (1, 1) and tuple(stride) != (1, 1)
        if strided and x.shape[1] < 16 and x.is_contiguous(memory_format=torch.channels_last):
            sys.exit("a strided 1x1 convolution of few channels, channels last")
        seen.append(tuple(weight.shape))
        return conv2d(x, weight, bias, stride, *rest)

    def plain(layer, x, outputs=None, gate=None):
        weight = layer.weight[:outputs, : x.shape[1]].double()
        return conv2d(x.double(), weight, None, layer.stride, layer.padding).float()

    with mock.patch.object(F, "conv2d", watched):
        make_step(supernet, recipe)(random_images(8, space), *case)
    assert (16, 8, 1, 1) in seen
    with mock.patch.object(ElasticConv2d, "forward", plain):
        reference.train_step(exact, recipe, random_images(8, space), *case)
    for one, other in zip(supernet.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)
    print("safe at", side)


def test_a_training_step_never_calls_the_convolution_that_writes_out_of_bounds():
    """In a process of its own, which such a convolution kills (uxlfoundation/oneDNN#6035)."""
    code = "import test_layers\nfor side in (16, 48, 64): test_layers.step_by_convolutions_that_are_safe(side)"
    path = os.pathsep.join(map(str, (HERE, HERE.parent, HERE.parent.parent)))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:3] == ["safe at 16", "safe at 48", "safe at 64"]


# -------------------------------------------------------------------- norms and statistics


def test_a_norm_is_torch_batch_norm_on_the_statistics_it_is_given():
    norm = ElasticNorm(8)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x = torch.randn(4, 5, 6, 6, generator=seeded()) * 3 + 1  # five of the eight channels
    plain = nn.BatchNorm2d(5, eps=1e-5)
    plain.weight.data, plain.bias.data = norm.weight[:5].detach(), norm.bias[:5].detach()
    expected, statistics = plain(x), CalibratedStatistics()
    torch.testing.assert_close(norm(x, Statistics()), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm(x, statistics), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm(x, FixedStatistics(statistics.recorded)), expected, rtol=1e-4, atol=1e-5)


def test_what_is_recorded_is_mean_and_biased_variance():
    norm, statistics = ElasticNorm(5), CalibratedStatistics()
    x = torch.randn(4, 5, 6, 6, generator=seeded()) * torch.arange(5)[:, None, None] + 7  # the first one is constant
    norm(x.to(memory_format=torch.channels_last), statistics)
    mean, variance = statistics.recorded[norm]
    assert mean.shape == variance.shape == (5,) and (variance >= 0).all()
    torch.testing.assert_close(mean, x.mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(variance, x.double().var((0, 2, 3), correction=0).float(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_fixed_statistics_make_an_image_independent_of_its_batch():
    supernet, images, statistics = lively(GLYPHS, 12), random_images(10), CalibratedStatistics()
    whole = supernet(images, GLYPHS.smallest, statistics)
    fixed = FixedStatistics(statistics.recorded)
    for rows in (slice(0, 1), slice(3, 7)):
        torch.testing.assert_close(supernet(images[rows], GLYPHS.smallest, fixed), whole[rows], rtol=1e-4, atol=1e-4)
    assert (supernet(images[:3], GLYPHS.smallest, Statistics()) - whole[:3]).abs().max() > 1e-2


@torch.no_grad()
def test_statistics_of_another_arch_are_refused():
    supernet, images, statistics = lively(GLYPHS, 12), random_images(4), CalibratedStatistics()
    supernet(images, GLYPHS.smallest, statistics)
    with pytest.raises((KeyError, RuntimeError)):
        supernet(images, GLYPHS.largest, FixedStatistics(statistics.recorded))
