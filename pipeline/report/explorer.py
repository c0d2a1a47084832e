"""A web page on which a scenario is picked and its arch seen: one file, which needs no kernel, server or network."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pandas as pd
from torch import Tensor

from eas.files import write_text
from eas.spaces.base import ChoiceSpace
from pipeline.methods import METHODS, OFAS_WAY
from pipeline.report import stats
from pipeline.report.figures import block_forms, block_sizes, full_sizes, label, stage_ends
from pipeline.scenarios import Scenarios


def write(
    path: Path,
    space: ChoiceSpace,
    scenarios: Scenarios,
    archs: Tensor,
    comparison: pd.DataFrame,
    *,
    seed: int,
    title: str,
    about: str,
) -> Path:
    """Write the page for `scenarios`, whose archs, int64 [scenarios, decisions], the generator of `seed` emits.

    What methods reach are the test results of the comparison table. Returns the path.
    """
    content = {"stages": stages(space), "methods": methods(comparison), "seed": seed}
    content["scenarios"] = entries(space, scenarios, archs, results(comparison))
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    page = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    for mark, text in (("$TITLE", html.escape(title)), ("$ABOUT", html.escape(about)), ("$DATA", data)):
        page = page.replace(mark, text)
    write_text(path, page)
    return path


def stages(space: ChoiceSpace) -> list[dict]:
    """Name of every stage, names of its blocks, and how large each of them is drawn at most."""
    names, full, ends = space.block_names(), full_sizes(space).tolist(), stage_ends(space)
    return [
        {"name": stage, "blocks": names[first:end], "full": full[first:end]}
        for first, end, stage in zip([0, *ends[:-1]], ends, space.stage_names(), strict=True)
    ]


def methods(comparison: pd.DataFrame) -> dict[str, dict]:
    """What a reader is told of every method on every supernet; the key is that of `results`."""
    told = {}
    for method, supernet in comparison[["method", "supernet"]].drop_duplicates().itertuples(index=False):
        name = label(method) if supernet == "dropout" else f"{label(method)} (supernet {supernet})"
        words = METHODS[method].told if method in METHODS else ""
        told[f"{method}/{supernet}"] = {"label": name, "told": words}
    told["/".join(OFAS_WAY)]["label"] = "OFA's way"
    return told


def results(comparison: pd.DataFrame) -> dict[tuple[str, int], list[dict]]:
    """By scenario and budget: what every method reaches, and its points over OFA's way on the same seeds.

    Methods on the supernet `dropout`, and those on `plain` that are not applied to it; OFA's way always. `apart` says
    why a row does not compare with the others: it is not of all seeds, or not of all scenarios. An interval over seeds
    is None where there is a single one.

    Raises:
        ValueError: the comparison lacks OFA's way.
    """
    sides = comparison.method + "/" + comparison.supernet
    on_dropout = set(comparison[comparison.supernet == "dropout"].method)
    ofa = sides == "/".join(OFAS_WAY)
    if not ofa.any():
        raise ValueError("the comparison lacks OFA's way, which the page holds all else against")
    rows = comparison.assign(side=sides)[(comparison.supernet == "dropout") | ~comparison.method.isin(on_dropout) | ofa]
    rows = rows.merge(comparison[ofa].set_index(stats.SCENARIO).top1.rename("ofa").reset_index(), on=stats.SCENARIO)
    rows = rows.assign(difference=rows.top1 - rows.ofa)
    everywhere = set(stats.measured_everywhere(rows).side)
    table: dict[tuple[str, int], list[dict]] = {}
    for (scenario, budget, side), group in rows.groupby(["scenario", "budget_madds", "side"], sort=False):
        mean, low, high = stats.interval(group.difference)
        row = {"method": side, "madds": round(group.madds.mean()), "top1": round(group.top1.mean(), 2)}
        row |= {"over": round(mean, 2), "interval": None if len(group) < 2 else [round(low, 1), round(high, 1)]}
        if side not in everywhere:
            seeds = ", ".join(map(str, sorted(group.seed)))
            row["apart"] = f"seed{'s' * (len(group) > 1)} {seeds}" + ", some scenarios" * few(group.method.iloc[0])
        table.setdefault((scenario, budget), []).append(row)
    return {key: sorted(found, key=lambda row: -row["over"]) for key, found in table.items()}


def few(method: str) -> bool:
    """Whether a method is measured on some scenarios only."""
    return method in METHODS and METHODS[method].few


def entries(space: ChoiceSpace, scenarios: Scenarios, archs: Tensor, found: dict) -> list[dict]:
    """What the page shows of every scenario: its arch, the exact cost of that, and the rows of `results`."""
    madds = space.madds(archs, scenarios.class_counts).tolist()
    budgets, sizes = scenarios.budgets.long().tolist(), block_sizes(archs, space).nan_to_num()
    kept = list(zip(scenarios.kinds, budgets, map(tuple, archs.tolist()), strict=True))
    shown: dict[str, dict] = {}
    for row, (name, budget) in enumerate(zip(scenarios.names, budgets, strict=True)):
        union = scenarios.kinds[row] == "union"
        entry = shown.setdefault(name, {"name": name, "label": name.replace("+", " + ") if union else name})
        entry.setdefault("budgets", {})[budget] = {
            "sizes": [round(size, 4) for size in sizes[row].tolist()],
            "forms": block_forms(archs[row], space),
            "madds": madds[row],
            "pixels": space.at_size_of(archs[row])[0].image_size if space.image_sizes else None,
            "shared": kept.count(("superclass", budget, tuple(archs[row].tolist()))),
            "of": sum(kind == "superclass" and each == budget for kind, each, _ in kept),
            "rows": found[(name, budget)],
        }
    return list(shown.values())
