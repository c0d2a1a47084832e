"""Images of another kind, coloured stripes: nothing in the package or the study has to know of them."""

from typing import Literal

import torch
from study_cases import run_small_study

from eas import data
from eas.data import SOURCES, Hierarchy, Source, Split
from pipeline.publish import study_kit

DIRECTIONS = {"level": (1, 0), "upright": (0, 1), "slanting": (1, 1)}
PERIODS = {"level": (3, 5), "upright": (3, 5, 7, 9), "slanting": (4, 6, 8)}


@SOURCES.register
class Stripes(Source):
    kind: Literal["stripes"] = "stripes"
    contrast: float = 0.5
    about = "*Stripes.*"
    synthetic = True

    def hierarchy(self, root="."):
        return Hierarchy.from_groups({name: [f"{name} {p}" for p in periods] for name, periods in PERIODS.items()})

    def load(self, root="."):
        rng = torch.Generator().manual_seed(self.seed)
        return self.drawn(20, rng), self.drawn(6, rng)

    def drawn(self, each, rng):
        rows, columns = torch.meshgrid(*[torch.arange(self.image_size)] * 2, indexing="ij")
        images = []
        for name, periods in PERIODS.items():
            for period in periods:
                phase, color = torch.rand(each, 1, 1, 1, generator=rng), torch.rand(each, 3, 1, 1, generator=rng)
                place = DIRECTIONS[name][0] * rows + DIRECTIONS[name][1] * columns
                wave = torch.sin(2 * torch.pi * (place / period + phase))
                images.append(255 * color * (0.5 + self.contrast * 0.9 * wave.expand(each, 1, -1, -1)))
        return Split(torch.cat(images).byte(), torch.arange(len(images)).repeat_interleave(each))


def test_a_study_of_stripes_runs_from_images_to_networks(tmp_path, in_workers_first):
    source = {"kind": "stripes", "image_size": 16, "selection": 0.25, "calibration": 0.1, "seed": 0, "contrast": 0.4}
    workspace, table = run_small_study(tmp_path, data=source)
    loaded = data.load(workspace.dataset_path)
    assert set(table.scenario[table.kind == "superclass"]) == set(DIRECTIONS) and table.method.nunique() == 15
    assert loaded.about == "*Stripes.*" and loaded.train.images.shape[1:] == (3, 16, 16)
    network, card = study_kit(workspace, loaded).specialize(["upright"], 5e5)
    assert len(card.classes) == 4 and network(torch.zeros(1, 3, 16, 16)).shape == (1, 4)
