"""Results of long steps: found again by their key, kept where a killed stage finds them, and timed apart."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from eas import jobs
from eas.data import save_tensors


@dataclass(frozen=True)
class Result:
    """A file of tensors under a study's folder, build/<study>/, and its record (.json) beside it, written last.

    `key` is a hash of the parameters that it depends on.
    """

    folder: Path
    path: Path
    key: str

    @property
    def resume(self) -> Path:
        """Where a stage that was killed finds a part again: DVC deletes a stage's outputs before it runs it."""
        return self.folder / "resume" / self.path.relative_to(self.folder)

    @property
    def published(self) -> Path:
        """Where the repository holds what came from a larger machine: weights/<study>/."""
        return published_folder(self.folder) / self.path.relative_to(self.folder)

    def finished(self) -> dict | None:
        """The record, if the result was made with the same parameters, here or elsewhere; a stale one is deleted.

        A published record holds even where its tensors were too large to publish: who needs them is told.
        """
        if (record := self.read(self.path)) and self.path.exists():
            return record
        self.path.with_suffix(".json").unlink(missing_ok=True)  # no killed job leaves it beside a newer result
        for spare in (self.resume, self.published):
            if record := self.read(spare):
                copy(spare, self.path)
                return record
        return None

    def read(self, path: Path) -> dict | None:
        """The record beside `path`, if it is there and has this key."""
        record = path.with_suffix(".json")
        content = json.loads(record.read_text()) if record.is_file() else {}
        return content if content.get("key") == self.key else None

    def write(self, tensors: dict[str, Tensor], content: dict, *, resumable: bool = False) -> dict:
        """Write the tensors, then the record; a resumable result also to `resume`. Returns the record."""
        save_tensors(tensors, self.path)
        content = {"key": self.key, **content}
        self.path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
        if resumable:
            copy(self.path, self.resume)
        return content

    def timed(self, seconds: dict) -> dict:
        """`timed`, under the result's own name."""
        return timed(self.folder, str(self.path.relative_to(self.folder).with_suffix("")), self.key, seconds)


def copy(source: Path, target: Path) -> None:
    """Copy a result, its record last: that says that the tensors are whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".safetensors", ".json"):
        if source.with_suffix(suffix).exists():
            shutil.copyfile(source.with_suffix(suffix), target.with_suffix(suffix))


def published_folder(folder: Path) -> Path:
    """weights/<study>/ for a study's build/<study>/."""
    return folder.parent.parent / "weights" / folder.name


# -------------------------------------------------------------------- wall times


def machine() -> str:
    """What times and memory were measured on."""
    name = torch.cuda.get_device_name() if jobs.device().type == "cuda" else "no GPU"
    processor = f"{platform.processor() or platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"
    return f"{processor}, {os.cpu_count()} CPUs, {name}"


def peak_memory() -> float:
    """Gigabytes: the most that the GPU has reserved for a job, or without one, that its process has held so far."""
    if jobs.device().type == "cuda":
        return torch.cuda.max_memory_reserved() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def timed(folder: Path, name: str, key: str, seconds: dict) -> dict:
    """Wall times and peak memory, kept apart from results.

    The first measurement on a machine stays, so that a rerun changes nothing. Delete `folder`/timings to
    measure again.
    """
    path = folder / "timings" / f"{name}.json"
    fresh = {"key": key, "machine": machine(), "memory_gb": peak_memory()} | seconds
    if path.is_file() and (known := json.loads(path.read_text()))["key"] == key and known["machine"] == machine():
        return known
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fresh, indent=1) + "\n")
    return fresh


def known_timing(folder: Path, name: str, key: str) -> dict | None:
    """What was published under this key, or measured on this machine; None where it has to be measured."""
    for place, here in ((published_folder(folder), False), (folder, True)):
        path = place / "timings" / f"{name}.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        if known.get("key") == key and (not here or known["machine"] == machine()):
            return known
    return None


def read_timing(folder: Path, name: str) -> dict:
    """What `timed` kept, here or on the machine that the published results come from."""
    path = folder / "timings" / f"{name}.json"
    return json.loads((path if path.is_file() else published_folder(folder) / "timings" / f"{name}.json").read_text())


def cost_table(folder: Path) -> pd.DataFrame:
    """What the results in `folder` cost: one row for each step and machine, over supernets and seeds.

    Columns step, runs, seconds (median of a run), images_per_second (of training, each image through all subnets of a
    step; NaN elsewhere), memory_gb (see `peak_memory`; NaN where it was not recorded), machine.
    """
    rows = []
    for place in (published_folder(folder) / "timings", folder / "timings"):
        for path in sorted(place.rglob("*.json")):
            name, kept = path.relative_to(place), json.loads(path.read_text())
            record = folder / name
            if "seconds" in kept and record.is_file() and json.loads(record.read_text())["key"] == kept["key"]:
                step = re.sub(r"[-/]\d+\.json$|\.json$", "", re.sub(r"/(eas|ofa)-\d+/", "/", name.as_posix()))
                rate = kept["images"] / kept["seconds"] if "images" in kept else None
                row = {"step": step, "seconds": kept["seconds"], "images_per_second": rate}
                rows.append(row | {"memory_gb": kept.get("memory_gb"), "machine": kept["machine"]})
    table = pd.DataFrame(rows, columns=["step", "seconds", "images_per_second", "memory_gb", "machine"])
    steps = table.astype({"images_per_second": float, "memory_gb": float}).groupby(["step", "machine"], sort=False)
    medians = steps[["seconds", "images_per_second"]].median().assign(memory_gb=steps.memory_gb.max())
    return medians.assign(runs=steps.size()).reset_index()[["step", "runs", *medians.columns, "machine"]]
