"""Kits as folders: a kit.json lists the files that it is made of, with their SHA-256."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from eas import data
from eas.additive import AdditiveGenerator
from eas.data import SPLITS, Dataset
from eas.data.base import require_every_class
from eas.data.photographs import Photographs
from eas.evaluation import calibration_sample
from eas.expected import stored_answers
from eas.files import MOST_TENSORS, read_tensors, require_size, sha256, write_json
from eas.generator import ArchGenerator, Generator
from eas.registry import Finite, Line, Positive, Section
from eas.serving import deploy
from eas.serving.deploy import StoredSpace, in_turn
from eas.serving.kit import Kit
from eas.spaces import ChoiceSpace

NAME = "kit.json"
MOST_IMAGES = 10_000  # of a split that a kit carries


class StoredPart(Section):
    """A file of the kit, or those of its tensors whose names begin with `prefix`."""

    path: Annotated[Line, Field(max_length=255)]  # relative to the folder, inside it
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    prefix: str = ""


class StoredParts(Section):
    """Where the parts of the kit are."""

    supernet: StoredPart
    generator: StoredPart
    images: StoredPart
    branches: StoredPart | None = None
    expected: StoredPart | None = None
    test: StoredPart | None = None


class GeneratorSize(Section):
    """What a trained generator is made of, beside its weights."""

    width: Positive
    embedding: Positive
    anchors: tuple[Finite, ...] = Field(min_length=1)  # multiply-adds
    blind: bool = False


class Contents(StoredSpace):
    """What kit.json holds."""

    format: Literal["eas-kit-2"]
    generator: GeneratorSize | None = None  # in closed form where there is none
    calibration_images: Positive  # that shared weights are calibrated on
    largest_set: Annotated[int, Field(ge=0)] = 1  # this and `mixed_sets`: see Kit
    mixed_sets: bool = True
    files: StoredParts


def write_images(dataset: Dataset, path: str | Path, *splits: str) -> None:
    """Write what a kit needs of a data set: its file, with these splits only, each of at most MOST_IMAGES images."""
    whole = ((name, getattr(dataset, name)) for name in splits)
    kept = {
        n: each.decoded() if len(each) <= MOST_IMAGES else calibration_sample(each, MOST_IMAGES) for n, each in whole
    }
    nothing = kept[splits[0]][:0]
    data.save(replace(dataset, **dict.fromkeys(SPLITS, nothing) | kept, source=""), path)


def write_kit(
    folder: Path,
    generator: ArchGenerator,
    calibration_images: int,
    files: dict[str, tuple[str, str]],
    served: Mapping[str, int | bool] = {},
) -> None:
    """Write kit.json beside the files that it lists, with their SHA-256; `served`: which sets branches do, as in Kit.

    `files` says in which file of the folder supernet, generator, images and, where there are any, branches are, and
    what the names of their tensors begin with: {"supernet": ("supernet.safetensors", ""), ...}.
    """
    space = generator.space
    parts = {n: StoredPart(path=p, sha256=sha256(folder / p), prefix=prefix) for n, (p, prefix) in files.items()}
    contents = Contents(
        format="eas-kit-2",
        space=space.recipe,
        image_size=space.image_size,
        in_channels=space.in_channels,
        generator=size_of(generator) if isinstance(generator, Generator) else None,
        calibration_images=calibration_images,
        files=StoredParts(**parts),
        **served,
    )
    write_json(folder / NAME, contents.model_dump_json(indent=1, exclude_defaults=True) + "\n")


def size_of(generator: Generator) -> GeneratorSize:
    """What kit.json tells of a trained generator."""
    width, embeddings = generator.layers[0].out_features, generator.class_embedding
    size = {"width": width, "embedding": embeddings.weight.shape[1], "blind": embeddings.blind}
    return GeneratorSize(**size, anchors=tuple(generator.anchors.tolist()))


def load_kit(kit: str | Path) -> Kit:
    """The kit in a folder, of a study's YAML file, or of this name: in weights/ here, or come with this package.

    Raises:
        FileNotFoundError: the kit, or a file of it, is missing; one line that says where it was looked for.
        ValueError: a file is damaged, or is another than kit.json says; one line that names it.
    """
    folder = find_kit(kit)
    contents = deploy.read_section(Contents, folder / NAME, "the list of a kit")
    stored = {name: part for name, part in contents.files if part}
    paths = {name: check_file(folder, part) for name, part in stored.items()}
    space = contents.choice_space()

    def load_images(path: Path) -> Dataset:
        found = data.load(path)
        for split in (getattr(found, name) for name in SPLITS):
            if isinstance(split.images, Photographs):
                raise ValueError(f"{path} names images outside of it: a kit has to hold its own")
            if split.images.shape[1:] != (space.in_channels, space.image_size, space.image_size):
                raise ValueError(f"{path} does not fit {folder / NAME}: its images have another shape")
        return found

    dataset = load_images(paths["images"])
    require_every_class(dataset.calibration, dataset.hierarchy, "calibration")
    classes = len(dataset.hierarchy.classes)

    def load_tensors(name: str) -> tuple[dict[str, Tensor], str]:
        return read_tensors(paths[name], stored[name].prefix)[0], f"{paths[name]} does not fit {folder / NAME}"

    def load_part(name: str, build: Callable[[], nn.Module]) -> nn.Module:
        return deploy.make_module(build, *load_tensors(name)).requires_grad_(False)

    return Kit(
        hierarchy=dataset.hierarchy,
        supernet=load_part("supernet", lambda: space.supernet(classes, dataset.mean, dataset.std)),
        generator=load_part("generator", lambda: new_generator(space, classes, contents.generator)),
        where=str(paths.get("branches")),
        branches=load_tensors("branches")[0] if "branches" in stored else None,
        calibration=in_turn(dataset.calibration, contents.calibration_images),
        branch_images=dataset.calibration,
        synthetic=dataset.synthetic,
        largest_set=contents.largest_set,
        mixed_sets=contents.mixed_sets,
        expected=stored_answers(*load_tensors("expected"), classes) if "expected" in stored else None,
        test=load_images(paths["test"]).test if "test" in stored else None,
        unseen=dataset.selection if len(dataset.selection) else None,
    )


def new_generator(space: ChoiceSpace, classes: int, size: GeneratorSize | None) -> ArchGenerator:
    """A generator without weights, as kit.json describes it."""
    if size is None:
        return AdditiveGenerator(space, classes)
    shape = size.model_dump()
    return Generator(space, classes, torch.tensor(shape.pop("anchors"), dtype=torch.float64), **shape)


def find_kit(kit: str | Path) -> Path:
    """The folder of a kit; FileNotFoundError, in one line, where there is none.

    A study's YAML file stands for the kit that `eas train` makes of it.
    """
    if Path(kit).suffix in (".yaml", ".yml"):
        folder = kit_of_study(Path(kit))
        if not (folder / NAME).is_file():
            raise FileNotFoundError(f"{folder / NAME} is missing: run `eas train {kit}` first")
        return folder
    known = {path.name: path for path in (*installed_kits(), *(p.parent for p in Path("weights").glob(f"*/{NAME}")))}
    bare = Path(kit).name == str(kit) and not Path(kit, NAME).is_file()
    folder = known.get(str(kit), Path("weights", kit)) if bare else Path(kit)
    if not (folder / NAME).is_file():
        named = ", ".join(sorted(known)) or "none"
        raise FileNotFoundError(f"no kit {kit}: looked for {folder / NAME}; kits that have names: {named}")
    return folder


def kit_of_study(path: Path) -> Path:
    """Where the kit of a study lies that is described by a YAML file."""
    return path.parent / "build" / path.stem / "kit"


def installed_kits() -> list[Path]:
    """The folders of the kits that came with this package, or lie in the clone that it runs from."""
    found = [path.parent for path in (Path(__file__).resolve().parents[2] / "weights").glob(f"*/{NAME}")]
    try:
        files = distribution("eas").files or []
    except PackageNotFoundError:  # run from a folder
        files = []
    return [Path(file.locate()).resolve().parent for file in files if file.name == NAME] + found


def check_file(folder: Path, part: StoredPart) -> Path:
    """The path of a kit's file, which is inside the folder and the very file that was listed."""
    path = folder / part.path
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a name that is too long, or links that lead to one another
        inside = False
    if ".." in Path(part.path).parts or not inside:
        raise ValueError(f"{folder / NAME} lists {part.path}, which is outside its folder")
    require_size(path, MOST_TENSORS)
    if sha256(path) != part.sha256:
        raise ValueError(f"{path} is damaged, or another file: its SHA-256 differs from {folder / NAME}")
    return path
