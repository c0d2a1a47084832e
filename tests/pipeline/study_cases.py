"""Studies of few images, and what tests ask of a folder of results."""

import dataclasses
import hashlib
from pathlib import Path

import torch
import yaml

from eas import data
from eas.data import Hierarchy, Split
from eas.recipes import NO_DROPOUT, Branch, Dropout
from pipeline import steps, tables
from pipeline.params import Branches
from pipeline.store import open_workspace
from pipeline.supernets import Base

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ("01_superclasses", "02_supernet", "03_generator", "04_comparison", "05_ablations", "06_specialize")
OWN, SAMPLE = Dropout(variant="own", rate=0.5), Dropout(variant="sample", rate=0.25)
ALL, NORMS = (Branch(part=part, learning_rate=0.1) for part in ("all", "norms"))


def changed(study, **sections):
    """A copy with other values in some sections; what is no mapping replaces the whole."""
    update = {
        name: getattr(study, name).model_copy(update=values) if isinstance(values, dict) else values
        for name, values in sections.items()
    }
    return study.model_copy(update=update)


def hierarchy_of(study):
    """The classes of a study of params.yaml, whether or not its photographs are there."""
    if study.data.kind == "folder":
        groups = yaml.safe_load((ROOT / study.data.superclasses).read_text())
        return Hierarchy.from_groups({superclass: names.values() for superclass, names in groups.items()})
    return study.data.hierarchy()


def with_study(workspace, **sections):
    return dataclasses.replace(workspace, study=changed(workspace.study, **sections))


def make_quick(study):
    """The tiny study, even smaller: one epoch of two steps, whatever params.yaml says; one candidate of dropout."""
    branches = Branches(epochs=1, batch_size=16, candidates=(ALL, NORMS))
    return changed(
        study,
        seeds=(0, 1),
        training={"epochs": 1, "batch_size": 400, "learning_rate": 0.3, "random_subnets": 1},
        dropout={"seeds": 1, "candidates": (OWN,)},
        branches=branches,
        evaluation={"calibration_images": 40},
    )


def few_images(dataset, per_class=2):
    """The first images of every class in every split."""

    def some(split):
        order = split.labels.argsort(stable=True)
        rank = torch.arange(len(order)) - torch.searchsorted(split.labels[order], split.labels[order])
        rows = order[rank < per_class]
        return Split(split.images[rows], split.labels[rows])

    return dataclasses.replace(dataset, **{name: some(getattr(dataset, name)) for name in data.SPLITS})


def base(name="dropout", seed=0, epochs=1):
    """A supernet of the comparison where OWN is the dropout that is chosen, and branches are tuned for an epoch."""
    plain = {"dropout": NO_DROPOUT, "epochs": epochs + 1}
    return Base(name=name, seed=seed, **(plain if name == "plain" else {"dropout": OWN, "epochs": epochs}))


def every_job(workspace):
    """(name of the step, job) for all results of a finished study."""
    return [(step.name, job) for step in steps.STEPS.values() for job in step.all_jobs(workspace)]


def times(folder):
    """When every file and folder was changed, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def hashes(folder, pattern="*.safetensors"):
    """SHA-256 by path."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob(pattern)}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(found.items())}


def same(first, second):
    """Whether two mappings hold the same tensors."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def one_line(error):
    """The message of an exception, which has one line."""
    message = str(error.value)
    assert message and "\n" not in message
    return message


def small_study(**sections):
    """The tiny study of params.yaml as its text says it, for one seed and with less of everything."""
    small = {
        "seeds": [0],
        "from_scratch": 1,
        "generator": {"predictor": {"steps": 5}, "gates": {"steps": 2, "scenarios": 2, "images": 8}},
        "branches": {"epochs": 1, "batch_size": 64, "candidates": [{"part": "norms", "learning_rate": 0.02}]},
        "search": {"pool": 4, "predictor_steps": 5, "random": 2, "evaluations": 12, "population": 6},
        "long_search": {"evaluations": 24},
        "scenarios": {"budgets": [0.3, 0.6], "unions_of_two": 1, "unions_of_three": 0},
    }
    studies = yaml.safe_load((ROOT / "params.yaml").read_text())["studies"]
    return studies["tiny"] | small | sections


def run_small_study(folder, **sections):
    """All notebooks' steps of `small_study` with sections of its own, in a folder; its workspace and its comparison."""
    (folder / "params.yaml").write_text(yaml.safe_dump({"studies": {"tiny": small_study(**sections)}}))
    workspace = open_workspace("tiny", folder)
    for notebook in NOTEBOOKS:
        steps.prepare(workspace, notebook)
        steps.run(workspace, notebook)
    table = tables.comparison_table(workspace)
    assert (table.madds <= table.budget_madds).all()
    return workspace, table


# -------------------------------------------------------------------- a study of six classes


def six_classes(dataset):
    """Two classes of each of the first three superclasses, with their images in every split."""
    hierarchy = dataset.hierarchy
    names = {name: group[:2] for name, group in zip(hierarchy.superclasses[:3], hierarchy.members[:3], strict=True)}
    few = Hierarchy.from_groups(names)
    old = torch.tensor([hierarchy.classes.index(name) for name in few.classes])

    def some(split):
        rows, labels = (split.labels[:, None] == old).nonzero(as_tuple=True)
        return Split(split.images[rows], labels)

    splits = {name: some(getattr(dataset, name)) for name in data.SPLITS}
    return dataclasses.replace(dataset, hierarchy=few, **splits)


def make_micro(study):
    """The tiny study with all its steps, for six classes: two seeds, two budgets, one union, two epochs."""
    return changed(
        make_quick(study),
        training={"epochs": 2, "batch_size": 10, "learning_rate": 0.1, "random_subnets": 1},
        finetune={"batch_size": 4},
        generator={
            "predictor": study.generator.predictor.model_copy(update={"steps": 3, "scenarios": 8}),
            "gates": study.generator.gates.model_copy(update={"steps": 2, "scenarios": 2, "images": 4}),
        },
        search={"pool": 4, "predictor_steps": 3, "random": 2, "evaluations": 12, "population": 6},
        long_search={"evaluations": 24},
        from_scratch=1,
        scenarios={"budgets": (0.3, 0.6), "unions_of_two": 1, "unions_of_three": 0},
        evaluation={"calibration_images": 6},
    )


def study_in(folder, seeds=(0,), **training):
    """A study of one supernet a seed that trains for seconds, in a file of its own."""
    tiny = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["studies"]["tiny"]
    kept = {name: tiny[name] for name in ("data", "space", "scenarios", "evaluation", "search", "generator")}
    study = {"seeds": list(seeds), "training": tiny["training"] | training, **kept}
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    return folder / "mine.yaml"
