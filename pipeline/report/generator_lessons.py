"""Pictures that teach how the generator works: a scenario's scores, prices and cost, and gates while it is trained.

Titles are sentences that state what is seen, with numbers of the study at hand; see pipeline.report.lessons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor, nn

from eas.decoding import pricing
from eas.spaces import ChoiceSpace
from pipeline.report import figures
from pipeline.scenarios import MEGA

DARK, LIGHT = "#1f3a5f", "0.72"  # what is chosen, and what is not, in grey too
PRICES = 2000  # that the curve of costs is drawn of
ROOM = 142  # beside one another, in bars
FEW_DECADES = 1e3  # of prices, of which more than the powers of ten are named
Scores = Sequence[Tensor]  # of one scenario, as eas.generator.ArchGenerator.forward returns them

# -------------------------------------------------------------------- from scores to an arch


class Decision(NamedTuple):
    """A decision of one scenario: its choices' scores, these less what choices pay, and which choice is made.

    `alone` by scores without a price, `made` in the end; none by a block that is left out.
    """

    name: str
    scores: list[float]
    priced: list[float]
    alone: int | None
    made: int | None


@dataclass(frozen=True)
class PricedChoices:
    """One scenario's scores under prices of multiply-adds, a million of which takes so much from a score.

    `madds` are those of the best arch at each of `prices`, ascending; `at` is the place of the lowest price that the
    budget allows; `decisions` are those at this price, `spent` is what the arch costs that was decoded.
    """

    prices: np.ndarray
    madds: np.ndarray
    at: int
    decisions: list[Decision]
    budget: float
    spent: int


@torch.no_grad()
def priced_choices(space: ChoiceSpace, scores: Scores, arch: Tensor, budget: float, class_count: int) -> PricedChoices:
    """Price a scenario's scores at many prices as the decoder does, which made `arch` of them."""
    (one, own), (depth, form, *size) = space.at_size_of(arch), (each[0] for each in scores)
    # As in decoding: a choice that does not exist has the score, as it has the cost, of the first.
    pairs = zip(one.exists, (depth, form), strict=True)
    filled = [each.where(there, each[:, :1])[None] for there, each in pairs]
    cost = one.block_madds / MEGA
    steps = cost.sort(1).values.diff(dim=1)
    highest = sum(np.ptp(each.numpy()) for each in filled) / float(steps[steps > 0].amin() if steps.any() else 1)
    prices = np.concatenate([[0], np.geomspace(1e-6, 2, PRICES) * max(highest, 1e-6)])
    best_at = pricing(one, *filled, cost.numpy()[None].astype(np.float32), one.block_madds.numpy()[None])
    archs, used = (each[0] for each in best_at(prices[None]))
    madds = used[0] + one.fixed_madds(class_count).item()
    at = int((madds <= budget).argmax())
    decisions = decided(one, (torch.from_numpy(archs[0]), own), depth, form, form - prices[at] * cost)
    if size:  # of each size the best arch is found, and then the best of these: sizes pay no price of their own
        decisions.append(Decision("size", *[size[0][0].tolist()] * 2, *[int(arch[-1])] * 2))
    return PricedChoices(prices, madds, at, decisions, budget, int(space.madds(arch, class_count)))


def decided(
    space: ChoiceSpace, archs: tuple[Tensor, Tensor], depth: Tensor, form: Tensor, priced: Tensor
) -> list[Decision]:
    """The decisions of every stage in two archs: its depth, then its blocks' forms; of those that there are."""
    found, names, counts = [], iter(space.block_names()), space.block_forms
    made = [
        [form if kept else None for form, kept in zip(space.form_of(each).tolist(), space.active(each), strict=True)]
        for each in archs
    ]
    for stage, depths in enumerate(space.stage_depths):
        scores = depth[stage, : len(depths)].tolist()
        found.append(Decision("depth", scores, scores, *(int(each[stage]) for each in archs)))
        first = stage * space.blocks_per_stage
        for block in range(first, first + depths[-1]):
            rows = (each[block, : counts[block]].tolist() for each in (form, priced))
            found.append(Decision(next(names), *rows, *(each[block] for each in made)))
    return found


