"""Results of long steps: found again by their key, kept where a killed stage finds them, and timed apart."""

from __future__ import annotations

import json
import os
import platform
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
    units = torch.backends.cpu.get_cpu_capability() + " and AMX" * jobs.has_amx()
    return f"{platform.processor() or platform.machine()} with {units}, {os.cpu_count()} CPUs, {name}"


def peak_memory() -> float:
    """Gigabytes: the most that the GPU has reserved for a job, or if that used none, its process has held so far."""
    if jobs.device().type == "cuda" and torch.cuda.is_initialized():
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


def cost_rows(folder: Path) -> pd.DataFrame:
    """What each of the results in `folder` cost: one row for each that was timed, on each machine.

    Columns name (path without suffix); seconds; images_per_second (of training, each image through all subnets of a
    step; NaN elsewhere); memory_gb (see `peak_memory`; NaN where it was not recorded); machine.
    """
    rows = []
    for place in (published_folder(folder) / "timings", folder / "timings"):
        for path in sorted(place.rglob("*.json")):
            name, kept = path.relative_to(place), json.loads(path.read_text())
            record = folder / name
            if "seconds" in kept and record.is_file() and json.loads(record.read_text())["key"] == kept["key"]:
                row = {"name": name.with_suffix("").as_posix(), "seconds": kept["seconds"]}
                row["images_per_second"] = kept["images"] / kept["seconds"] if "images" in kept else None
                rows.append(row | {"memory_gb": kept.get("memory_gb") or None, "machine": kept["machine"]})
    table = pd.DataFrame(rows, columns=["name", "seconds", "images_per_second", "memory_gb", "machine"])
    table = table.drop_duplicates(["name", "machine"], keep="last")  # published from the machine that this is
    return table.astype({"seconds": float, "images_per_second": float, "memory_gb": float})


def cost_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The median of `cost_rows` for each step and machine, over supernets and seeds; of the memory the largest.

    Columns step, runs, seconds, images_per_second, memory_gb, machine.
    """
    step = rows.name.str.replace(r"/(?:eas|ofa)-\d+/", "/", regex=True).str.replace(r"[-/]\d+$", "", regex=True)
    steps = rows.assign(step=step).groupby(["step", "machine"], sort=False)
    medians = steps[["seconds", "images_per_second"]].median().assign(memory_gb=steps.memory_gb.max())
    return medians.assign(runs=steps.size()).reset_index()[["step", "runs", *medians.columns, "machine"]]


PARTS = {  # of a study: the first pattern that a result's name matches
    "apart": r"/(?:long|tuned-\d+)$|/from_scratch/|/low_rank/|/branches/[^/]+/",
    "branches": r"^supernets/branches/",
    "supernets": r"^supernets/",
    "generators": r"^generators/",
    "comparison": r"^comparison/",
}


def seed_costs(rows: pd.DataFrame) -> pd.DataFrame:
    """What a seed costs in `cost_rows` where all of it, but for what is measured apart, ran on one machine.

    Columns seed, minutes (all in turn), seconds of supernets, branches, generators, comparison; apart (long search,
    archs tuned alone; as far as they ran there, not in the minutes); machine.
    """
    part = pd.Series("", rows.index)
    for label, pattern in reversed(PARTS.items()):
        part[rows.name.str.contains(pattern)] = label
    seed = rows.name.str.extract(r"/(?:eas|ofa)-(\d+)/")[0].fillna(rows.name.str.extract(r"^supernets/.*-(\d+)$")[0])
    table = rows.assign(part=part, seed=seed).dropna(subset="seed").astype({"seed": int})
    machines = table[table.part != "apart"].groupby("seed").machine
    machine = machines.first()[machines.nunique() == 1]
    table = table[table.machine == table.seed.map(machine)]
    columns = ["supernets", "branches", "generators", "comparison", "apart"]
    costs = table.pivot_table("seconds", "seed", "part", "sum").reindex(columns=columns).fillna(0.0)
    costs.insert(0, "minutes", costs.drop(columns="apart").sum(axis=1) / 60)
    return costs.assign(machine=machine).rename_axis(columns=None).reset_index()
