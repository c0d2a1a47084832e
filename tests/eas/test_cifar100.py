"""CIFAR-100: made-up files and the real ones are read, and fetched from a server on this machine at most."""

import hashlib
import io
import os
import pickle
import tarfile
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from eas import data
from eas.data import Cifar100, cifar100
from eas.data.__main__ import main

ROOT = Path(__file__).parents[2]
SOURCE = Cifar100(image_size=32, selection=0.1, calibration=0.04, seed=0)
REAL = cifar100.data_folder(ROOT)
PRESENT = (REAL / cifar100.FOLDER / "train").is_file()
NAMES = sorted(SOURCE.hierarchy().classes)
PIXELS = np.arange(40 * 3072, dtype=np.uint32).astype(np.uint8).reshape(40, 3072)
CONTENT = {  # of the published form, with images that are not; fine labels count in the published, sorted order
    "train": pickle.dumps({"data": PIXELS, "fine_labels": list(range(40))}),
    "test": pickle.dumps({"data": PIXELS[::-1], "fine_labels": list(range(99, 59, -1))}),
    "meta": pickle.dumps({"fine_label_names": NAMES}),
}


def packed(content=CONTENT, compression="gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:
        for name, part in content.items():
            member = tarfile.TarInfo(f"{cifar100.FOLDER}/{name}")
            member.size = len(part)
            archive.addfile(member, io.BytesIO(part))
    return buffer.getvalue()


class Server(BaseHTTPRequestHandler):
    """Serves `archive`, and breaks off after `limit` bytes."""

    archive = packed()
    limit: int | None = None
    asked = 0

    def do_GET(self):
        Server.asked += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.archive)))
        self.end_headers()
        with suppress(ConnectionError):  # who asked has heard enough
            self.wfile.write(self.archive[: self.limit])

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def published(monkeypatch):
    """Small files take the place of the published ones."""
    digests = {name: hashlib.md5(content).hexdigest() for name, content in CONTENT.items()}
    monkeypatch.setattr(cifar100, "FILES", digests)
    monkeypatch.setattr(cifar100, "ARCHIVE_SHA256", hashlib.sha256(Server.archive).hexdigest())
    monkeypatch.setattr(cifar100, "ADDRESS", "http://127.0.0.1:9/nothing-listens-here")
    monkeypatch.delenv("EAS_MIRROR", raising=False)
    monkeypatch.delenv("EAS_CIFAR100", raising=False)


