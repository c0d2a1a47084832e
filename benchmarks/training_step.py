"""Benchmark 2: one training step of the same elastic network, in OFA's dynamic layers and loop and in ours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from benchmarks import timing
from benchmarks.peers import OfaPreResNet, ofa_step
from eas import data, throughput
from eas.config import Study, load_study
from eas.data import as_input
from eas.dropout import SuperclassDropout, soft_targets
from eas.space import SearchSpace
from eas.study import NONE
from eas.supernet import Supernet
from eas.training import make_optimizer, step_function

STUDIES = {"glyphs": 1, "cifar100": 3}  # their networks and recipes, and the images' channels
BATCH = {"glyphs": 64, "cifar100": 128}  # images, on a CPU: the first one's own, the second one's in its reduced form
GPU_BATCH = 1024
SIDES = ("eas", "ofa")
BYTES = {"cpu": 4, "cuda": 2}  # of a number: float32, bfloat16
BACKWARD = 2  # a backward pass reads and writes about twice what a forward pass does


@dataclass(frozen=True)
class Setting:
    """A study's network and recipe on a device ("cpu" or "cuda"), for a batch of so many images."""

    study: Study
    device: str
    batch: int

    @classmethod
    def of(cls, name: str, device: str, images: int | None = None, root: str | Path = ".") -> Setting:
        """`images` overrules the batch that the benchmark uses."""
        return cls(load_study(name, root), device, images or (BATCH[name] if device == "cpu" else GPU_BATCH))


def measure(
    studies: Iterable[str] = STUDIES, device: str = "cpu", images: int | None = None, root: str | Path = "."
) -> pd.DataFrame:
    """Columns study, side; seconds of a step, low, high, rounds; images_per_second; peak_mb; matrix_share (percent).

    An image counts once, though all subnets of a step see it. peak_mb is what a step adds to the memory of network,
    optimiser and images, without a GPU in a process of its own. matrix_share: the step's arithmetic, at the best matrix
    rate of the machine, would take that share of its time. bandwidth_share: likewise for reading every input and
    writing every output of convolutions and norms, once, at the rate of copying memory; limits are measured in the run.
    """
    size, kind = (8192, torch.bfloat16) if device == "cuda" else (2048, torch.float32)
    place = torch.device(device)
    matrix, bandwidth = throughput.matrix_rate(place, size, kind, 8), throughput.copy_rate(place, 8)
    peak = timing.gpu_memory if device == "cuda" else timing.peak_memory
    tables = []
    for name in studies:
        setting = Setting.of(name, device, images, root)
        table = timing.compare({side: prepare(side, setting) for side in SIDES}, f"training, {name}, {device}")
        peaks = [peak(prepare, side, setting) for side in SIDES]
        best = pd.DataFrame([limits(side, setting) for side in SIDES]) / [matrix, bandwidth]
        shares = 100 * best.div(table.seconds, axis=0)
        rates = {"images_per_second": setting.batch / table.seconds, "peak_mb": peaks, **shares}
        tables.append(table.rename(columns={"work": "side"}).assign(study=name, **rates))
    table = pd.concat(tables, ignore_index=True)
    return table[["study", *(column for column in table if column != "study")]]


def profiles(studies: Iterable[str] = STUDIES, images: int | None = None, root: str | Path = ".") -> pd.DataFrame:
    """Where a step's time goes on a CPU, torch.profiler: columns study, side and percent for every kind of operation.

    Not on a GPU: it sees a CUDA graph as one operation. The report of the study cifar100 has the step without graphs.
    """
    rows = []
    for name in studies:
        for side in SIDES:
            step = prepare(side, Setting.of(name, "cpu", images, root))
            rows.append({"study": name, "side": side} | throughput.shares(step, torch.device("cpu")))
    return pd.DataFrame(rows)


def prepare(side: str, setting: Setting) -> timing.Work:
    """One side's step on the same random weights, images and archs: largest, random ones, smallest."""
    study, device = setting.study, torch.device(setting.device)
    recipe = study.training
    supernet = new_supernet(study).to(device)
    images, labels = (each.to(device) for each in some_images(study, setting.batch))
    archs = sandwich(study, supernet.space)
    if side == "eas":
        hierarchy = data.hierarchy(study.data.name)
        kept, weight = SuperclassDropout(hierarchy.parent.to(device), NONE)(labels, torch.Generator(device), 0.0)
        optimizer, compute = make_optimizer(supernet, recipe), step_function(supernet, recipe)

        def step() -> None:
            optimizer.zero_grad(set_to_none=False)
            targets = soft_targets(labels, kept, recipe.label_smoothing)  # the peer's are made in its step, too
            compute(images, targets, kept, weight, archs)
            optimizer.step()

        return step
    peer = OfaPreResNet(supernet.space, supernet.classifier.out_features).to(device)
    peer.load_supernet(supernet.state_dict())
    optimizer = make_optimizer(peer, recipe)
    normalised = ((images - supernet.mean) / supernet.std).contiguous()
    given = (peer.train(), optimizer, normalised, labels, archs, recipe.label_smoothing, recipe.distillation)
    return partial(ofa_step, *given)


def new_supernet(study: Study) -> Supernet:
    """Random weights, the same for both sides."""
    torch.manual_seed(0)
    channels = STUDIES[study.name]
    space = SearchSpace.from_study(study, channels)
    return Supernet(space, len(data.hierarchy(study.data.name).classes), [0.5] * channels, [0.25] * channels)


def some_images(study: Study, batch: int) -> tuple[Tensor, Tensor]:
    """Random images float [batch, channels, side, side] in [0, 1], and labels int64 [batch]."""
    rng, side = torch.Generator().manual_seed(0), study.data.image_size
    shape = (batch, STUDIES[study.name], side, side)
    classes = len(data.hierarchy(study.data.name).classes)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=rng)
    return as_input(pixels), torch.randint(classes, (batch,), generator=rng)


def limits(side: str, setting: Setting) -> dict[str, float]:
    """Operations (two a multiply-add) of a side's step, and bytes that its convolutions and norms read and write."""
    supernet = new_supernet(setting.study)
    together = side == "eas" and setting.device == "cpu"
    madds, moved = throughput.arithmetic(supernet, sandwich(setting.study, supernet.space), together)
    kind = setting.device if side == "eas" else "cpu"  # OFA's loop trains in float32 on any device
    scale = (1 + BACKWARD) * BYTES[kind] * setting.batch
    return {"matrix_share": throughput.FLOPS * madds * setting.batch, "bandwidth_share": scale * moved}


def sandwich(study: Study, space: SearchSpace) -> Tensor:
    """The archs of a step, int64 [subnets, decisions]."""
    random = space.sample(study.training.random_subnets, torch.Generator().manual_seed(0))
    return torch.stack([space.largest, *random, space.smallest])
