"""Data sets, hierarchies, splits, and batches on the device."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from eas import config
from eas.config import Augment, Study, suggestion

SPLITS = ("train", "selection", "calibration", "test")

ABOUT = {  # what every page that shows a data set says about it
    "glyphs": "*Images: **glyphs**, a synthetic data set. Characters of ten writing systems (the superclasses), "
    "rendered from the DejaVu typefaces with random distortion and noise; the test images use typefaces kept out of "
    "training. What holds here need not hold on photographs.*",
    "cifar100": "*Images: **CIFAR-100** (Krizhevsky 2009), real photographs of 32 x 32 pixels: 100 classes in 20 "
    "superclasses of 5.*",
}


def about(study: Study) -> str:
    """What every page of a study says about its images, and whatever else its parameters note; Markdown."""
    return f"{ABOUT[study.data.name]} *{study.note}*" if study.note else ABOUT[study.data.name]


CIFAR100_FOLDER = "cifar-100-python"
CIFAR100_SUPERCLASSES = {
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


@dataclass(frozen=True)
class Hierarchy:
    """Maps classes to superclasses, which may differ in size. `members[s]` names the classes of superclass s."""

    superclasses: tuple[str, ...]
    members: tuple[tuple[str, ...], ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes, superclass after superclass; a label is an index into this."""
        return tuple(name for group in self.members for name in group)

    @property
    def parent(self) -> Tensor:
        """The superclass of every class, int64 [classes]."""
        sizes = torch.tensor([len(group) for group in self.members])
        return torch.arange(len(sizes)).repeat_interleave(sizes)

    def kept(self, names: Iterable[str]) -> Tensor:
        """The classes of the named superclasses and classes, bool [classes].

        Raises:
            ValueError: nothing is named, or a name is neither a superclass nor a class.
        """
        kept = torch.zeros(len(self.classes), dtype=torch.bool)
        for name in (names := list(names)):
            if name in self.superclasses:
                kept |= self.parent == self.superclasses.index(name)
            elif name in self.classes:
                kept[self.classes.index(name)] = True
            else:
                known = self.superclasses + self.classes
                raise ValueError(
                    f"unknown superclass or class {name!r}{suggestion(name, known)}; superclasses: "
                    f"{', '.join(self.superclasses)}; classes: {' '.join(self.classes)}"
                )
        if not names:
            raise ValueError("the set of classes is empty: name at least one superclass or class")
        return kept


@dataclass(frozen=True)
class Split:
    """Images uint8 [n, channels, size, size] and labels int64 [n], on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, kept: Tensor) -> Split:
        """The images of the kept classes (bool [classes]); labels stay as they are."""
        chosen = kept.to(self.labels.device)[self.labels]
        return Split(self.images[chosen], self.labels[chosen])

    def to(self, device: str | torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """The four splits of a study's images, the hierarchy of their classes, and each channel's mean and deviation."""

    hierarchy: Hierarchy
    train: Split
    selection: Split
    calibration: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to(self, device: str | torch.device) -> Dataset:
        splits = {name: getattr(self, name).to(device) for name in SPLITS}
        return Dataset(self.hierarchy, mean=self.mean, std=self.std, **splits)


# -------------------------------------------------------------------- the published images


def hierarchy(name: str) -> Hierarchy:
    """The hierarchy of a data set: 'glyphs' or 'cifar100'."""
    if name == "glyphs":
        from eas.glyphs import SUPERCLASSES

        return Hierarchy(tuple(SUPERCLASSES), tuple(tuple(characters) for characters in SUPERCLASSES.values()))
    groups = tuple(tuple(names.split()) for names in CIFAR100_SUPERCLASSES.values())
    return Hierarchy(tuple(CIFAR100_SUPERCLASSES), groups)


def load_images(data: config.Data, root: str | Path = ".") -> tuple[Split, Split]:
    """The images to learn from and the test images of a data set, as published (glyphs: as rendered)."""
    if data.name == "glyphs":
        from eas.glyphs import TEST_TYPEFACES, TRAIN_TYPEFACES, render

        shape = {"image_size": data.image_size, "per_typeface": data.per_typeface}
        train = Split(*render(TRAIN_TYPEFACES, seed=data.seed, **shape))
        return train, Split(*render(TEST_TYPEFACES, seed=data.seed + 1, **shape))
    folder = Path(os.environ.get("EAS_CIFAR100", Path(root) / "data")) / CIFAR100_FOLDER
    return read_cifar100(folder / "train"), read_cifar100(folder / "test")


def read_cifar100(path: Path) -> Split:
    """One published file of CIFAR-100, labels renumbered superclass after superclass.

    Raises:
        FileNotFoundError, ValueError: the file is missing or damaged (see eas.download.verify).
    """
    from eas.download import verify

    verify(path.parent)
    content = pickle.loads(path.read_bytes(), encoding="latin1")  # the MD5 above vouches for the pickle
    images = torch.from_numpy(np.array(content["data"])).view(-1, 3, 32, 32)
    names = pickle.loads((path.parent / "meta").read_bytes(), encoding="latin1")["fine_label_names"]
    order = torch.tensor([hierarchy("cifar100").classes.index(name) for name in names])
    return Split(images, order[torch.tensor(content["fine_labels"])])


# -------------------------------------------------------------------- splits


def divide(labels: Tensor, fractions: dict[str, float], seed: int) -> dict[str, Tensor]:
    """Indices into `labels` for each named fraction and, under 'train', for the rest: stratified, disjoint, sorted.

    Raises:
        ValueError: a class has too few images to be in every part.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {name: [] for name in (*fractions, "train")}
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator)]
        sizes = [round(fraction * len(rows)) for fraction in fractions.values()]
        sizes.append(len(rows) - sum(sizes))
        if min(sizes) < 1:
            raise ValueError(f"class {label} has {len(rows)} images, too few for parts of {fractions}: add images")
        for name, part in zip(parts, rows.split(sizes), strict=True):
            parts[name].append(part)
    return {name: torch.cat(rows).sort().values for name, rows in parts.items()}


