"""The typed form of params.yaml: it refuses what it does not know, before any work begins."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Positive = Annotated[int, Field(gt=0)]
Finite = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of params.yaml: immutable, strictly typed, without unknown names."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Data(Section):
    """Which images, and how the published training images are divided."""

    name: Literal["glyphs", "cifar100"]
    image_size: Annotated[int, Field(ge=8, le=64)]
    per_typeface: Positive = 1  # glyphs only: images of a class in one typeface
    selection: Fraction
    calibration: Fraction
    seed: int

    @model_validator(mode="after")
    def leave_something_to_train_on(self) -> Data:
        if self.selection + self.calibration >= 1:
            raise ValueError("selection + calibration must leave a part for training (sum below 1)")
        return self


class Space(Section):
    """The search space: stages of pre-activation residual blocks (see eas.space.SearchSpace)."""

    widths: tuple[Positive, ...] = Field(min_length=1)
    depths: tuple[Positive, ...] = Field(min_length=1)
    ratios: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def ascending(self) -> Space:
        for name in ("depths", "ratios"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)):
                raise ValueError(f"{name} must be strictly ascending, got {list(values)}")
        return self


class Augment(Section):
    """Random changes of training images, in pixels; 0 and false switch one off."""

    shift: Annotated[int, Field(ge=0)] = 2
    flip: bool = False
    cutout: Annotated[int, Field(ge=0)] = 0


class Teacher(Section):
    """A larger network, trained alone on all classes, that all trainings of its seed learn from."""

    widths: tuple[Positive, ...] = Field(min_length=1)  # of its stages; depths and ratios are the space's largest
    epochs: Positive
    share: Fraction  # of its prediction in the targets, restricted to the classes that count


class Training(Section):
    """The supernet's recipe, the same for every supernet of a study."""

    epochs: Positive
    batch_size: Positive
    learning_rate: Finite
    random_subnets: Annotated[int, Field(ge=0)]  # a step, beside the largest and the smallest
    distinct_archs: Positive = 256  # that the random subnets are drawn from
    warmup: Rate = 0.15  # fraction of the steps
    momentum: Rate = 0.9
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5e-4
    zero_init: bool = True  # every block begins as its shortcut
    label_smoothing: Rate = 0.0
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.5  # share of the largest subnet in a smaller one's loss
    teacher: Teacher | None = None
    augment: Augment = Augment()
    mixed_precision: bool = True  # bfloat16 where the hardware has matrix units for it; false: float32 everywhere


class Dropout(Section):
    """One setting of superclass dropout."""

    variant: Literal["none", "batch", "own", "sample"]
    rate: Rate
    begin: Rate = 0.0  # share of the training after which it begins: before, all classes count

    @property
    def name(self) -> str:
        begin = f"-from-{self.begin:g}" if self.begin else ""
        return self.variant if self.variant == "none" else f"{self.variant}-{self.rate:g}{begin}"


class DropoutChoice(Section):
    """The settings that are trained; the one for the study is chosen on the selection split."""

    candidates: tuple[Dropout, ...] = Field(min_length=1)
    seeds: Positive  # the choice is made on that many of the study's first seeds
    with_teacher: Teacher | None = None  # tried with the chosen setting on the first seed, to learn what it would add


class Branch(Section):
    """One way to tune a superclass branch: which weights, how fast."""

    part: Literal["all", "norms", "classifier"]  # norms: scales, shifts and the classifier
    learning_rate: Finite
    batch_size: Positive | None = None  # that of all branches, unless given

    @property
    def name(self) -> str:
        batch = f"-batch-{self.batch_size}" if self.batch_size else ""
        return f"{self.part}-{self.learning_rate:g}{batch}"


class Branches(Section):
    """Tuning of the shared supernet on every superclass's images; the candidate is chosen on the selection split."""

    epochs: Positive  # of all images in all: a branch sees its own superclass only
    batch_size: Positive
    candidates: tuple[Branch, ...] = Field(min_length=1)
    seeds: Positive = 1  # the choice is made on that many of the study's first seeds
    ranks: tuple[Positive, ...] = ()  # of low-rank differences to the shared weights, as a smaller way to store them
    dropouts: tuple[Dropout, ...] = ()  # of other supernets, tuned as well: does superclass dropout help branches?
    dropout_seeds: Positive | None = None  # on that many of the study's first seeds; by default on all

    @model_validator(mode="after")
    def as_long(self) -> Branches:
        if any(setting.variant == "none" for setting in self.dropouts):
            raise ValueError(
                "dropouts: none trains longer; {variant: own, rate: 0} is none, trained as long as the rest"
            )
        return self

    def only(self, *candidates: Branch) -> Branches:
        """Itself without what the results of `candidates` do not depend on: all else that is tried beside them."""
        beside = {"seeds": 1, "ranks": (), "dropouts": (), "dropout_seeds": None}
        return self.model_copy(update={"candidates": candidates} | beside)


class Finetune(Section):
    """Tuning of a single arch on its scenario's images, weights of its own: no more instant, and larger to store."""

    epochs: Positive
    batch_size: Positive
    learning_rate: Finite
    seeds: Positive = 1  # on that many of the study's first seeds


