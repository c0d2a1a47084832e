"""What serves any scenario of one trained system, in Python (`Kit`) and as a folder with a kit.json (`load_kit`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from eas import data
from eas.additive import AdditiveGenerator
from eas.branches import BRANCH_IMAGES, compose_branches, superclass_shares
from eas.costs import Cost
from eas.data import SPLITS, Dataset, Hierarchy, Split
from eas.data.base import require_every_class
from eas.data.photographs import Photographs
from eas.evaluation import calibration_sample
from eas.expected import ExpectedAccuracy, stored_answers
from eas.files import MOST_TENSORS, read_tensors, require_size, sha256, write_json
from eas.generator import ArchGenerator, Generator
from eas.registry import Finite, Line, Positive, Section
from eas.serving import deploy
from eas.serving.answers import accuracy_on, refused_on
from eas.serving.deploy import CALIBRATED, Card, StoredSpace, in_turn
from eas.spaces import ChoiceSpace, Supernet
from eas.spaces.supernet import resized

NAME = "kit.json"
BUDGETS = 64  # that are tried to find the cheapest network for an accuracy
MOST_IMAGES = 10_000  # of a split that a kit carries
MOST_STRANGERS = 500  # of these, images of other classes that a network is tested on


@dataclass(frozen=True)
class Kit:
    """A trained system, on the CPU, ready to serve any scenario."""

    hierarchy: Hierarchy
    supernet: Supernet
    generator: ArchGenerator
    branches: dict[str, Tensor] | None  # of the superclasses, as eas.branches stores them, where there are any
    calibration: Split  # images of all classes, which the shared weights' statistics are taken from
    branch_images: Split  # those whose images of a set's superclasses branches' statistics are taken from
    synthetic: bool
    largest_set: int = 1  # the most superclasses of a set that branches serve
    mixed_sets: bool = True  # whether they serve some of the classes of several superclasses
    expected: ExpectedAccuracy | None = None  # what networks reach, where that was measured
    where: str = "branches"  # the file that these are of
    test: Split | None = None  # images of all classes that nothing was trained on or chosen with
    unseen: Split | None = None  # those that choices were made with, where `branch_images` were trained on

    def branches_for(self, class_mask: Tensor) -> list[str]:
        """The superclasses whose branches serve a set of classes; none where the weights do that all classes share.

        Those of all superclasses that the set has classes of, unless there are more than `largest_set`, or the kit has
        no `mixed_sets` and this one is.
        """
        shares = superclass_shares(self.hierarchy, class_mask)
        names = [self.hierarchy.superclasses[index] for index in shares.nonzero()[:, 0].tolist()]
        mixed = len(names) > 1 and not torch.equal(class_mask, self.hierarchy.class_mask(names))
        served = len(names) <= self.largest_set and (self.mixed_sets or not mixed)
        return names if self.branches and served else []

    def weights(self, class_mask: Tensor) -> tuple[Supernet, Split]:
        """The supernet that serves a set of classes, and the images that its statistics are taken from.

        Those of branches are taken from images of their superclasses, also where the set has some of the classes
        only: a kit has few images (with those of two classes, branches are worse than shared weights).
        """
        if not (names := self.branches_for(class_mask)):
            return self.supernet, self.calibration
        shares = superclass_shares(self.hierarchy, class_mask)
        images = in_turn(self.branch_images, BRANCH_IMAGES, self.hierarchy.class_mask(names))
        return compose_branches(self.supernet, self.branches, shares, self.where), images

    def unseen_with(self, class_mask: Tensor) -> Split | None:
        """Images that nothing was trained on; None where there are none of a set of classes, or none of others."""
        images = self.unseen or self.branch_images
        return images if len({*class_mask[images.labels].tolist()}) == 2 else None

    def expected_top1(self, class_mask: Tensor, madds: Tensor) -> Tensor:
        """What networks for a set of classes are expected to reach at costs [n], in percent: see ExpectedAccuracy.

        ValueError where the kit does not know.
        """
        if self.expected is None or not class_mask[self.expected.labels].any():
            raise ValueError("this kit does not know what networks for these classes reach: ask for a budget instead")
        return self.expected(class_mask, madds, len(self.branches_for(class_mask)))

    def cheapest_budget(self, class_mask: Tensor, top1: float, outputs: int | None = None) -> float:
        """The smallest budget, in multiply-adds, whose network is expected to reach `top1` percent.

        It may have more `outputs` than classes. Of BUDGETS in the generator's range. ValueError, which says the best.
        """
        space, outputs = self.supernet.space, outputs or int(class_mask.sum())
        ends = self.generator.budget_range.clamp(min=float(space.madds(space.smallest, outputs)))
        budgets, counts = torch.linspace(*ends.tolist(), BUDGETS, dtype=torch.float64), torch.full((BUDGETS,), outputs)
        archs = self.generator.generate(class_mask.expand(BUDGETS, -1), budgets, outputs=counts)
        madds = space.madds(archs, class_mask.sum())
        expected = self.expected_top1(class_mask, madds)[:, 0]
        if not len(enough := (expected >= top1).nonzero()[:, 0]):
            best, cost = expected.max().item(), madds[expected.argmax()].item() / 1e6
            raise ValueError(f"no network is expected to reach {top1:g} %: the best {best:.1f} %, with {cost:.4g}M")
        return budgets[enough[madds[enough].argmin()]].item()

    def specialize(
        self,
        names: str | Sequence[str],
        budget_madds: float | None = None,
        *,
        top1: float | None = None,
        bounds: Sequence[tuple[Cost, float]] = (),
        refuse: bool = False,
    ) -> tuple[nn.Module, Card]:
        """The specialised network for the named superclasses and classes, in eval mode.

        Under a budget of multiply-adds, `bounds` of other costs (a number of eas.costs.PARAMETERS, a LatencyTable's
        seconds), or all of these; or the cheapest one that is expected to reach `top1` percent. With `refuse` it also
        tells images of none of its classes, for what it costs (see eas.serving.strangers), if there are images for it.

        ValueError for an unknown name, no name, a bound below the smallest arch or an accuracy that no network is
        expected to reach, which says what is possible; or no bound, or one beside `top1`.
        """
        class_mask = self.hierarchy.class_mask([names] if isinstance(names, str) else names)
        if (budget_madds is None and not bounds) == (top1 is None):
            raise ValueError("give either a budget of multiply-adds, or other bounds, or a top-1 in percent")
        unseen = self.unseen_with(class_mask) if refuse else None
        if top1 is not None:
            budget_madds = self.cheapest_budget(class_mask, top1, len(class_mask) if unseen else None)
        supernet, images = self.weights(class_mask)
        parts = (supernet, self.generator, self.hierarchy, class_mask, budget_madds, in_turn(images, CALIBRATED))
        network, card = deploy.specialize(*parts, synthetic=self.synthetic, bounds=bounds, unseen=unseen)
        if self.expected and class_mask[self.expected.labels].any():
            one = card.choice_space()  # what is expected was measured on networks with these outputs only
            madds = one.madds(torch.tensor([card.arch]), len(card.classes))
            (expected,) = self.expected_top1(class_mask, madds).tolist()
            card = card.model_copy(update={"expected_top1": tuple(round(each, 2) for each in expected)})
        return network, card

    def tested(self, network: nn.Module, card: Card) -> Card:
        """The card with how right the network is on the kit's test images, where it has any of the classes."""
        place = torch.full((len(self.hierarchy.classes),), -1)
        place[[self.hierarchy.classes.index(name) for name in card.classes]] = torch.arange(len(card.classes))
        if self.test is None or not len(own := self.test.only(place >= 0)):
            return card
        own = Split(resized(own.images, card.image_size), place[own.labels])
        told = {"test": accuracy_on(network, card, own)}
        if card.strangers:
            others = calibration_sample(self.test.only(place < 0), MOST_STRANGERS)
            refused = refused_on(network, card, own.images), refused_on(network, card, others.images)
            names = "refused_own", "refused_others"
            told["strangers"] = card.strangers.model_copy(update=dict(zip(names, refused, strict=True)))
        return card.model_copy(update=told)


# -------------------------------------------------------------------- the folder


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
        calibration=calibration_sample(dataset.calibration, contents.calibration_images),
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
