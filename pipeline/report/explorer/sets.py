"""What the explorer knows of a study: archs, costs and expected accuracy of any set of superclasses, as plain data.

Nothing is generated in a browser: every bound of a grid is decoded here, for every small set of superclasses. The archs
of larger sets follow from the number of classes alone where the generator's do, which is tried on random ones; where
they do not, the page offers no larger sets. Expected accuracy needs no such care: who beats whom in the answers of
eas.expected.ExpectedAccuracy is kept image by image, so that any set's accuracy is counted, exactly.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from eas.costs import MADDS, Bound, Cost
from eas.data import Hierarchy
from eas.expected import ExpectedAccuracy
from eas.files import write_text
from eas.generator import ArchGenerator
from eas.serving.kit import Kit
from eas.serving.kit_files import NAME, load_kit
from eas.serving.latency import LatencyTable, load_latency
from eas.spaces import ChoiceSpace
from pipeline.params import Study, load_study
from pipeline.publish import study_kit
from pipeline.report.explorer.measured import measured
from pipeline.report.figures import full_sizes, label, stage_ends
from pipeline.report.inputs import read_comparison
from pipeline.scenarios import MEGA
from pipeline.store import open_workspace

FILE, LATENCY = "sets.json", "latency.json"
STEPS = 40  # of a grid of bounds, at least
LISTED = 7000  # sets that are decoded one by one, at most: all of 12 superclasses, of 20 those of up to four
TRIED = 300  # larger sets, at random, whose archs have to follow from the number of their classes
PIECE = 512  # sets decoded at once

Content = dict[str, Any]
Members = tuple[int, ...]  # the numbers of a set's superclasses, ascending


def write(study: str, root: str | Path = ".") -> Path:
    """Write reports/<study>/sets.json under `root`, from its published kit, or from its results and images; returns it.

    Where a table of latency lies beside the weights, weights/<study>/latency.json, milliseconds are a bound too.

    Raises:
        FileNotFoundError: there is no report, or neither a kit nor the results that one is made of.
        ValueError: the kit or a table is damaged.
    """
    root = Path(root)
    report, weights = root / "reports" / study, root / "weights" / study
    comparison = read_comparison(report / "comparison.csv")
    if (weights / NAME).is_file() and not os.environ.get("EAS_FRESH"):  # then nothing published counts
        kit = load_kit(weights)
    else:
        workspace = open_workspace(study, root)
        kit = study_kit(workspace, workspace.dataset())
    table = load_latency(weights / LATENCY, kit.supernet.space) if (weights / LATENCY).is_file() else None
    content = content_of(kit, load_study(study, root), comparison, table)
    write_text(report / FILE, json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")
    return report / FILE


def content_of(kit: Kit, study: Study, comparison: pd.DataFrame, table: LatencyTable | None = None) -> Content:
    """All that the page shows of a study; `comparison` is its table of results."""
    space, hierarchy = kit.supernet.space, kit.hierarchy
    pool = Pool(space)
    grids = [grid_of_madds(kit.generator, study), *([grid_of_time(space, hierarchy, table)] if table else [])]
    bounds = [bound_content(kit.generator, hierarchy, grid, pool) for grid in grids]
    archs = torch.tensor(pool.archs)
    return {
        "about": study.data.about.replace("*", ""),
        "synthetic": kit.synthetic,
        "superclasses": [
            {"name": label(name), "classes": [label(each) for each in members]}
            for name, members in zip(hierarchy.superclasses, hierarchy.members, strict=True)
        ],
        "largest": kit.largest_set if kit.branches else 0,  # superclasses of a set that weights of its own serve
        "stages": stages(space),
        "sized": {one.image_size: one.stage_names() for one in space.sized if space.image_sizes},
        "blocks": [
            {"forms": names, "sizes": [round(size, 4) for size in sizes[: len(names)]]}
            for names, sizes, there in zip(space.form_names(), space.form_sizes().tolist(), space.in_stage, strict=True)
            if there
        ],
        "archs": [arch_content(space, arch) for arch in archs],
        "costs": [cost_content(space, grid.cost, archs) for grid in grids],
        "parameters": linear(lambda count: space.parameters(archs, count)),
        "bounds": bounds,
        "expected": expected_content(kit.expected, hierarchy) if kit.expected else None,
        "measured": measured(comparison, study, hierarchy),
    }


def stages(space: ChoiceSpace) -> list[Content]:
    """Name of every stage, names of its blocks, and how large each of them is drawn at most."""
    names, full, ends = space.block_names(), full_sizes(space).tolist(), stage_ends(space)
    return [
        {"name": stage, "blocks": names[first:end], "full": full[first:end]}
        for first, end, stage in zip([0, *ends[:-1]], ends, space.stage_names(), strict=True)
    ]


# -------------------------------------------------------------------- bounds


@dataclass(frozen=True)
class Grid:
    """Bounds of a cost that the page offers, in the cost's units times its scale, and what they are called."""

    key: str  # in the page's address
    cost: Cost
    unit: str
    told: str
    most: list[float]