class Generator(Section):
    """The architecture generator and its two training signals."""

    width: Positive = 64
    embedding: Positive = 32
    steps: Positive
    scenarios: Positive = 256  # a step of the accuracy-model signal
    gate_steps: Positive
    gate_scenarios: Positive
    gate_images: Positive
    learning_rate: Finite = 3e-3
    penalty: Finite = 10.0  # on the squared relative distance from the budget
    entropy: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # reward at the start, falling to none


class Search(Section):
    """The opponents and the accuracy predictor that they share with the generator."""

    pool: Positive  # evaluated archs that the predictor is fitted on
    predictor_steps: Positive
    random: Positive  # archs evaluated by random search
    evaluations: Positive
    population: Positive


class LongSearch(Section):
    """One more evolution, with many more evaluations: a reference for the best that can be found."""

    evaluations: Positive
    seeds: Positive = 1  # on that many of the study's first seeds


class Scenarios(Section):
    """All superclasses and some unions of them, each at every budget (in million multiply-adds)."""

    budgets: tuple[Finite | Positive, ...] = Field(min_length=1)
    unions_of_two: Annotated[int, Field(ge=0)]
    unions_of_three: Annotated[int, Field(ge=0)]


class Evaluation(Section):
    """How subnets are measured."""

    calibration_images: Positive


class Study(Section):
    """One study: everything that decides its results."""

    name: str
    note: str = ""  # what a reader of its report has to know first
    seeds: tuple[int, ...] = Field(min_length=1)
    data: Data
    space: Space
    training: Training
    dropout: DropoutChoice
    branches: Branches | None = None  # superclass branches are trained only where this is given
    finetune: Finetune | None = None  # archs of single scenarios likewise
    from_scratch: Annotated[int, Field(ge=0)] = 0  # scenarios whose generated arch is also trained alone
    generator: Generator
    search: Search
    long_search: LongSearch | None = None
    scenarios: Scenarios
    evaluation: Evaluation

    @model_validator(mode="after")
    def one_teacher(self) -> Study:
        if self.training.teacher and self.dropout.with_teacher:
            raise ValueError("dropout.with_teacher: training.teacher has every supernet learn from one already")
        return self

    @property
    def taught(self) -> Study:
        """Itself with the teacher of `dropout.with_teacher` for all trainings."""
        return self.model_copy(
            update={"training": self.training.model_copy(update={"teacher": self.dropout.with_teacher})}
        )

    @property
    def longer(self) -> Training:
        """The recipe of what has no branches: longer by what the branches cost, so that training costs are equal."""
        extra = self.branches.epochs if self.branches else 0
        return self.training.model_copy(update={"epochs": self.training.epochs + extra})

    def key(self, *parts: str) -> str:
        """Hash of the named sections (all of them by default): equal keys, equal results on one machine.

        Defaults are left out, so that a new parameter, whose default changes nothing, leaves older results valid.
        """
        content = self.model_dump(mode="json", include=set(parts) or None, exclude={"note"}, exclude_defaults=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def load_study(name: str, root: str | Path = ".") -> Study:
    """Read the study `name` from `root`/params.yaml.

    Raises:
        TypeError: `name` is not a string, or `root` not a path.
        FileNotFoundError: there is no params.yaml under `root`.
        ValueError: an unknown study, or a parameter that is unknown, mistyped or out of range; one line.
    """
    if not isinstance(name, str) or not isinstance(root, str | Path):
        raise TypeError(f"study and root must be text, got {name!r} and {root!r}")
    path = Path(root) / "params.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"no params.yaml in {Path(root)}: pass the repository's folder as root")
    studies = read_studies(path)
    if name not in studies:
        raise ValueError(f"unknown study {name!r}; known: {', '.join(studies)}{suggestion(name, studies)}")
    if not isinstance(studies[name], dict):
        raise ValueError(f"study {name!r}: must map parameters to values (got {studies[name]!r})")
    if "name" in studies[name]:  # it is the key that the study stands under
        raise ValueError(f"study {name!r}: unknown parameter name")
    try:
        # Validation from JSON, so that a YAML list may fill a tuple while every scalar keeps its exact type.
        return Study.model_validate_json(json.dumps({"name": name, **studies[name]}))
    except ValidationError as err:
        raise ValueError(f"study {name!r}: " + "; ".join(map(describe, err.errors()))) from None


def read_studies(path: Path) -> dict[str, object]:
    """The studies of a params.yaml by name; ValueError, in one line, if it is anything else."""
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as err:
        raise ValueError(f"{path} is not YAML: {' '.join(str(err).split())}") from None
    studies = content.get("studies") if isinstance(content, dict) else None
    if not isinstance(studies, dict):
        raise ValueError(f"{path} must have a mapping 'studies' from names to parameters")
    return studies


def describe(error: dict) -> str:
    """One line for one pydantic error: where, what, and which value was given."""
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"unknown parameter {where}"
    return f"{where}: {error['msg']} (got {error['input']!r})"


def suggestion(name: str, known) -> str:
    """', did you mean ...?' where a known name is close, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
