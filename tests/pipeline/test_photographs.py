"""A study of images in folders, in OFA's space: all that the steps need to know of either is in params.yaml."""

import numpy as np
import pytest
from PIL import Image
from study_cases import run_small_study

from pipeline import steps
from pipeline.publish import study_kit
from pipeline.store import open_workspace

COLORS = {"warm": {"red": (220, 40, 30), "orange": (230, 140, 20), "yellow": (230, 220, 40)}}
COLORS |= {"cold": {"blue": (30, 60, 220), "green": (40, 180, 60)}, "dull": {"grey": (128,) * 3, "black": (20,) * 3}}
SPACE = {"kind": "mobilenetv3", "width": 0.2, "depths": [1, 2], "kernels": [3, 5], "expansions": [1, 2]}
SPACE |= {"strides": [1, 2, 2, 2, 1, 1], "image_sizes": [12, 16]}


def draw(folder, each, seed):
    """Noisy images of every color, in folders <superclass>/<class>/."""
    rng = np.random.default_rng(seed)
    for superclass, colors in COLORS.items():
        for name, color in colors.items():
            (folder / superclass / name).mkdir(parents=True)
            for index in range(each):
                pixels = np.array(color) + rng.normal(0, 30, (24, 20, 3))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(folder / superclass / name / f"{index}.png")


def test_a_study_of_photographs_in_folders_runs_in_ofas_space(tmp_path, in_workers_first):
    draw(tmp_path / "photos" / "train", 20, 0)
    draw(tmp_path / "photos" / "test", 6, 1)
    source = {"kind": "folder", "train": "photos/train", "test": "photos/test", "image_size": 16, "seed": 0}
    workspace, table = run_small_study(tmp_path, data=source | {"selection": 0.25, "calibration": 0.1}, space=SPACE)
    assert set(table.scenario[table.kind == "superclass"]) == {"warm", "cold", "dull"} and table.method.nunique() == 15
    dataset = workspace.dataset()
    kit = study_kit(workspace, dataset)
    network, card = kit.specialize(["warm"], 3e5)
    assert card.space.kind == "mobilenetv3" and card.classes == ("orange", "red", "yellow") and card.madds <= 3e5
    assert card.image_size in (12, 16) and not card.space.image_sizes
    draw_one(tmp_path / "photos" / "train" / "warm" / "red" / "new.png")
    again = open_workspace("tiny", tmp_path)
    with pytest.raises(ValueError, match="made of other images or superclasses.*: run notebooks/01_superclasses again"):
        again.dataset()
    assert not steps.all_there(again, "supernets", steps.STEPS["supernets"].all_jobs(again))


def draw_one(path):
    Image.fromarray(np.zeros((20, 20, 3), dtype=np.uint8)).save(path)
