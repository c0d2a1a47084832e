"""How long networks take on a processor: a cost like any other, fitted on a few dozen measured archs. Source: ours.

Multiply-adds alone are a proxy: the same number takes another time in a stage of large maps than in one of many
channels, in the block that a stage begins with than in the others, and every block costs something by itself. So what
a network takes is a sum of three terms for each stage, none of them negative. It is a cost of blocks: what generates
under a budget of multiply-adds does so under one of milliseconds (see eas.costs).
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from tqdm import tqdm

from eas.costs import total
from eas.devices import cpu_count
from eas.files import reason, write_json
from eas.registry import Line, Positive, one_line
from eas.search import random_archs
from eas.serving.deploy import StoredSpace, read_section
from eas.serving.onnx_files import as_onnx, require, session_of
from eas.serving.quantize import random_quantized
from eas.serving.strangers import Refusing
from eas.spaces import ChoiceSpace

Export = Callable[[nn.Module, int, int, float], bytes]  # of a network for images of so many channels and pixels
Run = Callable[[], object]  # runs a network once on one image
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ARCHS = 60  # that are measured
OUTPUTS = (10, 100, 1000)  # of their classifiers, in turn: what an output takes is told apart from what a network does
ROUNDS, TIMES = 15, 3  # through all archs; a round takes the fastest of so many runs of each
FOLDS = 5
KEPT = 0.95  # share of rounds in which networks keep to a bound

# -------------------------------------------------------------------- what runs networks


def run_onnx(network: Refusing, shape: tuple[int, int], threads: int, export: Export = as_onnx) -> Run:
    """By onnxruntime; `shape` is the channels and pixels of an image."""
    session = session_of(export(network, *shape, 0.0), threads)
    channels, pixels = shape
    images = np.random.default_rng(0).integers(256, size=(1, pixels, pixels, channels), dtype=np.uint8)
    return lambda: session.run(["logits"], {"images": images})


def run_torch(network: Refusing, shape: tuple[int, int], threads: int) -> Run:
    """By torch, as `eas predict` does."""
    images = torch.rand(1, shape[0], shape[1], shape[1])

    def run() -> Tensor:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return network.odds(images)

    return run


RUNTIMES: dict[str, Callable[[Refusing, tuple[int, int], int], Run]] = {
    "onnxruntime": run_onnx,
    "onnxruntime-int8": partial(run_onnx, export=random_quantized),
    "torch": run_torch,
}


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


# -------------------------------------------------------------------- the table


class Measured(StoredSpace):
    """What a table was measured on."""

    processor: Line
    runtime: Line
    version: Line  # of the runtime
    threads: Positive

    @classmethod
    def here(cls, space: ChoiceSpace, runtime: str = "onnxruntime", threads: int = 1) -> Measured:
        """This machine; ValueError for a runtime that is not known, or threads that there are not."""
        if runtime not in RUNTIMES:
            raise ValueError(f"runtime {runtime!r}: known are {', '.join(RUNTIMES)}")
        if not 1 <= threads <= cpu_count():
            raise ValueError(f"{threads} threads: this machine has 1 to {cpu_count()}")
        package = runtime.partition("-")[0]
        require(package)
        version = import_module(package).__version__
        sizes = {"space": space.recipe, "image_size": space.image_size, "in_channels": space.in_channels}
        return cls(processor=processor(), runtime=runtime, version=version, threads=threads, **sizes)

    def path(self) -> Path:
        """Where the table is kept on this machine."""
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        where = self.model_dump_json(include=set(Measured.model_fields))
        name = hashlib.sha256(where.encode()).hexdigest()[:16]
        return home / "eas" / "latency" / f"{name}.json"


class LatencyTable(Measured):
    """Seconds of one image: a cost of networks (see eas.costs), in which `margin` is counted."""

    format: Literal["eas-latency-1"] = "eas-latency-1"
    archs: Positive  # that it was fitted on
    error: Seconds  # mean distance from what was measured, as a share of it, of archs that were not fitted
    correlation: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]  # of ranks, of these
    margin: Seconds  # share by which KEPT of their rounds exceed what is told, at most; bounds hold with it
    start: Seconds  # of every network
    fixed_madds: Seconds  # a multiply-add outside of blocks
    first_madds: tuple[Seconds, ...]  # a multiply-add in the first block of each stage
    later_madds: tuple[Seconds, ...]  # and in the others
    block: tuple[Seconds, ...]  # every block of a stage

    @model_validator(mode="after")
    def be_of_all_stages(self) -> LatencyTable:
        stages = self.choice_space().stages
        if {len(each) for each in (self.first_madds, self.later_madds, self.block)} != {stages}:
            raise one_line(f"there are {stages} stages, of which each needs its numbers")
        return self

    @property
    def name(self) -> str:
        threads = f"{self.threads} thread" + "s" * (self.threads > 1)
        return f"latency ({self.runtime} {self.version}, {threads}, {self.processor})"

    unit: ClassVar[str] = "ms"
    scale: ClassVar[float] = 1e-3

    def of_blocks(self, space: ChoiceSpace) -> Tensor:
        """As eas.costs.Cost: seconds, float64 [blocks, forms]."""
        first = torch.arange(space.blocks_per_stage) == 0
        ends = (torch.tensor(each, dtype=torch.float64)[:, None] for each in (self.first_madds, self.later_madds))
        madds = torch.where(first, *ends).flatten()[:, None] * space.block_madds
        each = torch.tensor(self.block, dtype=torch.float64).repeat_interleave(space.blocks_per_stage)[:, None]
        return (madds + each) * space.in_stage[:, None] * (1 + self.margin)

    def fixed(self, space: ChoiceSpace, class_counts: Tensor | int) -> Tensor:
        """As eas.costs.Cost: seconds [...]."""
        madds = torch.as_tensor(space.fixed_madds(class_counts)).double()
        return (self.start + self.fixed_madds * madds) * (1 + self.margin)

    def seconds(self, space: ChoiceSpace, archs: Tensor, class_counts: Tensor | int) -> Tensor:
        """What archs are told to take, float64 [...]: the margin is not in it."""
        return total(space, self, archs, class_counts) / (1 + self.margin)


def outputs_of(archs: Tensor) -> Tensor:
    """How many outputs the networks of archs that are measured have: OUTPUTS in turn, int64 [archs]."""
    return torch.tensor(OUTPUTS)[torch.arange(len(archs)) % len(OUTPUTS)]


def terms(space: ChoiceSpace, archs: Tensor, outputs: Tensor) -> np.ndarray:
    """What a table's numbers are factors of, [archs, terms]: one, and in the order of its fields."""
    rows = []
    for arch, classes in zip(archs, outputs.tolist(), strict=True):
        one, own = space.at_size_of(arch)
        active = one.active(own).double()
        madds = one.block_madds.gather(1, one.form_of(own)[:, None])[:, 0] * active
        madds, active = (each.view(one.stages, -1) for each in (madds, active))
        ends = torch.tensor([1.0, float(one.fixed_madds(classes))], dtype=torch.float64)
        rows.append(torch.cat([ends, madds[:, 0], madds[:, 1:].sum(1), active.sum(1)]))
    return torch.stack(rows).numpy()


