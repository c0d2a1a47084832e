"""A search space of another kind, whose forms are kernels: nothing in the package or the study has to know of it."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from cases import check_space
from study_cases import run_small_study
from torch import nn

from eas.layers import ElasticNorm
from eas.spaces import SPACES, ChoiceSpace, SpaceRecipe, Supernet


@SPACES.register
class KernelRecipe(SpaceRecipe):
    kind: str = "kernels"
    build = property(lambda recipe: KernelSpace)


@dataclass(frozen=True)
class KernelSpace(ChoiceSpace):
    image_size: int
    in_channels: int
    stages, depths, forms, recipe = 2, (1, 2), 3, KernelRecipe()
    block_parameters = torch.tensor([[64 * side**2 + 24 for side in (1, 3, 5)]] * 4)
    pixels = property(lambda space: ((space.image_size + 1) // 2) ** 2)
    block_madds = property(lambda space: (space.block_parameters - 24) * space.pixels)
    fixed_madds = property(lambda space: lambda n: 72 * space.in_channels * space.pixels + 8 * torch.as_tensor(n))
    fixed_parameters = property(lambda space: lambda n: 72 * space.in_channels + 9 * torch.as_tensor(n))
    supernet = property(lambda space: lambda *given: KernelNet(space, *given))

    def network(self, arch, classes, norm=nn.BatchNorm2d):
        layers = {"stem": nn.Conv2d(self.in_channels, 8, 3, 2, 1, bias=False)}
        for i in self.active(arch).nonzero()[:, 0].tolist():
            layers[f"{i}"] = nn.Sequential(nn.Conv2d(8, 8, 1 + 2 * int(arch[2 + i]), 1, "same"), norm(8), nn.ReLU())
        head = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "classifier": nn.Linear(8, classes)}
        return nn.Sequential(OrderedDict(layers | head))


class KernelNet(Supernet):
    def __init__(self, space, classes, mean, std):
        super().__init__(space, mean, std)
        self._modules |= space.network(space.largest, classes, ElasticNorm)._modules

    def forward_gated(self, images, depth, form, statistics):
        x, far = self.stem(images), (torch.arange(5) - 2).abs()
        masks = (form[..., None, None] * (torch.maximum(far, far[:, None]) <= torch.arange(3)[:, None, None])).sum(1)
        for block, keep in enumerate(self.space.keep_probability(depth)):
            conv, norm, relu = self._modules[f"{block}"]
            x = x.lerp(relu(norm(torch.conv2d(x, conv.weight * masks[block], conv.bias, padding=2), statistics)), keep)
        return self.classifier(x.mean((2, 3)))

    def part(self, tensor, shape):
        return nn.functional.pad(tensor, [(shape[-1] - tensor.shape[-1]) // 2] * 4) if tensor.ndim == 4 else tensor


def test_a_study_of_kernels_runs_from_images_to_networks(tmp_path, in_workers_first):
    check_space(KernelSpace(15, 3), 30)
    assert run_small_study(tmp_path, space={"kind": "kernels"})[1].method.nunique() == 15
