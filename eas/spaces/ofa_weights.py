"""How OFA's published weights are read into an ElasticMobileNetV3, whose network is the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from eas.spaces.mobilenetv3 import MobileNetV3Space
from eas.spaces.mobilenetv3_networks import ElasticMobileNetV3

OFA_NAMES = {  # their layers by ours; 'conv' and 'bn' stand there once or, in elastic layers, twice
    "first_conv": "stem",
    "final_expand_layer": "expand",
    "feature_mix_layer.conv": "mix",
    "classifier.linear": "classifier",
    "inverted_bottleneck": "expand",
    "depth_conv": "depthwise",
    "depthwise.se.fc": "squeeze",
    "point_linear": "project",
}


def load_ofa(supernet: ElasticMobileNetV3, path: str | Path) -> None:
    """Fill a supernet, in place, with OFA's published weights, such as the file ofa_mbv3_d234_e346_k357_w1.0.

    A classifier of another number of classes is left out; so are running statistics: archs are calibrated.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no checkpoint of this network; one line that says which tensor differs, and how.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        content = torch.load(path, "cpu", weights_only=True)
        state = renamed(content.get("state_dict", content), supernet.space)
    except (AttributeError, EOFError, RuntimeError, UnpicklingError, ValueError) as error:
        raise ValueError(f"{path} is no checkpoint of OFA's MobileNetV3: {str(error).splitlines()[0]}") from None
    own = {name: tensor for name, tensor in supernet.state_dict().items() if name not in ("mean", "std")}
    if state.get("classifier.weight", own["classifier.weight"]).shape != own["classifier.weight"].shape:
        state |= {name: own[name] for name in ("classifier.weight", "classifier.bias")}
    for name in sorted(own.keys() | state.keys()):
        there, due = (list(each[name].shape) if name in each else "nothing" for each in (state, own))
        if there != due:
            raise ValueError(f"{path} is of another network: {name} is {there} in place of {due}: look at the space")
    supernet.load_state_dict(state, strict=False)


def renamed(state: Mapping[str, Tensor], space: MobileNetV3Space) -> dict[str, Tensor]:
    """Tensors of OFA's network by our names, without running statistics; those of linear layers as matrices."""
    found = {}
    for name, tensor in state.items():
        name = re.sub(r"\.(mobile_inverted_conv|conv\.conv|bn\.bn|linear\.linear)\.", short, name)
        if block := re.match(r"blocks\.(\d+)\.conv\.", name):
            stage, place = divmod(int(block[1]) - 1, space.blocks_per_stage)
            name = (f"stages.{stage}.{place}." if block[1] != "0" else "first.") + name[block.end() :]
        for theirs, ours in OFA_NAMES.items():
            name = name.replace(theirs, ours)
        if matrix := re.search(r"\.conv\.\d+to(\d+)_matrix$", name):
            name = f"{name[: matrix.start()]}.transforms.{space.kernels.index(int(matrix[1]))}"
        name = name.replace(".bn.", "_norm.").replace(".conv.", ".")
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            found[name] = tensor.flatten(1) if re.search(r"(reduce|squeeze.expand|mix)\.weight$", name) else tensor
    return found


def short(match: re.Match) -> str:
    """The newer, shorter form of a part of a name."""
    return f".{match[1].partition('.')[0].removeprefix('mobile_inverted_')}."
