"""The peer: the package `ofa` (once-for-all), unmodified; and our elastic network built from its dynamic layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eas.spaces import MobileNetV3Space, PreResNetSpace
from eas.spaces.preresnet import KERNEL, layout

try:
    from ofa.imagenet_classification.elastic_nn.modules.dynamic_op import DynamicBatchNorm2d, DynamicConv2d
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3
    from ofa.tutorial import AccuracyPredictor as OfaPredictor
    from ofa.tutorial import EvolutionFinder, FLOPsTable
    from ofa.utils import accuracy, cross_entropy_loss_with_soft_target, cross_entropy_with_label_smoothing
except ImportError as error:
    raise ImportError(f"the peer `ofa` cannot be used ({error}): pip install -e '.[bench]'") from error

__all__ = ["EvolutionFinder", "FLOPsTable", "OfaMobileNetV3", "OfaPreResNet", "OfaPredictor", "ofa_step"]


# -------------------------------------------------------------------- the same network in OFA's layers


class OfaBlock(nn.Module):
    """eas.spaces.preresnet.ElasticBlock, layer by layer in OFA's dynamic layers."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.norm1 = DynamicBatchNorm2d(inputs)
        self.conv1 = DynamicConv2d(inputs, outputs, KERNEL, stride)
        self.norm2 = DynamicBatchNorm2d(outputs)
        self.conv2 = DynamicConv2d(outputs, outputs, KERNEL)
        self.shortcut = DynamicConv2d(inputs, outputs, 1, stride) if inputs != outputs or stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x), inplace=True)
        shortcut = x if self.shortcut is None else self.shortcut(h)
        return shortcut + self.conv2(F.relu(self.norm2(self.conv1(h)), inplace=True))


class OfaPreResNet(nn.Module):
    """ElasticPreResNet in OFA's dynamic layers, used as OFA's own networks are: an active subnet is set first."""

    def __init__(self, space: PreResNetSpace, classes: int):
        super().__init__()
        self.space = space
        self.stem = DynamicConv2d(space.in_channels, space.widths[0], KERNEL)
        blocks = layout(space.widths, [space.blocks_per_stage] * space.stages)
        self.stages = nn.ModuleList(nn.ModuleList(OfaBlock(*shape) for shape in stage) for stage in blocks)
        self.norm = DynamicBatchNorm2d(space.widths[-1])
        self.classifier = nn.Linear(space.widths[-1], classes)
        self.set_active_subnet(space.largest)

    def set_active_subnet(self, arch: Tensor) -> None:
        """Choose what the next forward pass runs; `arch` int64 [decisions]."""
        described = self.space.describe(arch)
        self.depths = [len(stage) for stage in described]
        for blocks, channels in zip(self.stages, described, strict=True):
            for block, inner in zip(blocks, channels, strict=False):
                block.conv1.active_out_channel = inner

    def forward(self, images: Tensor) -> Tensor:
        """Images float [n, channels, side, side], normalised, to logits [n, classes] of the active subnet."""
        x = self.stem(images)
        for blocks, depth in zip(self.stages, self.depths, strict=True):
            for block in blocks[:depth]:
                x = block(x)
        return self.classifier(F.relu(self.norm(x), inplace=True).mean((2, 3)))

    def load_supernet(self, weights: dict[str, Tensor]) -> None:
        """Take the weights of an ElasticPreResNet's state_dict."""
        state = self.state_dict()
        for name in state:  # OFA's layers hold a torch layer each: conv1.conv.weight is our conv1.weight
            if (source := name.replace(".conv.", ".").replace(".bn.", ".")) in weights:
                state[name] = weights[source]
        self.load_state_dict(state)


class OfaMobileNetV3(nn.Module):
    """OFA's own MobileNetV3, unmodified, whose subnets are named by our archs; without its classifier's dropout."""

    def __init__(self, space: MobileNetV3Space, classes: int):
        super().__init__()
        choices = {"ks_list": space.kernels, "expand_ratio_list": space.expansions, "depth_list": space.depths}
        self.space = space
        self.network = OFAMobileNetV3(
            classes, dropout_rate=0, width_mult=space.width, **{name: list(each) for name, each in choices.items()}
        )

    def set_active_subnet(self, arch: Tensor) -> None:
        """Choose what the next forward pass runs; `arch` int64 [decisions]."""
        kernel, expansion = self.space.pairs[arch[self.space.stages :]].unbind(1)
        kernels, expansions = (
            [values[i] for i in each.tolist()]
            for values, each in ((self.space.kernels, kernel), (self.space.expansions, expansion))
        )
        self.network.set_active_subnet(ks=kernels, e=expansions, d=self.space.depth(arch).tolist())

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def ofa_step(
    network: OfaPreResNet | OfaMobileNetV3,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    archs: Tensor,
    smoothing: float,
    distillation: float,
) -> None:
    """One training step as OFA's train_one_epoch takes it, without its fixed `.cuda()` and its progress line.

    Its teacher is a separate network; here, as in ours, it is the first arch.
    """
    network.zero_grad()
    soft_label = None
    for arch in archs:
        network.set_active_subnet(arch)
        output = network(images)
        loss = cross_entropy_with_label_smoothing(output, labels, smoothing)
        if soft_label is None:
            soft_label = F.softmax(output.detach(), dim=1)
        else:
            kd_loss = cross_entropy_loss_with_soft_target(output, soft_label)
            loss = (1 - distillation) * loss + distillation * kd_loss
        accuracy(output, labels, topk=(1, 5))  # OFA updates its metrics in every step
        loss.backward()
    optimizer.step()
