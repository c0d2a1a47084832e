"""The architecture generator: scenarios to archs in one batched forward pass, decoded under a hard budget."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from eas import config
from eas.data import Split, as_input
from eas.dropout import masked_cross_entropy, soft_targets
from eas.layers import Statistics
from eas.space import SearchSpace
from eas.supernet import Supernet

Probabilities = tuple[Tensor, Tensor]  # depth [scenarios, stages, depths], width [scenarios, blocks, ratios]


class Generator(nn.Module):
    """Reads (set of classes, budget), emits a score for every choice of every decision.

    The classes' embeddings are averaged, so any set of classes is a valid input; the budget's embedding is linearly
    interpolated between learned anchors [related code]. One hidden layer emits all decisions at once (ours; the
    related code runs an LSTM from decision to decision): the decoding below makes them fit together.
    `blind` hides the classes: the opponent that knows the budget only.
    """

    def __init__(
        self,
        space: SearchSpace,
        classes: int,
        anchors: Tensor,
        *,
        width: int = 64,
        embedding: int = 32,
        blind: bool = False,
    ):
        super().__init__()
        self.space, self.blind = space, blind
        self.register_buffer("anchors", anchors.double().sort().values)
        self.class_embedding = nn.Parameter(torch.randn(classes, embedding) * 0.5)
        self.budget_embedding = nn.Parameter(torch.randn(len(anchors), embedding) * 0.5)
        self.depth_shape = (space.stages, len(space.depths))
        self.width_shape = (space.blocks, len(space.ratios))
        self.outputs = [space.stages * len(space.depths), space.blocks * len(space.ratios)]
        self.layers = nn.Sequential(nn.Linear(2 * embedding, width), nn.ReLU(), nn.Linear(width, sum(self.outputs)))

    def forward(self, kept: Tensor, budgets: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [scenarios, stages, depths] and [scenarios, blocks, ratios].

        `kept` bool [scenarios, classes], `budgets` [scenarios] in multiply-adds.
        """
        kept = kept.to(self.class_embedding)
        classes = (kept @ self.class_embedding) / kept.sum(-1, keepdim=True)
        if self.blind:
            classes = torch.zeros_like(classes)
        scores = self.layers(torch.cat([classes, self.embed_budget(budgets)], -1))
        depth, width = scores.split(self.outputs, -1)
        return depth.unflatten(-1, self.depth_shape), width.unflatten(-1, self.width_shape)

    def embed_budget(self, budgets: Tensor) -> Tensor:
        """Embeddings [scenarios, embedding] by linear interpolation; beyond the anchors the nearest one."""
        position = budgets.double().clamp(self.anchors[0], self.anchors[-1])
        right = torch.searchsorted(self.anchors, position).clamp(1, len(self.anchors) - 1)
        low, high = self.anchors[right - 1], self.anchors[right]
        share = ((position - low) / (high - low).clamp_min(1)).to(self.budget_embedding)[:, None]
        return torch.lerp(self.budget_embedding[right - 1], self.budget_embedding[right], share)

    @torch.inference_mode()
    def generate(self, kept: Tensor, budgets: Tensor) -> Tensor:
        """Archs int64 [scenarios, decisions], every one within its budget.

        Raises:
            ValueError: see SearchSpace.check_scenarios.
        """
        self.space.check_scenarios(kept, budgets)
        archs = torch.empty(len(kept), self.space.decisions, dtype=torch.long)
        for out, k, b in zip(*(each.split(PIECE) for each in (archs, kept, budgets)), strict=True):
            out[:] = decode(self.space, *self(k, b), b, k.sum(-1))
        return archs


# -------------------------------------------------------------------- decoding

# Candidate prices of a round, as shares of the highest: first over all magnitudes, then between two of these. Of what
# is left of them, QUARTERS picks the three that leave a quarter to be searched.
WIDE, NARROW = (10 ** torch.linspace(-8, 0, 16)).numpy(), torch.linspace(0, 1, 16).numpy()
WIDE[0] = 0
QUARTERS = np.arange(1, 4)
PIECE = 1024  # scenarios decoded at once: memory is bounded, and stays in the processor's cache
NEVER = np.float32("-inf")


