"""From scores to archs under a hard budget, for many scenarios at once. Source: ours.

A Lagrange multiplier prices multiply-adds; what the priced choice leaves over is then filled greedily. The plain, slow
form of both is in the tests (tests/eas/reference.py), which hold this one equal to it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from eas.spaces import ChoiceSpace

# Candidate prices of a round, as shares of the highest: first over all magnitudes, then between two of these. Of what
# is left of them, QUARTERS picks the three that leave a quarter to be searched.
WIDE, NARROW = (10 ** torch.linspace(-8, 0, 16)).numpy(), torch.linspace(0, 1, 16).numpy()
WIDE[0] = 0
QUARTERS = np.arange(1, 4)
NEVER = np.float32("-inf")


def decode(
    space: ChoiceSpace, depth: Tensor, form: Tensor, budgets: Tensor, class_counts: Tensor, size: Tensor | None = None
) -> Tensor:
    """The archs with (nearly) the highest total score within the budgets, int64 [scenarios, decisions].

    Scores as ArchGenerator.forward returns them; the budgets must be possible (ChoiceSpace.check_scenarios). Where
    images have several sizes, each one is decoded that has an arch within the budget, and the best arch taken.
    """
    if size is None:
        return decode_at_one_size(space, depth, form, budgets, class_counts)
    best, top = space.smallest.repeat(len(budgets), 1), torch.full((len(budgets),), -torch.inf)
    for index, one in enumerate(space.sized):
        rows = (one.madds(one.smallest, class_counts) <= budgets).nonzero()[:, 0]
        archs = decode_at_one_size(one, *(each[rows] for each in (depth, form, budgets, class_counts)))
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
    space: ChoiceSpace, depth: Tensor, form: Tensor, budgets: Tensor, class_counts: Tensor
) -> Tensor:
    """As `decode`, for a space whose images have one size.

    Choices are priced: for a price per multiply-add, the best depth and forms follow exactly, stage by stage. Two
    rounds of candidate prices find the lowest price that the budget allows; `fill` spends what is left. The cost falls
    as the price rises, so that two steps, of three candidates each, find the first of 16 that the budget allows.
    Many small steps: in numpy, whose calls take a third of the time of torch's.
    """
    room = (budgets.double() - space.fixed_madds(class_counts)).numpy()
    # A choice that does not exist has the score, as it has the cost, of the first, which then is taken.
    pairs = zip(space.exists, (depth, form), strict=True)
    depth, form = (each if there.all() else each.where(there, each[..., :1]) for there, each in pairs)
    cost = (space.block_madds / space.block_madds.double().mean()).to(form)
    best_at = pricing(space, depth, form, cost)
    # A price above the largest score difference over the smallest cost difference makes every choice the cheapest.
    steps = np.diff(np.sort(cost.numpy(), 1), axis=1)
    high = 2 * sum(np.ptp(each.numpy(), (1, 2)) for each in (form, depth))
    high = high / steps[steps > 0].min() + 1 if (steps > 0).any() else high + 1
    best, low, rows = space.smallest.numpy(), np.zeros_like(high), np.arange(len(room))
    for wide in (True, False):
        prices = high[:, None] * WIDE if wide else low[:, None] + (high - low)[:, None] * NARROW
        first = np.zeros(len(room), int)  # how many candidates are known to be too low
        for stride in (4, 1):
            archs, used = best_at(prices[rows[:, None], first[:, None] + stride * QUARTERS - 1])
            feasible = used <= room[:, None]
            best = np.where(feasible.any(1)[:, None], archs[rows, feasible.argmax(1)], best)
            first += stride * (~feasible).sum(1)
        high, low = prices[rows, first], prices[rows, np.maximum(first - 1, 0)]
    return fill(space, torch.from_numpy(best), form, budgets, class_counts)


def pricing(
    space: ChoiceSpace, depth: Tensor, form: Tensor, cost: Tensor
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function of prices [scenarios, prices], which a unit of `cost` takes from the score.

    It returns the best archs, int64 [scenarios, prices, decisions], not canonical, and the MAdds of their blocks.
    """
    table, kept, stage = space.block_madds.numpy(), space.depth_table.numpy(), np.arange(space.stages)
    scores, by_depth, costs = form.numpy()[:, None], depth.numpy()[:, None], cost.numpy()
    block, stages = np.arange(space.blocks) * table.shape[1], (space.stages, space.blocks_per_stage)
    last, level = kept - 1 + stage[:, None] * space.blocks_per_stage, stage * kept.shape[1]  # places in flat arrays

    def best_at(prices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        priced = torch.from_numpy(scores - prices[..., None, None] * costs)
        value, choice = (each.numpy() for each in priced.max(-1))  # [scenarios, prices, blocks]
        shape = *prices.shape, *stages
        chosen = (running_sum(value.reshape(shape)).reshape(value.shape).take(last, -1) + by_depth).argmax(-1)
        paid = running_sum(table.take(choice + block).reshape(shape))  # whole numbers: a budget is exact
        row = np.arange(prices.size).reshape(*prices.shape, 1) * space.blocks
        return np.concatenate([chosen, choice], -1), paid.take(row + last.take(chosen + level)).sum(-1)

    return best_at


def running_sum(x: np.ndarray) -> np.ndarray:
    """np.cumsum along the last axis, in place; where that is short, in a fraction of the time."""
    for i in range(1, x.shape[-1]):
        x[..., i] += x[..., i - 1]
    return x


def fill(space: ChoiceSpace, archs: Tensor, form: Tensor, budgets: Tensor, class_counts: Tensor) -> Tensor:
    """Enlarge blocks, or add the next block of a stage, while the budget allows: each time the change scored best.

    `archs` int64 [n, decisions] within the budgets, `form` scores [n, blocks, forms]; returns archs, canonical.
    """
    depth, choice = (part.numpy().copy() for part in archs.split([space.stages, space.blocks], -1))
    score, depths = form.numpy(), space.depth_table.numpy()
    table = np.where(space.exists[1], space.block_madds, np.nan)  # what does not exist is neither dearer nor fits
    stage, position = np.divmod(np.arange(space.blocks), space.blocks_per_stage)
    addable = np.diff(depths, append=0) == 1  # only a depth whose successor is one block more can grow by one
    level = depth[:, stage]
    kept, grows = depths[stage, level], addable[stage, level]
    active = position < kept
    choice *= active  # the canonical form
    flat = choice + np.arange(space.blocks) * space.forms
    paid = table.take(flat) * active
    left = (budgets.double() - space.fixed_madds(class_counts)).numpy() - paid.sum(1)
    # Of every change: what it costs and what it gains. A change moves one block, so only that block's row is renewed.
    extra = table - paid[..., None]
    scored = score.take(flat + np.arange(len(archs))[:, None] * table.size) * active
    changes = active | ((position == kept) & grows)
    gain = np.where(changes[..., None] & (extra > 0), score - scored[..., None], NEVER)
    each = rows = np.arange(len(archs))  # the archs that can still change, as rows of `gain` and of `choice`
    while len(rows):
        possible = np.where(extra <= left[:, None, None], gain, NEVER).reshape(len(rows), table.size)
        move = possible.argmax(1)
        going = possible[each, move] > NEVER
        if not going.all():
            rows, extra, gain, left, move = (part[going] for part in (rows, extra, gain, left, move))
            each = each[: len(rows)]
        block, larger = np.divmod(move, space.forms)
        left = left - extra[each, block, larger]
        choice[rows, block] = larger
        extra[each, block] = more = table[block] - table[block, larger][:, None]
        row_score = score[rows, block]
        gain[each, block] = np.where(more > 0, row_score - row_score[each, larger][:, None], NEVER)
        if (grown := ~active[rows, block]).any():
            row, block = rows[grown], block[grown]
            active[row, block] = True
            depth[row, stage[block]] += 1
            opens = addable[stage[block], depth[row, stage[block]]]  # then the block behind it is next
            gain[each[grown][opens], block[opens] + 1] = score[row[opens], block[opens] + 1]
    return torch.from_numpy(np.concatenate([depth, choice], 1))
