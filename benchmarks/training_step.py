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
from eas.data.batches import as_input
from eas.dropout import SuperclassDropout, soft_targets
from eas.recipes import NO_DROPOUT, Training
from eas.sandwich import compute_type
from eas.spaces import ChoiceSpace, Supernet
from eas.training import make_optimizer, make_step
from pipeline import throughput
from pipeline.params import Study, load_study

STUDIES = {"glyphs": 1, "cifar100": 3}  # their networks and recipes, and the images' channels
BATCH = {"glyphs": 64, "cifar100": 128}  # images, on a CPU: the first one's own, the second one's in its reduced form
GPU_BATCH = 1024
EAS, FLOAT32, OFA = "eas", "eas, float32", "ofa"  # sides; the second where the first trains in bfloat16
BACKWARD = 2  # a backward pass reads and writes about twice what a forward pass does


@dataclass(frozen=True)
class TrainingCase:
    """A study's network and recipe on a device ("cpu" or "cuda"), for a batch of so many images."""

    study: Study
    device: str
    batch: int

    @property
    def sides(self) -> list[str]:
        """What is compared: a machine that computes in float32 anyway has only two sides."""
        mixed = self.compute_type(EAS) != self.compute_type(FLOAT32)
        return [EAS, *[FLOAT32] * mixed, OFA]

    def recipe(self, side: str) -> Training:
        """The study's; whether in mixed precision is up to the side."""
        return self.study.training.model_copy(update={"mixed_precision": side == EAS})

    def compute_type(self, side: str) -> torch.dtype:
        """OFA's loop trains in float32 on any device."""
        return compute_type(self.recipe(side), torch.device(self.device))

    @classmethod
    def of(cls, name: str, device: str, images: int | None = None, root: str | Path = ".") -> TrainingCase:
        """`images` overrules the batch that the benchmark uses."""
        return cls(load_study(name, root), device, images or (BATCH[name] if device == "cpu" else GPU_BATCH))


def measure(
    studies: Iterable[str] = STUDIES, device: str = "cpu", images: int | None = None, root: str | Path = "."
) -> pd.DataFrame:
    """Columns study, side; seconds of a step, low, high, rounds; images_per_second; peak_mb; matrix_share (percent).

    An image counts once, though all subnets of a step see it. peak_mb is what a step adds to the memory of network,
    optimiser and images, in a process of its own. matrix_share: the step's arithmetic, at the best matrix rate of the
    machine in the type that `eas` computes in, would take that share of its time. bandwidth_share: likewise for reading
    every input and writing every output of convolutions and norms, once, at the rate of copying memory; limits are
    measured in the run.
    """
    place, tables = torch.device(device), []
    bandwidth = throughput.copy_rate(place, 8)
    for name in studies:
        case = TrainingCase.of(name, device, images, root)
        matrix = throughput.matrix_rate(place, 8192 if device == "cuda" else 2048, case.compute_type(EAS), 8)
        works = {side: prepare(side, case) for side in case.sides}
        table = timing.compare(works, f"training, {name}, {device}")
        peaks = [timing.peak_memory(prepare, side, case) for side in works]
        best = pd.DataFrame([limits(side, case) for side in works]) / [matrix, bandwidth]
        shares = 100 * best.div(table.seconds, axis=0)
        rates = {"images_per_second": case.batch / table.seconds, "peak_mb": peaks, **shares}
        tables.append(table.rename(columns={"work": "side"}).assign(study=name, **rates))
    table = pd.concat(tables, ignore_index=True)
    return table[["study", *(column for column in table if column != "study")]]


def profiles(studies: Iterable[str] = STUDIES, images: int | None = None, root: str | Path = ".") -> pd.DataFrame:
    """Where a step's time goes on a CPU, torch.profiler: columns study, side and percent for every kind of operation.

    Not on a GPU: it sees a CUDA graph as one operation. The report of the study cifar100 has the step without graphs.
    """
    rows = []
    for case in (TrainingCase.of(name, "cpu", images, root) for name in studies):
        for side in case.sides:
            step = prepare(side, case)
            rows.append({"study": case.study.name, "side": side} | throughput.shares(step, torch.device("cpu")))
    return pd.DataFrame(rows)


def prepare(side: str, case: TrainingCase) -> timing.Work:
    """One side's step on the same random weights, images and archs: largest, random ones, smallest."""
    study, device = case.study, torch.device(case.device)
    recipe = case.recipe(side)
    supernet = new_supernet(study).to(device)
    images, labels = (each.to(device) for each in random_images(study, case.batch))
    archs = sandwich(study, supernet.space)
    if side != OFA:
        dropout = SuperclassDropout(study.data.hierarchy().parent.to(device), NO_DROPOUT)
        class_mask, weight = dropout(labels, torch.Generator(device), 0.0)
        optimizer, compute = make_optimizer(supernet, recipe), make_step(supernet, recipe)

        def step() -> None:
            optimizer.zero_grad(set_to_none=False)
            targets = soft_targets(labels, class_mask, recipe.label_smoothing)  # the peer's are made in its step, too
            compute(images, targets, class_mask, weight, archs)
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
    channels, classes = STUDIES[study.name], len(study.data.hierarchy().classes)
    return study.space.build(study.data.image_size, channels).supernet(classes, [0.5] * channels, [0.25] * channels)


def random_images(study: Study, batch: int) -> tuple[Tensor, Tensor]:
    """Random images float [batch, channels, side, side] in [0, 1], and labels int64 [batch]."""
    rng, side = torch.Generator().manual_seed(0), study.data.image_size
    shape = (batch, STUDIES[study.name], side, side)
    classes = len(study.data.hierarchy().classes)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=rng)
    return as_input(pixels), torch.randint(classes, (batch,), generator=rng)


def limits(side: str, case: TrainingCase) -> dict[str, float]:
    """Operations (two a multiply-add) of a side's step, and bytes that its convolutions and norms read and write."""
    supernet = new_supernet(case.study)
    together = side != OFA and case.device == "cpu"
    madds, moved = throughput.arithmetic(supernet, sandwich(case.study, supernet.space), together)
    scale = (1 + BACKWARD) * case.compute_type(side).itemsize * case.batch
    return {"matrix_share": throughput.FLOPS * madds * case.batch, "bandwidth_share": scale * moved}


def sandwich(study: Study, space: ChoiceSpace) -> Tensor:
    """The archs of a step, int64 [subnets, decisions]."""
    random = space.sample(study.training.random_subnets, torch.Generator().manual_seed(0))
    return torch.stack([space.largest, *random, space.smallest])