def decode(space: SearchSpace, depth: Tensor, width: Tensor, budgets: Tensor, classes_kept: Tensor) -> Tensor:
    """The archs with (nearly) the highest total score within the budgets, int64 [scenarios, decisions]; ours.

    Choices are priced: for a price per multiply-add, the best depth and widths follow exactly, stage by stage. Two
    rounds of candidate prices find the lowest price that the budget allows; `fill` spends what is left. The cost falls
    as the price rises, so that two steps, of three candidates each, find the first of 16 that the budget allows.
    Scores as Generator.forward returns them; the budgets must be possible (SearchSpace.check_scenarios).

    Many small steps: in numpy, whose calls take a third of the time of torch's.
    """
    room = (budgets.double() - space.fixed_madds(classes_kept)).numpy()
    cost = (space.block_madds / space.block_madds.double().mean()).to(width)
    best_at = pricing(space, depth, width, cost)
    # A price above the largest score difference over the smallest cost difference makes every choice the cheapest.
    steps = np.diff(np.sort(cost.numpy(), 1), axis=1)
    high = 2 * sum(np.ptp(each.numpy(), (1, 2)) for each in (width, depth))
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
    return fill(space, torch.from_numpy(best), width, budgets, classes_kept)


def pricing(
    space: SearchSpace, depth: Tensor, width: Tensor, cost: Tensor
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function of prices [scenarios, prices], which a unit of `cost` takes from the score.

    It returns the best archs, int64 [scenarios, prices, decisions], not canonical, and the MAdds of their blocks.
    """
    table, kept = space.block_madds.numpy(), np.array(space.depths) - 1
    scores, by_depth, costs = width.numpy()[:, None], depth.numpy()[:, None], cost.numpy()
    block, stages = np.arange(space.blocks) * table.shape[1], (space.stages, space.blocks_per_stage)

    def best_at(prices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        priced = torch.from_numpy(scores - prices[..., None, None] * costs)
        value, choice = (each.numpy() for each in priced.max(-1))  # [scenarios, prices, blocks]
        shape = *prices.shape, *stages
        chosen = (running_sum(value.reshape(shape)).take(kept, -1) + by_depth).argmax(-1)
        paid = running_sum(table.take(choice + block).reshape(shape))  # whole numbers: a budget is exact
        row = np.arange(chosen.size).reshape(chosen.shape) * space.blocks_per_stage
        return np.concatenate([chosen, choice], -1), paid.take(row + kept[chosen]).sum(-1)

    return best_at


def running_sum(x: np.ndarray) -> np.ndarray:
    """np.cumsum along the last axis, in place; where that is short, in a fraction of the time."""
    for i in range(1, x.shape[-1]):
        x[..., i] += x[..., i - 1]
    return x


def fill(space: SearchSpace, archs: Tensor, width: Tensor, budgets: Tensor, classes_kept: Tensor) -> Tensor:
    """Widen blocks, or add the next block of a stage, while the budget allows: each time the change scored best."""
    depth, choice = (part.numpy().copy() for part in archs.split([space.stages, space.blocks], -1))
    width = width.numpy()
    depths, table = np.array(space.depths), space.block_madds.numpy().astype(float)
    blocks, ratios = np.arange(space.blocks), len(space.ratios)
    stage, position = np.divmod(blocks, space.blocks_per_stage)
    addable = np.diff(depths, append=depths[-1:]) == 1  # only a depth whose successor is one block more can grow by one
    level = depth[:, stage]
    active = position < depths[level]
    choice *= active  # the canonical form
    flat = choice + blocks * ratios
    paid = table.take(flat) * active
    left = (budgets.double() - space.fixed_madds(classes_kept)).numpy() - paid.sum(1)
    # Of every change: what it costs and what it gains. A change moves one block, so only that block's row is renewed.
    extra = table - paid[..., None]
    scored = width.take(flat + np.arange(len(archs))[:, None] * table.size) * active
    changes = active | ((position == depths[level]) & addable[level])
    gain = np.where(changes[..., None] & (extra > 0), width - scored[..., None], NEVER)
    each = rows = np.arange(len(archs))  # the archs that can still change
    while True:
        possible = np.where(extra <= left[:, None, None], gain, NEVER).reshape(len(rows), table.size)
        move = possible.argmax(1)
        going = possible[each, move] > NEVER
        if not going.all():
            rows, extra, gain, left, move = (part[going] for part in (rows, extra, gain, left, move))
            each = each[: len(rows)]
            if not len(rows):
                return torch.from_numpy(np.concatenate([depth, choice], 1))
        block, form = np.divmod(move, ratios)
        left = left - extra[each, block, form]
        choice[rows, block] = form
        extra[each, block] = more = table[block] - table[block, form][:, None]
        scores = width[rows, block]
        gain[each, block] = np.where(more > 0, scores - scores[each, form][:, None], NEVER)
        if (grown := ~active[rows, block]).any():
            row, block = rows[grown], block[grown]
            active[row, block] = True
            depth[row, stage[block]] += 1
            opens = addable[depth[row, stage[block]]]  # then the block behind it is the next that can be added
            gain[each[grown][opens], block[opens] + 1] = width[row[opens], block[opens] + 1]


# -------------------------------------------------------------------- training


class ModelSignal:
    """Training signal: a fitted accuracy model's prediction for a sampled arch (see search.AccuracyModel)."""

    def __init__(self, space: SearchSpace, model: nn.Module):
        self.space, self.model = space, model.eval().requires_grad_(False)

    def __call__(self, depth: Tensor, width: Tensor, kept: Tensor) -> Tensor:
        """Loss [scenarios]: minus the predicted accuracy, in standard deviations over archs."""
        return -self.model(self.space.features(depth, width), kept)


class GateSignal:
    """Training signal of the paper: cross-entropy through the frozen supernet, whose channels and blocks are gated.

    Norms run on the statistics of the gated network itself, over images of all classes; the loss counts the images of
    the scenario's classes.
    """

    def __init__(self, supernet: Supernet, split: Split, images: int, generator: torch.Generator):
        self.supernet, self.split = supernet.requires_grad_(False), split
        self.images, self.generator = images, generator

    def __call__(self, depth: Tensor, width: Tensor, kept: Tensor) -> Tensor:
        """Loss [scenarios]."""
        rows = torch.randint(len(self.split), (self.images,), generator=self.generator).to(self.split.labels.device)
        images, labels = as_input(self.split.images[rows]), self.split.labels[rows]
        gates = (gate.to(labels.device) for gate in (depth, width))
        logits = self.supernet.forward_gated(images, *gates, Statistics(groups=len(kept)))
        losses = [self.scenario_loss(row, labels, classes) for row, classes in zip(logits, kept, strict=True)]
        return torch.stack(losses).cpu()

    @staticmethod
    def scenario_loss(logits: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
        classes = classes.to(labels.device)
        kept = classes.expand(len(labels), -1)
        return masked_cross_entropy(logits, soft_targets(labels, kept, 0.0) * kept, kept, classes[labels].float())


def train_generator(
    generator: Generator,
    signal: Callable[[Tensor, Tensor, Tensor], Tensor],
    draw_scenarios: Callable[[int, torch.Generator], tuple[Tensor, Tensor]],
    recipe: config.Generator,
    *,
    steps: int,
    scenarios: int,
    seed: int,
    label: str = "generator",
) -> list[float]:
    """Train in place; returns the loss of every step, the reward below left out.

    Archs are drawn by straight-through Gumbel softmax; the distance of the expected cost from the budget, relative to
    the budget, is penalised in square [related code: lambda (MAdds - budget)^2]. The choices' entropy is rewarded, less
    and less (ours): without it they settle before their effects are known. `draw_scenarios(n, rng)` gives the classes
    kept, bool [n, classes], and the budgets in multiply-adds [n].
    """
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(generator.parameters(), recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=max(steps, 2))
    history = []
    for step in tqdm(range(steps), label, mininterval=1):
        kept, budgets = draw_scenarios(scenarios, rng)
        scores = generator(kept, budgets)
        expected = generator.space.expected_madds(*(s.softmax(-1) for s in scores), kept.sum(-1))
        off = (expected - budgets) / budgets
        loss = (signal(*(straight_through(s, rng) for s in scores), kept) + recipe.penalty * off**2).mean()
        reward = recipe.entropy * (1 - step / steps) * sum(map(entropy, scores)).mean()
        optimizer.zero_grad()
        (loss - reward).backward()
        optimizer.step()
        schedule.step()
        history.append(loss.item())
    return history


def entropy(scores: Tensor) -> Tensor:
    """Entropy of the choices [n, decisions, choices], in nats, summed over decisions; [n]."""
    return -(scores.softmax(-1) * scores.log_softmax(-1)).sum((-2, -1))


def straight_through(scores: Tensor, rng: torch.Generator) -> Tensor:
    """One-hot samples of softmax(scores) whose gradient is the relaxed sample's (Jang et al. 2017)."""
    noise = -torch.empty_like(scores).exponential_(generator=rng).log()
    relaxed = (scores + noise).softmax(-1)
    hard = F.one_hot(relaxed.argmax(-1), scores.shape[-1]).to(relaxed)
    return hard + relaxed - relaxed.detach()
