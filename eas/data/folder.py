"""Photographs in folders: a folder of images is a class, as for torchvision's ImageFolder, at any depth.

A YAML file maps every superclass to the names of its classes; without one, the folder above a class is its superclass.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from eas.data.base import SOURCES, Hierarchy, Source, Split, divide
from eas.data.photographs import Photographs, complain
from eas.files import reason
from eas.registry import Fraction
from eas.yaml_files import read_yaml

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

Files = dict[str, list[Path]]  # of every class
Groups = dict[str, dict[str, str]]  # of every superclass: its classes' folders, and what the classes are called


@SOURCES.register
class Folder(Source):
    """Photographs of one's own: `train` and `test` are folders, `superclasses` a YAML file, relative to the root.

    The file maps every superclass to a list of folders' names, or to a mapping from these to the classes' names.
    """

    kind: Literal["folder"] = "folder"
    train: str | Annotated[tuple[str, ...], Field(min_length=1)]  # of several folders, a class has the images of all
    test: str | Fraction  # where there is no such folder: the share of the images that is kept for it
    selection: str | Fraction  # likewise; such a folder need not have images of every class, but of every superclass
    superclasses: str | None = None
    ignore_others: bool = False  # folders of classes that are in no superclass; else they are an error
    skip: tuple[str, ...] = ()  # files to leave out, such as those that cannot be read
    about = "*Images: **photographs from folders**, scaled by their shorter side, their centre cut out.*"

    def hierarchy(self, root: str | Path = ".") -> Hierarchy:
        return self.survey(Path(root))[0]

    @property
    def shares(self) -> dict[str, float]:
        return {name: share for name, share in super().shares.items() if not isinstance(share, str)}

    def load_selection(self, root: str | Path = ".") -> Split | None:
        if lacking := self.without_selection(root):
            told = "every superclass needs some to choose on, or name a share in place of the folder"
            raise ValueError(f"{self.selection} has no image of {', '.join(lacking)}: {told}")
        hierarchy, (_, _, chosen) = self.survey(Path(root))
        return split_of(chosen, hierarchy, self.image_size) if isinstance(self.selection, str) else None

    def without_selection(self, root: str | Path = ".") -> list[str]:
        """The superclasses of which a folder to choose on has no image; none where it is a share."""
        if not isinstance(self.selection, str):
            return []
        hierarchy, (_, _, chosen) = self.survey(Path(root))
        groups = zip(hierarchy.superclasses, hierarchy.members, strict=True)
        return [name for name, members in groups if not any(chosen.get(member) for member in members)]

    def load(self, root: str | Path = ".") -> tuple[Split, Split]:
        hierarchy, (known, test, _) = self.survey(Path(root))
        known = split_of(known, hierarchy, self.image_size)
        if isinstance(self.test, str):
            return known, split_of(test, hierarchy, self.image_size)
        rows = divide(known.labels, hierarchy.classes, {"test": self.test}, self.seed)
        return tuple(Split(known.images[rows[name]], known.labels[rows[name]]) for name in ("train", "test"))

    def fingerprint(self, root: str | Path = ".") -> str:
        """Changes with the classes, and with the names and sizes of their files."""
        hierarchy, parts = self.survey(Path(root))
        files = [
            (name, part, Path(os.path.relpath(path, root)).as_posix(), path.stat().st_size)
            for part, found in enumerate(parts)
            for name in hierarchy.classes
            for path in found.get(name, [])
        ]
        told = dict(zip(hierarchy.superclasses, hierarchy.members, strict=True))
        return hashlib.sha256(json.dumps([told, files]).encode()).hexdigest()[:16]

    def survey(self, root: Path) -> tuple[Hierarchy, tuple[Files, Files, Files]]:
        """The classes, and their files to learn from, to test and to choose on; of these none where they are a share.

        Raises:
            FileNotFoundError: a folder or the YAML file is missing.
            ValueError: something is wrong with what they hold; one error for all of it.
        """
        problems: list[str] = []
        skipped = {root / path for path in self.skip}
        folders = [self.train] if isinstance(self.train, str) else self.train
        known = merged(find_classes(root / folder, problems, skipped) for folder in folders)
        parts = (
            known,
            *(
                find_classes(root / part, problems, skipped) if isinstance(part, str) else {}
                for part in (self.test, self.selection)
            ),
        )
        if self.superclasses is not None:
            groups = read_groups(root / self.superclasses, problems)
        else:
            groups = groups_of(known, [root / folder for folder in folders], problems)
        named = {folder: name for names in groups.values() for folder, name in names.items()}
        if self.ignore_others:
            parts = tuple({name: files for name, files in found.items() if name in named} for found in parts)
        for place, files in zip((" and ".join(folders), self.test, self.selection), parts, strict=True):
            if isinstance(place, float):
                continue
            missing = sorted(set(named) - set(files)) if files is not parts[2] else []
            problems += [f"{place} has no class {folder}" for folder in missing]
            problems += [f"{place} has a class {folder} of no superclass" for folder in sorted(set(files) - set(named))]
        problems += shared_folders(parts)
        try:
            hierarchy = Hierarchy.from_groups({superclass: names.values() for superclass, names in groups.items()})
        except ValueError as error:
            problems.append(str(error))
        by = f" by {root / self.superclasses}" if self.superclasses is not None else ""
        complain(problems, f"the image folders under {root / folders[0]}{by}")
        return hierarchy, tuple({named[folder]: paths for folder, paths in files.items()} for files in parts)


def merged(parts: Iterable[Files]) -> Files:
    """The images that every class has in any of several folders."""
    found: Files = {}
    for files in parts:
        for name, paths in files.items():
            found.setdefault(name, []).extend(paths)
    return found


def find_classes(folder: Path, problems: list[str], skipped: Container[Path] = ()) -> Files:
    """The images of every class under a folder, sorted; what is wrong is added to `problems`."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing: it should hold a folder of images for each class")
    found: Files = {}
    for place in [folder, *sorted(path for path in folder.rglob("*") if path.is_dir() and not hidden(path, folder))]:
        inside = [path for path in sorted(place.iterdir()) if not path.name.startswith(".")]
        images = [path for path in inside if path.suffix.lower() in SUFFIXES and path.is_file() and path not in skipped]
        folders = any(path.is_dir() for path in inside)
        problems += [f"{path} has a name that is no UTF-8" for path in inside if not is_text(path.name)]
        if folders and place != folder and place.is_symlink():
            problems.append(f"{place} is a link to folders, which is not followed: put them there, or name theirs")
        elif not images and not folders:
            problems.append(f"{place} holds no images")
        elif images and (folders or place == folder):
            problems.append(f"{images[0]} lies beside folders, in no class")
        elif images and place.name in found:
            problems.append(f"{place} and {found[place.name][0].parent} are both class {place.name}")
        elif images:
            found[place.name] = images
    return found


