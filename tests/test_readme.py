"""README.md: what it says of CIFAR-100 is what the report measured, and it stays a page that is read."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
METRICS, PHOTOGRAPHS = (
    json.loads((ROOT / "reports" / study / "metrics.json").read_text(encoding="utf-8"))
    for study in ("cifar100", "miniimagenet")
)
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


def test_the_findings_say_what_was_measured():
    assert f"Archs for {METRICS['timed_scenarios']:.0f} scenarios take {METRICS['generator_ms']:.1f} ms" in README
    assert f"takes {METRICS['times_generator_ofa_evolution']:,.0f} times as long" in README
    (swap,) = re.findall(r"Another superclass's arch costs (.*?points \[.*?\])", README)
    assert told(swap) == pytest.approx(
        [METRICS[f"swap_cost_{end}_dropout"] for end in ("mean", "low", "high")], abs=0.0051
    )
    (closed,) = re.findall(r"search with 50,000 evaluations: (.*?points \[.*?\])", README)
    ends = ("mean", "low", "high")
    measured = [METRICS[f"generator_additive_minus_evolution_long_{end}_dropout"] for end in ends]
    assert told(closed) == pytest.approx(measured, abs=0.0051)
    (union,) = re.findall(r"none\s+of which was trained on: (.*?\])\.", README)
    measured = [METRICS[f"generator_composed_minus_{end}_ofa_evolution_union"] for end in ends]
    assert told(union) == pytest.approx(measured, abs=0.051)
    equal, more = (PHOTOGRAPHS[f"generator_{name}_minus_mean_ofa_evolution"] for name in ("branch", "composed"))
    assert f"at equal training {equal:+.1f}, and most of the {more:+.1f}" in README
    assert f"{METRICS['distinct_archs']:.0f} archs serve" in README
    assert f"tuned alone gains {METRICS['generator_finetuned_minus_mean_generator_union']:.1f}" in README


def test_what_it_links_to_exists():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert links and not [link for link in links if not (ROOT / link).exists()]


def test_it_has_at_most_120_lines():
    assert len(README.splitlines()) <= 120
