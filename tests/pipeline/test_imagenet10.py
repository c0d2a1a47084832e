"""The study of the paper's setting, from folders of ImageNet's form to networks, on few small images."""

import numpy as np
import pytest
import yaml
from PIL import Image
from study_cases import ROOT, run_small_study

from pipeline.params import load_study
from pipeline.scenarios import scenarios

STUDIES = {"imagenet10": 276, "imagenet10_balanced": 60}
SMALL = {"width": 0.2, "depths": [1, 2], "expansions": [1, 2], "strides": [1, 2, 2, 2, 1, 1], "image_sizes": [16, 24]}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """Folders train and val with a few small photographs of all classes of the study, by synset, and of two others."""
    root, rng = tmp_path_factory.mktemp("root"), np.random.default_rng(0)
    groups = yaml.safe_load((ROOT / load_study("imagenet10", ROOT).data.superclasses).read_text())
    synsets = [synset for group in groups.values() for synset in group]
    assert len(set(synsets)) == len(synsets) == 276 and all(synset[0] == "n" and len(synset) == 9 for synset in synsets)
    for part, count in (("train", 6), ("val", 2)):
        for synset in [*synsets, "n01440764", "n15075141"]:
            folder, color = root / "data" / "imagenet" / part / synset, rng.integers(256, size=3)
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = (color + rng.normal(0, 20, (30, 40, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{synset}_{index}.JPEG")
    (root / "pipeline").mkdir()
    (root / "pipeline" / "superclasses").symlink_to(ROOT / "pipeline" / "superclasses")
    return root


@pytest.mark.parametrize("name", STUDIES)
def test_its_classes_are_found_in_imagenets_folders_and_its_scenarios_are_the_papers(name, imagenet):
    study = load_study(name, ROOT)
    hierarchy = study.data.hierarchy(imagenet)
    assert len(hierarchy.superclasses) == 10 and len(hierarchy.classes) == STUDIES[name]
    if name == "imagenet10_balanced":
        assert {len(group) for group in hierarchy.members} == {6}
    every = scenarios(study, hierarchy)
    assert sum(kind == "superclass" for kind in every.kinds) == 50  # with five budgets: the paper's number
    space = study.space.build(study.data.image_size, 3)
    space.check_scenarios(every.class_masks, every.budgets)
    assert 361e6 in every.budgets.tolist()
    known, test = study.data.load(imagenet)
    assert len(known) == 6 * STUDIES[name] and len(test) == 2 * STUDIES[name]


def test_every_step_of_it_runs_from_folders_to_the_comparison(imagenet, in_workers_first):
    study = yaml.safe_load((ROOT / "params.yaml").read_text())["studies"]["imagenet10_balanced"]
    parts = {"data": study["data"] | {"image_size": 24, "selection": 0.2, "calibration": 0.2}}
    parts |= {"space": study["space"] | SMALL, "other_sets": study["other_sets"] | {"budget": 0.5, "parts": 1}}
    parts["other_sets"] |= {"unions_of_five": 1, "across": 1}
    parts["training"] = study["training"] | {"epochs": 1, "batch_size": 60, "random_subnets": 1}
    candidates = [branch | {"epochs": 1} for branch in study["branches"]["candidates"]]
    parts |= {"branches": study["branches"] | {"epochs": 1, "candidates": candidates}, "dropout": study["dropout"]}
    parts["scenarios"] = study["scenarios"] | {"budgets": [0.3, 0.6], "unions_of_two": 1, "unions_of_three": 1}
    workspace, table = run_small_study(imagenet, **parts)
    assert table.method.nunique() == 16 and set(table.kind) == {
        "superclass",
        "union",
        "large_union",
        "part",
        "across",
        "all",
    }
    assert workspace.dataset().train.images.shape[1:] == (3, 24, 24)
