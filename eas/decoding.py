"""From scores to archs under hard bounds, for many scenarios at once. Source: ours.

A Lagrange multiplier prices multiply-adds; what the priced choice leaves over is then filled greedily. The plain, slow
form of both is in the tests (tests/eas/reference.py), which hold this one equal to it. Where several costs are bounded
(parameters or milliseconds too), mixtures of them are priced, and the best arch of all mixtures is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from eas.costs import MADDS, Bound, total
from eas.spaces import ChoiceSpace

# Candidate prices of a round, as shares of the highest: first over all magnitudes, then between two of these. Of what
# is left of them, QUARTERS picks the three that leave a quarter to be searched.
WIDE, NARROW = (10 ** torch.linspace(-8, 0, 16)).numpy(), torch.linspace(0, 1, 16).numpy()
WIDE[0] = 0
QUARTERS = np.arange(1, 4)
NEVER = np.float32("-inf")
LEAST_STEP = 1e-3  # differences between costs, as shares of their mean, below which they count as equal
MIXTURES = 4  # steps between two costs; the mixtures of several are as fine


@dataclass(frozen=True)
class Room:
    """What blocks may cost in a space of one size of images, under each of the bounds that there are."""

    costs: np.ndarray  # [bounds, blocks, forms]
    most: np.ndarray  # float64 [bounds, scenarios]

    @classmethod
    def under(cls, space: ChoiceSpace, bounds: Sequence[Bound], class_counts: Tensor) -> Room:
        """Of bounds of whole networks; one that bounds none of the scenarios is left out, unless there is no other."""
        real = [each for each in bounds if each.most.isfinite().any()] or bounds[:1]
        most = [each.most.double() - each.cost.fixed(space, class_counts) for each in real]
        return cls(np.stack([each.cost.of_blocks(space).numpy() for each in real]), torch.stack(most).numpy())


def decode(
    space: ChoiceSpace,
    depth: Tensor,
    form: Tensor,
    budgets: Tensor,
    class_counts: Tensor,
    size: Tensor | None = None,
    bounds: Sequence[Bound] = (),
) -> Tensor:
    """The archs with (nearly) the highest total score within the budgets, int64 [scenarios, decisions].

    Scores as ArchGenerator.forward returns them; `budgets` are of multiply-adds, `bounds` of other costs, and both must
    be possible (see ArchGenerator.generate). Where images have several sizes, each one is decoded that has an arch
    within the bounds, and the best arch taken.
    """
    bounds = (Bound(MADDS, budgets), *bounds)
    if size is None:
        return decode_at_one_size(space, depth, form, bounds, class_counts)
    best, top = space.smallest.repeat(len(budgets), 1), torch.full((len(budgets),), -torch.inf)
    for index, one in enumerate(space.sized):
        fits = (total(one, each.cost, one.smallest, class_counts) <= each.most for each in bounds)
        rows = reduce(torch.logical_and, fits).nonzero()[:, 0]
        own = tuple(each.rows(rows) for each in bounds)
        archs = decode_at_one_size(one, depth[rows], form[rows], own, class_counts[rows])
        score = total_score(one, archs, depth[rows], form[rows]) + size[rows, 0, index]
        better = score > top[rows]
        top[rows[better]] = score[better]
        best[rows[better]] = torch.nn.functional.pad(archs[better], (0, 1), value=index)
    return best


def total_score(space: ChoiceSpace, archs: Tensor, depth: Tensor, form: Tensor) -> Tensor:
    """Of the choices that archs [n, decisions] make, those of the blocks that they keep; float [n]."""
    depths, forms = (scores * gates for scores, gates in zip((depth, form), space.gates(archs), strict=True))
    return depths.sum((1, 2)) + (forms.sum(2) * space.active(archs)).sum(1)


def decode_at_one_size(
    space: ChoiceSpace, depth: Tensor, form: Tensor, bounds: Sequence[Bound], class_counts: Tensor
) -> Tensor:
    """As `decode`, for a space whose images have one size; `bounds` are all that there are."""
    room = Room.under(space, bounds, class_counts)
    # A choice that does not exist has the score, as it has the cost, of the first, which then is taken.
    pairs = zip(space.exists, (depth, form), strict=True)
    depth, form = (each if there.all() else each.where(there, each[..., :1]) for there, each in pairs)
    if len(room.costs) == 1:
        return fill(space, best_within(space, depth, form, room.costs, room), form, room)
    mixed, count = mixtures(room), len(depth)
    copies = len(mixed) // max(1, count)
    depths, forms, many = depth.repeat(copies, 1, 1), form.repeat(copies, 1, 1), np.tile(room.most, copies)
    repeated = Room(room.costs, many)
    archs = fill(space, best_within(space, depths, forms, mixed, repeated), forms, repeated)
    score = total_score(space, archs, depths, forms).view(copies, count)
    return archs.view(copies, count, -1)[score.argmax(0), torch.arange(count)]


def mixtures(room: Room) -> np.ndarray:
    """Costs in which all bounded ones have a part, each as a share of its room; [mixtures * scenarios, blocks, forms].

    A scenario's room may be none: then any arch but the smallest costs a multiple of what is left.
    """
    bounds = len(room.costs)
    grid = np.stack(np.meshgrid(*[np.arange(MIXTURES + 1)] * bounds, indexing="ij"), -1).reshape(-1, bounds)
    parts = grid[grid.sum(1) == MIXTURES] / MIXTURES
    mean = room.costs.mean((1, 2), dtype=float)[:, None]
    shares = parts[:, :, None] / np.maximum(room.most, 1e-6 * mean)  # [mixtures, bounds, scenarios]
    return np.einsum("mbn,bkf->mnkf", shares, room.costs).reshape(-1, *room.costs.shape[1:])


def best_within(space: ChoiceSpace, depth: Tensor, form: Tensor, priced: np.ndarray, room: Room) -> Tensor:
    """The archs that are best at the lowest price found that the room allows, not canonical; the smallest where none.

    Choices are priced: for a price of a cost, one of `priced` [1 or scenarios, blocks, forms], the best depth and forms
    follow exactly, stage by stage. Two rounds of candidate prices find the lowest one. What is used falls as the price
    rises, so that two steps, of three candidates each, find the first of 16 that there is room for.
    Many small steps: in numpy, whose calls take a third of the time of torch's.
    """
    cost = (priced / np.maximum(priced.mean((1, 2), dtype=float), 1e-300)[:, None, None]).astype(np.float32)
    best_at = pricing(space, depth, form, cost, room.costs)
    # A price above the largest score difference over the smallest cost difference makes every choice the cheapest.
    steps = np.diff(np.sort(cost)).reshape(len(cost), -1)
    least = np.where(steps > LEAST_STEP, steps, np.float32(np.inf)).min(1, initial=np.float32(np.inf))
    high = 2 * sum(np.ptp(each.numpy(), (1, 2)) for each in (form, depth)) / np.where(least < np.inf, least, 1) + 1
    best, low, rows = space.smallest.numpy(), np.zeros_like(high), np.arange(len(high))
    for shares in (WIDE, NARROW):
        prices = low[:, None] + (high - low)[:, None] * shares
        first = np.zeros(len(high), int)  # how many candidates are known to be too low
        for stride in (4, 1):
            archs, used = best_at(prices[rows[:, None], first[:, None] + stride * QUARTERS - 1])
            feasible = (used <= room.most[..., None]).all(0)
            best = np.where(feasible.any(1)[:, None], archs[rows, feasible.argmax(1)], best)
            first += stride * (~feasible).sum(1)
        high, low = prices[rows, first], prices[rows, np.maximum(first - 1, 0)]
    return torch.from_numpy(best)


def pricing(
    space: ChoiceSpace, depth: Tensor, form: Tensor, cost: np.ndarray, paid_costs: np.ndarray
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function of prices [scenarios, prices], which a unit of `cost` takes from the score.

    It returns the best archs, int64 [scenarios, prices, decisions], not canonical, and what their blocks cost, by each
    of `paid_costs`: [costs, scenarios, prices].
    """
    kept, stage = space.depth_table.numpy(), np.arange(space.stages)
    scores, by_depth, costs = form.numpy()[:, None], depth.numpy()[:, None], cost[:, None]
    block, stages = np.arange(space.blocks) * space.forms, (space.stages, space.blocks_per_stage)
    last, level = kept - 1 + stage[:, None] * space.blocks_per_stage, stage * kept.shape[1]  # places in flat arrays

    def best_at(prices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        priced = torch.from_numpy(scores - prices[..., None, None] * costs)
        value, choice = (each.numpy() for each in priced.max(-1))  # [scenarios, prices, blocks]
        shape = *prices.shape, *stages
        chosen = (running_sum(value.reshape(shape)).reshape(value.shape).take(last, -1) + by_depth).argmax(-1)
        row = np.arange(prices.size).reshape(*prices.shape, 1) * space.blocks
        places = row + last.take(chosen + level)
        # Multiply-adds and parameters are whole numbers: their bounds are exact.
        used = [running_sum(each.take(choice + block).reshape(shape)).take(places).sum(-1) for each in paid_costs]
        return np.concatenate([chosen, choice], -1), np.stack(used)

    return best_at


def running_sum(x: np.ndarray) -> np.ndarray:
    """np.cumsum along the last axis, in place; where that is short, in a fraction of the time."""
    for i in range(1, x.shape[-1]):
        x[..., i] += x[..., i - 1]
    return x


def fill(space: ChoiceSpace, archs: Tensor, form: Tensor, room: Room) -> Tensor:
    """Enlarge blocks, or add the next block of a stage, while there is room: each time the change scored best.

    `archs` int64 [n, decisions] for which there is room, `form` scores [n, blocks, forms]; returns archs, canonical.
    """
    depth, choice = (part.numpy().copy() for part in archs.split([space.stages, space.blocks], -1))
    score, depths = form.numpy(), space.depth_table.numpy()
    tables = np.where(space.exists[1], room.costs, np.nan)  # what does not exist is neither dearer nor fits
    stage, position = np.divmod(np.arange(space.blocks), space.blocks_per_stage)
    addable = np.diff(depths, append=0) == 1  # only a depth whose successor is one block more can grow by one
    level = depth[:, stage]
    kept, grows = depths[stage, level], addable[stage, level]
    active = position < kept
    choice *= active  # the canonical form
    flat = choice + np.arange(space.blocks) * space.forms
    paid = tables.reshape(len(tables), -1).take(flat, 1) * active  # [bounds, n, blocks]
    left = room.most - paid.sum(2)
    # Of every change: what it costs and what it gains. A change moves one block, so only that block's row is renewed.
    extra = tables[:, None] - paid[..., None]
    scored = score.take(flat + np.arange(len(archs))[:, None] * tables[0].size) * active
    changes = active | ((position == kept) & grows)
    gain = np.where(changes[..., None] & (extra[0] > 0), score - scored[..., None], NEVER)
    each = rows = np.arange(len(archs))  # the archs that can still change, as rows of `gain` and of `choice`
    while len(rows):
        fits = (extra <= left[..., None, None]).all(0)
        possible = np.where(fits, gain, NEVER).reshape(len(rows), -1)
        move = possible.argmax(1)
        going = possible[each, move] > NEVER
        if not going.all():
            rows, gain, move = (part[going] for part in (rows, gain, move))
            extra, left = extra[:, going], left[:, going]
            each = each[: len(rows)]
        block, larger = np.divmod(move, space.forms)
        left = left - extra[:, each, block, larger]
        choice[rows, block] = larger
        extra[:, each, block] = more = tables[:, block] - tables[:, block, larger][..., None]
        row_score = score[rows, block]
        gain[each, block] = np.where(more[0] > 0, row_score - row_score[each, larger][:, None], NEVER)
        if (grown := ~active[rows, block]).any():
            row, block = rows[grown], block[grown]
            active[row, block] = True
            depth[row, stage[block]] += 1
            opens = addable[stage[block], depth[row, stage[block]]]  # then the block behind it is next
            gain[each[grown][opens], block[opens] + 1] = score[row[opens], block[opens] + 1]
    return torch.from_numpy(np.concatenate([depth, choice], 1))
