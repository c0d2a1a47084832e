"""Independent jobs: processes on a CPU, one after another on a GPU. Only importable functions reach a process."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from study_cases import one_line

from eas import devices
from pipeline import jobs


@pytest.fixture
def with_a_gpu(monkeypatch):
    monkeypatch.setattr(devices, "device", lambda: torch.device("cuda"))


def test_results_come_in_the_order_of_the_arguments():
    slow_first = [("__import__('time').sleep(0.3) or 0",), *((str(i),) for i in range(1, 8))]
    assert jobs.run(eval, slow_first, "slow first") == list(range(8))


def test_a_job_may_have_many_arguments_and_there_may_be_no_job():
    assert jobs.run(pow, [(2, 5), (2, 5, 7)], "powers") == [32, 4]
    assert jobs.run(pow, iter([]), "none") == []


def test_jobs_run_in_other_processes_with_one_thread_each():
    assert jobs.run(torch.get_num_threads, [()] * 3, "threads") == [1, 1, 1]
    assert os.getpid() not in jobs.run(os.getpid, [()] * 3, "processes")


def test_there_are_no_more_processes_than_cpus_and_jobs(monkeypatch):
    nap = "__import__('time').sleep(0.05) or __import__('os').getpid()"
    monkeypatch.setattr(devices, "cpu_count", lambda: 1)
    assert len(set(jobs.run(eval, [(nap,)] * 4, "one CPU"))) == 1
    monkeypatch.setattr(devices, "cpu_count", lambda: 100)
    asked, pool = [], jobs.ProcessPoolExecutor
    monkeypatch.setattr(
        jobs, "ProcessPoolExecutor", lambda count, *more, **o: asked.append(count) or pool(count, *more, **o)
    )
    jobs.run(eval, [(nap,)] * 2, "two jobs")
    assert asked == [2]


def test_where_the_system_cannot_tell_which_cpus_are_free_all_count(monkeypatch):
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert jobs.run(pow, [(2, 5)] * 3, "powers") == [32] * 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert jobs.run(pow, [(2, 5)], "powers") == [32]


def test_the_first_error_is_raised_and_ends_the_others(tmp_path):
    command = "import pathlib, time; time.sleep(0.1); pathlib.Path({!r}).touch()"
    others = [(command.format(str(tmp_path / str(i))),) for i in range(200)]
    with pytest.raises(ValueError, match="the first one"):
        jobs.run(exec, [("raise ValueError('the first one')",), *others], "errors")
    assert len(list(tmp_path.iterdir())) < 100  # what had begun was finished, the rest never began


@pytest.mark.parametrize(
    "death",
    ["import os; os._exit(1)", f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})", "import os; os.abort()"],
)
def test_a_worker_that_dies_is_told_in_one_line_and_leaves_the_next_run_alone(death):
    with pytest.raises(RuntimeError, match="^supernets: a worker process ended .* what is finished stays$") as caught:
        jobs.run(exec, [(death,), *[("import time; time.sleep(0.05)",)] * 20], "supernets")
    one_line(caught)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert jobs.run(pow, [(2, 5)], "powers") == [32]


DYING = """
from pipeline import jobs
for _ in range(150):
    try:
        jobs.run(exec, [("import os; os._exit(1)",), *[("import time; time.sleep(0.05)",)] * 20], "dying")
    except RuntimeError:
        continue
    raise SystemExit("nothing was told")
"""


def test_a_worker_that_dies_while_another_one_is_started_is_not_waited_for(tmp_path):
    """Python 3.11 waits for ever, once in some hundred runs."""
    settings = os.environ | {"PYTHONPATH": str(Path(jobs.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", DYING], cwd=tmp_path, env=settings, check=True, timeout=120)


def test_a_worker_that_dies_before_all_jobs_are_submitted_is_told_in_the_same_line(monkeypatch):
    submit = ProcessPoolExecutor.submit

    def submit_and_wait(pool, *job):
        until(submit(pool, *job).done)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit_and_wait)
    with pytest.raises(RuntimeError, match="^supernets: a worker process ended .* what is finished stays$"):
        jobs.run(exec, [("import os; os._exit(1)",)] * 3, "supernets")


NAP = "import os, pathlib, time; pathlib.Path(str(os.getpid())).touch(); time.sleep(100)"
PARENT = f"from pipeline import jobs; jobs.run(exec, [({NAP!r},)] * 2, 'naps')"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc to look at")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    settings = os.environ | {"PYTHONPATH": str(Path(jobs.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=tmp_path, env=settings) as parent:
        until(lambda: len(list(tmp_path.iterdir())) == min(2, devices.cpu_count()))
        parent.kill()
    workers = [Path("/proc", path.name) for path in tmp_path.iterdir()]
    until(lambda: not any(worker.exists() for worker in workers))


def until(condition):
    """Wait for a condition, a minute at most."""
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_with_a_gpu_jobs_run_here_one_after_another(with_a_gpu):
    order = []
    results = jobs.run(lambda n: order.append(n) or (n, os.getpid()), [(1,), (2,), (3,)], "serial")
    assert results == [(n, os.getpid()) for n in (1, 2, 3)] and order == [1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        jobs.run(lambda n: order.append(n) or 1 / n, [(1,), (0,), (4,)], "error")
    assert order == [1, 2, 3, 1, 0]


def test_jobs_that_make_no_use_of_a_gpu_run_in_processes_all_the_same(with_a_gpu):
    assert os.getpid() not in jobs.run(os.getpid, [()] * 2, "processes", gpu=False)


def test_a_worker_can_import_what_its_function_and_arguments_are_of():
    """Modules of tests too, which are found by the parent's path."""
    here = os.path.dirname(__file__)
    assert here in sys.path and jobs.run(eval, [("__import__('study_cases').__file__",)], "import")[0].startswith(here)
