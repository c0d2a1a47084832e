"""The elastic network (supernet) and the plain one that a specialised network is made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eas.layers import EPSILON, CalibratedStatistics, ElasticBlock, ElasticConv2d, ElasticNorm, Statistics
from eas.space import KERNEL, SearchSpace


class Supernet(nn.Module):
    """A weight-sharing pre-activation ResNet; every arch of `space` activates a part of it.

    Images are float [n, channels, size, size] in [0, 1]; `mean` and `std` (one value a channel) normalise them inside,
    so that a network file needs no recipe beside it.
    Source: PreResNet-20 of the paper's CIFAR setting, with widths per block and depth per stage (ours).
    """

    def __init__(self, space: SearchSpace, classes: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.space = space
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.stem = ElasticConv2d(space.in_channels, space.widths[0], KERNEL)
        inputs = (space.widths[0], *space.widths)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                ElasticBlock(width if block else inputs[stage], width, stride=1 if block or stage == 0 else 2)
                for block in range(space.blocks_per_stage)
            )
            for stage, width in enumerate(space.widths)
        )
        self.norm = ElasticNorm(space.widths[-1])
        self.classifier = nn.Linear(space.widths[-1], classes)
        self.apply(initialize)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, arch: Tensor, statistics: Statistics) -> Tensor:
        """Logits [n, classes] of one arch (int64 [decisions]) by slicing: costs what the subnet costs."""
        return self.finish(*self.begin(images, arch[None], statistics), arch, statistics)

    def begin(self, images: Tensor, archs: Tensor, statistics: Statistics) -> tuple[Tensor, Tensor]:
        """What archs [n, decisions] have in common on the same images: `finish` makes logits of it, for each of them.

        Every first block reads the same stem, and its inner channels are the leading ones of the widest one's. So the
        shortcut and the widest inner channels (ElasticBlock.open) are computed once. Source: ours.
        """
        return self.stages[0][0].open(self.start(images), statistics, max(map(self.first_inner, archs)))

    def finish(self, shortcut: Tensor, h: Tensor, arch: Tensor, statistics: Statistics) -> Tensor:
        """Logits [n, classes] of one arch from what `begin` returned; more channels of `h` than it has are left out."""
        (first, *others), *stages = self.space.describe(arch)
        x = self.stages[0][0].close(shortcut, h[:, :first])
        for stage, widths in zip((self.stages[0][1:], *self.stages[1:]), (others, *stages), strict=True):
            for block, inner in zip(stage, widths, strict=False):
                x = block(x, statistics, inner)
        return self.head(x, statistics)

    def first_inner(self, arch: Tensor) -> int:
        """Inner channels of an arch's first block, which every arch keeps."""
        return self.space.describe(arch)[0][0]

    def forward_gated(self, images: Tensor, depth: Tensor, width: Tensor, statistics: Statistics) -> Tensor:
        """Logits [groups, n, classes] of several archs on the same images, by gates: one shape for all archs.

        `depth` [groups, stages, depths] and `width` [groups, blocks, ratios] hold choice probabilities; one-hots (see
        SearchSpace.gates) give exactly the sliced networks, anything between is differentiable.
        """
        groups, count = depth.shape[0], images.shape[0]
        keep, channels = self.gates(depth, width)
        x = self.start(images).repeat(groups, 1, 1, 1)
        keep, channels = (t.to(x.dtype).repeat_interleave(count, 0)[..., None, None] for t in (keep, channels))
        for index, block in enumerate(block for stage in self.stages for block in stage):
            gate = channels[:, index, : block.conv1.out_channels]
            x = block(x, statistics, channel_gate=gate, block_gate=keep[:, index, None])
        return self.head(x, statistics).unflatten(0, (groups, count))

    def gates(self, depth: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """Block gates [groups, blocks] and channel gates [groups, blocks, channels] from choice probabilities.

        A channel's gate is the probability of the choices that include it (cumulative, as in the related code).
        """
        inner = self.space.inner_channels.to(width.device)
        included = torch.arange(max(self.space.widths), device=width.device) < inner[..., None]
        return self.space.keep_probability(depth), torch.einsum("gbr,brc->gbc", width, included.to(width))

    def start(self, images: Tensor) -> Tensor:
        # Channels last is 1.7 times as fast as the default here, on a CPU too (measured on the training step).
        return self.stem((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def head(self, x: Tensor, statistics: Statistics) -> Tensor:
        x = F.relu(self.norm(x, statistics)).mean((2, 3))
        return self.classifier(x).float()


class Block(nn.Module):
    """A plain pre-activation residual block with a fixed number of inner channels."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int):
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
    """A plain pre-activation ResNet: images [n, channels, size, size] in [0, 1] to logits [n, classes].

    `inner` holds the inner channels of every block, one sequence a stage; `widths` the stages' channels.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], inner: Sequence[Sequence[int]], classes: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, in_channels, 1, 1))
        self.register_buffer("std", torch.ones(1, in_channels, 1, 1))
        self.stem = nn.Conv2d(in_channels, widths[0], KERNEL, 1, KERNEL // 2, bias=False)
        inputs = (widths[0], *widths)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    Block(width if b else inputs[s], channels, width, stride=1 if b or s == 0 else 2)
                    for b, channels in enumerate(inner[s])
                )
            )
            for s, width in enumerate(widths)
        )
        self.norm = nn.BatchNorm2d(widths[-1], EPSILON)
        self.classifier = nn.Linear(widths[-1], classes)
        self.apply(initialize)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem((images - self.mean) / self.std)
        for stage in self.stages:
            x = stage(x)
        return self.classifier(F.relu(self.norm(x)).mean((2, 3)))


def initialize(module: nn.Module) -> None:
    """He initialisation for convolutions; the other layers keep their own."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@torch.no_grad()
def begin_as_identity(supernet: Supernet) -> None:
    """Set the last convolution of every block to zero, so that training begins with the shortcuts alone.

    Source: Goyal et al. 2017 (there the last norm's scale). On the embedded study it saves a third of the epochs.
    """
    for block in (block for stage in supernet.stages for block in stage):
        block.conv2.weight.zero_()


@torch.no_grad()
def extract(supernet: Supernet, arch: Tensor, classes: Sequence[int], statistics: CalibratedStatistics) -> PreResNet:
    """The standalone network of one arch in eval mode, with the classifier rows of `classes`, in that order.

    `statistics` must have seen this arch (group 0 is taken). Every tensor is the leading part of the supernet's tensor
    of the same name, except the classifier, whose rows are picked.
    """
    space = supernet.space
    network = PreResNet(space.in_channels, space.widths, space.describe(arch), len(classes)).to(supernet.mean.device)
    source = supernet.state_dict()
    source |= {name: source[name][list(classes)] for name in ("classifier.weight", "classifier.bias")}
    for name, norm in supernet.named_modules():
        if norm in statistics.recorded:
            mean, variance = statistics.recorded[norm]
            source |= {f"{name}.running_mean": mean[0], f"{name}.running_var": variance[0]}
    for name, target in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            target.copy_(source[name][tuple(slice(size) for size in target.shape)])
    return network.eval()