@pytest.fixture
def server(monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(cifar100, "ADDRESS", f"http://127.0.0.1:{running.server_port}/{cifar100.ARCHIVE}")
        monkeypatch.setattr(Server, "asked", 0)
        yield Server
        running.shutdown()


def write(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (CONTENT | changes).items():
        (folder / name).write_bytes(content)
    return folder


def complete(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == CONTENT


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -------------------------------------------------------------------- reading


def test_missing_images_are_looked_for_under_the_root_and_both_ways_to_them_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        data.build(SOURCE, tmp_path)
    message = one_line(caught)
    assert f"CIFAR-100: {tmp_path}/data holds neither the files train, test, meta nor" in message
    assert f"python -m eas.data cifar100 --to {tmp_path}/data" in message and "EAS_MIRROR" in message


@pytest.mark.parametrize(("variable", "place"), [("{}/own", "own"), ("~/own", "own"), ("", "root/data")])
def test_a_variable_names_the_folder(variable, place, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EAS_CIFAR100", variable.format(tmp_path))
    write(tmp_path / place / cifar100.FOLDER)
    assert len(SOURCE.load(tmp_path / "root")[0]) == 40


def test_labels_are_renumbered_superclass_after_superclass(tmp_path):
    write(tmp_path / "data" / cifar100.FOLDER)
    train, test = SOURCE.load(str(tmp_path))
    classes = SOURCE.hierarchy().classes
    assert [classes[label] for label in train.labels] == NAMES[:40]
    assert [classes[label] for label in test.labels] == NAMES[:59:-1]
    assert train.images.shape == (40, 3, 32, 32) and train.images.dtype == torch.uint8
    assert np.array_equal(test.images.numpy().reshape(40, -1), PIXELS[::-1])


class Harmful:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("damaged", CONTENT)
def test_a_damaged_file_is_named_before_it_is_opened(damaged, tmp_path):
    folder = write(tmp_path / "data" / cifar100.FOLDER, **{damaged: pickle.dumps(Harmful(tmp_path / "harm"))})
    with pytest.raises(ValueError, match=f"{folder / damaged} is damaged .*EAS_MIRROR") as caught:
        SOURCE.load(tmp_path)
    assert one_line(caught) and not (tmp_path / "harm").exists()


@pytest.mark.parametrize("swapped", CONTENT)
def test_what_is_unpickled_is_what_was_checked(swapped, tmp_path, monkeypatch):
    """Whoever swaps a file as soon as its checksum was taken, is too late."""
    folder = write(tmp_path / "data" / cifar100.FOLDER)
    taken = hashlib.md5

    def swap(content, **options):
        (folder / swapped).write_bytes(pickle.dumps(Harmful(tmp_path / "harm")))
        return taken(content, **options)

    monkeypatch.setattr(cifar100.hashlib, "md5", swap)
    try:
        assert len(SOURCE.load(tmp_path)[0]) == 40
    except ValueError as err:
        assert "is damaged" in str(err)
    assert not (tmp_path / "harm").exists()


@pytest.mark.skipif(not PRESENT, reason="no CIFAR-100: python -m eas.data cifar100, or set EAS_CIFAR100")
def test_the_real_cifar100(monkeypatch):
    monkeypatch.undo()
    dataset, indices = data.build(SOURCE, ROOT)
    assert {name: len(getattr(dataset, name)) for name in data.SPLITS} == {
        "train": 43_000,
        "selection": 5_000,
        "calibration": 2_000,
        "test": 10_000,
    }
    assert all((getattr(dataset, name).labels.bincount().unique().numel()) == 1 for name in data.SPLITS)
    assert len(dataset.hierarchy.superclasses) == 20
    assert dataset.hierarchy.parent.bincount().tolist() == [5] * 20
    assert dataset.train.images.shape[1:] == (3, 32, 32)
    assert dataset.mean == pytest.approx([0.507, 0.487, 0.441], abs=0.003)
    assert dataset.std == pytest.approx([0.267, 0.256, 0.276], abs=0.003)
    assert not dataset.synthetic and "real photographs" in dataset.about
    # The published coarse labels put the same classes together.
    published = pickle.loads((REAL / cifar100.FOLDER / "train").read_bytes(), encoding="latin1")
    coarse = torch.tensor(published["coarse_labels"])[indices["train"]]
    assert torch.equal(dataset.hierarchy.parent[dataset.train.labels], coarse)
    with pytest.raises(ValueError, match="^cifar100 has 32 pixels, not 16$"):
        data.build(SOURCE.model_copy(update={"image_size": 16}), ROOT)


# -------------------------------------------------------------------- fetching


def test_downloads_and_leaves_only_the_files(server, tmp_path):
    assert Cifar100.fetch(tmp_path / "new") == tmp_path / "new" / cifar100.FOLDER
    assert complete(tmp_path) and [path.name for path in (tmp_path / "new").iterdir()] == [cifar100.FOLDER]


def test_does_nothing_when_all_is_there(server, tmp_path):
    for _ in range(2):
        Cifar100.fetch(tmp_path)
    assert server.asked == 1
    write(tmp_path / cifar100.FOLDER, test=b"damaged")
    Cifar100.fetch(tmp_path)
    assert server.asked == 2 and complete(tmp_path)


def test_a_broken_download_says_so_and_leaves_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "limit", 1000)
    with pytest.raises(ConnectionError, match=r"cannot download http.*EAS_MIRROR") as caught:
        Cifar100.fetch(tmp_path)
    assert one_line(caught) and not list(tmp_path.iterdir())
    monkeypatch.setattr(server, "limit", None)
    assert complete(Cifar100.fetch(tmp_path))


def test_a_damaged_download_says_so_and_leaves_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "archive", packed(CONTENT | {"test": b"damaged"}))
    with pytest.raises(ConnectionError, match="what came has the SHA-256 ") as caught:
        Cifar100.fetch(tmp_path)
    assert one_line(caught) and not list(tmp_path.iterdir())


def test_a_download_without_an_end_is_broken_off_and_leaves_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar100, "MOST_BYTES", 10**6)
    monkeypatch.setattr(server, "archive", bytes(10**8))
    with pytest.raises(ConnectionError, match="more than 1 MB came.*EAS_MIRROR") as caught:
        Cifar100.fetch(tmp_path)
    assert one_line(caught) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["train", cifar100.ARCHIVE])
