"""The registry of methods."""

from itertools import combinations

from matplotlib.colors import to_rgb

from pipeline.methods import METHODS, OFAS_WAY


def test_methods_stand_under_their_names_and_are_told_in_a_line():
    assert all(name == method.name for name, method in METHODS.items()) and len(METHODS) == 17
    assert OFAS_WAY[0] in METHODS
    labels = [method.label for method in METHODS.values()]
    assert len(set(labels)) == len(labels) and not any("_" in text for text in labels)
    assert all(method.told and "\n" not in method.told and len(method.told) < 120 for method in METHODS.values())


def test_methods_are_told_apart_with_and_without_colour():
    for a, b in combinations(METHODS.values(), 2):
        distance = sum((x - y) ** 2 for x, y in zip(to_rgb(a.color), to_rgb(b.color), strict=True))
        assert distance > 0.03, (a.name, b.name)
        assert a.marker != b.marker, (a.name, b.name)


def test_only_shared_weights_compete_in_choosing_archs():
    own = {name for name, method in METHODS.items() if method.weights != "shared"}
    tuned = {"generator_branch", "generator_composed", "generator_finetuned", "ofa_finetuned", "from_scratch"}
    assert own == tuned | {"generator_control"}
    assert {name for name, method in METHODS.items() if method.few} == {"generator_finetuned", "from_scratch"}
