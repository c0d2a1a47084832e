"""Run a study's heavy steps on a GPU machine, within a time limit, resumable across calls.

    python scripts/study_on_gpu.py cifar100 --minutes 9 --bundle OUT

needs torch, pydantic, pandas and safetensors, and CIFAR-100 under data/ (or in the folder that EAS_CIFAR100 names).
Every step skips what build/gpu/<study>/ already holds; no step is begun after the limit. What was made is packed into
OUT: unpack it into weights/<study>/ of a clone (large branches into its supernets/branches/), and the pipeline's
notebooks find it there.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402

from eas import comparison, data, deploy, fitting, jobs, proposals, references, study, throughput, tuning  # noqa: E402
from eas.config import Study, load_study  # noqa: E402

Step = tuple[Callable, list[tuple], bool]  # function, arguments of its jobs, whether it uses the GPU
WAIT = None  # for the steps that need no GPU: they run beside the others


class TimeIsUp(RuntimeError):
    """A step was to begin after the limit."""


def steps(config: Study, folder: Path) -> Iterator[Step | None]:
    """The heavy steps, what the study rests on first; later ones depend on earlier ones, so this is a generator."""
    yield throughput.measure_throughput, [(config, folder)], True
    if config.training.teacher:
        yield from ((study.train_teacher, [(config, folder, seed)], True) for seed in config.seeds)
    for setting, seed in study.first_runs(config):
        yield study.train_supernet, [(config, folder, setting, seed)], True
    chosen = study.settings_of(config, folder)["eas"]
    for seed in config.seeds:
        yield study.train_supernet, [(config, folder, chosen, seed)], True
    every = study.supernet_jobs(config, folder)
    yield from ((fitting.measure_pool, [job], True) for job in every)
    yield fitting.fit_models, every, False
    yield from ((fitting.fit_gates, [job], True) for job in every)
    yield WAIT
    yield proposals.propose, every, False
    # Nearly all of it is search on a CPU; what it found then runs on the GPU, from processes of its own.
    yield references.measure_long, references.long_jobs(config, folder), False
    if config.branches:
        for branch, seed in tuning.first_branches(config):
            yield tuning.train_branches, [(config, folder, chosen, branch, seed)], True
        best = tuning.choose_branch(config, folder)
        for seed in config.seeds:
            yield tuning.train_branches, [(config, folder, chosen, best, seed)], True
        for job in tuning.low_rank_jobs(config, folder, chosen):
            yield tuning.measure_low_rank, [job], True
    yield WAIT
    yield from ((proposals.select, [job], True) for job in every)
    signal = proposals.choose_signal(config, folder)
    yield from ((comparison.measure_test, [(*job, signal)], True) for job in every)
    yield from ((references.measure_tuned, [job], True) for job in references.tuned_jobs(config, folder, signal))
    for row in references.rows_from_scratch(config, data.hierarchy(config.data.name)):
        yield references.measure_alone, [(config, folder, row, signal)], True
    for job in tuning.other_jobs(config, folder):
        yield tuning.train_other_branches, [job], True
    if config.dropout.with_teacher:
        yield study.try_teacher, [(config, folder, chosen)], True


LARGE = 8e6  # bytes: what is larger goes by itself, so that no archive does


def pack(folder: Path, bundle: Path, dataset: data.Dataset, seed: int) -> None:
    """One archive for each subfolder; by themselves the images for calibration and large files, the branches of a seed.

    The branches of other seeds have been measured: their records are enough.
    """
    deploy.write_images(dataset, bundle)
    for name in ("supernets", "generators", "comparison", "timings"):
        if (folder / name).is_dir():
            with tarfile.open(bundle / f"{name}.tar.gz", "w:gz", compresslevel=1) as archive:
                archive.add(folder / name, name, filter=lambda entry: None if entry.size > LARGE else entry)
    for path in folder.glob(f"supernets/branches/*-{seed}.safetensors"):
        if path.stat().st_size > LARGE:
            shutil.copyfile(path, bundle / path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("study")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--bundle", type=Path, required=True)
    options = parser.parse_args()
    start = time.perf_counter()
    # Apart from build/<study>/, for which what is published under weights/ would count as done.
    config, folder = load_study(options.study), Path("build") / "gpu" / options.study
    dataset, _ = data.build(config)
    if not (folder / "dataset.safetensors").is_file():
        data.save(dataset, folder / "dataset.safetensors")
    try:
        work(steps(config, folder), options.minutes * 60 - (time.perf_counter() - start))
    finally:  # whatever happens, what is finished comes back
        pack(folder, options.bundle, dataset, config.seeds[0])


def work(todo: Iterator[Step | None], seconds: float) -> None:
    """Run steps until they or the seconds are used up; those that need no GPU beside the others, in turn."""
    start = time.perf_counter()

    def perform(function: Callable, arguments: list[tuple], gpu: bool) -> None:
        if time.perf_counter() - start > seconds:
            raise TimeIsUp
        records = jobs.run(function, arguments, function.__name__, gpu=gpu)
        what = " ".join(str(getattr(a, "name", a)) for a in arguments[0][2:]) if arguments else "nothing to do"
        print(f"{time.perf_counter() - start:6.1f} s {function.__name__} {what} {brief(records, gpu)}", flush=True)

    running = []
    try:
        with ThreadPoolExecutor(1) as beside:
            for step in todo:
                if step is WAIT:
                    while running:
                        running.pop(0).result()
                elif step[2]:
                    perform(*step)
                else:
                    running.append(beside.submit(perform, *step))
    except TimeIsUp:
        print("time is up: call again with the same folder to go on")
    for each in running:  # what went wrong beside the others is no less wrong
        if (error := each.exception()) and not isinstance(error, TimeIsUp):
            raise error


def brief(records: list[dict], gpu: bool) -> str:
    """What a reader of the log wants to see of a step's first record."""
    record = records[0] if records else {}
    short = {k: round(v, 4) for k, v in record.items() if isinstance(v, float)}
    for row in record.get("accuracy", [])[:1] + record.get("accuracy", [])[-1:]:
        short[row["subnet"]] = round(row["top1"], 2)
    if gpu and torch.cuda.is_available():
        short["reserved_GB"] = round(torch.cuda.memory_reserved() / 1e9, 2)
    return str(short)


if __name__ == "__main__":
    main()
