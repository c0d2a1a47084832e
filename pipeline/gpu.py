"""Run a study's steps on a GPU machine, within a time limit, resumable across calls.

    python -m pipeline.gpu cifar100 --minutes 9 --bundle OUT

needs torch, pydantic, pandas, pyyaml and safetensors, and the study's images. Every step skips what build/<study>/
already holds; no job is begun after the limit; steps that need no GPU run beside the others. Nothing that is published
under weights/ counts: all is made here. What was made is packed into OUT: unpack it into weights/<study>/ of a clone,
and the pipeline's notebooks find it there.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from eas import devices
from pipeline import jobs
from pipeline.publish import LARGE, publish
from pipeline.steps import STEPS, Step, make
from pipeline.store import Workspace, open_workspace


class TimeIsUp(RuntimeError):
    """A job was to begin after the limit."""


def work(workspace: Workspace, seconds: float) -> None:
    """Make all results until they or the seconds are used up; prints a line for each job."""
    deadline, beside = time.perf_counter() + seconds, {}
    with ThreadPoolExecutor(1) as executor:
        try:
            for step in STEPS.values():
                wait_for_inputs(step, beside)
                if step.gpu:
                    run_jobs(workspace, step, deadline)
                else:
                    beside[step.name] = executor.submit(run_jobs, workspace, step, deadline)
        except TimeIsUp:
            print("time is up: call again with the same folder to go on", flush=True)
    for each in beside.values():  # what went wrong beside the others is no less wrong
        if (error := each.exception()) and not isinstance(error, TimeIsUp):
            raise error


def wait_for_inputs(step: Step, beside: dict[str, Future]) -> None:
    """Wait until the steps that a step reads from, directly or not, are done."""
    for name in step.inputs:
        wait_for_inputs(STEPS[name], beside)
        if name in beside:
            beside[name].result()


def run_jobs(workspace: Workspace, step: Step, deadline: float) -> None:
    """Make all results of a step that are not there, job by job; those that need no GPU side by side."""
    done = []
    while todo := [job for job in step.all_jobs(workspace) if job not in done]:
        missing = [job for job in todo if step.result(workspace, job).find() is None]
        for some in [[job] for job in missing] if step.gpu else [missing] * bool(missing):
            if time.perf_counter() > deadline:
                raise TimeIsUp
            start = time.perf_counter()
            jobs.run(make, [(workspace, step.name, job) for job in some], step.name, gpu=step.gpu)
            names = ", ".join(step.result(workspace, job).name for job in some)
            print(f"{time.perf_counter() - start:6.1f} s  {names}", flush=True)
        done += todo


def pack(workspace: Workspace, bundle: Path) -> None:
    """What is published of the study, as one archive, and large files by themselves."""
    bundle.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        publish(workspace, folder)
        large = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > LARGE]
        for path in large:
            (bundle / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            path.rename(bundle / path.relative_to(folder))
        with tarfile.open(bundle / "weights.tar.gz", "w:gz", compresslevel=1) as archive:
            archive.add(folder, ".")


def main(arguments: list[str] | None = None) -> int:
    """The command; an error is one line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("study")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--bundle", type=Path, required=True)
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    try:
        devices.device()  # an EAS_DEVICE that this machine lacks is an error before any work
        workspace = open_workspace(options.study, fresh=True)
        workspace.make_images()
        try:
            work(workspace, options.minutes * 60 - (time.perf_counter() - start))
        finally:  # whatever happens, what is finished comes back
            pack(workspace, options.bundle)
    except (OSError, ValueError, RuntimeError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
