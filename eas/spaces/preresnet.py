"""A pre-activation ResNet with a width for every block and a depth for every stage: space, supernet, plain network.

Source: PreResNet-20 of the paper's CIFAR setting; there one width ratio for each stage, here one for each block (ours).
The residual stream keeps its full width, so that a block's cost depends on its own width only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from eas.layers import EPSILON, ElasticConv2d, ElasticNorm, Statistics
from eas.registry import Positive
from eas.spaces.base import SPACES, ChoiceSpace, SizedRecipe, cached_table
from eas.spaces.supernet import Supernet

KERNEL = 3
CHOSEN = ("widths", "depths", "ratios", "stem_stride")  # what the recipe says of the space


@SPACES.register
class PreResNetRecipe(SizedRecipe):
    """Stages of pre-activation residual blocks, see PreResNetSpace."""

    kind: Literal["preresnet"] = "preresnet"
    widths: tuple[Positive, ...] = Field(min_length=1)
    depths: tuple[Positive, ...] = Field(min_length=1)
    ratios: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(min_length=1)
    stem_stride: Annotated[int, Field(ge=1, le=4)] = 1

    @model_validator(mode="after")
    def ascending(self) -> PreResNetRecipe:
        for name in ("depths", "ratios"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)):
                raise ValueError(f"{name} must be strictly ascending, got {list(values)}")
        return self

    def build(self, image_size: int, in_channels: int) -> PreResNetSpace:
        chosen = {name: getattr(self, name) for name in CHOSEN}
        return PreResNetSpace(image_size, in_channels, **chosen, image_sizes=self.sizes_for(image_size))


@dataclass(frozen=True)
class PreResNetSpace(ChoiceSpace):
    """Stage s has `widths[s]` channels; every stage but the first halves the resolution.

    A stage keeps its first `depths[i]` blocks, and a block of form j has `ratios[j] * widths[s]` inner channels. The
    layer before the stages divides the resolution by `stem_stride`: 2 suits photographs of 64 pixels and more, 4 those
    that have to be cheap.
    """

    image_size: int
    in_channels: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    ratios: tuple[float, ...]
    stem_stride: int = 1
    image_sizes: tuple[int, ...] = ()

    @property
    def stages(self) -> int:
        return len(self.widths)

    @property
    def forms(self) -> int:
        return len(self.ratios)

    @property
    def recipe(self) -> PreResNetRecipe:
        return PreResNetRecipe(**{name: getattr(self, name) for name in (*CHOSEN, "image_sizes")})

    @cached_table
    def inner_channels(self) -> Tensor:
        """Inner channels of every block in every form, int64 [blocks, forms]."""
        widths = torch.tensor(self.widths).repeat_interleave(self.blocks_per_stage)
        return torch.round(widths[:, None] * torch.tensor(self.ratios)).long().clamp_min(1)

    def describe(self, arch: Tensor) -> list[list[int]]:
        """Inner channels of the kept blocks, one list a stage."""
        channels = self.inner_channels.gather(1, self.form_of(arch)[:, None])[:, 0].view(self.stages, -1)
        return [row[:kept].tolist() for row, kept in zip(channels, self.depth(arch), strict=True)]

    def form_names(self) -> list[list[str]]:
        return [[str(channels) for channels in row] for row in self.inner_channels.tolist()]

    def form_sizes(self) -> Tensor:
        return self.inner_channels / max(self.widths)

    def stage_names(self) -> list[str]:
        sides = map(self.resolution, range(self.stages))
        most = "up to " * bool(self.image_sizes)
        return [f"stage {stage}, {most}{side} x {side} pixels" for stage, side in enumerate(sides, start=1)]

    def supernet(self, classes: int, mean: Sequence[float], std: Sequence[float]) -> ElasticPreResNet:
        return ElasticPreResNet(self, classes, mean, std)

    def network(self, arch: Tensor, classes: int) -> PreResNet:
        return PreResNet(self, self.describe(arch), classes)

    # ---------------------------------------------------------------- costs

    @cached_table
    def _block_geometry(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of every block: input and output channels, output pixels, whether it has a projection; each [blocks]."""
        first = torch.arange(self.blocks) % self.blocks_per_stage == 0
        stage = torch.arange(self.blocks) // self.blocks_per_stage
        widths = torch.tensor(self.widths)
        projects = first & (stage > 0)
        inputs = torch.where(projects, widths[(stage - 1).clamp_min(0)], widths[stage])
        side = torch.tensor([self.resolution(s) for s in range(self.stages)])
        return inputs, widths[stage], (side**2)[stage], projects

    @property
    def stem_kernel(self) -> int:
        """Side of the stem's windows: no pixel lies between two of them."""
        return max(KERNEL, 2 * self.stem_stride - 1)

    def resolution(self, stage: int) -> int:
        """Side of the feature maps of a stage in pixels."""
        side = -(-self.image_size // self.stem_stride)
        for _ in range(stage):
            side = (side + 1) // 2
        return side

    @cached_table
    def block_madds(self) -> Tensor:
        inputs, outputs, pixels, projects = self._block_geometry
        convolutions = KERNEL**2 * (inputs + outputs)[:, None] * self.inner_channels
        return (convolutions + (projects * inputs * outputs)[:, None]) * pixels[:, None]

    @cached_table
    def block_parameters(self) -> Tensor:
        inputs, outputs, _, projects = self._block_geometry
        norms = 2 * (inputs[:, None] + self.inner_channels)
        convolutions = KERNEL**2 * (inputs + outputs)[:, None] * self.inner_channels
        return convolutions + norms + (projects * inputs * outputs)[:, None]

    def fixed_madds(self, class_counts: Tensor | int) -> Tensor:
        stem = self.stem_kernel**2 * self.in_channels * self.widths[0] * self.resolution(0) ** 2
        return stem + self.widths[-1] * torch.as_tensor(class_counts)

    def fixed_parameters(self, class_counts: Tensor | int) -> Tensor:
        stem_and_head = self.stem_kernel**2 * self.in_channels * self.widths[0] + 2 * self.widths[-1]
        return stem_and_head + (self.widths[-1] + 1) * torch.as_tensor(class_counts)


def layout(widths: Sequence[int], blocks: Sequence[int]) -> list[list[tuple[int, int, int]]]:
    """(inputs, outputs, stride) of every block, stage by stage, for stages of so many blocks."""
    inputs = (widths[0], *widths)
    return [
        [(width if block else inputs[stage], width, 1 if block or stage == 0 else 2) for block in range(count)]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True))
    ]


