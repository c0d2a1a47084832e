"""What the explorer tells of test images is what the comparison says."""

import pytest
from report_cases import make_comparison

from pipeline.report import stats
from pipeline.report.explorer.measured import measured
from pipeline.scenarios import superclass_sets

OFA, COMPOSED = ("ofa_evolution", "plain"), ("generator_composed", "dropout")


@pytest.fixture
def comparison(study, hierarchy):
    unions = ["+".join(names) for names in superclass_sets(study, hierarchy) if len(names) > 1]
    return make_comparison(hierarchy.superclasses, unions=unions)


@pytest.fixture
def content(comparison, study, hierarchy):
    return measured(comparison, study, hierarchy)


def row_of(rows, index):
    (row,) = [each[1:] for each in rows if each[0] == index]
    return row


def test_accuracy_and_points_have_their_intervals_over_seeds(content, comparison, hierarchy):
    index = hierarchy.superclasses.index("greek")
    here = comparison[(comparison.scenario == "greek") & (comparison.budget_madds == 25_000_000)]
    found = content["sets"][str(index)]["25"]
    for side, number in ((COMPOSED, content["own"]), (OFA, content["ofa"])):
        own = here[(here.method == side[0]) & (here.supernet == side[1])].sort_values("seed").top1
        row = row_of(found, number)
        assert row[:3] == pytest.approx(stats.interval(own), abs=0.051)
        assert row[3:] == pytest.approx(stats.paired_difference(here, side, OFA), abs=0.051)
    assert content["methods"][content["own"]]["label"] == "generator with composed branches"
    assert content["methods"][content["shared"]]["label"] == "generator, closed form"
    assert content["methods"][content["ofa"]]["label"] == "OFA's way" and content["seeds"] == 3


def test_unions_are_found_by_their_superclasses_and_parts_of_them_are_not_shown(content, comparison, study, hierarchy):
    place = {name: index for index, name in enumerate(hierarchy.superclasses)}
    for names in superclass_sets(study, hierarchy):
        members = sorted(place[name] for name in names)
        assert len(content["sets"][",".join(map(str, members))]) == 5
    others = comparison.assign(scenario="A+Б", kind="part")
    assert measured(others, study, hierarchy)["sets"] == {} == measured(others, study, hierarchy)["kinds"]


def test_means_over_sets_are_of_methods_that_were_measured_on_all_of_them(content, comparison):
    assert set(content["kinds"]) == {"superclass", "union"}
    labels = [content["methods"][row[0]]["label"] for row in content["kinds"]["union"]]
    assert "OFA's way" in labels and not [each for each in labels if "tuned" in each]
    whole = comparison[(comparison.kind == "union") & (comparison.method == "ofa_evolution")]
    mean = whole[whole.supernet == "plain"].top1.mean()
    assert row_of(content["kinds"]["union"], content["ofa"])[0] == pytest.approx(mean, abs=0.051)


def test_what_some_seeds_lack_is_left_out(comparison, study, hierarchy):
    few = comparison[(comparison.method != "generator_composed") | (comparison.seed == 1)]
    content = measured(few, study, hierarchy)
    assert not [row for each in content["sets"]["0"].values() for row in each if row[0] == content["own"]]


def test_a_single_seed_has_no_intervals(comparison, study, hierarchy):
    content = measured(comparison[comparison.seed == 0], study, hierarchy)
    assert all(row[2:4] == [None, None] for row in content["sets"]["0"]["15"]) and content["seeds"] == 1


def test_a_study_without_branches_that_compose_shows_the_others(comparison, study, hierarchy):
    content = measured(comparison[comparison.method != "generator_composed"], study, hierarchy)
    assert content["methods"][content["own"]]["label"] == "generator with branches"
    assert content["methods"][content["shared"]]["label"] == "generator"


def test_without_ofas_way_there_is_nothing_to_hold_them_against(comparison, study, hierarchy):
    with pytest.raises(ValueError, match="lacks OFA's way"):
        measured(comparison[comparison.supernet == "dropout"], study, hierarchy)
