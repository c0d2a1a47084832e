"""Files that are there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, contiguous_format

UNSEALED = "0" * 64  # in the place of a file's SHA-256 while that is taken
MOST_TEXT = 2**23  # bytes of a card, or another text of ours
MOST_TENSORS = 2**32  # bytes of a file of tensors that is read as a whole


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A file to write in a folder of its own beside `path`, then renamed: no half-written one is ever found there.

    The folder's name cannot be guessed and only its owner may enter it: nobody can plant a link in it, and two writers
    do not meet. The file itself is open to whoever may read other new files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=path.parent) as folder:
        part = Path(folder) / path.name
        part.touch()
        mode = part.stat().st_mode  # safetensors' own files are open to nobody else
        yield part
        part.chmod(mode)
        synced(part)
        part.replace(path)
    synced(path.parent)


def synced(path: Path) -> None:
    """Have the system write a file, or a folder's list of files, to the disk: a power cut then finds it whole.

    Not where folders cannot be opened, as on Windows.
    """
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with beside(Path(path)) as part:
        part.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Write text in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_tensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write safetensors, whole or not at all: tensors of any layout and device, views of one another too.

    Equal content gives equal bytes, for which there is one entry of metadata at most. Large tensors are not copied.
    """
    if len(metadata or {}) > 1:
        raise ValueError("one entry of metadata at most: their order is not kept")
    plain, first = dict[str, Tensor](), dict[int, str]()
    for name, value in ((name, value.detach().cpu()) for name, value in tensors.items()):
        # What is not all of its memory, in order, or shares it, has to be copied.
        whole = value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes
        alone = first.setdefault(value.data_ptr(), name) == name
        plain[name] = value if whole and alone else value.clone(memory_format=contiguous_format)
    with beside(Path(path)) as part:
        try:
            save_file(plain, part, metadata)
        except SafetensorError as error:  # a full disk, say
            raise OSError(f"{path} cannot be written: {error}") from None


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -------------------------------------------------------------------- files that hold their own SHA-256


def sealed(content: bytes, seal: str = UNSEALED) -> bytes:
    """A file with its SHA-256 in the place of `seal`: that of the same file with UNSEALED there."""
    bare = content.replace(seal.encode(), UNSEALED.encode())
    return bare.replace(UNSEALED.encode(), hashlib.sha256(bare).hexdigest().encode())


def write_json(path: str | Path, text: str) -> None:
    """Write a JSON object, whole or not at all, with a seal before its entries."""
    write_bytes(path, sealed(text.replace("{", f'{{\n "seal": "{UNSEALED}",', 1).encode()))


def read_json(path: str | Path, most: int = MOST_TEXT) -> bytes:
    """What `write_json` wrote, without the seal; one of an older version has none. Errors: those of `read_bytes`.

    ValueError as well where the seal is broken: the file was changed since.
    """
    content = read_bytes(path, most)
    if seal := re.match(rb'{\s*"seal": "([0-9a-f]{64})",', content):
        if sealed(content, seal[1].decode()) != content:
            raise ValueError(f"{path} is damaged, or was changed: its SHA-256 is not the one that it holds")
        return b"{" + content[seal.end() :]
    return content


# -------------------------------------------------------------------- what others may have written


def reason(error: object) -> str:
    """What an error says, in one line that a terminal can show: texts from files may hold anything."""
    line = " ".join("".join(each if each.isprintable() else " " for each in str(error)).split())
    return line if len(line) <= 300 else f"{line[:297]}..."


def require_size(path: str | Path, most: int) -> None:
    """FileNotFoundError where there is no file, such as a pipe, of which no end comes; ValueError for a large one."""
    if not os.path.isfile(path):  # unlike Path.is_file, False for any name
        raise FileNotFoundError(f"{path} is missing, or no file")
    if (size := Path(path).stat().st_size) > most:
        raise ValueError(f"{path} is too large: {size / 1e6:,.0f} MB, but files like it have {most / 1e6:,.1f} at most")


def read_bytes(path: str | Path, most: int = MOST_TEXT) -> bytes:
    """What a file holds; errors as `require_size`."""
    require_size(path, most)
    return Path(path).read_bytes()


def read_tensors(path: str | Path, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors whose names begin with the prefix, which is taken off, and the metadata; ValueError if damaged.

    They are mapped: until their values are looked at they take no memory.
    """
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (not a dict)
            return {name.removeprefix(prefix): file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as err:
        raise ValueError(f"{path} is damaged, or no safetensors file: {reason(err)}") from None


def checksum(tensors: Mapping[str, Tensor], told: dict) -> int:
    """CRC-32 of what is told and then of all values, tensor after tensor in the order of their names."""
    value = zlib.crc32(json.dumps(told, sort_keys=True).encode())
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].contiguous().numpy(), value)
    return value