def initialize(module: nn.Module) -> None:
    """He initialisation for convolutions; the other layers keep their own."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


# -------------------------------------------------------------------- the elastic network


class ElasticBlock(nn.Module):
    """A pre-activation residual block with an elastic number of inner channels.

    Source: He et al. 2016 (identity mappings).
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.norm1 = ElasticNorm(inputs)
        self.conv1 = ElasticConv2d(inputs, outputs, KERNEL, stride)
        self.norm2 = ElasticNorm(outputs)
        self.conv2 = ElasticConv2d(outputs, outputs, KERNEL)
        self.shortcut = ElasticConv2d(inputs, outputs, 1, stride) if inputs != outputs or stride > 1 else None

    def forward(self, x: Tensor, statistics: Statistics, inner: int | None = None, gate: Tensor | None = None):
        """One block on x [n, inputs, h, w]: sliced to `inner` channels, or its channels gated by `gate` [outputs]."""
        shortcut, h = self.open(x, statistics, inner)
        return shortcut + self.conv2(h, gate=gate)

    def open(self, x: Tensor, statistics: Statistics, inner: int | None = None) -> tuple[Tensor, Tensor]:
        """A block up to its last convolution: the shortcut, and the `inner` channels that the convolution reads.

        Narrower blocks on the same x have the leading ones of these channels, as norms treat each by itself.
        """
        h = F.relu(self.norm1(x, statistics), inplace=True)
        shortcut = x if self.shortcut is None else self.shortcut(h)
        return shortcut, F.relu(self.norm2(self.conv1(h, inner), statistics), inplace=True)


