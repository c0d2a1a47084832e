"""Benchmark 2: one training step of the same elastic network, in OFA's dynamic layers and loop and in ours."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from benchmarks import timing
from benchmarks.peers import OfaPreResNet, ofa_step
from eas import data, jobs, throughput
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
BYTES = 4  # of a number: float32
BACKWARD = 2  # a backward pass reads and writes about twice what a forward pass does


def measure(studies: Iterable[str] = STUDIES, images: int | None = None, root: str | Path = ".") -> pd.DataFrame:
    """Columns study, side; seconds of a step, low, high, rounds; images_per_second; peak_mb; matrix_share (percent).

    An image counts once, though all subnets of a step see it. peak_mb is what a step adds to the memory of network,
    optimiser and images, in a process of its own, NaN on a GPU. matrix_share: the step's arithmetic, at the best matrix
    rate of the machine, would take that share of its time. bandwidth_share: likewise for reading every input and
    writing every output of convolutions and norms, once, at the rate of copying memory; limits are measured in the run.
    """
    device = jobs.device()
    size, kind = (8192, torch.bfloat16) if device.type == "cuda" else (2048, torch.float32)
    matrix, bandwidth = throughput.matrix_rate(device, size, kind, 8), throughput.copy_rate(device, 8)
    tables = []
    for name in studies:
        batch = images or default_batch(name)
        table = timing.compare({side: prepare(side, name, batch, root) for side in SIDES}, f"training, {name}")
        peaks = [float("nan")] * 2
        if device.type == "cpu":
            peaks = [timing.peak_memory(prepare, side, name, batch, root) for side in SIDES]
        best = pd.DataFrame([limits(side, name, batch, root) for side in SIDES]) / [matrix, bandwidth]
        shares = 100 * best.div(table.seconds, axis=0)
        rates = {"images_per_second": batch / table.seconds, "peak_mb": peaks, **shares}
        tables.append(table.rename(columns={"work": "side"}).assign(study=name, **rates))
    table = pd.concat(tables, ignore_index=True)
    return table[["study", *(column for column in table if column != "study")]]


def profiles(studies: Iterable[str] = STUDIES, images: int | None = None, root: str | Path = ".") -> pd.DataFrame:
    """Where a step's time goes, torch.profiler: columns study, side and percent for every kind of operation."""
    rows = []
    for name in studies:
        for side in SIDES:
            step = prepare(side, name, images or default_batch(name), root)
            shares = throughput.shares(step, jobs.device())
            rows.append({"study": name, "side": side} | shares)
    return pd.DataFrame(rows)


def default_batch(name: str) -> int:
    return BATCH[name] if jobs.device().type == "cpu" else GPU_BATCH


def prepare(side: str, name: str, batch: int, root: str | Path) -> timing.Work:
    """One side's step on the same random weights, images and archs: largest, random ones, smallest."""
    study, device = load_study(name, root), jobs.device()
    recipe = study.training
    supernet = new_supernet(study).to(device)
    images, labels = (each.to(device) for each in some_images(study, batch))
    archs = sandwich(study, supernet.space)
    if side == "eas":
        hierarchy = data.hierarchy(study.data.name)
        kept, weight = SuperclassDropout(hierarchy.parent.to(device), NONE)(labels, torch.Generator(device), 0.0)
        optimizer, compute = make_optimizer(supernet, recipe), step_function(supernet, recipe, batch)

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


def limits(side: str, name: str, batch: int, root: str | Path) -> dict[str, float]:
    """Operations (two a multiply-add) of a side's step, and bytes that its convolutions and norms read and write."""
    study = load_study(name, root)
    supernet = new_supernet(study)
    together = side == "eas" and jobs.device().type == "cpu"
    madds, moved = throughput.arithmetic(supernet, sandwich(study, supernet.space), together)
    return {"matrix_share": throughput.FLOPS * madds * batch, "bandwidth_share": (1 + BACKWARD) * moved * BYTES * batch}


def sandwich(study: Study, space: SearchSpace) -> Tensor:
    """The archs of a step, int64 [subnets, decisions]."""
    random = space.sample(study.training.random_subnets, torch.Generator().manual_seed(0))
    return torch.stack([space.largest, *random, space.smallest])
