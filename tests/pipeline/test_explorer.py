"""The page on which a scenario is picked."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from cases import LITE
from report_cases import SPACE, OtherSpace, make_comparison

from pipeline.report import explorer, stats
from pipeline.scenarios import Scenarios

SUPERCLASSES, UNIONS = ("c++", "<b>dig & its"), ("c+++<b>dig & its",)
COMPARISON = make_comparison(SUPERCLASSES, unions=UNIONS)
BUDGETS = sorted(COMPARISON.budget_madds.unique())


def make_scenarios():
    names = [*SUPERCLASSES, *UNIONS] * len(BUDGETS)
    kinds = ["superclass", "superclass", "union"] * len(BUDGETS)
    masks = torch.tensor([[True, False, False], [False, True, True], [True, True, True]]).repeat(len(BUDGETS), 1)
    return Scenarios(names, kinds, masks, torch.tensor(BUDGETS, dtype=torch.float64).repeat_interleave(3))


def written(path, space, comparison=COMPARISON):
    """The page's text, what it holds, the scenarios and their archs."""
    scenarios = make_scenarios()
    archs = space.sample(len(scenarios), torch.Generator().manual_seed(0))
    archs[1] = archs[0]
    words = {"seed": 0, "title": "A </title>", "about": "*about* <i>"}
    text = explorer.write(path, space, scenarios, archs, comparison, **words).read_text(encoding="utf-8")
    return text, json.loads(re.search(r"const data = (\{.*\});\n", text)[1]), scenarios, archs


@pytest.fixture
def page(tmp_path):
    return written(tmp_path / "new" / "page.html", SPACE)


def rows_of(content, name, budget):
    (scenario,) = [each for each in content["scenarios"] if each["name"] == name]
    return {row["method"]: row for row in scenario["budgets"][str(budget)]["rows"]}


def test_every_scenario_has_its_arch_and_the_exact_cost_of_that(page):
    _, content, scenarios, archs = page
    assert [each["name"] for each in content["scenarios"]] == [*SUPERCLASSES, *UNIONS] and content["seed"] == 0
    costs = SPACE.madds(archs, scenarios.class_counts).tolist()
    for name, budget, cost, arch in zip(scenarios.names, scenarios.budgets.long().tolist(), costs, archs, strict=True):
        (entry,) = [each for each in content["scenarios"] if each["name"] == name]
        shown = entry["budgets"][str(budget)]
        assert shown["madds"] == cost  # of the arch that is drawn, not a mean over seeds
        kept = SPACE.active(arch).tolist()
        assert [bool(form) for form in shown["forms"]] == [size > 0 for size in shown["sizes"]] == kept
        assert [int(form) for form in shown["forms"] if form] == [c for stage in SPACE.describe(arch) for c in stage]


def test_how_many_superclasses_share_an_arch_is_counted(page):
    _, content, _, _ = page
    first = content["scenarios"][0]["budgets"]
    assert (first[str(BUDGETS[0])]["shared"], first[str(BUDGETS[0])]["of"]) == (2, 2)
    assert first[str(BUDGETS[1])]["shared"] == 1


def test_only_methods_of_all_seeds_and_scenarios_stand_together(page):
    _, content, _, _ = page
    rows = rows_of(content, "c++", BUDGETS[2])
    together = {name for name, row in rows.items() if "apart" not in row}
    assert {"generator/dropout", "generator_branch/dropout", "ofa_finetuned/plain", "ofa_evolution/plain"} <= together
    assert rows["from_scratch/dropout"]["apart"] == "seed 0, some scenarios"
    union = rows_of(content, UNIONS[0], BUDGETS[2])
    assert union["generator_finetuned/dropout"]["apart"] == "seeds 0, 1, 2, some scenarios"
    assert "generator_branch/dropout" not in union and "generator/plain" not in union
    few = COMPARISON[(COMPARISON.method != "random") | (COMPARISON.seed == 1)]
    rows = explorer.results(few)[("c++", BUDGETS[0])]
    assert [row["apart"] for row in rows if row["method"] == "random/dropout"] == ["seed 1"]


