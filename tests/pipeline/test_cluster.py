"""Jobs on a cluster: a Dask scheduler and two workers on this machine."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from study_cases import NOTEBOOKS, hashes

from pipeline import jobs, steps, tables
from pipeline.store import Workspace

ROOT = Path(__file__).parents[2]


def python(*arguments, **environment):
    """A process of its own, which prints nothing here."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=os.environ | environment, **quiet)


def worker(address, *options):
    command = ["-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    return python(*command, *options, OMP_NUM_THREADS="1", EAS_DEVICE="cpu")


@pytest.fixture(scope="module")
def running():
    """A scheduler's address, and its two workers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    command = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    scheduler, workers = python(*command), [worker(address), worker(address)]
    yield address, workers
    for process in (scheduler, *workers):
        process.kill()
        process.wait()


@pytest.fixture
def cluster(running, monkeypatch):
    """Its address, and its two workers, both alive."""
    address, workers = running
    workers[:] = [each if each.poll() is None else worker(address) for each in workers]
    monkeypatch.setenv("EAS_CLUSTER", address)
    wait_for(address, 2)
    return running


def wait_for(address, count):
    """Until there are so many workers, those that were killed no longer among them."""
    from distributed import Client

    end = time.monotonic() + 60
    with Client(address, timeout=60, set_as_default=False) as client:
        while len(client.scheduler_info(n_workers=-1)["workers"]) != count:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_jobs_run_on_the_workers_in_the_order_of_the_arguments(cluster):
    _, workers = cluster
    slow_first = [("__import__('time').sleep(0.3) or 0",), *((str(i),) for i in range(1, 8))]
    assert jobs.run(eval, slow_first, "slow first") == list(range(8))
    nap = "__import__('time').sleep(0.2) or (__import__('os').getpid(), __import__('os').getcwd())"
    there = jobs.run(eval, [(nap,)] * 6, "processes")
    assert {pid for pid, _ in there} == {process.pid for process in workers}
    assert {folder for _, folder in there} == {os.getcwd()}
    assert jobs.run(eval, [("__import__('torch').get_num_threads()",)], "threads") == [1]


def test_a_whole_study_gives_there_what_it_gives_here(cluster, micro, tmp_path):
    workspace = Workspace(micro.study, tmp_path / "there")
    workspace.folder.mkdir()
    shutil.copyfile(micro.dataset_path, workspace.dataset_path)
    for notebook in NOTEBOOKS:
        steps.run(workspace, notebook)
    here, there = hashes(micro.folder), hashes(workspace.folder)
    assert len(here) > 40 and there == here
    here, there = (tables.comparison_table(each).drop(columns="search_seconds") for each in (micro, workspace))
    pd.testing.assert_frame_equal(there, here)


def test_the_first_error_is_raised(cluster):
    with pytest.raises(ZeroDivisionError):
        jobs.run(eval, [("1 / 0",), *[("1",)] * 5], "errors")


def test_a_worker_that_is_killed_costs_a_retry_and_nothing_else(cluster, tmp_path):
    """Every job notes its process, and waits for a file that comes after one of these was killed."""
    _, workers = cluster
    code = (
        "import os, pathlib, time\n"
        "folder = pathlib.Path({folder!r})\n"
        "(folder / ('began-{job}-' + str(os.getpid()))).touch()\n"
        "while not (folder / 'go').exists(): time.sleep(0.02)\n"
        "(folder / 'done-{job}').touch()\n"
    )
    arguments = [(code.format(folder=str(tmp_path), job=job),) for job in range(4)]
    killer = subprocess.Popen([sys.executable, "-c", KILLER, str(tmp_path), str(workers[0].pid)])
    jobs.run(exec, arguments, "killed")
    assert killer.wait(60) == 0
    assert len(list(tmp_path.glob("done-*"))) == 4
    began = [path.name.split("-")[1] for path in tmp_path.glob("began-*")]
    assert len(began) == 5 and len(set(began)) == 4  # one began twice


KILLER = f"""
import os, pathlib, sys, time
folder, pid = pathlib.Path(sys.argv[1]), int(sys.argv[2])
while not list(folder.glob(f"began-*-{{pid}}")): time.sleep(0.02)
os.kill(pid, {int(signal.SIGKILL)})
time.sleep(0.5)
(folder / "go").touch()
"""


def test_jobs_that_use_a_gpu_go_to_workers_that_have_one(cluster):
    address, _ = cluster
    with_gpu = worker(address, "--resources", "GPU=1")
    try:
        wait_for(address, 3)
        nap = "__import__('time').sleep(0.1) or __import__('os').getpid()"
        assert set(jobs.run(eval, [(nap,)] * 4, "on GPUs")) == {with_gpu.pid}
        assert len(set(jobs.run(eval, [(nap,)] * 9, "anywhere", gpu=False))) == 3
    finally:
        with_gpu.kill()
        with_gpu.wait()


def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch):
    from pipeline import cluster as here

    monkeypatch.setattr(here, "PATIENCE", 0.5)
    monkeypatch.setenv("EAS_CLUSTER", "tcp://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="no scheduler answers at EAS_CLUSTER=tcp://127.0.0.1:9") as caught:
        jobs.run(eval, [("1",)], "nobody")
    assert "\n" not in str(caught.value) and time.monotonic() - start < 20
