"""None of these: networks that say whether an image shows one of their classes at all. Source: ours.

The supernet knows more classes than a network is asked to tell apart, and its classifier's rows for them cost next to
nothing. With these rows a network weighs its own classes against all others: the log odds that an image shows one of
its own. Where these are low, it is a stranger. How confident a network is among its own classes says far less (see
reports/experiments.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from eas.data.batches import as_input

MOST_FITTED = 64  # images of its own classes, and of others, that tell where a network draws the line
BATCH = 64

Odds = Callable[[Tensor], tuple[Tensor, Tensor]]  # see Refusing.odds


class Refusing(nn.Module):
    """A network whose first `own` outputs are of its classes, the others of what else there is; logits of the former.

    In evaluation only: it is what is served, not what is trained.
    """

    def __init__(self, network: nn.Module, own: int):
        super().__init__()
        self.network, self.own = network, own

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, own]."""
        return self.network(images)[:, : self.own]

    def odds(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [n, own], and log odds [n] that an image shows one of these classes."""
        logits = self.network(images)
        own, others = logits[:, : self.own], logits[:, self.own :]
        return own, own.logsumexp(1) - others.logsumexp(1)


def inner(network: nn.Module) -> nn.Module:
    """The network that its weights are of."""
    return network.network if isinstance(network, Refusing) else network


@torch.inference_mode()
def log_odds(odds: Odds, images: Tensor) -> Tensor:
    """Of uint8 images [n, channels, size, size], [n]."""
    return torch.cat([odds(as_input(batch))[1] for batch in images.split(BATCH)])


def least_odds(network: Refusing, own: Tensor, others: Tensor) -> float:
    """The log odds that tell best between images of its own classes and of others, which nothing was trained on.

    Were both normally distributed, as large a share of its own would be refused as of others kept. From 64 of each
    this line is better than the best one on five hundred (see reports/experiments.md).
    """
    own, others = (log_odds(network.odds, images).double() for images in (own, others))
    of_own, of_others = (each.std(correction=0) for each in (own, others))
    share = of_own / (of_own + of_others) if of_own + of_others else 0.5
    return float(own.mean() + (others.mean() - own.mean()) * share)
