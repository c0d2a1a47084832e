"""Superclass dropout: which logits count for which sample, and which samples count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eas.recipes import Dropout


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
    recipe: Dropout

    def __call__(self, labels: Tensor, generator: torch.Generator, progress: float) -> tuple[Tensor, Tensor]:
        """Labels int64 [n] to (class mask bool [n, classes], weight float [n]); a label counts where its weight is 1.

        `generator` is on the labels' device; `progress`, in [0, 1), is the share of the training that is over.
        """
        own = self.parent[labels]  # [n]
        count = int(self.parent.max()) + 1
        superclasses = torch.arange(count, device=labels.device)
        is_own = own[:, None] == superclasses
        weight = torch.ones(len(labels), device=labels.device)

        def draw(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, device=labels.device) >= self.recipe.rate

        match self.recipe.variant if progress >= self.recipe.begin else "none":
            case "none":
                counts = torch.ones_like(is_own)
            case "batch":
                # The first sample's superclass stays, so that a step is never empty.
                counts = (draw(count) | is_own[0]).expand_as(is_own)
                weight = (counts & is_own).any(1).float()
            case "own":
                counts = draw(1) | is_own
            case "sample":
                counts = draw(len(labels), count) | is_own
        return counts[:, self.parent], weight


@dataclass(frozen=True)
class FixedClasses:
    """Always the same classes: how an arch is tuned for them alone. `class_mask` is bool [classes]."""

    class_mask: Tensor

    def __call__(self, labels: Tensor, generator: torch.Generator, progress: float) -> tuple[Tensor, Tensor]:
        """Like SuperclassDropout; samples of other classes carry no loss."""
        return self.class_mask.expand(len(labels), -1), self.class_mask[labels].float()


def mask_logits(logits: Tensor, class_mask: Tensor) -> Tensor:
    """Logits [..., classes] with minus infinity outside the mask, so that no softmax or argmax sees these classes."""
    return logits.masked_fill(~class_mask, float("-inf"))


def soft_targets(labels: Tensor, class_mask: Tensor, smoothing: float) -> Tensor:
    """Targets [n, classes] that sum to 1 over the mask's classes: one-hot, smoothed over those classes alone."""
    uniform = class_mask / class_mask.sum(-1, keepdim=True)
    return uniform * smoothing + torch.nn.functional.one_hot(labels, class_mask.shape[-1]) * (1 - smoothing)


def masked_cross_entropy(logits: Tensor, targets: Tensor, class_mask: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy over the mask's classes, averaged over the samples that count.

    Logits [..., n, classes], targets likewise (0 outside the mask), class_mask [n, classes], weight [n]; [...] out.
    """
    log_probability = mask_logits(logits, class_mask).log_softmax(-1)
    # -inf * 0 is NaN: the classes that do not count are taken out before the product.
    losses = -(targets * log_probability.masked_fill(~class_mask, 0)).sum(-1)
    return (losses * weight).sum(-1) / weight.sum().clamp_min(1)