def grid_of_madds(generator: ArchGenerator, study: Study) -> Grid:
    """Budgets between the ends of what the generator was made for, those of the study among them."""
    low, high = generator.budget_range.tolist()
    own = [budget * MEGA for budget in study.scenarios.budgets if low <= budget * MEGA <= high]
    most = sorted({*map(round, [*steps_between(low, high), *own])})
    return Grid("madds", MADDS, "million multiply-adds", "million multiply-adds", [float(each) for each in most])


def grid_of_time(space: ChoiceSpace, hierarchy: Hierarchy, table: LatencyTable) -> Grid:
    """From what the smallest arch takes with all classes to what the largest does; bounds hold with the margin."""
    count = len(hierarchy.classes)
    ends = (float(table.seconds(space, arch, count)) for arch in (space.smallest, space.largest))
    low, high = (seconds * (1 + table.margin) / table.scale for seconds in ends)
    most = [each * table.scale for each in steps_between(low, high)[1:-1]]
    return Grid("ms", table, "milliseconds", f"milliseconds an image by {table.name}", most)


def steps_between(low: float, high: float) -> list[float]:
    """Round numbers between two, at least STEPS - 1, and these two."""
    size = (high - low) / STEPS
    power = 10.0 ** math.floor(math.log10(size))
    step = max(part * power for part in (1, 2, 2.5, 5) if part * power <= size * (1 + 1e-9))
    inner = (index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1))
    return sorted({low, high, *(float(f"{each:.10g}") for each in inner if low < each < high)})


# -------------------------------------------------------------------- archs


class Pool:
    """Distinct archs, each kept once, in canonical form."""

    def __init__(self, space: ChoiceSpace):
        self.space, self.archs, self.places = space, [], {}

    def rows(self, archs: Tensor) -> list[tuple[int, ...]]:
        """Which of them these are, [sets][bounds], from int64 [sets, bounds, decisions]."""
        distinct, inverse = self.space.canonical(archs).flatten(0, 1).unique(dim=0, return_inverse=True)
        found = np.array([self.place(tuple(arch)) for arch in distinct.tolist()])
        return [tuple(row) for row in found[inverse.view(archs.shape[:2]).numpy()].tolist()]

    def place(self, arch: tuple[int, ...]) -> int:
        """The number of one arch."""
        if arch not in self.places:
            self.places[arch] = len(self.archs)
            self.archs.append(arch)
        return self.places[arch]


def bound_content(generator: ArchGenerator, hierarchy: Hierarchy, grid: Grid, pool: Pool) -> Content:
    """The archs under every bound of a grid, by number of classes, and those of the sets that have others.

    `most` is the largest number of superclasses of a set whose archs are known.
    """
    total = len(hierarchy.superclasses)
    sizes = [len(members) for members in hierarchy.members]
    listed, most = listed_sets(total)
    counts = sorted({*reachable(sizes)})
    # What the generator would do if all classes were asked for, with so many outputs.
    everything = torch.ones(len(counts), len(hierarchy.classes), dtype=torch.bool)
    common = dict(zip(counts, archs_of(generator, grid, everything, pool, torch.tensor(counts)), strict=True))
    rows: dict[tuple[int, ...], int] = {}
    content: Content = {"key": grid.key, "unit": grid.unit, "told": grid.told, "scale": grid.cost.scale}
    content["values"] = [float(f"{value / grid.cost.scale:.10g}") for value in grid.most]
    content["common"] = {str(count): rows.setdefault(row, len(rows)) for count, row in common.items()}
    content["sets"] = {}
    for members, row in zip(listed, archs_of(generator, grid, masks_of(listed, hierarchy), pool), strict=True):
        if row != common[sum(sizes[each] for each in members)]:
            content["sets"][",".join(map(str, members))] = rows.setdefault(row, len(rows))
    larger = random_sets(total, most, TRIED)
    found = archs_of(generator, grid, masks_of(larger, hierarchy), pool) if larger else []
    follows = all(row == common[sum(sizes[i] for i in each)] for each, row in zip(larger, found, strict=True))
    return content | {"rows": list(rows), "most": total if follows else most}


