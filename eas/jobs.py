"""Independent jobs side by side: processes with one thread each on a CPU, one after another on a GPU."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch
from tqdm.auto import tqdm


def device() -> torch.device:
    """The GPU where there is one, else the CPU; the environment variable EAS_DEVICE overrules."""
    return torch.device(os.environ.get("EAS_DEVICE", "cuda" if torch.cuda.is_available() else "cpu"))


def run(function: Callable, arguments: Iterable[Sequence[Any]], label: str) -> list[Any]:
    """[function(*a) for a in arguments], with a progress bar over the jobs; the first error ends it.

    On a CPU every job has one thread: small networks gain nothing from a second one, and results do not depend on the
    number of cores. `function` must be importable.
    """
    arguments = list(arguments)
    if device().type == "cuda":
        return [function(*each) for each in tqdm(arguments, label)]
    workers = min(len(arguments), len(os.sched_getaffinity(0))) or 1
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=one_thread) as pool:
        futures = [pool.submit(function, *each) for each in arguments]
        try:
            for future in tqdm(as_completed(futures), label, len(futures)):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        return [future.result() for future in futures]


def one_thread() -> None:
    """How a worker process begins; only the bar over the jobs is shown."""
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(1)
