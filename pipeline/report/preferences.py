"""Does the best arch depend on the superclass? The split-half test, on measured archs, and the swap test."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from pipeline.report.stats import over_seeds


def half_accuracy(correct: Tensor, labels: Tensor, parent: Tensor, repeats: int = 20, seed: int = 0) -> Tensor:
    """Superclass top-1 in percent on both halves of the images, float64 [repeats, 2, archs, superclasses].

    `correct` bool [archs, images]: right among the image's own superclass; `labels` int64 [images]; `parent` int64
    [classes]. Every repeat splits the images anew, class by class.

    Raises:
        ValueError: a superclass has fewer than two images.
    """
    member = torch.nn.functional.one_hot(parent[labels])  # [images, superclasses]
    if member.sum(0).min() < 2:
        raise ValueError("every superclass needs at least two images to be split in halves")
    rng = torch.Generator().manual_seed(seed)
    keys = labels + torch.rand(repeats, len(labels), dtype=torch.float64, generator=rng)
    second = torch.zeros(keys.shape, dtype=torch.bool)
    second.scatter_(1, keys.argsort(-1)[:, 1::2], True)  # every other one of the images sorted by class
    halves = torch.stack([~second, second], 1)[..., None] * member  # [repeats, 2, images, superclasses]
    right = torch.einsum("ai,rhis->rhas", correct.float(), halves.float()).double()
    return right / halves.sum(2)[:, :, None] * 100


def effects(accuracy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What makes up an accuracy [..., archs, superclasses] beside its mean: arch, superclass, and their interaction.

    [..., archs, 1], [..., 1, superclasses] and [..., archs, superclasses], each summing to zero along its dimensions.
    """
    mean = accuracy.mean((-2, -1), keepdim=True)
    arch, superclass = accuracy.mean(-1, keepdim=True) - mean, accuracy.mean(-2, keepdim=True) - mean
    return arch, superclass, accuracy - mean - arch - superclass


def split_half(correct: Tensor, labels: Tensor, parent: Tensor, repeats: int = 20, seed: int = 0) -> pd.DataFrame:
    """Does what one half of the images says about archs hold on the other half? One row a repeat; see `half_accuracy`.

    - arch_correlation, interaction_correlation: of the effect's estimates on the two halves; 0 is noise
    - arch_variance, interaction_variance: what the two estimates share (their covariance, in squared points): noise
      adds nothing on average, and it may come out negative
    - gain: points of top-1 won on one half by the best arch of every superclass over the best one arch for all,
      both chosen on the other half; mean of both directions. The choice is made on few, noisy images: who knew the
      best archs would gain more, so it is a lower bound (`interaction_sd_upper` has the other side)

    An arch that helps hard superclasses more than easy ones counts as interaction, although one order of archs suits
    all: the gain tells the two apart. Repeats share their images: take the interval over seeds, not over repeats.
    """
    accuracy = half_accuracy(correct, labels, parent, repeats, seed)
    arch, _, interaction = effects(accuracy)
    columns = {}
    for name, effect in (("arch", arch), ("interaction", interaction)):
        first, second = effect.flatten(-2).unbind(1)
        shared = (first * second).mean(-1)  # effects have mean zero
        columns[f"{name}_correlation"] = shared / (first.square().mean(-1) * second.square().mean(-1)).sqrt()
        columns[f"{name}_variance"] = shared
    first, second = accuracy.unbind(1)
    columns["gain"] = (gain_of_choosing(first, second) + gain_of_choosing(second, first)) / 2
    return pd.DataFrame({name: column.numpy() for name, column in columns.items()})


def gain_of_choosing(chosen_on: Tensor, judged_on: Tensor) -> Tensor:
    """Top-1 of the best arch of every superclass minus that of the best one for all, [...].

    `chosen_on` and `judged_on`: accuracy [..., archs, superclasses].
    """

    def judge(score: Tensor) -> Tensor:
        best = (score == score.amax(-2, keepdim=True)).double()  # ties, frequent on few images, share the choice
        return (judged_on * best / best.sum(-2, keepdim=True)).sum(-2).mean(-1)

    return judge(chosen_on) - judge(chosen_on.mean(-1, keepdim=True))


def interaction_sd_upper(halves: pd.DataFrame) -> pd.DataFrame:
    """Columns supernet, points: how large a superclass's own preferences for archs may still be (95 %).

    An upper bound on the standard deviation of the interaction, from the high end of its variance's interval over
    seeds. An oracle's gain is a few of these; NaN with one seed.
    """
    variance = over_seeds(halves, ["supernet"], "interaction_variance")
    return pd.DataFrame({"supernet": variance.supernet, "points": variance.high.clip(lower=0) ** 0.5})


def swap_cost(swap: pd.DataFrame) -> pd.DataFrame:
    """Columns supernet, mean, low, high: points that a superclass loses with an arch generated for another one.

    The own arch's top-1 minus the mean of the others', at the same budget; the interval is over seeds.
    """
    keys, own = ["supernet", "seed", "budget_madds", "used_for"], swap.arch_of == swap.used_for
    cost = swap[own].groupby(keys).top1.mean() - swap[~own].groupby(keys).top1.mean()
    return over_seeds(cost.rename("cost").reset_index(), ["supernet"], "cost")
