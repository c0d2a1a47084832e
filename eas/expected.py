"""What a network is expected to reach, for any set of classes at any cost, before there is one. Source: ours.

A few archs have answered images that nothing was trained on, once, with the shared weights. What they say of a set of
classes, with the argmax over these classes only, is their accuracy on it. Between their costs it is interpolated. Where
branches serve the set, a line in log odds, fitted on measured networks, leads from there to what these reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eas.dropout import mask_logits
from eas.files import reason

LEVELS = 127  # logits are kept in 8 bits: the argmax over a few classes needs no more


@dataclass(frozen=True)
class ExpectedAccuracy:
    """The answers of some archs with shared weights, and how they lead to the accuracy of other networks.

    `answers` int8 [archs, images, classes]: logits, each image's scaled to LEVELS; `labels` int64 [images]; `madds`
    float64 [archs], ascending. `branches` float64 [3], of log odds with branches: a constant, the factor of those with
    shared weights, and that of the logarithm of the number of superclasses. `errors` float64 [2]: standard deviation in
    points of what the model leaves open, with shared weights and with branches.
    """

    answers: Tensor
    labels: Tensor
    madds: Tensor
    branches: Tensor
    errors: Tensor

    def __post_init__(self) -> None:
        archs, images, _ = shape = tuple(self.answers.shape) if self.answers.ndim == 3 else (0, 0, 0)
        others = (self.labels, (images,)), (self.madds, (archs,)), (self.branches, (3,)), (self.errors, (2,))
        if not all(shape) or any(tensor.shape != due for tensor, due in others):
            raise ValueError("these are no answers of archs, or they do not belong together")
        real = self.madds, self.branches, self.errors
        kinds = self.answers.dtype, self.labels.dtype, *(tensor.dtype for tensor in real)
        if kinds != (torch.int8, torch.int64, *[torch.float64] * 3) or not all(each.isfinite().all() for each in real):
            raise ValueError("these are numbers of another type, or none")
        if not ((self.madds > 0).all() and (self.madds.diff() >= 0).all() and (self.errors >= 0).all()):
            raise ValueError("costs must be above zero and ascend, and errors not be negative")
        if not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.answers.shape[2]:
            raise ValueError("labels must be classes")

    def __call__(self, class_mask: Tensor, madds: Tensor, superclasses: int = 0) -> Tensor:
        """Expected top-1 in percent of networks for a set of classes (bool [classes]) at costs `madds` [n].

        float64 [n, 3]: the expectation, and an interval for the true accuracy (95 %). `superclasses`: of how many the
        set has classes, where their branches serve it; 0 where shared weights do.
        """
        right, count = self.right_answers(class_mask)
        odds = torch.from_numpy(np.interp(madds.double().log(), self.madds.log(), log_odds(right, count)))
        if superclasses:
            odds = (
                torch.stack([torch.ones_like(odds), odds, torch.full_like(odds, superclasses).log()], -1)
                @ self.branches
            )
        share, error = odds.sigmoid(), self.errors[int(superclasses > 0)] / 100
        margin = 1.96 * (share * (1 - share) / count + error.square()).sqrt()
        return (torch.stack([share, share - margin, share + margin], -1) * 100).clamp(0, 100)

    def right_answers(self, class_mask: Tensor) -> tuple[Tensor, int]:
        """How many images of a set of classes each arch answers right, float64 [archs], and how many there are."""
        chosen = class_mask[self.labels]
        said = mask_logits(self.answers[:, chosen].float(), class_mask).argmax(-1)
        return (said == self.labels[chosen]).sum(1).double(), int(chosen.sum())


def stored_answers(tensors: Mapping[str, Tensor], unfit: str, classes: int) -> ExpectedAccuracy:
    """Those that a file's tensors are; ValueError, beginning with `unfit`, if they are none of so many classes."""
    try:
        found = ExpectedAccuracy(**tensors)
    except (TypeError, ValueError) as err:  # other names, or other values
        raise ValueError(f"{unfit}: {reason(err)}") from None
    if found.answers.shape[2] != classes:
        raise ValueError(f"{unfit}: its answers are of {found.answers.shape[2]} classes, not {classes}")
    return found


def log_odds(right: Tensor, count: int) -> Tensor:
    """Of a share, counted on some images; finite also where all or none are right."""
    return ((right + 0.5) / (count - right + 0.5)).log()


def answers_of(logits: Tensor) -> Tensor:
    """Logits [images, classes] as `ExpectedAccuracy` keeps them, int8."""
    return (logits * (LEVELS / logits.abs().amax(1, keepdim=True).clamp_min(1e-12))).round().to(torch.int8)
