"""Files that are there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, contiguous_format


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
    plain: dict[str, Tensor] = {}
    for name, value in ((name, value.detach().cpu()) for name, value in tensors.items()):
        # What is not all of its memory, in order, or shares it, has to be copied.
        whole = value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes
        alone = all(value.data_ptr() != other.data_ptr() for other in plain.values())
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
