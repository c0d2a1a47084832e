"""What the explorer tells of test images: what methods reached on a set of superclasses, beside OFA's way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from eas.data import Hierarchy
from pipeline.methods import METHODS, OFAS_WAY
from pipeline.params import Study
from pipeline.report import stats
from pipeline.report.figures import label
from pipeline.scenarios import whole_sets

TUNED = ("ofa_finetuned", "generator_finetuned")  # that trains for every scenario: how far one could get
WHOLE = ("superclass", "union", "large_union", "all")  # kinds of sets of whole superclasses


def measured(comparison: pd.DataFrame, study: Study, hierarchy: Hierarchy) -> dict[str, Any]:
    """The methods that the page shows, their results by set and budget, and their means over sets of a kind.

    A result is a method's number, its accuracy with an interval over seeds, and its difference to OFA's way with its
    own; the ends are None of a single seed. `own` and `shared` are those of the networks that the page makes, with
    either weights. Results of some seeds only are left out, as are means of what was measured on some sets only.

    Raises:
        ValueError: the comparison lacks OFA's way.
    """
    sides = shown_sides(comparison)
    key = comparison.method + "/" + comparison.supernet
    if not (ofa := key == "/".join(OFAS_WAY)).any():
        raise ValueError("the comparison lacks OFA's way, which the page holds all else against")
    reference = comparison[ofa].set_index(stats.SCENARIO).top1.rename("ofa").reset_index()
    rows = comparison.assign(side=key)[key.isin(["/".join(side) for side in sides])].merge(reference, on=stats.SCENARIO)
    rows = rows.assign(difference=rows.top1 - rows.ofa)
    numbers = {"/".join(side): index for index, side in enumerate(sides)}
    seeds = comparison.seed.nunique()
    names = {"+".join(each): each for each in whole_sets(study, hierarchy)} | {"all": tuple(hierarchy.superclasses)}
    place = {name: index for index, name in enumerate(hierarchy.superclasses)}
    sets: dict[str, dict[str, list]] = {}
    for (scenario, budget, side), group in rows.groupby(["scenario", "budget_madds", "side"], sort=False):
        if scenario in names and len(group) == seeds:
            members = ",".join(str(each) for each in sorted(place[name] for name in names[scenario]))
            found = sets.setdefault(members, {}).setdefault(f"{budget / 1e6:g}", [])
            found.append([numbers[side], *told(group.top1), *told(group.difference)])
    kinds: dict[str, list] = {}
    for (kind, side), group in rows[rows.kind.isin(WHOLE)].groupby(["kind", "side"], sort=False):
        each = group.groupby("seed")[["top1", "difference"]].mean()
        if len(each) == seeds and group.method.iloc[0] not in TUNED:
            kinds.setdefault(kind, []).append([numbers[side], *told(each.top1), *told(each.difference)])
    return {
        "methods": [{"label": name_of(side), "told": METHODS[side[0]].told} for side in sides],
        "own": numbers["/".join(sides[0])],
        "shared": numbers["/".join(sides[1])],
        "ofa": numbers["/".join(OFAS_WAY)],
        "seeds": int(seeds),
        "sets": {members: {b: sorted(found) for b, found in each.items()} for members, each in sets.items()},
        "kinds": {kind: sorted(found) for kind, found in kinds.items()},
    }


def shown_sides(comparison: pd.DataFrame) -> list[stats.Side]:
    """The methods on the page: the page's own networks with either weights, OFA's way, and those to measure them by."""
    there = set(comparison.method)
    own = stats.side_of(comparison, "generator_composed" if "generator_composed" in there else "generator_branch")
    sides = [own, stats.same_archs(own), OFAS_WAY]
    return sides + [
        stats.side_of(comparison, name) for name in ("generator_branch", *TUNED) if name in there and name != own[0]
    ]


def told(values: Iterable[float]) -> list[float | None]:
    """Mean and interval of one value a seed, as they are written; no ends of a single one."""
    return [None if pd.isna(each) else round(each, 1) for each in stats.interval(values)]


def name_of(side: stats.Side) -> str:
    """As a reader would say it."""
    return "OFA's way" if side == OFAS_WAY else label(side[0])
