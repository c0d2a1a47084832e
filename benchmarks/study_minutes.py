"""Benchmark 5: where the minutes of `make study` go, from a run from nothing on a fresh clone."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from pathlib import Path

import pandas as pd

from eas import records

STAGE = re.compile(r"Running stage '(?P<name>[^']+)'")


def measure(root: str | Path = ".") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run the embedded study of the last commit; returns (stages, steps).

    Stages, as DVC runs them one after another: columns stage, seconds. Steps, of which independent ones run side by
    side: see records.cost_table.

    Raises:
        subprocess.CalledProcessError: the clone or the study failed; its last lines are on the error.
    """
    with tempfile.TemporaryDirectory() as name:
        clone = Path(name) / "study"
        subprocess.run(["git", "clone", "-q", str(Path(root).resolve()), str(clone)], check=True)
        command = ["dvc", "repro"]
        process = subprocess.Popen(
            command, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        begun, lines = [], []
        for line in process.stdout:
            lines.append(line)
            if found := STAGE.search(line):
                begun.append((found["name"], time.perf_counter()))
                print(f"  make study: {found['name']}", flush=True)
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, command, "".join(lines[-30:]))
        ends = [start for _, start in begun[1:]] + [time.perf_counter()]
        stages = [{"stage": name, "seconds": end - start} for (name, start), end in zip(begun, ends, strict=True)]
        return pd.DataFrame(stages), records.cost_table(clone / "build" / "glyphs")
