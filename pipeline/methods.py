"""Every method and kind of scenario of the comparison: what it is, how it is written and drawn. One place for that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Weights = Literal["shared", "tuned", "superclass", "scenario"]  # tuned: the shared ones, trained on for all alike


@dataclass(frozen=True)
class Method:
    """A way to get a network for a scenario, as comparison.csv names it.

    `weights`: whose they are; only methods with the supernet's shared weights are rivals in choosing archs. `archs`:
    the method whose archs one with other weights takes.
    `few`: measured on some of the scenarios only, so that its mean is none over all. `banded`: its interval over seeds
    is drawn; more than a few bands on top of each other show nothing. `told`: what it does, in a line.
    """

    name: str
    label: str
    color: str
    marker: str
    linestyle: str
    told: str
    weights: Weights = "shared"
    archs: str | None = None
    sees_classes: bool = False
    few: bool = False
    banded: bool = False


METHODS = {  # in the order of legends and tables
    method.name: method
    for method in (
        Method(
            "generator",
            *("generator", "#0b5fa5", "o", "-"),
            "one forward pass and decoding under the hard budget; trained on an accuracy predictor (ours)",
            sees_classes=True,
            banded=True,
        ),
        Method(
            "generator_gates",
            *("generator, the paper's signal", "#e8710a", "p", "--"),
            "the same, trained through relaxed gates of the frozen supernet (the paper's signal)",
            sees_classes=True,
        ),
        Method(
            "generator_additive",
            *("generator, closed form", "#c51bb4", "H", "-"),
            "the same decoding of what choices add to the accuracy, fitted by ridge regression (ours)",
            sees_classes=True,
        ),
        Method(
            "generator_blind",
            *("generator, blind", "#63b3e6", "P", "-."),
            "the same as the generator, but neither it nor its predictor sees the classes",
        ),
        Method(
            "generator_branch",
            *("generator with branches", "#b5122b", ">", "-"),
            "the generator's arch with the weights of its superclass, whose branch was trained on it alone (ours)",
            weights="superclass",
            archs="generator",
            sees_classes=True,
            banded=True,
        ),
        Method(
            "generator_composed",
            *("generator with composed branches", "#e0603f", "v", "-."),
            "the closed form's arch, for any set, with the mean of its superclasses' branches, trained for that (ours)",
            weights="superclass",
            archs="generator_additive",
            sees_classes=True,
        ),
        Method(
            "generator_control",
            *("generator, shared weights tuned on", "#00007f", "|", "--"),
            "the closed form's arch with the shared weights, tuned as long as composed branches: their control (ours)",
            weights="tuned",
            archs="generator_additive",
            sees_classes=True,
        ),
        Method(
            "generator_finetuned",
            *("generator's arch tuned alone", "#f08db8", "d", ":"),
            "the generator's arch for a set of several superclasses, or of some classes, tuned on the set's images",
            weights="scenario",
            archs="generator",
            sees_classes=True,
            few=True,
        ),
        Method(
            "uniform",
            *("uniform arch", "#1f8a44", "^", "-."),
            "the costliest arch within the budget that has one depth and one form everywhere, then filled evenly",
        ),
        Method(
            "random",
            *("best random arch", "#8c564b", "1", ":"),
            "the best of a few random archs, each measured on the selection split",
            sees_classes=True,
        ),
        Method(
            "ofa_evolution",
            *("OFA's search, blind", "#202020", "s", "--"),
            "OFA's evolutionary search as it is run, scenario after scenario, with an accuracy predictor",
            banded=True,
        ),
        Method(
            "ofa_evolution_aware",
            *("OFA's search, seeing classes", "#8f8f8f", "X", "--"),
            "the same with a predictor that sees the classes",
            sees_classes=True,
        ),
        Method(
            "evolution",
            *("evolution in batches, blind", "#6a3d9a", "D", "-"),
            "the same search, vectorised over all scenarios",
        ),
        Method(
            "evolution_aware",
            *("evolution in batches, seeing classes", "#bb94d6", "<", ":"),
            "the vectorised search with a predictor that sees the classes",
            sees_classes=True,
        ),
        Method(
            "evolution_long",
            *("long evolution, blind", "#17a2a2", "h", "--"),
            "the vectorised search with many times the evaluations: how far a better search could get",
        ),
        Method(
            "ofa_finetuned",
            *("OFA's arch tuned alone", "#d4a300", "*", "-"),
            "the arch of OFA's search, tuned on the images of its superclass",
            weights="scenario",
            archs="ofa_evolution",
        ),
        Method(
            "from_scratch",
            *("generator's arch from scratch", "#8a9a1b", "8", "-."),
            "the generator's arch trained alone, on as many images as the supernet without dropout (a few scenarios)",
            weights="scenario",
            archs="generator",
            sees_classes=True,
            few=True,
        ),
    )
}

OFAS_WAY = ("ofa_evolution", "plain")  # its search on a supernet without superclass dropout: what all is held against

KINDS = {  # of scenarios: which classes those are; all methods are compared on the first two
    "superclass": "all classes of one superclass",
    "union": "those of two or three superclasses",
    "large_union": "those of five or ten superclasses",
    "part": "two to four classes of one superclass",
    "across": "a class each of seven superclasses",
    "all": "every class",
}
