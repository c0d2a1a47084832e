"""The typed form of params.yaml: it refuses what it does not know, before any work begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from eas.data import SOURCES
from eas.files import reason
from eas.recipes import NO_DROPOUT, Branch, Dropout, GeneratorTraining, Training
from eas.registry import Count, Few, Finite, LearningRate, Positive, Section, suggestion
from eas.spaces import SPACES
from eas.spaces.base import MOST_FORMS
from eas.yaml_files import read_yaml

Some = Annotated[int, Field(ge=0, le=10**4)]
NAMED = 20  # mistakes that an error names; of more it tells the number
GENEROUS = 10  # times the largest of the scenarios' budgets: one above is in other units


class DropoutChoice(Section):
    """The settings that are trained; the one for the study is chosen on the selection split."""

    candidates: tuple[Dropout, ...] = Field(min_length=1)
    seeds: Positive  # the choice is made on that many of the study's first seeds

    @model_validator(mode="after")
    def different(self) -> DropoutChoice:
        names = [candidate.name for candidate in self.candidates]
        if len(set(names)) < len(names) or NO_DROPOUT.name in names:
            raise ValueError(f"candidates must differ, and none is always trained beside them: got {names}")
        return self


class Branches(Section):
    """Tuning of the shared supernet on every superclass's images; the candidate is chosen on the selection split."""

    epochs: Few  # of all images in all: a branch sees its own superclass only
    batch_size: Count
    candidates: tuple[Branch, ...] = Field(min_length=1)
    seeds: Positive = 1  # the choice is made on that many of the study's first seeds

    @model_validator(mode="after")
    def different(self) -> Branches:
        names = [candidate.name for candidate in self.candidates]
        if len(set(names)) < len(names):
            raise ValueError(f"candidates must differ, or have labels that do: got {names}")
        if untrained := [each.name for each in self.candidates if each.alike and not each.common]:
            raise ValueError(f"the branches {untrained[0]} are alike: `common` must be above 0, as nothing else learns")
        if all(candidate.alike for candidate in self.candidates):
            raise ValueError("all candidates are alike, which are controls: one with branches that differ is needed")
        return self


class Finetune(Section):
    """Tuning of a single arch on its scenario's images, weights of its own: no more instant, and larger to store."""

    epochs: Few
    batch_size: Count
    learning_rate: LearningRate
    seeds: Positive = 1  # on that many of the study's first seeds


class Gates(GeneratorTraining):
    """How a generator is trained on the paper's signal."""

    images: Few  # of each scenario in a step, see eas.generator.GateSignal


class Generator(Section):
    """The architecture generator and its two training signals."""

    width: Few = 64
    embedding: Few = 32
    predictor: GeneratorTraining
    gates: Gates


class Search(Section):
    """The opponents and the accuracy predictor that they share with the generator."""

    pool: Annotated[int, Field(ge=2, le=10**6)]  # evaluated archs that the predictor is fitted on
    predictor_steps: Count
    random: Few  # archs evaluated by random search
    evaluations: Count
    population: Annotated[int, Field(ge=2)]

    @model_validator(mode="after")
    def one_generation_at_least(self) -> Search:
        if self.population > self.evaluations:
            raise ValueError(f"a population of {self.population} is more than the {self.evaluations} evaluations")
        return self


class LongSearch(Section):
    """One more evolution, with many more evaluations: a reference for the best that can be found."""

    evaluations: Count
    seeds: Positive = 1  # on that many of the study's first seeds


class Scenarios(Section):
    """All superclasses and some unions of them, each at every budget (in million multiply-adds)."""

    budgets: tuple[Finite | Positive, ...] = Field(min_length=1)
    unions_of_two: Some
    unions_of_three: Some

    @model_validator(mode="after")
    def ascending(self) -> Scenarios:
        if list(self.budgets) != sorted(set(self.budgets)):
            raise ValueError(f"budgets must be strictly ascending, got {list(self.budgets)}")
        return self


class OtherSets(Section):
    """Other sets of classes at one budget (in million multiply-adds): all classes, and so many of each kind."""

    budget: Finite | Positive
    unions_of_five: Some = 0
    unions_of_ten: Some = 0
    parts: Some = 0  # two to four classes of one superclass
    across: Some = 0  # a class each of seven superclasses
    tuned: Annotated[int, Field(ge=0)] = 0  # archs are tuned alone for them on that many of the study's first seeds


class Evaluation(Section):
    """How subnets are measured."""

    calibration_images: Annotated[int, Field(ge=2)]


