"""Files are written whole or not at all, by whoever writes and into whatever lies there."""

import hashlib
import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from eas import files


@pytest.fixture
def full_disk(monkeypatch):
    """Every write fails midway."""

    def fail_midway(path, content):
        with path.open("wb") as file:
            file.write(b"half of")
        raise OSError("no space left on device")

    def fail_to_save(tensors, path, metadata):
        with path.open("wb") as file:
            file.write(b"half of")
        raise SafetensorError("I/O error: no space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail_midway)
    monkeypatch.setattr(files, "save_file", fail_to_save)


WRITES = {
    "text": lambda path: files.write_text(path, "new"),
    "bytes": lambda path: files.write_bytes(path, b"new"),
    "tensors": lambda path: files.write_tensors({"new": torch.ones(3)}, path, {"of": "no use"}),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_failed_write_leaves_what_was_there_and_nothing_else(write, before, tmp_path, full_disk):
    path = tmp_path / "file"
    if before:
        with path.open("wb") as file:
            file.write(before)
    with pytest.raises(OSError, match="no space"):
        write(path)
    assert (path.read_bytes() if path.exists() else None) == before
    assert list(tmp_path.iterdir()) == ([path] if before else [])


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_file_is_on_the_disk_before_it_has_its_name(write, tmp_path, monkeypatch):
    path, synced, sync = tmp_path / "file", [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda opened: synced.append((inode(opened), path.exists())) or sync(opened))
    write(path)
    assert synced == [(path.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


def inode(opened):
    return os.fstat(opened).st_ino


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_replaces_what_was_there_and_leaves_nothing_else(write, tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    write(path)
    first = path.read_bytes()
    path.write_bytes(b"other")
    write(str(path))
    assert path.read_bytes() == first and list(path.parent.iterdir()) == [path]


def test_what_cannot_be_replaced_is_an_error_that_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        files.write_text(tmp_path / "folder", "text")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"] and not list((tmp_path / "folder").iterdir())


def test_links_are_replaced_and_never_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    for name in ("file", "file.part", ".file.part"):
        (tmp_path / name).symlink_to(victim)
    files.write_text(tmp_path / "file", "text")
    assert victim.read_text() == "untouched"
    assert (tmp_path / "file").read_text() == "text" and not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_whoever_may_read_other_new_files_may_read_these(write, umask, tmp_path):
    before = os.umask(umask)
    try:
        write(tmp_path / "file")
        (tmp_path / "other").write_text("")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "other")]
    assert modes == [0o666 & ~umask] * 2


def test_writers_of_one_file_do_not_meet(tmp_path):
    path, texts = tmp_path / "file", [str(number) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: [files.write_text(path, text) for _ in range(20)], texts))
    assert path.read_text() in texts and list(tmp_path.iterdir()) == [path]


def test_text_is_utf8_and_keeps_its_line_ends(tmp_path):
    files.write_text(tmp_path / "file", "Ω\r\nя\n")
    assert (tmp_path / "file").read_bytes() == "Ω\r\nя\n".encode()


def test_tensors_of_any_layout_are_written(tmp_path):
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last).requires_grad_()
    written = {"weight": weight, "part": weight[:, :1], "none": weight[:0], "again": weight, "row": weight[0]}
    files.write_tensors(written, tmp_path / "file")
    read = load_file(tmp_path / "file")
    assert read.keys() == written.keys() and read["none"].shape == (0, 3, 2, 2)
    assert all(torch.equal(read[name], value) for name, value in written.items())


def test_without_metadata_the_bytes_are_those_of_safetensors(tmp_path):
    tensors = {"b": torch.randn(3), "a": torch.arange(5)}
    files.write_tensors(tensors, tmp_path / "ours")
    save_file(tensors, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_equal_content_gives_equal_bytes_with_tensors_unharmed(tmp_path):
    tensors = {"b": torch.randn(3), "a": torch.arange(5), "c": torch.randn(2, 2, dtype=torch.float64)}
    metadata = {"told": '"Ω"\n\\' * 3}
    for name in ("one", "other"):
        files.write_tensors(tensors, tmp_path / name, metadata)
        with safe_open(tmp_path / name, "pt") as file:
            assert file.metadata() == metadata
        assert all(torch.equal(tensors[key], value) for key, value in load_file(tmp_path / name).items())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    with pytest.raises(ValueError, match="one entry of metadata"):
        files.write_tensors(tensors, tmp_path / "two", metadata | {"more": ""})


def test_large_tensors_are_written_without_a_copy(tmp_path):
    code = (
        "import sys, torch, resource; from eas import files; path, small = sys.argv[1:];"
        "large = torch.from_file(path, shared=True, size=2**28, dtype=torch.uint8).fill_(7);"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; files.write_tensors({'x': large}, small);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "mapped", tmp_path / "written"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(ran.stdout) < 2**16 and (tmp_path / "written").stat().st_size > 2**28  # kibibytes: a quarter of a copy


def test_sha256_is_that_of_the_content(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)
    assert (
        files.sha256(tmp_path / "file") == files.sha256(str(tmp_path / "file")) == hashlib.sha256(content).hexdigest()
    )


def test_ten_times_as_many_tensors_take_about_ten_times_as_long(tmp_path):
    def seconds(count):
        tensors, start = {str(index): torch.zeros(1) for index in range(count)}, time.process_time()
        files.write_tensors(tensors, tmp_path / "file")
        return time.process_time() - start

    assert min(seconds(5000) for _ in range(3)) < 30 * min(seconds(500) for _ in range(3))
