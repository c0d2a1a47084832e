"""Results of long steps: found again by their key, whole or not at all.

A result is a record (.json: key, hash of the tensors, what was measured, what it cost) and, where it has any, tensors
(.safetensors) beside it. The tensors are written first, so that a record says that they are whole. What a study leaves
lies under build/<study>/; what came from a larger machine is published under weights/<study>/, and is only read.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from pydantic import BaseModel
from torch import Tensor
from tqdm import tqdm

from eas import data, devices
from eas.data import Dataset
from eas.files import MOST_TENSORS, beside, read_json, read_tensors, sha256, write_json, write_tensors, write_text
from pipeline.params import Study, is_file, load_study

MOST_RECORD = 2**26  # bytes
Record = dict[str, Any]
Job = dict[str, Any]  # the arguments of one run of a step's function


@dataclass(frozen=True)
class Workspace:
    """A study and where its results lie: `folder`, and `published`, or None to make all of it here."""

    study: Study
    folder: Path
    published: Path | None = None
    sealed: bool = False  # whether its data set comes without test images

    @property
    def root(self) -> Path:
        """What paths in the study's parameters are relative to: the repository, or the folder of the study's file."""
        return self.folder.parent.parent

    @property
    def dataset_path(self) -> Path:
        return self.folder / "dataset.safetensors"

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Of images, and weights to start from, that may change under the same parameters; nothing of others.

        For the keys of results.
        """
        start = self.study.training.start and self.root / self.study.training.start.weights
        found = {"fingerprint": self.study.data.fingerprint(self.root)}
        found |= {"start": sha256(start)} if start and start.is_file() else {}
        return {name: value for name, value in found.items() if value}

    def make_images(self) -> None:
        """Make the file of the study's images where it is missing; errors as eas.data.make."""
        if not self.dataset_path.is_file():
            data.make(self.study.data, self.root, self.dataset_path)

    def seal(self) -> Workspace:
        """The same for who may not look at test images."""
        sealed = copy(self)  # with the fingerprint, where it is known: for many files it takes seconds
        object.__setattr__(sealed, "sealed", True)
        return sealed

    def dataset(self) -> Dataset:
        """The study's images.

        Raises:
            FileNotFoundError: there are none; says what makes them.
            ValueError: they are damaged, or were made of other images or by other parameters; says what to do.
        """
        dataset = data.load(self.dataset_path)
        dataset = replace(dataset, test=dataset.test[:0]) if self.sealed else dataset
        same = dataset.fingerprint == self.fingerprint.get("fingerprint", "")
        if not same or dataset.source not in ("", self.study.data.digest):
            raise ValueError(
                f"{self.dataset_path} was made of other images or superclasses, or by other parameters, than are there "
                "now: run notebooks/01_superclasses again"
            )
        return dataset


def open_workspace(study: str, root: str | Path = ".", *, fresh: bool = False) -> Workspace:
    """The workspace of a study of params.yaml under the repository `root`, or of one with a YAML file of its own.

    The latter's folder is build/<name>/ beside the file, which paths in it are relative to. `fresh`, or the environment
    variable EAS_FRESH, leaves aside what is published: all of it is made here.
    """
    root = Path(root)
    if isinstance(study, str) and is_file(study):
        path = root / study
        return Workspace(load_study(study, root), path.parent / "build" / path.stem)
    published = None if fresh or os.environ.get("EAS_FRESH") else root / "weights" / study
    return Workspace(load_study(study, root), root / "build" / study, published)


