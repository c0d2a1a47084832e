"""The architecture generator: scenarios to archs in one batched forward pass, decoded under a hard budget."""

from __future__ import annotations

from collections.abc import Callable

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

PRICES = 16  # candidates a round
PIECE = 1024  # scenarios decoded at once: memory is bounded, and stays in the processor's cache


def decode(space: SearchSpace, depth: Tensor, width: Tensor, budgets: Tensor, classes_kept: Tensor) -> Tensor:
    """The archs with (nearly) the highest total score within the budgets, int64 [scenarios, decisions]; ours.

    Choices are priced: for a price per multiply-add, the best depth and widths follow exactly, stage by stage. Two
    rounds of candidate prices, all at once, find the lowest price that the budget allows; `fill` spends what is left.
    Scores as Generator.forward returns them; the budgets must be possible (SearchSpace.check_scenarios).
    """
    cost = (space.block_madds / space.block_madds.double().mean()).to(width)
    room = budgets - space.fixed_madds(classes_kept)
    # A price above the largest score difference over the smallest cost difference makes every choice the cheapest.
    steps = cost.sort(1).values.diff(dim=1)
    low = torch.zeros(len(room), dtype=width.dtype)
    high = (width.amax((1, 2)) - width.amin((1, 2)) + depth.amax((1, 2)) - depth.amin((1, 2))) * 2
    high = high / steps[steps > 0].min() + 1 if (steps > 0).any() else high + 1
    best = space.smallest.expand(len(room), -1)
    for powers in (torch.linspace(-8, 0, PRICES), None):
        if powers is None:
            prices = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, PRICES)
        else:
            prices = high[:, None] * 10**powers
            prices[:, 0] = 0
        archs, used = priced(space, depth, width, cost, prices)
        feasible = used <= room[:, None]
        first = feasible.int().argmax(1)  # the cost falls as the price rises
        rows = torch.arange(len(room))
        found = feasible.any(1)
        best = torch.where(found[:, None], archs[rows, first], best)
        high = torch.where(found, prices[rows, first], high)
        low = prices[rows, (first - 1).clamp_min(0)]
    return fill(space, best, width, budgets, classes_kept)


def priced(space: SearchSpace, depth: Tensor, width: Tensor, cost: Tensor, prices: Tensor) -> tuple[Tensor, Tensor]:
    """The best archs [scenarios, prices, decisions] when a unit of cost takes a price from the score; their MAdds."""
    value, choice = (width[:, None] - prices[..., None, None] * cost).max(-1)  # [scenarios, prices, blocks]
    paid = space.block_madds.gather(1, choice.flatten(0, 1).T).T.view_as(value)  # whole numbers: a budget is exact
    kept = torch.tensor(space.depths) - 1
    by_depth = value.unflatten(-1, (space.stages, -1)).cumsum(-1)[..., kept] + depth[:, None]
    chosen = by_depth.argmax(-1)  # [scenarios, prices, stages]
    used = paid.unflatten(-1, (space.stages, -1)).cumsum(-1).gather(-1, kept[chosen][..., None]).sum((-2, -1))
    return torch.cat([chosen, choice], -1), used


def fill(space: SearchSpace, archs: Tensor, width: Tensor, budgets: Tensor, classes_kept: Tensor) -> Tensor:
    """Widen blocks, or add the next block of a stage, while the budget allows: each time the change scored best."""
    depth, choice = (part.clone() for part in space.canonical(archs).split([space.stages, space.blocks], -1))
    position = torch.arange(space.blocks) % space.blocks_per_stage
    stage, depths = torch.arange(space.blocks) // space.blocks_per_stage, torch.tensor(space.depths)
    addable = depths.diff(append=depths[-1:]) == 1  # only a depth whose successor is one block more can grow by one
    left = (budgets - space.madds(archs, classes_kept)).double()
    table, never = space.block_madds.double(), float("-inf")
    level = depth[:, stage]
    active = position < depths[level]
    open_ = active | ((position == depths[level]) & addable[level])
    # Of every change: what it costs and what it gains. A change moves one block, so only that block's row is renewed.
    extra = table - (table.expand(len(archs), -1, -1).gather(2, choice[..., None]) * active[..., None])
    gain = width - width.gather(-1, choice[..., None]) * active[..., None]
    gain = gain.masked_fill(~(open_[..., None] & (extra > 0)), never)
    rows = torch.arange(len(archs))  # the archs that can still change
    while True:
        best, move = gain.masked_fill(extra > left[:, None, None], never).flatten(1).max(1)
        if not (going := best > never).all():
            rows, extra, gain, left, move = (each[going] for each in (rows, extra, gain, left, move))
            if not len(rows):
                return torch.cat([depth, choice], -1)
        each, block, form = torch.arange(len(rows)), move // len(space.ratios), move % len(space.ratios)
        left = left - extra[each, block, form]
        choice[rows, block] = form
        extra[each, block] = more = table[block] - table[block, form][:, None]
        scores = width[rows, block]
        gain[each, block] = (scores - scores[each, form][:, None]).masked_fill(more <= 0, never)
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
        self.supernet, self.split, self.images, self.generator = (
            supernet.requires_grad_(False),
            split,
            images,
            generator,
        )

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
