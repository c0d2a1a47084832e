"""The search space: archs as rows of integers, and their exact costs, all in batches.

An arch is one choice for every decision. A space of S stages with at most B blocks each has S depth decisions
(how many blocks a stage keeps) followed by S * B width decisions (how many inner channels a block has, as a
fraction of its stage's width). The residual stream keeps its full width, so a block's cost depends on its own
width only and a network's cost is the sum over its blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from eas import config

KERNEL = 3
PIECE = 16_384  # archs whose costs are added up at once


def cached_table(method):
    """A cached property that holds ordinary tensors, even if the first to ask is in inference mode."""
    return cached_property(torch.inference_mode(False)(method))


@dataclass(frozen=True)
class SearchSpace:
    """An elastic pre-activation ResNet for images of `image_size` pixels and `in_channels` channels.

    Stage s has `widths[s]` channels; every stage but the first halves the resolution. A stage keeps its first
    `depths[i]` blocks, and a block has `ratios[j] * widths[s]` inner channels.
    """

    image_size: int
    in_channels: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    ratios: tuple[float, ...]

    @classmethod
    def from_study(cls, study: config.Study, in_channels: int) -> SearchSpace:
        """The space of a study, for images of `in_channels` channels."""
        space = study.space
        return cls(study.data.image_size, in_channels, space.widths, space.depths, space.ratios)

    # ---------------------------------------------------------------- decisions and choices

    @property
    def stages(self) -> int:
        return len(self.widths)

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
        return torch.tensor([len(self.depths)] * self.stages + [len(self.ratios)] * self.blocks)

    @property
    def size(self) -> int:
        """Number of distinct archs."""
        return sum(len(self.ratios) ** depth for depth in self.depths) ** self.stages

    @cached_table
    def inner_channels(self) -> Tensor:
        """Inner channels of every block at every width choice, int64 [blocks, ratios]."""
        widths = torch.tensor(self.widths).repeat_interleave(self.blocks_per_stage)
        return torch.round(widths[:, None] * torch.tensor(self.ratios)).long().clamp_min(1)

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
        kept = torch.arange(self.blocks_per_stage) < self.depth(archs)[..., None]
        return kept.flatten(-2)

    def canonical(self, archs: Tensor) -> Tensor:
        """The same archs with width choice 0 for blocks that are not kept: equal networks have equal rows."""
        widths = archs[..., self.stages :] * self.active(archs)
        return torch.cat([archs[..., : self.stages], widths], -1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` archs, uniform in every decision, int64 [count, decisions], canonical."""
        uniform = torch.rand(count, self.decisions, generator=generator)
        return self.canonical((uniform * self.choices).long())

    # ---------------------------------------------------------------- encoding for networks that read archs

    def gates(self, archs: Tensor) -> tuple[Tensor, Tensor]:
        """The archs as 0/1 gates: (depth, width) one-hots, float [..., stages, depths] and [..., blocks, ratios]."""
        depth, width = archs.split([self.stages, self.blocks], -1)
        one_hot = torch.nn.functional.one_hot
        return one_hot(depth, len(self.depths)).float(), one_hot(width, len(self.ratios)).float()

    def keep_probability(self, depth: Tensor) -> Tensor:
        """Probability that each block is kept, [..., blocks], from depth probabilities [..., stages, depths]."""
        place = torch.arange(self.blocks_per_stage)
        reached = place[:, None] < torch.tensor(self.depths)  # [blocks of a stage, depths]
        return torch.einsum("...sd,bd->...sb", depth, reached.to(depth)).flatten(-2)

    def features(self, depth: Tensor, width: Tensor) -> Tensor:
        """What an accuracy model reads, [..., stages * depths + blocks * ratios]; a dropped block's width is 0."""
        kept = width * self.keep_probability(depth)[..., None]
        return torch.cat([depth.flatten(-2), kept.flatten(-2)], -1)

    # ---------------------------------------------------------------- costs, exact

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

    def resolution(self, stage: int) -> int:
        """Side of the feature maps of a stage in pixels."""
        side = self.image_size
        for _ in range(stage):
            side = (side + 1) // 2
        return side

    @cached_table
    def block_madds(self) -> Tensor:
        """Multiply-adds of every block at every width choice, int64 [blocks, ratios]."""
        inputs, outputs, pixels, projects = self._block_geometry
        convolutions = KERNEL**2 * (inputs + outputs)[:, None] * self.inner_channels
        return (convolutions + (projects * inputs * outputs)[:, None]) * pixels[:, None]

    @cached_table
    def block_parameters(self) -> Tensor:
        """Trainable parameters of every block at every width choice, int64 [blocks, ratios]."""
        inputs, outputs, _, projects = self._block_geometry
        norms = 2 * (inputs[:, None] + self.inner_channels)
        convolutions = KERNEL**2 * (inputs + outputs)[:, None] * self.inner_channels
        return convolutions + norms + (projects * inputs * outputs)[:, None]

    def madds(self, archs: Tensor, classes_kept: Tensor | int) -> Tensor:
        """Multiply-adds of one image, the classifier counted for the kept classes only; int64 [...]."""
        return self.fixed_madds(classes_kept) + self._total(self.block_madds, archs)

    def fixed_madds(self, classes_kept: Tensor | int) -> Tensor:
        """Multiply-adds that no arch avoids: the stem and the classifier's rows for the kept classes; int64 [...]."""
        stem = KERNEL**2 * self.in_channels * self.widths[0] * self.image_size**2
        return stem + self.widths[-1] * torch.as_tensor(classes_kept)

    def parameters(self, archs: Tensor, classes_kept: Tensor | int) -> Tensor:
        """Trainable parameters, the classifier's rows and biases for the kept classes only; int64 [...]."""
        stem_and_head = KERNEL**2 * self.in_channels * self.widths[0] + 2 * self.widths[-1]
        classifier = (self.widths[-1] + 1) * torch.as_tensor(classes_kept)
        return stem_and_head + self._total(self.block_parameters, archs) + classifier

    def expected_madds(self, depth: Tensor, width: Tensor, classes_kept: Tensor) -> Tensor:
        """Mean multiply-adds over archs drawn from independent choice probabilities (see `gates`), float [...]."""
        blocks = (width * self.block_madds).sum(-1) * self.keep_probability(depth)
        return blocks.sum(-1) + self.fixed_madds(classes_kept)

    def _total(self, table: Tensor, archs: Tensor) -> Tensor:
        """Sum of a [blocks, ratios] table over the blocks that the archs keep, int64 [...]."""

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

    def check_scenarios(self, kept: Tensor, budgets: Tensor) -> None:
        """Check scenarios, bool [n, classes] and multiply-adds [n], before any long work.

        Raises:
            ValueError: an empty set of classes, or a budget that no arch fits; it states the smallest possible.
        """
        count = torch.empty(len(kept), dtype=torch.long)
        for out, piece in zip(count.split(PIECE), kept.split(PIECE), strict=True):
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

    # ---------------------------------------------------------------- reading

    def describe(self, arch: Tensor) -> list[list[int]]:
        """Inner channels of the kept blocks, one list a stage."""
        channels = self.inner_channels.gather(1, arch[self.stages :, None])[:, 0].view(self.stages, -1)
        return [row[:kept].tolist() for row, kept in zip(channels, self.depth(arch), strict=True)]
