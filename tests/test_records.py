"""Results and their records: when one counts as finished, where it is found again, and times that stay."""

import json
import os
import shutil

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from eas import data, records
from eas.records import Result, read_timing, timed


@pytest.fixture
def result(tmp_path):
    folder = tmp_path / "build" / "small"
    return Result(folder, folder / "part" / "result-0.5-1.safetensors", "key")


X = {"x": torch.arange(3.0)}


def with_key(result, key):
    return Result(result.folder, result.path, key)


def test_a_result_is_finished_only_with_its_record_and_the_same_key(result):
    assert result.finished() is None
    data.save_tensors(X, result.path)
    assert result.finished() is None
    written = result.write(X, {"value": 1.5})
    assert written == result.finished() == {"key": "key", "value": 1.5}
    assert torch.equal(load_file(result.path)["x"], X["x"])
    assert not (result.folder / "resume").exists()
    assert with_key(result, "another").finished() is None
    assert result.finished() is None  # the stale record is gone


def test_a_record_whose_tensors_were_deleted_is_no_finished_result(result):
    result.write(X, {})
    result.path.unlink()
    assert result.finished() is None


def test_a_resumable_result_is_found_after_its_folder_was_deleted(result):
    result.write(X, {"value": 1}, resumable=True)
    shutil.rmtree(result.path.parent)
    assert with_key(result, "another").finished() is None and not result.path.exists()
    assert result.finished() == {"key": "key", "value": 1}
    assert torch.equal(load_file(result.path)["x"], X["x"])


@pytest.fixture
def published(result):
    """The result moved to where the repository publishes it: weights/<study>/."""
    result.write(X, {"value": 2})
    timed(result.folder, "part/times", "key", {"seconds": 1.0})
    place = result.folder.parent.parent / "weights" / "small"
    shutil.move(result.folder, place)
    return place / "part" / result.path.name


def test_a_published_result_counts_as_finished_and_is_copied(result, published):
    assert with_key(result, "another").finished() is None
    assert result.finished() == {"key": "key", "value": 2}
    assert torch.equal(load_file(result.path)["x"], X["x"])
    assert published.is_file()
    assert read_timing(result.folder, "part/times")["seconds"] == 1.0


def test_a_published_record_counts_without_tensors_too_large_to_publish(result, published):
    published.unlink()
    assert result.finished() == result.finished() == {"key": "key", "value": 2}
    assert not result.path.exists()


def test_ones_own_result_goes_before_a_published_one(result, published):
    result.write({"x": torch.zeros(1)}, {"value": 3})
    assert result.finished()["value"] == 3
    assert json.loads(published.with_suffix(".json").read_text())["value"] == 2


def test_the_first_measured_time_stays_until_parameters_or_machine_change(tmp_path, monkeypatch):
    first = timed(tmp_path, "search", "key", {"seconds": 1.0})
    assert first["seconds"] == 1.0 and first["key"] == "key" and "CPU" in first["machine"]
    path = tmp_path / "timings" / "search.json"
    before = path.stat().st_mtime_ns
    assert timed(tmp_path, "search", "key", {"seconds": 2.0}) == first == read_timing(tmp_path, "search")
    assert path.stat().st_mtime_ns == before
    assert timed(tmp_path, "other", "key", {"seconds": 3.0})["seconds"] == 3.0
    assert timed(tmp_path, "search", "new", {"seconds": 4.0})["seconds"] == 4.0
    monkeypatch.setattr(os, "cpu_count", lambda: 12345)
    assert timed(tmp_path, "search", "new", {"seconds": 5.0})["seconds"] == 5.0
    assert read_timing(tmp_path, "search")["seconds"] == 5.0
    shutil.rmtree(tmp_path / "timings")
    assert timed(tmp_path, "search", "new", {"seconds": 6.0})["seconds"] == 6.0


def test_a_results_time_is_kept_under_its_name(result, monkeypatch):
    result.timed({"seconds": 1.0})
    assert read_timing(result.folder, "part/result-0.5-1")["seconds"] == 1.0
    monkeypatch.setattr(records, "machine", lambda: "another")
    second = result.timed({"seconds": 2.0})
    assert 0.01 < second.pop("memory_gb") < 100  # of this process, in gigabytes
    assert second == {"key": "key", "machine": "another", "seconds": 2.0}


def test_the_cost_of_steps_is_that_of_the_results_at_hand(result, published, monkeypatch):
    """Published times count for published results, ones own for ones own, times of other parameters for none."""
    for name, key, seconds in (
        ("a/eas-0/pool", "key", 1.0),
        ("a/ofa-1/pool", "key", 3.0),
        ("a/eas-2/pool", "old", 9.0),
    ):
        Result(result.folder, result.folder / f"{name}.safetensors", "key").write(X, {})
        timed(result.folder, name, key, {"seconds": seconds})
    other = Result(result.folder, result.path.with_name("own-0.5-0.safetensors"), "key")
    other.write(X, {})
    monkeypatch.setattr(records, "machine", lambda: "a GPU")
    other.timed({"seconds": 2.0, "images": 100, "memory_gb": 1.5})
    shutil.copytree(result.folder / "timings", records.published_folder(result.folder) / "timings", dirs_exist_ok=True)
    table = records.cost_table(records.cost_rows(result.folder)).set_index("step")  # none counts twice
    assert set(table.index) == {"a/pool", "part/own-0.5"}
    assert table.loc["a/pool", ["runs", "seconds"]].tolist() == [2, 2.0]
    row = table.loc["part/own-0.5"]
    assert (row.images_per_second, row.memory_gb, row.machine) == (50, 1.5, "a GPU")


def test_what_a_seed_costs_where_one_machine_did_all_of_it():
    """The second seed's generator is of another machine; what is measured apart may be so, and is not in the sum."""
    times = {
        "supernets/none-0": 60, "supernets/own-0.1-0": 30, "supernets/branches/all-0.1-batch-64-0": 12,
        "supernets/branches/own-0/all-0.1-0": 500, "generators/eas-0/pool": 6, "generators/ofa-0/models": 4,
        "comparison/ofa-0/measured": 8, "comparison/ofa-0/tuned-0": 100, "comparison/eas-0/long": 7,
        "comparison/from_scratch/1": 900, "supernets/none-1": 60, "generators/ofa-1/pool": 6,
    }  # fmt: skip
    rows = pd.DataFrame({"name": list(times), "seconds": list(times.values())}).assign(machine="a GPU")
    rows.loc[rows.name.isin(["generators/ofa-1/pool", "comparison/ofa-0/tuned-0"]), "machine"] = "a CPU"
    (row,) = records.seed_costs(rows).itertuples()
    assert (row.seed, row.minutes, row.machine) == (0, 2.0, "a GPU")
    assert (row.supernets, row.branches, row.generators, row.comparison, row.apart) == (90, 12, 10, 8, 507)
    none = records.seed_costs(rows[rows.name == "comparison/from_scratch/1"])
    assert none.empty and "minutes" in none
