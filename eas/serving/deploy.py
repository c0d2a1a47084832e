"""From a scenario to a specialised network, to files and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from eas.costs import Bound, Cost, total
from eas.data import Hierarchy, Split
from eas.evaluation import calibrate
from eas.files import read_json, read_tensors, reason, require_size, sha256, write_tensors, write_text
from eas.generator import Generator
from eas.registry import Finite, Line, Positive, Section, one_line
from eas.serving.strangers import MOST_FITTED, Refusing, inner, least_odds
from eas.spaces import SPACES, ChoiceSpace, Supernet
from eas.spaces.base import MOST_FORMS
from eas.spaces.supernet import resized

Percent = Annotated[float, Field(ge=0, le=100)]
MOST_BYTES = 2**30  # of weights
CALIBRATION_IMAGES = 200  # of a network: 500 gain a tenth of a point (see reports/experiments.md)
BESIDE = 2**20  # bytes of a file of weights beside the parameters: names, and the card


class StoredSpace(Section):
    """A space, as files tell it."""

    space: SPACES.field
    image_size: Annotated[int, Field(gt=0, le=4096)]
    in_channels: Positive

    @model_validator(mode="after")
    def be_buildable(self) -> StoredSpace:
        try:
            self.choice_space()
        except (RuntimeError, OverflowError):  # what torch and Python say of numbers beyond 64 bits
            raise one_line("it holds a number that is too large") from None
        return self

    def choice_space(self) -> ChoiceSpace:
        """The space itself; ValueError, in one line, where its tables would be too large."""
        space = self.space.build(self.image_size, self.in_channels)
        if space.blocks * space.forms > MOST_FORMS:
            raise one_line(f"a space of {space.blocks} blocks with {space.forms} forms each is too large")
        return space


class Accuracy(Section):
    """How often a network is right on images that nothing was trained on or chosen with (see eas.serving.answers)."""

    top1: tuple[Percent, Percent, Percent]  # and its 95 % interval
    images: Positive
    confused: tuple[
        tuple[Line, Line, Positive], ...
    ] = ()  # a class, what it was taken for, how often: the most frequent


class Strangers(Section):
    """How a network tells images of none of its classes; see eas.serving.strangers."""

    outputs: Positive  # for all other classes that its supernet knows, behind those of its own
    least_odds: Annotated[float, Field(allow_inf_nan=False)]  # log odds that an image of its own has at least
    refused_own: Percent | None = None  # of test images: of its own classes, by mistake
    refused_others: Percent | None = None  # and of other classes


class KeptBound(Section):
    """What a network was allowed to cost beside multiply-adds, and what it costs; see eas.costs."""

    cost: Line
    unit: Line
    most: Finite
    told: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Card(StoredSpace):
    """What a specialised network is: everything but its weights, as plain data."""

    classes: tuple[Line, ...] = Field(min_length=1)  # in the order of the logits
    budget_madds: Finite | None  # none where only others were set
    madds: Positive
    parameters: Positive
    arch: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...]
    synthetic: bool  # whether it learned from synthetic images
    expected_top1: tuple[Percent, Percent, Percent] | None = None  # and its 95 % interval, before it was measured
    test: Accuracy | None = None
    bounds: tuple[KeptBound, ...] = ()
    strangers: Strangers | None = None

    @property
    def outputs(self) -> int:
        """Of the network's classifier: its classes', and those for all others where it tells strangers."""
        return len(self.classes) + (self.strangers.outputs if self.strangers else 0)

    @model_validator(mode="after")
    def be_consistent(self) -> Card:
        if len(set(self.classes)) < len(self.classes):
            raise one_line("a class is named twice")
        try:
            space, arch = self.choice_space(), torch.tensor(self.arch, dtype=torch.long)
            if len(arch) != space.decisions:
                raise one_line(f"the arch has {len(arch)} choices, but its space {space.decisions} decisions")
            space.check(arch)
            costs = [int(count(arch, self.outputs)) for count in (space.madds, space.parameters)]
        except (RuntimeError, OverflowError):  # what torch and Python say of numbers beyond 64 bits
            raise one_line("it holds a number that is too large") from None
        if costs != [self.madds, self.parameters]:
            raise one_line("the arch needs {} multiply-adds and {} parameters, not those stated".format(*costs))
        if self.budget_madds and self.madds > self.budget_madds:
            raise one_line(f"{self.madds} multiply-adds are more than the budget of {self.budget_madds:g}")
        if over := [bound for bound in self.bounds if bound.told > bound.most]:
            raise one_line("{0.told:g} {0.unit} of {0.cost} are more than {0.most:g}".format(over[0]))
        return self


def specialize(
    supernet: Supernet,
    generator: Generator,
    hierarchy: Hierarchy,
    class_mask: Tensor,
    budget_madds: float | None,
    calibration: Split,
    *,
    synthetic: bool,
    bounds: Sequence[tuple[Cost, float]] = (),
    unseen: Split | None = None,
) -> tuple[nn.Module, Card]:
    """The specialised network for a set of classes (bool [classes]) under a budget, calibrated, in eval mode.

    The generator picks the arch in one forward pass; the classifier keeps the rows of these classes; `calibration`
    holds the images that the statistics are taken from, on the supernet's device. `bounds` are of other costs, such as
    a LatencyTable, whose are seconds. ValueError if there is no class, or no bound, or one is infinite or below the
    smallest arch; it says what is possible.

    With `unseen`, images of all classes that nothing was trained on, the network also tells images of none of its
    classes (eas.serving.strangers.Refusing); the costs are with what that takes.
    """
    if budget_madds is None and not bounds:
        raise ValueError("give a budget, of multiply-adds or another cost")
    if math.inf in (budget_madds, *(most for _, most in bounds)):
        raise ValueError("a budget must be finite")
    budget = torch.tensor([math.inf if budget_madds is None else budget_madds], dtype=torch.float64)
    hard = [Bound(cost, torch.tensor([most], dtype=torch.float64)) for cost, most in bounds]
    classes, space = class_mask.nonzero()[:, 0].tolist(), supernet.space
    others = (~class_mask).nonzero()[:, 0].tolist() if unseen else []
    outputs = len(classes) + len(others)
    arch = generator.generate(class_mask[None], budget, hard, torch.tensor([outputs]))[0]
    network = supernet.extract(arch, classes + others, calibrate(supernet, arch, calibration))
    costs = {name: int(getattr(space, name)(arch, outputs)) for name in ("madds", "parameters")}
    one, own = space.at_size_of(arch)  # of one size of images: the network's
    where = {"image_size": one.image_size, "in_channels": one.in_channels, "space": one.recipe}
    what = {"classes": tuple(hierarchy.classes[i] for i in classes), "arch": tuple(own.tolist())}
    kept = tuple(
        KeptBound(cost=cost.name, unit=cost.unit, most=most / cost.scale, told=told / cost.scale)
        for cost, most in bounds
        for told in [float(total(space, cost, arch, outputs))]
    )
    strangers = None
    if others:
        network = Refusing(network, len(classes)).eval()
        samples = (in_turn(unseen, MOST_FITTED, mask).images for mask in (class_mask, ~class_mask))
        least = least_odds(network, *(resized(images, one.image_size) for images in samples))
        strangers = Strangers(outputs=len(others), least_odds=least)
    asked = {"budget_madds": budget_madds and float(budget_madds), "bounds": kept}
    return network, Card(synthetic=synthetic, strangers=strangers, **asked, **what, **costs, **where)


def in_turn(split: Split, count: int, class_mask: Tensor | None = None) -> Split:
    """At most `count` images, a random one of every class in turn, always the same; of the masked classes if given.

    They tell of all classes with fewer images than a sample that does not look at classes.
    """
    order, labels = torch.randperm(len(split), generator=torch.Generator().manual_seed(0)), split.labels.cpu()
    if class_mask is not None:
        order = order[class_mask.cpu()[labels[order]]]
    labels, by_class = labels[order].sort(stable=True)
    counts = labels.bincount()
    turn = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels]  # how many of its class are before it
    return split[order[by_class[turn.argsort(stable=True)[:count]]]].decoded()


# -------------------------------------------------------------------- files


class StoredCard(Section):
    """What the .json file holds."""

    format: Literal["eas-specialized-2"]
    sha256: str  # of the weights
    card: Card


def save(network: nn.Module, card: Card, path: str | Path) -> Path:
    """Write `path`.safetensors (weights) and `path`.json (the card, with the weights' SHA-256); returns the former.

    The weights' metadata repeat the card, so that a change of either file is seen.
    """
    weights = Path(f"{path}.safetensors")
    write_tensors(inner(network).state_dict(), weights, {"card": card.model_dump_json()})
    stored = StoredCard(format="eas-specialized-2", sha256=sha256(weights), card=card)
    write_text(f"{path}.json", stored.model_dump_json(indent=1) + "\n")
    return weights


def load(path: str | Path) -> tuple[Callable[[Tensor], Tensor], Card]:
    """Read what `save` wrote, a network in eval mode on the CPU; or eas.export_onnx, whose files are named *.onnx.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a file is damaged, or is not a specialised network; the message names it and the reason.
        ModuleNotFoundError: an ONNX file, without the package that runs it; says how to install it.
    """
    if str(path).endswith(".onnx"):
        return import_module("eas.serving.onnx_files").load_onnx(Path(path))  # which knows of cards
    weights, text = Path(f"{path}.safetensors"), Path(f"{path}.json")
    for file in (weights, text):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: a specialised network is a .safetensors and a .json file")
    stored = read_section(StoredCard, text, "the card of a specialised network")
    require_size(weights, min(MOST_BYTES, BESIDE + 16 * stored.card.parameters))  # statistics included
    if stored.sha256 != sha256(weights):
        raise ValueError(f"{weights} is damaged, or belongs to another card: its SHA-256 differs from {text}")
    card, (tensors, metadata) = stored.card, read_tensors(weights)
    if not is_card(metadata.get("card", ""), card):
        raise ValueError(f"{text} was changed: it is not the card that {weights} was saved with")
    space, arch, unfit = card.choice_space(), torch.tensor(card.arch), f"{weights} does not fit its card"
    if space.depth(arch).sum() > len(tensors):  # a block has a tensor at least: nothing larger is even tried
        raise ValueError(f"{unfit}: it holds {len(tensors)} tensors, fewer than the arch has blocks")
    network = make_module(lambda: space.network(arch, card.outputs), tensors, unfit)
    return (Refusing(network, len(card.classes)).eval() if card.strangers else network), card


def is_card(text: str, card: Card) -> bool:
    """Whether a text says what the card says; one of an older version may leave out what is at its default."""
    try:
        return Card.model_validate_json(text) == card
    except ValidationError:
        return False


def read_section(kind: type[Section], path: Path, what: str) -> Section:
    """A JSON file as the section that it is; ValueError, in one line, that names the file and what is wrong in it."""
    content = read_json(path)
    try:
        return kind.model_validate_json(content)
    except ValidationError as err:
        first = err.errors()[0]
        told = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")]))
        again = "; make it again with this version" if first["loc"] == ("format",) else ""
        raise ValueError(f"{path} is damaged, or not {what}: {reason(told)}{again}") from None


class WithoutMemory(TorchFunctionMode):
    """Makes new tensors on torch's meta device, where they hold nothing; those with given values stay real."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn):
            return torch.empty(*args, **kwargs | {"device": "meta"})
        fills = function in (Tensor.normal_, Tensor.uniform_, Tensor.mul)
        fills = fills or getattr(function, "__module__", "") == nn.init.__name__
        if fills and (first := args[0] if args else kwargs["tensor"]).is_meta:
            return first  # initial values of nothing, for which torch would load its compiler: 1.4 s
        return function(*args, **kwargs)


def make_module(build: Callable[[], nn.Module], tensors: dict[str, Tensor], unfit: str) -> nn.Module:
    """What `build` builds, filled with the tensors of a file, in eval mode; it is built without memory first.

    If the tensors are not the module's, or hold impossible values, a ValueError of one line that begins with `unfit`.
    """
    try:
        with WithoutMemory():
            expected = build().state_dict()
    except (RuntimeError, OverflowError, TypeError):  # what torch says of sizes beyond 64 bits
        raise ValueError(f"{unfit}: it would be too large") from None
    if different := sorted(expected.keys() ^ tensors.keys()):
        what = "missing" if different[0] in expected else "not part of it"
        raise ValueError(f"{unfit}: {reason(different[0])} is {what}")
    for name, tensor in tensors.items():
        there, due = ((each.dtype, list(each.shape)) for each in (tensor, expected[name]))
        if there != due:
            raise ValueError(f"{unfit}: {name} is {there[0]} {there[1]} in place of {due[0]} {due[1]}")
        least = {"running_var": 0, "std": 1e-12}.get(name.rpartition(".")[2], -math.inf)
        if not (tensor.isfinite() & (tensor >= least)).all():
            raise ValueError(f"{unfit}: {name} holds impossible values")
    module = build()
    module.load_state_dict(tensors)
    return module.eval()
