"""Superclass branches: weights of a superclass's own, for all its budgets, at no multiply-adds. Source: ours.

The branches of all superclasses are one mapping of tensors, as it is stored: '<superclass's index>.<parameter's name>'
to the tuned parameter in bfloat16. A parameter that was not tuned is the shared supernet's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from eas.data import Hierarchy, Split
from eas.dropout import FixedClasses
from eas.recipes import Training
from eas.spaces import Supernet
from eas.training import make_step, train

PARTS: dict[str, Callable[[str, Tensor], bool]] = {  # which parameters are tuned, by name and value
    "all": lambda name, parameter: True,
    "norms": lambda name, parameter: parameter.ndim == 1 or name.startswith("classifier"),
    "classifier": lambda name, parameter: name.startswith("classifier"),
}


def tuned_names(supernet: Supernet, part: str) -> list[str]:
    """The names of a part's parameters."""
    return [name for name, parameter in supernet.named_parameters() if PARTS[part](name, parameter)]


def require_gradients(supernet: Supernet, part: str) -> None:
    """Let gradients flow to a part of the supernet only."""
    for name, parameter in supernet.named_parameters():
        parameter.requires_grad_(PARTS[part](name, parameter))


def tune_branches(
    supernet: Supernet,
    split: Split,
    hierarchy: Hierarchy,
    part: str,
    recipe: Training,
    *,
    seed: int,
    checkpoints: Path | None = None,
) -> dict[str, Tensor]:
    """Tune the shared supernet on every superclass's own images in turn, as it was trained; returns the branches.

    The supernet is afterwards what it was, and frozen. `checkpoints` is a folder for the state of each branch.
    """
    shared = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    require_gradients(supernet, part)
    names, branches = tuned_names(supernet, part), {}
    step_function = make_step(supernet, recipe)
    for index, name in enumerate(hierarchy.superclasses):
        supernet.load_state_dict(shared)
        class_mask = hierarchy.class_mask([name])
        own, classes = split.only(class_mask), FixedClasses(class_mask.to(split.labels.device))
        checkpoint = checkpoints / f"{index}" if checkpoints else None
        train(supernet, own, classes, recipe, seed=seed, checkpoint=checkpoint, label=name, step_function=step_function)
        state = supernet.state_dict()
        branches |= {f"{index}.{tuned}": state[tuned].bfloat16() for tuned in names}
    supernet.load_state_dict(shared)
    supernet.requires_grad_(False)
    return branches


def load_branch(supernet: Supernet, branches: Path | dict[str, Tensor], superclass: int) -> Supernet:
    """Put one superclass's branch into `supernet`, in place; what was not tuned must be the shared weights already.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds no branch of this superclass, or one of another network; nothing is changed then.
    """
    prefix, where = f"{superclass}.", branches if isinstance(branches, Path) else "the branches"
    names, stored = read_branch(branches, prefix) if isinstance(branches, Path) else (branches, branches)
    state = {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}
    tuned = {name.partition(".")[2] for name in names}  # of any superclass: all have the same part tuned
    if set(state) != tuned or not any(tuned == set(tuned_names(supernet, part)) for part in PARTS):
        raise ValueError(f"{where}: not the branch of superclass {superclass}: it lacks parameters, or has others")
    own = supernet.state_dict()
    if wrong := [n for n, tensor in state.items() if tensor.shape != own[n].shape or not tensor.is_floating_point()]:
        raise ValueError(f"{where}: branch {superclass} is of another network: {wrong[0]} has another shape or type")
    if wrong := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{where}: branch {superclass} is damaged: {wrong[0]} holds no finite numbers")
    supernet.load_state_dict(state, strict=False)
    return supernet


def read_branch(path: Path, prefix: str) -> tuple[list[str], dict[str, Tensor]]:
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
