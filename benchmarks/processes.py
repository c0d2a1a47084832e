"""Many processes: one training on two of them (eas.ranks), and a study's jobs on two workers of a Dask cluster."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from eas import data
from eas.data import Split
from eas.dropout import SuperclassDropout
from eas.ranks import Ranks
from eas.recipes import NO_DROPOUT, Training
from eas.spaces import PreResNetSpace, Supernet
from eas.training import train
from pipeline import steps
from pipeline.store import Workspace, open_workspace

COUNTS, ROUNDS = (1, 2), 3
SIDE, CLASSES, SUPERCLASSES = 32, 100, 20  # as in the study cifar100
RECIPE = Training(epochs=1, batch_size=128, learning_rate=0.1, random_subnets=1)
BATCHES, WARM = 8, 1


def measure(rounds: int = ROUNDS, batches: int = BATCHES) -> pd.DataFrame:
    """Columns processes; images_per_second, the median over rounds, in turns; mb_a_step, what each one sends."""
    taken = [(count, training_seconds(count, batches)) for _ in range(rounds) for count in COUNTS]
    table = pd.DataFrame(taken, columns=["processes", "seconds"]).groupby("processes").seconds.median()
    weights = sum(parameter.numel() for parameter in new_supernet().parameters())
    rates = pd.DataFrame({"images_per_second": batches * RECIPE.batch_size / table})
    return rates.assign(mb_a_step=[0.0 if count == 1 else 4e-6 * weights for count in rates.index]).reset_index()


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def new_supernet() -> Supernet:
    """CIFAR-100's, untrained."""
    space = PreResNetSpace(SIDE, 3, (16, 32, 64), (1, 2, 3, 4), (0.25, 0.5, 0.75, 1.0))
    return space.supernet(CLASSES, [0.5] * 3, [0.25] * 3)


def training_seconds(count: int, batches: int) -> float:
    """Of a step for each of so many batches, on `count` processes that run already."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(one_rank, (count, free_port(), batches, folder), count)
        return float(Path(folder, "seconds").read_text())


def one_rank(index: int, count: int, port: int, batches: int, folder: str) -> None:
    """What each process does; the first one tells how long it took."""
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=index, world_size=count)
    torch.manual_seed(0)
    supernet, ranks = new_supernet(), Ranks(index, count)
    dropout = SuperclassDropout(torch.arange(CLASSES) * SUPERCLASSES // CLASSES, NO_DROPOUT)
    for number in (WARM, batches):
        images = number * RECIPE.batch_size
        split = Split(torch.zeros(images, 3, SIDE, SIDE, dtype=torch.uint8), torch.arange(images) % CLASSES)
        start = time.perf_counter()
        train(supernet, split, dropout, RECIPE, seed=0, ranks=ranks)
    if ranks.writes:
        Path(folder, "seconds").write_text(str(time.perf_counter() - start))
    if count > 1:
        dist.destroy_process_group()


# -------------------------------------------------------------------- a cluster


def measure_cluster(root: Path, study: str = "tiny") -> pd.DataFrame:
    """Columns where, seconds: jobs of notebooks 02 and 03 on this machine's pool, and on two workers of Dask."""
    rows = []
    for where in ("pool", "two Dask workers"):
        with tempfile.TemporaryDirectory() as folder:
            workspace = Workspace(open_workspace(study, root).study, Path(folder))
            data.make(workspace.study.data, root, workspace.dataset_path)
            if where == "pool":
                rows.append((where, seconds_of_jobs(workspace)))
                continue
            with two_workers():
                rows.append((where, seconds_of_jobs(workspace)))
    return pd.DataFrame(rows, columns=["where", "seconds"])


def seconds_of_jobs(workspace: Workspace) -> float:
    """Of the supernets and what follows from them."""
    start = time.perf_counter()
    for notebook in ("02_supernet", "03_generator"):
        steps.run(workspace, notebook)
    return time.perf_counter() - start


@contextmanager
def two_workers() -> Iterator[None]:
    """A scheduler and two workers on this machine, which EAS_CLUSTER names meanwhile."""
    port, dask = free_port(), [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    address, quiet = f"tcp://127.0.0.1:{port}", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    commands = [[*dask, "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"], worker, worker]
    running = [subprocess.Popen(command, **quiet) for command in commands]
    from distributed import Client

    try:
        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        os.environ["EAS_CLUSTER"] = address
        yield
    finally:
        os.environ.pop("EAS_CLUSTER", None)
        for process in reversed(running):
            process.terminate()
            process.wait()
