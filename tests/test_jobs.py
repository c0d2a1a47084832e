"""Independent jobs: processes on a CPU, one after another on a GPU. Only importable functions reach a process."""

import ctypes
import os

import pytest
import torch

from eas import jobs


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("EAS_DEVICE", "cpu")


def test_results_come_in_the_order_of_the_arguments():
    slow_first = [("__import__('time').sleep(0.3) or 0",), *((str(i),) for i in range(1, 8))]
    assert jobs.run(eval, slow_first, "slow first") == list(range(8))


def test_a_job_may_have_many_arguments_and_there_may_be_no_job():
    assert jobs.run(pow, [(2, 5), (2, 5, 7)], "powers") == [32, 4]
    assert jobs.run(pow, iter([]), "none") == []


def test_jobs_run_in_other_processes_with_one_thread_each():
    assert jobs.run(torch.get_num_threads, [()] * 3, "threads") == [1, 1, 1]
    assert os.getpid() not in jobs.run(os.getpid, [()] * 3, "processes")


def test_the_first_error_is_raised_and_ends_the_others(tmp_path):
    command = "import pathlib, time; time.sleep(0.1); pathlib.Path({!r}).touch()"
    others = [(command.format(str(tmp_path / str(i))),) for i in range(200)]
    with pytest.raises(ValueError, match="the first one"):
        jobs.run(exec, [("raise ValueError('the first one')",), *others], "errors")
    assert len(list(tmp_path.iterdir())) < 100  # what had begun was finished, the rest never began


def test_with_a_gpu_jobs_run_here_one_after_another(monkeypatch):
    monkeypatch.setenv("EAS_DEVICE", "cuda")
    order = []
    results = jobs.run(lambda n: order.append(n) or (n, os.getpid()), [(1,), (2,), (3,)], "serial")
    assert results == [(n, os.getpid()) for n in (1, 2, 3)] and order == [1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        jobs.run(lambda n: order.append(n) or 1 / n, [(1,), (0,), (4,)], "error")
    assert order == [1, 2, 3, 1, 0]


def test_jobs_that_make_no_use_of_a_gpu_run_in_processes_all_the_same(monkeypatch):
    monkeypatch.setenv("EAS_DEVICE", "cuda")
    assert os.getpid() not in jobs.run(os.getpid, [()] * 2, "processes", gpu=False)
