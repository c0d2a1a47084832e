"""One training on several processes, one for each GPU: torchrun starts them, torch.distributed adds up. Source: ours.

All ranks draw the same archs, classes and order of images; each has its part of every batch. Norms see that part alone.
Gradients are added up once a step, after all subnets (not by DistributedDataParallel, which expects every parameter in
every step), so that all ranks keep the same weights; the first one writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from eas import devices


@dataclass(frozen=True)
class Ranks:
    """This process among those of a training."""

    index: int = 0
    count: int = 1

    @property
    def writes(self) -> bool:
        """Whether this one writes files, and speaks."""
        return self.index == 0

    def part(self, total: int) -> slice:
        """The places in a batch of `total` images that are this one's.

        ValueError, in one line, where they cannot be divided equally.
        """
        if total % self.count:
            raise ValueError(f"a batch of {total} images cannot be divided among {self.count} processes")
        return self.share(total)

    def share(self, total: int) -> slice:
        """The places among `total` images that are this one's; shares differ by one image at most."""
        return slice(total * self.index // self.count, total * (self.index + 1) // self.count)

    def begin(self, module: nn.Module) -> None:
        """Have all begin with the weights of the first."""
        if self.count > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    def add_up(self, parameters: Iterable[nn.Parameter], loss: Tensor, weight: Tensor) -> Tensor:
        """Make gradients and loss, means over this one's part, those of the whole batch; the loss.

        `weight` [n] of all images of the batch; see eas.dropout.masked_cross_entropy.
        """
        if self.count == 1:
            return loss
        share = weight[self.part(len(weight))].sum().clamp_min(1) / weight.sum().clamp_min(1)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        whole = torch.cat([*(each.flatten() for each in gradients), loss.to(gradients[0])[None]]) * share
        self.total(whole)
        for gradient, summed in zip(gradients, whole[:-1].split([each.numel() for each in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))
        return whole[-1]

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance [channels] of all images, of which this one has `x` [n, channels, ...].

        Counts, sums and sums of squares are added up, in double precision.
        """
        places = x.double().transpose(0, 1).flatten(1)  # [channels, n * places]
        sums = places.sum(1), places.square().sum(1), places.new_tensor([places.shape[1]])
        total, squares, count = self.total(torch.cat(sums)).tensor_split([x.shape[1], 2 * x.shape[1]])
        mean = total / count
        return mean.float(), (squares / count - mean.square()).clamp_min(0).float()

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of all ranks' tensors."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            dist.barrier()


ALONE = Ranks()


def join() -> Ranks:
    """The ranks that torchrun started this process among; ALONE where it did not."""
    if "WORLD_SIZE" not in os.environ:
        return ALONE
    index, count = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    if torch.cuda.is_available() and devices.device().type == "cuda":
        os.environ["EAS_DEVICE"] = f"cuda:{os.environ['LOCAL_RANK']}"  # where everything of this process runs
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if devices.device().type == "cuda" else "gloo"
    # All wait while the first one reads images: many take longer than the default ten minutes.
    dist.init_process_group(backend, timeout=timedelta(hours=6), rank=index, world_size=count)
    return Ranks(index, count)
