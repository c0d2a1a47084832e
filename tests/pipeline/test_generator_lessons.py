"""Pictures of one scenario's way through the generator, and of gates: in spaces of several kinds."""

import inspect

import matplotlib
import numpy as np
import pytest
import torch
from cases import (
    CIFAR100,
    LITE,
    MOBILENET,
    ONE_ARCH,
    RAGGED,
    SIZED,
    SIZED_MOBILENET,
    SMALL,
    lively,
    random_bytes,
    random_scores,
    seeded,
)
from report_cases import check_readable

from eas.data import Split
from eas.decoding import decode
from eas.generator import GateSignal, Generator, train_generator
from eas.recipes import GeneratorTraining
from eas.spaces import MobileNetV3Space
from pipeline.params import load_study
from pipeline.report import figures, generator_lessons

matplotlib.use("Agg")  # before any figure: no window
plt = figures.plt

OFAS = MobileNetV3Space(84, 3, 0.5, kernels=(3, 5, 7), image_sizes=(56, 70, 84))
SPACES = {"small": SMALL, "cifar100": CIFAR100, "sized": SIZED, "sized mobilenet": SIZED_MOBILENET, "OFA's": OFAS}
SPACES |= {"lite": LITE, "costs that do not rise": MOBILENET, "ragged": RAGGED, "one arch": ONE_ARCH}
CLASSES = 5


@pytest.fixture(autouse=True)
def clean():
    figures.style()
    yield
    plt.close("all")


def priced(space, share=0.4, seed=0):
    """A random scenario with a budget between the smallest arch and the largest; the arch that is decoded for it."""
    low, high = (space.madds(arch, CLASSES).item() for arch in (space.smallest, space.largest))
    budget, (depth, form, *size) = float(round(low + share * (high - low))), random_scores(space, 1, seed)
    asked = torch.tensor([budget], dtype=torch.float64), torch.tensor([CLASSES])
    arch = decode(space, depth, form, *asked, *size)[0]
    return generator_lessons.priced_choices(space, (depth, form, *size), arch, budget, CLASSES), arch


def test_functions_are_short():
    for _, function in inspect.getmembers(generator_lessons, inspect.isfunction):
        if function.__module__ != generator_lessons.__name__:
            continue
        assert len(inspect.getsource(function).splitlines()) <= 28, function


# -------------------------------------------------------------------- scores, prices, costs


@pytest.mark.parametrize("name", SPACES)
def test_prices_lower_the_cost_to_what_the_budget_allows(name):
    space = SPACES[name]
    for seed, share in enumerate((0.0, 0.2, 0.6, 1.0)):
        choices, arch = priced(space, share, seed)
        smallest = space.at_size_of(arch)[0]
        assert (np.diff(choices.prices) > 0).all() and (np.diff(choices.madds) <= 0).all()
        assert choices.madds[-1] == smallest.madds(smallest.smallest, CLASSES)
        assert choices.madds[choices.at] <= choices.budget and (choices.madds[: choices.at] > choices.budget).all()
        assert choices.spent == space.madds(arch, CLASSES) <= choices.budget


@pytest.mark.parametrize("name", SPACES)
def test_decisions_are_those_of_the_arch(name):
    space = SPACES[name]
    choices, arch = priced(space)
    decisions, (one, own) = choices.decisions, space.at_size_of(arch)
    blocks = [each for each in decisions if each.name not in ("depth", "size")]
    assert [each.name for each in blocks] == one.block_names()
    assert [each.made for each in decisions if each.name == "depth"] == own[: one.stages].tolist()
    forms, kept = (each[one.in_stage].tolist() for each in (one.form_of(own), one.active(own)))
    assert [each.made for each in blocks] == [form if there else None for form, there in zip(forms, kept, strict=True)]
    counts = [count for count, there in zip(one.block_forms, one.in_stage.tolist(), strict=True) if there]
    assert [len(each.scores) for each in blocks] == counts
    for each in blocks:
        assert each.alone is None or each.scores[each.alone] == max(each.scores)
        assert all(less <= score for less, score in zip(each.priced, each.scores, strict=True))
    assert bool(space.image_sizes) == (decisions[-1].name == "size")
    assert decisions[-1].name != "size" or decisions[-1].made == arch[-1]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SPACES)
