"""Independent jobs side by side: processes with one thread each on a CPU, one after another on a GPU, or a cluster."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from typing import Any

import torch
from tqdm import tqdm

from eas import devices


def run(function: Callable, arguments: Iterable[Sequence[Any]], label: str, *, gpu: bool = True) -> list[Any]:
    """[function(*a) for a in arguments], with a progress bar over the jobs; the first error ends it.

    On a CPU every job has one thread: small networks gain nothing from a second one, and results do not depend on the
    number of cores. `function` must be importable; `gpu=False` says that it makes no use of a GPU. The environment
    variable EAS_CLUSTER, the address of a Dask scheduler, has all run there: see pipeline.cluster.

    Raises:
        RuntimeError: a worker process ended, such as for want of memory; what was finished is kept by its job.
    """
    arguments = list(arguments)
    if not arguments:
        return []
    if address := os.environ.get("EAS_CLUSTER"):
        return import_module("pipeline.cluster").run_there(function, arguments, label, address, gpu=gpu)
    if gpu and devices.device().type == "cuda":
        return [in_turn(function, each) for each in tqdm(arguments, label)]
    workers = min(len(arguments), devices.cpu_count())
    # Workers are forked from a server that has done the slow imports, and no work, so that no thread is lost in a fork.
    # torch's optimisers import the second one when the first of them is made.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo", function.__module__, "pandas"])
    with ProcessPoolExecutor(workers, context, initializer=start_worker) as pool:
        try:  # a worker may have ended before all is submitted
            futures = [pool.submit(function, *each) for each in arguments]
            for future in tqdm(as_completed(futures), label, len(futures)):
                future.result()
        except BrokenProcessPool:
            # Python forgets a worker that was being started while another one ended, and then waits for it for ever.
            for process in list(pool._processes.values()):
                process.terminate()
            message = f"{label}: a worker process ended (out of memory, or killed); run again: what is finished stays"
            raise RuntimeError(message) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        return [future.result() for future in futures]


def in_turn(function: Callable, arguments: Sequence[Any]) -> Any:
    """One job on the GPU, which has all of its memory."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()  # every job's peak is its own
    result = function(*arguments)
    gc.collect()  # a training's CUDA graphs hold memory that only this gives back
    torch.cuda.empty_cache()
    return result


def start_work() -> None:
    """How work begins in a process that is there for it: one thread, and no bar beside the one over the jobs."""
    tqdm.__init__ = functools.partialmethod(tqdm.__init__, disable=True)
    torch.set_num_threads(1)
    devices.keep_memory()


def start_worker() -> None:
    """How a worker process begins."""
    start_work()
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """End this process when the one that asked for its work is killed: the next run would do the work a second time."""
    multiprocessing.parent_process().join()
    os._exit(1)
