"""Results: whole or not at all, found by their key, and what is damaged, published or of other parameters."""

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from study_cases import changed, one_line, times

from eas import data
from eas.files import sha256, write_tensors, write_text
from eas.recipes import Augment, Dropout, Start, Training
from pipeline import store
from pipeline.store import Result, Workspace, make_key, open_workspace

X = {"x": torch.arange(300.0)}
KEY = "0123456789abcdef"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def result(study, tmp_path):
    return Result(
        Workspace(study, tmp_path / "build" / "tiny", tmp_path / "weights" / "tiny"), "part/result-0.5-1", KEY
    )


def with_key(result, key):
    return Result(result.workspace, result.name, key)


def published_from(result):
    """Move what was made to where the repository publishes it."""
    shutil.copytree(result.workspace.folder, result.workspace.published, dirs_exist_ok=True)
    shutil.rmtree(result.workspace.folder)


def find_and_change_nothing(result):
    """What `find` says; it touches no file and no folder."""
    top = result.workspace.folder.parents[1]
    before = times(top)
    found = result.find()
    assert times(top) == before
    return found


# -------------------------------------------------------------------- made here


def test_a_result_is_there_only_with_its_record_and_the_same_key(result):
    assert find_and_change_nothing(result) is None
    write_tensors(X, result.path)
    assert find_and_change_nothing(result) is None
    written = result.write(X, {"value": 1.5})
    assert written == find_and_change_nothing(result)
    assert written == {"key": KEY, "sha256": sha256(result.path), "value": 1.5}
    assert torch.equal(result.tensors()["x"], X["x"]) and result.tensor_path() == result.path
    assert find_and_change_nothing(with_key(result, "another")) is None
    assert result.find() == written == told(result)


def test_what_is_too_large_for_a_record_or_tensors_of_ours_is_no_result(result, monkeypatch):
    record = result.write(X, {})
    sizes = {"MOST_TENSORS": result.path.stat().st_size, "MOST_RECORD": len(result.record_text())}
    for name, size in sizes.items():
        with monkeypatch.context() as patch:
            patch.setattr(store, name, size)
            assert result.find() == record
            patch.setattr(store, name, size - 1)
            assert result.find() is None


def test_a_record_is_written_for_readers_too(result):
    result.write({}, {"value": 2})
    assert '\n "key": "0123456789abcdef",\n "sha256": null,\n "value": 2\n}\n' in result.record_text()


def test_a_result_may_have_no_tensors(result):
    assert result.write({}, {"value": 2}) == find_and_change_nothing(result) == {"key": KEY, "sha256": None, "value": 2}
    assert not result.path.exists() and result.tensor_path() is None
    result.fetch()
    assert result.find()["value"] == 2


def test_a_record_whose_tensors_were_deleted_is_no_result(result):
    result.write(X, {})
    result.path.unlink()
    assert find_and_change_nothing(result) is None
    with pytest.raises(FileNotFoundError, match="is missing: only its record was published; EAS_FRESH=1 makes it here"):
        result.tensors()


def test_a_record_never_stands_beside_tensors_of_other_parameters(result, monkeypatch):
    result.write(X, {})
    other = with_key(result, "another")
    monkeypatch.setattr(store, "write_json", lambda *args: 1 / 0)  # killed between the two
    with pytest.raises(ZeroDivisionError):
        other.write({"x": torch.zeros(2)}, {})
    assert result.find() is other.find() is None and not result.path.with_suffix(".json").exists()


DAMAGED_RECORDS = {
    "empty": b"",
    "garbage": bytes(range(256)),
    "no JSON": b"{'key': 1}",
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "text": b'"key"',
    "nested deeply": b"[" * 100_000,
    "another key": b'{"key": "another", "sha256": null}',
    "a key of another type": b'{"key": ["0123456789abcdef"], "sha256": null}',
    "a hash of another type": b'{"key": "0123456789abcdef", "sha256": 5}',
    "no hash": b'{"key": "0123456789abcdef"}',
    "the hash of other tensors": b'{"key": "0123456789abcdef", "sha256": "' + b"0" * 64 + b'"}',
}


