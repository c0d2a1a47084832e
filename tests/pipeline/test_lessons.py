"""Pictures of masks, calibration and composed branches: each shows what was really drawn, measured or added."""

import inspect
import math

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from cases import LITE, SIZED_MOBILENET, SMALL, lively, random_bytes, seeded
from matplotlib.colors import to_rgb
from report_cases import check_readable

from eas.branches import compose_branches, stored, superclass_shares, tuned_names
from eas.data import Hierarchy, Split
from eas.dropout import SuperclassDropout
from eas.evaluation import calibrate
from eas.layers import FixedStatistics
from eas.recipes import NO_DROPOUT, Dropout
from pipeline.report import figures, lessons

matplotlib.use("Agg")  # before any figure: no window
plt = figures.plt

GROUPS = {"one": "abc", "two": "de", "three": "f", "four": "ghijk", "five": "lmnopqrstuvwxyz"}
HIERARCHY = Hierarchy.from_groups({name: tuple(members) for name, members in GROUPS.items()})
SPACES = {"preresnet": SMALL, "mobilenetv3, several sizes": SIZED_MOBILENET, "efficientnet-lite": LITE}
SETTINGS = [NO_DROPOUT, *(Dropout(variant=variant, rate=0.5) for variant in ("batch", "own", "sample"))]
PAIR = superclass_shares(HIERARCHY, HIERARCHY.class_mask(["one", "two"]))


@pytest.fixture(autouse=True)
def clean():
    figures.style()
    yield
    plt.close("all")


def make_split(space=SMALL, each=3):
    labels = torch.arange(26).repeat_interleave(each)
    return Split(random_bytes(len(labels), space), labels)


def masks_of(labels, seed=0):
    return {
        setting.name: SuperclassDropout(HIERARCHY.parent, setting)(labels, seeded(seed), 0.5) for setting in SETTINGS
    }


def test_functions_are_short():
    for _, function in inspect.getmembers(lessons, inspect.isfunction):
        if function.__module__ != lessons.__name__:
            continue
        assert len(inspect.getsource(function).splitlines()) <= 28, function


# -------------------------------------------------------------------- superclass dropout


def test_six_images_are_of_four_superclasses_and_of_different_classes():
    split = make_split()
    labels = split.labels[lessons.six_images(split, HIERARCHY)]
    assert HIERARCHY.parent[labels].tolist() == [0, 0, 1, 1, 2, 3] and len(labels.unique()) == 6
    few = Hierarchy.from_groups({"only": ("a",)})
    assert len(lessons.six_images(Split(split.images[:4], torch.zeros(4, dtype=torch.long)), few)) == 2


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shown", (True, False))
def test_dark_cells_are_the_classes_that_count(shown):
    split = make_split()
    rows = lessons.six_images(split, HIERARCHY)
    labels, drawn = split.labels[rows], masks_of(split.labels[rows])
    figure = lessons.dropout_masks(HIERARCHY, labels, drawn, split.images[rows] if shown else None)
    check_readable(figure)
    assert [axis.get_title("left") for axis in figure.axes] == list(drawn) and "dark" in figure.get_suptitle()
    assert all(len(axis.images) == 6 * shown for axis in figure.axes)
    columns = HIERARCHY.parent < 4
    for axis, (class_mask, weight) in zip(figure.axes, drawn.values(), strict=True):
        dark = [
            np.allclose(colour[:3], to_rgb(lessons.DARK))
            for bars in axis.collections
            for colour in bars.get_facecolor()
        ]
        expected = (class_mask & (weight > 0)[:, None])[:, columns]
        assert dark == expected.flatten().tolist()
        assert len([text for text in axis.texts if text.get_text() == "carries no loss"]) == int((weight == 0).sum())


def test_the_draws_that_the_notebook_shows_differ_as_its_words_say():
    split = make_split()
    labels = split.labels[lessons.six_images(split, HIERARCHY)]
    drawn, own = masks_of(labels), HIERARCHY.parent[labels][:, None] == HIERARCHY.parent
    assert drawn["none"][0].all() and torch.equal(drawn["own-0.5"][0], own)
    batch, weight = drawn["batch-0.5"]
    assert (batch == batch[0]).all() and 0 < weight.sum() < 6 and not batch.all()
    assert len(drawn["sample-0.5"][0].unique(dim=0)) > 2


# -------------------------------------------------------------------- calibration


