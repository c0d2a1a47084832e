"""What a network costs, as a sum over the blocks that it keeps: what bounds are set on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from eas.spaces import ChoiceSpace
from eas.spaces.base import rounded_up


class Cost(Protocol):
    """A cost of networks: a part that no arch avoids, and one for every block that is kept, by its form.

    Both are told of a space whose images have one size. No form of a block may cost less than its first.
    """

    name: str  # as a message says it
    unit: str
    scale: float  # how much of the cost a unit is

    def of_blocks(self, space: ChoiceSpace) -> Tensor:
        """Of every block in every form, [blocks, forms]."""

    def fixed(self, space: ChoiceSpace, class_counts: Tensor | int) -> Tensor:
        """What every arch has, with that many classes; [...]."""


@dataclass(frozen=True)
class Counted:
    """A cost that a space counts, exactly."""

    name: str
    unit: str
    scale: float
    counted: str  # in the names of the space's tables

    def of_blocks(self, space: ChoiceSpace) -> Tensor:
        return getattr(space, f"block_{self.counted}")

    def fixed(self, space: ChoiceSpace, class_counts: Tensor | int) -> Tensor:
        return getattr(space, f"fixed_{self.counted}")(class_counts)


FAR = 1e6  # distances beyond the largest arch, no matter how far

MADDS = Counted("multiply-adds", "M", 1e6, "madds")
PARAMETERS = Counted("parameters", "M", 1e6, "parameters")


class Bound(NamedTuple):
    """The most that networks may cost: of each scenario [scenarios], float64; inf where there is no bound."""

    cost: Cost
    most: Tensor

    def rows(self, rows: Tensor) -> Bound:
        """Of some scenarios."""
        return Bound(self.cost, self.most[rows])


def total(space: ChoiceSpace, cost: Cost, archs: Tensor, class_counts: Tensor | int) -> Tensor:
    """What archs [..., decisions] cost, with that many classes [...]; float64 [...]."""
    class_counts = torch.as_tensor(class_counts)
    shape = torch.broadcast_shapes(archs.shape[:-1], class_counts.shape)
    archs, counts = archs.expand(*shape, -1), class_counts.expand(shape)
    paid = torch.empty(shape, dtype=torch.float64)
    for index, one in enumerate(space.sized):
        rows = archs[..., -1] == index if space.image_sizes else torch.ones(shape, dtype=torch.bool)
        own = archs[rows][:, : one.decisions]
        paid[rows] = (one.total(cost.of_blocks(one), own) + cost.fixed(one, counts[rows])).double()
    return paid


def check_bounds(space: ChoiceSpace, bounds: Sequence[Bound], class_counts: Tensor) -> None:
    """ValueError, in one line, where a bound is none, or below what the smallest arch costs; it says that."""
    for cost, most in bounds:
        smallest = total(space, cost, space.smallest, class_counts)
        if not (most >= smallest).all():  # also catches NaN
            worst = int((~(most >= smallest)).nonzero()[0])
            asked, least = (float(each[worst]) / cost.scale for each in (most, smallest))
            raise ValueError(
                f"{asked:.4g} {cost.unit} of {cost.name} is below the smallest arch: {rounded_up(least, 4)} "
                f"{cost.unit} for {int(class_counts[worst])} classes; ask for as much, or train a narrower space"
            )


def like_madds(space: ChoiceSpace, bounds: Sequence[Bound], class_counts: Tensor) -> Tensor:
    """The bounds as budgets of multiply-adds, float64 [scenarios]: as far from the smallest arch to the largest.

    Of several the tightest. A generator that was trained on budgets reads these; what its archs cost, decoding bounds.
    """

    def ends(cost: Cost) -> Tensor:
        return torch.stack([total(space, cost, arch, class_counts) for arch in (space.smallest, space.largest)])

    low, high = ends(MADDS)
    # A space of one arch has no distance.
    shares = [
        (most - least) / (greatest - least).clamp_min(1e-30)
        for cost, most in bounds
        for least, greatest in [ends(cost)]
    ]
    return low + torch.stack(shares).amin(0).clamp(max=FAR) * (high - low)
