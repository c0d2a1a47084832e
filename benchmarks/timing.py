"""How every time here is taken: warmed up, repeated, in turns, as median and spread; ratios are of one run."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

Work = Callable[[], object]
ROUNDS, LONG = 9, 2.0  # rounds of short work; what takes longer than LONG seconds gets fewer
ENOUGH = 12.0  # seconds for all rounds of one work
SHORT = 0.02  # seconds: shorter work is repeated within a round, so that the clock's steps and hiccups do not show


def compare(works: Mapping[str, Work], label: str) -> pd.DataFrame:
    """Time some works in turns, so that a machine that slows down slows them all; a row for each.

    Columns work; seconds, low, high: median and quartiles over rounds; rounds. Each is run once before, untimed.
    """
    once = {name: seconds(work) for name, work in works.items()}  # warms up; what was short is timed again, warm
    once = {name: seconds(work) if once[name] < LONG else once[name] for name, work in works.items()}
    inner = {name: max(1, round(SHORT / max(took, 1e-7))) for name, took in once.items()}
    rounds = {name: int(np.clip(ENOUGH / (took * inner[name]), 3, ROUNDS)) for name, took in once.items()}
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in tqdm(range(max(rounds.values())), label, mininterval=1, leave=False):
        for name, work in works.items():
            if turn < rounds[name]:
                taken[name].append(seconds(work, inner[name]))
    rows = [
        {"work": name, "seconds": np.median(each), "low": np.quantile(each, 0.25), "high": np.quantile(each, 0.75)}
        for name, each in taken.items()
    ]
    return pd.DataFrame(rows).assign(rounds=list(rounds.values()))


def seconds(work: Work, times: int = 1) -> float:
    """Wall time of one call, from `times` calls in a row."""
    synchronize()
    start = time.perf_counter()
    for _ in range(times):
        work()
    synchronize()
    return (time.perf_counter() - start) / times


def synchronize() -> None:
    """Wait for the GPU, where one has been used."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def exponent(sizes: Sequence[float], taken: Sequence[float]) -> float:
    """b of the power law a * size^b that fits best (least squares of the logarithms): 1 is linear growth."""
    return float(np.polyfit(np.log(np.asarray(sizes, float)), np.log(np.asarray(taken, float)), 1)[0])


def peak_memory(prepare: Callable[..., Work], *arguments: object) -> float:
    """MB that `prepare(*arguments)()` holds at most beyond what it held once prepared, in a process of its own.

    Where it prepared something on a GPU, what that has reserved is meant. `prepare` must be importable. Linux only.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, prepare, arguments).result()


def _peak(prepare: Callable[..., Work], arguments: tuple) -> float:
    work = prepare(*arguments)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()  # not what is reserved: a small step may fit into the rest of that
        work()
        return (torch.cuda.max_memory_reserved() - held) / 1e6
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: preparing may have held more
    work()
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    """A number of Linux's account of this process's memory, in MB; getrusage's peak would include the parent's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1000