def is_text(name: str) -> bool:
    """Whether a file's name can be written into another file."""
    return name == name.encode(errors="replace").decode()


def hidden(path: Path, folder: Path) -> bool:
    """Whether a part of the path below the folder begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def shared_folders(parts: Iterable[Files]) -> Iterator[str]:
    """What is wrong where images are in more than one part: what is learned from would be tested on."""
    seen: set[Path] = set()
    for files in parts:
        folders = {path.parent for paths in files.values() for path in paths}
        places = {folder.resolve(): folder for folder in folders}
        yield from (f"{places[each]} is in more than one of train, test and selection" for each in {*places} & seen)
        seen |= {*places}


def groups_of(files: Files, folders: list[Path], problems: list[str]) -> Groups:
    """Superclasses by the folders above those of classes, in `folders`; what is wrong is added to `problems`."""
    groups: Groups = {}
    places: dict[str, Path] = {}
    for name, paths in files.items():
        above = paths[0].parent.parent
        groups.setdefault(above.name, {})[name] = name
        inside = next(above.relative_to(folder) for folder in folders if above.is_relative_to(folder))
        if (first := places.setdefault(above.name, inside)) != inside:
            problems.append(f"{first} and {inside} are both superclass {above.name}: name a YAML file of superclasses")
    if len(groups) < 2:
        problems.append(f"all classes lie in one folder, {folders[0]}: name a YAML file of their superclasses")
    elif loose := [name for name, paths in files.items() if paths[0].parent.parent in folders]:
        problems.append(f"{', '.join(loose)} lie in no superclass's folder, as others do")
    return groups


def read_groups(path: Path, problems: list[str]) -> Groups:
    """Superclasses by a YAML file; what is wrong is added to `problems`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: it should map every superclass to a list of its classes")
    content = read_yaml(path)
    if not isinstance(content, Mapping) or not all(isinstance(names, list | Mapping) for names in content.values()):
        raise ValueError(f"{path} must map every superclass to a list of its classes")
    pairs = {
        str(superclass): [*names.items()] if isinstance(names, Mapping) else [(name, name) for name in names]
        for superclass, names in content.items()
    }
    strange = [each for names in pairs.values() for pair in names for each in pair if not isinstance(each, str | int)]
    if strange:
        raise ValueError(f"{path}: {reason(repr(strange[0]))} is no name of a class")
    within = {superclass: Counter(folder for folder, _ in each) for superclass, each in pairs.items()}
    counts = Counter(folder for folders in within.values() for folder in folders)
    problems += [f"class {folder} is in {times} superclasses" for folder, times in counts.items() if times > 1]
    for superclass in pairs:
        problems += [
            f"class {f} is named twice in {superclass}" for f, times in within[superclass].items() if times > 1
        ]
    return {superclass: {str(folder): str(name) for folder, name in each} for superclass, each in pairs.items()}


def split_of(files: Files, hierarchy: Hierarchy, size: int) -> Split:
    """All images of the files, class after class, not decoded yet."""
    paths = [path for name in hierarchy.classes for path in files.get(name, [])]
    counts = torch.tensor([len(files.get(name, [])) for name in hierarchy.classes])
    return Split(Photographs(paths, size), torch.arange(len(counts)).repeat_interleave(counts))
