"""OFA's MobileNetV3: kernel and expansion of every block, depth of every stage; the space and its costs.

Source: Cai et al. 2020 (once-for-all); the blocks are those of Howard et al. 2019. The networks are in
eas.spaces.mobilenetv3_networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from eas.registry import Finite, Positive
from eas.spaces.base import SPACES, ChoiceSpace, SizedRecipe, cached_table
from eas.spaces.mobilenetv3_networks import BlockShape, ElasticMobileNetV3, MobileNetV3, make_divisible

FIRST, WIDTHS, LAST, FEATURES = 16, (24, 40, 80, 112, 160), 960, 1280  # channels at width 1
SQUEEZED = (False, True, False, True, True)  # stages with squeeze-excite
CHOSEN = ("width", "depths", "kernels", "expansions", "strides")  # what the recipe says of the space
SWISH_FROM = 2  # the first stage with h-swish in place of ReLU


@SPACES.register
class MobileNetV3Recipe(SizedRecipe):
    """Five stages of inverted residual blocks, see MobileNetV3Space."""

    kind: Literal["mobilenetv3"] = "mobilenetv3"
    width: Annotated[Finite, Field(le=8)] = 1.0
    depths: tuple[Positive, ...] = Field((2, 3, 4), min_length=1)
    kernels: tuple[Annotated[int, Field(ge=1, le=31)], ...] = Field((3, 5, 7), min_length=1)
    expansions: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field((3, 4, 6), min_length=1)
    strides: tuple[Annotated[int, Field(ge=1, le=2)], ...] = Field((2, 2, 2, 2, 1, 2), min_length=6, max_length=6)

    @model_validator(mode="after")
    def ascending(self) -> MobileNetV3Recipe:
        for name in ("depths", "kernels", "expansions"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)):
                raise ValueError(f"{name} must be strictly ascending, got {list(values)}")
        if even := [kernel for kernel in self.kernels if kernel % 2 == 0]:
            raise ValueError(f"kernels must be odd, got {even[0]}")
        return self

    def build(self, image_size: int, in_channels: int) -> MobileNetV3Space:
        chosen = {name: getattr(self, name) for name in CHOSEN}
        return MobileNetV3Space(image_size, in_channels, **chosen, image_sizes=self.sizes_for(image_size))


@dataclass(frozen=True)
class MobileNetV3Space(ChoiceSpace):
    """Five stages; a stage keeps its first `depths[i]` blocks, and a block's form is a pair (kernel, expansion).

    `width` scales all channels; `strides` are those of the stem and of each stage's first block. For small images they
    may be 1: (1, 1, 2, 2, 1, 2) is usual at 32 pixels.
    """

    image_size: int
    in_channels: int
    width: float = 1.0
    depths: tuple[int, ...] = (2, 3, 4)
    kernels: tuple[int, ...] = (3, 5, 7)
    expansions: tuple[int, ...] = (3, 4, 6)
    strides: tuple[int, ...] = (2, 2, 2, 2, 1, 2)
    image_sizes: tuple[int, ...] = ()

    @property
    def stages(self) -> int:
        return len(WIDTHS)

    @cached_table
    def pairs(self) -> Tensor:
        """Kernel and expansion of every form, as indices, int64 [forms, 2]; the first form is the cheapest."""
        return torch.tensor(list(product(range(len(self.kernels)), range(len(self.expansions)))))

    @property
    def forms(self) -> int:
        return len(self.kernels) * len(self.expansions)

    @property
    def recipe(self) -> MobileNetV3Recipe:
        return MobileNetV3Recipe(**{name: getattr(self, name) for name in (*CHOSEN, "image_sizes")})

    @property
    def first(self) -> BlockShape:
        """The block behind the stem, which every arch has as it is: it does not expand."""
        channels = make_divisible(FIRST * self.width)
        return BlockShape(channels, channels, 1, swish=False, squeezed=False, expands=False)

    @property
    def layout(self) -> list[list[BlockShape]]:
        """Every block of the largest network, stage by stage."""
        inputs, stages = make_divisible(FIRST * self.width), []
        for stage, width in enumerate(WIDTHS):
            outputs, shapes = make_divisible(width * self.width), []
            for block in range(self.blocks_per_stage):
                stride = 1 if block else self.strides[1 + stage]
                shapes.append(BlockShape(inputs, outputs, stride, stage >= SWISH_FROM, SQUEEZED[stage]))
                inputs = outputs
            stages.append(shapes)
        return stages

    @property
    def ends(self) -> tuple[int, int, int]:
        """Channels of the stem, of the last feature maps, and that the classifier reads."""
        return tuple(make_divisible(channels * self.width) for channels in (FIRST, LAST, FEATURES))

    @cached_table
    def hidden_channels(self) -> Tensor:
        """Channels inside every block at every expansion, int64 [blocks, expansions]."""
        shapes = (shape for stage in self.layout for shape in stage)
        return torch.tensor([[make_divisible(shape.inputs * e) for e in self.expansions] for shape in shapes])

    def describe(self, arch: Tensor) -> list[list[tuple[int, int]]]:
        """Kernel, as an index, and hidden channels of the kept blocks, one list a stage."""
        kernel, expansion = self.pairs[self.form_of(arch)].unbind(1)
        hidden = self.hidden_channels.gather(1, expansion[:, None])[:, 0]
        rows = torch.stack([kernel, hidden], 1).view(self.stages, -1, 2)
        return [[tuple(pair) for pair in row[:kept].tolist()] for row, kept in zip(rows, self.depth(arch), strict=True)]

    def form_names(self) -> list[list[str]]:
        names = [f"{kernel}x{kernel}, {expansion}" for kernel, expansion in product(self.kernels, self.expansions)]
        return [names] * self.blocks

    def form_sizes(self) -> Tensor:
        return self.block_madds / self.block_madds.max()  # parameters are nearly all in the last stage

    def stage_names(self) -> list[str]:
        sides = self.sides[2:]
        most = "up to " * bool(self.image_sizes)
        return [f"stage {stage}, {most}{side} x {side} pixels" for stage, side in enumerate(sides, start=1)]

    def supernet(self, classes: int, mean: Sequence[float], std: Sequence[float]) -> ElasticMobileNetV3:
        return ElasticMobileNetV3(self, classes, mean, std)

    def network(self, arch: Tensor, classes: int) -> MobileNetV3:
        return MobileNetV3(self, self.describe(arch), classes)

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
        for stage, shapes in enumerate(self.layout):
            for block, shape in enumerate(shapes):
                before, after = sides[stage] if block == 0 else sides[stage + 1], sides[stage + 1]
                forms = list(product(self.kernels, (make_divisible(shape.inputs * e) for e in self.expansions)))
                madds.append([shape.madds(*form, before, after) for form in forms])
                parameters.append([shape.parameters(*form) for form in forms])
        return torch.tensor(madds), torch.tensor(parameters)

    @property
    def block_madds(self) -> Tensor:
        return self._tables[0]

    @property
    def block_parameters(self) -> Tensor:
        return self._tables[1]

    def fixed_madds(self, class_counts: Tensor | int) -> Tensor:
        (first, last, features), (_, stem_side, *_, side) = self.ends, self.sides
        stem = 9 * self.in_channels * first * stem_side**2 + self.first.madds(3, first, stem_side, stem_side)
        head = self.layout[-1][-1].outputs * last * side**2 + last * features
        return stem + head + features * torch.as_tensor(class_counts)

    def fixed_parameters(self, class_counts: Tensor | int) -> Tensor:
        first, last, features = self.ends
        stem = 9 * self.in_channels * first + 2 * first + self.first.parameters(3, first)
        head = self.layout[-1][-1].outputs * last + 2 * last + last * features
        return stem + head + (features + 1) * torch.as_tensor(class_counts)