class Study(Section):
    """One study: everything that decides its results."""

    name: str
    note: str = ""  # how it was run, for the end of its report
    show_images: bool = True  # whether pages may show some: the terms of many data sets do not allow it
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(min_length=1)
    data: SOURCES.field
    space: SPACES.field
    training: Training
    dropout: DropoutChoice | None = None  # superclass dropout is tried only where this is given; a comparison needs it
    branches: Branches | None = None  # superclass branches are trained only where this is given
    finetune: Finetune | None = None  # archs of single scenarios likewise
    from_scratch: Some = 0  # scenarios whose generated arch is also trained alone
    generator: Generator
    search: Search
    long_search: LongSearch | None = None
    scenarios: Scenarios
    other_sets: OtherSets | None = None
    evaluation: Evaluation

    @model_validator(mode="after")
    def different_seeds(self) -> Study:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, got {list(self.seeds)}")
        return self

    @model_validator(mode="after")
    def seeds_that_there_are(self) -> Study:
        sections = {name: getattr(self, name) for name in ("dropout", "branches", "finetune", "long_search")}
        asked = {f"{name}.seeds": section.seeds for name, section in sections.items() if section}
        asked |= {"other_sets.tuned": self.other_sets.tuned} if self.other_sets else {}
        for name, count in asked.items():
            if count > len(self.seeds):
                raise ValueError(f"{name}: {count} are more than the study's {len(self.seeds)} seeds")
        return self

    @model_validator(mode="after")
    def a_long_search_of_one_generation_at_least(self) -> Study:
        if self.long_search and (most := self.long_search.evaluations) < (population := self.search.population):
            raise ValueError(f"long_search.evaluations: {most} are fewer than search.population, which is {population}")
        return self

    @model_validator(mode="after")
    def changes_that_fit(self) -> Study:
        side = self.data.image_size
        for name in ("shift", "cutout"):
            if (pixels := getattr(self.training.augment, name)) >= side:
                raise ValueError(f"training.augment.{name}: {pixels} pixels are no part of an image of {side}")
        return self

    @model_validator(mode="after")
    def space_of_some_size(self) -> Study:
        space = self.space.build(self.data.image_size, 3)
        if space.blocks * space.forms > MOST_FORMS:
            raise ValueError(f"space: {space.blocks} blocks with {space.forms} forms each are too many")
        try:
            space.madds(space.largest, 1)
        except (RuntimeError, OverflowError):  # what torch and Python say of numbers beyond 64 bits
            raise ValueError("space: it holds a number that is too large") from None
        return self

    @model_validator(mode="after")
    def supernets_that_are_trained(self) -> Study:
        branches = self.branches.candidates if self.branches else ()
        if not self.dropout and (lost := [each.name for each in branches if each.supernet == "dropout"]):
            told = "tuned from the supernet with dropout, which is trained where there is a section dropout"
            raise ValueError(f"branches.candidates: {lost[0]} are {told}: add one, or write `supernet: plain`")
        if not self.dropout and self.from_scratch:
            raise ValueError("from_scratch: it needs the section dropout, whose supernet's archs it trains")
        return self

    @model_validator(mode="after")
    def budgets_in_one_unit(self) -> Study:
        if self.other_sets and self.other_sets.budget > (most := GENEROUS * max(self.scenarios.budgets)):
            told = f"{self.other_sets.budget:g} is above {most:g}, {GENEROUS} times the largest of scenarios.budgets"
            raise ValueError(f"other_sets.budget: {told}; both are in millions")
        return self

    def first_seeds(self, section: DropoutChoice | Branches | Finetune | LongSearch | None) -> tuple[int, ...]:
        """The seeds that a section is done on; none where there is no such section."""
        return self.seeds[: section.seeds] if section else ()


def load_study(name: str, root: str | Path = ".") -> Study:
    """Read the study `name` from `root`/params.yaml; or, where it is a path to a YAML file, the one in that file.

    Raises:
        TypeError: `name` is not a string, or `root` not a path.
        FileNotFoundError: there is no params.yaml under `root`, or no such file.
        ValueError: an unknown study, or a parameter that is unknown, mistyped or out of range; one line.
    """
    if not isinstance(name, str) or not isinstance(root, str | Path):
        raise TypeError(f"study and root must be text, got {name!r} and {root!r}")
    if is_file(name):
        return read_study(Path(root, name))
    path = Path(root) / "params.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"no params.yaml in {Path(root)}: pass the repository's folder as root")
    studies = read_studies(path)
    if name not in studies:
        known = reason(", ".join(studies))
        raise ValueError(f"{path}: unknown study {name!r}; known: {known}{suggestion(name, studies)}")
    where = f"{path}: study {name!r}"
    if not isinstance(studies[name], dict):
        raise ValueError(f"{where}: must map parameters to values (got {reason(repr(studies[name]))})")
    if "name" in studies[name]:  # it is the key that the study stands under
        raise ValueError(f"{where}: unknown parameter name")
    return validated({"name": name, **studies[name]}, where)


def is_file(name: str) -> bool:
    """Whether a study is named by its own file."""
    return name.endswith((".yaml", ".yml"))


def read_study(path: Path) -> Study:
    """The study that is alone in a YAML file, which gives it its name; errors as `load_study`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: `eas check FOLDER` writes such a file")
    if not isinstance(content := read_yaml(path), dict) or "studies" in content:
        raise ValueError(f"{path} must map the parameters of one study to their values: `eas check` writes such a file")
    return validated({"name": path.stem, **{str(name): value for name, value in content.items()}}, str(path))


def validated(content: dict, where: str) -> Study:
    """The study that a mapping in a file describes; ValueError, in one line that begins with `where`."""
    try:
        # Validation from JSON, so that a YAML list may fill a tuple while every scalar keeps its exact type.
        return Study.model_validate_json(json.dumps(content))
    except ValidationError as err:
        problems = err.errors()
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise ValueError(f"{where}: " + "; ".join(map(describe, problems[:NAMED])) + more) from None
    except (TypeError, ValueError, RecursionError) as err:  # YAML knows dates, and sets
        raise ValueError(f"{where}: {reason(err)}") from None


def read_studies(path: Path) -> dict[str, object]:
    """The studies of a params.yaml by name; ValueError, in one line, if it is anything else."""
    content = read_yaml(path)
    studies = content.get("studies") if isinstance(content, dict) else None
    if not isinstance(studies, dict):
        raise ValueError(f"{path} must have a mapping 'studies' from names to parameters")
    return {str(name): study for name, study in studies.items()}


def describe(error: dict) -> str:
    """One line for one pydantic error: where, what, and which value was given."""
    where = reason(".".join(map(str, error["loc"])))
    if error["type"] == "extra_forbidden":
        return f"unknown parameter {where}"
    if error["type"] in ("kind", "value_error"):  # messages of our own say what was given
        return ": ".join(filter(None, [where, reason(error["msg"].removeprefix("Value error, "))]))
    return f"{where}: {error['msg']} (got {reason(repr(error['input']))})"
