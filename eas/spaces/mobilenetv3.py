"""OFA's MobileNetV3: kernel and expansion of every block, depth of every stage.

Source: Cai et al. 2020 (once-for-all); the blocks are those of Howard et al. 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import Tensor

from eas.registry import Finite, Positive
from eas.spaces.base import SPACES, SizedRecipe
from eas.spaces.inverted_residual import BlockShape, InvertedResidualSpace, make_divisible
from eas.spaces.inverted_residual_networks import ElasticInvertedResiduals, InvertedResiduals

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
class MobileNetV3Space(InvertedResidualSpace):
    """Five stages; a stage keeps its first `depths[i]` blocks.

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
    activation = "hardswish"

    @property
    def recipe(self) -> MobileNetV3Recipe:
        return MobileNetV3Recipe(**{name: getattr(self, name) for name in (*CHOSEN, "image_sizes")})

    @property
    def first(self) -> BlockShape:
        channels = make_divisible(FIRST * self.width)
        return BlockShape(channels, channels, 1, (3,), "relu", expands=False)

    @property
    def layout(self) -> list[list[BlockShape]]:
        inputs, stages = make_divisible(FIRST * self.width), []
        for stage, width in enumerate(WIDTHS):
            outputs, shapes = make_divisible(width * self.width), []
            activation = "hardswish" if stage >= SWISH_FROM else "relu"
            for block in range(self.blocks_per_stage):
                stride = 1 if block else self.strides[1 + stage]
                shapes.append(BlockShape(inputs, outputs, stride, self.kernels, activation, SQUEEZED[stage]))
                inputs = outputs
            stages.append(shapes)
        return stages

    @property
    def head(self) -> tuple[int, ...]:
        return make_divisible(LAST * self.width), make_divisible(FEATURES * self.width)

    def supernet(self, classes: int, mean: Sequence[float], std: Sequence[float]) -> ElasticMobileNetV3:
        return ElasticMobileNetV3(self, classes, mean, std)

    def network(self, arch: Tensor, classes: int) -> InvertedResiduals:
        return InvertedResiduals(self, self.describe(arch), classes)


class ElasticMobileNetV3(ElasticInvertedResiduals):
    """The weight-sharing network of a MobileNetV3Space."""

    def load_start(self, path: str | Path) -> None:
        """OFA's published weights, see eas.spaces.ofa_weights."""
        from eas.spaces.ofa_weights import load_ofa

        load_ofa(self, path)
