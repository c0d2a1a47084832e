"""README.md: what it says of CIFAR-100 is what the report measured, and it stays a page that is read."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
METRICS, PHOTOGRAPHS, OFAS_SPACE = (
    json.loads((ROOT / "reports" / study / "metrics.json").read_text(encoding="utf-8"))
    for study in ("cifar100", "miniimagenet", "miniimagenet_mobilenetv3")
)
GROCERY = json.loads((ROOT / "reports" / "grocery" / "metrics.json").read_text(encoding="utf-8"))
ROWS = {  # the row's first words, and what its number is: an accuracy, or points over OFA's way
    "OFA's way": "top1_ofa_evolution_plain",
    "EAS, the paper's training signal": "generator_gates_minus_ofas_way_{}_superclass",
    "EAS, a generator in closed form": "generator_additive_minus_ofas_way_{}_superclass",
    "EAS with superclass branches": "generator_branch_minus_{}_ofa_evolution",
    "EAS with branches for any set": "generator_composed_minus_{}_ofa_evolution",
    "OFA's archs, each tuned alone": "ofa_finetuned_minus_{}_ofa_evolution",
}


def told(text):
    """The numbers in a piece of text."""
    return [float(number.replace(",", "")) for number in re.findall(r"[-+]?\d[\d,]*\.?\d*", text)]


@pytest.mark.parametrize("name", ROWS)
def test_the_table_says_what_was_measured(name):
    (row,) = (line.replace("*", "") for line in README.splitlines() if line.replace("*", "").startswith(f"| {name}"))
    for cell, metrics in zip(row.split("|")[2:4], (METRICS, PHOTOGRAPHS), strict=True):
        keys = [ROWS[name].format(end) for end in ("mean", "low", "high")]
        expected = [metrics[key] for key in dict.fromkeys(keys) if key in metrics]  # one seed has no interval
        assert told(cell) == pytest.approx(expected, abs=0.051)


def interval_told(words):
    """The three numbers of the difference that comes behind some words."""
    (found,) = re.findall(words + r":?\s+([-+][^\]]*\])", README)
    return told(found)


def measured(name):
    return [METRICS[name.format(end)] for end in ("mean", "low", "high")]


def test_the_findings_say_what_was_measured():
    milliseconds = METRICS["generator_ms"] / METRICS["timed_scenarios"]
    times = [METRICS[f"times_generator_{name}evolution"] for name in ("ofa_", "")]
    assert f"A scenario takes {milliseconds:.3f} ms of a CPU core" in README
    assert f"{times[0]:,.0f} times as long, a search in batches {times[1]:.0f} times" in README
    assert f"for each of the 5 budgets, {times[0] * 5 / METRICS['timed_scenarios']:.0f} times" in README
    swap = interval_told("Its own, minus another superclass's")
    assert swap == pytest.approx(measured("swap_cost_{}_dropout"), abs=0.0051)
    spread = METRICS["split_half_interaction_sd_upper_dropout"]
    assert f"deviation of up to {spread:.1f} points are not excluded" in README
    closed = interval_told(r"minus those of a\s+search with 50,000 evaluations")
    assert closed == pytest.approx(measured("generator_additive_minus_evolution_long_{}_dropout"), abs=0.0051)
    union = interval_told(r"none of which\s+was trained on")
    assert union == pytest.approx(measured("generator_composed_minus_{}_ofa_evolution_union"), abs=0.051)
    dropout = interval_told(r"which trains less,\s+loses")
    assert dropout == pytest.approx(measured("dropout_minus_plain_{}_generator"), abs=0.051)
    uniform = interval_told("the trained generator's minus one width everywhere")
    assert uniform == pytest.approx(measured("generator_minus_uniform_{}_dropout"), abs=0.051)
    across = interval_told("Branches on a class each of seven superclasses")
    assert across == pytest.approx(measured("generator_composed_minus_{}_generator_additive_across"), abs=0.051)
    assert f"{METRICS['distinct_archs']:.0f} archs\n  serve {METRICS['timed_scenarios']:.0f} scenarios" in README
    alone = METRICS["generator_finetuned_minus_mean_ofa_evolution_union"]
    assert f"tuned alone is {alone:.1f} points over OFA's way" in README


def test_the_findings_say_what_was_measured_on_photographs():
    equal, more = (PHOTOGRAPHS[f"generator_{name}_minus_mean_ofa_evolution"] for name in ("branch", "composed"))
    assert f"mini-ImageNet {equal:+.1f} and {more:+.1f}, neither told apart from OFA's way" in README
    for rival in (
        "branch_minus_{}_ofa_evolution",
        "composed_minus_{}_ofa_evolution",
        "composed_minus_{}_generator_control",
    ):
        assert PHOTOGRAPHS["generator_" + rival.format("low")] < 0 < PHOTOGRAPHS["generator_" + rival.format("high")]
    assert (
        f"in OFA's own space, after few epochs, {OFAS_SPACE['generator_branch_minus_mean_ofa_evolution']:+.1f}"
        in README
    )


def test_what_is_said_of_photographs_was_measured():
    said = " ".join(README.partition("## Your own photographs")[2].partition("```")[0].split())
    keys = ("finetuned_once_1", "finetuned_each_1", "eas_1", "eas_0.5", "eas_0.25", "pruned_0.5", "pruned_0.25")
    assert [float(each) for each in re.findall(r"(\d+\.\d) %", said)] == pytest.approx(
        [GROCERY[f"top1_{key}"][0] for key in keys], abs=0.051
    )


def test_what_it_links_to_exists():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert links and not [link for link in links if not (ROOT / link).exists()]


def test_it_has_at_most_120_lines():
    assert len(README.splitlines()) <= 120
