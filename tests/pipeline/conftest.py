"""What the tests of the pipeline share: the tiny study, its images as a file, and all of it run once."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from study_cases import NOTEBOOKS, make_micro, six_classes

from eas import data
from pipeline import jobs, steps, throughput
from pipeline.params import load_study
from pipeline.store import Workspace

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("EAS_DEVICE", "cpu")
    monkeypatch.delenv("EAS_FRESH", raising=False)


@pytest.fixture(scope="session")
def study():
    return load_study("tiny", ROOT)


@pytest.fixture(scope="session")
def images(dataset, tmp_path_factory):
    """The file of the tiny study's images."""
    path = tmp_path_factory.mktemp("images") / "dataset.safetensors"
    data.save(dataset, path)
    return path


@pytest.fixture
def workspace(study, images, tmp_path):
    """The tiny study with nothing but its images."""
    (tmp_path / "build").mkdir()
    shutil.copyfile(images, tmp_path / "build" / images.name)
    return Workspace(study, tmp_path / "build")


def made_by_one(factory, name, make):
    """A folder that `make` fills, in one of pytest-xdist's workers for all of them: to be read only, by all tests."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # the others' too
    folder, made = root / name, root / f"{name}.made"
    with FileLock(root / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def finished(study, images, tmp_path_factory):
    """The whole tiny study: to be read only, by all tests."""

    def make(folder):
        shutil.copyfile(images, folder / images.name)
        run_all(Workspace(study, folder), quick=False)

    return Workspace(study, made_by_one(tmp_path_factory, "tiny", make))


def run_all(workspace, *, quick):
    """Make what the notebooks make; `quick` does not measure how fast the machine is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EAS_DEVICE", "cpu")
        patch.setattr(jobs, "run", in_this_process)
        if quick:
            without_rates(patch)
        for notebook in NOTEBOOKS:
            steps.run(workspace, notebook)


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished study, to be changed."""
    return Workspace(finished.study, Path(shutil.copytree(finished.folder, tmp_path / "copy")))


@pytest.fixture(scope="session")
def micro(study, dataset, tmp_path_factory):
    """The whole study of six classes: to be read only, by all tests."""
    small = make_micro(study)

    def make(folder):
        workspace = Workspace(small, folder)
        data.save(six_classes(dataset), workspace.dataset_path)
        run_all(workspace, quick=True)

    return Workspace(small, made_by_one(tmp_path_factory, "micro", make))


@pytest.fixture
def micro_copy(micro, tmp_path):
    """A copy of it, to be changed."""
    return Workspace(micro.study, Path(shutil.copytree(micro.folder, tmp_path / "micro")))


@pytest.fixture
def inline(monkeypatch):
    """Has jobs run in the test's own process, where it can watch them, and without waiting for others to start."""
    monkeypatch.setattr(jobs, "run", in_this_process)
    without_rates(monkeypatch)


@pytest.fixture
def in_workers_first(monkeypatch):
    """Has the first jobs run in processes of their own, as all do outside of tests, and the others in the test's."""
    without_rates(monkeypatch)
    real = [jobs.run]
    monkeypatch.setattr(
        jobs, "run", lambda *each, **options: (real.pop() if real else in_this_process)(*each, **options)
    )


def without_rates(patch):
    """Have what a machine can do at most, which takes seconds to measure, be made up."""
    patch.setattr(throughput, "matrix_rate", lambda *args: 1e12)
    patch.setattr(throughput, "copy_rate", lambda *args: 1e10)


def in_this_process(function, arguments, label, *, gpu=True):
    return [function(*each) for each in arguments]
