"""Hierarchies, splits and data sets; where they come from, and the file that keeps one."""

from __future__ import annotations

import json
import math
import tempfile
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from eas.data.photographs import Photographs, complain
from eas.files import checksum, read_tensors, reason, write_tensors
from eas.registry import Finite, Fraction, Registry, Section, suggestion

SOURCES = Registry()
SAMPLED = 20_000  # images that the statistics of files are taken from
MOST_ON_DEVICE = 8 * 2**30  # bytes of the images of a split
SPLITS = ("train", "selection", "calibration", "test")


@dataclass(frozen=True)
class Hierarchy:
    """Maps classes to superclasses, which may differ in size. `members[s]` names the classes of superclass s.

    ValueError, in one line, where a superclass is empty or a name has more than one meaning, or cannot be printed.
    """

    superclasses: tuple[str, ...]
    members: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if not self.superclasses or len(self.superclasses) != len(self.members):
            raise ValueError(f"{len(self.superclasses)} superclasses with {len(self.members)} groups of classes")
        if empty := [name for name, group in zip(self.superclasses, self.members, strict=True) if not group]:
            raise ValueError(f"superclasses without classes: {', '.join(empty)}")
        if repeated := [name for name, times in Counter(self.superclasses + self.classes).items() if times > 1]:
            raise ValueError(f"names of more than one superclass or class: {', '.join(repeated)}")
        if bad := [name for name in self.superclasses + self.classes if not (name and name.isprintable())]:
            raise ValueError(f"names that are empty, or cannot be printed: {', '.join(map(repr, bad))}")

    @classmethod
    def from_groups(cls, groups: Mapping[str, Iterable[str]]) -> Hierarchy:
        """From the name of every superclass to the names of its classes, in this order."""
        return cls(tuple(groups), tuple(tuple(names) for names in groups.values()))

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes, superclass after superclass; a label is an index into this."""
        return tuple(name for group in self.members for name in group)

    @property
    def parent(self) -> Tensor:
        """The superclass of every class, int64 [classes]."""
        sizes = torch.tensor([len(group) for group in self.members])
        return torch.arange(len(sizes)).repeat_interleave(sizes)

    def class_mask(self, names: Iterable[str]) -> Tensor:
        """The classes of the named superclasses and classes, bool [classes].

        ValueError where nothing is named, or a name is neither a superclass nor a class.
        """
        class_mask = torch.zeros(len(self.classes), dtype=torch.bool)
        for name in (names := list(names)):
            if name in self.superclasses:
                class_mask |= self.parent == self.superclasses.index(name)
            elif name in self.classes:
                class_mask[self.classes.index(name)] = True
            else:
                close = suggestion(name, self.superclasses + self.classes)
                known = f"superclasses: {', '.join(self.superclasses)}; classes: {' '.join(self.classes)}"
                raise ValueError(f"unknown superclass or class {name!r}{close}; {known}")
        if not names:
            raise ValueError("the set of classes is empty: name at least one superclass or class")
        return class_mask


@dataclass(frozen=True)
class Split:
    """Images uint8 [n, channels, size, size], or files of such, and labels int64 [n].

    Labels say on which device batches are; images are there as well, or in the memory of the CPU, if too large for it.
    """

    images: Tensor | Photographs
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor | slice) -> Split:
        """The images of these rows."""
        return Split(self.images[rows if isinstance(rows, slice) else rows.to(self.images.device)], self.labels[rows])

    def only(self, class_mask: Tensor) -> Split:
        """The images of the classes that count (bool [classes]); labels stay as they are."""
        return self[class_mask.to(self.labels.device)[self.labels]]

    def decoded(self) -> Split:
        """With images in place of files."""
        return self if isinstance(self.images, Tensor) else Split(self.images.decoded(), self.labels)

    def pick(self, rows: Tensor) -> Tensor:
        """The images of these rows, uint8 [m, channels, size, size], on the labels' device."""
        return self[rows].decoded().images.to(self.labels.device)

    def to(self, device: str | torch.device) -> Split:
        fits = isinstance(self.images, Tensor) and self.images.nbytes <= MOST_ON_DEVICE
        return Split(self.images.to(device) if fits else self.images, self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """The four splits of a study's images, the hierarchy of their classes, and each channel's mean and deviation.

    ValueError, in one line, where a split is not as `Split` says, a label no class, or a class without training image.
    """

    hierarchy: Hierarchy
    train: Split
    selection: Split
    calibration: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    about: str = ""  # what a reader of results has to know about the images; Markdown
    synthetic: bool = False
    fingerprint: str = ""  # of the images it was made of; see Source.fingerprint
    source: str = ""  # of the parameters it was made by; see Section.digest; nothing where an older version made it

    def __post_init__(self) -> None:
        for name in SPLITS:
            images, labels = getattr(self, name).images, getattr(self, name).labels
            shaped = images.ndim == 4 and labels.shape == images.shape[:1]
            if not shaped or (images.dtype, labels.dtype) != (torch.uint8, torch.int64):
                raise ValueError(f"{name}: images must be uint8 [n, channels, size, size], labels int64 [n]")
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.hierarchy.classes):
                raise ValueError(f"{name}: labels must be 0 to {len(self.hierarchy.classes) - 1}, as there are classes")
        channels = {getattr(self, name).images.shape[1] for name in SPLITS}
        if any({len(values)} != channels or not all(map(math.isfinite, values)) for values in (self.mean, self.std)):
            raise ValueError("mean and deviation must be a finite number for each channel of all images")
        texts = (self.about, self.fingerprint, self.source)
        if not (all(isinstance(each, str) for each in texts) and isinstance(self.synthetic, bool)):
            raise ValueError("what is told of the images must be text, and `synthetic` true or false")
        if len(self.train):
            require_every_class(self.train, self.hierarchy, "training")

    def to(self, device: str | torch.device) -> Dataset:
        return replace(self, **{name: getattr(self, name).to(device) for name in SPLITS})


