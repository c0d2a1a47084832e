"""What generator, decoder, predictor and search know of a search space: decisions, choices and exact costs, in batches.

An arch is one choice for every decision. A space of S stages with at most B blocks each has S depth decisions (how many
blocks a stage keeps) followed by S * B form decisions (which form a block has: its width, or its kernel and expansion).
A block's cost depends on its own form only, so that a network's cost is the sum over the blocks that it keeps.

Stages may choose between different depths, and blocks have different numbers of forms. All tensors are rectangular
nevertheless: [stages, most depths], [blocks, most forms]. What a stage or block has comes first; what it lacks no arch
chooses (see `exists`), and tables repeat the first choice there. A block that a stage never has is one form of no cost.

Where images have several sizes, the size is the last decision: all costs change with it, so that such a space is as
many spaces of one size (`sized`).

A new space is a module beside this one with three classes: a ChoiceSpace (its cost tables), a Supernet (its elastic
network, see eas.spaces.supernet) and a SpaceRecipe (what params.yaml says of it), registered in SPACES. For ONNX files,
every function of torch that its plain network calls needs a node in eas.serving.graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, Context
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from eas.registry import Registry, Section

if TYPE_CHECKING:
    from eas.spaces.supernet import Supernet

MOST_SIZES = 64  # of images
MOST_FORMS = 2**14  # of all blocks of a space that a file describes: its tables stay small
PIECE = 16_384  # archs whose costs are added up at once


def cached_table(method):
    """A cached property that holds ordinary tensors, even if the first to ask is in inference mode."""
    return cached_property(torch.inference_mode(False)(method))


class ChoiceSpace(ABC):
    """A space of archs, int64 rows [decisions]. A subclass gives its stages, its costs and its network."""

    image_size: int  # pixels a side; where images have several sizes, of the largest
    in_channels: int
    depths: tuple[int, ...]  # how many blocks a stage may keep, ascending; where stages differ, see `stage_depths`
    image_sizes: tuple[int, ...] = ()  # where an image's size is a decision: all of them, ascending to image_size

    # ---------------------------------------------------------------- what a subclass gives

    @property
    @abstractmethod
    def stages(self) -> int:
        """Number of stages."""

    @property
    @abstractmethod
    def forms(self) -> int:
        """Number of forms that a block can have, at most."""

    @property
    @abstractmethod
    def block_madds(self) -> Tensor:
        """Multiply-adds of every block in every form, int64 [blocks, forms]; see above for forms that it lacks."""

    @property
    @abstractmethod
    def block_parameters(self) -> Tensor:
        """Trainable parameters of every block in every form, int64 [blocks, forms], likewise."""

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

    @property
    def stage_depths(self) -> tuple[tuple[int, ...], ...]:
        """How many blocks each stage may keep, ascending."""
        return (self.depths,) * self.stages

    @property
    def block_forms(self) -> list[int]:
        """Number of forms of every block; one for a block that its stage never has."""
        return [self.forms if there else 1 for there in self.in_stage.tolist()]

    def form_names(self) -> list[list[str]]:
        """What a reader calls every form that a block has, [blocks][its forms], in a few characters."""
        return [[str(form) for form in range(1, forms + 1)] for forms in self.block_forms]

    def form_sizes(self) -> Tensor:
        """How large every form of every block is drawn, as a share of the largest; float [blocks, forms]."""
        return self.block_parameters / self.block_parameters.max()

    def stage_names(self) -> list[str]:
        """What a reader calls the stages, such as 'stage 1, 32 x 32 pixels'."""
        return [f"stage {stage}" for stage in range(1, self.stages + 1)]

    # ---------------------------------------------------------------- decisions and choices

    @cached_property
    def blocks_per_stage(self) -> int:
        """Blocks of the longest stage."""
        return max(depths[-1] for depths in self.stage_depths)

    @property
    def blocks(self) -> int:
        """Rows of the tables of blocks: as many for every stage as for the longest."""
        return self.stages * self.blocks_per_stage

    @cached_table
    def depth_table(self) -> Tensor:
        """Blocks kept at every depth of every stage, int64 [stages, depths]; depths that it lacks repeat its first."""
        most = max(map(len, self.stage_depths))
        return torch.tensor([[*depths, *depths[:1] * (most - len(depths))] for depths in self.stage_depths])

    @cached_table
    def in_stage(self) -> Tensor:
        """Which blocks there are, bool [blocks]: some stages have fewer than the longest."""
        return (torch.arange(self.blocks_per_stage) < self.depth_table.amax(1, keepdim=True)).flatten()

    @property
    def decisions(self) -> int:
        return len(self.choices)

    @cached_table
    def choices(self) -> Tensor:
        """Number of choices of every decision, int64 [decisions]."""
        sizes = [len(self.image_sizes)] if self.image_sizes else []
        return torch.tensor([*map(len, self.stage_depths), *self.block_forms, *sizes])

    @cached_table
    def exists(self) -> tuple[Tensor, ...]:
        """Which choices there are, as `gates`: bool [decisions, choices] of depth, form and, where several, size."""
        counts, most = zip(*self.gate_shapes, strict=True)
        parts = zip(most, self.choices.split(counts), strict=True)
        return tuple(torch.arange(choices) < own[:, None] for choices, own in parts)

    @property
    def size(self) -> int:
        """Number of distinct archs."""
        firsts = range(0, self.blocks, self.blocks_per_stage)
        stages = zip(firsts, self.stage_depths, strict=True)
        of_stage = (sum(prod(self.block_forms[first:][:kept]) for kept in depths) for first, depths in stages)
        return len(self.sized) * prod(of_stage)

    @cached_property
    def sized(self) -> tuple[ChoiceSpace, ...]:
        """The space at each size of images alone; itself where there is one."""
        return tuple(replace(self, image_size=size, image_sizes=()) for size in self.image_sizes) or (self,)

    def at_size_of(self, arch: Tensor) -> tuple[ChoiceSpace, Tensor]:
        """The space at the arch's size of images alone, and the arch there."""
        return (self.sized[int(arch[-1])], arch[:-1]) if self.image_sizes else (self, arch)

    def form_of(self, archs: Tensor) -> Tensor:
        """The form of every block, int64 [..., blocks]."""
        return archs[..., self.stages : self.stages + self.blocks]

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
        return self.depth_table[torch.arange(self.stages), archs[..., : self.stages]]

    def active(self, archs: Tensor) -> Tensor:
        """Which blocks an arch keeps, bool [..., blocks]."""
        return (torch.arange(self.blocks_per_stage) < self.depth(archs)[..., None]).flatten(-2)

    def canonical(self, archs: Tensor) -> Tensor:
        """The same archs with form 0 for blocks that are not kept: equal networks have equal rows."""
        parts = (
            archs[..., : self.stages],
            self.form_of(archs) * self.active(archs),
            archs[..., self.stages + self.blocks :],
        )
        return torch.cat(parts, -1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` archs, uniform in every decision, int64 [count, decisions], canonical."""
        uniform = torch.rand(count, self.decisions, generator=generator)
        return self.canonical((uniform * self.choices).long())

    def block_names(self) -> list[str]:
        """'1.1', '1.2', ...: stage and block, counted from one, of the blocks that there are (see `in_stage`)."""
        stages = enumerate(self.stage_depths, start=1)
        return [f"{stage}.{block}" for stage, depths in stages for block in range(1, depths[-1] + 1)]

    # ---------------------------------------------------------------- encoding for networks that read archs

    @property
    def gate_shapes(self) -> list[tuple[int, int]]:
        """Decisions and choices of each tensor of `gates`."""
        shapes = [tuple(self.depth_table.shape), (self.blocks, self.forms)]
        return shapes + [(1, len(self.image_sizes))] * bool(self.image_sizes)

    def gates(self, archs: Tensor) -> tuple[Tensor, ...]:
        """The archs as 0/1 gates: depth, form and, where images have several, size; float [..., decisions, choices]."""
        counts, choices = zip(*self.gate_shapes, strict=True)
        parts = archs.split(counts, -1)
        return tuple(nn.functional.one_hot(*each).float() for each in zip(parts, choices, strict=True))

    @cached_table
    def _reached(self) -> Tensor:
        """Whether each depth of each stage keeps each block, as 0 and 1, float [stages * depths, blocks]."""
        of_stage = torch.arange(self.blocks_per_stage) < self.depth_table[..., None]
        return torch.block_diag(*of_stage.float())

    def keep_probability(self, depth: Tensor) -> Tensor:
        """Probability that each block is kept, [..., blocks], from depth probabilities [..., stages, depths]."""
        return depth.flatten(-2) @ self._reached.to(depth)  # a product of two matrices: the fastest form

    def features(self, depth: Tensor, form: Tensor, *size: Tensor) -> Tensor:
        """What a predictor reads: all gates in a row, [..., features]; a dropped block's form is 0."""
        kept = form * self.keep_probability(depth)[..., None]
        return torch.cat([each.flatten(-2) for each in (depth, kept, *size)], -1)

    # ---------------------------------------------------------------- costs, exact

    def madds(self, archs: Tensor, class_counts: Tensor | int) -> Tensor:
        """Multiply-adds of one image, the classifier counted for that many classes only; int64 [...]."""
        if not self.image_sizes:
            return self.fixed_madds(class_counts) + self.total(self.block_madds, archs)
        class_counts = torch.as_tensor(class_counts)
        shape = torch.broadcast_shapes(archs.shape[:-1], class_counts.shape)
        counts, rest, size = (each.expand(shape) for each in (class_counts, archs[..., 0], archs[..., -1]))
        total, rest = torch.empty_like(rest), archs[..., :-1].expand(*shape, -1)
        for index in size.unique().tolist():
            rows = size == index
            total[rows] = self.sized[index].madds(rest[rows], counts[rows])
        return total

    def parameters(self, archs: Tensor, class_counts: Tensor | int) -> Tensor:
        """Trainable parameters, the classifier's rows and biases for that many classes only; int64 [...]."""
        return self.fixed_parameters(class_counts) + self.total(self.block_parameters, archs)

    def expected_madds(self, depth: Tensor, form: Tensor, class_counts: Tensor, size: Tensor | None = None) -> Tensor:
        """Mean multiply-adds over archs drawn from independent choice probabilities (see `gates`), float [...]."""
        if size is not None:
            each = [space.expected_madds(depth, form, class_counts) for space in self.sized]
            return (size[..., 0, :] * torch.stack(each, -1)).sum(-1)
        blocks = (form * self.block_madds).sum(-1) * self.keep_probability(depth)
        return blocks.sum(-1) + self.fixed_madds(class_counts)

    def total(self, table: Tensor, archs: Tensor) -> Tensor:
        """Sum of a [blocks, forms] table over the blocks that the archs keep, int64 [...]."""

        def total(archs: Tensor) -> Tensor:
            flat = self.form_of(archs) + torch.arange(self.blocks) * table.shape[1]
            return (table.flatten()[flat] * self.active(archs)).sum(-1)

        # In pieces that stay in the processor's cache: ten times as fast for a million archs.
        pieces = archs.reshape(-1, self.decisions).split(PIECE)
        return torch.cat([total(piece) for piece in pieces]).view(archs.shape[:-1])

    def check_scenarios(self, class_masks: Tensor, budgets: Tensor, outputs: Tensor | None = None) -> None:
        """Check scenarios, bool [n, classes] and multiply-adds [n], before any long work; `outputs` as the generator.

        ValueError: an empty set of classes, or a budget that no arch fits; it states the smallest possible.
        """
        count = torch.empty(len(class_masks), dtype=torch.long)
        for out, piece in zip(count.split(PIECE), class_masks.split(PIECE), strict=True):
            torch.sum(piece, -1, out=out)  # in pieces: a sum of bools holds them all as integers
        if not count.all():
            raise ValueError(f"scenario {int((count == 0).nonzero()[0])} keeps no class: name at least one")
        count = count if outputs is None else outputs
        smallest = self.madds(self.smallest, count)
        if not (budgets >= smallest).all():  # also catches NaN
            worst = int((~(budgets >= smallest)).nonzero()[0])
            asked, least = f"{float(budgets[worst]) / 1e6:g}M MAdds", rounded_up(int(smallest[worst]) / 1e6)
            told = f"{least}M MAdds for {int(count[worst])} classes; ask for as much, or train a narrower space"
            raise ValueError(f"budget of {asked} is below the smallest arch: {told}")


def rounded_up(number: float, digits: int = 6) -> str:
    """A positive number in so many digits, never less than it is: a bound that is told can be asked for."""
    return f"{Context(prec=digits, rounding=ROUND_CEILING).create_decimal(repr(float(number))):f}"


class SpaceRecipe(Section):
    """The part `space` of params.yaml: a registered `kind` and what that kind of space has to be told."""

    kind: str

    @abstractmethod
    def build(self, image_size: int, in_channels: int) -> ChoiceSpace:
        """The space for images of that many pixels a side and channels.

        ValueError, in one line, where there is none for such images.
        """


class SizedRecipe(SpaceRecipe):
    """The recipe of a space in which the size of images may be a decision."""

    image_sizes: tuple[Annotated[int, Field(ge=8, le=4096)], ...] = Field((), max_length=MOST_SIZES)

    @model_validator(mode="after")
    def sizes_ascend(self) -> SizedRecipe:
        if list(self.image_sizes) != sorted(set(self.image_sizes)) or len(self.image_sizes) == 1:
            raise ValueError(f"image_sizes must be two or more, strictly ascending, got {list(self.image_sizes)}")
        return self

    def sizes_for(self, image_size: int) -> tuple[int, ...]:
        """The sizes of a space for such images; ValueError where the largest is another."""
        if self.image_sizes and self.image_sizes[-1] != image_size:
            raise ValueError(f"the largest of image_sizes must be that of the images, {image_size}")
        return self.image_sizes


SPACES = Registry()
