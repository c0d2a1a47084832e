"""Train a study's supernets on several GPUs, or processes, at once.

    torchrun --standalone --nproc-per-node=8 -m pipeline.many_gpus imagenet10

trains each supernet that is not there on all of them: every process has its part of every batch (see eas.ranks). A job
that was stopped, or lost a process, goes on from its checkpoint with the same command. Then `dvc repro`, or the
notebooks, do the rest, and find the supernets made.
"""

from __future__ import annotations

import argparse
import sys

import torch.distributed as dist

from eas.ranks import Ranks, join
from pipeline import steps
from pipeline.store import Workspace, open_workspace
from pipeline.supernets import train_supernet


def train_all(workspace: Workspace, ranks: Ranks) -> None:
    """Every supernet of the study that is not there, one after another; all measure, the first process writes."""
    step, done = steps.STEPS["supernets"], []
    while todo := [job for job in step.all_jobs(workspace) if job not in done]:
        for job in todo:
            result = step.result(workspace, job)
            there = result.find() is not None
            ranks.wait()  # nobody looks any more while the first one writes
            if there:
                continue
            if ranks.writes:
                steps.make(workspace, step.name, job, ranks=ranks)
                print(f"{result.name} is there", flush=True)
            else:
                checkpoint = steps.checkpoint_of(workspace, result)
                train_supernet(workspace.seal(), **job, checkpoint=checkpoint, ranks=ranks)
            ranks.wait()
        done += todo


def main(arguments: list[str] | None = None) -> int:
    """The command; an error is one line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.many_gpus", description=__doc__.partition("\n")[0])
    parser.add_argument("study", help="its name in params.yaml, or a YAML file of one's own")
    options = parser.parse_args(arguments)
    ranks = join()
    try:
        workspace = open_workspace(options.study)
        if ranks.writes:
            workspace.make_images()
        ranks.wait()
        train_all(workspace, ranks)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"error, process {ranks.index}: {error}", file=sys.stderr)  # it may have happened on one of them only
        return 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
