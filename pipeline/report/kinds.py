"""Statistics by the kind of a set of classes: what weights of its own gain, and how right expectations are."""

from __future__ import annotations

from itertools import product
from typing import get_args

import numpy as np
import pandas as pd

from pipeline.methods import METHODS, OFAS_WAY
from pipeline.report.stats import Interval, Kind, Side, of_kind, paired_difference, same_archs, scenarios_of, side_of

SET_METHODS = (  # what a set of classes can be served by, from the least work for it to the most; OFA's way beside
    "generator_additive",
    "generator_composed",
    "generator_control",
    "generator_branch",
    "generator_finetuned",
)


def points_by_kind(comparison: pd.DataFrame, *, over_shared: bool = False) -> pd.DataFrame:
    """What each kind of set reaches on test: points of top-1 over OFA's way, or over the same archs, weights shared.

    Columns kind, method, supernet, sets (a count), seeds, mean, low, high, over the scenarios and seeds that both were
    measured on; a row for every method that was measured on that kind. Shared weights are those that composed branches
    differ from, where there are any.
    """
    rows = []
    for kind, side in product(get_args(Kind), sides(comparison)):
        base = same_archs(side) if over_shared else OFAS_WAY
        shared, other = (scenarios_of(of_kind(comparison, kind), *each) for each in (base, side))
        if len(both := shared.index.intersection(other.index)) and base != side:
            counts = {"sets": both.unique("scenario").size, "seeds": both.unique("seed").size}
            names = {"kind": kind, "method": side[0], "supernet": side[1]}
            rows.append(names | counts | paired_difference(comparison, side, base, kind)._asdict())
    return pd.DataFrame(rows, columns=["kind", "method", "supernet", "sets", "seeds", *Interval._fields])


def sides(comparison: pd.DataFrame) -> list[Side]:
    """SET_METHODS with the supernets that they are compared on."""
    shared, *own = (side_of(comparison, method) for method in SET_METHODS)
    return [(shared[0], own[0][1]), *own]


def prices(comparison: pd.DataFrame, branches: pd.DataFrame) -> pd.DataFrame:
    """What each way to serve a set of classes costs, in time and bytes, beside the supernet.

    Columns method, seconds_before and megabytes_before, once for all sets: what branches take, columns method, seconds
    and megabytes of `branches`; seconds_a_set, the median of what a set takes after that; megabytes_a_set, of weights
    of its own in float32.
    """
    before, rows = branches.set_index("method"), []
    for method, supernet in (OFAS_WAY, *sides(comparison)):
        some = comparison[(comparison.method == method) & (comparison.supernet == supernet)]
        if some.empty:
            continue
        row = {"method": method, "seconds_before": 0.0, "megabytes_before": 0.0}
        if method in before.index:
            row |= {f"{what}_before": before.loc[method, what] for what in ("seconds", "megabytes")}
        own = METHODS[method].weights == "scenario"
        row |= {"seconds_a_set": some.search_seconds.median()}
        rows.append(row | {"megabytes_a_set": some.parameters.mean() * 4 / 1e6 if own else 0.0})
    return pd.DataFrame(rows)


def expectation_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """How right expectations are, by kind and for all: networks, mean error, its deviation, slope, and coverage.

    Errors are measured minus expected, in points; the slope is that of measured over expected. Coverage is the share,
    in percent, of networks within their interval, widened by the noise of the test images, which it knows nothing of.
    """

    def judge(rows: pd.DataFrame) -> dict[str, float]:
        error, share = rows.measured - rows.expected, rows.measured / 100
        noise = 196 * np.sqrt(share * (1 - share) / rows.images)
        margin = np.sqrt((rows.high - rows.low) ** 2 / 4 + noise**2)
        varied = rows.expected.nunique() > 1
        slope = rows.expected.cov(rows.measured) / rows.expected.var() if varied else np.nan
        inside = (error.abs() <= margin).mean() * 100
        told = {"networks": len(rows), "mean_error": error.mean(), "deviation": error.std(), "slope": slope}
        return told | {"coverage": inside}

    parts = [("every", frame), *frame.groupby("kind", sort=False)]
    return pd.DataFrame([{"kind": kind} | judge(rows) for kind, rows in parts])
