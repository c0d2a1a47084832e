"""Superclass branches: weights for any set of classes, for all its budgets, at no multiply-adds. Source: ours.

Every superclass has a branch, a tuned copy of a part of the shared weights. A set of classes is served by the mean of
its superclasses' branches, each weighted by its share of the set's classes. Such a mean is better than the shared
weights only where the branches were trained to be averaged: every step draws a set and trains the mean of its branches
on images of that set. If all sets are single superclasses, each branch serves its own superclass alone.

The branches of all superclasses are one mapping of tensors, as it is stored: '<superclass's index>.<parameter's name>'
to the tuned parameter in bfloat16. A parameter that was not tuned is the shared supernet's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from eas.data import Hierarchy, Split
from eas.data.batches import as_input, augmented
from eas.recipes import Training
from eas.spaces import Supernet
from eas.training import make_step, optimize

PARTS: dict[str, Callable[[str, Tensor], bool]] = {  # which parameters are tuned, by name and value
    "all": lambda name, parameter: True,
    "norms": lambda name, parameter: parameter.ndim == 1 or name.startswith("classifier"),
    "classifier": lambda name, parameter: name.startswith("classifier"),
}

DrawSets = Callable[[int, torch.Generator], Tensor]  # so many sets of classes at random, bool [n, classes]


def tuned_names(supernet: Supernet, part: str) -> list[str]:
    """The names of a part's parameters."""
    return [name for name, parameter in supernet.named_parameters() if PARTS[part](name, parameter)]


def require_gradients(supernet: Supernet, part: str) -> None:
    """Let gradients flow to a part of the supernet only."""
    for name, parameter in supernet.named_parameters():
        parameter.requires_grad_(PARTS[part](name, parameter))


def superclass_shares(hierarchy: Hierarchy, class_mask: Tensor) -> Tensor:
    """Which share of a set's classes (bool [classes]) each superclass has, float [superclasses]; they sum to 1."""
    counts = hierarchy.parent[class_mask].bincount(minlength=len(hierarchy.superclasses))
    return counts / counts.sum()


# -------------------------------------------------------------------- training


def tune_branches(
    supernet: Supernet,
    split: Split,
    hierarchy: Hierarchy,
    part: str,
    recipe: Training,
    draw_sets: DrawSets,
    *,
    seed: int,
    checkpoint: Path | None = None,
) -> dict[str, Tensor]:
    """Tune all branches, from the shared weights on, in one training of `recipe.epochs` * len(split) images.

    The supernet is afterwards what it was, and frozen. Errors and `checkpoint` as eas.training.optimize.
    """
    shared = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    require_gradients(supernet, part)
    names = tuned_names(supernet, part)
    branches = Branches(supernet, names, len(hierarchy.superclasses))
    sets = SetBatches(branches, split, hierarchy, recipe, draw_sets)
    step_function, options = make_step(supernet, recipe), {"seed": seed, "checkpoint": checkpoint, "label": "branches"}

    def step(*arguments: Tensor) -> Tensor:
        torch._foreach_zero_([parameter.grad for parameter in supernet.parameters()])
        loss = step_function(*arguments)
        branches.take_gradients()
        return loss

    optimize(branches, supernet.space, sets.steps, sets.epoch, sets.classes_that_count, recipe, step, **options)
    supernet.load_state_dict(shared)
    supernet.requires_grad_(False)
    stored = ((index, branch) for index, branch in enumerate(branches.of_superclass))
    return {
        f"{index}.{name}": tensor.detach().bfloat16()
        for index, branch in stored
        for name, tensor in zip(names, branch, strict=True)
    }


class Branches(nn.Module):
    """The branches of all superclasses while they are trained, beside the supernet that computes with their mean."""

    def __init__(self, supernet: Supernet, names: list[str], superclasses: int):
        super().__init__()
        # Not a part of this module: the mean is no weight of its own.
        self.mean = [parameter for name, parameter in supernet.named_parameters() if name in set(names)]
        copies = ([nn.Parameter(parameter.detach().clone()) for parameter in self.mean] for _ in range(superclasses))
        self.of_superclass = nn.ModuleList(nn.ParameterList(branch) for branch in copies)

    @torch.no_grad()
    def compose(self, shares: Tensor) -> None:
        """Put the mean of the branches, weighted by `shares` [superclasses], into the supernet."""
        self.shares = {index: share for index, share in enumerate(shares.tolist()) if share}
        torch._foreach_zero_(self.mean)
        for index, share in self.shares.items():
            torch._foreach_add_(self.mean, list(self.of_superclass[index]), alpha=share)

    def take_gradients(self) -> None:
        """Give the branches that the mean was composed of their share of its gradient; the others take no step."""
        for index, branch in enumerate(self.of_superclass):
            for parameter, mean in zip(branch, self.mean, strict=True):
                parameter.grad = mean.grad * self.shares[index] if index in self.shares else None