def make_key(step: str, params: dict[str, Any], job: Job) -> str:
    """Hash of all that a result depends on: equal keys, equal results on one machine.

    `params` maps the names of parameters to values. Defaults are left out, so that a new parameter, whose default
    changes nothing, leaves older results valid.
    """
    text = json.dumps([step, plain(params), plain(job)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """Sections of parameters as plain data, without their defaults, all the way down."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Result:
    """One result of a study, there or not: its name, such as 'supernets/none-0', and its key."""

    workspace: Workspace
    name: str
    key: str

    @property
    def path(self) -> Path:
        """Of the tensors."""
        return self.workspace.folder / f"{self.name}.safetensors"

    def find(self) -> Record | None:
        """Its record, if it was made with the same parameters, here or elsewhere, and is whole; changes nothing.

        What was made here goes first. A published record holds even where its tensors were too large to publish.

        Raises:
            ValueError: published tensors are not those that their record tells of.
        """
        record = read_record(self.path)
        if record and record.get("key") == self.key and is_whole(record, self.path):
            return record
        return self.find_published()

    @contextmanager
    def made_once(self) -> Iterator[Record | None]:
        """While this is held, no other process makes the result; what one made meanwhile, where one had to be awaited.

        One that is killed holds it no longer.
        """
        path, waited = self.workspace.folder / "locks" / self.name.replace("/", "+"), False
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            tqdm.write(f"{self.name}: another run is making it, and is waited for")
            lock.acquire()
            waited = True
        try:
            yield self.find() if waited else None
            with suppress(PermissionError):  # Windows, where an open file stays
                path.unlink(missing_ok=True)  # who waits for it finds the result
        finally:
            lock.release()

    def find_published(self) -> Record | None:
        """The published record, if there is one with this key; ValueError where its tensors are damaged."""
        record = read_record(self.published_path) if self.workspace.published else None
        if not record or record.get("key") != self.key:
            return None
        if self.published_path.exists() and not is_whole(record, self.published_path):
            raise ValueError(f"{self.published_path} is damaged: its SHA-256 is not the one in its record")
        return record

    @property
    def published_path(self) -> Path:
        return (self.workspace.published or Path()) / f"{self.name}.safetensors"

    def fetch(self) -> None:
        """Copy what is published into the workspace, its record last, unless it is there."""
        record = read_record(self.path)
        if record and record.get("key") == self.key and is_whole(record, self.path):
            return
        if published := self.find_published():
            if self.published_path.exists():
                copy_file(self.published_path, self.path)
            elif self.path.exists():
                self.path.unlink()  # of other parameters
            elif published == record:
                return
            write_text(self.path.with_suffix(".json"), self.published_path.with_suffix(".json").read_text())

    def write(self, tensors: dict[str, Tensor], content: Record) -> Record:
        """Write the tensors, then the record, each whole or not at all; returns the record."""
        self.path.with_suffix(".json").unlink(missing_ok=True)  # no record of other parameters beside new tensors
        record = {"key": self.key, "sha256": None} | content
        if tensors:
            write_tensors(tensors, self.path)
            record["sha256"] = sha256(self.path)
        write_json(self.path.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
        return record

    def tensor_path(self) -> Path | None:
        """Where the tensors of a result that `find` found are: here, or where they are published; None if nowhere.

        Others may lie here, of other parameters, where what is published has not been fetched.
        """
        record, paths = self.find() or {}, (self.path, self.published_path)
        return next((path for path in paths if holds(path, record.get("sha256"))), None)

    def record_text(self) -> str:
        """The record as it is written, of a result that `find` found."""
        place = self.path if (read_record(self.path) or {}).get("key") == self.key else self.published_path
        return place.with_suffix(".json").read_text(encoding="utf-8")

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of a result that `find` found.

        Raises:
            FileNotFoundError: only its record is there.
        """
        if path := self.tensor_path():
            return read_tensors(path)[0]
        raise FileNotFoundError(f"{self.path} is missing: only its record was published; EAS_FRESH=1 makes it here")


def read_record(path: Path) -> Record | None:
    """The record beside a file of tensors; None where there is none, or a damaged one."""
    try:
        content = json.loads(read_json(path.with_suffix(".json"), MOST_RECORD).decode())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and [*content][:1] == ["key"] else None  # as they are written


def is_whole(record: Record, path: Path) -> bool:
    """Whether the record says which tensors it was written for, none or some, and these are the ones."""
    expected = record.get("sha256", "")
    return expected is None or holds(path, expected)


def holds(path: Path, expected: object) -> bool:
    """Whether a file has this SHA-256, which is not asked of one that is too large for ours."""
    return path.is_file() and path.stat().st_size <= MOST_TENSORS and sha256(path) == expected


# -------------------------------------------------------------------- what a step cost


def copy_file(source: Path, target: Path) -> None:
    """Copy a file; it appears whole, or not at all."""
    with beside(target) as part:
        shutil.copyfile(source, part)


def machine() -> str:
    """What times and memory were measured on."""
    name = torch.cuda.get_device_name() if devices.device().type == "cuda" else "no GPU"
    units = torch.backends.cpu.get_cpu_capability() + " and AMX" * devices.has_amx()
    return f"{platform.processor() or platform.machine()} with {units}, {os.cpu_count()} CPUs, {name}"


def peak_memory() -> float:
    """Gigabytes: the most that the GPU has reserved for a job, or if that used none, its process has held so far."""
    if devices.device().type == "cuda" and torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
