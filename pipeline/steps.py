"""All steps of a study, listed once: what each one makes, of what, by which function, and for which notebook.

The notebooks run them (`run`), a GPU machine does (pipeline.gpu), DVC's stages follow them (a test compares). A step
has one result for each of its jobs: a mapping of arguments for its function, which returns (tensors, record). Functions
are named by their paths, so that a notebook depends on no more code than its own steps need (see pipeline.source).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline import jobs
from pipeline.params import Study
from pipeline.store import Job, Record, Result, Workspace, machine, make_key, peak_memory, plain


@dataclass(frozen=True)
class Step:
    """One kind of result.

    `path` is a format string over a job's arguments; `params` are the parameters that the result depends on, beside
    those of the `inputs`, the steps whose results it reads. `jobs` is a function of a workspace: the jobs that can be
    told so far. A choice among results (which dropout) adds jobs once they are there.
    """

    name: str
    notebook: str
    path: str
    function: str
    jobs: str
    params: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    gpu: bool = True  # whether a GPU speeds it up
    checkpoints: bool = False  # whether it takes a path at which to keep what a killed run goes on from
    apart: bool = False  # measured beside the study at far higher cost: no part of what a seed costs

    def result(self, workspace: Workspace, job: Job) -> Result:
        """The result of a job, there or not."""
        params = lookup(workspace.study, all_params(self)) | workspace.fingerprint
        return Result(workspace, self.path.format(**job), make_key(self.name, params, job))

    def all_jobs(self, workspace: Workspace) -> list[Job]:
        """Its jobs; FileNotFoundError where a choice that they depend on cannot be made yet."""
        return load(self.jobs)(workspace)

    def jobs_so_far(self, workspace: Workspace) -> list[Job]:
        """Likewise; none while they cannot be told."""
        try:
            return self.all_jobs(workspace)
        except FileNotFoundError:
            return []


SUPERNET = ("data", "space", "training", "evaluation")
GENERATOR = ("generator.width", "generator.embedding")
LARGE_UNIONS = ("other_sets.unions_of_five", "other_sets.unions_of_ten")
UNIONS = ("scenarios.unions_of_two", "scenarios.unions_of_three", *LARGE_UNIONS)
OTHER_SETS = ("other_sets.budget", *LARGE_UNIONS, "other_sets.parts", "other_sets.across")
TESTED = (  # by these steps, which are given test images; whatever learns or chooses is given a data set without
    *("measured", "measured_gates", "measured_additive", "other_sets", "measured_branches"),
    *("long", "tuned", "other_tuned", "from_scratch"),
)
COMPARED, GENERATED = (folder + "/{base.name}-{base.seed}" for folder in ("comparison", "generators"))

STEPS = {
    step.name: step
    for step in (
        Step(
            *("supernets", "02_supernet", "supernets/{dropout.name}-{seed}"),
            *("pipeline.supernets:train_supernet", "pipeline.supernets:supernet_jobs"),
            params=SUPERNET,
            checkpoints=True,
        ),
        Step(
            *("pools", "03_generator", GENERATED + "/pool"),
            *("pipeline.generators:measure_pool", "pipeline.supernets:base_jobs"),
            params=("scenarios", "search.pool"),
            inputs=("supernets",),
        ),
        Step(
            *("predictors", "03_generator", GENERATED + "/predictors"),
            *("pipeline.generators:fit_predictors", "pipeline.supernets:base_jobs"),
            params=(*GENERATOR, "generator.predictor", "search.predictor_steps"),
            inputs=("pools",),
            gpu=False,
        ),
        Step(
            *("gates", "03_generator", GENERATED + "/gates"),
            *("pipeline.generators:train_on_gates", "pipeline.supernets:base_jobs"),
            params=(*GENERATOR, "generator.gates", "scenarios"),
            inputs=("supernets",),
        ),
        Step(
            *("additive", "03_generator", GENERATED + "/additive"),
            *("pipeline.generators:fit_additive_generator", "pipeline.supernets:base_jobs"),
            inputs=("pools",),
            gpu=False,
        ),
        Step(
            *("branches", "03_generator", "branches/{branch.name}-{base.seed}"),
            *("pipeline.branches:train_branches", "pipeline.branches:branch_jobs"),
            params=("branches.epochs", "branches.batch_size", *UNIONS),
            inputs=("additive",),
            checkpoints=True,
        ),
        Step(
            *("proposals", "04_comparison", COMPARED + "/proposals"),
            *("pipeline.comparison:propose", "pipeline.supernets:base_jobs"),
            params=("search.evaluations", "search.population"),
            inputs=("predictors",),
            gpu=False,
        ),
        Step(
            *("selected", "04_comparison", COMPARED + "/selected"),
            *("pipeline.comparison:select", "pipeline.supernets:base_jobs"),
            params=("search.random",),
            inputs=("proposals",),
        ),
        Step(
            *("measured", "04_comparison", COMPARED + "/measured"),
            *("pipeline.comparison:measure", "pipeline.supernets:base_jobs"),
            inputs=("selected",),
        ),
        Step(
            *("measured_gates", "04_comparison", COMPARED + "/gates"),
            *("pipeline.comparison:measure_gates", "pipeline.supernets:base_jobs"),
            inputs=("gates",),
        ),
        Step(
            *("measured_additive", "04_comparison", COMPARED + "/additive"),
            *("pipeline.comparison:measure_additive", "pipeline.supernets:base_jobs"),
            params=OTHER_SETS,
            inputs=("additive",),
        ),
        Step(
            *("other_sets", "04_comparison", COMPARED + "/other_sets"),
            *("pipeline.comparison:measure_other_sets", "pipeline.comparison:other_jobs"),
            params=(*OTHER_SETS, "search.evaluations", "search.population"),
            inputs=("predictors",),
        ),
        Step(
            *("measured_branches", "04_comparison", COMPARED + "/branches-{branch.name}"),
            *("pipeline.comparison:measure_branches", "pipeline.branches:compared_branch_jobs"),
            params=OTHER_SETS,
            inputs=("predictors", "additive", "branches"),
        ),
        Step(
            *("expected", "04_comparison", COMPARED + "/expected"),
            *("pipeline.expected:fit_expected", "pipeline.expected:expected_jobs"),
            params=("scenarios", *OTHER_SETS),
            inputs=("predictors", "branches"),
        ),
        Step(
            *("long", "04_comparison", COMPARED + "/long"),
            *("pipeline.costly_baselines:search_long", "pipeline.costly_baselines:long_jobs"),
            params=("long_search.evaluations", "search.population"),
            inputs=("predictors",),
            apart=True,
        ),
        Step(
            *("tuned", "04_comparison", COMPARED + "/tuned-{budget}"),
            *("pipeline.costly_baselines:tune_archs", "pipeline.costly_baselines:tuned_jobs"),
            params=("finetune.epochs", "finetune.batch_size", "finetune.learning_rate"),
            inputs=("proposals",),
            apart=True,
            checkpoints=True,
        ),
        Step(
            *("other_tuned", "04_comparison", COMPARED + "/other_tuned"),
            *("pipeline.costly_baselines:tune_other_archs", "pipeline.costly_baselines:other_tuned_jobs"),
            params=("finetune.epochs", "finetune.batch_size", "finetune.learning_rate"),
            inputs=("other_sets",),
            apart=True,
            checkpoints=True,
        ),
        Step(
            *("from_scratch", "04_comparison", "comparison/from_scratch/{row}"),
            *("pipeline.costly_baselines:train_from_scratch", "pipeline.costly_baselines:from_scratch_jobs"),
            params=("branches.epochs",),  # as long as `plain`
            inputs=("proposals",),
            checkpoints=True,
            apart=True,
        ),
        Step(
            *("search_times", "04_comparison", "comparison/search_times-{base.seed}"),
            *("pipeline.comparison:time_search", "pipeline.comparison:time_jobs"),
            inputs=("selected", "additive"),
            gpu=False,
        ),
        Step(
            *("throughput", "04_comparison", "comparison/throughput"),
            *("pipeline.throughput:measure_throughput", "pipeline.throughput:throughput_jobs"),
            params=("data", "space", "training"),
        ),
    )
}


def load(path: str) -> Callable:
    """The function that 'module:name' names."""
    module, name = path.split(":")
    return getattr(import_module(module), name)


def all_params(step: Step) -> set[str]:
    """The parameters that a step's results depend on, those of its inputs among them."""
    return set(step.params).union(*(all_params(STEPS[name]) for name in step.inputs))


