"""Damaged and hostile files: for every kind of file of ours, the same hundreds of them on every machine.

A case changes a file in place. Those of `damages` are such as disks, networks and careless hands make; those of
`documents` are texts whose values somebody chose; others are for one kind of file and stand under its name.
"""

import copy
import io
import json
import os
import random
import resource
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from eas.files import sealed

Change = Callable[[Path], None]
Cases = dict[str, Change]
HUGE = 2**40  # bytes of a file that holds nothing: it takes no disk


def memory_from_here() -> Callable[[], int]:
    """Measures from now on: what is returned tells how many more bytes this process has held at most since.

    Where the system can forget the peak, as Linux does: what larger tests before have held does not hide anything.
    """
    forget, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not forget.exists():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return lambda: (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    forget.write_text("5")

    def peak() -> int:
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    before = peak()
    return lambda: peak() - before


# -------------------------------------------------------------------- any file


def flipped(place: float, bit: int) -> Change:
    """One bit; `place` is a share of the file."""

    def change(path):
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 1 << bit
        path.write_bytes(content)

    return change


def spliced(place: float, cut: int, put: bytes) -> Change:
    """Some bytes replaced by others."""

    def change(path):
        content = path.read_bytes()
        at = int(place * len(content))
        path.write_bytes(content[:at] + put + content[at + cut :])

    return change


def cut_short(share: float) -> Change:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def holds(content: bytes) -> Change:
    return lambda path: path.write_bytes(content)


def replaced_by(make: Change) -> Change:
    """Something that is no file in its place."""

    def change(path):
        path.unlink()
        make(path)

    return change


def sparse(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(HUGE)


def damages(seed: int, flips: int = 14) -> Cases:
    """What may happen to any file."""
    draw = random.Random(seed)
    cases: Cases = {}
    for index in range(flips):  # half of them where most files tell what they are
        cases[f"bit {index}"] = flipped(draw.random() ** (3 if index % 2 else 1), draw.randrange(8))
    for index in range(4):
        cases[f"bytes {index}"] = spliced(draw.random(), draw.randrange(1, 40), draw.randbytes(draw.randrange(40)))
    for share in (0.0, 0.01, 0.3, 0.9, 0.9999):
        cases[f"cut to {share}"] = cut_short(share)
    return cases | {
        "noise": holds(draw.randbytes(3000)),
        "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
        "one byte": holds(b"{"),
        "UTF-16": lambda path: path.write_bytes(path.read_bytes().decode("latin-1").encode("utf-16")),
        "twice": lambda path: path.write_bytes(path.read_bytes() * 2),
        "zip": holds(zipped(b"0" * 10**6)),
        "a pickle": holds(b"cos\nsystem\n(S'touch hacked'\ntR."),
        "huge": sparse,
        "a folder": replaced_by(Path.mkdir),
        "a pipe": replaced_by(os.mkfifo),
        "a link to itself": replaced_by(lambda path: path.symlink_to(path)),
        "a link to nothing": replaced_by(lambda path: path.symlink_to(path.with_name("nothing"))),
        "a link to zeros without end": replaced_by(lambda path: path.symlink_to("/dev/zero")),
    }


def zipped(content: bytes) -> bytes:
    """Packed so that it unpacks to a thousand times as much."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", content)
    return target.getvalue()


# -------------------------------------------------------------------- texts


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


ODD = [  # values that stand where others should
    None,
    True,
    -1,
    0,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    10**30,
    2**63,
    -(10**400),
    "",
    "text",
    "two\nlines",
    "\x1b[2J\x1b]0;title\x07",
    "\u202eolleh",
    "\ud800",
    "../../../etc/passwd",
    "/etc/passwd",
    "a" * 100_000,
    [],
    {},
    [[]],
    {"a": {"b": None}},
    nested(60),
    ["a"] * 3,
    list(range(5000)),
]


def places(content: object, above: tuple = ()) -> list[tuple]:
    """The paths of all values in a document, of lists the first three only."""
    if isinstance(content, dict):
        inside = content.items()
    else:
        inside = enumerate(content[:3]) if isinstance(content, list) else ()
    return [path for key, value in inside for path in ((*above, key), *places(value, (*above, key)))]


def documents(content: dict, seed: int, count: int) -> dict[str, Callable[[dict], dict]]:
    """Changes of a document of JSON or YAML: a value replaced, taken away, or one more."""
    draw, every = random.Random(seed), places(content)

    def change(path, act):
        def changed(whole):
            whole = copy.deepcopy(whole)
            at = whole
            for key in path[:-1]:
                at = at[key]
            act(at, path[-1])
            return whole

        return changed

    cases = {}
    for index in range(count):
        path, value = draw.choice(every), ODD[index % len(ODD)]
        name = f"{index} {'.'.join(map(str, path))}: {str(value)[:12]!a}"
        cases[name] = change(path, lambda at, key, value=value: at.__setitem__(key, value))
    for index, path in enumerate(draw.sample(every, min(len(every), count // 4))):
        cases[f"without {index} {'.'.join(map(str, path))}"] = change(path, lambda at, key: at.pop(key))
    for name in ("surplus", "two\nlines", "\x1b[31m", "a" * 10_000):
        cases[f"one more: {name[:9]!a}"] = lambda whole, name=name: whole | {name: 1}
    return cases


JSON_TEXTS = {
    "deep": b"[" * 100_000,
    "deep objects": b'{"card":' * 50_000,
    "many digits": b"1" * 100_000,
    "not a number": b"NaN",
    "a list": b"[]",
    "null": b"null",
    "no UTF-8": b'{"format": "\xff\xfe"}',
    "half a character": b'{"format": "\\ud800"}',
}

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 10)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML_TEXTS = {
    "alias bomb": BOMB.encode(),
    "alias bomb of merges": MERGES.encode(),
    "alias bomb of text": ("a: &a " + "x" * 100_000 + "\nb: [" + "*a, " * 30_000 + "]").encode(),
    "holds itself": b"a: &a [*a]",
    "holds itself as a key": b"? &a [*a]\n: 1",
    "code": b"a: !!python/object/apply:os.system ['touch hacked']",
    "code by name": b"a: !!python/name:os.system ''",
    "code of a module": b"!!python/module:antigravity ''",
    "unknown tag": b"a: !secret x",
    "no number": b"a: !!int ''",
    "no truth": b"a: !!bool x",
    "no date": b"a: !!timestamp x",
    "no float": b"a: !!float x",
    "no binary": b"a: !!binary '\xc3\xa4'",
    "month 13": b"a: 2020-13-45",
    "many digits": b"a: " + b"9" * 5000,
    "sixty by sixty": b"a: " + b":".join([b"1"] * 5000),
    "deep": b"a: " + b"[" * 100_000,
    "deep blocks": b"".join(b" " * n + b"a:\n" for n in range(600)),
    "many anchors": b"".join(b"- &a%d x\n" % n for n in range(5000)),
    "a key twice": b"fruit: [apple]\nfruit: [pear]\n",
    "a key that is a list": b"? [a, b]\n: c",
    "a set": b"!!set {a, b}",
    "two documents": b"a: 1\n---\nb: 2\n",
    "an alias without anchor": b"a: *b",
    "control characters": b"a: \x00\x07",
    "a tab": b"a:\n\t- b",
    "large": b"a: [" + b"1, " * 200_000 + b"]",
}


def json_seal(content: dict) -> bytes:
    """A document as eas.files.write_json writes it, whatever it holds."""
    text = json.dumps({"seal": "0" * 64} | {key: value for key, value in content.items() if key != "seal"})
    return sealed(text.encode())


# -------------------------------------------------------------------- tensors

WRONG_TENSORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nan": lambda x: x.float().fill_(float("nan")),
    "infinite": lambda x: x.float().fill_(float("inf")),
    "half": torch.Tensor.half,
    "double": torch.Tensor.double,
    "bfloat16": torch.Tensor.bfloat16,
    "int8": torch.Tensor.char,
    "bool": torch.Tensor.bool,
    "complex": lambda x: x.to(torch.complex64),
    "bytes": torch.Tensor.byte,
    "shorter": lambda x: x.flatten()[:-1].clone(),
    "longer": lambda x: torch.cat([x.flatten(), x.flatten()]),
    "flat": lambda x: x.reshape(1, -1),
    "empty": lambda x: x.flatten()[:0].clone(),
}


def tensors(path: Path, seed: int, count: int) -> Cases:
    """Tensors of another type, shape or value, left out, or more; the metadata stay."""
    names = sorted(load_file(path))
    draw, cases = random.Random(seed), {}

    def change(act):
        def changed(path):
            content, told = load_file(path), metadata(path)
            act(content)
            save_file({name: each.contiguous() for name, each in content.items()}, path, told)

        return changed

    for index in range(count):
        (kind, wrong), name = list(WRONG_TENSORS.items())[index % len(WRONG_TENSORS)], draw.choice(names)
        cases[f"{kind} {index} {name}"] = change(lambda content, n=name, w=wrong: content.update({n: w(content[n])}))
    for name in draw.sample(names, min(3, len(names))):
        cases[f"without {name}"] = change(lambda content, n=name: content.pop(n))
    cases["one more"] = change(lambda content: content.update(more=torch.zeros(2)))
    cases["a name of two lines"] = change(lambda content: content.update({"a\nb\x1b[2J": torch.zeros(2)}))
    cases["nothing"] = change(dict.clear)
    return cases


def metadata(path: Path) -> dict[str, str]:
    """Of a safetensors file."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]).get("__metadata__", {})


def header(told: object, body: bytes = b"", size: int | None = None) -> bytes:
    """A safetensors file whose header is what somebody made up."""
    text = told if isinstance(told, bytes) else json.dumps(told).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def entry(shape: list[int], ends: list[int], kind: str = "F32") -> dict:
    return {"mean": {"dtype": kind, "shape": shape, "data_offsets": ends}}


HEADERS = {
    "a header of 2^63 bytes": header({}, size=2**63),
    "a header longer than the file": header({}, size=10**6),
    "no header": header(b"", b"x" * 100),
    "a deep header": header(b"[" * 100_000),
    "offsets beyond the end": header(entry([1], [10**15, 10**15 + 4]), b"1234"),
    "offsets that overlap": header(
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}} | entry([1], [0, 4]), b"1234"
    ),
    "a shape that overflows": header(entry([2**32, 2**32, 2**32], [0, 4]), b"1234"),
    "a negative shape": header(entry([-1], [0, 4]), b"1234"),
    "an unknown type": header(entry([1], [0, 4], "F7"), b"1234"),
    "a name twice": header(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"1234",
    ),
}

