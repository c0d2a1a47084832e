"""pipeline.gpu: what it makes in several calls is all that the pipeline needs; here on the CPU."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from study_cases import NOTEBOOKS, every_job, hashes, small_study, times

from eas import data
from eas.serving.kit_files import load_kit
from eas.training import Diverged
from pipeline import gpu, jobs, publish, steps, tables
from pipeline.steps import STEPS, Step
from pipeline.store import Workspace, open_workspace

ROOT = Path(__file__).parents[2]
TIME_IS_UP = "time is up: call again with the same folder to go on\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the parameters of one small study."""
    place = tmp_path_factory.mktemp("gpu")
    (place / "params.yaml").write_text(yaml.safe_dump({"studies": {"tiny": small_study()}}))
    return place


@pytest.fixture(scope="module")
def printed(place):
    """What two calls printed: one without any time, in this process, and one with time enough, as it is typed."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as said:
        patch.setenv("EAS_DEVICE", "cpu")
        patch.chdir(place)
        assert gpu.main(["tiny", "--minutes", "0", "--bundle", "out"]) == 0
    command = [sys.executable, "-m", "pipeline.gpu", "tiny", "--minutes", "60", "--bundle", "out"]
    settings = os.environ | {"EAS_DEVICE": "cpu", "PYTHONPATH": str(ROOT)}
    run = {"cwd": place, "env": settings, "text": True, "stdout": subprocess.PIPE}
    return said.getvalue(), subprocess.run(command, check=True, **run).stdout


@pytest.fixture(scope="module")
def weights(place, printed):
    """What was packed, unpacked where the pipeline looks for it."""
    folder = place / "weights" / "tiny"
    with tarfile.open(place / "out" / "weights.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


# -------------------------------------------------------------------- the command


def test_no_job_is_begun_after_the_limit_and_all_are_done_with_time_enough(place, printed):
    first, second = printed
    assert first == TIME_IS_UP and TIME_IS_UP not in second
    workspace = open_workspace("tiny", place)
    results = [STEPS[name].result(workspace, job) for name, job in every_job(workspace)]
    assert all(result.find() for result in results) and len(results) > 18
    assert all(f"{result.name}\n" in second or f"{result.name}," in second for result in results)


def test_a_further_call_finds_everything_done(place, weights, monkeypatch, capsys):
    """Nothing that is published counts: it looks at what it made itself."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(jobs, "run", lambda *args, **kwargs: pytest.fail("made again"))
    before = times(place / "build")
    assert gpu.main(["tiny", "--minutes", "60", "--bundle", "again"]) == 0
    assert times(place / "build") == before and capsys.readouterr().out == ""
    (place / "build").rename(place / "aside")
    try:
        assert gpu.main(["tiny", "--minutes", "0", "--bundle", "again"]) == 0
        assert capsys.readouterr().out == TIME_IS_UP
    finally:
        shutil.rmtree(place / "build")
        (place / "aside").rename(place / "build")


def test_the_pipeline_finds_all_that_was_packed_and_does_nothing_again(place, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "make", lambda *args: pytest.fail("made again"))
    clone = tmp_path / "clone"
    shutil.copytree(weights, clone / "weights" / "tiny")
    shutil.copy(place / "params.yaml", clone)
    workspace = open_workspace("tiny", clone)
    data.save(data.build(workspace.study.data)[0], workspace.dataset_path)
    for notebook in NOTEBOOKS:
        steps.prepare(workspace, notebook)
        steps.run(workspace, notebook)
    assert hashes(workspace.folder) == hashes(place / "build" / "tiny")
    methods = set(tables.comparison_table(workspace).method)
    assert {"generator_branch", "generator_gates", "ofa_finetuned", "from_scratch", "evolution_long"} <= methods


def test_the_bundle_specialises_without_a_data_set(weights):
    kit = load_kit(weights)
    network, card = kit.specialize(["digits"], 4.5e5)
    assert card.madds <= 4.5e5 and network(torch.zeros(1, 1, 16, 16)).shape == (1, 10) and kit.branches


@pytest.mark.parametrize(("study", "device"), [("tinny", "cpu"), ("cifar100", "cpu"), ("tiny", "cuda:99")])
def test_a_mistake_is_one_line(study, device, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EAS_DEVICE", device)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EAS_CIFAR100", raising=False)
    assert gpu.main([study, "--bundle", "out"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [Diverged("loss is nan by step 17"), RuntimeError("a worker ended"), OSError("full")])
def test_what_stops_the_work_is_one_line_and_what_is_finished_comes_back(error, tmp_path, monkeypatch, capsys):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    packed = []
    monkeypatch.setattr(gpu, "work", lambda *_: (_ for _ in ()).throw(error))
    monkeypatch.setattr(gpu, "pack", lambda *arguments: packed.append(arguments))
    assert gpu.main(["tiny", "--bundle", "out"]) == 1
    assert capsys.readouterr().err == f"error: {error}\n" and len(packed) == 1


# -------------------------------------------------------------------- time, errors, large files


def test_calls_of_any_length_end_in_the_same(micro, tmp_path, inline, monkeypatch, capsys):
    """A clock that moves by one with every job, and three jobs a call.

    Jobs run one by one here, as each is a process of its own elsewhere, with random numbers of its own.
    """
    workspace, clock, made, one_by_one = Workspace(micro.study, tmp_path), [0], [], threading.Lock()
    shutil.copy(micro.dataset_path, tmp_path)

    def run(function, arguments, label, *, gpu=True):
        with one_by_one:
            clock[0] += len(arguments)
            made.extend(arguments)
            return [function(*each) for each in arguments]

    monkeypatch.setattr(jobs, "run", run)
    monkeypatch.setattr(gpu, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    calls = 0
    while not made or TIME_IS_UP in capsys.readouterr().out:
        gpu.work(workspace, 3)
        calls += 1
    assert 5 < calls < 20 and len(made) == len(every_job(micro))
    assert hashes(tmp_path) == hashes(micro.folder)


def fail(workspace):
    raise ValueError("no such thing")


@pytest.mark.parametrize("on_gpu", [True, False])
def test_what_fails_beside_the_other_steps_or_among_them_fails_the_call(on_gpu, micro, monkeypatch):
    failing = Step("toy", "02_supernet", "toy", "test_gpu:fail", "test_gpu:fail", gpu=on_gpu)
    monkeypatch.setattr(gpu, "STEPS", {"toy": failing, "supernets": STEPS["supernets"]})
    with pytest.raises(ValueError, match="no such thing"):
        gpu.work(micro, 60)


def test_large_files_are_packed_by_themselves_and_all_is_what_is_published(micro, tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "LARGE", 20_000)
    monkeypatch.setattr(gpu, "LARGE", 20_000)
    publish.publish(micro, tmp_path / "published")
    gpu.pack(micro, tmp_path / "bundle")
    alone = hashes(tmp_path / "bundle")
    listed = json.loads((tmp_path / "published" / "kit.json").read_text())["files"]
    assert set(alone) == {listed[name]["path"] for name in ("supernet", "generator", "branches")}
    with tarfile.open(tmp_path / "bundle" / "weights.tar.gz") as archive:
        archive.extractall(tmp_path / "bundle", filter="data")
    (tmp_path / "bundle" / "weights.tar.gz").unlink()
    assert hashes(tmp_path / "bundle", "*.*") == hashes(tmp_path / "published", "*.*")