@pytest.mark.parametrize("name", SPACES)
def test_borrowed_statistics_are_the_largest_archs_own_and_fit_every_arch(name):
    space = SPACES[name]
    supernet, images = lively(space, 26), make_split(space, each=1)
    recorded = calibrate(supernet, space.largest, images).recorded
    parent, borrowed = HIERARCHY.parent, lessons.BorrowedStatistics(recorded)
    with torch.inference_mode():
        logits = [supernet(images.images / 255, space.largest, each) for each in (borrowed, FixedStatistics(recorded))]
    assert torch.equal(*logits)
    for arch in (space.largest, space.smallest, *space.sample(3, seeded())):
        assert 0 <= lessons.subnet_top1(supernet, arch, borrowed, images, parent) <= 100


def test_the_leading_channels_are_borrowed():
    supernet, images = lively(SMALL, 26), make_split()
    norm = supernet.stages[0][0].norm2
    borrowed = lessons.BorrowedStatistics(calibrate(supernet, SMALL.largest, images).recorded)
    x = torch.rand(4, 2, 5, 5, generator=seeded())
    mean, variance = (each[:2, None, None] for each in borrowed.recorded[norm])
    expected = (x - mean) / (variance + norm.epsilon) ** 0.5
    assert torch.allclose(borrowed.normalize(norm, x, torch.ones(2), torch.zeros(2)), expected, atol=1e-5)


def test_arrows_lead_from_borrowed_to_own_statistics_in_the_order_of_cost():
    table = pd.DataFrame({"madds": [5e6, 1e6, 3e6], "borrowed": [70.0, 40.0, 60.0], "own": [70.0, 61.0, 66.0]})
    figure = lessons.calibration_effect(table)
    check_readable(figure)
    (axis,) = figure.axes
    assert axis.get_title("left") == "Calibration brings a subnet up to 21 points"
    assert [line.get_ydata().tolist() for line in axis.lines] == [[40, 60, 70], [61, 66, 70]]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["1", "3", "5"]
    assert lessons.calibration_told(table.assign(own=table.borrowed)).endswith("next to nothing here")


# -------------------------------------------------------------------- branches


def make_branches(supernet, part, size=0.1):
    """Random differences of two superclasses, as they are stored."""
    rng, made, state = seeded(), {}, supernet.state_dict()
    for index in (0, 1):
        for name in tuned_names(supernet, part):
            made |= stored(f"{index}.{name}", size * torch.randn(state[name].shape, generator=rng))
    return made


@pytest.mark.parametrize("part", ("all", "norms", "classifier"))
@pytest.mark.parametrize("name", SPACES)
def test_norms_are_those_of_what_composing_really_adds(name, part):
    space = SPACES[name]
    supernet = lively(space, 26)
    branches = make_branches(supernet, part)
    norms = lessons.composed_norms(supernet, branches, PAIR)
    composed, shared = compose_branches(supernet, branches, PAIR).state_dict(), supernet.state_dict()
    names = tuned_names(supernet, part)
    added = sum((composed[name] - shared[name]).square().sum().item() for name in names) ** 0.5
    assert math.isclose((norms["mean"] ** 2).sum() ** 0.5, added, rel_tol=1e-3)
    tuned = sum(shared[name].square().sum().item() for name in names) ** 0.5
    assert math.isclose((norms.shared**2).sum() ** 0.5, tuned, rel_tol=1e-3)
    every = ["stem", *space.block_names(), "head"]
    assert list(norms.index) == {"classifier": ["head"]}.get(part, [each for each in every if each in norms.index])
    assert part != "all" or list(norms.index) == every


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SPACES)
def test_composed_weights_tell_what_is_left_of_the_branches(name):
    supernet = lively(SPACES[name], 26)
    norms = lessons.composed_norms(supernet, make_branches(supernet, "all"), PAIR)
    figure = lessons.composed_weights(norms, PAIR, HIERARCHY.superclasses)
    check_readable(figure)
    assert [line.get_label() for line in figure.axes[0].lines] == ["one", "two", "their mean"]
    kept = int(figure.axes[0].get_title("left").split()[3])
    assert 69 <= kept <= 75  # unrelated: the square root of the sum of squared shares
    same = {name: tensor for name, tensor in make_branches(supernet, "all").items() if name.startswith("0.")}
    same |= {f"1.{name[2:]}": tensor for name, tensor in same.items()}
    alike = lessons.composed_told(lessons.composed_norms(supernet, same, PAIR), PAIR)
    assert alike == "The mean keeps 100 % of the length that its branches have"
    nothing = lessons.composed_norms(supernet, make_branches(supernet, "all", 0), PAIR)
    assert "have not moved" in lessons.composed_told(nothing, PAIR)