def test_a_mirror_of_too_large_files_is_refused_unread(name, tmp_path, monkeypatch):
    if name != cifar100.ARCHIVE:
        write(tmp_path / "mirror")
    (tmp_path / "mirror").mkdir(exist_ok=True)
    with (tmp_path / "mirror" / name).open("wb") as file:
        file.truncate(10**12)
    monkeypatch.setenv("EAS_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(ValueError, match=f"mirror/{name} is too large") as caught:
        Cifar100.fetch(tmp_path / "data")
    assert one_line(caught) and not (tmp_path / "data").exists()


def test_an_archive_that_unpacks_to_too_much_is_damaged(tmp_path, monkeypatch):
    (tmp_path / cifar100.ARCHIVE).write_bytes(packed(CONTENT | {"train": bytes(10**7)}))
    monkeypatch.setattr(cifar100, "MOST_BYTES", 10**6)
    monkeypatch.setenv("EAS_MIRROR", str(tmp_path))
    with pytest.raises(ValueError, match=f"{cifar100.ARCHIVE}/train is damaged"):
        Cifar100.fetch(tmp_path / "data")


@pytest.mark.parametrize("inside", ["", cifar100.FOLDER])
@pytest.mark.parametrize("mirror", ["{}/mirror", "~/mirror"])
def test_takes_files_from_a_mirror(mirror, inside, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EAS_MIRROR", mirror.format(tmp_path))
    write(tmp_path / "mirror" / inside)
    assert complete(Cifar100.fetch(tmp_path / "data"))


def test_takes_the_archive_from_a_mirror_and_leaves_it_there(tmp_path, monkeypatch, capsys):
    (tmp_path / cifar100.ARCHIVE).write_bytes(Server.archive)
    monkeypatch.setenv("EAS_MIRROR", str(tmp_path))
    assert main(["cifar100", "--to", str(tmp_path / "data")]) == 0
    assert complete(tmp_path / "data") and (tmp_path / cifar100.ARCHIVE).is_file()
    assert capsys.readouterr().out == f"{tmp_path}/data/{cifar100.FOLDER}: as published\n"


def test_a_damaged_mirror_is_refused_and_leaves_the_target(tmp_path, monkeypatch):
    write(tmp_path / "mirror", test=b"damaged")
    monkeypatch.setenv("EAS_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(ValueError, match="mirror/test is damaged"):
        Cifar100.fetch(tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "archive",
    [
        b"",
        b"no archive at all" * 100,
        Server.archive[:1000],
        packed(CONTENT | {"meta": b"damaged"}),
        packed({"train": CONTENT["train"]}),
        Server.archive[:1000] + b"damage" + Server.archive[1006:],
    ],
)
def test_a_damaged_archive_is_refused_in_one_line(archive, tmp_path, monkeypatch):
    (tmp_path / cifar100.ARCHIVE).write_bytes(archive)
    monkeypatch.setenv("EAS_MIRROR", str(tmp_path))
    with pytest.raises(ValueError, match="is damaged") as caught:
        Cifar100.fetch(tmp_path / "data")
    assert cifar100.ARCHIVE in one_line(caught) and not (tmp_path / "data").exists()


def test_an_archive_may_put_nothing_else_anywhere(tmp_path, monkeypatch):
    (tmp_path / cifar100.ARCHIVE).write_bytes(packed(CONTENT | {"../../evil": b"x", "more": b"y"}))
    monkeypatch.setenv("EAS_MIRROR", str(tmp_path))
    assert complete(Cifar100.fetch(tmp_path / "data" / "deep"))
    assert not list(tmp_path.rglob("evil"))


def test_an_empty_mirror_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EAS_MIRROR", str(tmp_path / "nothing"))
    assert main(["cifar100", "--to", str(tmp_path / "data")]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: EAS_MIRROR: {tmp_path}/nothing") and message.count("\n") == 1


def test_offline_and_absent_is_one_line_with_both_ways(tmp_path, capsys):
    assert main(["cifar100", "--to", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: CIFAR-100: cannot download") and message.count("\n") == 1
    assert f"python -m eas.data cifar100 --to {tmp_path}" in message and "EAS_MIRROR" in message


def test_the_command_writes_where_the_study_reads(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["cifar100"]) == 0 and complete(tmp_path / "data")
    assert main(["cifar100", "--to", "~/else"]) == 0 and complete(tmp_path / "else")
    monkeypatch.setenv("EAS_CIFAR100", "~/own")
    assert main(["cifar100"]) == 0 and complete(tmp_path / "own")
    assert len(SOURCE.load("anywhere")[0]) == 40


def test_only_what_can_be_fetched_is_offered(capsys):
    with pytest.raises(SystemExit):
        main(["glyphs"])
    assert "choose from cifar100" in capsys.readouterr().err.replace("'", "")


def test_the_manifest_lists_the_same_files(monkeypatch):
    monkeypatch.undo()
    manifest = (ROOT / "data.dvc").read_text()
    for name, expected in cifar100.FILES.items():
        assert f"{cifar100.FOLDER}/{name}\n    md5: {expected}" in manifest