def told(result):
    """What the record's file tells, without its seal."""
    content = json.loads(result.record_text())
    assert len(content.pop("seal")) == 64
    return content


@pytest.mark.parametrize("name", DAMAGED_RECORDS)
def test_with_a_damaged_record_there_is_no_result(name, result):
    record = result.write(X, {})
    result.path.with_suffix(".json").write_bytes(DAMAGED_RECORDS[name])
    assert find_and_change_nothing(result) is None
    assert result.write(X, {}) == find_and_change_nothing(result) == record  # made again
    assert torch.equal(result.tensors()["x"], X["x"])


@pytest.mark.parametrize("name", DAMAGED_RECORDS)
def test_a_damaged_record_that_is_published_is_none_or_refused(name, result):
    result.write(X, {})
    published_from(result)
    result.published_path.with_suffix(".json").write_bytes(DAMAGED_RECORDS[name])
    if "hash" in name:
        with pytest.raises(ValueError, match="is damaged: its SHA-256 is not the one in its record"):
            result.find()
    else:
        assert find_and_change_nothing(result) is None
    assert result.write(X, {}) == find_and_change_nothing(result)  # made here, whatever is published


def test_a_record_cut_short_anywhere_is_none(result):
    result.write(X, {"value": [1, 2, {"name": "ü"}]})
    path, text = result.path.with_suffix(".json"), result.path.with_suffix(".json").read_bytes()
    for end in range(len(text) - 2):  # the last two are a bracket and a line's end
        path.write_bytes(text[:end])
        assert result.find() is None
    path.write_bytes(text)
    assert result.find()["value"] == [1, 2, {"name": "ü"}]


def test_tensors_with_any_flipped_byte_are_none(result):
    result.write(X, {})
    whole, rng = result.path.read_bytes(), random.Random(0)
    for place in [0, 8, len(whole) - 1, *rng.sample(range(len(whole)), 30)]:
        content = bytearray(whole)
        content[place] ^= 1 << rng.randrange(8)
        result.path.write_bytes(content)
        assert find_and_change_nothing(result) is None
    result.path.write_bytes(whole)
    assert result.find()


# -------------------------------------------------------------------- published


def test_a_published_result_is_found_where_it_is_and_fetched_whole(result):
    record = result.write(X, {"value": 2})
    published_from(result)
    assert find_and_change_nothing(with_key(result, "another")) is None
    assert find_and_change_nothing(result) == record and not result.workspace.folder.exists()
    assert torch.equal(result.tensors()["x"], X["x"]) and told(result) == record
    result.fetch()
    assert torch.equal(load_file(result.path)["x"], X["x"]) and result.published_path.is_file()
    before = times(result.workspace.folder)
    result.fetch()
    assert times(result.workspace.folder) == before and result.find() == record


def test_nothing_is_fetched_where_nothing_is_published(result, monkeypatch):
    result.fetch()
    alone = Result(Workspace(result.workspace.study, result.workspace.folder), result.name, KEY)
    alone.fetch()
    assert not result.workspace.folder.exists()
    result.write({}, {})
    published_from(result)
    monkeypatch.chdir(result.workspace.published)  # the folder one is in is no place of results
    assert alone.find() is None and result.find()


def test_a_published_record_holds_without_tensors_that_were_too_large_to_publish(result):
    record = result.write(X, {"value": 2})
    published_from(result)
    result.published_path.unlink()
    assert find_and_change_nothing(result) == record
    for _ in range(2):
        result.fetch()
        assert result.find() == record and not result.path.exists() and result.path.with_suffix(".json").is_file()
        before = times(result.workspace.folder)
    result.fetch()
    assert times(result.workspace.folder) == before
    with pytest.raises(FileNotFoundError, match="part/result-0.5-1.safetensors is missing: only its record was publ"):
        result.tensors()


