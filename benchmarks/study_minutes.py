"""Benchmark 5: where the minutes of `make study` go, from a run from nothing on a fresh clone."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline.report import costs
from pipeline.store import open_workspace
from pipeline.tables import result_costs

STAGE = re.compile(r"Running stage '(?:[^':]*:)?(?P<name>[^']+)'")  # DVC names the file first, unless it is its root's


def measure(root: str | Path = ".") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run the embedded study of the last commit; returns (stages, steps).

    Stages, as DVC runs them one after another: see `run_stages`. Steps, whose results are made side by side: see
    `step_costs`.

    Raises:
        subprocess.CalledProcessError: the clone or the study failed; its last lines are on the error.
    """
    with tempfile.TemporaryDirectory() as name:
        clone = Path(name) / "study"
        subprocess.run(["git", "clone", "-q", str(Path(root).resolve()), str(clone)], check=True)
        stages = run_stages(["dvc", "repro"], clone)
        return stages, step_costs(result_costs(open_workspace("glyphs", clone)))


def run_stages(command: Sequence[str], folder: Path) -> pd.DataFrame:
    """Run DVC in a folder; columns stage, seconds, in the order in which it ran them.

    Raises:
        subprocess.CalledProcessError: it failed; its last lines are on the error.
    """
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    starts, lines = [], []
    with subprocess.Popen(command, cwd=folder, **pipe) as process:
        for line in process.stdout:
            lines.append(line)
            if match := STAGE.search(line):
                starts.append((match["name"], time.perf_counter()))
                print(f"  make study: {match['name']}", flush=True)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, "".join(lines[-30:]))
    ends = [start for _, start in starts[1:]] + [time.perf_counter()]
    return pd.DataFrame(
        [{"stage": name, "seconds": end - start} for (name, start), end in zip(starts, ends, strict=True)]
    )


def step_costs(rows: pd.DataFrame) -> pd.DataFrame:
    """Of pipeline.tables.result_costs a row for every step, or kind of its results (supernets/own-0.1).

    Columns step, runs (how many results), seconds and images_per_second (median), memory_gb (the most), machine.
    """
    table = costs.cost_table(rows)
    step = table.step + ("/" + table.name).where(table.name != "", "")
    return table.assign(step=step)[["step", "runs", "seconds", "images_per_second", "memory_gb", "machine"]]
