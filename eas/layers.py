"""Elastic layers: the only place that slices weights, and the statistics that their norms run on.

A layer holds the weights of its widest form. Given fewer channels it uses the leading ones. No layer keeps a state
between calls: widths, gates and statistics are arguments.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5
SAFE_CHANNELS = 16


class ElasticConv2d(nn.Conv2d):
    """A convolution without bias whose first `outputs` filters read the first channels of its input.

    A `gate` [inputs], in [0, 1], scales what each input channel adds; one at 0 adds exactly what a sliced channel adds:
    nothing. It scales the weights, which costs nothing on the feature maps.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor, outputs: int | None = None, gate: Tensor | None = None) -> Tensor:
        weight, stride = self.weight[:outputs, : x.shape[1]], self.stride
        if gate is not None:
            weight = weight * gate[:, None, None]
        if self.kernel_size == (1, 1) and stride != (1, 1) and x.shape[1] < SAFE_CHANNELS:
            # The backward pass of oneDNN's strided 1x1 convolution of few channels, channels last, writes out of bounds
            # (uxlfoundation/oneDNN#6035; it crashes from 48 pixels on). What it would skip is left out before.
            x, stride = x[:, :, :: stride[0], :: stride[1]].contiguous(memory_format=torch.channels_last), (1, 1)
        return F.conv2d(x, weight, None, stride, self.padding)


class ElasticNorm(nn.Module):
    """Scale and shift of a batch norm; where its mean and variance come from is said by each call."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, statistics: Statistics) -> Tensor:
        channels = x.shape[1]
        return statistics.normalize(self, x, self.weight[:channels], self.bias[:channels])


class Statistics:
    """Batch statistics: every norm uses the mean and variance of the batch that it sees (training)."""

    def normalize(self, norm: ElasticNorm, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=EPSILON)


class CalibratedStatistics(Statistics):
    """Batch statistics that are kept: what the norms saw is in `recorded` (norm -> mean, variance; each [channels])."""

    def __init__(self):
        self.recorded: dict[ElasticNorm, tuple[Tensor, Tensor]] = {}

    def normalize(self, norm: ElasticNorm, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y, mean, inverse = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, EPSILON)
        self.recorded[norm] = mean, (inverse.square().reciprocal() - EPSILON).clamp_min(0)
        return y


class FixedStatistics(Statistics):
    """Statistics recorded earlier, with the same arch, by CalibratedStatistics."""

    def __init__(self, recorded: dict[ElasticNorm, tuple[Tensor, Tensor]]):
        self.recorded = recorded

    def normalize(self, norm: ElasticNorm, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        mean, variance = self.recorded[norm]
        return F.batch_norm(x, mean, variance, weight, bias, eps=EPSILON)
