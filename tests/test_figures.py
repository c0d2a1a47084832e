"""eas.figures on made-up results of both studies: everything is drawn, labelled and without warnings."""

import inspect
from itertools import product

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

from eas import analysis, data, figures
from eas.space import SearchSpace

matplotlib.use("Agg")  # before any figure: no window
plt = figures.plt

STUDIES = ("glyphs", "cifar100")
SPACE = SearchSpace(16, 1, widths=(8, 16, 32), depths=(1, 2, 3, 4), ratios=(0.25, 0.5, 0.75, 1.0))
ARCHS = SPACE.sample(20, torch.Generator().manual_seed(0))


def make_comparison(study, seeds=3):
    """comparison.csv with every method, in which the generator is good and fast."""
    rng, names = np.random.default_rng(0), data.hierarchy(study).superclasses
    scenarios = [*names, f"{names[0]}+{names[1]}", f"{names[1]}+{names[2]}+{names[3]}"]
    hard = dict(zip(scenarios, rng.normal(0, 8, len(scenarios)), strict=True))
    methods = [m for m in figures.METHODS if m not in analysis.OTHER_WEIGHTS]
    every = [(m, s) for m in methods for s in ("eas", "ofa")] + [("generator_branch", "eas"), ("new_idea", "ofa")]
    rows = []
    for (method, supernet), seed, budget, name in product(every, range(seeds), range(5), scenarios):
        if method == "generator_branch" and "+" in name:
            continue
        noise = rng.normal(0, 0.5) + seed / 2
        top1 = 70 + budget + hard[name] - 0.3 * list(figures.looks([method], figures.METHODS)).index(method) + noise
        seconds = 2e-4 if "generator" in method else 10.0 ** rng.uniform(-2, 2)
        madds = int((15 + 5 * budget) * 1e6)
        rows.append((method, supernet, seed, name, madds, madds * rng.uniform(0.9, 1), top1, seconds))
    columns = ["method", "supernet", "seed", "scenario", "budget_madds", "madds", "top1", "search_seconds"]
    return pd.DataFrame(rows, columns=columns)


def make_records():
    """Records of supernets with four settings; the last one has a single seed."""
    rng, records = np.random.default_rng(0), []
    for setting, seed in [*product(("none", "own-0.5", "sample-0.5"), range(3)), ("batch-0.1", 0)]:
        loss = 3 * np.exp(-np.arange(12) / 4) + 1 + rng.normal(0, 0.03, 12)
        history = [{"epoch": e + 1, "loss": value} for e, value in enumerate(loss)]
        subnets = [
            ("largest", 4.1e6, 75),
            *(("random", m * 1e6, 70 + m) for m in (1.0, 1.8, 2.2, 3.1)),
            ("smallest", 4e5, 66),
        ]
        accuracy = [(name, int(madds), top1 + rng.normal(0, 0.4)) for name, madds, top1 in subnets]
        named = [{"subnet": n, "madds": m, "top1": t, "flat_top1": t - 20} for n, m, t in accuracy]
        records.append({"setting": setting, "seed": seed, "history": history, "accuracy": named})
    return records


def make_dataset(study):
    hierarchy, rng = data.hierarchy(study), torch.Generator().manual_seed(0)
    labels = torch.arange(len(hierarchy.classes)).repeat_interleave(6)
    channels, side = {"glyphs": (1, 16), "cifar100": (3, 32)}[study]
    shade = torch.randint(256, (len(labels), channels, side, side), generator=rng, dtype=torch.uint8)
    split = data.Split(shade, labels)
    return data.Dataset(hierarchy, split, split, split, split, mean=(0.5,), std=(0.5,))


def make_swap(study):
    rng, names = np.random.default_rng(0), data.hierarchy(study).superclasses
    rows = [("eas", s, b, a, u, 80 - (a != u) + rng.normal()) for s, b, a, u in product((0, 1), (1, 2), names, names)]
    return pd.DataFrame(rows, columns=["supernet", "seed", "budget_madds", "arch_of", "used_for", "top1"])


def make_fits():
    """Records of the generators' training: two signals' losses in one, the third in another."""
    decay = lambda steps, noise: list(np.exp(-np.arange(steps) / 100) + noise)  # noqa: E731
    fits = [
        {"supernet": n, "seed": s, "loss_model": decay(600, s), "loss_blind": decay(600, s)}
        for n in ("eas", "ofa")
        for s in (0, 1)
    ]
    return fits + [{"supernet": n, "seed": 0, "loss_gates": decay(60, 1)} for n in ("eas", "ofa")]


def make_halves():
    rng = torch.Generator().manual_seed(0)
    labels, parent = torch.arange(2000) % 100, torch.arange(100) // 10
    own = torch.rand(100, 2000, generator=rng) < torch.linspace(0.5, 0.8, 100)[:, None]
    return analysis.half_accuracy(own, labels, parent, repeats=1)[0]


def timing():
    seconds = {"generator": 2e-4, "uniform": 1e-3, "evolution": 0.02, "ofa_evolution": 0.8, "random": 30.0}
    return pd.DataFrame({"method": seconds.keys(), "scenarios": 50, "seconds_per_scenario": seconds.values()})


