"""The generator in closed form: an arch's accuracy as a sum of what its choices add. Source: ours.

A decoder reads a score for every choice and finds the arch with the highest sum that a budget allows. So if accuracy is
such a sum, which it nearly is, the scores are a ridge regression on measured archs, and there is nothing to train.
What a choice adds for one superclass beyond what it adds for all is fitted as well, and shrunk as far as other archs on
other images ask for: a superclass has few images, and what looks like its own effect is mostly their noise.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from eas.generator import ArchGenerator
from eas.spaces import ChoiceSpace

PENALTIES = [float(each) for each in 10 ** torch.linspace(-1, 5, 13)]  # the last one leaves next to nothing
FOLDS = 5


class AdditiveGenerator(ArchGenerator):
    """Scores of choices: those for all classes, plus the mean of those of the set's classes; any budget alike."""

    def __init__(self, space: ChoiceSpace, classes: int, budget_range: tuple[float, float] = (0.0, 0.0)):
        super().__init__(space)
        self.register_buffer("budget_range", torch.tensor(budget_range, dtype=torch.float64))
        self.register_buffer("effects", torch.zeros(sum(self.outputs)))
        self.register_buffer("of_class", torch.zeros(classes, sum(self.outputs)))

    def forward(self, class_masks: Tensor, budgets: Tensor) -> tuple[Tensor, ...]:
        """As Generator.forward; in points of top-1."""
        masks = class_masks.to(self.of_class)
        return self.split(self.effects + masks @ self.of_class / masks.sum(-1, keepdim=True))


def fit_additive(
    space: ChoiceSpace,
    archs: Tensor,
    correct: Tensor,
    labels: Tensor,
    parent: Tensor,
    *,
    budget_range: tuple[float, float],
    seed: int,
) -> tuple[AdditiveGenerator, dict[str, float]]:
    """The generator of measured archs, whose costs spread over `budget_range`, and what it explains.

    `archs` int64 [n, decisions]; `correct` bool [n, images], whether an image of class `labels` [images] is told from
    those of its superclass (`parent` [classes]).

    Both penalties are those of the least error on archs and on images that were not fitted on. `r2_additive` and
    `r2_additive_classes` say how much is explained there: of the differences between archs, and of what superclasses
    have of their own.
    """
    superclass, order = parent[labels], torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[superclass[order].argsort(stable=True)]  # every superclass in halves
    member = torch.nn.functional.one_hot(parent)[labels].double()
    x, fold = space.features(*space.gates(archs)).double(), torch.arange(len(archs)) % min(FOLDS, len(archs))
    halves = [accuracy_parts(correct[:, rows], member[rows]) for rows in (order[::2], order[1::2])]
    chosen, explained = [], []
    for part in (0, 1):
        errors = torch.zeros(len(PENALTIES), dtype=torch.double)
        total = 0.0
        for held, (fitted_on, judged_on) in product(range(int(fold.max()) + 1), (halves, halves[::-1])):
            known, truth = fold != held, judged_on[part] - judged_on[part][fold != held].mean(0)
            effects = ridge(x[known], fitted_on[part][known])
            for index, penalty in enumerate(PENALTIES):
                predicted = (x[~known] - x[known].mean(0)) @ effects(penalty)
                errors[index] += (truth[~known] - predicted).square().sum()
            total += truth[~known].square().sum().item()
        chosen.append(PENALTIES[errors.argmin()])
        explained.append(1 - errors.min().item() / total if total else 0.0)
    whole = accuracy_parts(correct, member)
    generator = AdditiveGenerator(space, len(parent), budget_range)
    generator.effects.copy_(ridge(x, whole[0])(chosen[0])[:, 0])
    generator.of_class.copy_(ridge(x, whole[1])(chosen[1]).T[parent])
    names = "r2_additive", "r2_additive_classes", "penalty", "penalty_classes"
    return generator, dict(zip(names, explained + chosen, strict=True))


def accuracy_parts(correct: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Top-1 in percent: mean over superclasses [n, 1], and how each superclass's differs from it [n, superclasses].

    `member` is 1 where an image is of a superclass, else 0. One without images does not count, and differs by nothing.
    """
    accuracy = 100 * correct.double() @ member / member.sum(0)  # nan of those without
    mean = accuracy.nanmean(1, keepdim=True)
    return mean, (accuracy - mean).nan_to_num()


def ridge(x: Tensor, y: Tensor) -> Callable[[float], Tensor]:
    """A function of the penalty: the coefficients [features, columns] of y [n, columns] on x [n, features], centred."""
    x, y = x - x.mean(0), y - y.mean(0)
    values, vectors = torch.linalg.eigh(x.T @ x)
    turned = vectors.T @ (x.T @ y)
    return lambda penalty: vectors @ (turned / (values[:, None] + penalty))
