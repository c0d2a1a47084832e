"""Where every hyper-parameter of a study comes from: the paper, the related code, or us."""

from __future__ import annotations

import pandas as pd

from eas.config import Study

PAPER = "paper"  # arXiv 2108.01224
RELATED = "related code"  # a port by a co-author
OFA = "OFA"  # once-for-all, whose search is the opponent
OURS = "ours"

# The value's source, and what there is to say about it; the longest name that a parameter begins with counts.
SOURCES = {
    "seeds": (OURS, "the paper's number of seeds is not known"),
    "data": (OURS, ""),
    "data.selection": (OURS, "share of the published training images; the test images are the published ones"),
    "data.calibration": (OURS, "likewise"),
    "data.name": (PAPER, "for cifar100; glyphs is ours"),
    "space": (OURS, "widths for each block and depths for each stage"),
    "space.widths": (RELATED, "PreResNet-20's for cifar100; there one width ratio in 0.5 to 1 for each stage"),
    "training": (OURS, ""),
    "training.random_subnets": (RELATED, "several sampled subnets a step; the largest and the smallest beside them"),
    "training.distillation": (RELATED, "the teacher's softmax renormalised over the kept classes; the share is ours"),
    "training.teacher": (OFA, "a larger network, as there; over the kept classes, as in the related code; size ours"),
    "dropout": (OURS, "the choice on the selection split"),
    "dropout.candidates": (RELATED, "variants batch and own, rates among those seen there; sample and begin are ours"),
    "dropout.with_teacher": (OFA, "as training.teacher; tried on one supernet, used nowhere else"),
    "branches": (OURS, "not in the paper"),
    "finetune": (OURS, "not in the paper"),
    "from_scratch": (OURS, ""),
    "generator": (OURS, "a pooled embedding of the classes, all decisions at once; there an LSTM cell of 64"),
    "generator.embedding": (RELATED, "32, for the superclass and for the budget"),
    "generator.gate": (OURS, "the signal is the paper's, its steps, scenarios and images are ours"),
    "generator.penalty": (OURS, "on the squared relative distance; there lambda 0.01 on the absolute one"),
    "generator.entropy": (OURS, "reward of undecided choices, falling to none over the steps"),
    "generator.learning_rate": (OURS, "there Adam with 0.0003"),
    "search": (OURS, "the effort of the opponents beside OFA's evolution"),
    "long_search": (OURS, "effort of the reference"),
    "search.evaluations": (OFA, "about 500 in the related code"),
    "search.population": (OFA, "100"),
    "scenarios": (OURS, ""),
    "scenarios.budgets": (RELATED, "15 to 35 million in steps of 5 for cifar100; those of glyphs are ours"),
    "evaluation": (OURS, "that statistics are estimated for each subnet is in the related code"),
}


def flatten(content: dict, prefix: str = "") -> dict[str, object]:
    """Nested parameters by their dotted names."""
    flat = {}
    for name, value in content.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def source(name: str) -> tuple[str, str]:
    """The entry of SOURCES for a parameter, or for the section that it belongs to.

    Raises:
        KeyError: it has none.
    """
    return SOURCES[max((known for known in SOURCES if name.startswith(known)), key=len, default=name)]


def table(study: Study) -> pd.DataFrame:
    """Every parameter of a study: columns parameter, value, from, note."""
    flat = flatten(study.model_dump(mode="json", exclude={"name", "note"}))
    rows = [(name, str(value), *source(name)) for name, value in flat.items() if value is not None]
    return pd.DataFrame(rows, columns=["parameter", "value", "from", "note"])
