"""How OFA's published weights are read into an ElasticMobileNetV3, whose network is the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from eas.spaces.mobilenetv3 import ElasticMobileNetV3, MobileNetV3Space
from eas.spaces.published import load

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

    Errors are those of eas.spaces.published.load.
    """
    load(supernet, path, "OFA's MobileNetV3", lambda state: renamed(state, supernet.space))


def renamed(state: Mapping[str, Tensor], space: MobileNetV3Space) -> dict[str, Tensor]:
    """Tensors of OFA's network by our names; those of linear layers as matrices."""
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
        found[name] = tensor.flatten(1) if re.search(r"(reduce|squeeze.expand|mix)\.weight$", name) else tensor
    return found


def short(match: re.Match) -> str:
    """The newer, shorter form of a part of a name."""
    return f".{match[1].partition('.')[0].removeprefix('mobile_inverted_')}."
