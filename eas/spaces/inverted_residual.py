"""Spaces of inverted residual blocks, whose form is a pair (kernel, expansion): archs and costs.

Source: Sandler et al. 2018 (the blocks), Cai et al. 2020 (once-for-all: what is elastic). The networks are in
eas.spaces.inverted_residual_networks.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from eas.layers import EPSILON
from eas.spaces.base import ChoiceSpace, cached_table

DIVISOR, REDUCTION = 8, 4  # of numbers of channels; squeeze-excite has that many times fewer


def make_divisible(channels: float) -> int:
    """The multiple of 8 nearest to a number of channels, at least 8 and at most a tenth below (Sandler et al. 2018)."""
    nearest = max(DIVISOR, int(channels + DIVISOR / 2) // DIVISOR * DIVISOR)
    return nearest + DIVISOR * (nearest < 0.9 * channels)


@dataclass(frozen=True)
class BlockShape:
    """What does not change of an inverted residual block; `same` is TensorFlow's padding (see eas.layers.padded)."""

    inputs: int
    outputs: int
    stride: int
    kernels: tuple[int, ...]  # that it may have
    activation: str
    squeezed: bool = False
    expands: bool = True
    same: bool = False
    epsilon: float = EPSILON

    @property
    def residual(self) -> bool:
        """Whether there is a shortcut around it."""
        return self.stride == 1 and self.inputs == self.outputs

    def madds(self, kernel: int, hidden: int, before: int, after: int) -> int:
        """Multiply-adds, for feature maps of so many pixels a side before and after the depthwise convolution."""
        squeeze = 2 * hidden * make_divisible(hidden // REDUCTION) * self.squeezed
        expand = self.inputs * hidden * self.expands * before**2
        return expand + (kernel**2 + self.outputs) * hidden * after**2 + squeeze

    def parameters(self, kernel: int, hidden: int) -> int:
        """Trainable parameters."""
        squeezed = make_divisible(hidden // REDUCTION)
        squeeze = (2 * hidden * squeezed + squeezed + hidden) * self.squeezed
        expand = (self.inputs + 2) * hidden * self.expands
        return expand + (kernel**2 + 2) * hidden + squeeze + (hidden + 2) * self.outputs


class InvertedResidualSpace(ChoiceSpace):
    """A layer before, a first block that every arch has as it is, stages of elastic blocks, and layers behind them."""

    kernels: tuple[int, ...]  # of the blocks that have most of them
    expansions: tuple[float, ...]
    strides: tuple[int, ...]  # of the layer before the blocks and of each stage's first block
    activation: str  # of the layers before and behind the blocks

    @property
    @abstractmethod
    def first(self) -> BlockShape:
        """The block behind the stem, which every arch has as it is: it does not expand."""

    @property
    @abstractmethod
    def layout(self) -> list[list[BlockShape]]:
        """Every block of the largest network, stage by stage."""

    @property
    @abstractmethod
    def head(self) -> tuple[int, ...]:
        """Channels of the last feature maps and, if there is one, of a layer behind their mean."""

    @property
    def stages(self) -> int:
        return len(self.strides) - 1

    @cached_table
    def pairs(self) -> Tensor:
        """Kernel and expansion of every form, as indices, int64 [forms, 2]; the first form is the cheapest."""
        return torch.tensor(list(product(range(len(self.kernels)), range(len(self.expansions)))))

    @property
    def forms(self) -> int:
        return len(self.kernels) * len(self.expansions)

    @property
    def block_forms(self) -> list[int]:
        return [len(shape.kernels) * len(self.expansions) if shape else 1 for shape in self.rows]

    @property
    def rows(self) -> list[BlockShape | None]:
        """The block of every row of a table, None where its stage has fewer."""
        most = self.blocks_per_stage
        return [shape for stage in self.layout for shape in (*stage, *[None] * (most - len(stage)))]

    @cached_table
    def hidden_channels(self) -> Tensor:
        """Channels inside every block at every expansion, int64 [blocks, expansions]."""
        inputs = (shape.inputs if shape else 0 for shape in self.rows)
        return torch.tensor([[make_divisible(channels * e) for e in self.expansions] for channels in inputs])

    def describe(self, arch: Tensor) -> list[list[tuple[int, int]]]:
        """The choices of a kernel, and hidden channels, of the kept blocks, one list a stage."""
        kernel_choice, expansion = self.pairs[self.form_of(arch)].unbind(1)
        hidden = self.hidden_channels.gather(1, expansion[:, None])[:, 0]
        rows = torch.stack([kernel_choice, hidden], 1).view(self.stages, -1, 2)
        return [[tuple(pair) for pair in row[:kept].tolist()] for row, kept in zip(rows, self.depth(arch), strict=True)]

    def form_names(self) -> list[list[str]]:
        forms = (product(shape.kernels, self.expansions) if shape else [(0, 0)] for shape in self.rows)
        return [[f"{kernel}x{kernel}, {expansion:g}" for kernel, expansion in each] for each in forms]

    def form_sizes(self) -> Tensor:
        return self.block_madds / self.block_madds.max()  # parameters are nearly all in the last stage

    def stage_names(self) -> list[str]:
        sides = self.sides[2:]
        most = "up to " * bool(self.image_sizes)
        return [f"stage {stage}, {most}{side} x {side} pixels" for stage, side in enumerate(sides, start=1)]

    # ---------------------------------------------------------------- costs

    @property
    def sides(self) -> list[int]:
        """Of the images, behind the stem, and of every stage, in pixels."""
        sides = [self.image_size]
        for stride in self.strides:
            sides.append((sides[-1] + stride - 1) // stride)
        return sides

    @cached_table
    def _tables(self) -> tuple[Tensor, Tensor]:
        """Multiply-adds and parameters of every block in every form."""
        madds, parameters, sides = [], [], self.sides[1:]
        for row, (shape, hidden) in enumerate(zip(self.rows, self.hidden_channels.tolist(), strict=True)):
            stage, place = divmod(row, self.blocks_per_stage)
            before, after = sides[stage + (place > 0)], sides[stage + 1]
            forms = list(product(shape.kernels, hidden)) if shape else []
            madds.append([shape.madds(*form, before, after) for form in forms] or [0])
            parameters.append([shape.parameters(*form) for form in forms] or [0])
        whole = ([row + row[:1] * (self.forms - len(row)) for row in table] for table in (madds, parameters))
        return tuple(map(torch.tensor, whole))

    @property
    def block_madds(self) -> Tensor:
        return self._tables[0]

    @property
    def block_parameters(self) -> Tensor:
        return self._tables[1]

    def fixed_madds(self, class_counts: Tensor | int) -> Tensor:
        first, (_, stem_side, *_, side) = self.first, self.sides
        stem = 9 * self.in_channels * first.inputs * stem_side**2
        stem += first.madds(*first.kernels, first.inputs, stem_side, stem_side)
        head = self.layout[-1][-1].outputs * self.head[0] * side**2 + sum(a * b for a, b in pairwise(self.head))
        return stem + head + self.head[-1] * torch.as_tensor(class_counts)

    def fixed_parameters(self, class_counts: Tensor | int) -> Tensor:
        first = self.first
        stem = (9 * self.in_channels + 2) * first.inputs + first.parameters(*first.kernels, first.inputs)
        head = (self.layout[-1][-1].outputs + 2) * self.head[0] + sum(a * b for a, b in pairwise(self.head))
        return stem + head + (self.head[-1] + 1) * torch.as_tensor(class_counts)
