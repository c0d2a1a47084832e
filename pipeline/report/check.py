"""A study's fresh numbers beside the committed ones, within the tolerances of reports/tolerances.yaml."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import yaml

from pipeline.report import Metrics
from pipeline.report.inputs import naming, parse_metrics, read_metrics


def check(study: str, root: str | Path = ".") -> list[str]:
    """Print a study's numbers beside the committed ones; returns the names of those that are off.

    Raises:
        FileNotFoundError: no metrics in the report or in git, or no git.
        ValueError: reports/tolerances.yaml has no tolerance for the study, or names a number that is missing.
    """
    root = Path(root)
    tolerances = (yaml.safe_load((root / "reports" / "tolerances.yaml").read_text()) or {}).get(study)
    if not tolerances:
        raise ValueError(f"reports/tolerances.yaml lists no numbers of the study {study}")
    path = f"reports/{study}/metrics.json"
    sides = {"committed": committed(path, root), "fresh": read_metrics(root / path)}
    for side, metrics in sides.items():
        if missing := [name for name in tolerances if name not in metrics]:
            raise ValueError(f"{path} ({side}) lacks {', '.join(missing)}")
    width = max(map(len, tolerances))
    print(f"{'':{width}}  committed      fresh  tolerance")
    off = []
    for name, tolerance in tolerances.items():
        old, new = (metrics[name] for metrics in sides.values())
        if not within(old, new, tolerance):
            off.append(name)
        print(f"{name:{width}}  {number(old):>9}  {number(new):>9}  {tolerance:>9g}{'  OFF' * (name in off)}")
    return off


def within(old: float | str, new: float | str, tolerance: float) -> bool:
    """Whether two numbers differ by at most the tolerance, or two texts not at all."""
    if isinstance(old, str) or isinstance(new, str):
        return old == new
    return abs(old - new) <= tolerance  # false for NaN


def number(value: float | str) -> str:
    """Four significant digits are all that a headline needs."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def committed(path: str, root: Path) -> Metrics:
    """The metrics in the last commit.

    Raises:
        FileNotFoundError: there is no git, this is no clone (a ZIP has no history), or the last commit lacks the file.
        ValueError: what is committed is damaged.
    """
    why = f"{path} cannot be compared with the committed one"
    try:
        english = os.environ | {"LC_ALL": "C"}
        command = ["git", "show", f"HEAD:./{path}"]
        shown = subprocess.run(command, cwd=root, env=english, capture_output=True, text=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"{why}: the command git was not found") from None
    if shown.returncode and "not a git repository" in shown.stderr:
        raise FileNotFoundError(f"{why}: this folder has no git history (a ZIP?); clone the repository instead")
    if shown.returncode:
        raise FileNotFoundError(f"{why}: {' '.join(shown.stderr.split())}")
    with naming(f"the committed {path}", "commit another one"):
        return parse_metrics(shown.stdout)
