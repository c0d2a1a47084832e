"""What generator, decoder, predictor and search know of a search space: decisions, choices and exact costs, in batches.

An arch is one choice for every decision. A space of S stages with at most B blocks each has S depth decisions (how many
blocks a stage keeps) followed by S * B form decisions (which form a block has: its width, or its kernel and expansion).
A block's cost depends on its own form only, so that a network's cost is the sum over the blocks that it keeps.

A new space is a module beside this one with three classes: a ChoiceSpace (its cost tables), a Supernet (its elastic
network) and a SpaceRecipe (what params.yaml says of it), registered in SPACES.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from eas.layers import CalibratedStatistics, Statistics
from eas.registry import Registry, Section

PIECE = 16_384  # archs whose costs are added up at once


def cached_table(method):
    """A cached property that holds ordinary tensors, even if the first to ask is in inference mode."""
    return cached_property(torch.inference_mode(False)(method))


class ChoiceSpace(ABC):
    """A space of archs, int64 rows [decisions]. A subclass gives its stages, its costs and its network."""

    image_size: int
    in_channels: int
    depths: tuple[int, ...]  # how many blocks a stage may keep, ascending

    # ---------------------------------------------------------------- what a subclass gives

    @property
    @abstractmethod
    def stages(self) -> int:
        """Number of stages."""

    @property
    @abstractmethod
    def forms(self) -> int:
        """Number of forms that a block can have."""

    @property
    @abstractmethod
    def block_madds(self) -> Tensor:
        """Multiply-adds of every block in every form, int64 [blocks, forms]."""

    @property
    @abstractmethod
    def block_parameters(self) -> Tensor:
        """Trainable parameters of every block in every form, int64 [blocks, forms]."""

    @abstractmethod
    def fixed_madds(self, class_counts: Tensor | int) -> Tensor:
        """Multiply-adds that no arch avoids, the classifier's rows for that many classes among them; int64 [...]."""

    @abstractmethod
    def fixed_parameters(self, class_counts: Tensor | int) -> Tensor:
        """Trainable parameters likewise; int64 [...]."""

    @property
    @abstractmethod
    def recipe(self) -> SpaceRecipe:
        """What builds this space again: it is written into the card of every specialised network."""

    @abstractmethod
    def supernet(self, classes: int, mean: Sequence[float], std: Sequence[float]) -> Supernet:
        """The space's elastic network, untrained; `mean` and `std` (one value a channel) normalise its images."""

    @abstractmethod
    def network(self, arch: Tensor, classes: int) -> nn.Module:
        """The plain network of one arch, untrained: what a specialised network's file is read into."""

    # ---------------------------------------------------------------- what a subclass may say better

    def form_names(self) -> list[list[str]]:
        """What a reader calls every form of every block, [blocks][forms], in a few characters."""
        return [[str(form) for form in range(1, self.forms + 1)]] * self.blocks

    def form_sizes(self) -> Tensor:
        """How large every form of every block is drawn, as a share of the largest; float [blocks, forms]."""
        return self.block_parameters / self.block_parameters.max()

    def stage_names(self) -> list[str]:
        """What a reader calls the stages, such as 'stage 1, 32 x 32 pixels'."""
        return [f"stage {stage}" for stage in range(1, self.stages + 1)]

    # ---------------------------------------------------------------- decisions and choices

    @property
    def blocks_per_stage(self) -> int:
        return self.depths[-1]

    @property
    def blocks(self) -> int:
        """The largest number of blocks of all stages together."""
        return self.stages * self.blocks_per_stage

    @property
    def decisions(self) -> int:
        return self.stages + self.blocks

    @cached_table
    def choices(self) -> Tensor:
        """Number of choices of every decision, int64 [decisions]."""
        return torch.tensor([len(self.depths)] * self.stages + [self.forms] * self.blocks)

    @property
    def size(self) -> int:
        """Number of distinct archs."""
        return sum(self.forms**depth for depth in self.depths) ** self.stages

    @cached_table
    def largest(self) -> Tensor:
        """The arch that makes every last choice, int64 [decisions]."""
        return self.choices - 1

    @cached_table
    def smallest(self) -> Tensor:
        """The arch that makes every first choice, int64 [decisions]."""
        return torch.zeros_like(self.choices)

    def check(self, archs: Tensor) -> None:
        """Raise ValueError unless `archs` is an integer tensor [..., decisions] of existing choices."""
        if archs.dtype.is_floating_point or archs.shape[-1:] != (self.decisions,):
            raise ValueError(f"archs must be integers [..., {self.decisions}], got {archs.dtype} {list(archs.shape)}")
        if ((archs < 0) | (archs >= self.choices)).any():
            raise ValueError(f"archs hold a choice outside 0 ... {self.largest.tolist()}")

    def depth(self, archs: Tensor) -> Tensor:
        """Blocks kept in every stage, int64 [..., stages]."""
        return torch.tensor(self.depths)[archs[..., : self.stages]]

    def active(self, archs: Tensor) -> Tensor:
        """Which blocks an arch keeps, bool [..., blocks]."""
        return (torch.arange(self.blocks_per_stage) < self.depth(archs)[..., None]).flatten(-2)

    def canonical(self, archs: Tensor) -> Tensor:
        """The same archs with form 0 for blocks that are not kept: equal networks have equal rows."""
        forms = archs[..., self.stages :] * self.active(archs)
        return torch.cat([archs[..., : self.stages], forms], -1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` archs, uniform in every decision, int64 [count, decisions], canonical."""
        uniform = torch.rand(count, self.decisions, generator=generator)
        return self.canonical((uniform * self.choices).long())

    def block_names(self) -> list[str]:
        """'1.1', '1.2', ...: stage and block, counted from one."""
        return [f"{s + 1}.{b + 1}" for s in range(self.stages) for b in range(self.blocks_per_stage)]

    # ---------------------------------------------------------------- encoding for networks that read archs

    def gates(self, archs: Tensor) -> tuple[Tensor, Tensor]:
        """The archs as 0/1 gates: (depth, form) one-hots, float [..., stages, depths] and [..., blocks, forms]."""
        depth, form = archs.split([self.stages, self.blocks], -1)
        one_hot = nn.functional.one_hot
        return one_hot(depth, len(self.depths)).float(), one_hot(form, self.forms).float()

    def keep_probability(self, depth: Tensor) -> Tensor:
        """Probability that each block is kept, [..., blocks], from depth probabilities [..., stages, depths]."""
        place = torch.arange(self.blocks_per_stage)
        reached = place[:, None] < torch.tensor(self.depths)  # [blocks of a stage, depths]
        return torch.einsum("...sd,bd->...sb", depth, reached.to(depth)).flatten(-2)

    def features(self, depth: Tensor, form: Tensor) -> Tensor:
        """What a predictor reads, [..., stages * depths + blocks * forms]; a dropped block's form is 0."""
        kept = form * self.keep_probability(depth)[..., None]
        return torch.cat([depth.flatten(-2), kept.flatten(-2)], -1)

    # ---------------------------------------------------------------- costs, exact

    def madds(self, archs: Tensor, class_counts: Tensor | int) -> Tensor:
        """Multiply-adds of one image, the classifier counted for that many classes only; int64 [...]."""
        return self.fixed_madds(class_counts) + self._total(self.block_madds, archs)

    def parameters(self, archs: Tensor, class_counts: Tensor | int) -> Tensor:
        """Trainable parameters, the classifier's rows and biases for that many classes only; int64 [...]."""
        return self.fixed_parameters(class_counts) + self._total(self.block_parameters, archs)

    def expected_madds(self, depth: Tensor, form: Tensor, class_counts: Tensor) -> Tensor:
        """Mean multiply-adds over archs drawn from independent choice probabilities (see `gates`), float [...]."""
        blocks = (form * self.block_madds).sum(-1) * self.keep_probability(depth)
        return blocks.sum(-1) + self.fixed_madds(class_counts)

    def _total(self, table: Tensor, archs: Tensor) -> Tensor:
        """Sum of a [blocks, forms] table over the blocks that the archs keep, int64 [...]."""

        def total(archs: Tensor) -> Tensor:
            flat = archs[:, self.stages :] + torch.arange(self.blocks) * table.shape[1]
            return (table.flatten()[flat] * self.active(archs)).sum(-1)

        # In pieces that stay in the processor's cache: ten times as fast for a million archs.
        pieces = archs.reshape(-1, self.decisions).split(PIECE)
        return torch.cat([total(piece) for piece in pieces]).view(archs.shape[:-1])

    @cached_property
    def least_madds(self) -> int:
        """Multiply-adds of the smallest arch's blocks."""
        return int(self._total(self.block_madds, self.smallest))

    def check_scenarios(self, class_masks: Tensor, budgets: Tensor) -> None:
        """Check scenarios, bool [n, classes] and multiply-adds [n], before any long work.

        Raises:
            ValueError: an empty set of classes, or a budget that no arch fits; it states the smallest possible.
        """
        count = torch.empty(len(class_masks), dtype=torch.long)
        for out, piece in zip(count.split(PIECE), class_masks.split(PIECE), strict=True):
            torch.sum(piece, -1, out=out)  # in pieces: a sum of bools holds them all as integers
        if not count.all():
            raise ValueError(f"scenario {int((count == 0).nonzero()[0])} keeps no class: name at least one")
        smallest = self.fixed_madds(count) + self.least_madds
        if not (budgets >= smallest).all():  # also catches NaN
            worst = int((~(budgets >= smallest)).nonzero()[0])
            raise ValueError(
                f"budget of {float(budgets[worst]) / 1e6:g}M MAdds is below the smallest arch: "
                f"{int(smallest[worst]) / 1e6:g}M MAdds for {int(count[worst])} classes"
            )


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
        """Logits [n, classes] of one arch (int64 [decisions]) by slicing: costs what the subnet costs."""
        stem = self.run_stem(images, arch[None], statistics)
        return self.run_rest(self.stem_part(stem, arch), arch, statistics)

    def run_stem(self, images: Tensor, archs: Tensor, statistics: Statistics) -> tuple[Tensor, ...]:
        """What archs [n, decisions] have in common on the same images, computed once; by default, the images."""
        return (images,)

    def stem_part(self, stem: tuple[Tensor, ...], arch: Tensor) -> tuple[Tensor, ...]:
        """Of each of the stem's tensors the leading channels that an arch reads; by default, all of them."""
        return stem

    def run_rest(self, stem: tuple[Tensor, ...], arch: Tensor, statistics: Statistics) -> Tensor:
        """Logits [n, classes] of one arch from its part of the stem; by default by gates, which is right but slow."""
        gates = (gate.to(stem[0]) for gate in self.space.gates(arch))
        return self.forward_gated(*stem, *gates, statistics)

    @abstractmethod
    def forward_gated(self, images: Tensor, depth: Tensor, form: Tensor, statistics: Statistics) -> Tensor:
        """Logits [n, classes] of one relaxed arch: choice probabilities [stages, depths] and [blocks, forms].

        One-hots (ChoiceSpace.gates) give exactly the sliced network, anything between is differentiable.
        """

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


class SpaceRecipe(Section):
    """The part `space` of params.yaml: a registered `kind` and what that kind of space has to be told."""

    kind: str

    @abstractmethod
    def build(self, image_size: int, in_channels: int) -> ChoiceSpace:
        """The space for images of that many pixels a side and channels."""


SPACES = Registry()
