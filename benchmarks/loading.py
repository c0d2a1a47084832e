"""Benchmark 6: photographs to training batches, by torchvision's ImageFolder and DataLoader and by ours."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks import timing
from eas import data, devices
from eas.data.batches import batches
from eas.recipes import Augment

PEER, FILES, MAPPED = "ImageFolder", "eas, files", "eas, mapped file"
SIDES = (PEER, FILES, MAPPED)
IMAGES, CLASSES, PIXELS, BATCH = 600, 4, (500, 375), 64  # PIXELS: as ImageNet's photographs are in the middle
SIZES = (84, 224)  # of the batches' images
AUGMENT = Augment(shift=0, flip=True, crop=0.25, color=0.4)


def measure(images: int = IMAGES) -> pd.DataFrame:
    """Columns image_size, side, images_per_second, peak_mb (of the process that trains); seconds of an epoch, and more.

    Every side crops, flips and colours at random, with as many worker processes as there are processors. The mapped
    file is made once, before, which takes about as long as an epoch of the files.
    """
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), images)
        for size in SIZES:
            works = {side: prepare(side, folder, size) for side in SIDES}
            table = timing.compare(works, f"loading, {size} pixels").rename(columns={"work": "side"})
            peak = [timing.peak_memory(prepare, side, folder, size) for side in SIDES]
            tables.append(table.assign(image_size=size, images_per_second=images / table.seconds, peak_mb=peak))
    table = pd.concat(tables, ignore_index=True)
    return table[["image_size", *(column for column in table if column != "image_size")]]


def draw(folder: Path, images: int) -> None:
    """Smooth random JPEG files, in train/<superclass>/<class>/ and, a few, in test/."""
    rng = np.random.default_rng(0)
    for part, count in (("train", images), ("test", CLASSES)):
        for index in range(count):
            place = folder / part / f"group{index % CLASSES // 2}" / f"class{index % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            small = Image.fromarray(rng.integers(256, size=(24, 32, 3), dtype=np.uint8))
            small.resize(PIXELS, Image.Resampling.BICUBIC).save(place / f"{index}.jpg", quality=90)


def prepare(side: str, folder: str, size: int) -> timing.Work:
    """One side's epoch."""
    workers = devices.cpu_count()
    if side == PEER:
        steps = [v2.RandomResizedCrop(size, (AUGMENT.crop, 1.0)), v2.RandomHorizontalFlip()]
        steps += [v2.ColorJitter(*[AUGMENT.color] * 3), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
        found = ImageFolder(Path(folder) / "train", v2.Compose(steps))
        loader = DataLoader(found, BATCH, shuffle=True, num_workers=workers, drop_last=True)
        return partial(all_of, loader)
    most = 0.001 if side == FILES else 64.0
    fields = {"train": "train", "test": "test", "image_size": size, "selection": 0.01, "calibration": 0.01, "seed": 0}
    path = Path(folder) / f"{size}-{side}"
    if not path.is_file():
        data.make(data.Folder(**fields, most_gigabytes=most), folder, path)
    split = data.load(path).train

    def epoch() -> None:
        devices.reading_workers, before = (lambda: workers), devices.reading_workers
        all_of(batches(split, BATCH, AUGMENT, torch.Generator().manual_seed(0)))
        devices.reading_workers = before

    return epoch


def all_of(loader) -> None:
    """Take every batch."""
    for _ in loader:
        pass
