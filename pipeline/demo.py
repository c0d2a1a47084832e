"""What notebook 06 shows of the kit: a network beside its opponents, and what networks were expected to reach."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from eas import search
from eas.data import Dataset
from eas.evaluation import measure_archs
from eas.serving.kit import Kit
from pipeline.branches import branch_method, generator_with
from pipeline.comparison import search_effort
from pipeline.generators import load_predictor
from pipeline.publish import first_base, kit_branch
from pipeline.scenarios import every_scenario
from pipeline.store import Workspace


def compare(
    workspace: Workspace, dataset: Dataset, kit: Kit, names: Sequence[str], budget_madds: float
) -> pd.DataFrame:
    """What to expect for a scenario, on the selection split: columns method, madds, top1.

    The generator's arch has the weights that the kit serves, branches where there are any; it and the opponents' archs
    are measured with the shared weights as well. Methods are named as in comparison.csv.
    """
    own, shared = kit_methods(workspace)
    mask, budget = dataset.hierarchy.class_mask(names)[None], torch.tensor([budget_madds], dtype=torch.float64)
    space, base, effort = kit.supernet.space, first_base(workspace), search_effort(workspace, 0)
    predictor = load_predictor(workspace, dataset, base, aware=False)
    archs = {shared: kit.generator.generate(mask, budget), "uniform": search.uniform(space, budget, mask.sum(1))}
    with torch.inference_mode():
        archs["evolution"] = search.evolution(space, predictor, mask, budget, **effort)
    every = torch.cat(list(archs.values()))
    top1 = measure_archs(kit.supernet, every, mask.expand(len(every), -1), kit.calibration, dataset.selection)
    table = pd.DataFrame({"method": archs.keys(), "madds": space.madds(every, mask.sum()), "top1": top1})
    if kit.branches_for(mask[0]):
        supernet, images = kit.weights(mask[0])
        reached = measure_archs(supernet, every[:1], mask, images, dataset.selection).item()
        row = {"method": own, "madds": table.madds[0], "top1": reached}
        table = pd.concat([pd.DataFrame([row]), table], ignore_index=True)
    return table


def kit_methods(workspace: Workspace) -> tuple[str | None, str]:
    """How the comparison names the study's kit with branches, None without any, and with shared weights."""
    branch = kit_branch(workspace)
    return branch_method(branch).name if branch else None, generator_with(branch)


def expected_and_measured(workspace: Workspace, kit: Kit, comparison: pd.DataFrame) -> pd.DataFrame:
    """What the study's kit expects of its networks, and what they reached on test: a row for every scenario.

    Columns scenario, kind, budget_madds, expected, low, high, measured, images (of the test split). With the weights
    that the kit's rule gives a set: those of branches, or the shared ones.
    """
    dataset, rows = workspace.dataset(), []
    every = every_scenario(workspace.study, dataset.hierarchy)
    base, (own, shared) = first_base(workspace), kit_methods(workspace)
    first = comparison[(comparison.supernet == base.name) & (comparison.seed == base.seed)]
    measured = first.set_index(["method", "scenario", "budget_madds"])
    for name, kind, mask, budget in zip(every.names, every.kinds, every.class_masks, every.budgets.long(), strict=True):
        method = own if kit.branches_for(mask) else shared
        found = measured.loc[(method, name, budget.item())]
        expected, low, high = kit.expected_top1(mask, torch.tensor([found.madds]))[0].tolist()
        names = {"scenario": name, "kind": kind, "budget_madds": budget.item()}
        images = len(dataset.test.only(mask))
        rows.append(names | {"expected": expected, "low": low, "high": high, "measured": found.top1, "images": images})
    return pd.DataFrame(rows)
