"""What training, measuring and extraction know of a weight-sharing network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eas.layers import CalibratedStatistics, Statistics
from eas.spaces.base import ChoiceSpace


def resized(images: Tensor, size: int) -> Tensor:
    """Square images [n, channels, side, side], float or uint8, at another number of pixels a side, smoothed."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


class Supernet(nn.Module, ABC):
    """A weight-sharing network; every arch of `space` activates a part of it.

    Images are float [n, channels, size, size] in [0, 1]; `mean` and `std` normalise them inside, so that a network file
    needs no recipe beside it. A subclass has a linear layer `classifier` of all classes.
    """

    classifier: nn.Linear

    def __init__(self, space: ChoiceSpace, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.space = space
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor, arch: Tensor, statistics: Statistics) -> Tensor:
        """Logits [n, classes] of one arch (int64 [decisions]) by slicing: costs what the subnet costs.

        Where the size of images is a decision, they are scaled to the arch's own.
        """
        stem = self.run_stem(self.scaled(images, arch), arch[None], statistics)
        return self.run_rest(self.stem_part(stem, arch), arch, statistics)

    def pixels(self, arch: Tensor) -> int:
        """The size of images that an arch reads."""
        return self.space.at_size_of(arch)[0].image_size

    def scaled(self, images: Tensor, arch: Tensor) -> Tensor:
        """Float images as an arch reads them: at its size, where that is a decision."""
        return resized(images, self.pixels(arch)) if self.space.image_sizes else images

    def run_stem(self, images: Tensor, archs: Tensor, statistics: Statistics) -> tuple[Tensor, ...]:
        """What archs [n, decisions] have in common on the same images, computed once; by default, the images.

        All archs read images of this size.
        """
        return (images,)

    def stem_part(self, stem: tuple[Tensor, ...], arch: Tensor) -> tuple[Tensor, ...]:
        """Of each of the stem's tensors the leading channels that an arch reads; by default, all of them."""
        return stem

    def run_rest(self, stem: tuple[Tensor, ...], arch: Tensor, statistics: Statistics) -> Tensor:
        """Logits [n, classes] of one arch from its part of the stem; by default by gates, which is right but slow."""
        depth, form, *_ = (gate.to(stem[0]) for gate in self.space.gates(arch))
        return self.forward_gated(*stem, depth, form, statistics)

    @abstractmethod
    def forward_gated(self, images: Tensor, depth: Tensor, form: Tensor, statistics: Statistics) -> Tensor:
        """Logits [n, classes] of one relaxed arch: choice probabilities [stages, depths] and [blocks, forms].

        The images are taken as they are, of whatever size.

        One-hots (ChoiceSpace.gates) give exactly the sliced network, anything between is differentiable.
        """

    def load_start(self, path: str | Path) -> None:
        """Fill it, in place, with weights to start from: of a supernet of this space, whatever its classes were.

        Or with weights that others published for the network, where a subclass can read any.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is no file of this network; one line.
        """
        from eas.spaces.published import load

        load(self, path, "a supernet of this space")

    def start_file(self, weights: str, root: Path) -> Path:
        """The file of weights to start from: a path under `root`, or a name that a subclass knows."""
        return root / weights

    def sort_channels(self) -> None:
        """Put channels in the order of their importance, in place, where narrower blocks take the leading ones.

        ValueError for a network that has no such order.
        """
        raise ValueError(f"training.start.sort_channels: not for spaces of kind {self.space.recipe.kind}: leave it out")

    def begin_as_identity(self) -> None:
        """Make every block its shortcut, in place, where there are shortcuts: training begins with these alone.

        Source: Goyal et al. 2017 (there the last norm's scale). On the embedded study it saves a third of the epochs.
        """

    @torch.no_grad()
    def extract(self, arch: Tensor, classes: Sequence[int], statistics: CalibratedStatistics) -> nn.Module:
        """The standalone network of one arch in eval mode, with the classifier rows of `classes`, in that order.

        Every tensor is a part of the supernet's tensor of the same name; `statistics` must have seen this arch.
        """
        network, source = self.space.network(arch, len(classes)).to(self.mean.device), self.weights_of(arch)
        source |= {name: source[name][list(classes)] for name in ("classifier.weight", "classifier.bias")}
        for name, norm in self.named_modules():
            if norm in statistics.recorded:
                mean, variance = statistics.recorded[norm]
                source |= {f"{name}.running_mean": mean, f"{name}.running_var": variance}
        for name, target in network.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                target.copy_(self.part(source[name], target.shape))
        return network.eval()

    def weights_of(self, arch: Tensor) -> dict[str, Tensor]:
        """The tensors that an arch's extracted network takes a part of, by their names; by default the supernet's."""
        return self.state_dict()

    def part(self, tensor: Tensor, shape: torch.Size) -> Tensor:
        """What an extracted network has of one of the supernet's tensors; by default the leading part."""
        return tensor[tuple(slice(size) for size in shape)]
