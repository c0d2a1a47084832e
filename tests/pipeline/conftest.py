"""What the tests of the pipeline share: the tiny study, its images as a file, and all of it run once."""

import shutil
from pathlib import Path

import pytest
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


@pytest.fixture(scope="session")
def finished(study, images, tmp_path_factory):
    """The whole tiny study: to be read only, by all tests."""
    folder = tmp_path_factory.mktemp("tiny")
    shutil.copyfile(images, folder / images.name)
    workspace = Workspace(study, folder)
    run_all(workspace, quick=False)
    return workspace


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
    workspace = Workspace(make_micro(study), tmp_path_factory.mktemp("micro"))
    data.save(six_classes(dataset), workspace.dataset_path)
    run_all(workspace, quick=True)
    return workspace


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