def require_every_class(split: Split, hierarchy: Hierarchy, what: str) -> None:
    """ValueError, in one line, where a class has no image."""
    counts = split.labels.bincount(minlength=len(hierarchy.classes)).tolist()
    if missing := [name for name, count in zip(hierarchy.classes, counts, strict=True) if not count]:
        raise ValueError(f"classes without {what} images: {', '.join(missing)}")


class Source(Section):
    """Where images come from, and how those to learn from are divided; subclasses are under `@SOURCES.register`."""

    kind: str  # in a subclass a Literal with a default
    image_size: Annotated[int, Field(ge=8)]
    selection: Fraction
    calibration: Fraction
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    most_gigabytes: Finite = 64.0  # of decoded images; more stay in their files, to be decoded whenever they are shown

    about: ClassVar[str]  # the sentence that every page shows about the images; Markdown
    synthetic: ClassVar[bool] = False

    @model_validator(mode="after")
    def leave_something_to_train_on(self) -> Source:
        if sum(self.shares.values()) >= 1:
            raise ValueError("selection + calibration must leave a part for training (sum below 1)")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Of the images to learn from, what is kept for other splits."""
        return {"selection": self.selection, "calibration": self.calibration}

    @abstractmethod
    def hierarchy(self, root: str | Path = ".") -> Hierarchy:
        """The classes and their superclasses. Errors: those of `build`."""

    def fingerprint(self, root: str | Path = ".") -> str:
        """Of what the parameters do not say, where images may change under the same ones. Errors: those of `build`."""
        return ""

    @abstractmethod
    def load(self, root: str | Path = ".") -> tuple[Split, Split]:
        """The images to learn from and the test images, as published; `root` holds data/. Errors: those of `build`."""

    def load_selection(self, root: str | Path = ".") -> Split | None:
        """Published images to choose on, where these are no share of those to learn from. Errors: those of `build`."""
        return None


def divide(labels: Tensor, classes: Sequence[str], fractions: dict[str, float], seed: int) -> dict[str, Tensor]:
    """Indices into `labels` for each named fraction and, under 'train', for the rest: stratified, disjoint, sorted.

    ValueError where a class has too few images to be in every part.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {name: [] for name in (*fractions, "train")}
    for label, name in enumerate(classes):
        rows = (labels == label).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator)]
        sizes = [round(fraction * len(rows)) for fraction in fractions.values()]
        sizes.append(len(rows) - sum(sizes))
        if min(sizes) < 1:
            raise ValueError(f"class {name!r} has {len(rows)} images, too few for parts of {fractions}: add images")
        for part, chosen in zip(parts.values(), rows.split(sizes), strict=True):
            part.append(chosen)
    return {name: torch.cat(rows).sort().values for name, rows in parts.items()}