def draw(name, study):
    """The figure of one function for one study."""
    names, dataset = data.hierarchy(study).superclasses, make_dataset(study)
    rows = pd.DataFrame({"method": ["generator", "ofa_evolution", "uniform"], "top1": [81.2, 80.7, 78.0], "madds": 2e6})
    arguments = {
        "contact_sheet": lambda: (dataset.train.images, dataset.train.labels, dataset.hierarchy),
        "predictions": lambda: (dataset.test.images[:14], ["A"] * 14, ["A", "ofa_B"] * 7),
        "class_counts": lambda: (dataset,),
        "learning_curves": lambda: (make_records(),),
        "subnet_accuracy": lambda: (make_records(),),
        "dropout_effect": lambda: (make_records(),),
        "generator_losses": lambda: (make_fits(),),
        "generated_archs": lambda: (ARCHS[: len(names)], names, SPACE),
        "draw_arch": lambda: (SPACE, ARCHS[1], 10),
        "accuracy_over_madds": lambda: (make_comparison(study),),
        "heat_map": lambda: (make_comparison(study),),
        "branch_gain": lambda: (make_comparison(study),),
        "search_time": lambda: (timing() if study == "glyphs" else make_comparison(study),),
        "step_shares": lambda: ({"convolutions, backward": 38.0, "batch norm": 30.0, "rest": 28.0, "copies": 4.0},),
        "split_half_scatter": lambda: (make_halves(),),
        "swap_matrix": lambda: (make_swap(study),),
        "specialized_comparison": lambda: (rows,),
    }
    return getattr(figures, name)(*arguments[name]())


EVERY = [n for n, f in inspect.getmembers(figures, inspect.isfunction) if f.__annotations__.get("return") == "Figure"]


@pytest.fixture(autouse=True)
def clean():
    figures.style()
    yield
    plt.close("all")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("name", EVERY)
def test_every_figure_draws_and_is_labelled(name, study):
    figure = draw(name, study)
    figure.canvas.draw()
    assert figure.get_figwidth() == figures.WIDTH
    if name not in ("contact_sheet", "predictions"):  # pictures with captions: nothing to measure
        assert figure.axes[0].get_ylabel() or figure.axes[0].get_yticklabels()
        assert all(axis.get_xlabel() or axis.get_title() or axis.get_ylabel() for axis in figure.axes)


@pytest.mark.parametrize("name", EVERY)
def test_functions_are_short(name):
    assert len(inspect.getsource(getattr(figures, name)).splitlines()) <= 25


def test_same_input_same_pixels():
    first, second = (draw("accuracy_over_madds", "glyphs") for _ in range(2))
    for figure in (first, second):
        figure.canvas.draw()
    assert np.array_equal(first.canvas.buffer_rgba(), second.canvas.buffer_rgba())


def test_accuracy_over_madds_shows_every_method_in_shared_panels():
    figure = figures.accuracy_over_madds(make_comparison("glyphs"), "union")
    left, right = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["supernet eas", "supernet ofa"]
    assert left.get_ylim() == right.get_ylim() and "union" in left.get_ylabel()
    shown = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"generator", "OFA evolution", "new idea"} <= shown  # the last one is only in the right panel
    assert "generator branch" not in shown  # it serves no unions
    assert figure.legends[0].get_title().get_text().endswith("over seeds, of generator, OFA evolution")


def test_accuracy_over_madds_leaves_out_what_was_measured_on_some_of_the_seeds():
    comparison = make_comparison("glyphs")
    few = comparison[(comparison.method != "evolution") | (comparison.seed == 0)]
    shown = {text.get_text() for text in figures.accuracy_over_madds(few).legends[0].get_texts()}
    every = {text.get_text() for text in figures.accuracy_over_madds(comparison).legends[0].get_texts()}
    assert every - shown == {"evolution"}


def test_methods_look_the_same_whatever_else_is_shown():
    every = figures.looks(["random", "unheard of"], figures.METHODS)
    assert every["random"] == figures.looks(["random"], figures.METHODS)["random"]
    shapes = [(look["marker"], look["linestyle"]) for look in every.values()]
    assert len(set(shapes)) == len(shapes)  # told apart without colour


def test_heat_map_is_superclass_by_budget():
    axis = draw("heat_map", "cifar100").axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == list(data.hierarchy("cifar100").superclasses)
    assert [text.get_text() for text in axis.get_xticklabels()] == ["15", "20", "25", "30", "35"]


def test_search_time_states_ratios():
    axis = draw("search_time", "glyphs").axes[0]
    assert axis.get_xscale() == "log"
    assert [text.get_text() for text in axis.texts] == ["× 1", "× 5", "× 100", "× 4,000", "× 150,000"]


def test_draw_arch_shows_channels_and_cost():
    axis = figures.draw_arch(SPACE, SPACE.smallest, 10).axes[0]
    assert f"{SPACE.madds(SPACE.smallest, 10).item() / 1e6:.2f} M MAdds, classifier of 10 classes" in axis.get_title(
        "left"
    )
    assert [text.get_text() for text in axis.texts if text.get_text().isdigit()] == ["2", "4", "8"]


def test_swap_matrix_loses_nothing_on_its_diagonal():
    drawn = draw("swap_matrix", "glyphs").axes[0].collections[0].get_array().reshape(10, 10)
    assert np.abs(np.diag(drawn)).max() == 0 and drawn.mean() > 0.5


def test_generated_archs_leave_absent_blocks_blank():
    drawn = draw("generated_archs", "glyphs").axes[0].collections[0].get_array().reshape(10, 12)
    assert np.array_equal(~np.ma.getmaskarray(drawn), SPACE.active(ARCHS[:10]).numpy())