class ElasticPreResNet(Supernet):
    """The weight-sharing pre-activation ResNet of a PreResNetSpace."""

    def __init__(self, space: PreResNetSpace, classes: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__(space, mean, std)
        self.stem = ElasticConv2d(space.in_channels, space.widths[0], space.stem_kernel, space.stem_stride)
        blocks = layout(space.widths, [space.blocks_per_stage] * space.stages)
        self.stages = nn.ModuleList(nn.ModuleList(ElasticBlock(*shape) for shape in stage) for stage in blocks)
        self.norm = ElasticNorm(space.widths[-1])
        self.classifier = nn.Linear(space.widths[-1], classes)
        self.apply(initialize)
        self.to(memory_format=torch.channels_last)

    def run_stem(self, images: Tensor, archs: Tensor, statistics: Statistics) -> tuple[Tensor, Tensor]:
        """The first block's shortcut, and the inner channels of the widest first block among the archs (ours).

        Every first block reads the same stem, and its inner channels are the leading ones of the widest one's.
        """
        return self.stages[0][0].open(self.first_layer(images), statistics, max(map(self.first_inner, archs)))

    def stem_part(self, stem: tuple[Tensor, Tensor], arch: Tensor) -> tuple[Tensor, Tensor]:
        return stem[0], stem[1][:, : self.first_inner(arch)]

    def first_inner(self, arch: Tensor) -> int:
        """Inner channels of an arch's first block, which every arch keeps."""
        return int(self.space.inner_channels[0, arch[self.space.stages]])

    def run_rest(self, stem: tuple[Tensor, Tensor], arch: Tensor, statistics: Statistics) -> Tensor:
        shortcut, h = stem
        (_, *others), *stages = self.space.describe(arch)
        x = shortcut + self.stages[0][0].conv2(h)
        for stage, widths in zip((self.stages[0][1:], *self.stages[1:]), (others, *stages), strict=True):
            for block, inner in zip(stage, widths, strict=False):
                x = block(x, statistics, inner)
        return self.head(x, statistics)

    def forward_gated(self, images: Tensor, depth: Tensor, form: Tensor, statistics: Statistics) -> Tensor:
        """See Supernet. Every block's last convolution is linear: block and channel gates scale its weights."""
        x, gates = self.first_layer(images), self.channel_gates(depth, form)
        for block, gate in zip((block for stage in self.stages for block in stage), gates, strict=True):
            x = block(x, statistics, gate=gate[: block.conv2.in_channels])
        return self.head(x, statistics)

    def channel_gates(self, depth: Tensor, form: Tensor) -> Tensor:
        """Gates of every block's inner channels, [blocks, channels], from choice probabilities.

        The probability that the block is kept, times that of the forms which include the channel (cumulative, as in the
        related code).
        """
        inner = self.space.inner_channels.to(form.device)
        included = torch.arange(max(self.space.widths), device=form.device) < inner[..., None]
        channels = torch.einsum("bf,bfc->bc", form, included.to(form))
        return self.space.keep_probability(depth)[:, None] * channels

    def first_layer(self, images: Tensor) -> Tensor:
        # Channels last is 1.7 times as fast as the default here, on a CPU too (measured on the training step).
        return self.stem((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def head(self, x: Tensor, statistics: Statistics) -> Tensor:
        x = F.relu(self.norm(x, statistics)).mean((2, 3))
        return self.classifier(x).float()

    @torch.no_grad()
    def begin_as_identity(self) -> None:
        for block in (block for stage in self.stages for block in stage):
            block.conv2.weight.zero_()


# -------------------------------------------------------------------- the plain network


class Block(nn.Module):
    """A plain pre-activation residual block with a fixed number of inner channels."""

    def __init__(self, inputs: int, outputs: int, stride: int, inner: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs, EPSILON)
        self.conv1 = nn.Conv2d(inputs, inner, KERNEL, stride, KERNEL // 2, bias=False)
        self.norm2 = nn.BatchNorm2d(inner, EPSILON)
        self.conv2 = nn.Conv2d(inner, outputs, KERNEL, 1, KERNEL // 2, bias=False)
        projects = inputs != outputs or stride > 1
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(h)
        return shortcut + self.conv2(F.relu(self.norm2(self.conv1(h))))


class PreResNet(nn.Module):
    """A plain network of a PreResNetSpace: images [n, channels, size, size] in [0, 1] to logits [n, classes].

    `inner` holds the inner channels of every block, one sequence a stage.
    """

    def __init__(self, space: PreResNetSpace, inner: Sequence[Sequence[int]], classes: int):
        super().__init__()
        widths = space.widths
        self.register_buffer("mean", torch.zeros(1, space.in_channels, 1, 1))
        self.register_buffer("std", torch.ones(1, space.in_channels, 1, 1))
        kernel = space.stem_kernel
        self.stem = nn.Conv2d(space.in_channels, widths[0], kernel, space.stem_stride, kernel // 2, bias=False)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(*shape, channels) for shape, channels in zip(stage, kept, strict=True)))
            for stage, kept in zip(layout(widths, [len(kept) for kept in inner]), inner, strict=True)
        )
        self.norm = nn.BatchNorm2d(widths[-1], EPSILON)
        self.classifier = nn.Linear(widths[-1], classes)
        self.apply(initialize)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem((images - self.mean) / self.std)
        for stage in self.stages:
            x = stage(x)
        return self.classifier(F.relu(self.norm(x)).mean((2, 3)))
