"""The page on which a scenario is picked."""

import json
import re

import pandas as pd
import pytest
import torch

from eas import explorer
from eas.study import scenarios


@pytest.fixture
def page(tmp_path, study, hierarchy, space):
    wanted = scenarios(study, hierarchy)
    archs = space.sample(len(wanted), torch.Generator().manual_seed(0))
    keys = {"scenario": wanted.names, "budget_madds": wanted.budgets.long(), "supernet": "eas"}
    tables = [
        pd.DataFrame(keys | {"method": method, "seed": seed, "madds": 1e6, "top1": top1 + seed})
        for method, top1 in (("generator", 70.0), ("uniform", 75.0))
        for seed in (0, 1)
    ]
    path = explorer.write(
        tmp_path / "new" / "page.html", space, wanted, archs, pd.concat(tables), title="A </title>", about="*about*"
    )
    return path, wanted, archs


def test_the_page_holds_every_scenario_with_its_arch_and_the_means_over_seeds(page, space):
    path, wanted, archs = page
    content = json.loads(re.search(r"const data = (\{.*?\}), get =", path.read_text(encoding="utf-8"))[1])
    assert sum(map(len, content["scenarios"].values())) == len(wanted)
    last = content["scenarios"][wanted.names[-1]][str(int(wanted.budgets[-1]))]
    assert last["inner"] == space.describe(archs[-1])
    assert last["methods"] == [["uniform", 1e6, 75.5], ["generator", 1e6, 70.5]]


def test_the_page_needs_nothing_but_itself(page):
    text = page[0].read_text(encoding="utf-8")
    assert "$" not in re.sub(r"\$\{", "", text) and "http" not in text
    assert "<title>A &lt;/title&gt;</title>" in text
    assert list(page[0].parent.iterdir()) == [page[0]]
