"""Images that stay in their files until they are shown, and random crops and colours for each image by itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from eas import devices
from eas.data.images import read_pixels
from eas.files import reason
from eas.recipes import Augment

NAMED = 20  # problems that an error names; of more it tells the number
MOST_PIXELS = 4096  # a side
LOUD = 2000  # images from which on decoding shows a progress bar


class Photographs:
    """Image files in the place of uint8 images [n, 3, size, size]: rows are picked as of a tensor, and decoded later.

    ValueError, in one line that names all of them, where files that are decoded cannot be read.
    """

    dtype, ndim, device, is_cuda = torch.uint8, 4, torch.device("cpu"), False

    def __init__(self, paths: Iterable[Path | str], size: int):
        self.paths, self.size = np.array([str(path) for path in paths], dtype=object), size

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.paths), 3, self.size, self.size))

    @property
    def nbytes(self) -> int:
        """Of what they become."""
        return self.shape.numel()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: int | slice | Tensor) -> Photographs | Tensor:
        """One image, decoded; or several, which stay files."""
        if isinstance(rows, int):
            return read_pixels(self.paths[rows], self.size)
        return Photographs(self.paths[rows if isinstance(rows, slice) else rows.cpu().numpy()], self.size)

    def stored(self, folder: Path) -> dict[str, Tensor]:
        """As tensors: `files`, the paths as seen from a folder, in UTF-8, each with a zero behind it; and `size`."""
        text = "".join(os.path.relpath(path, folder) + "\0" for path in self.paths).encode()
        return {"files": torch.from_numpy(np.frombuffer(text, np.uint8).copy()), "size": torch.tensor(self.size)}

    @classmethod
    def restored(cls, stored: dict[str, Tensor], folder: Path) -> Photographs:
        """What `stored` stored."""
        paths, size = stored["files"].numpy().tobytes().decode().split("\0")[:-1], int(stored["size"])
        if not 0 < size <= MOST_PIXELS:
            raise ValueError(f"photographs of {size} pixels a side")
        return cls([os.path.normpath(folder / path) for path in paths], size)

    def split(self, count: int) -> list[Photographs]:
        """In pieces of so many."""
        return [self[start : start + count] for start in range(0, len(self), count)]

    def decoded(self, into: Path | None = None, problems: list[str] | None = None) -> Tensor:
        """The images; with `into` they lie in this new file, mapped into memory, and take none of their own.

        Where `problems` are given, what is wrong with files is added to them instead of being raised.
        """
        if into is None:
            images = torch.empty(self.shape, dtype=torch.uint8)
        else:
            with into.open("wb") as file:  # where the disk is full this is an error, and writing what is mapped the end
                if hasattr(os, "posix_fallocate"):  # not on macOS
                    os.posix_fallocate(file.fileno(), 0, max(1, self.nbytes))
            images = torch.from_file(str(into), shared=True, size=self.nbytes, dtype=torch.uint8).view(self.shape)

        def read(index: int) -> None:
            images[index] = self[index]

        found = self.every(read, "reading images").values()
        if problems is None:
            complain([*found])
        else:
            problems += found
        return images

    def unreadable(self) -> dict[str, str]:
        """Decode every file once, to nothing: what is wrong, by the paths of those that cannot be read."""
        return self.every(lambda index: self[index] is None, "checking images")

    def every(self, work: Callable[[int], object], label: str) -> dict[str, str]:
        """Do something with every index; returns what was wrong with files, by their paths."""

        def attempt(index: int) -> str:
            try:
                work(index)
            except ValueError as error:
                return str(error)
            return ""

        with ThreadPoolExecutor(devices.cpu_count()) as pool:  # decoding frees Python's lock
            told = pool.map(attempt, range(len(self)))
            quiet = {"disable": True} if len(self) < LOUD else {}  # said only where it is meant: a worker shows no bar
            told = tqdm(told, label, len(self), mininterval=1, **quiet)
            return {path: message for path, message in zip(self.paths, told, strict=True) if message}


def complain(problems: Sequence[str], what: str = "the image folders") -> None:
    """One ValueError, in one line, for all problems, where there are any; `what` is wrong."""
    if problems:
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        told = "; ".join(map(reason, problems[:NAMED]))  # names of files may hold anything
        raise ValueError(f"{what} cannot be used: {told}{more}")


# -------------------------------------------------------------------- batches, image by image


class ChangedImages:
    """What a loader's worker makes of (row, seed): the image, cropped and coloured at random by its seed."""

    def __init__(self, images: Tensor | Photographs, augment: Augment):
        if augment.by_image and find_spec("torchvision") is None:
            raise ModuleNotFoundError("crops and colours need torchvision: pip install 'eas[train]'")
        self.images, self.changes = images, changes(augment, images.shape[-1])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, shown: tuple[int, int]) -> Tensor:
        """Seeds torch's global generator, which torchvision draws from; `load_batches` puts that right."""
        row, seed = shown
        image = self.images[row]
        torch.default_generator.manual_seed(seed)
        for change in self.changes:
            image = change(image)
        return image


def changes(augment: Augment, size: int) -> list[Callable[[Tensor], Tensor]]:
    """A random part of the image, at its size, and other colours: torchvision's, as for ImageNet."""
    if not augment.by_image:
        return []
    from torchvision.transforms import v2

    crop = [v2.RandomResizedCrop(size, (augment.crop, 1.0), antialias=True)] if augment.crop < 1 else []
    if not augment.color:
        return crop
    # As floats in between: a quarter faster, and rounded once.
    to_float, to_bytes = (v2.ToDtype(kind, scale=True) for kind in (torch.float32, torch.uint8))
    return [*crop, to_float, v2.ColorJitter(*[augment.color] * 3), to_bytes]


def load_batches(
    images: Tensor | Photographs, rows: Sequence[Tensor], seeds: Tensor, augment: Augment, workers: int
) -> Iterator[Tensor]:
    """Batches of uint8 images [n, channels, size, size]: those of each of `rows`, int64; a seed for every image.

    The same, whether images lie in memory, in a mapped file or in files of their own, and however many workers read.
    """
    each = iter(seeds.tolist())
    batches = [[(row, next(each)) for row in some.tolist()] for some in rows]
    options = {"num_workers": workers, "multiprocessing_context": "fork" if workers else None}
    options["generator"] = torch.Generator()  # else the loader itself draws from the global one
    made = iter(DataLoader(ChangedImages(images, augment), batch_sampler=batches, collate_fn=torch.stack, **options))
    for _ in batches:
        with torch.random.fork_rng(devices=[]):
            batch = next(made)
        yield batch
