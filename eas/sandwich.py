"""One training step: every subnet of the sandwich on the same images, the largest teaching the others."""

from __future__ import annotations

import torch
from torch import Tensor

from eas import devices
from eas.dropout import mask_logits, masked_cross_entropy
from eas.layers import Statistics
from eas.recipes import Training
from eas.spaces import Supernet


def sliced_step(
    supernet: Supernet,
    recipe: Training,
    images: Tensor,
    targets: Tensor,
    class_mask: Tensor,
    weight: Tensor,
    archs: Tensor,
) -> Tensor:
    """Every arch in turn, as slices: the least arithmetic. The first arch, taught by `targets`, teaches the others.

    What archs that read images of one size have in common (the stem) runs once, forward and backward: its gradient is
    the sum of theirs. `targets` and `class_mask` [n, classes], `weight` [n], `archs` [subnets, decisions].
    """
    total = torch.zeros((), device=images.device)
    of_size: dict[int, list[int]] = {}  # archs, by the size of their images; the first arch is in the first group
    for index, arch in enumerate(archs):
        of_size.setdefault(supernet.pixels(arch), []).append(index)
    for group in of_size.values():
        scaled = supernet.scaled(images, archs[group[0]])
        with mixed_precision(recipe, images.device):
            stem = supernet.run_stem(scaled, archs[group], Statistics())
        gradients = [torch.zeros_like(each) for each in stem]
        for index in group:
            part = [leaf(each) for each in supernet.stem_part(stem, archs[index])]
            with mixed_precision(recipe, images.device):
                logits = supernet.run_rest(part, archs[index], Statistics())
            total += backward(logits, targets, class_mask, weight)
            for gradient, each in zip(gradients, part, strict=True):
                if each.requires_grad:
                    gradient[:, : each.shape[1]] += each.grad
            if index == 0:
                targets = distilled(targets, logits, class_mask, recipe.distillation)
        if tuned := [pair for pair in zip(stem, gradients, strict=True) if pair[0].requires_grad]:
            torch.autograd.backward(*zip(*tuned, strict=True))
    return total / len(archs)


def leaf(x: Tensor) -> Tensor:
    """`x` as the start of a graph of its own: a slice's gradient would be of full width, in another memory layout."""
    return x.detach().contiguous(memory_format=torch.channels_last).requires_grad_(x.requires_grad)


def compute_type(recipe: Training, device: torch.device) -> torch.dtype:
    """What convolutions run in: bfloat16 where it pays, on GPUs and on processors with AMX units; else float32.

    A step of CIFAR-100's network takes 0.6 times as long with these units (measured).
    """
    pays = device.type == "cuda" or devices.has_amx()
    return torch.bfloat16 if recipe.mixed_precision and pays else torch.float32


def mixed_precision(recipe: Training, device: torch.device) -> torch.autocast:
    """Has a forward pass run in `compute_type`."""
    enabled = compute_type(recipe, device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def backward(logits: Tensor, targets: Tensor, class_mask: Tensor, weight: Tensor) -> Tensor:
    """Add one subnet's gradients; returns its loss, detached."""
    loss = masked_cross_entropy(logits, targets, class_mask, weight)
    loss.backward()
    return loss.detach()


def distilled(hard: Tensor, logits: Tensor, class_mask: Tensor, share: float) -> Tensor:
    """Targets [n, classes]: `share` of the logits' softmax over the classes that count, the rest hard."""
    return (1 - share) * hard + share * mask_logits(logits.detach(), class_mask).softmax(-1)
