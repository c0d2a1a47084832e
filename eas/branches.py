"""Superclass branches: weights for any set of classes, for all its budgets, at no multiply-adds. Source: ours.

Every superclass has a branch: how a part of its weights differs from the shared ones. A set of classes is served by the
shared weights plus the mean of its superclasses' branches, each weighted by its share of the set's classes. Such a mean
is better than the shared weights only where the branches were trained to be averaged: every step draws a set and trains
the mean of its branches on images of that set. If all sets are single superclasses, each branch serves its own
superclass alone. Branches decay to nothing, which is to the shared weights.

The branches of all superclasses are one mapping of tensors, as it is stored: '<superclass's index>.<parameter's name>'
to the differences. Those of a parameter with one dimension are bfloat16; of others they have four bits, two to a byte,
and '<...>.scale' holds a factor for each output channel.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from eas.data import Hierarchy, Split
from eas.data.batches import changed_batches
from eas.recipes import Training
from eas.spaces import Supernet
from eas.training import make_step, optimize

PARTS: dict[str, Callable[[str, Tensor], bool]] = {  # which parameters are tuned, by name and value
    "all": lambda name, parameter: True,
    "norms": lambda name, parameter: parameter.ndim == 1 or name.startswith("classifier"),
    "classifier": lambda name, parameter: name.startswith("classifier"),
}

BRANCH_IMAGES = 1000  # of a set, that its branches are calibrated on at most: statistics need no more

DrawSets = Callable[[int, torch.Generator], Tensor]  # so many sets of classes at random, bool [n, classes]
Propose = Callable[[Tensor, torch.Generator], Tensor]  # an arch for each of these sets, int64 [n, decisions]


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
    propose: Propose | None = None,
    common: float = 0.0,
    alike: bool = False,
    seed: int,
    checkpoint: Path | None = None,
) -> dict[str, Tensor]:
    """Tune all branches, from the shared weights on, in one training of at most `recipe.epochs` * len(split) images.

    A step trains the sandwich of eas.training.optimize, or the one arch that `propose` has for the step's set.

    A set's gradient is shared out among its superclasses, so that what all branches have in common hardly moves: with
    `common` it takes all of every gradient as well, at that many times the learning rate. If they shall be `alike`,
    that alone learns: a control, which shows what the shared weights gain by training on.

    The supernet is afterwards what it was, and frozen. Errors and `checkpoint` as eas.training.optimize.
    """
    shared = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    require_gradients(supernet, part)
    names = tuned_names(supernet, part)
    branches = TunedBranches(supernet, names, len(hierarchy.superclasses), common, alike)
    sets = SetBatches(branches, split, hierarchy, recipe, draw_sets, propose)
    step_function, options = make_step(supernet, recipe), {"seed": seed, "checkpoint": checkpoint, "label": "branches"}
    options["draw_archs"] = (lambda rng: sets.arch[None]) if propose else None

    def step(*arguments: Tensor) -> Tensor:
        torch._foreach_zero_([parameter.grad for parameter in supernet.parameters()])
        loss = step_function(*arguments)
        branches.take_gradients()
        return loss

    optimize(branches, supernet.space, sets.steps, sets.epoch, sets.classes_that_count, recipe, step, **options)
    supernet.requires_grad_(False).load_state_dict(shared)
    made: dict[str, Tensor] = {}
    for index in range(len(hierarchy.superclasses)):
        for name, difference in zip(names, branches.differences(index), strict=True):
            made |= stored(f"{index}.{name}", difference)
    return made


class TunedBranches(nn.Module):
    """The branches of all superclasses while they are trained, beside the supernet that computes with their mean."""

    def __init__(self, supernet: Supernet, names: list[str], superclasses: int, common: float = 0.0, alike=False):
        super().__init__()
        # Neither is a part of this module: the mean is no weight of its own, and the shared ones are not tuned.
        self.mean = [parameter for name, parameter in supernet.named_parameters() if name in set(names)]
        self.shared = [parameter.detach().clone() for parameter in self.mean]
        # A parameter that counts by a factor learns by its square.
        self.factor, self.alike = common**0.5, alike
        self.common = self.zeros() if common else None
        self.of_superclass = nn.ModuleList(self.zeros() for _ in range(superclasses))

    def zeros(self) -> nn.ParameterList:
        """No difference from the shared weights."""
        return nn.ParameterList(nn.Parameter(torch.zeros_like(each)) for each in self.shared)

    @torch.no_grad()
    def compose(self, shares: Tensor) -> None:
        """Put the mean of the branches, weighted by `shares` [superclasses], into the supernet."""
        self.shares = {index: share for index, share in enumerate(shares.tolist()) if share and not self.alike}
        torch._foreach_copy_(self.mean, self.shared)
        if self.common:
            torch._foreach_add_(self.mean, list(self.common), alpha=self.factor)
        for index, share in self.shares.items():
            torch._foreach_add_(self.mean, list(self.of_superclass[index]), alpha=share)

    def take_gradients(self) -> None:
        """Give the branches that the mean was composed of their share of its gradient; the others take no step."""
        weighted = [(self.common, self.factor)] if self.common else []
        weighted += [(branch, self.shares.get(index)) for index, branch in enumerate(self.of_superclass)]
        for branch, weight in weighted:
            for parameter, mean in zip(branch, self.mean, strict=True):
                parameter.grad = mean.grad * weight if weight else None

    @torch.no_grad()
    def differences(self, superclass: int) -> list[Tensor]:
        """How a superclass's weights differ from the shared ones."""
        own = [parameter.detach().clone() for parameter in self.of_superclass[superclass]]
        if self.common:
            torch._foreach_add_(own, list(self.common), alpha=self.factor)
        return own