def test_bars_are_the_scores_and_chosen_ones_are_dark(name):
    choices, _ = priced(SPACES[name])
    figure = generator_lessons.choice_scores(choices)
    check_readable(figure)
    heights = [bar.get_height() for axis in figure.axes[::2] for bar in axis.patches]
    assert np.allclose(heights, [score for each in choices.decisions for score in each.scores])
    dark = [
        bar.get_facecolor() == matplotlib.colors.to_rgba(generator_lessons.DARK)
        for axis in figure.axes[1::2]
        for bar in axis.patches
    ]
    expected = [place == each.made for each in choices.decisions for place in range(len(each.scores))]
    assert dark == expected and sum(dark) > 0
    changed = sum(each.alone != each.made for each in choices.decisions)
    told = f"The budget changes {changed} of the {len(choices.decisions)} decisions that scores alone would make"
    assert figure.axes[0].get_title("left") == told


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("share", (0.0, 0.4, 1.0))
@pytest.mark.parametrize("name", SPACES)
def test_the_curve_shows_budget_price_and_arch(name, share):
    choices, _ = priced(SPACES[name], share)
    figure = generator_lessons.cost_over_price(choices)
    check_readable(figure)
    curve, budget, dot, star = figure.axes[0].lines
    assert budget.get_ydata()[0] == choices.budget / 1e6 and star.get_ydata()[0] == choices.spent / 1e6
    assert dot.get_ydata()[0] == choices.madds[choices.at] / 1e6 <= choices.budget / 1e6
    low, high = figure.axes[0].get_xlim()
    assert low <= dot.get_xdata()[0] <= high and curve.get_ydata()[-1] == choices.madds[-1] / 1e6
    assert ("Without any price" in figure.axes[0].get_title("left")) == (choices.at == 0)


# -------------------------------------------------------------------- gates


def watch(space, steps=4):
    """A short training of a generator on an untrained supernet; what was watched, and the generator as it was."""
    supernet, labels = lively(space, 12), torch.arange(24) % 12
    torch.manual_seed(0)
    low, high = (space.madds(arch, 12).double() for arch in (space.smallest, space.largest))
    generator = Generator(space, 12, torch.stack([low, high]))
    class_mask = torch.arange(12) < CLASSES
    watched = generator_lessons.WatchedScenario(generator, class_mask, float(low + 0.7 * (high - low)))
    before = watched.of(generator)
    recipe = load_study("tiny", figures.__file__.rpartition("/pipeline/")[0]).training
    signal = GateSignal(supernet, Split(random_bytes(24, space), labels), 4, recipe, seeded())
    train_generator(generator, signal, watched, GeneratorTraining(steps=steps, scenarios=1, learning_rate=0.02), seed=0)
    return watched, before


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ("small", "sized", "sized mobilenet", "lite"))
def test_gates_are_noted_before_every_step_and_drawn(name):
    space = SPACES[name]
    watched, before = watch(space)
    assert len(watched.gates) == 4
    assert all(map(torch.equal, watched.gates[0], before)) and not torch.equal(watched.gates[-1][0], before[0])
    assert not any(each.requires_grad for gates in watched.gates for each in gates)
    figure = generator_lessons.gates_opening(watched, watched.generator)
    check_readable(figure)
    rows = len(space.block_names()) + bool(space.image_sizes)
    shares = figure.axes[0].images[0].get_array()
    assert shares.shape == (rows, 4) and shares.min() >= 0 and shares.max() <= 1
    assert figure.axes[1].images[0].get_array().shape == (rows, 1)
    assert np.allclose(figure.axes[2].lines[0].get_ydata(), [watched.madds(each) for each in watched.gates])
    assert figure.axes[0].get_title("left").startswith("The gates ")


@pytest.mark.parametrize("name", ("small", "sized mobilenet", "lite"))
def test_hard_gates_are_open_by_their_archs_own_sizes_and_cost_what_it_costs(name):
    space = SPACES[name]
    watched, _ = watch(space, 1)
    for arch in (space.largest, space.smallest, *space.sample(3, seeded())):
        gates = space.gates(arch)
        blocks = figures.block_sizes(arch, space).nan_to_num() / figures.full_sizes(space)
        assert torch.allclose(generator_lessons.open_shares(space, gates)[: len(blocks)], blocks)
        assert np.isclose(watched.madds(gates), space.madds(arch, CLASSES) / 1e6)
