"""The generator's opponents: uniform scaling, random archs, and evolution as OFA runs it and vectorised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from eas.costs import MADDS, Bound, check_bounds
from eas.decoding import Room, decode, fill
from eas.spaces import ChoiceSpace

FIRST = 1e4  # a score that no sum of others outweighs


class Predictor(Protocol):
    """What evolution asks; see predictor.AccuracyPredictor."""

    def score(self, archs: Tensor, class_masks: Tensor) -> Tensor:
        """Predicted accuracy [...] of archs [..., decisions] for class masks [..., classes]."""


def uniform(space: ChoiceSpace, budgets: Tensor, class_counts: Tensor) -> Tensor:
    """Uniform scaling: the costliest fitting arch with one depth and one form for all, then filled evenly.

    One depth or form is one index: a stage or block that has fewer takes its last. ValueError as `random_archs`.
    """
    check_bounds(space, [Bound(MADDS, budgets)], class_counts)
    grid = torch.cartesian_prod(*(torch.arange(choices) for _, choices in space.gate_shapes))
    counts = torch.tensor([decisions for decisions, _ in space.gate_shapes])
    family = space.canonical(grid.repeat_interleave(counts, 1).minimum(space.largest))
    cost = space.madds(family[None], class_counts[:, None])
    best = family[cost.masked_fill(cost > budgets[:, None], -1).argmax(1)]
    for index, one in enumerate(space.sized):
        rows = (best[:, -1] == index).nonzero()[:, 0] if space.image_sizes else torch.arange(len(best))
        even = torch.zeros(len(rows), space.blocks, space.forms)
        room = Room.under(one, [Bound(MADDS, budgets[rows])], class_counts[rows])
        best[rows, : one.decisions] = fill(one, best[rows, : one.decisions], even, room)
    return best


def random_archs(space: ChoiceSpace, budgets: Tensor, class_counts: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """`count` random archs that use each budget well, int64 [scenarios, count, decisions]: random scores, decoded.

    The size of images, where there are several, is drawn first, of those that the budget allows. ValueError where a
    budget is below the smallest arch; it says that one's cost.
    """
    check_bounds(space, [Bound(MADDS, budgets)], class_counts)
    rows = len(budgets) * count
    depth, form, *size = (torch.randn(rows, *shape, generator=rng) for shape in space.gate_shapes)
    repeated = (value.repeat_interleave(count) for value in (budgets, class_counts))
    return decode(space, depth, form, *repeated, *(FIRST * each for each in size)).view(len(budgets), count, -1)


PROPOSALS = 2000  # of OFA's search for a candidate; where one in a hundred fits, none does once in 10^8 times
PARENTS, MUTATION = 0.25, 0.1  # OFA's defaults: share of the population that breeds, chance to change a decision


def evolution(
    space: ChoiceSpace,
    predictor: Predictor,
    class_masks: Tensor,
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
    scenarios, classes = len(budgets), class_masks.sum(-1)
    archs = random_archs(space, budgets, classes, population, rng)
    scores = predictor.score(archs, class_masks[:, None])
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
        scores = torch.cat([scores[..., 0], predictor.score(children, class_masks[:, None])], 1)
    return archs.gather(1, scores.argmax(1)[:, None, None].expand(-1, 1, space.decisions))[:, 0]


def ofa_evolution(
    space: ChoiceSpace,
    predictor: Predictor,
    class_mask: Tensor,
    budget: float,
    *,
    evaluations: int,
    population: int,
    seed: int,
) -> Tensor:
    """OFA's evolutionary search as it is run: one scenario, candidate after candidate, until each one fits.

    Source: the published EvolutionFinder (once-for-all), in this space. It proposes as that does, but costs and scores
    one generation's candidates together, and draws new parents for one that does not fit. Where PROPOSALS for each are
    not enough, random archs that fit take the places that are left: near the smallest arch the published search goes on
    for hours. Returns an arch int64 [decisions]; ValueError as `random_archs`.
    """
    rng = np.random.default_rng(seed)
    choices, classes = space.choices.numpy(), int(class_mask.sum())
    asked = torch.tensor([budget], dtype=torch.float64), torch.tensor([classes])
    check_bounds(space, [Bound(MADDS, asked[0])], asked[1])

    def that_fit(propose: Callable[[], np.ndarray], count: int) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        for _ in range(PROPOSALS):
            archs = np.stack([propose() for _ in range(count - len(found))])
            found += [*archs[(space.madds(torch.from_numpy(archs), classes) <= budget).numpy()]]
            if len(found) == count:
                return found
        draws = torch.Generator().manual_seed(int(rng.integers(2**31)))
        return found + [*random_archs(space, *asked, count - len(found), draws)[0].numpy()]

    def mutate() -> np.ndarray:
        parent = pool[rng.integers(parents)][1]
        return np.where(rng.random(len(choices)) < MUTATION, rng.integers(choices), parent)

    def cross() -> np.ndarray:
        first, second = (pool[i][1] for i in rng.integers(parents, size=2))
        return np.where(rng.random(len(choices)) < 0.5, first, second)

    def scored(archs: list[np.ndarray]) -> list[tuple[float, np.ndarray]]:
        return list(zip(predictor.score(torch.from_numpy(np.stack(archs)), class_mask).tolist(), archs, strict=True))

    parents = max(2, int(PARENTS * population))
    pool = scored(that_fit(lambda: rng.integers(choices), population))
    for _ in range(evaluations // population - 1):
        pool = sorted(pool, key=lambda item: -item[0])[:parents]
        half = population // 2
        pool += scored(that_fit(mutate, half) + that_fit(cross, population - half))
    return space.canonical(torch.from_numpy(max(pool, key=lambda item: item[0])[1]))