class SetBatches:
    """Batches of images of random sets of classes; before each one its set's branches are composed."""

    def __init__(
        self,
        branches: TunedBranches,
        split: Split,
        hierarchy: Hierarchy,
        recipe: Training,
        draw_sets: DrawSets,
        propose: Propose | None = None,
    ):
        self.branches, self.split, self.hierarchy = branches, split, hierarchy
        self.recipe, self.draw_sets, self.propose = recipe, draw_sets, propose
        self.steps = max(1, len(split) // recipe.batch_size)

    def epoch(self, generator: torch.Generator, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """As many images as the split has: float images [n, channels, side, side] in [0, 1], and labels.

        `skip` as in eas.data.batches.batches.
        """
        device = self.split.labels.device
        rng = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator, device=device)))
        class_masks = self.draw_sets(self.steps, rng)
        archs = self.propose(class_masks, rng) if self.propose else [None] * self.steps
        rows = self.draw_rows(class_masks.to(device), generator)
        made = changed_batches(self.split, rows, self.recipe.augment, generator, skip)
        for class_mask, self.arch, batch in zip(class_masks, archs, made, strict=True):
            self.branches.compose(superclass_shares(self.hierarchy, class_mask))
            self.class_mask = class_mask.to(device)
            yield batch

    def draw_rows(self, class_masks: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Images for a batch of each set: first those that were shown least often, so that nearly all are shown."""
        labels, found = self.split.labels, []
        shown = torch.zeros(len(labels), device=labels.device)
        for class_mask in class_masks:
            rows = class_mask[labels].nonzero()[:, 0]
            order = shown[rows] + torch.rand(len(rows), generator=generator, device=labels.device)
            found.append(rows[order.argsort()[: self.recipe.batch_size]])
            shown[found[-1]] += 1
        return found

    def classes_that_count(self, labels: Tensor, generator: torch.Generator, progress: float) -> tuple[Tensor, Tensor]:
        """Like SuperclassDropout: those of the batch's set."""
        return self.class_mask.expand(len(labels), -1), torch.ones(len(labels), device=labels.device)


# -------------------------------------------------------------------- as they are stored

SCALE, HALF = ".scale", 8  # what the names of factors end with; four bits hold -8 to 7


def stored(name: str, difference: Tensor) -> dict[str, Tensor]:
    """The difference of one parameter, as it is stored: see the module."""
    if difference.ndim == 1:
        return {name: difference.bfloat16()}
    rows = difference.flatten(1)
    scale = rows.abs().amax(1).clamp_min(1e-12) / (HALF - 1)
    values = ((rows / scale[:, None]).round() + HALF).to(torch.uint8).flatten()
    values = nn.functional.pad(values, (0, len(values) % 2))
    return {name: values[::2] | values[1::2] << 4, name + SCALE: scale}


def restored(values: Tensor, scale: Tensor | None, like: Tensor) -> Tensor:
    """What `stored` stored, of the shape of `like`; ValueError where it is of another one."""
    if scale is None:
        if values.shape != like.shape or not values.is_floating_point():
            raise ValueError("has another shape or type")
        return values.float()
    expected = ((like.numel() + 1) // 2,), (len(like),)
    if (values.shape, scale.shape) != expected or values.dtype != torch.uint8 or not scale.is_floating_point():
        raise ValueError("has another shape or type")
    numbers = torch.stack([values & 15, values >> 4], 1).flatten()[: like.numel()].float() - HALF
    return numbers.view(like.shape) * scale.float().view(-1, *[1] * (like.ndim - 1))


@torch.no_grad()
def compose_branches(supernet: Supernet, branches: Mapping[str, Tensor], shares: Tensor, where="branches") -> Supernet:
    """A copy of the supernet, which has the shared weights, with those of the superclasses' mean.

    Each branch, as `stored` stores it, is weighted by its share in `shares`, float [superclasses] (see
    superclass_shares). ValueError, beginning with `where`, where one is missing, or is of another network.
    """
    composed = copy.deepcopy(supernet)
    parameters = dict(composed.named_parameters())
    for index in shares.nonzero()[:, 0].tolist():
        for name, difference in read_branch(supernet, branches, index, where).items():
            parameters[name].add_(difference.to(parameters[name].device), alpha=shares[index].item())
    return composed


def read_branch(supernet: Supernet, made: Mapping[str, Tensor], superclass: int, where="branches") -> dict[str, Tensor]:
    """The differences of one superclass, by the parameters' names; ValueError as compose_branches."""
    prefix = f"{superclass}."
    state = {name.removeprefix(prefix): tensor for name, tensor in made.items() if name.startswith(prefix)}
    complete = set(state) == {name.partition(".")[2] for name in made}  # all superclasses have the same part tuned
    scales = {name: state.pop(name + SCALE, None) for name in [n for n in state if not n.endswith(SCALE)]}
    own = dict(supernet.named_parameters())
    whole = complete and any(set(state) == set(tuned_names(supernet, part)) for part in PARTS)
    if not whole or any((own[name].ndim > 1) == (scales[name] is None) for name in state):
        raise ValueError(f"{where}: not the branch of superclass {superclass}: it lacks parameters, or has others")
    found = {}
    for name, tensor in state.items():
        try:
            found[name] = restored(tensor, scales[name], own[name])
        except ValueError as error:
            raise ValueError(f"{where}: branch {superclass} is of another network: {name} {error}") from None
        if not found[name].isfinite().all():
            raise ValueError(f"{where}: branch {superclass} is damaged: {name} holds no finite numbers")
    return found
