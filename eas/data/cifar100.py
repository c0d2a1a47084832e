"""CIFAR-100: reads the published files, and fetches them (`python -m eas.data cifar100 [--to data]`).

The variable EAS_CIFAR100 names the folder that holds cifar-100-python/ (by default data/); EAS_MIRROR one with the
published archive, or with train, test and meta (themselves or in cifar-100-python/): then nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import pickle
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Literal
from urllib.request import urlopen

import numpy as np
import torch
from tqdm import tqdm

from eas.data.base import SOURCES, Hierarchy, Source, Split
from eas.files import read_bytes, require_size, sha256, write_bytes

SUPERCLASSES = {
    "aquatic mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food containers": "bottle bowl can cup plate",
    "fruit and vegetables": "apple mushroom orange pear sweet_pepper",
    "household electrical devices": "clock keyboard lamp telephone television",
    "household furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large carnivores": "bear leopard lion tiger wolf",
    "large man-made outdoor things": "bridge castle house road skyscraper",
    "large natural outdoor scenes": "cloud forest mountain plain sea",
    "large omnivores and herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium-sized mammals": "fox porcupine possum raccoon skunk",
    "non-insect invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles 1": "bicycle bus motorcycle pickup_truck train",
    "vehicles 2": "lawn_mower rocket streetcar tank tractor",
}

FOLDER = "cifar-100-python"
FILES = {  # and their MD5
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
ARCHIVE = f"{FOLDER}.tar.gz"
ARCHIVE_SHA256 = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
MOST_BYTES = 2**28  # of the archive, and of a file: the largest has 169 MB
ADDRESS = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"


@SOURCES.register
class Cifar100(Source):
    """The 50,000 training and 10,000 test images as published, labels renumbered superclass after superclass."""

    kind: Literal["cifar100"] = "cifar100"
    about = (
        "*Images: **CIFAR-100** (Krizhevsky 2009), real photographs of 32 x 32 pixels: 100 classes in 20 "
        "superclasses of 5.*"
    )

    def hierarchy(self, root: str | Path = ".") -> Hierarchy:
        return Hierarchy.from_groups({name: classes.split() for name, classes in SUPERCLASSES.items()})

    def load(self, root: str | Path = ".") -> tuple[Split, Split]:
        place = data_folder(root)
        try:
            contents = read(place)
        except (FileNotFoundError, ValueError) as err:
            raise type(err)(f"{err}: {both_ways(place)}") from None
        contents = {name: pickle.loads(content, encoding="latin1") for name, content in contents.items()}
        classes = self.hierarchy().classes
        order = torch.tensor([classes.index(name) for name in contents["meta"]["fine_label_names"]])

        def split(content: dict) -> Split:
            images = torch.from_numpy(np.array(content["data"])).view(-1, 3, 32, 32)
            return Split(images, order[torch.tensor(content["fine_labels"])])

        return split(contents["train"]), split(contents["test"])

    @staticmethod
    def fetch(to: str | Path | None = None) -> Path:
        """Put the checked files into `to`/cifar-100-python and return that folder; nothing is done where they are.

        Raises:
            OSError: no connection, no room, or a mirror folder with neither the archive nor all the files.
            ValueError: what came, or is in the mirror folder, is damaged.
        """
        to = Path(to).expanduser() if to else data_folder(".")
        folder, mirror = to / FOLDER, os.environ.get("EAS_MIRROR")
        try:
            read(folder)
        except (FileNotFoundError, ValueError):
            contents = read(Path(mirror).expanduser(), "EAS_MIRROR") if mirror else download(to)
            for name, content in contents.items():
                write_bytes(folder / name, content)
        return folder


def data_folder(root: str | Path) -> Path:
    """The folder that holds cifar-100-python/."""
    return Path(os.environ.get("EAS_CIFAR100") or Path(root) / "data").expanduser()


def both_ways(to: Path) -> str:
    return (
        f"get it with `python -m eas.data cifar100 --to {to}` while online, or set EAS_MIRROR to a folder that holds "
        f"{ARCHIVE} or its files {', '.join(FILES)} and run the same command"
    )


def read(place: Path, called: str = "CIFAR-100") -> dict[str, bytes]:
    """The very bytes that were checked of the published files in a folder, its cifar-100-python/ or its archive.

    Raises:
        FileNotFoundError: the folder holds none of the three.
        ValueError: a file is damaged; the message names it.
    """
    for folder in (place, place / FOLDER):
        if all((folder / name).is_file() for name in FILES):
            return {name: checked(read_bytes(folder / name, MOST_BYTES), folder / name) for name in FILES}
    archive = place / ARCHIVE
    if not archive.is_file():
        raise FileNotFoundError(f"{called}: {place} holds neither the files {', '.join(FILES)} nor {ARCHIVE}")
    require_size(archive, MOST_BYTES)
    try:
        with tarfile.open(archive, "r:gz") as files:
            packed = {name: files.extractfile(f"{FOLDER}/{name}") for name in FILES}
            return {name: checked(file.read(MOST_BYTES), archive / name) for name, file in packed.items()}
    except (tarfile.TarError, zlib.error, OSError, EOFError, KeyError, AttributeError) as err:
        raise ValueError(f"CIFAR-100: {archive} is damaged ({err})") from None


def checked(content: bytes, path: Path) -> bytes:
    """The content itself; ValueError where it is not the published file of this path's name."""
    if (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != FILES[path.name]:
        raise ValueError(f"CIFAR-100: {path} is damaged (MD5 {found}, not {FILES[path.name]})")
    return content


def download(to: Path) -> dict[str, bytes]:
    """The published files from the network; `to` holds the archive meanwhile.

    Raises:
        ConnectionError: offline, or it came damaged or not whole; the message says both ways to the data.
    """
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to) as beside:
        try:
            receive(Path(beside) / ARCHIVE)
        except (OSError, http.client.HTTPException) as err:
            raise ConnectionError(f"CIFAR-100: cannot download {ADDRESS} ({err}): {both_ways(to)}") from None
        return read(Path(beside))


def receive(archive: Path) -> None:
    """Write what comes from the address; OSError where that is too large, or another file than the published one."""
    with urlopen(ADDRESS) as answer, archive.open("wb") as file, tqdm(unit="B", unit_scale=True, leave=False) as bar:
        bar.total = answer.length
        while piece := answer.read(2**16):
            file.write(piece)
            bar.update(len(piece))
            if file.tell() > MOST_BYTES:
                raise OSError(f"more than {MOST_BYTES / 1e6:.0f} MB came")
    if (found := sha256(archive)) != ARCHIVE_SHA256:
        raise OSError(f"what came has the SHA-256 {found}, not {ARCHIVE_SHA256}")
