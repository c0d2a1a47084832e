"""A web page on which a scenario is picked and its arch seen: one file, which needs no kernel, server or network."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pandas as pd
from torch import Tensor

from eas.space import SearchSpace
from eas.study import Scenarios


def write(
    path: Path,
    space: SearchSpace,
    wanted: Scenarios,
    archs: Tensor,
    comparison: pd.DataFrame,
    *,
    title: str,
    about: str,
    supernet: str = "eas",
) -> Path:
    """Write the page for the scenarios `wanted`, whose generated archs are int64 [scenarios, decisions].

    The methods' MAdds and test top-1 are the means over seeds of the comparison table's rows for `supernet`.
    """
    keys, rows = ["scenario", "budget_madds"], comparison[comparison.supernet == supernet]
    mean = rows.groupby([*keys, "method"], sort=False)[["madds", "top1"]].mean().round(2).reset_index()
    by_scenario = dict(list(mean.sort_values("top1", ascending=False, kind="stable").groupby(keys)))
    entries = {}
    for name, budget, arch in zip(wanted.names, wanted.budgets.long().tolist(), archs, strict=True):
        methods = by_scenario[(name, budget)][["method", "madds", "top1"]].values.tolist()
        entries.setdefault(name, {})[budget] = {"inner": space.describe(arch), "methods": methods}
    content = {
        "widths": space.widths,
        "blocks": space.blocks_per_stage,
        "sides": [space.resolution(stage) for stage in range(space.stages)],
        "scenarios": entries,
    }
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    page = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    for mark, text in (("$TITLE", html.escape(title)), ("$ABOUT", html.escape(about)), ("$DATA", data)):
        page = page.replace(mark, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(page, encoding="utf-8")
    return beside.rename(path)
