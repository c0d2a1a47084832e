"""How weights to start from are read into a supernet: its own of an earlier training, or published ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor

from eas.files import read_tensors, reason
from eas.layers import ElasticNorm
from eas.spaces.supernet import Supernet

COUNTERS, MEANS, VARIANCES = ".num_batches_tracked", ".running_mean", ".running_var"
OURS = {"mean", "std"}  # buffers of every supernet here, and of no other network


def load(
    supernet: Supernet,
    path: str | Path,
    what: str,
    renamed: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda tensors: tensors,
) -> dict[ElasticNorm, tuple[Tensor, Tensor]]:
    """Fill a supernet, in place, with a file's tensors under the names that `renamed` gives them.

    A file of a supernet of ours has these names, and what its images were normalised by. A classifier of another number
    of classes is left out. So are running statistics, as archs are calibrated: what the file has of them is returned,
    as FixedStatistics takes it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no checkpoint of `what`; one line that says which tensor differs, and how.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        content = read_tensors(path)[0] if Path(path).suffix == ".safetensors" else unpickled(Path(path))
        content = content.get("state_dict", content)
        tensors = {str(name): each for name, each in content.items() if torch.is_tensor(each)}
        found = tensors if tensors.keys() >= OURS else renamed(tensors)
    except Exception as error:  # damage makes torch raise all kinds
        raise ValueError(f"{path} is no checkpoint of {what}: {reason(error) or type(error).__name__}") from None
    state = {name: each for name, each in found.items() if not name.endswith((COUNTERS, MEANS, VARIANCES))}
    own = {name: tensor for name, tensor in supernet.state_dict().items() if name not in OURS - state.keys()}
    if state.get("classifier.weight", own["classifier.weight"]).shape != own["classifier.weight"].shape:
        state |= {name: own[name] for name in ("classifier.weight", "classifier.bias")}
    for name in sorted(own.keys() | state.keys()):
        there, due = (list(each[name].shape) if name in each else "nothing" for each in (state, own))
        if there != due:
            told = f"{reason(name)} is {there} in place of {due}"
            raise ValueError(f"{path} is of another network: {told}: look at the space")
    found = found | state
    for name in state.keys() | {name for name in found if name.endswith((MEANS, VARIANCES))}:
        each = found[name]
        if each.layout != torch.strided or not (each.is_floating_point() and each.isfinite().all()):
            raise ValueError(f"{path} is damaged: {reason(name)} holds impossible values")
    supernet.load_state_dict(state, strict=False)
    norms = ((name, each) for name, each in supernet.named_modules() if name + MEANS in found)
    return {norm: (found[name + MEANS], found[name + VARIANCES]) for name, norm in norms}


def unpickled(path: Path) -> dict:
    """What torch.save wrote, without running what else a pickle may hold."""
    if is_zipfile(path):  # torch packs nothing: what unpacks to more than there is was made to fill the memory
        with ZipFile(path) as file:
            if sum(each.file_size for each in file.infolist()) > path.stat().st_size:
                raise ValueError("it unpacks to more than it holds")
    return torch.load(path, "cpu", weights_only=True)