def lookup(study: Study, names: Iterable[str]) -> dict[str, Any]:
    """The parameters of these dotted names as plain data, without those that are at their defaults or left out."""
    found, content = {}, plain(study)
    for name in names:
        *sections, last = name.split(".")
        section = reduce(lambda section, part: section.get(part) or {}, sections, content)
        found |= {name: section[last]} if last in section else {}
    return found


# -------------------------------------------------------------------- running them


def run(workspace: Workspace, notebook: str) -> None:
    """Make all results of a notebook's steps that are not there, with a progress bar for each step."""
    for step in STEPS.values():
        if step.notebook == notebook:
            run_step(workspace, step)


def run_step(workspace: Workspace, step: Step) -> None:
    """Make all results of a step that are not there."""
    done: list[Job] = []
    while todo := [job for job in step.all_jobs(workspace) if job not in done]:
        missing = []
        for job in todo:
            result = step.result(workspace, job)
            if result.find() is None:
                missing.append(job)
            else:
                result.fetch()
        jobs.run(make, [(workspace, step.name, job) for job in missing], step.name.replace("_", " "), gpu=step.gpu)
        done += todo


def make(workspace: Workspace, name: str, job: Job, *, again: bool = False, **options: Any) -> Record:
    """Make one result, unless it is there, or `again`; returns its record, with what it cost.

    Where another run is making it, that is waited for. `options` are for the function, and change nothing of the
    result. A record's seconds are those of the whole function, unless that knows better; None if a killed run went on.
    """
    step = STEPS[name]
    result = step.result(workspace, job)
    with result.made_once() as record:
        return record or (not again and result.find()) or write(workspace, step, job, result, options)


