"""The page over all studies."""

import json
import re
import shutil
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from report_cases import make_comparison

from pipeline.report import figures, findings, main_result, overview
from pipeline.report.__main__ import main

CIFAR100 = {
    "top1_ofa_evolution_plain": 77.69,
    "top1_generator_dropout": 76.78,
    "top1_generator_branch_dropout": 80.72,
    "generator_branch_minus_mean_ofa_evolution": 3.032,
    "generator_branch_minus_low_ofa_evolution": 2.047,
    "generator_branch_minus_high_ofa_evolution": 4.017,
    "ofa_finetuned_minus_mean_ofa_evolution": 3.799,
    "generator_minus_ofas_way_mean_superclass": -0.9073,
    "generator_minus_ofas_way_low_superclass": -1.232,
    "generator_minus_ofas_way_high_superclass": -0.5822,
    "swap_cost_mean_dropout": -0.04772,
    "swap_cost_low_dropout": -0.2177,
    "swap_cost_high_dropout": 0.1223,
    "split_half_interaction_sd_upper_dropout": 0.6376,
    "timed_scenarios": 100.0,
    "generator_ms": 2.766,
    "times_generator_ofa_evolution_aware": 3883.0,
}
GATES = {
    "top1_generator_gates_dropout": 75.8,
    "generator_minus_generator_gates_mean_dropout": 1.0,
    "generator_minus_generator_gates_low_dropout": 0.4,
    "generator_minus_generator_gates_high_dropout": 1.6,
    "times_generator_ofa_evolution": 2100.0,
}
SMALL = {
    "top1_ofa_evolution_plain": 86.0,
    "top1_generator_dropout": 85.9,
    "generator_minus_ofas_way_mean_superclass": -0.15,
}
STUDIES = ["cifar100", "glyphs", "miniimagenet", "miniimagenet_mobilenetv3"]


@pytest.fixture
def root(tmp_path, monkeypatch, request):
    """The numbers of all reports, no pages and no figures."""
    for name in [*STUDIES, "benchmarks"]:
        (tmp_path / "reports" / name).mkdir(parents=True)
        shutil.copy(request.config.rootpath / "reports" / name / "metrics.json", tmp_path / "reports" / name)
    monkeypatch.chdir(tmp_path)
    assert main(["overview"]) == 0
    return tmp_path


def text_of(root):
    return (root / "reports" / "README.md").read_text()


def rewrite(root, study, **numbers):
    path = root / "reports" / study / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | numbers))


def test_the_page_asks_answers_and_says_what_failed(root):
    text = text_of(root)
    headings = [line for line in text.splitlines() if line.startswith("#")]
    sections = ["question", "method", "results", "what holds", "what failed", "what it costs", "limits", "more"]
    assert [heading.lower().split("the ")[-1].lstrip("# ") for heading in headings[1:]] == sections
    assert "| study | OFA's way | our signal, no branches | the paper's signal | EAS with branches | branches" in text
    for study in STUDIES:
        assert f"| [{study}]({study}/README.md) | " in text
    assert (root / "reports" / overview.DRAWING).read_text().startswith("<svg")


def test_numbers_are_those_of_the_studies_and_link_to_them(root):
    rewrite(root, "cifar100", ofa_finetuned_minus_mean_ofa_evolution=4.21, top1_generator_dropout=70.04)
    rewrite(root, "benchmarks", search_times_ofa_finder_long=124162.3)
    overview.write(root)
    text = " ".join(text_of(root).split())
    assert "[+4.2 points](cifar100/README.md)" in text and "| 70.0 % |" in text
    assert "[124,162 times](benchmarks/README.md) with the 50,000 that it was published with" in text


def test_a_claim_that_its_number_does_not_bear_out_stops_the_page(root, capsys):
    rewrite(root, "cifar100", generator_branch_minus_low_ofa_evolution=-0.1)
    assert main(["overview"]) == 1
    assert "overview.md claims \"Weights of a superclass's own beat OFA's way" in capsys.readouterr().err


def test_a_missing_study_is_named(root, capsys):
    shutil.rmtree(root / "reports" / "miniimagenet")
    assert main(["overview"]) == 1
    assert "overview.md rests on miniimagenet_swap_cost_low_dropout" in capsys.readouterr().err


def test_a_study_has_a_line_for_what_was_measured_the_weights_first():
    lines = findings.findings(CIFAR100 | GATES)
    assert len(lines) == 5 and all(line.startswith("**") for line in lines)
    assert lines[0].startswith("**Weights of a superclass's own beat OFA's way**: with branches +3.0 [+2.0, +4.0]")
    assert "not found**: another superclass's arch costs -0.05 [-0.22, +0.12]" in lines[2] and "0.6 are not" in lines[2]
    assert lines[4].startswith("**The paper's signal does worse than the predictor's**")


def test_speed_is_that_of_the_opponent_whose_accuracy_is_told():
    assert findings.speed(CIFAR100) == "**100 archs take 2.8 ms** on one CPU core."
    assert "a scenario takes OFA's way 2,100 times as long" in findings.speed(CIFAR100 | GATES)


