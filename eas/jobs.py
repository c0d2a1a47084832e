"""Independent jobs side by side: processes with one thread each on a CPU, one after another on a GPU."""

from __future__ import annotations

import ctypes
import functools
import gc
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch
from tqdm.auto import tqdm

MALLOC_TRIM_THRESHOLD, MALLOC_MMAP_MAX = -1, -4  # of malloc.h


def device() -> torch.device:
    """The GPU where there is one, else the CPU; the environment variable EAS_DEVICE overrules."""
    return torch.device(os.environ.get("EAS_DEVICE", "cuda" if torch.cuda.is_available() else "cpu"))


def has_amx() -> bool:
    """Whether the processor has matrix units for bfloat16: without them it is slower than float32."""
    return torch.cpu.get_capabilities().get("amx_bf16", False)


def run(function: Callable, arguments: Iterable[Sequence[Any]], label: str, *, gpu: bool = True) -> list[Any]:
    """[function(*a) for a in arguments], with a progress bar over the jobs; the first error ends it.

    On a CPU every job has one thread: small networks gain nothing from a second one, and results do not depend on the
    number of cores. `function` must be importable; `gpu=False` says that it makes no use of a GPU.
    """
    arguments = list(arguments)
    if not arguments:
        return []
    if gpu and device().type == "cuda":
        return [in_turn(function, each) for each in tqdm(arguments, label)]
    workers = min(len(arguments), len(os.sched_getaffinity(0))) or 1
    # Workers are forked from a server that has done the slow imports, and no work, so that no thread is lost in a fork.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["eas.comparison"])
    with ProcessPoolExecutor(workers, context, initializer=one_thread) as pool:
        futures = [pool.submit(function, *each) for each in arguments]
        try:
            for future in tqdm(as_completed(futures), label, len(futures)):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        return [future.result() for future in futures]


def in_turn(function: Callable, arguments: Sequence[Any]) -> Any:
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()  # every job's peak is its own
    result = function(*arguments)
    gc.collect()  # a training's CUDA graphs hold memory that only this gives back
    torch.cuda.empty_cache()
    return result


def one_thread() -> None:
    """How a worker process begins; only the bar over the jobs is shown."""
    tqdm.__init__ = functools.partialmethod(tqdm.__init__, disable=True)
    torch.set_num_threads(1)
    keep_memory()


def keep_memory() -> None:
    """Have glibc keep the large blocks that tensors free, for the next ones.

    By default it gives each back to the system, and the page faults of getting it again take longer than the
    arithmetic: calibration on 2,000 images of CIFAR-100 takes a third of the time without them.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # other C libraries, as macOS has, know no such option
        for option, value in ((MALLOC_MMAP_MAX, 0), (MALLOC_TRIM_THRESHOLD, 2**31 - 1)):
            libc.mallopt(option, value)