def latency_table(
    space: ChoiceSpace, runtime: str = "onnxruntime", *, threads: int = 1, again: bool = False
) -> LatencyTable:
    """This machine's table for a space: kept from the last time, or measured now, which takes a minute at most.

    Raises:
        ValueError: a runtime that is not known, or threads that the machine does not have.
        ModuleNotFoundError: a package is missing; says how to install it.
    """
    where = Measured.here(space, runtime, threads)
    path = where.path()
    if not again and path.is_file():
        return load_latency(path, space)
    require("scipy")
    archs = spread_archs(space, ARCHS)
    table = fit_latency(where, space, archs, measure(space, archs, runtime, threads))
    try:
        save_latency(table, path)
    except OSError as error:  # a home that is read-only, or that there is not
        tqdm.write(f"measured, and not kept for the next time: {reason(error)}")
    return table


def save_latency(table: LatencyTable, path: str | Path) -> None:
    write_json(path, table.model_dump_json(indent=1) + "\n")


def load_latency(path: str | Path, space: ChoiceSpace) -> LatencyTable:
    """A table's file, of this machine or another; ValueError, in one line, where it is damaged or of another space."""
    table = read_section(LatencyTable, Path(path), "a table of latencies")
    if (table.space, table.image_size, table.in_channels) != (space.recipe, space.image_size, space.in_channels):
        raise ValueError(f"{path} was measured on networks of another space: measure again with `eas latency`")
    return table