# -------------------------------------------------------------------- images


def png(width: int, height: int, rows: bytes | None = None, depth: int = 8, color: int = 0) -> bytes:
    """A grey PNG file of any size; black, unless `rows` are given: a bomb is some kB."""
    if rows is None:
        packer, line = zlib.compressobj(9), bytes(1 + width * depth // 8)
        rows = b"".join([*(packer.compress(line) for _ in range(height)), packer.flush()])
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)),
        (b"IDAT", rows),
        (b"IEND", b""),
    ]
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def with_text_bomb() -> bytes:
    """A PNG whose comment unpacks to a hundred million characters."""
    body = b"zTXtComment\0\0" + zlib.compress(b" " * 10**8, 9)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    small = png(8, 8)
    return small[:33] + chunk + small[33:]


def picture(kind: str, size: tuple[int, int] = (40, 30), **options) -> bytes:
    """A small photograph."""
    pixels = np.random.default_rng(0).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, kind, **options)
    return target.getvalue()


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(hacked) (w) file closefile\nshowpage\n%%EOF\n"
)


@cache
def image_files() -> dict[str, bytes]:
    """Files that are called images: to be read only, as some take seconds to make."""
    draw, files = random.Random(7), {}
    for kind in ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM"):
        whole = picture(kind)
        for index in range(4):
            content = bytearray(whole)
            content[int(draw.random() ** 3 * len(content))] ^= 1 << draw.randrange(8)
            files[f"{kind} bit {index}"] = bytes(content)
        for share in (0.05, 0.5, 0.95):
            files[f"{kind} cut to {share}"] = whole[: int(share * len(whole))]
    bomb = png(12_000, 12_000, depth=1)
    return files | {
        "nothing": b"",
        "text": b"hello",
        "noise": draw.randbytes(2000),
        "144 million pixels": bomb,
        "a strip of 60 million": png(60_000_000, 1, zlib.compress(bytes(7_500_001)), depth=1),
        "no pixels": png(0, 0),
        "2^31 pixels a side": png(2**31 - 1, 2**31 - 1, b""),
        "pixels that are not there": png(5000, 5000, zlib.compress(b"\0")),
        "a text bomb": with_text_bomb(),
        "a TIFF bomb": tiff(50_000, 50_000),
        "a progressive JPEG": picture("JPEG", (9000, 6000), progressive=True, quality=1),
        "PostScript": POSTSCRIPT,
        "a page of HTML": b"<html><script>alert(1)</script></html>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "a zip": zipped(b"0" * 10**6),
    }


def tiff(width: int, height: int) -> bytes:
    """A TIFF file that promises so many pixels and holds none."""
    entries = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    entries += [(278, 4, height), (279, 4, 4)]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)
