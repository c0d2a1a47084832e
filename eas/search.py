"""The opponents: uniform scaling, random, and evolution as OFA does it and vectorised; and their accuracy model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from eas.generator import decode, fill
from eas.space import SearchSpace

Score = Callable[[Tensor], Tensor]  # archs [..., decisions] to predicted accuracy [...]


class AccuracyModel(nn.Module):
    """Predicts how much better or worse an arch is than the pool's mean, in standard deviations over archs.

    Source: OFA's accuracy predictor (a small MLP on one-hot archs); `aware` adds the scenario's classes, as the mean
    of learned embeddings [related code: one-hot superclass].
    """

    def __init__(self, space: SearchSpace, classes: int, *, aware: bool, width: int = 64, embedding: int = 16):
        super().__init__()
        self.space, self.aware = space, aware
        inputs = space.stages * len(space.depths) + space.blocks * len(space.ratios)
        self.class_embedding = nn.Parameter(torch.randn(classes, embedding) * 0.1)
        self.layers = nn.Sequential(
            nn.Linear(inputs + embedding, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, features: Tensor, kept: Tensor) -> Tensor:
        """Scores [n] from features [n, features] (see SearchSpace.features) and classes kept, bool [n, classes]."""
        kept = kept.to(self.class_embedding)
        classes = (kept @ self.class_embedding) / kept.sum(-1, keepdim=True)
        if not self.aware:
            classes = torch.zeros_like(classes)
        return self.layers(torch.cat([features, classes.expand(len(features), -1)], -1))[:, 0]

    def score(self, archs: Tensor, kept: Tensor) -> Tensor:
        """Scores of archs int64 [..., decisions] for classes kept, bool [..., classes]; the [...] broadcast."""
        shape = torch.broadcast_shapes(archs.shape[:-1], kept.shape[:-1])
        features = self.space.features(*self.space.gates(archs))
        flat = (t.expand(*shape, -1).reshape(-1, t.shape[-1]) for t in (features, kept))
        return self(*flat).view(shape)


def fit_accuracy_model(
    model: AccuracyModel, archs: Tensor, kept: Tensor, accuracy: Tensor, *, steps: int, seed: int
) -> float:
    """Fit on measured archs [n, decisions], scenarios bool [s, classes], accuracy [n, s]; returns the held-out R^2.

    A tenth of the archs is held out. Each scenario's mean accuracy is taken out first: it says nothing about archs and
    would drown what does.
    """
    rng = torch.Generator().manual_seed(seed)
    target = accuracy - accuracy.mean(0)
    target = target / target.std()
    order = torch.randperm(len(archs), generator=rng)
    held, fitted = order.split([max(1, len(archs) // 10), len(archs) - max(1, len(archs) // 10)])
    features = model.space.features(*model.space.gates(archs))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=max(steps, 2))
    for _ in range(steps):
        rows = fitted[torch.randint(len(fitted), (512,), generator=rng)]
        columns = torch.randint(len(kept), (512,), generator=rng)
        loss = (model(features[rows], kept[columns]) - target[rows, columns]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        predicted = model.score(archs[held, None], kept)
    return float(1 - (predicted - target[held]).square().mean() / target[held].square().mean())


# -------------------------------------------------------------------- opponents


def uniform(space: SearchSpace, budgets: Tensor, classes_kept: Tensor) -> Tensor:
    """Uniform scaling: the costliest fitting arch with one depth and one ratio for all, then filled evenly."""
    depth, ratio = (torch.arange(len(options)) for options in (space.depths, space.ratios))
    grid = torch.cartesian_prod(depth, ratio)
    family = torch.cat([grid[:, :1].expand(-1, space.stages), grid[:, 1:].expand(-1, space.blocks)], 1)
    family = space.canonical(family)
    cost = space.madds(family[None], classes_kept[:, None])
    best = cost.masked_fill(cost > budgets[:, None], -1).argmax(1)
    even = torch.zeros(len(budgets), space.blocks, len(space.ratios))
    return fill(space, family[best], even, budgets, classes_kept)


def random_archs(space: SearchSpace, budgets: Tensor, classes_kept: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """`count` random archs that use each budget well, int64 [scenarios, count, decisions]: random scores, decoded."""
    rows = len(budgets) * count
    depth = torch.randn(rows, space.stages, len(space.depths), generator=rng)
    width = torch.randn(rows, space.blocks, len(space.ratios), generator=rng)
    repeated = (value.repeat_interleave(count) for value in (budgets, classes_kept))
    return decode(space, depth, width, *repeated).view(len(budgets), count, -1)


PARENTS, MUTATION = 0.25, 0.1  # OFA's defaults: share of the population that breeds, chance to change a decision


def evolution(
    space: SearchSpace,
    model: AccuracyModel,
    kept: Tensor,
    budgets: Tensor,
    *,
    evaluations: int,
    population: int,
    seed: int,
) -> Tensor:
    """OFA's evolutionary search for all scenarios side by side; archs int64 [scenarios, decisions].

    Half of a generation mutates a parent, half crosses two; a child over budget is replaced by its parent.
    """
    rng = torch.Generator().manual_seed(seed)
    scenarios, classes = len(budgets), kept.sum(-1)
    archs = random_archs(space, budgets, classes, population, rng)
    scores = model.score(archs, kept[:, None])
    parents = max(2, int(PARENTS * population))
    for _ in range(evaluations // population - 1):
        top = scores.topk(parents, 1).indices
        archs, scores = (v.gather(1, top[..., None].expand(-1, -1, v.shape[2])) for v in (archs, scores[..., None]))
        pick = torch.randint(parents, (2, scenarios, population), generator=rng)
        first, second = (archs.gather(1, p[..., None].expand(-1, -1, space.decisions)) for p in pick)
        fresh = (torch.rand(first.shape, generator=rng) * space.choices).long()
        mutated = torch.where(torch.rand(first.shape, generator=rng) < MUTATION, fresh, first)
        crossed = torch.where(torch.rand(first.shape, generator=rng) < 0.5, first, second)
        children = torch.where(torch.arange(population)[:, None] < population // 2, mutated, crossed)
        fits = space.madds(children, classes[:, None]) <= budgets[:, None]
        children = space.canonical(torch.where(fits[..., None], children, first))
        archs = torch.cat([archs, children], 1)
        scores = torch.cat([scores[..., 0], model.score(children, kept[:, None])], 1)
    return archs.gather(1, scores.argmax(1)[:, None, None].expand(-1, 1, space.decisions))[:, 0]


def ofa_evolution(
    space: SearchSpace,
    model: AccuracyModel,
    kept: Tensor,
    budget: float,
    *,
    evaluations: int,
    population: int,
    seed: int,
) -> Tensor:
    """OFA's evolutionary search as it is run: one scenario, candidate after candidate, until each one fits.

    Source: the published EvolutionFinder (once-for-all), in this space; one generation's candidates share one call of
    the predictor. Returns an arch int64 [decisions].
    """
    rng = np.random.default_rng(seed)
    choices, classes = space.choices.numpy(), int(kept.sum())

    def until_it_fits(propose: Callable[[], np.ndarray]) -> np.ndarray:
        while True:
            arch = propose()
            if int(space.madds(torch.from_numpy(arch), classes)) <= budget:
                return arch

    def mutate() -> np.ndarray:
        parent = pool[rng.integers(parents)][1]
        return np.where(rng.random(len(choices)) < MUTATION, rng.integers(choices), parent)

    def cross() -> np.ndarray:
        first, second = (pool[i][1] for i in rng.integers(parents, size=2))
        return np.where(rng.random(len(choices)) < 0.5, first, second)

    def scored(archs: list[np.ndarray]) -> list[tuple[float, np.ndarray]]:
        return list(zip(model.score(torch.from_numpy(np.stack(archs)), kept).tolist(), archs, strict=True))

    parents = max(2, int(PARENTS * population))
    pool = scored([until_it_fits(lambda: rng.integers(choices)) for _ in range(population)])
    for _ in range(evaluations // population - 1):
        pool = sorted(pool, key=lambda item: -item[0])[:parents]
        proposals = [mutate] * (population // 2) + [cross] * (population - population // 2)
        pool += scored([until_it_fits(proposal) for proposal in proposals])
    return space.canonical(torch.from_numpy(max(pool, key=lambda item: item[0])[1]))