def choice_scores(choices: PricedChoices) -> Figure:
    """Bars of every choice's score, and of the score less the price, decision by decision; what is chosen is dark."""
    pieces = in_pieces(choices.decisions)
    figure, axes = figures.panels(2 * len(pieces), 1, height=0.8 + 3.6 * len(pieces))
    rows = ("scores", "alone", "score"), ("priced", "made", "less price")
    for axis, (piece, row) in zip(axes[:, 0], product(pieces, rows), strict=True):
        draw_choices(axis, piece, *row)
    axes[-1, 0].set_xlabel("depth of each stage, and its blocks (stage.block)")
    axes[0, 0].set_title(changes_told(choices.decisions), loc="left")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (DARK, LIGHT)]
    figure.legend(handles, ("chosen", "not chosen"), loc="outside lower center", ncols=2)
    return figure


def in_pieces(decisions: Sequence[Decision]) -> list[list[Decision]]:
    """Whole stages, as many as there is room for beside one another."""
    pieces: list[list[Decision]] = [[]]
    starts = [place for place, each in enumerate(decisions) if each.name == "depth"] + [len(decisions)]
    for start, end in pairwise(starts):
        stage = decisions[start:end]
        if pieces[-1] and sum(map(room, (*pieces[-1], *stage))) > ROOM:
            pieces.append([])
        pieces[-1] += stage
    return pieces


def room(decision: Decision) -> float:
    """What a group of bars takes with the gap behind it, and its name, which is as wide as some bars."""
    return max(len(decision.scores) + 1.5, 4.5)


def draw_choices(axis: Axes, decisions: Sequence[Decision], heights: str, chosen: str, what: str) -> None:
    """A group of bars for each decision; stages are apart."""
    start, middles = 0.0, []
    for each in decisions:
        colours = [DARK if place == getattr(each, chosen) else LIGHT for place in range(len(each.scores))]
        axis.bar(start + np.arange(len(colours)), getattr(each, heights), 0.85, color=colours)
        if each.name in ("depth", "size") and start:
            axis.axvline(start - 1.25, color="0.5", linewidth=0.8)
        middles.append(start + (len(colours) - 1) / 2)
        start += room(each)
    axis.axhline(0, color="0.3", linewidth=0.8)
    axis.set_xticks(middles, [each.name for each in decisions], fontsize=7.5)
    axis.set(ylabel=what, xlim=(-1.5, start - 1))
    axis.tick_params(axis="x", length=0)
    axis.grid(False, axis="x")


def changes_told(decisions: Sequence[Decision]) -> str:
    """What the budget changes, in a sentence."""
    changed = sum(each.alone != each.made for each in decisions)
    return f"The budget changes {changed} of the {len(decisions)} decisions that scores alone would make"


def cost_over_price(choices: PricedChoices) -> Figure:
    """What the best arch at a price costs, over the price; the budget, the price that it allows, the arch decoded."""
    prices, madds, at, budget = choices.prices, choices.madds / MEGA, choices.at, choices.budget / MEGA
    figure, ((axis,),) = figures.panels(height=3.4)
    moving = np.flatnonzero(np.diff(madds)) + 1
    first, last = (moving[0], moving[-1]) if len(moving) else (1, len(prices) - 1)
    low = prices[first] / 2
    axis.step(prices[1:], madds[1:], where="post", color=DARK, label="best arch at a price")
    axis.axhline(budget, color="0.3", linestyle="--", label="budget")
    point = {"color": DARK, "linestyle": "", "zorder": 3, "clip_on": False}  # without a price they are on the edge
    price = max(prices[at], low)
    axis.plot(price, madds[at], "o", **point, markersize=7, label="lowest price that the budget allows")
    star = {"markerfacecolor": "white", "markersize": 12, "label": "decoded: what was left is spent"}
    axis.plot(price, choices.spent / MEGA, "*", **point | star)
    axis.set(
        xscale="log", xlim=(low, prices[last] * 2), xlabel="price of a million multiply-adds, in units of the score"
    )
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if prices[last] < FEW_DECADES * low else (1,)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_ylabel(f"{figures.MADDS} of the arch")
    axis.set_title(price_told(prices[at], madds[0], budget), loc="left")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def price_told(price: float, free: float, budget: float) -> str:
    """What the price does, in a sentence."""
    if not price:
        return f"Without any price the best arch fits {budget:g}M"
    return f"A price of {price:.2g} brings the arch from {free:.3g}M down to what {budget:g}M allow"


# -------------------------------------------------------------------- gates


