"""A search space of another kind, whose forms are kernels: nothing in the package or the study has to know of it."""

from dataclasses import dataclass
from typing import Literal

import torch
from cases import check_space
from study_cases import run_small_study
from torch import nn
from torch.nn.functional import conv2d, pad

from eas.layers import ElasticNorm
from eas.spaces import SPACES, ChoiceSpace, SpaceRecipe, Supernet
from pipeline import tables

SIDES = (1, 3, 5)


class KernelNet(Supernet):
    def __init__(self, space, classes, mean, std):
        super().__init__(space, mean, std)
        for name, layer in space.network(space.largest, classes, ElasticNorm).named_children():
            self.add_module(name, layer)

    def forward_gated(self, images, depth, form, statistics):
        x, keep = self.stem(images), self.space.keep_probability(depth)
        inside = torch.stack([pad(torch.ones(side, side), [2 - side // 2] * 4) for side in SIDES])
        for block, gates in enumerate(torch.einsum("bf,fhw->bhw", form, inside)):
            conv, norm, relu = self.get_submodule(f"block{block}")
            x = x.lerp(relu(norm(conv2d(x, conv.weight * gates, padding=2), statistics)), keep[block])
        return self.classifier(x.mean((2, 3)))

    def part(self, tensor, shape):
        return pad(tensor, [(shape[-1] - tensor.shape[-1]) // 2] * 4) if tensor.ndim == 4 else tensor


@SPACES.register
class KernelRecipe(SpaceRecipe):
    kind: Literal["kernels"] = "kernels"

    def build(self, image_size, in_channels):
        return KernelSpace(image_size, in_channels)


@dataclass(frozen=True)
class KernelSpace(ChoiceSpace):
    image_size: int
    in_channels: int
    stages, depths, forms, recipe = 2, (1, 2), len(SIDES), KernelRecipe()
    block_parameters = torch.tensor([[64 * side**2 + 16 for side in SIDES]] * 4)
    block_madds = property(lambda space: (space.block_parameters - 16) * space.pixels)
    pixels = property(lambda space: ((space.image_size + 1) // 2) ** 2)

    def fixed_madds(self, class_counts):
        return 72 * self.in_channels * self.pixels + 8 * torch.as_tensor(class_counts)

    def fixed_parameters(self, class_counts):
        return 72 * self.in_channels + 9 * torch.as_tensor(class_counts)

    def supernet(self, classes, mean, std):
        return KernelNet(self, classes, mean, std)

    def network(self, arch, classes, norm=nn.BatchNorm2d):
        network = nn.Sequential()
        network.stem = nn.Conv2d(self.in_channels, 8, 3, 2, 1, bias=False)
        for block in self.active(arch).nonzero()[:, 0].tolist():
            conv = nn.Conv2d(8, 8, SIDES[arch[2 + block]], padding="same", bias=False)
            network.add_module(f"block{block}", nn.Sequential(conv, norm(8), nn.ReLU()))
        network.pool, network.flatten, network.classifier = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
        return network


def test_a_space_of_kernels_is_one_network_in_all_its_forms():
    check_space(KernelSpace(15, 3), 30)


def test_a_study_of_kernels_runs_from_images_to_networks(tmp_path, in_workers_first):
    scenarios = {"budgets": [0.05, 0.3], "unions_of_two": 1, "unions_of_three": 0}
    workspace = run_small_study(tmp_path, space={"kind": "kernels"}, scenarios=scenarios)
    table = tables.comparison_table(workspace)
    assert table.method.nunique() == 14 and (table.madds <= table.budget_madds).all()
