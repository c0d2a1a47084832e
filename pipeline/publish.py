"""From a study's results to what the repository keeps of it, and to a kit that `eas` serves scenarios from.

python -m pipeline.publish cifar100     build/cifar100 -> weights/cifar100
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from eas.data import Dataset
from eas.expected import ExpectedAccuracy
from eas.files import write_text
from eas.generator import ArchGenerator
from eas.recipes import Branch
from eas.serving.deploy import in_turn
from eas.serving.kit import Kit
from eas.serving.kit_files import write_images, write_kit
from pipeline import steps
from pipeline.branches import choose_branch, chosen_branch_jobs, generator_with, served_sets
from pipeline.expected import expected_jobs
from pipeline.generators import FITTED_BY, load_generator
from pipeline.store import Result, Workspace, copy_file, open_workspace
from pipeline.supernets import Base, base_of, load_supernet, unbranched_base

IMAGES, TEST_IMAGES = "calibration.safetensors", "test.safetensors"
LARGE = 7e6  # bytes: of larger tensors, those of the kit are enough: of the others the records are kept


def publish(workspace: Workspace, target: Path) -> None:
    """Copy every result that is there to the folder `target`, and write a kit of the first seed where it is whole.

    Raises:
        FileNotFoundError: the images are not there; the message says what makes them.
    """
    listed = {result.name for result, _ in kit_parts(workspace).values()}
    for step in steps.STEPS.values():
        for job in step.jobs_so_far(workspace):
            result = step.result(workspace, job)
            if result.find() is None:
                continue
            copy, path = target / f"{result.name}.safetensors", result.tensor_path()
            keep = path and (path.stat().st_size < LARGE or result.name in listed)
            if keep and path != copy:
                copy_file(path, copy)
            elif not keep:
                copy.unlink(missing_ok=True)  # too large, or of other parameters
            write_text(copy.with_suffix(".json"), result.record_text())
    if workspace.study.show_images:  # a kit holds some
        write_study_kit(workspace, target, workspace.dataset())


def kit_parts(workspace: Workspace) -> dict[str, tuple[Result, str]]:
    """The first seed's results that a kit is made of, and what the names of their tensors begin with.

    Empty while there is not all that it takes.
    """
    try:
        base = first_base(workspace)
        parts = {"supernet": (steps.find(workspace, "supernets", **base.job)[0], "")}
        generator = generator_with(kit_branch(workspace))
        parts["generator"] = (steps.find(workspace, FITTED_BY[generator], base=base)[0], f"{generator}.")
        for job in chosen_branch_jobs(workspace)[:1]:
            parts["branches"] = (steps.find(workspace, "branches", **job)[0], "")
    except FileNotFoundError:
        return {}
    expected = expected_result(workspace)
    return parts | ({"expected": (expected, "")} if expected else {})


def expected_result(workspace: Workspace) -> Result | None:
    """What the kit's networks are expected to reach, where that was fitted."""
    (job,) = expected_jobs(workspace)
    result = steps.STEPS["expected"].result(workspace, job)
    return result if result.find() else None


def write_study_kit(workspace: Workspace, folder: Path, dataset: Dataset, *, tested: bool = False) -> bool:
    """Write images and kit.json into a folder that holds the study's results; whether there was all that it takes.

    The images are those of the data set to calibrate on; with `tested` also those to choose and to test on.
    """
    if not (parts := kit_parts(workspace)):
        return False
    files = {name: (f"{result.name}.safetensors", prefix) for name, (result, prefix) in parts.items()}
    write_images(dataset, folder / IMAGES, "calibration", *["selection"] * tested)
    files["images"] = (IMAGES, "")
    if tested:
        write_images(dataset, folder / TEST_IMAGES, "test")
        files["test"] = (TEST_IMAGES, "")
    served = served_sets(parts["branches"][0].find()) if "branches" in parts else {}
    generator, count = first_generator(workspace), workspace.study.evaluation.calibration_images
    write_kit(folder, generator, count, files, served)
    return True


def first_generator(workspace: Workspace) -> ArchGenerator:
    """The generator that a kit is made of."""
    return load_generator(workspace, workspace.dataset(), first_base(workspace), generator_with(kit_branch(workspace)))


def study_kit(workspace: Workspace, dataset: Dataset) -> Kit:
    """The first seed's kit, made of the study's results and all of its images.

    Unlike a published one, it calibrates a branch on the images that it was tuned on, which the study does as well.
    """
    base, jobs, expected = first_base(workspace), chosen_branch_jobs(workspace)[:1], expected_result(workspace)
    return Kit(
        hierarchy=dataset.hierarchy,
        supernet=load_supernet(workspace, dataset, base).cpu(),
        generator=first_generator(workspace),
        branches=steps.find(workspace, "branches", **jobs[0])[0].tensors() if jobs else None,
        calibration=in_turn(dataset.calibration, workspace.study.evaluation.calibration_images),
        branch_images=dataset.train,
        unseen=dataset.selection,
        synthetic=dataset.synthetic,
        expected=ExpectedAccuracy(**expected.tensors()) if expected else None,
        **(served_sets(steps.record_of(workspace, "branches", **jobs[0])) if jobs else {}),
    )


def first_base(workspace: Workspace) -> Base:
    """The supernet that a kit is made of: the one that its branches were tuned from."""
    branch = kit_branch(workspace)
    seed = workspace.study.seeds[0]
    return base_of(workspace, branch.supernet, seed) if branch else unbranched_base(workspace)


def kit_branch(workspace: Workspace) -> Branch | None:
    """The way in which a kit's branches were tuned; None in a study without."""
    return choose_branch(workspace) if workspace.study.branches else None


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