def test_differences_are_to_ofas_way_on_the_same_seeds(page):
    _, content, _, _ = page
    rows = rows_of(content, "c++", BUDGETS[2])
    here = COMPARISON[(COMPARISON.scenario == "c++") & (COMPARISON.budget_madds == BUDGETS[2])]
    for side, row in rows.items():
        difference = stats.paired_difference(here, tuple(side.split("/")), ("ofa_evolution", "plain"))
        assert row["over"] == pytest.approx(difference.mean, abs=0.006)
        if row["interval"]:
            assert row["interval"] == pytest.approx(difference[1:], abs=0.06)
    assert rows["from_scratch/dropout"]["interval"] is None and rows["ofa_evolution/plain"]["over"] == 0
    top1 = here[(here.method == "generator") & (here.supernet == "dropout")].top1.mean()
    assert rows["generator/dropout"]["top1"] == pytest.approx(top1, abs=0.006)


def test_methods_are_named_for_readers(page):
    _, content, _, _ = page
    labels = {name: method["label"] for name, method in content["methods"].items()}
    assert labels["ofa_evolution/plain"] == "OFA's way" and labels["ofa_evolution/dropout"] == "OFA's search, blind"
    assert labels["ofa_finetuned/plain"] == "OFA's arch tuned alone (supernet plain)"
    assert all(method["told"] for method in content["methods"].values())


def test_names_stay_as_they_are_and_open_no_tag(page):
    text, content, _, _ = page
    assert [each["label"] for each in content["scenarios"]] == [*SUPERCLASSES, UNIONS[0].replace("+", " + ")]
    assert "<b>dig" not in text and "<title>A &lt;/title&gt;</title>" in text and "*about* &lt;i&gt;" in text


def test_the_page_needs_nothing_but_itself(page, tmp_path):
    text, _, _, _ = page
    assert "$" not in re.sub(r"\$\{", "", text) and "http" not in text
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "page.html"]


def test_another_search_space_is_shown_by_its_forms(tmp_path):
    _, content, _, archs = written(tmp_path / "page.html", OtherSpace())
    assert [stage["name"] for stage in content["stages"]] == ["first", "second"]
    assert content["stages"][1] == {"name": "second", "blocks": ["2.1", "2.2"], "full": [1.0, 1.0]}
    forms = content["scenarios"][0]["budgets"][str(BUDGETS[0])]["forms"]
    assert len(forms) == 4 and set(forms) <= {"", *OtherSpace().form_names()[0]}


def test_blocks_that_a_stage_never_has_are_not_shown():
    found = explorer.stages(LITE)
    assert [len(stage["blocks"]) for stage in found] == [2, 2, 3, 3, 4, 1] == [len(stage["full"]) for stage in found]
    assert found[-1]["blocks"] == ["6.1"] and all(full > 0 for stage in found for full in stage["full"])


def test_a_comparison_without_ofas_way_is_refused():
    with pytest.raises(ValueError, match="lacks OFA's way"):
        explorer.results(COMPARISON[COMPARISON.supernet == "dropout"])


def test_the_page_fits_a_phone_and_keeps_a_choice_in_its_address():
    """What a browser would show is not tested here; these are the lines that it rests on."""
    text = Path(explorer.__file__).with_suffix(".html").read_text()
    assert "max-width: 100%" in text and "nowrap" not in text and "width=device-width" in text
    assert "location.hash" in text and "history.replaceState" in text and "onhashchange" in text
    assert 'aria-live="polite"' in text and text.count("safe(") > 5


def test_a_table_of_one_seed_has_no_intervals():
    found = explorer.results(COMPARISON[COMPARISON.seed == 0])
    assert all(row["interval"] is None for rows in found.values() for row in rows)
    assert isinstance(pd.DataFrame(found[("c++", BUDGETS[0])]).madds.iloc[0].item(), int)