# -------------------------------------------------------------------- measuring and fitting


def spread_archs(space: ChoiceSpace, count: int) -> Tensor:
    """Half of them at costs from the smallest to the largest, half drawn uniformly; int64 [count, decisions]."""
    rng, low, high = (
        torch.Generator().manual_seed(0),
        *(space.madds(a, OUTPUTS[0]) for a in (space.smallest, space.largest)),
    )
    budgets = torch.linspace(float(low), float(high), count // 2, dtype=torch.float64)
    spread = random_archs(space, budgets, torch.full((len(budgets),), OUTPUTS[0]), 1, rng)[:, 0]
    return torch.cat([spread, space.sample(count - len(budgets), rng)])


def measure(space: ChoiceSpace, archs: Tensor, runtime: str, threads: int) -> np.ndarray:
    """Seconds that each arch takes for one image, [rounds, archs]: all of them in turn, and again."""
    before, runs = torch.get_num_threads(), []
    for arch, outputs in zip(tqdm(archs, "preparing networks", leave=False), outputs_of(archs).tolist(), strict=True):
        runs.append(run_of(space, arch, outputs, runtime, threads))
    seconds = in_turns(runs)
    torch.set_num_threads(before)
    return seconds


def run_of(space: ChoiceSpace, arch: Tensor, outputs: int, runtime: str, threads: int) -> Run:
    """What runs an arch's network once: one that tells strangers, as most that are served do."""
    one, own = space.at_size_of(arch)
    network = Refusing(one.network(own, outputs), outputs // 2).eval()
    return RUNTIMES[runtime](network, (one.in_channels, one.image_size), threads)


def in_turns(runs: Sequence[Run]) -> np.ndarray:
    """Seconds of each, [rounds, runs]: all of them, and again."""
    seconds = np.empty((ROUNDS, len(runs)))
    for row in tqdm(seconds, "measuring", leave=False):
        for index, run in enumerate(runs):
            run()  # brings its weights back into the cache
            row[index] = min(timed(run) for _ in range(TIMES))
    return seconds


def steady(seconds: np.ndarray) -> np.ndarray:
    """Of each arch, [archs], from [rounds, archs]: how fast the machine was in a round is the same for all of it."""
    speed = np.median(seconds, 1, keepdims=True)
    return np.median(seconds / speed, 0) * np.median(speed)


def timed(run: Run) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def fit_latency(where: Measured, space: ChoiceSpace, archs: Tensor, seconds: np.ndarray) -> LatencyTable:
    """The table of the least relative error, whose numbers are not negative (scipy's nnls), and how far to trust it.

    `seconds` as `measure` returns them. What archs were not fitted on tells the error, and their rounds the margin.
    """
    from scipy.stats import spearmanr

    runs, seconds = seconds, steady(seconds)
    x, fold = terms(space, archs, outputs_of(archs)), np.arange(len(archs)) % FOLDS
    fold = np.random.default_rng(0).permutation(fold)
    told = np.empty(len(archs))
    for held in range(FOLDS):
        told[fold == held] = x[fold == held] @ factors(x[fold != held], seconds[fold != held])
    numbers, stages = factors(x, seconds), space.stages
    first, later, block = numbers[2:].reshape(3, stages).tolist()
    return LatencyTable(
        **dict(where),
        archs=len(archs),
        error=float(np.abs(told / seconds - 1).mean()),
        correlation=float(np.nan_to_num(spearmanr(told, seconds).statistic)),  # none where all take as long
        margin=max(0.0, float(np.quantile(runs / told - 1, KEPT))),
        start=float(numbers[0]),
        fixed_madds=float(numbers[1]),
        first_madds=tuple(first),
        later_madds=tuple(later),
        block=tuple(block),
    )


def factors(x: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Of the terms [archs, terms], none negative: the least squares of relative errors; [terms]."""
    from scipy.optimize import nnls

    relative = x / seconds[:, None]
    size = np.maximum(relative.mean(0), 1e-30)  # multiply-adds are millions: terms of like size
    return nnls(relative / size, np.ones(len(x)))[0] / size