def make(source: Source, root: str | Path, path: str | Path) -> tuple[Dataset, dict[str, Tensor]]:
    """Build a data set, save it and load the file: its images are mapped into memory. Errors: those of `build`."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=Path(path).parent) as scratch:
        dataset, indices = build(source, root, Path(scratch))
        save(dataset, path)
    return load(path), indices


def build(source: Source, root: str | Path = ".", scratch: Path | None = None) -> tuple[Dataset, dict[str, Tensor]]:
    """The data set of a source and the indices of its splits into the published training and test images.

    Photographs are decoded: into files in the folder `scratch`, mapped into memory, or without one into memory itself.
    Those that take more than `source.most_gigabytes` are looked at, and stay in their files.

    Raises:
        FileNotFoundError: the published images are not there; the message says how to get them.
        ValueError: they are damaged, of another size than the source says, or too few of a class; one line.
    """
    hierarchy, (known, test) = source.hierarchy(root), source.load(root)
    if wrong := {*known.images.shape[2:], *test.images.shape[2:]} - {source.image_size}:
        raise ValueError(f"{source.kind} has {wrong.pop()} pixels, not {source.image_size}")
    indices = divide(known.labels, hierarchy.classes, source.shares, source.seed)
    require_every_class(test, hierarchy, "test")
    splits = {name: known[rows] for name, rows in indices.items()}
    apart = {"test": test} | ({"selection": chosen} if (chosen := source.load_selection(root)) else {})
    splits, indices = splits | apart, indices | {name: torch.arange(len(each)) for name, each in apart.items()}
    problems: list[str] = []
    decodes = sum(split.images.nbytes for split in splits.values()) <= source.most_gigabytes * 2**30
    for name, split in [(n, each) for n, each in splits.items() if isinstance(each.images, Photographs)]:
        if decodes:
            splits[name] = Split(split.images.decoded(scratch and scratch / name, problems), split.labels)
        else:
            problems += split.images.unreadable().values()
    complain(problems)
    told = {**channel_statistics(splits["train"].images), "about": source.about, "synthetic": source.synthetic}
    told |= {"fingerprint": source.fingerprint(root), "source": source.digest}
    return Dataset(hierarchy, **splits, **told), indices


def channel_statistics(images: Tensor | Photographs) -> dict[str, tuple[float, ...]]:
    """`mean` and `std` of each channel of uint8 images [n, channels, size, size], as of images in [0, 1].

    From a count of the 256 values: the images take no more memory than they have. Of files, a sample is decoded.
    """
    if not isinstance(images, Tensor):
        images = images[torch.linspace(0, len(images) - 1, min(len(images), SAMPLED)).long()]
    values = torch.arange(256, dtype=torch.float64) / 255
    found: dict[str, list[float]] = {"mean": [], "std": []}
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for piece in images.split(1000):
        pixels = piece if isinstance(piece, Tensor) else piece.decoded()
        counts += torch.stack([channel.flatten().bincount(minlength=256) for channel in pixels.unbind(1)])
    for each in counts:
        mean = each @ values / each.sum()
        found["mean"].append(mean.item())
        found["std"].append((each @ (values - mean).square() / (each.sum() - 1)).sqrt().item())
    return {name: tuple(each) for name, each in found.items()}


def split_columns(dataset: Dataset, indices: dict[str, Tensor], source: Source) -> dict[str, np.ndarray]:
    """The splits as columns: published (train, or what is published apart), index there, split, class, superclass."""
    labels = torch.cat([getattr(dataset, name).labels for name in SPLITS]).cpu()
    split = np.repeat(SPLITS, [len(getattr(dataset, name)) for name in SPLITS])
    return {
        "published": np.where(np.isin(split, list(source.shares) + ["train"]), "train", split),
        "index": torch.cat([indices[name] for name in SPLITS]).numpy(),
        "split": split,
        "class": np.array(dataset.hierarchy.classes)[labels],
        "superclass": np.array(dataset.hierarchy.superclasses)[dataset.hierarchy.parent[labels]],
    }


def save(dataset: Dataset, path: str | Path) -> None:
    """Write a data set as safetensors, whole or not at all; what else it says goes into the metadata.

    Of images that stay in their files it holds where these are, seen from its own folder.
    """
    tensors = {"mean": torch.tensor(dataset.mean), "std": torch.tensor(dataset.std)}
    for name, split in ((name, getattr(dataset, name).to("cpu")) for name in SPLITS):
        in_files = isinstance(split.images, Photographs)
        images = split.images.stored(Path(path).parent) if in_files else {"images": split.images}
        tensors |= {f"{name}.{part}": tensor for part, tensor in (images | {"labels": split.labels}).items()}
    groups = dict(zip(dataset.hierarchy.superclasses, dataset.hierarchy.members, strict=True))
    told = {"hierarchy": groups, "about": dataset.about, "synthetic": dataset.synthetic}
    told |= {name: text for name in ("fingerprint", "source") if (text := getattr(dataset, name))}
    told["checksum"] = checksum(tensors, told)
    write_tensors(tensors, path, {"dataset": json.dumps(told, ensure_ascii=False)})


def load(path: str | Path) -> Dataset:
    """Read what `save` wrote; nothing else is needed.

    Raises:
        FileNotFoundError: the file is missing; the message says which step writes it.
        ValueError: it is damaged, or no such file; one line that names it.
    """
    again = "run notebooks/01_superclasses"
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing: {again} first")
    try:
        tensors, metadata = read_tensors(path)
        told = json.loads(metadata["dataset"])
        if told.pop("checksum") != checksum(tensors, told):
            raise ValueError("other values than were written")
        if not all(isinstance(names, list) for names in told["hierarchy"].values()):
            raise TypeError("a superclass without a list of classes")
        splits = {
            name: Split(images_of(tensors, name, Path(path).parent), tensors[f"{name}.labels"]) for name in SPLITS
        }
        mean, std = (tuple(tensors[name].tolist()) for name in ("mean", "std"))
        if not tensors["mean"].dtype == tensors["std"].dtype == torch.float32:
            raise TypeError("mean and deviation of another type")
        return Dataset(Hierarchy.from_groups(told.pop("hierarchy")), mean=mean, std=std, **splits, **told)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as err:
        told = f"{path} is damaged, or no data set ({type(err).__name__}: {reason(err)})"
        raise ValueError(f"{told}: delete it and {again} again") from None


def images_of(tensors: Mapping[str, Tensor], name: str, folder: Path) -> Tensor | Photographs:
    """The images of a split, as `save` stored them in a file in this folder."""
    if (images := tensors.get(f"{name}.images")) is not None:
        return images
    return Photographs.restored({part: tensors[f"{name}.{part}"] for part in ("files", "size")}, folder)
