"""A study's supernets trained by several processes: with torchrun, and through a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from study_cases import study_in

from pipeline import steps
from pipeline.store import open_workspace
from pipeline.supernets import load_supernet, plain_base, selection_accuracy, supernet_jobs

ROOT = Path(__file__).parents[2]
EPOCHS = 8  # a kill after the first comes before the last


def start(study):
    """Two processes that train a study."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "pipeline.many_gpus", str(study)]
    quiet = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | quiet, start_new_session=True, **pipes)


def result_of(study):
    workspace = open_workspace(str(study))
    (job,) = supernet_jobs(workspace)
    return workspace, workspace.folder / "supernets" / "none-0.safetensors", job


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study whose supernet two processes have trained; and what they said."""
    study = study_in(tmp_path_factory.mktemp("many") / "whole", epochs=EPOCHS)
    done = start(study)
    assert done.wait(120) == 0, done.stdout.read()
    return study, done.stdout.read()


def test_a_killed_process_ends_the_job_which_then_goes_on_to_the_same_weights(whole, tmp_path):
    assert "supernets/none-0 is there" in whole[1]
    expected, killed = result_of(whole[0])[1].read_bytes(), study_in(tmp_path / "killed", epochs=EPOCHS)
    job, checkpoints = start(killed), killed.parent / "build" / "mine" / "checkpoints" / "supernets"
    deadline = time.monotonic() + 300
    while not (checkpoints.is_dir() and list(checkpoints.glob("none-0-*"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert job.wait(120) != 0 and "SIGKILL" in job.stdout.read()
    assert not result_of(killed)[1].exists()

    again = start(killed)
    assert again.wait(120) == 0, again.stdout.read()
    assert result_of(killed)[1].read_bytes() == expected
    assert not list(checkpoints.glob("none-0-*"))


def test_processes_measure_together_what_one_measures_alone(whole):
    workspace, _, job = result_of(whole[0])
    dataset = workspace.dataset()
    supernet = load_supernet(workspace, dataset, plain_base(workspace.study, 0))
    alone = pd.DataFrame(selection_accuracy(workspace.study, supernet, dataset))
    together = pd.DataFrame(steps.record_of(workspace, "supernets", **job)["accuracy"])
    one_image = 100 / len(dataset.selection)  # moments are rounded elsewhere: an image may change sides
    assert together[["top1", "flat_top1"]].sub(alone[["top1", "flat_top1"]]).abs().to_numpy().max() < 2.5 * one_image
    assert alone.top1.nunique() > 1


@pytest.mark.parametrize("study", ["nothing", "params.yaml"])
def test_what_is_no_study_is_one_line(study, capsys):
    from pipeline import many_gpus

    assert many_gpus.main([study]) == 1
    assert capsys.readouterr().err.count("\n") == 1
