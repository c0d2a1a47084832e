"""Depthwise convolutions whose weight gradient is fast on a CPU.

oneDNN's weight gradient of channels-last depthwise convolutions is quick for kernels that are 3 columns wide, whatever
their height, and 5 to 20 times as slow for wider ones. A wider kernel's columns are therefore taken three at a time,
each time on images that are moved sideways. Source: ours (measured with torch 2.14, one core).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

QUICK = 3  # columns
FIRST_COLUMNS = {5: (0, 2), 7: (0, 2, 4)}  # of a kernel of that width: where each three of them begin


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int, padding: int | None = None) -> Tensor:
    """F.conv2d of every channel with its own square filter (odd sides, [channels, 1, side, side]).

    Padded by half a side, the only padding that there is with stride 1; with others another may be said.
    """
    quick = x.device.type == "cpu" and weight.requires_grad and weight.shape[-1] in FIRST_COLUMNS and stride == 1
    if quick and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu"):
        return QuickDepthwise.apply(x, weight)
    padding = weight.shape[-1] // 2 if padding is None else padding
    return F.conv2d(x, weight, None, stride, padding, groups=x.shape[1])


class QuickDepthwise(torch.autograd.Function):
    """A depthwise convolution of stride 1 whose weight gradient is taken three columns at a time."""

    @staticmethod
    def forward(context, x: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(x, weight)
        return F.conv2d(x, weight, None, 1, weight.shape[-1] // 2, groups=x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = context.saved_tensors
        half = weight.shape[-1] // 2
        of_x = one_gradient(gradient, x, weight, (half, half), of_weight=False) if context.needs_input_grad[0] else None
        return of_x, weight_gradient(gradient, x, weight)


def weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The gradient of a depthwise convolution's weight, of its shape, from that of its output."""
    side, found = weight.shape[-1], torch.empty_like(weight)
    for first in FIRST_COLUMNS[side]:
        three = weight[..., :QUICK].contiguous()  # for its shape alone
        left = side // 2 - first  # columns by which the images are moved to the right
        moved = F.pad(x, (left, QUICK - 1 - left)) if left != 1 else x
        part = one_gradient(gradient, moved, three, (side // 2, int(left == 1)), of_weight=True)
        found[..., first : first + QUICK] = part
    return found


def one_gradient(gradient: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, int], *, of_weight: bool) -> Tensor:
    """One of the two gradients of a depthwise convolution of stride 1."""
    around = (None, [1, 1], padding, [1, 1], False, [0, 0], x.shape[1])
    found = torch.ops.aten.convolution_backward(gradient, x, weight, *around, [not of_weight, of_weight, False])
    return found[int(of_weight)]