@pytest.mark.parametrize(
    "low, high, word", [(0.1, 0.3, "beats"), (-0.3, -0.1, "does not reach"), (-0.1, 0.2, "told apart")]
)
def test_the_verdict_is_where_the_interval_lies(low, high, word):
    names = [f"generator_minus_ofas_way_{end}_superclass" for end in ("mean", "low", "high")]
    assert word in findings.system(dict(zip(names, (0.0, low, high), strict=True)))


def test_a_single_seed_gives_no_verdict():
    assert findings.system(SMALL) == "**EAS without branches is not told apart from OFA's way**: -0.1 points."


def test_the_figure_shows_the_studies_whose_template_says_so(root):
    assert not (root / "reports" / overview.FIGURE).exists() and overview.FIGURE not in text_of(root)
    make_comparison(["a", "b"]).to_csv(root / "reports" / "glyphs" / "comparison.csv")
    assert overview.comparisons(root / "reports") == {}  # its template has no title for it
    make_comparison(["a", "b"]).to_csv(root / "reports" / "cifar100" / "comparison.csv")
    overview.write(root)
    assert f"CIFAR-100, a full training: four ways to a network]({overview.FIGURE})" in text_of(root)
    assert (root / "reports" / overview.FIGURE).stat().st_size > 1000


def test_badges_say_what_the_metrics_do(root):
    rewrite(root, "benchmarks", search_times_ofa_finder=1688.9)
    overview.write(root)
    folder = root / "reports" / "badges"
    assert {path.name for path in folder.iterdir()} == {"cifar100.svg", "miniimagenet.svg", "benchmarks.svg"}
    (picture, words) = (ElementTree.parse(folder / "cifar100.svg").getroot(), "CIFAR-100: branches over OFA's way")
    assert picture.get("aria-label") == f"{words}: +3.0 points"
    assert [text.text for text in picture.iter() if text.tag.endswith("text")] == [words, "+3.0 points"]
    assert "1,689 times as fast" in (folder / "benchmarks.svg").read_text()


def test_names_at_the_ends_of_lines_do_not_touch():
    places = main_result.spread([1.0, 1.01, 3.0, 1.02], 0.5)
    assert places[0] < places[1] < places[3] < places[2] and places[2] == pytest.approx(3.0)
    assert min(b - a for a, b in pairwise(sorted(places))) >= 0.49


def test_the_figure_draws_four_ways_with_their_names():
    comparison = make_comparison(["a", "b"])
    figures.style()
    (axis,) = main_result.draw({"Some images": comparison}, "A claim").axes
    names = {text.get_text() for text in axis.texts}
    assert {"OFA's way", "each arch tuned"} <= names <= set(main_result.WAYS.values())
    assert len(axis.lines) == len(names) and axis.get_title(loc="left") == "Some images"
    with pytest.raises(ValueError, match="lacks OFA's way"):
        main_result.draw({"Some images": comparison[comparison.method != "ofa_evolution"]}, "A claim")


def test_without_reports_there_is_nothing_to_write(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["overview"]) == 1
    assert "holds no report" in capsys.readouterr().err


def test_the_committed_page_is_that_of_the_committed_numbers(request):
    reports = request.config.rootpath / "reports"
    assert overview.overview(reports) == (reports / "README.md").read_text()


def test_what_the_committed_page_links_to_is_there(request):
    reports = request.config.rootpath / "reports"
    links = set(re.findall(r"\]\((?!https?:)([^)#]+)", (reports / "README.md").read_text()))
    assert {"method.svg", "explorer.html", "experiments.md", "cifar100/README.md"} < links
    assert not [link for link in links if not (reports / link).exists()]


def test_superclass_dropout_is_judged_where_both_supernets_have_the_same_generator():
    names = [f"dropout_minus_plain_{end}_generator_additive" for end in ("mean", "low", "high")]
    assert findings.superclass_dropout(SMALL) == ""
    branched = {"generator_branch_minus_mean_ofa_evolution": 1.0}  # without branches both train equally long
    for numbers, words, more in (
        ((1.0, 0.5, 1.5), "helps", branched),
        ((-1.0, -1.5, -0.5), "does not make up", branched),
        ((-1.0, -1.5, -0.5), "does worse than none", {}),
        ((0.1, -1, 1), "not told", branched),
    ):
        text = findings.superclass_dropout(dict(zip(names, numbers, strict=True)) | more)
        assert f"**Superclass dropout {words}" in text or f"is {words}" in text
        assert ("trained longer" in text) == bool(more)
        assert f"{numbers[0]:+.1f} [{numbers[1]:+.1f}, {numbers[2]:+.1f}] points" in text


def test_pages_of_benchmarks_are_told_by_their_own_findings(root):
    page = root / "reports" / "on_device"
    page.mkdir()
    (page / "metrics.json").write_text('{"made_up": [1.0, 2.0]}')  # of another form
    findings_there = "- **Fast**: 1 ms,\n  or 2.\n- **Small**."
    (page / "README.md").write_text(f"# On one chip\n\nWords.\n\n{findings_there}\n\n![x](y)\n\n## More\n\n- no")
    text = overview.overview(root / "reports")
    assert "## [On one chip](on_device/README.md)\n\n- **Fast**: 1 ms, or 2.\n- **Small**.\n\n## Limits" in text
    assert "- no" not in text and "made_up" not in text