def write(workspace: Workspace, step: Step, job: Job, result: Result, options: dict[str, Any]) -> Record:
    """Run a step's function and write what it gives; see `make`."""
    checkpoint = checkpoint_of(workspace, result)
    if step.checkpoints:
        options["checkpoint"] = checkpoint
    resumed, start = step.checkpoints and checkpoint.exists(), time.perf_counter()
    seen = workspace if step.name in TESTED else workspace.seal()
    tensors, content = load(step.function)(seen, **job, **options)
    cost = {"machine": machine(), "memory_gb": peak_memory(), "seconds": time.perf_counter() - start}
    record = result.write(tensors, cost | content | ({"seconds": None} if resumed else {}))
    if step.checkpoints:
        shutil.rmtree(checkpoint) if checkpoint.is_dir() else checkpoint.unlink(missing_ok=True)
    return record


def checkpoint_of(workspace: Workspace, result: Result) -> Path:
    """Where a result that is being made keeps what a killed run goes on from."""
    return workspace.folder / "checkpoints" / f"{result.name}-{result.key}"


def prepare(workspace: Workspace, notebook: str) -> None:
    """Make what the notebooks before this one would have made, and say so: for the tiny study, so that each runs alone.

    Raises:
        FileNotFoundError: another study has something missing; the message says which notebooks have to be run.
    """
    if not (before := missing(workspace, notebook)):
        return
    names = ", ".join(before)
    if workspace.study.name != "tiny":
        raise FileNotFoundError(f"run these notebooks for the study {workspace.study.name} first, in turn: {names}")
    print(f"made here, as by the notebooks before: {names}")
    workspace.make_images()
    for name in before:
        run(workspace, name)


def missing(workspace: Workspace, notebook: str) -> list[str]:
    """The notebooks before this one that have something left to make."""
    before = [] if workspace.dataset_path.is_file() else ["01_superclasses"]
    for step in (step for step in STEPS.values() if step.notebook < notebook and step.notebook not in before):
        try:
            complete = all_there(workspace, step.name, step.all_jobs(workspace))
        except FileNotFoundError:  # its jobs depend on a choice that cannot be made yet
            complete = False
        if not complete and step.notebook not in before:
            before.append(step.notebook)
    return before


# -------------------------------------------------------------------- reading results back


def find(workspace: Workspace, name: str, **job: Any) -> tuple[Result, Record]:
    """A result and its record.

    Raises:
        FileNotFoundError: it is not there; the message says which notebook makes it.
    """
    step = STEPS[name]
    result = step.result(workspace, job)
    if record := result.find():
        return result, record
    study = workspace.study.name
    raise FileNotFoundError(f"{result.path} is missing: run notebooks/{step.notebook} for the study {study} first")


def record_of(workspace: Workspace, name: str, **job: Any) -> Record:
    """The record of a result; see `find`."""
    return find(workspace, name, **job)[1]


def tensors_of(workspace: Workspace, name: str, **job: Any) -> dict[str, Tensor]:
    """The tensors of a result; see `find`."""
    return find(workspace, name, **job)[0].tensors()


def records(workspace: Workspace, name: str) -> list[Record]:
    """The records of all of a step's jobs; see `find`."""
    return [record_of(workspace, name, **job) for job in STEPS[name].all_jobs(workspace)]


def all_there(workspace: Workspace, name: str, some: Iterable[Job]) -> bool:
    """Whether the results of these jobs are there."""
    return all(STEPS[name].result(workspace, job).find() is not None for job in some)