def archs_of(
    generator: ArchGenerator, grid: Grid, masks: Tensor, pool: Pool, outputs: Tensor | None = None
) -> list[tuple[int, ...]]:
    """The archs of sets of classes, bool [sets, classes], at all bounds of a grid, as numbers of the pool."""
    most, rows = torch.tensor(grid.most, dtype=torch.float64), []
    for piece in torch.arange(len(masks)).split(PIECE):
        each, several = masks[piece].repeat_interleave(len(most), 0), most.repeat(len(piece))
        count = None if outputs is None else outputs[piece].repeat_interleave(len(most))
        bounds, budgets = [], several
        if grid.cost is not MADDS:
            bounds, budgets = [Bound(grid.cost, several)], torch.full_like(several, torch.inf)
        archs = generator.generate(each, budgets, bounds, count)
        rows += pool.rows(archs.view(len(piece), len(most), -1))
    return rows


def listed_sets(total: int) -> tuple[list[Members], int]:
    """All sets of up to so many superclasses that there are LISTED at most, pairs always; and that many."""
    sets: list[Members] = []
    for size in range(1, total + 1):
        if size > 2 and len(sets) + math.comb(total, size) > LISTED:
            return sets, size - 1
        sets += combinations(range(total), size)
    return sets, total


def random_sets(total: int, most: int, count: int) -> list[Members]:
    """Seeded sets of more than `most` superclasses, of all sizes in turn."""
    rng, sizes = torch.Generator().manual_seed(0), range(most + 1, total + 1)
    picked = (torch.randperm(total, generator=rng)[: sizes[index % len(sizes)]] for index in range(count * bool(sizes)))
    return [tuple(each.sort().values.tolist()) for each in picked]


def masks_of(sets: Sequence[Members], hierarchy: Hierarchy) -> Tensor:
    """Their classes, bool [sets, classes]."""
    member = torch.zeros(len(sets), len(hierarchy.superclasses), dtype=torch.bool)
    for row, each in enumerate(sets):
        member[row, list(each)] = True
    return member[:, hierarchy.parent]


def reachable(sizes: Iterable[int]) -> set[int]:
    """How many classes unions of superclasses of these sizes may have."""
    sums = {0}
    for size in sizes:
        sums |= {each + size for each in sums}
    return sums - {0}


def arch_content(space: ChoiceSpace, arch: Tensor) -> Content:
    """The form of every block by its number, -1 where the block is left out; the images' pixels where these differ."""
    forms = torch.where(space.active(arch), space.form_of(arch), -1)[space.in_stage].tolist()
    return {"forms": forms} | ({"pixels": space.at_size_of(arch)[0].image_size} if space.image_sizes else {})


# -------------------------------------------------------------------- costs


def cost_content(space: ChoiceSpace, cost: Cost, archs: Tensor) -> Content:
    """What archs cost: multiply-adds, or milliseconds that a table tells, its margin left out."""
    if isinstance(cost, LatencyTable):
        return linear(lambda count: cost.seconds(space, archs, count) / cost.scale)
    return linear(lambda count: space.madds(archs, count))


def linear(cost: Callable[[Tensor], Tensor]) -> Content:
    """A function of the number of classes, which is a classifier's: what none would cost, and what each adds."""
    at = [cost(torch.tensor(count)).double() for count in (1, 2, 101)]
    each = at[1] - at[0]
    if not torch.allclose(at[0] + 100 * each, at[2], rtol=1e-12, atol=1e-9) or each.max() - each.min() > 1e-9:
        raise ValueError("what a class costs is not the same for all archs and numbers of classes")
    return {"without": (at[0] - each).tolist(), "of_class": each[0].item()}


# -------------------------------------------------------------------- expected accuracy


def expected_content(expected: ExpectedAccuracy, hierarchy: Hierarchy) -> Content:
    """The numbers of the model, and for every arch and image which superclasses have a class that beats its own.

    An image is told right in a set of superclasses if none of these beats it. A bit for each, in bytes, the images
    ordered by superclass.
    """
    owner = hierarchy.parent[expected.labels]
    order = owner.argsort(stable=True)
    labels = expected.labels[order]
    packed = [np.packbits(beaten(a[order], labels, hierarchy), axis=1, bitorder="little") for a in expected.answers]
    return {
        "madds": expected.madds.tolist(),
        "branches": expected.branches.tolist(),
        "errors": expected.errors.tolist(),
        "images": torch.bincount(owner, minlength=len(hierarchy.superclasses)).tolist(),
        "beaten": base64.b64encode(np.stack(packed).tobytes()).decode(),
    }


def beaten(answers: Tensor, labels: Tensor, hierarchy: Hierarchy) -> np.ndarray:
    """Whether a class of each superclass takes an image from its own class, bool [images, superclasses].

    The first of equal ones wins, as with argmax.
    """
    own, classes = answers.gather(1, labels[:, None]), torch.arange(answers.shape[1])
    wins = (answers > own) | ((answers == own) & (classes < labels[:, None]))
    columns = [wins[:, hierarchy.parent == index].any(1) for index in range(len(hierarchy.superclasses))]
    return torch.stack(columns, 1).numpy()