def test_what_was_made_here_goes_before_what_is_published(result):
    result.write(X, {"value": 2})
    published_from(result)
    result.write({"x": torch.zeros(1)}, {"value": 3})
    assert find_and_change_nothing(result)["value"] == 3
    result.fetch()
    assert result.find()["value"] == 3 and len(result.tensors()["x"]) == 1
    assert json.loads(result.published_path.with_suffix(".json").read_text())["value"] == 2


@pytest.mark.parametrize("whole", [True, False])
def test_what_lies_here_of_other_parameters_is_not_taken_for_what_is_published(result, whole):
    """Whether or not the tensors were published as well."""
    result.write(X, {"value": 2})
    published_from(result)
    if not whole:
        result.published_path.unlink()
    with_key(result, "another").write({"x": torch.zeros(1)}, {"value": 3})
    for _ in range(2):  # before and after it is fetched
        assert find_and_change_nothing(result)["value"] == told(result)["value"] == 2
        if whole:
            assert torch.equal(result.tensors()["x"], X["x"])
        else:
            assert result.tensor_path() is None
        result.fetch()
    assert with_key(result, "another").find() is None


@pytest.mark.parametrize("place", [0, 9, 200, -1])
def test_published_tensors_that_are_not_those_of_their_record_are_refused_in_one_line(place, result):
    result.write(X, {})
    published_from(result)
    content = bytearray(result.published_path.read_bytes())
    content[place] ^= 4
    result.published_path.write_bytes(content)
    for call in (result.find, result.fetch, result.tensors):
        with pytest.raises(ValueError, match="part/result-0.5-1.safetensors is damaged: its SHA-256") as caught:
            call()
        one_line(caught)
    assert not result.path.exists()
    assert with_key(result, "another").find() is None  # of no interest then
    result.write(X, {"value": 4})
    assert result.find()["value"] == 4  # one's own


# -------------------------------------------------------------------- keys


def key(step="step", params=None, **job):
    return make_key(
        step, {"training": Training(epochs=1, batch_size=2, learning_rate=0.1, random_subnets=1)} | (params or {}), job
    )


HOLDER = """
import sys, time
from pipeline.store import Result, open_workspace
with Result(open_workspace("tiny", sys.argv[1]), "part/result", "key").made_once():
    print("held", flush=True)
    time.sleep(60)
"""


def test_what_another_process_makes_is_waited_for_until_that_ends_or_is_killed(tmp_path, capsys):
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    result = Result(open_workspace("tiny", tmp_path), "part/result", "key")
    with result.made_once() as there:  # nobody else
        assert there is None
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    killer = threading.Timer(0.5, holder.kill)
    start = time.monotonic()
    killer.start()
    with result.made_once() as there:
        assert there is None and 0.2 < time.monotonic() - start < 30  # it left nothing
    holder.wait()
    assert "part/result: another run is making it, and is waited for" in capsys.readouterr().out


def test_what_was_made_meanwhile_is_not_made_again(result, capsys):
    with ThreadPoolExecutor(1) as pool:
        with result.made_once():
            second = pool.submit(lambda: enter(result))
            while "is waited for" not in capsys.readouterr().out:
                time.sleep(0.01)
            record = result.write(X, {"top1": 1.0})
        assert second.result() == record


def enter(result):
    with result.made_once() as there:
        return there


def test_equal_content_has_equal_keys_in_any_order():
    first = make_key("step", {"a": 1, "b": (1, 2)}, {"x": {"u": 1, "v": 2}, "y": 3})
    assert first == make_key("step", {"b": [1, 2], "a": 1}, {"y": 3, "x": {"v": 2, "u": 1}})
    assert len(first) == 16 and int(first, 16) >= 0
    others = [("other", {"a": 1}, {}), ("step", {"a": 2}, {}), ("step", {"b": 1}, {}), ("step", {}, {"a": 1})]
    assert len({make_key(*each) for each in [("step", {"a": 1}, {}), *others]}) == 5


