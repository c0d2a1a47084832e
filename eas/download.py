"""Fetch the published files of CIFAR-100 and check them, or take them from a mirror folder.

    python -m eas.data cifar100 [--to data]

The environment variable EAS_MIRROR may name a folder that holds the archive, or the files train, test and meta
(themselves or in cifar-100-python/): then nothing is downloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from tqdm.auto import tqdm

ADDRESS = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
ARCHIVE = "cifar-100-python.tar.gz"
ARCHIVE_MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
FOLDER = "cifar-100-python"
FILES = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
BOTH_WAYS = (
    "get it with `python -m eas.data cifar100` while online, or set EAS_MIRROR to a folder that holds "
    f"{ARCHIVE} or its files {', '.join(FILES)} and run the same command"
)
CHUNK = 1 << 16


def verify(folder: str | Path) -> None:
    """Check that `folder` holds the published files, to the byte.

    Raises:
        FileNotFoundError: a file is missing; the message says how to get it.
        ValueError: a file is damaged; the message names it.
    """
    for name, expected in FILES.items():
        path = Path(folder) / name
        if not path.is_file():
            raise FileNotFoundError(f"CIFAR-100: {path} is missing: {BOTH_WAYS}")
        if (found := md5(path)) != expected:
            raise ValueError(f"CIFAR-100: {path} is damaged (MD5 {found}, not {expected}): delete it and {BOTH_WAYS}")


def download(to: str | Path = "data", mirror: str | Path | None = None) -> Path:
    """Put the verified files into `to`/cifar-100-python and return that folder; files that are there are kept.

    Raises:
        ConnectionError: the address cannot be reached, or the connection broke; the next call continues.
        FileNotFoundError: the mirror folder holds neither the archive nor all the files.
        ValueError: the archive or a file is damaged.
    """
    to = Path(to)
    try:
        verify(to / FOLDER)
        return to / FOLDER
    except (FileNotFoundError, ValueError):
        (to / FOLDER).mkdir(parents=True, exist_ok=True)
    if mirror:
        take(Path(mirror), to / FOLDER)
        return to / FOLDER
    archive = to / ARCHIVE
    if not archive.is_file():
        fetch(ADDRESS, archive)
    unpack(archive, to / FOLDER)
    archive.unlink()  # all that is in it has been written and checked
    return to / FOLDER


def take(mirror: Path, folder: Path) -> None:
    """Copy the files from a mirror folder.

    Raises:
        FileNotFoundError: the mirror holds neither the archive nor all the files.
        ValueError: what it holds is damaged.
    """
    for place in (mirror, mirror / FOLDER):
        if all((place / name).is_file() for name in FILES):
            for name in FILES:
                with (place / name).open("rb") as source:
                    write_checked(source, folder / name)
            return
    if not (mirror / ARCHIVE).is_file():
        raise FileNotFoundError(f"EAS_MIRROR: {mirror} holds neither {ARCHIVE} nor the files {', '.join(FILES)}")
    unpack(mirror / ARCHIVE, folder)


def unpack(archive: Path, folder: Path) -> None:
    """Write the archive's three files, and nothing else from it, into `folder`.

    Raises:
        ValueError: the archive is damaged.
    """
    if (found := md5(archive)) != ARCHIVE_MD5:
        raise ValueError(f"CIFAR-100: {archive} is damaged (MD5 {found}, not {ARCHIVE_MD5}): delete it and {BOTH_WAYS}")
    with tarfile.open(archive) as files:
        for name in FILES:
            write_checked(files.extractfile(f"{FOLDER}/{name}"), folder / name)


def write_checked(source: BinaryIO, target: Path) -> None:
    """Write `source` beside `target`, check its MD5, and rename.

    Raises:
        ValueError: the content is not what was published; `target` is left as it was.
    """
    beside = target.with_name(target.name + ".part")
    with beside.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK)
    if (found := md5(beside)) != FILES[target.name]:
        beside.unlink()
        raise ValueError(f"CIFAR-100: {target.name} is damaged at its source (MD5 {found}, not {FILES[target.name]})")
    beside.replace(target)


def fetch(address: str, target: Path) -> None:
    """Download into `target`.part, continuing what is there, and rename when the MD5 is right.

    Raises:
        ConnectionError: offline, or the connection broke; the message says both ways to the data.
        ValueError: all came, but damaged; it is deleted.
    """
    part = target.with_name(target.name + ".part")
    try:
        receive(address, part)
    except (OSError, http.client.HTTPException) as err:
        kept = f"; {part} keeps what came, the next call continues" if part.is_file() else ""
        raise ConnectionError(f"CIFAR-100: cannot download {address} ({err}){kept}: {BOTH_WAYS}") from None
    if (found := md5(part)) != ARCHIVE_MD5:
        part.unlink()
        raise ValueError(f"CIFAR-100: {address} sent a damaged file (MD5 {found}), now deleted: {BOTH_WAYS}")
    part.replace(target)


def receive(address: str, part: Path) -> None:
    """Append to `part` what it lacks of the file at `address`.

    Raises:
        OSError: no connection, an HTTP error, or fewer bytes than announced.
    """
    start = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as err:
        if err.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # there is nothing after `start`; the MD5 will tell whether it is all
        raise
    continued = response.status == http.HTTPStatus.PARTIAL_CONTENT  # a server may ignore the range and send it all
    start = start if continued else 0
    total = start + int(response.headers["Content-Length"]) if "Content-Length" in response.headers else None
    bar = tqdm(desc=ARCHIVE, total=total, initial=start, unit="B", unit_scale=True, mininterval=1)
    with response, bar, part.open("ab" if continued else "wb") as file:
        while piece := response.read(CHUNK):
            file.write(piece)
            bar.update(len(piece))
    if total and part.stat().st_size < total:
        raise ConnectionError(f"the connection broke after {part.stat().st_size} of {total} bytes")


def md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """The command; an error is one line."""
    parser = argparse.ArgumentParser(prog="python -m eas.data", description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", choices=["cifar100"])
    parser.add_argument("--to", default="data", help="folder to put cifar-100-python/ into (default: data)")
    options = parser.parse_args(arguments)
    try:
        folder = download(options.to, os.environ.get("EAS_MIRROR"))
    except (OSError, ValueError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    print(f"{folder}: {', '.join(FILES)} (MD5 as published)")
    return 0
