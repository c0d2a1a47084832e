"""What notebook 05 shows of one scenario: the network that is handed over, beside the opponents' archs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from eas import search
from eas.data import Dataset
from eas.evaluation import measure_archs
from eas.kit import Kit
from pipeline.comparison import search_effort
from pipeline.generators import load_predictor
from pipeline.publish import first_base
from pipeline.store import Workspace


def compare(
    workspace: Workspace, dataset: Dataset, kit: Kit, names: Sequence[str], budget_madds: float
) -> pd.DataFrame:
    """What to expect for a scenario, on the selection split: columns method, madds, top1.

    The generator's arch has the weights that the kit serves, a branch where there is one (`generator_branch`); it and
    the opponents' archs are measured with the shared weights as well.
    """
    mask, budget = dataset.hierarchy.class_mask(names)[None], torch.tensor([budget_madds], dtype=torch.float64)
    space, base, effort = kit.supernet.space, first_base(workspace), search_effort(workspace, 0)
    predictor = load_predictor(workspace, dataset, base, aware=False)
    archs = {"generator": kit.generator.generate(mask, budget), "uniform": search.uniform(space, budget, mask.sum(1))}
    with torch.inference_mode():
        archs["evolution"] = search.evolution(space, predictor, mask, budget, **effort)
    every = torch.cat(list(archs.values()))
    top1 = measure_archs(kit.supernet, every, mask.expand(len(every), -1), kit.calibration, dataset.selection)
    table = pd.DataFrame({"method": archs.keys(), "madds": space.madds(every, mask.sum()), "top1": top1})
    if kit.branches_for(mask[0]):
        supernet, images = kit.weights(mask[0])
        own = measure_archs(supernet, every[:1], mask, images, dataset.selection).item()
        row = {"method": "generator_branch", "madds": table.madds[0], "top1": own}
        table = pd.concat([pd.DataFrame([row]), table], ignore_index=True)
    return table