def test_a_parameter_at_its_default_is_no_part_of_a_key_all_the_way_down():
    class Newer(Training):
        nesterov: bool = True

    old = {"epochs": 1, "batch_size": 2, "learning_rate": 0.1, "random_subnets": 1}
    spelled = Training(**old, momentum=0.9, augment=Augment(shift=2))
    assert key() == key(params={"training": spelled}) == key(params={"training": Newer(**old)})
    others = [Training(**old, momentum=0.8), Training(**old, augment=Augment(flip=True)), Newer(**old, nesterov=False)]
    assert len({key(), *(key(params={"training": other}) for other in others)}) == 4
    own, late = Dropout(variant="own", rate=0.5), Dropout(variant="own", rate=0.5, begin=0.5)
    assert key(dropout=own) == key(dropout=Dropout(variant="own", rate=0.5, begin=0.0)) != key(dropout=late)


def test_sections_in_lists_and_what_json_has_not_are_plain_in_keys_too():
    class Placed(Dropout):
        place: Path = Path("there")
        times: frozenset[int] = frozenset()

    told = {"variant": "own", "rate": 0.5}
    own, placed = Dropout(**told), Placed(**told, place=Path("here"), times=frozenset({3}))
    assert store.plain({"dropout": [own, (placed,)]}) == {"dropout": [told, [told | {"place": "here", "times": [3]}]]}


def test_two_kinds_do_not_look_alike_though_a_kind_is_a_default(study):
    other = study.data.model_dump() | {"kind": "other"}
    assert make_key("step", {"data": study.data}, {}) != make_key("step", {"data": other}, {})


# -------------------------------------------------------------------- workspaces and costs


def test_a_workspace_is_that_of_the_study_under_the_root(tmp_path, monkeypatch):
    shutil.copy(store.Path(__file__).parents[2] / "params.yaml", tmp_path)
    workspace = open_workspace("tiny", tmp_path)
    assert (workspace.folder, workspace.published) == (tmp_path / "build" / "tiny", tmp_path / "weights" / "tiny")
    assert workspace.dataset_path == tmp_path / "build" / "tiny" / "dataset.safetensors"
    assert open_workspace("tiny", tmp_path, fresh=True).published is None
    monkeypatch.setenv("EAS_FRESH", "1")
    assert open_workspace("tiny", tmp_path).published is None
    with pytest.raises(FileNotFoundError, match="dataset.safetensors is missing: run notebooks/01_superclasses first"):
        workspace.dataset()
    assert not (tmp_path / "build").exists()


def test_a_study_of_a_file_of_its_own_is_made_beside_that_file(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "load_study", lambda *given: given)
    own = open_workspace("mine/study.yaml", tmp_path)
    assert own == Workspace(("mine/study.yaml", tmp_path), tmp_path / "mine" / "build" / "study")
    assert open_workspace("tiny", tmp_path).study == ("tiny", tmp_path)
    assert open_workspace("tiny").folder == Path("build/tiny") and open_workspace("a.yaml").folder == Path("build/a")


def test_images_are_made_where_they_are_missing(study, tmp_path, monkeypatch):
    made, workspace = [], Workspace(study, tmp_path / "build" / "tiny")
    monkeypatch.setattr(store.data, "make", lambda *given: made.append(given))
    workspace.make_images()
    assert made == [(study.data, tmp_path, workspace.dataset_path)]
    workspace.folder.mkdir(parents=True)
    workspace.dataset_path.touch()
    workspace.make_images()
    assert len(made) == 1