def build(study: Study, root: str | Path = ".") -> tuple[Dataset, dict[str, Tensor]]:
    """The data set of a study and the indices of its splits into the published training and test images.

    Raises:
        FileNotFoundError: the published images are not there; the message says how to get them.
        ValueError: they are damaged, or of another size than the study asks for.
    """
    known, test = load_images(study.data, root)
    if known.images.shape[-1] != study.data.image_size:
        raise ValueError(f"{study.data.name} has {known.images.shape[-1]} pixels, not {study.data.image_size}")
    fractions = {"selection": study.data.selection, "calibration": study.data.calibration}
    indices = divide(known.labels, fractions, study.data.seed)
    splits = {name: Split(known.images[rows], known.labels[rows]) for name, rows in indices.items()}
    indices["test"] = torch.arange(len(test))
    pixels = splits["train"].images.double() / 255
    mean, std = pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3)).tolist()
    return Dataset(hierarchy(study.data.name), test=test, mean=tuple(mean), std=tuple(std), **splits), indices


def split_table(dataset: Dataset, indices: dict[str, Tensor]) -> pd.DataFrame:
    """The splits as data: published (train or test), index (among those images), split, class, superclass."""
    names, parents = np.array(dataset.hierarchy.classes), np.array(dataset.hierarchy.superclasses)
    parents = parents[dataset.hierarchy.parent]
    tables = []
    for split in SPLITS:
        labels = getattr(dataset, split).labels
        columns = {"published": "test" if split == "test" else "train", "index": indices[split], "split": split}
        tables.append(pd.DataFrame(columns | {"class": names[labels], "superclass": parents[labels]}))
    return pd.concat(tables, ignore_index=True)


def save(dataset: Dataset, path: str | Path) -> None:
    """Write a data set as safetensors: beside, then renamed."""
    tensors = {"mean": torch.tensor(dataset.mean), "std": torch.tensor(dataset.std)}
    for name in SPLITS:
        split = getattr(dataset, name)
        tensors |= {f"{name}.images": split.images.contiguous(), f"{name}.labels": split.labels.contiguous()}
    save_tensors(tensors, path)


def load(study: Study, path: str | Path) -> Dataset:
    """Read what `save` wrote for this study.

    Raises:
        FileNotFoundError: the file is missing; the message says which step writes it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing: run notebooks/01_superclasses for the study {study.name} first")
    with safe_open(path, "pt") as file:
        splits = {n: Split(file.get_tensor(f"{n}.images"), file.get_tensor(f"{n}.labels")) for n in SPLITS}
        mean, std = (tuple(file.get_tensor(name).tolist()) for name in ("mean", "std"))
    return Dataset(hierarchy(study.data.name), mean=mean, std=std, **splits)


def save_tensors(tensors: dict[str, Tensor], path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write safetensors beside `path` and rename, so that no half-written file is ever found there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    beside.write_bytes(serialised(content, metadata))  # what safetensors itself writes, only its owner may read
    beside.rename(path)


# -------------------------------------------------------------------- batches


def batches(split: Split, size: int, augment: Augment, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order: float images [size, channels, side, side] in [0, 1] and labels; the rest is left out.

    `generator` is on the split's device; a split smaller than `size` is one batch.
    """
    size = min(size, len(split))
    order = torch.randperm(len(split), generator=generator, device=split.labels.device)
    for rows in order[: len(order) // size * size].split(size):
        yield as_input(change(split.images[rows], augment, generator)), split.labels[rows]


def as_input(images: Tensor) -> Tensor:
    """uint8 images as float in [0, 1]."""
    return images.float().div_(255)


def change(images: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
    """Shift, flip and cut out each image at random, the whole batch at once; uint8 [n, channels, side, side]."""
    count, _, side, _ = images.shape
    device = images.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (count, 1), generator=generator, device=device)

    def reflect(index: Tensor) -> Tensor:
        return side - 1 - (side - 1 - index.abs()).abs()

    base = torch.arange(side, device=device)
    rows, columns = (reflect(base + draw(2 * augment.shift + 1) - augment.shift) for _ in range(2))  # [n, side]
    if augment.flip:
        columns = torch.where(draw(2).bool(), columns, columns.flip(1))
    each = torch.arange(count, device=device)[:, None, None]
    picked = images.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None]]
    images = picked.permute(0, 3, 1, 2)
    if augment.cutout:
        offsets = [base - draw(side) + augment.cutout // 2 for _ in range(2)]
        inside = [(offset >= 0) & (offset < augment.cutout) for offset in offsets]
        images = images.masked_fill((inside[0][:, :, None] & inside[1][:, None])[:, None], 0)
    return images


if __name__ == "__main__":  # python -m eas.data cifar100: the command stands here, where users look for data
    import sys

    from eas.download import main

    sys.exit(main())