class SetBatches:
    """Batches of images of random sets of classes; before each one its set's branches are composed."""

    def __init__(self, branches: Branches, split: Split, hierarchy: Hierarchy, recipe: Training, draw_sets: DrawSets):
        self.branches, self.split, self.hierarchy = branches, split, hierarchy
        self.recipe, self.draw_sets = recipe, draw_sets
        self.steps = max(1, len(split) // recipe.batch_size)

    def epoch(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """As many images as the split has: float images [n, channels, side, side] in [0, 1], and labels.

        Of a set's images those come first that the epoch has shown least often, so that it shows nearly all.
        """
        device, (images, labels) = self.split.labels.device, (self.split.images, self.split.labels)
        shown = torch.zeros(len(labels), device=device)
        rng = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator, device=device)))
        for class_mask in self.draw_sets(self.steps, rng):
            self.branches.compose(superclass_shares(self.hierarchy, class_mask))
            self.class_mask = class_mask.to(device)
            rows = self.class_mask[labels].nonzero()[:, 0]
            order = shown[rows] + torch.rand(len(rows), generator=generator, device=device)
            rows = rows[order.argsort()[: self.recipe.batch_size]]
            shown[rows] += 1
            yield as_input(augmented(images[rows], self.recipe.augment, generator)), labels[rows]

    def classes_that_count(self, labels: Tensor, generator: torch.Generator, progress: float) -> tuple[Tensor, Tensor]:
        """Like SuperclassDropout: those of the batch's set."""
        return self.class_mask.expand(len(labels), -1), torch.ones(len(labels), device=labels.device)


# -------------------------------------------------------------------- reading them


def load_branches(supernet: Supernet, branches: Path | dict[str, Tensor], shares: Tensor) -> Supernet:
    """Put the mean of the branches, weighted by `shares` [superclasses] (see superclass_shares), into `supernet`.

    In place; what was not tuned must be the shared weights already.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it lacks the branch of a superclass, or has those of another network; nothing is changed then.
    """
    mean: dict[str, Tensor] = {}
    for index in shares.nonzero()[:, 0].tolist():
        for name, tensor in read_branch(supernet, branches, index).items():
            mean[name] = mean.get(name, 0) + shares[index] * tensor.float()
    supernet.load_state_dict(mean, strict=False)
    return supernet


def read_branch(supernet: Supernet, branches: Path | dict[str, Tensor], superclass: int) -> dict[str, Tensor]:
    """The branch of one superclass, by the parameters' names; errors as load_branches."""
    prefix, where = f"{superclass}.", branches if isinstance(branches, Path) else "the branches"
    names, stored = read_tensors(branches, prefix) if isinstance(branches, Path) else (branches, branches)
    state = {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}
    tuned = {name.partition(".")[2] for name in names}  # of any superclass: all have the same part tuned
    if set(state) != tuned or not any(tuned == set(tuned_names(supernet, part)) for part in PARTS):
        raise ValueError(f"{where}: not the branch of superclass {superclass}: it lacks parameters, or has others")
    own = supernet.state_dict()
    if wrong := [n for n, tensor in state.items() if tensor.shape != own[n].shape or not tensor.is_floating_point()]:
        raise ValueError(f"{where}: branch {superclass} is of another network: {wrong[0]} has another shape or type")
    if wrong := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{where}: branch {superclass} is damaged: {wrong[0]} holds no finite numbers")
    return state


def read_tensors(path: Path, prefix: str) -> tuple[list[str], dict[str, Tensor]]:
    """The names of all tensors of a file, and those tensors whose names begin with the prefix."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: no branches were trained, or they were not kept")
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            return names, {name: file.get_tensor(name) for name in names if name.startswith(prefix)}
    except SafetensorError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged, or no safetensors file: {reason}") from None
