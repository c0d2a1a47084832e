"""What reports are made of, read so that a damaged file is one line that names it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pandas as pd
from nbformat import NotebookNode

from eas.files import reason
from pipeline.report import Metrics

WORDS = ("method", "supernet", "scenario", "kind")  # columns of comparison.csv
NUMBERS = ("seed", "budget_madds", "madds", "top1")  # likewise


@contextmanager
def naming(file: object, again: str = "run `dvc repro` again") -> Iterator[None]:
    """ValueError, in one line that names the file and what to do, for all that goes wrong with its content within."""
    try:
        yield
    except Exception as error:  # damage makes parsers raise all kinds
        told = reason(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {reason(error)}"
        raise ValueError(f"{file} is damaged ({told}): {again}") from None


def require(path: Path) -> None:
    """FileNotFoundError where there is no such file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run `dvc repro` first")


def read_metrics(path: Path) -> Metrics:
    """The numbers of a study, a flat mapping.

    Raises:
        FileNotFoundError: there are none yet.
        ValueError: it is not a flat mapping of finite numbers and text.
    """
    require(path)
    with naming(path):
        return parse_metrics(path.read_text(encoding="utf-8"))


def parse_metrics(text: str) -> Metrics:
    """What a metrics.json says: names with finite numbers and text, one at least; else all kinds of errors."""
    metrics = json.loads(text)
    if not isinstance(metrics, dict) or not all(isinstance(value, int | float | str) for value in metrics.values()):
        raise ValueError("it must map names to numbers or text, without nesting")
    if not metrics:
        raise ValueError("it holds no number")
    for name, value in metrics.items():
        if isinstance(value, bool) or not (isinstance(value, str) or math.isfinite(value)):
            raise ValueError(f"{name} is {value}, no number")
    return metrics


def read_comparison(path: Path) -> pd.DataFrame:
    """A comparison.csv.

    Raises:
        FileNotFoundError: there is none yet.
        ValueError: it lacks a column, or has no row or half of one.
    """
    require(path)
    with naming(path):
        table = pd.read_csv(path)
        if lacking := [name for name in WORDS + NUMBERS if name not in table]:
            raise ValueError(f"no column {lacking[0]}")
        if table.empty or table[[*NUMBERS]].isna().any(axis=None):
            raise ValueError("no rows, or one that was cut short")
        return table


def read_notebook(path: Path) -> NotebookNode:
    """An executed notebook.

    Raises:
        FileNotFoundError: it has not been run.
        ValueError: it is no notebook.
    """
    require(path)
    with naming(path):
        return nbformat.read(path, as_version=4)
