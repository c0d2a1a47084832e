"""scripts/study_on_gpu.py: what it makes in several calls is all that the pipeline needs; here on the CPU."""

import importlib.util
import math
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
import yaml

from eas import comparison, config, data, deploy, fitting, study, tuning

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "study_on_gpu.py"
SMALL = {"seeds": [0], "dropout": {"seeds": 1, "candidates": [{"variant": "own", "rate": 0.5}]}, "from_scratch": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with one small study, "tiny" for one seed."""
    place = tmp_path_factory.mktemp("gpu")
    studies = yaml.safe_load((ROOT / "params.yaml").read_text())["studies"]
    (place / "params.yaml").write_text(yaml.safe_dump({"studies": {"tiny": studies["tiny"] | SMALL}}))
    return place


def call(place, minutes):
    """Run the script in `place`; returns what it printed."""
    command = [sys.executable, SCRIPT, "tiny", "--minutes", minutes, "--bundle", "out"]
    run = {"cwd": place, "env": os.environ | {"EAS_DEVICE": "cpu"}, "text": True, "stdout": subprocess.PIPE}
    return subprocess.run([*map(str, command)], check=True, **run).stdout


@pytest.fixture(scope="module")
def made(place):
    """When each result was written, after a call with time enough."""
    assert "time is up" not in call(place, 60)
    return written(place)


def written(place):
    return {path: path.stat().st_mtime_ns for path in (place / "build" / "gpu" / "tiny").rglob("*.json")}


@pytest.fixture(scope="module")
def weights(place, made):
    """What the script packed, unpacked where the pipeline looks for it."""
    folder = place / "weights" / "tiny"
    for archive in (place / "out").glob("*.tar.gz"):
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    shutil.copy(place / "out" / deploy.IMAGES, folder)
    return folder


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("study_on_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_step_is_begun_after_the_limit(place):
    assert call(place, 0) == "time is up: call again with the same folder to go on\n"


def test_a_further_call_finds_every_step_done(place, made):
    printed = call(place, 60)
    assert printed.count("\n") > 15 and "time is up" not in printed
    assert written(place) == made


def test_the_pipeline_finds_all_that_was_made_and_does_nothing_again(place, weights):
    tiny, folder = config.load_study("tiny", place), place / "build" / "tiny"
    data.save(data.build(tiny)[0], folder / "dataset.safetensors")
    study.train_supernets(tiny, folder)
    tuning.run_branches(tiny, folder)
    fitting.run_generators(tiny, folder)
    table = comparison.run_comparison(tiny, folder)
    assert {"generator_branch", "ofa_finetuned", "from_scratch", "evolution_long"} <= set(table.method)
    results = {path.relative_to(folder) for path in folder.rglob("*.safetensors")} - {Path("dataset.safetensors")}
    assert len(results) > 20
    assert all((weights / path).read_bytes() == (folder / path).read_bytes() for path in results)
    assert not list((folder / "timings").rglob("*.json"))


def test_the_bundle_specialises_without_a_data_set(place, weights):
    network, card = deploy.published("tiny", place).specialize(["digits"], 4.5e5)
    assert card.madds <= 4.5e5 and network(torch.zeros(1, 1, 16, 16)).shape == (1, 10)


def test_what_fails_beside_the_other_steps_fails_the_call(script):
    with pytest.raises(ValueError, match="math domain error|nonnegative"):
        script.work(iter([(math.sqrt, [(-1,)], False)]), 60)


def test_of_large_branches_those_of_the_first_seed_are_packed(script, dataset, tmp_path):
    folder, bundle = tmp_path / "study", tmp_path / "bundle"
    for seed in (0, 1):
        path = folder / "supernets" / "branches" / f"all-0.1-{seed}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(int(script.LARGE) + 1)
    bundle.mkdir()
    script.pack(folder, bundle, dataset, 0)
    assert {path.name for path in bundle.iterdir()} == {"all-0.1-0.safetensors", deploy.IMAGES, "supernets.tar.gz"}
