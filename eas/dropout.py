"""Superclass dropout: which logits count for which sample, and which samples count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eas.config import Dropout


@dataclass(frozen=True)
class SuperclassDropout:
    """Draws, for a batch of labels, the classes that every sample is scored against.

    Variants:
        none: all classes, always.
        batch [related code]: every superclass is kept with probability 1 - rate, one draw a batch; samples of dropped
            superclasses carry no loss. At least one superclass of the batch is kept.
        own [related code]: one draw a batch; with probability `rate` every sample is scored against the classes of its
            own superclass only, otherwise against all. The loss over all classes is that of finding the superclass plus
            that of finding the class within it; in the mean over draws the former is weighted by 1 - rate.
        sample [ours]: for every sample, each superclass but its own is dropped with probability `rate`.

    Whatever the variant, all classes count in the first part of a training, `begin` [ours: a schedule of one step].
    `parent` int64 [classes] maps a class to its superclass; superclasses may differ in size.
    """

    parent: Tensor
    setting: Dropout

    def __call__(self, labels: Tensor, generator: torch.Generator, progress: float) -> tuple[Tensor, Tensor]:
        """Labels int64 [n] to (kept bool [n, classes], weight float [n]); kept[i, labels[i]] holds where weight is 1.

        `generator` is on the labels' device; `progress`, in [0, 1), is the share of the training that is over.
        """
        own = self.parent[labels]  # [n]
        count = int(self.parent.max()) + 1
        superclasses = torch.arange(count, device=labels.device)
        is_own = own[:, None] == superclasses
        weight = torch.ones(len(labels), device=labels.device)

        def draw(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, device=labels.device) >= self.setting.rate

        match self.setting.variant if progress >= self.setting.begin else "none":
            case "none":
                kept = torch.ones_like(is_own)
            case "batch":
                # The first sample's superclass stays, so that a step is never empty.
                kept = (draw(count) | is_own[0]).expand_as(is_own)
                weight = (kept & is_own).any(1).float()
            case "own":
                kept = draw(1, 1) | is_own
            case "sample":
                kept = draw(len(labels), count) | is_own
        return kept[:, self.parent], weight


@dataclass(frozen=True)
class KeptClasses:
    """Always the same classes: how a superclass branch is tuned. `kept` is bool [classes]."""

    kept: Tensor

    def __call__(self, labels: Tensor, generator: torch.Generator, progress: float) -> tuple[Tensor, Tensor]:
        """Like SuperclassDropout; samples of other classes carry no loss."""
        return self.kept.expand(len(labels), -1), self.kept[labels].float()


def mask_logits(logits: Tensor, kept: Tensor) -> Tensor:
    """Logits [..., classes] with minus infinity where a class is not kept, so that no softmax or argmax sees it."""
    return logits.masked_fill(~kept, float("-inf"))


def soft_targets(labels: Tensor, kept: Tensor, smoothing: float) -> Tensor:
    """Targets [n, classes] that sum to 1 over the kept classes: one-hot, smoothed over those classes alone."""
    uniform = kept / kept.sum(-1, keepdim=True)
    return uniform * smoothing + torch.nn.functional.one_hot(labels, kept.shape[-1]) * (1 - smoothing)


def masked_cross_entropy(logits: Tensor, targets: Tensor, kept: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy over the kept classes, averaged over the samples that count.

    Logits [..., n, classes], targets likewise (0 outside the kept classes), kept [n, classes], weight [n]; [...] out.
    """
    log_probability = mask_logits(logits, kept).log_softmax(-1)
    # -inf * 0 is NaN: the classes that do not count are taken out before the product.
    losses = -(targets * log_probability.masked_fill(~kept, 0)).sum(-1)
    return (losses * weight).sum(-1) / weight.sum().clamp_min(1)