class WatchedScenario:
    """One scenario in the place of random ones; before every step of a training it notes what its gates are.

    `gates`: the choices' probabilities at every step, each as ChoiceSpace.gates of one arch.
    """

    def __init__(self, generator: nn.Module, class_mask: Tensor, budget: float):
        self.generator, self.class_mask = generator, class_mask
        self.budget = torch.tensor([budget], dtype=torch.float64)
        self.gates: list[tuple[Tensor, ...]] = []

    def __call__(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """As eas.generator.ScenarioSampler."""
        self.gates.append(self.of(self.generator))
        return self.class_mask.expand(count, -1), self.budget.expand(count)

    @torch.no_grad()
    def of(self, generator: nn.Module) -> tuple[Tensor, ...]:
        """The scenario's gates in a generator."""
        return tuple(each.softmax(-1)[0] for each in generator(self.class_mask[None], self.budget))

    def madds(self, gates: tuple[Tensor, ...]) -> float:
        """Expected multiply-adds, in millions."""
        depth, form, *size = (each[None] for each in gates)
        return self.generator.space.expected_madds(depth, form, self.class_mask.sum()[None], *size).item() / MEGA


def open_shares(space: ChoiceSpace, gates: tuple[Tensor, ...]) -> Tensor:
    """How far every block is open: its expected size as a share of its largest, if kept, else 0; float [blocks].

    Where images have several sizes, at last their expected size as a share of the largest.
    """
    depth, form, *size = gates
    share = space.keep_probability(depth) * (form * space.form_sizes()).sum(-1)
    pixels = [(size[0] * torch.tensor(space.image_sizes)).sum(-1) / space.image_size] if size else []
    return torch.cat([share[space.in_stage] / figures.full_sizes(space), *pixels])


def gates_opening(watched: WatchedScenario, trained: nn.Module) -> Figure:
    """How far a scenario's blocks are open at every step of a short training, and in a generator that is `trained`."""
    space, steps, budget = watched.generator.space, len(watched.gates), watched.budget.item() / MEGA
    madds = [watched.madds(each) for each in watched.gates]
    opened = torch.stack([open_shares(space, each) for each in (*watched.gates, watched.of(trained))], 1)
    figure, axes = figures.panels(2, 2, height=4.2, width_ratios=(9, 1), height_ratios=(4, 1.3))
    draw_open(axes[0, 0], opened[:, :-1], space)
    drawn = draw_open(axes[0, 1], opened[:, -1:], space)
    figure.colorbar(drawn, ax=axes[0, 1], pad=0.15, label="open share of a block")
    axes[0, 0].set_ylabel("stage.block")
    axes[0, 0].set_title(opening_told(madds, budget), loc="left")
    axes[0, 1].set_xlabel("the study's\nown training")
    axes[0, 1].tick_params(labelleft=False)
    axes[1, 1].axis("off")
    axes[1, 0].plot(np.arange(steps) + 0.5, madds, color=DARK)
    axes[1, 0].axhline(budget, color="0.3", linestyle="--")
    axes[1, 0].set(xlabel="step of the training here", ylabel="expected\nMAdds (M)", xlim=(0, steps), ylim=(0, None))
    return figure


def draw_open(axis: Axes, opened: Tensor, space: ChoiceSpace) -> AxesImage:
    """Shares [blocks, steps] as shades, which keep their order in grey; lines divide stages."""
    names = space.block_names() + ["size"] * bool(space.image_sizes)
    look = {"cmap": "cividis", "vmin": 0, "vmax": 1, "aspect": "auto", "interpolation": "nearest"}
    drawn = axis.imshow(opened.numpy(), extent=(0, opened.shape[1], len(names), 0), **look)
    axis.set_yticks(np.arange(len(names)) + 0.5, names, fontsize=8 if len(names) <= figures.CROWDED else 7)
    axis.set_xticks([])
    axis.tick_params(length=0)
    ends = [end for end in figures.stage_ends(space) if end < len(names)]
    axis.hlines(ends, 0, opened.shape[1], color="white", linewidth=1.5)
    axis.grid(False)
    return drawn


def opening_told(madds: Sequence[float], budget: float) -> str:
    """Where the expected cost went, in a sentence."""
    moved = "open" if madds[-1] > madds[0] else "close"
    return f"The gates {moved}: from {madds[0]:.3g}M to {madds[-1]:.3g}M, where {budget:g}M are asked for"