def test_a_sealed_workspace_is_the_same_without_test_images(workspace):
    sealed = workspace.seal()
    assert sealed == dataclasses.replace(workspace, sealed=True) != workspace
    whole, seen = workspace.dataset(), sealed.dataset()
    assert len(whole.test) and not len(seen.test) and torch.equal(seen.train.labels, whole.train.labels)


def test_images_that_other_parameters_made_are_refused(workspace):
    """Of another size, say: where 01_superclasses was not run again."""
    assert len(workspace.dataset().train)
    for name, value in {"image_size": 24, "selection": 0.2, "seed": 1}.items():
        source = workspace.study.data.model_copy(update={name: value})
        other = Workspace(workspace.study.model_copy(update={"data": source}), workspace.folder)
        with pytest.raises(ValueError, match="made .* by other parameters, .* there now: run .* again$") as caught:
            other.dataset()
        one_line(caught)


def test_a_cost_tells_the_machine_and_the_memory():
    assert f"{os.cpu_count()} CPUs, no GPU" in store.machine()
    before, block = store.peak_memory(), torch.ones(2**26)
    assert 0.01 < before <= store.peak_memory() < 100 and store.peak_memory() > 0.25 and len(block)


def test_images_of_other_files_than_are_there_now_are_refused(workspace):
    dataset, other = workspace.dataset(), Workspace(workspace.study, workspace.folder)
    other.__dict__["fingerprint"] = {"fingerprint": "of these files"}
    data.save(dataclasses.replace(dataset, fingerprint="of these files"), workspace.dataset_path)
    assert len(other.dataset().train)
    with pytest.raises(ValueError, match="made of other images"):
        workspace.dataset()
    data.save(dataclasses.replace(dataset, source=""), workspace.dataset_path)  # as an older version made it
    assert len(workspace.dataset().train)
    with pytest.raises(ValueError, match="made of other images"):
        other.dataset()


def test_other_weights_to_start_from_are_another_result(study, tmp_path):
    write_text(tmp_path / "start.safetensors", "one")
    started = changed(study, training={"start": Start(weights="start.safetensors")})
    first = Workspace(started, tmp_path / "build" / "tiny").fingerprint
    write_text(tmp_path / "start.safetensors", "another")
    second = Workspace(started, tmp_path / "build" / "tiny").fingerprint
    assert first != second and first.keys() == {"start"}
    assert (
        Workspace(started, tmp_path / "elsewhere" / "build" / "tiny").fingerprint == {}
    )  # it is said where it is read
    named = changed(study, training={"start": Start(weights="imagenet")})  # what the space knows does not change
    assert (
        Workspace(named, tmp_path / "build" / "tiny").fingerprint
        == Workspace(study, tmp_path / "build" / "tiny").fingerprint
        == {}
    )


def test_a_machine_is_told_by_its_processor_what_that_can_and_its_gpu(monkeypatch):
    monkeypatch.setattr(store.platform, "processor", lambda: "")
    monkeypatch.setattr(store.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(store.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(store.devices, "has_amx", lambda: False)
    assert store.machine() == "x86_64 with AVX512, 2 CPUs, no GPU"
    monkeypatch.setattr(store.platform, "processor", lambda: "a processor")
    monkeypatch.setattr(store.devices, "has_amx", lambda: True)
    monkeypatch.setattr(store.devices, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert store.machine() == "a processor with AVX512 and AMX, 2 CPUs, a GPU"


def test_memory_is_that_of_the_gpu_if_a_job_used_one_and_else_the_process_s(monkeypatch):
    monkeypatch.setattr(store.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=2_000_000))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 5e9)
    for device, used, expected in (("cpu", True, 2.048), ("cuda", False, 2.048), ("cuda", True, 5.0)):
        monkeypatch.setattr(store.devices, "device", lambda device=device: torch.device(device))
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda used=used: used)
        assert store.peak_memory() == expected
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    with monkeypatch.context() as patch:
        patch.setattr(store.sys, "platform", "darwin")
        assert store.peak_memory() == 0.002
