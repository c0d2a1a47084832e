"""eas.download against a server on this machine; nothing here reaches the network."""

import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from eas import download

CONTENT = {name: name.encode() * 50_000 for name in ("train", "test", "meta")}


def digest(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def packed() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in CONTENT.items():
            member = tarfile.TarInfo(f"{download.FOLDER}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class Server(BaseHTTPRequestHandler):
    """Serves `archive`, from the byte that a Range header asks for; breaks off after `limit` bytes."""

    archive = packed()
    limit: int | None = None
    resumes = True
    ranges: list[str | None] = []

    def do_GET(self):
        asked = self.headers["Range"]
        Server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.resumes else 0
        if start >= len(self.archive):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.archive) - start))
        self.end_headers()
        self.wfile.write(self.archive[start:][: self.limit])

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def published(monkeypatch):
    """Small files take the place of the published ones."""
    monkeypatch.setattr(download, "FILES", {name: digest(content) for name, content in CONTENT.items()})
    monkeypatch.setattr(download, "ARCHIVE_MD5", digest(Server.archive))
    monkeypatch.setattr(download, "ADDRESS", "http://127.0.0.1:9/nothing-listens-here")
    monkeypatch.delenv("EAS_MIRROR", raising=False)


@pytest.fixture
def server(monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(download, "ADDRESS", f"http://127.0.0.1:{running.server_port}/{download.ARCHIVE}")
        monkeypatch.setattr(Server, "ranges", [])
        yield Server
        running.shutdown()


def test_downloads_and_leaves_only_the_files(server, tmp_path):
    folder = download.download(tmp_path)
    download.verify(folder)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(CONTENT)


def test_does_nothing_when_all_is_there(server, tmp_path):
    download.download(tmp_path)
    download.download(tmp_path)
    assert len(server.ranges) == 1


@pytest.mark.parametrize("resumes", [True, False])
def test_a_broken_download_is_continued(server, tmp_path, monkeypatch, resumes):
    monkeypatch.setattr(server, "limit", 300_000)
    with pytest.raises(ConnectionError, match="300000 of .* the next call continues"):
        download.download(tmp_path)
    monkeypatch.setattr(server, "limit", None)
    monkeypatch.setattr(server, "resumes", resumes)
    download.verify(download.download(tmp_path))
    assert server.ranges == [None, "bytes=300000-"]


def test_a_complete_part_is_not_downloaded_again(server, tmp_path):
    (tmp_path / f"{download.ARCHIVE}.part").write_bytes(server.archive)
    download.verify(download.download(tmp_path))


def test_a_damaged_download_is_deleted(server, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "archive", b"x" + server.archive[1:])
    with pytest.raises(ValueError, match="damaged"):
        download.download(tmp_path)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("inside", ["", download.FOLDER])
def test_takes_files_from_a_mirror(tmp_path, inside):
    mirror = tmp_path / "mirror" / inside
    mirror.mkdir(parents=True)
    for name, content in CONTENT.items():
        (mirror / name).write_bytes(content)
    download.verify(download.download(tmp_path / "data", tmp_path / "mirror"))


def test_takes_the_archive_from_a_mirror(tmp_path, monkeypatch, capsys):
    (tmp_path / download.ARCHIVE).write_bytes(Server.archive)
    monkeypatch.setenv("EAS_MIRROR", str(tmp_path))
    assert download.main(["cifar100", "--to", str(tmp_path / "data")]) == 0
    download.verify(tmp_path / "data" / download.FOLDER)
    assert (tmp_path / download.ARCHIVE).is_file()


def test_a_damaged_mirror_is_refused_and_leaves_the_target(tmp_path):
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content if name != "test" else b"damaged")
    with pytest.raises(ValueError, match="test is damaged"):
        download.download(tmp_path / "data", tmp_path)
    assert not (tmp_path / "data" / download.FOLDER / "test").exists()


def test_an_empty_mirror_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="EAS_MIRROR"):
        download.download(tmp_path / "data", tmp_path)


def test_offline_and_absent_is_one_line_with_both_ways(tmp_path, capsys):
    assert download.main(["cifar100", "--to", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "python -m eas.data cifar100" in message
    assert "EAS_MIRROR" in message


def test_verify_says_what_is_missing_or_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match="train is missing.*eas.data.*EAS_MIRROR"):
        download.verify(tmp_path)
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "meta").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="meta is damaged"):
        download.verify(tmp_path)


def test_the_manifest_lists_the_same_files(request, monkeypatch):
    monkeypatch.undo()
    manifest = (request.config.rootpath / "data.dvc").read_text()
    for name, expected in download.FILES.items():
        assert f"{download.FOLDER}/{name}\n    md5: {expected}" in manifest
