"""From a study's results to what the repository keeps of it, and to a kit that `eas` serves scenarios from.

python -m pipeline.publish cifar100     build/cifar100 -> weights/cifar100
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from eas.data import Dataset
from eas.evaluation import calibration_sample
from eas.files import write_text
from eas.kit import Kit, write_images, write_kit
from pipeline import steps
from pipeline.branches import chosen_branch_jobs, largest_set
from pipeline.generators import load_generator
from pipeline.store import Workspace, open_workspace
from pipeline.supernets import Base, base_of, load_supernet

LARGE = 8e6  # bytes: of larger tensors, those of the first seed are enough: of the others the records are kept
IMAGES = "calibration.safetensors"


def publish(workspace: Workspace, target: Path) -> None:
    """Copy every result that is there to the folder `target`, and write a kit of the first seed where it is whole.

    Raises:
        FileNotFoundError: the images are not there; the message says what makes them.
    """
    first = workspace.study.seeds[0]
    for step in steps.STEPS.values():
        for job in jobs_so_far(workspace, step):
            result = step.result(workspace, job)
            if (record := result.find()) is None:
                continue
            copy, path = target / f"{result.name}.safetensors", result.tensor_path()
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path and path != copy and (path.stat().st_size < LARGE or record.get("seed", first) == first):
                shutil.copyfile(path, copy)
            elif path != copy:
                copy.unlink(missing_ok=True)  # of other parameters
            write_text(copy.with_suffix(".json"), result.record_text())
    write_study_kit(workspace, target)


def jobs_so_far(workspace: Workspace, step: steps.Step) -> list[dict]:
    """The jobs of a step; none while a choice that they depend on cannot be made yet."""
    try:
        return step.all_jobs(workspace)
    except FileNotFoundError:
        return []


def write_study_kit(workspace: Workspace, folder: Path) -> bool:
    """Write images and kit.json into a folder that holds the study's results; whether there was all that it takes."""
    dataset = workspace.dataset()
    largest = 0
    try:
        base = first_base(workspace)
        generator = load_generator(workspace, dataset, base, "generator")
        files = {"supernet": (steps.find(workspace, "supernets", **base.job)[0], "")}
        files["generator"] = (steps.find(workspace, "predictors", base=base)[0], "generator.")
        for job in chosen_branch_jobs(workspace)[:1]:
            result, record = steps.find(workspace, "branches", **job)
            files["branches"], largest = (result, ""), largest_set(record)
    except FileNotFoundError:
        return False
    write_images(dataset, folder / IMAGES)
    listed = {name: (f"{result.name}.safetensors", prefix) for name, (result, prefix) in files.items()}
    count = workspace.study.evaluation.calibration_images
    write_kit(folder, generator, count, listed | {"images": (IMAGES, "")}, largest)
    return True


def study_kit(workspace: Workspace, dataset: Dataset) -> Kit:
    """The first seed's kit, made of the study's results and all of its images.

    Unlike a published one, it calibrates a branch on the images that it was tuned on, which the study does as well.
    """
    base, jobs = first_base(workspace), chosen_branch_jobs(workspace)[:1]
    return Kit(
        hierarchy=dataset.hierarchy,
        supernet=load_supernet(workspace, dataset, base).cpu(),
        generator=load_generator(workspace, dataset, base, "generator"),
        branches=steps.find(workspace, "branches", **jobs[0])[0].tensor_path() if jobs else None,
        calibration=calibration_sample(dataset.calibration, workspace.study.evaluation.calibration_images),
        branch_images=dataset.train,
        synthetic=dataset.synthetic,
        largest_set=largest_set(steps.record_of(workspace, "branches", **jobs[0])) if jobs else 0,
    )


def first_base(workspace: Workspace) -> Base:
    """The supernet that a kit is made of."""
    return base_of(workspace, "dropout", workspace.study.seeds[0])


def main(arguments: list[str] | None = None) -> int:
    """The command; an error is one line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.publish", description=__doc__.partition("\n")[0])
    parser.add_argument("study")
    options = parser.parse_args(arguments)
    try:
        publish(open_workspace(options.study), Path("weights") / options.study)
    except (OSError, ValueError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    print(f"wrote weights/{options.study}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
