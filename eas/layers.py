"""Elastic layers: the only place that slices weights, and the statistics that their norms run on.

A layer holds the weights of its widest form. Given fewer channels it uses the leading ones. No layer keeps a state
between calls: widths, gates and statistics are arguments.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eas.depthwise import depthwise_conv2d
from eas.ranks import ALONE, Ranks

EPSILON = 1e-5
SAFE_CHANNELS = 16


def padded(x: Tensor, kernel: int, stride: int, *, same: bool) -> tuple[Tensor, int]:
    """What a convolution reads of x [n, channels, side, side], and by how much it pads each side: half of its kernel.

    `same` pads as TensorFlow does: with stride 2 and an even side, one row and column less before x than behind it.
    """
    if same and stride == 2 and x.shape[-1] % 2 == 0:
        return F.pad(x, (0, 1, 0, 1)), kernel // 2 - 1
    return x, kernel // 2


class ElasticConv2d(nn.Conv2d):
    """A convolution without bias whose first `outputs` filters read the first channels of its input.

    A `gate` [inputs], in [0, 1], scales what each input channel adds; one at 0 adds exactly what a sliced channel adds:
    nothing. It scales the weights, which costs nothing on the feature maps.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, same: bool = False):
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.same = same

    def forward(self, x: Tensor, outputs: int | None = None, gate: Tensor | None = None) -> Tensor:
        weight, stride = self.weight[:outputs, : x.shape[1]], self.stride
        x, padding = padded(x, self.kernel_size[0], stride[0], same=self.same)
        if gate is not None:
            weight = weight * gate[:, None, None]
        if self.kernel_size == (1, 1) and stride != (1, 1) and x.shape[1] < SAFE_CHANNELS:
            # The backward pass of oneDNN's strided 1x1 convolution of few channels, channels last, writes out of bounds
            # (uxlfoundation/oneDNN#6035; it crashes from 48 pixels on). What it would skip is left out before.
            x, stride = x[:, :, :: stride[0], :: stride[1]].contiguous(memory_format=torch.channels_last), (1, 1)
        return F.conv2d(x, weight, None, stride, padding)


class ElasticDepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution of the leading channels, with one of several kernels.

    A smaller kernel is a linear map of the centre of the next larger one, the identity at first. Source: OFA.
    """

    def __init__(self, channels: int, kernels: Sequence[int], stride: int = 1, *, same: bool = False):
        super().__init__(channels, channels, kernels[-1], stride, groups=channels, bias=False)
        self.kernels, self.same = tuple(kernels), same
        self.transforms = nn.ParameterList(nn.Parameter(torch.eye(kernel**2)) for kernel in kernels[:-1])

    def filters(self, kernel_choice: int, channels: int | None = None) -> Tensor:
        """The `kernel_choice`th kernel of the leading channels, [channels, 1, side, side]."""
        weight = self.weight[:channels]
        for index in range(len(self.kernels) - 2, kernel_choice - 1, -1):
            side = self.kernels[index]
            start = (weight.shape[-1] - side) // 2
            centre = weight[..., start : start + side, start : start + side].flatten(1)
            weight = F.linear(centre, self.transforms[index]).view(-1, 1, side, side)
        return weight

    def forward(self, x: Tensor, kernel_choice: int | Tensor) -> Tensor:
        """With the `kernel_choice`th kernel, or a mixture of all of them, [kernels]."""
        weight = (self.mixture if isinstance(kernel_choice, Tensor) else self.filters)(kernel_choice, x.shape[1])
        x, padding = padded(x, weight.shape[-1], self.stride[0], same=self.same)
        return depthwise_conv2d(x, weight, self.stride[0], padding)

    def mixture(self, share: Tensor, channels: int) -> Tensor:
        """The kernels' mean, weighted by `share` [kernels], at the size of the largest."""
        margins = [(self.kernels[-1] - side) // 2 for side in self.kernels]
        return sum(share[i] * F.pad(self.filters(i, channels), [margin] * 4) for i, margin in enumerate(margins))


class ElasticSqueezeExcite(nn.Module):
    """Squeeze-excite on the leading channels, of which so many are left between."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.reduce, self.expand = nn.Linear(channels, squeezed), nn.Linear(squeezed, channels)

    def forward(self, x: Tensor, squeezed: int, gate: Tensor | None = None, squeezed_gate: Tensor | None = None):
        """Gates are of the channels, [channels], and of the squeezed ones, [squeezed]."""
        channels, mean = x.shape[1], x.mean((2, 3))
        mean = mean if gate is None else mean * gate
        h = F.relu(F.linear(mean, self.reduce.weight[:squeezed, :channels], self.reduce.bias[:squeezed]))
        h = h if squeezed_gate is None else h * squeezed_gate
        scale = F.linear(h, self.expand.weight[:channels, :squeezed], self.expand.bias[:channels])
        return x * F.hardsigmoid(scale)[:, :, None, None]


class ElasticNorm(nn.Module):
    """Scale and shift of a batch norm; where its mean and variance come from is said by each call.

    A `gate` (a number in [0, 1]) scales what it gives.
    """

    def __init__(self, channels: int, epsilon: float = EPSILON):
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, statistics: Statistics, gate: Tensor | None = None) -> Tensor:
        weight, bias = self.weight[: x.shape[1]], self.bias[: x.shape[1]]
        if gate is not None:
            weight, bias = weight * gate, bias * gate
        return statistics.normalize(self, x, weight, bias)


class Statistics:
    """Batch statistics: every norm uses the mean and variance of the batch that it sees (training)."""

    def normalize(self, norm: ElasticNorm, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=norm.epsilon)


class CalibratedStatistics(Statistics):
    """Batch statistics that are kept: what the norms saw is in `recorded` (norm -> mean, variance; each [channels]).

    Of several `ranks` each has its share of the batch, and the statistics are those of the whole.
    """

    def __init__(self, ranks: Ranks = ALONE):
        self.recorded: dict[ElasticNorm, tuple[Tensor, Tensor]] = {}
        self.ranks = ranks

    def normalize(self, norm: ElasticNorm, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if self.ranks.count > 1:
            self.recorded[norm] = mean, variance = self.ranks.moments(x)
            return F.batch_norm(x, mean, variance, weight, bias, eps=norm.epsilon)
        y, mean, inverse = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, norm.epsilon)
        self.recorded[norm] = mean, (inverse.square().reciprocal() - norm.epsilon).clamp_min(0)
        return y


class FixedStatistics(Statistics):
    """Statistics recorded earlier, with the same arch, by CalibratedStatistics."""

    def __init__(self, recorded: dict[ElasticNorm, tuple[Tensor, Tensor]]):
        self.recorded = recorded

    def normalize(self, norm: ElasticNorm, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        mean, variance = self.recorded[norm]
        return F.batch_norm(x, mean, variance, weight, bias, eps=norm.epsilon)
