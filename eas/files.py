"""Files that are there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, contiguous_format


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file in a folder of its own beside `path` and rename it, so that no half-written one is ever found there.

    The folder's name cannot be guessed and only its owner may enter it: nobody can plant a link in it, and two writers
    do not meet. The file itself is open to whoever may read other new files.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=path.parent) as beside:
        part = Path(beside) / path.name
        part.write_bytes(content)
        part.replace(path)


def write_text(path: str | Path, text: str) -> None:
    """Write text in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_tensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write safetensors, whole or not at all: tensors of any layout and device, views of one another too.

    Equal content gives equal bytes.
    """
    copies = {name: value.detach().cpu().clone(memory_format=contiguous_format) for name, value in tensors.items()}
    content = save(copies, metadata)
    write_bytes(path, with_sorted_metadata(content) if metadata else content)


def with_sorted_metadata(content: bytes) -> bytes:
    """Safetensors with their metadata in alphabetical order; the library's own changes from process to process."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[end:]


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
