"""The networks of a space of inverted residual blocks: elastic, and plain.

Every kernel is a linear map of the centre of the next larger one; channels beyond an expansion are not computed.
Source: Cai et al. 2020 (once-for-all), Howard et al. 2019 (MobileNetV3, whose networks have all that is here).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eas.layers import ElasticConv2d, ElasticDepthwiseConv2d, ElasticNorm, ElasticSqueezeExcite, Statistics, padded
from eas.spaces.inverted_residual import REDUCTION, BlockShape, InvertedResidualSpace, make_divisible
from eas.spaces.supernet import Supernet

Gates = tuple[Tensor, Tensor, Tensor]  # of a block's hidden channels, of its squeezed ones, and of all that it adds
ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6, "hardswish": F.hardswish}


def activation(name: str, x: Tensor) -> Tensor:
    """An activation by its name; in place."""
    return ACTIVATIONS[name](x, inplace=True)


# -------------------------------------------------------------------- the elastic network


class ElasticInvertedResidual(nn.Module):
    """An inverted residual block with an elastic kernel and an elastic number of hidden channels."""

    def __init__(self, shape: BlockShape, hidden: int):
        super().__init__()
        self.shape = shape
        self.expand = ElasticConv2d(shape.inputs, hidden, 1) if shape.expands else None
        self.expand_norm = ElasticNorm(hidden, shape.epsilon) if shape.expands else None
        self.depthwise = ElasticDepthwiseConv2d(hidden, shape.kernels, shape.stride, same=shape.same)
        self.depthwise_norm = ElasticNorm(hidden, shape.epsilon)
        self.squeeze = ElasticSqueezeExcite(hidden, make_divisible(hidden // REDUCTION)) if shape.squeezed else None
        self.project = ElasticConv2d(hidden, shape.outputs, 1)
        self.project_norm = ElasticNorm(shape.outputs, shape.epsilon)

    def open(self, x: Tensor, statistics: Statistics, hidden: int | None = None) -> Tensor:
        """The leading `hidden` channels behind the expansion; those of fewer are a part of those of more."""
        if self.expand is None:
            return x
        return activation(self.shape.activation, self.expand_norm(self.expand(x, hidden), statistics))

    def close(
        self, x: Tensor, h: Tensor, statistics: Statistics, kernel_choice: int | Tensor, gates: Gates | None = None
    ):
        """The block's output, from its input x and the hidden channels h; see `forward`."""
        h = activation(self.shape.activation, self.depthwise_norm(self.depthwise(h, kernel_choice), statistics))
        channels, squeezed, keep = gates or (None, None, None)
        if self.squeeze is not None:
            h = self.squeeze(h, make_divisible(h.shape[1] // REDUCTION), channels, squeezed)
        y = self.project_norm(self.project(h, gate=channels), statistics, keep)
        return x + y if self.shape.residual else y

    def forward(
        self,
        x: Tensor,
        statistics: Statistics,
        kernel_choice: int | Tensor,
        hidden: int | None = None,
        gates: Gates | None = None,
    ) -> Tensor:
        """One block on x [n, inputs, h, w], sliced: with the `kernel_choice`th kernel and so many hidden channels.

        Or gated: the kernel is a mixture [kernels]; `gates` are those of the hidden channels, of the squeezed ones,
        and of all that the block adds to its shortcut.
        """
        return self.close(x, self.open(x, statistics, hidden), statistics, kernel_choice, gates)


class ElasticInvertedResiduals(Supernet):
    """The weight-sharing network of a space of inverted residual blocks."""

    space: InvertedResidualSpace

    def __init__(self, space: InvertedResidualSpace, classes: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__(space, mean, std)
        first, (last, *mixed) = space.first, space.head
        self.stem = ElasticConv2d(space.in_channels, first.inputs, 3, space.strides[0], same=first.same)
        self.stem_norm = ElasticNorm(first.inputs, first.epsilon)
        self.first = ElasticInvertedResidual(first, first.inputs)
        widest = space.hidden_channels[:, -1].view(space.stages, -1).tolist()
        self.stages = nn.ModuleList(
            # A stage may have fewer blocks than rows.
            nn.ModuleList(ElasticInvertedResidual(*block) for block in zip(shapes, hidden, strict=False))
            for shapes, hidden in zip(space.layout, widest, strict=True)
        )
        self.expand = ElasticConv2d(space.layout[-1][-1].outputs, last, 1)
        self.expand_norm = ElasticNorm(last, first.epsilon)
        self.mix = nn.Linear(last, *mixed, bias=False) if mixed else None
        self.classifier = nn.Linear(space.head[-1], classes)
        self.apply(initialize)
        self.to(memory_format=torch.channels_last)

    def run_stem(self, images: Tensor, archs: Tensor, statistics: Statistics) -> tuple[Tensor, ...]:
        """The hidden channels of the first elastic block, for the widest of the archs (ours); before them its input,
        where it has a shortcut.
        """
        x, block = self.first_layers(images, statistics), self.stages[0][0]
        hidden = block.open(x, statistics, max(map(self.first_hidden, archs)))
        return (x, hidden) if block.shape.residual else (hidden,)

    def stem_part(self, stem: tuple[Tensor, ...], arch: Tensor) -> tuple[Tensor, ...]:
        return *stem[:-1], stem[-1][:, : self.first_hidden(arch)]

    def first_hidden(self, arch: Tensor) -> int:
        """Hidden channels of an arch's first elastic block, which every arch keeps."""
        return int(self.space.hidden_channels[0, self.space.pairs[arch[self.space.stages], 1]])

    def run_rest(self, stem: tuple[Tensor, ...], arch: Tensor, statistics: Statistics) -> Tensor:
        (first, *others), *stages = self.space.describe(arch)
        x = self.stages[0][0].close(stem[0], stem[-1], statistics, first[0])
        for blocks, forms in zip((self.stages[0][1:], *self.stages[1:]), (others, *stages), strict=True):
            for block, (kernel_choice, hidden) in zip(blocks, forms, strict=False):
                x = block(x, statistics, kernel_choice, hidden)
        return self.head(x, statistics)

    def forward_gated(self, images: Tensor, depth: Tensor, form: Tensor, statistics: Statistics) -> Tensor:
        """See Supernet. Kernels are averaged; gates of channels scale weights, a block's own its last norm."""
        x = self.first_layers(images, statistics)
        keep, space = self.space.keep_probability(depth), self.space
        pairs = form.unflatten(-1, (len(space.kernels), len(space.expansions)))
        for index, block in self.by_row():
            widths, share = space.hidden_channels[index], pairs[index].sum(0)
            squeezed = torch.tensor([make_divisible(width // REDUCTION) for width in widths.tolist()])
            gates = included(share, widths), included(share, squeezed), keep[index]
            x = block(x, statistics, pairs[index].sum(1)[: len(block.shape.kernels)], gates=gates)
        return self.head(x, statistics)

    def by_row(self) -> Iterator[tuple[int, ElasticInvertedResidual]]:
        """Every block after its row in the space's tables."""
        for stage, blocks in enumerate(self.stages):
            yield from enumerate(blocks, start=stage * self.space.blocks_per_stage)

    def first_layers(self, images: Tensor, statistics: Statistics) -> Tensor:
        x = self.stem((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.first(activation(self.space.activation, self.stem_norm(x, statistics)), statistics, 0)

    def head(self, x: Tensor, statistics: Statistics) -> Tensor:
        x = activation(self.space.activation, self.expand_norm(self.expand(x), statistics)).mean((2, 3))
        x = x if self.mix is None else activation(self.space.activation, self.mix(x))
        return self.classifier(x).float()

    def weights_of(self, arch: Tensor) -> dict[str, Tensor]:
        state = self.state_dict()
        for stage, forms in enumerate(self.space.describe(arch)):
            for block, (kernel_choice, _) in enumerate(forms):
                name = f"stages.{stage}.{block}.depthwise"
                state[f"{name}.weight"] = self.get_submodule(name).filters(kernel_choice)
        return state

    @torch.no_grad()
    def sort_channels(self) -> None:
        """Put hidden channels in the order of their importance, the largest first; the largest arch stays what it is.

        A channel's importance is the sum of the projection's absolute weights. Source: OFA, before widths are elastic.
        """
        for _, block in self.by_row():
            order = block.project.weight.abs().sum((0, 2, 3)).argsort(descending=True)
            block.project.weight.copy_(block.project.weight[:, order])
            rows = [block.expand.weight, block.depthwise.weight]
            rows += [each for norm in (block.expand_norm, block.depthwise_norm) for each in (norm.weight, norm.bias)]
            if block.squeeze is not None:
                reduce, expand = block.squeeze.reduce, block.squeeze.expand
                reduce.weight.copy_(reduce.weight[:, order])
                rows += [expand.weight, expand.bias]
            for parameter in rows:
                parameter.copy_(parameter[order])
            if block.squeeze is not None:
                order = expand.weight.abs().sum(0).argsort(descending=True)
                expand.weight.copy_(expand.weight[:, order])
                for parameter in (reduce.weight, reduce.bias):
                    parameter.copy_(parameter[order])

    @torch.no_grad()
    def begin_as_identity(self) -> None:
        for _, block in self.by_row():
            if block.shape.residual:
                block.project_norm.weight.zero_()


def included(share: Tensor, widths: Tensor) -> Tensor:
    """Gates of channels, [channels]: of the forms of so many channels (int64 [forms]) the share that includes each."""
    has = torch.arange(int(widths[-1])) < widths[:, None]
    return (share[:, None] * has.to(share.device)).sum(0)


def initialize(module: nn.Module) -> None:
    """He initialisation for convolutions, by their own fan out; linear layers keep their own."""
    if isinstance(module, nn.Conv2d):
        fan = module.weight.shape[2] * module.weight.shape[3] * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0, (2 / fan) ** 0.5)


# -------------------------------------------------------------------- the plain network


class Conv2d(nn.Conv2d):
    """A convolution without bias whose images are padded as ElasticConv2d pads them."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1, *, same: bool):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.same = same

    def forward(self, x: Tensor) -> Tensor:
        x, padding = padded(x, self.kernel_size[0], self.stride[0], same=self.same)
        return F.conv2d(x, self.weight, None, self.stride, padding, groups=self.groups)


class SqueezeExcite(nn.Module):
    """Scales channels by what a small network says of their means."""

    def __init__(self, channels: int):
        super().__init__()
        self.reduce = nn.Linear(channels, make_divisible(channels // REDUCTION))
        self.expand = nn.Linear(make_divisible(channels // REDUCTION), channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3))))))[:, :, None, None]


class InvertedResidual(nn.Module):
    """A plain inverted residual block with the `kernel_choice`th of its kernels."""

    def __init__(self, shape: BlockShape, kernel_choice: int, hidden: int):
        super().__init__()
        self.shape = shape
        self.expand = nn.Conv2d(shape.inputs, hidden, 1, bias=False) if shape.expands else None
        self.expand_norm = nn.BatchNorm2d(hidden, shape.epsilon) if shape.expands else None
        self.depthwise = Conv2d(
            hidden, hidden, shape.kernels[kernel_choice], shape.stride, groups=hidden, same=shape.same
        )
        self.depthwise_norm = nn.BatchNorm2d(hidden, shape.epsilon)
        self.squeeze = SqueezeExcite(hidden) if shape.squeezed else None
        self.project = nn.Conv2d(hidden, shape.outputs, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(shape.outputs, shape.epsilon)

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.expand is None else activation(self.shape.activation, self.expand_norm(self.expand(x)))
        h = activation(self.shape.activation, self.depthwise_norm(self.depthwise(h)))
        h = h if self.squeeze is None else self.squeeze(h)
        y = self.project_norm(self.project(h))
        return x + y if self.shape.residual else y


class InvertedResiduals(nn.Module):
    """A plain network of such a space: images [n, channels, size, size] in [0, 1] to logits [n, classes].

    `forms` holds the choice of a kernel and the hidden channels of every block, one sequence a stage.
    """

    def __init__(self, space: InvertedResidualSpace, forms: Sequence[Sequence[tuple[int, int]]], classes: int):
        super().__init__()
        self.activation, first, (last, *mixed) = space.activation, space.first, space.head
        self.register_buffer("mean", torch.zeros(1, space.in_channels, 1, 1))
        self.register_buffer("std", torch.ones(1, space.in_channels, 1, 1))
        self.stem = Conv2d(space.in_channels, first.inputs, 3, space.strides[0], same=first.same)
        self.stem_norm = nn.BatchNorm2d(first.inputs, first.epsilon)
        self.first = InvertedResidual(first, 0, first.inputs)
        self.stages = nn.ModuleList(
            # A stage keeps its first blocks.
            nn.Sequential(*(InvertedResidual(shape, *form) for shape, form in zip(shapes, kept, strict=False)))
            for shapes, kept in zip(space.layout, forms, strict=True)
        )
        self.expand = nn.Conv2d(space.layout[-1][-1].outputs, last, 1, bias=False)
        self.expand_norm = nn.BatchNorm2d(last, first.epsilon)
        self.mix = nn.Linear(last, *mixed, bias=False) if mixed else None
        self.classifier = nn.Linear(space.head[-1], classes)
        self.apply(initialize)
        self.to(memory_format=torch.channels_last)  # on a CPU a third faster, for many images at once

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(activation(self.activation, self.stem_norm(self.stem((images - self.mean) / self.std))))
        for stage in self.stages:
            x = stage(x)
        x = activation(self.activation, self.expand_norm(self.expand(x))).mean((2, 3))
        return self.classifier(x if self.mix is None else activation(self.activation, self.mix(x)))
