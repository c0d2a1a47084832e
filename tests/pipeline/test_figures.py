"""Figures on made-up results of two hierarchies: everything is drawn, labelled and without warnings."""

import inspect
from itertools import product

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from cases import LITE, seeded
from report_cases import SPACE, OtherSpace, make_comparison, make_records

from eas import data
from pipeline.methods import METHODS, OFAS_WAY
from pipeline.report import comparison_figures, figures, preferences, stats, supernet_figures

matplotlib.use("Agg")  # before any figure: no window
plt = figures.plt

PARTS = {"selection": 0.1, "calibration": 0.1, "seed": 0}
HIERARCHIES = {
    "glyphs": data.Glyphs(kind="glyphs", image_size=16, **PARTS).hierarchy(),
    "cifar100": data.Cifar100(kind="cifar100", image_size=32, **PARTS).hierarchy(),
}
ARCHS = SPACE.sample(20, torch.Generator().manual_seed(0))
BEGINS = {"own-0.9-from-0.8": 0.8, "own-0.5": 0.0}


def make_dataset(study):
    hierarchy, rng = HIERARCHIES[study], torch.Generator().manual_seed(0)
    labels = torch.arange(len(hierarchy.classes)).repeat_interleave(6)
    channels, side = {"glyphs": (1, 16), "cifar100": (3, 32)}[study]
    shade = torch.randint(256, (len(labels), channels, side, side), generator=rng, dtype=torch.uint8)
    split = data.Split(shade, labels)
    return data.Dataset(hierarchy, split, split, split, split, mean=(0.5,) * channels, std=(0.5,) * channels)


def make_swap(study):
    rng, names = np.random.default_rng(0), HIERARCHIES[study].superclasses
    rows = [
        ("dropout", s, b, a, u, 80 - (a != u) + rng.normal()) for s, b, a, u in product((0, 1), (1, 2), names, names)
    ]
    return pd.DataFrame(rows, columns=["supernet", "seed", "budget_madds", "arch_of", "used_for", "top1"])


def make_fits():
    """Records of the generators' training: two signals' losses in one, the third in another."""
    decay = lambda steps, noise: list(np.exp(-np.arange(steps) / 100) + noise)  # noqa: E731
    fits = [
        {"supernet": n, "seed": s, "loss_generator": decay(600, s), "loss_generator_blind": decay(600, s)}
        for n in ("dropout", "plain")
        for s in (0, 1)
    ]
    return fits + [{"supernet": n, "seed": 0, "loss_generator_gates": decay(60, 1)} for n in ("dropout", "plain")]


def make_halves():
    rng = torch.Generator().manual_seed(0)
    labels, parent = torch.arange(2000) % 100, torch.arange(100) // 10
    own = torch.rand(100, 2000, generator=rng) < torch.linspace(0.5, 0.8, 100)[:, None]
    return preferences.half_accuracy(own, labels, parent, repeats=1)[0]


def make_timing():
    seconds = {"generator": 2e-4, "uniform": 1e-3, "evolution": 0.02, "ofa_evolution": 0.8, "random": 30.0}
    return pd.DataFrame({"method": seconds.keys(), "scenarios": 50, "seconds_per_scenario": seconds.values()})


def draw(name, study="glyphs"):
    """The figure of one function for one study."""
    names, dataset = HIERARCHIES[study].superclasses, make_dataset(study)
    space = SPACE if study == "glyphs" else OtherSpace()
    archs = ARCHS if study == "glyphs" else space.sample(20, torch.Generator().manual_seed(0))
    rows = pd.DataFrame({"method": ["generator", "ofa_evolution", "uniform"], "top1": [81.2, 80.7, 78.0], "madds": 2e6})
    arguments = {
        "contact_sheet": lambda: (dataset.train.images, dataset.train.labels, dataset.hierarchy),
        "predictions": lambda: (dataset.test.images[:14], ["A"] * 14, ["A", "ofa_B"] * 7),
        "class_counts": lambda: (dataset,),
        "learning_curves": lambda: (make_records(), BEGINS),
        "subnet_accuracy": lambda: (make_records(),),
        "dropout_effect": lambda: (make_records(),),
        "generator_losses": lambda: (make_fits(),),
        "generated_archs": lambda: (archs[: len(names)], names, space),
        "draw_arch": lambda: (space, archs[1], 10),
        "headline": lambda: (make_comparison(names), "A claim"),
        "points_over_budget": lambda: (make_comparison(names),),
        "heat_map": lambda: (make_comparison(names),),
        "branch_gain": lambda: (make_comparison(names),),
        "expected_accuracy": lambda: (
            pd.DataFrame({"kind": ["superclass", "all"], "expected": [80.0, 50.0], "measured": [78.0, 51.0]}),
        ),
        "points_by_kind": lambda: (make_comparison(names),),
        "search_time": lambda: (make_timing(),),
        "step_shares": lambda: ({"convolutions, backward": 38.0, "batch norm": 30.0, "rest": 28.0, "copies": 4.0},),
        "split_half_scatter": lambda: (make_halves(),),
        "swap_matrix": lambda: (make_swap(study),),
        "specialized_comparison": lambda: (rows,),
    }
    return FUNCTIONS[name](*arguments[name]())


FUNCTIONS = {
    name: function
    for module in (figures, supernet_figures, comparison_figures)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__annotations__.get("return") == "Figure"
}


@pytest.fixture(autouse=True)
def clean():
    figures.style()
    yield
    plt.close("all")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("study", HIERARCHIES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_figure_draws_and_is_labelled(name, study):
    figure = draw(name, study)
    figure.canvas.draw()
    assert figure.get_figwidth() == figures.WIDTH
    assert not figure._suptitle or figure._suptitle.get_window_extent().x1 <= figure.bbox.x1
    if name not in ("contact_sheet", "predictions"):  # pictures with captions: nothing to measure
        assert figure.axes[0].get_ylabel() or figure.axes[0].get_yticklabels()
        assert all(axis.get_xlabel() or axis.get_title() or axis.get_ylabel() for axis in figure.axes)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_short(name):
    assert len(inspect.getsource(FUNCTIONS[name]).splitlines()) <= 25


def test_same_input_same_pixels():
    first, second = (draw("points_over_budget") for _ in range(2))
    for figure in (first, second):
        figure.canvas.draw()
    assert np.array_equal(first.canvas.buffer_rgba(), second.canvas.buffer_rgba())


# -------------------------------------------------------------------- names and looks


def test_methods_look_as_the_registry_says_whatever_else_is_shown():
    looks = figures.method_looks(["unheard of", "random", "generator"])
    assert list(looks) == ["generator", "random", "unheard of"]
    assert looks["random"]["color"] == METHODS["random"].color and looks["random"]["marker"] == METHODS["random"].marker
    assert looks["random"] == figures.method_looks(["random"])["random"]


def test_names_are_written_for_readers():
    assert figures.label("ofa_evolution") == "OFA's search, blind"
    assert figures.label("sweet_pepper") == "sweet pepper" and figures.label("ofa_finder") == "OFA finder"


# -------------------------------------------------------------------- supernets: no mean mixes numbers of seeds


def test_settings_stand_beside_each_other_on_the_seeds_that_all_have():
    figure = supernet_figures.subnet_accuracy(make_records())
    assert "seed 0 only" in figure.legends[0].get_title().get_text()
    points = [container[0] for container in figure.axes[0].containers]
    assert len(points) == 5 and {line.get_markerfacecolor() for line in points} == {"white"}
    both = supernet_figures.subnet_accuracy(make_records(), "own-0.5")
    assert "3 seeds, bars: 95 % interval" in both.legends[0].get_title().get_text()
    assert len(both.axes[0].containers) == 2
    several = supernet_figures.subnet_accuracy(
        [r for r in make_records() if r["dropout"] in ("none", "own-0.5", "sample-0.5")]
    )
    assert "3 seeds" in several.legends[0].get_title().get_text() and len(several.axes[0].containers) == 3


def test_archs_of_equal_cost_have_columns_of_their_own():
    records = make_records()
    for record in records:
        record["accuracy"][1]["madds"] = record["accuracy"][2]["madds"]
    assert len(supernet_figures.subnet_accuracy(records).axes[0].get_xticks()) == 6


def test_seeds_that_some_settings_lack_are_hollow_and_in_no_mean():
    figure = supernet_figures.dropout_effect(make_records())
    points = {collection.get_label(): collection for collection in figure.axes[0].collections}
    assert set(points) == {"seed 0", "seed 1 (not of all settings)", "seed 2 (not of all settings)"}
    assert (points["seed 1 (not of all settings)"].get_facecolor()[:, :3] == 1).all()
    assert (points["seed 0"].get_facecolor()[:, :3] != 1).any()
    complete = [r for r in make_records() if r["dropout"] in ("none", "own-0.5", "sample-0.5")]
    table = stats.dropout_means(complete).set_index(["dropout", "subnet"]).top1
    mean = supernet_figures.dropout_effect(complete).axes[0].collections[0]
    assert mean.get_label() == "their mean"
    assert np.allclose(mean.get_offsets()[:, 1], table[:, "largest"][["none", "own-0.5", "sample-0.5"]])
    spans = [np.ptp(axis.get_ylim()) for axis in figure.axes]
    assert np.allclose(spans, spans[0])


def test_learning_curves_mark_a_late_beginning_and_compare_over_all_classes():
    figure = supernet_figures.learning_curves(make_records(), BEGINS)
    assert "seed 0 only" in figure.legends[0].get_title().get_text() and len(figure.axes) == 3
    for axis, name in zip(figure.axes, supernet_figures.CURVES, strict=True):
        (mark,) = [line for line in axis.lines if len(line.get_xdata()) == 2]
        assert mark.get_xdata()[0] == 8  # of ten epochs
        shown = {line.get_label(): line.get_ydata() for line in axis.lines if line is not mark}
        for record in (record for record in make_records() if record["seed"] == 0):
            assert np.allclose(shown[record["dropout"]], [epoch[name] for epoch in record["history"]])


def test_learning_curves_say_what_ends_best():
    histories = {"none": [(9.0, 1.0, 1.0), (2.0, 60.0, 50.0)], "own-0.5": [(1.0, 99.0, 99.0), (3.0, 62.0, 49.0)]}
    records = [
        {"dropout": name, "seed": 0}
        | {
            "history": [
                {"epoch": e + 1} | dict(zip(supernet_figures.CURVES, row, strict=True)) for e, row in enumerate(rows)
            ]
        }
        for name, rows in histories.items()
    ]
    sentence = supernet_figures.learning_curves(records, {}).get_suptitle()
    assert sentence == "Lowest loss over all classes at the end: none; most top-1: own-0.5"


def test_learning_curves_of_old_records_are_told_not_to_compare():
    records = [
        record | {"history": [{name: epoch[name] for name in ("epoch", "loss")} for epoch in record["history"]]}
        for record in make_records()
    ]
    figure = supernet_figures.learning_curves(records, BEGINS)
    assert "heights do not" in figure.get_suptitle() and figure.axes[0].get_title() == "training loss"


# -------------------------------------------------------------------- archs


def test_draw_arch_shows_forms_and_cost():
    axis = figures.draw_arch(SPACE, SPACE.smallest, 10).axes[0]
    cost = f"{SPACE.madds(SPACE.smallest, 10).item() / 1e6:.2f} M MAdds, classifier of 10 classes"
    assert cost in axis.get_title("left")
    texts = [text.get_text() for text in axis.texts]
    assert [text for text in texts if text.isdigit()] == ["2", "4", "8"] and "stage 1\n16 x 16 px" in texts


def test_another_search_space_is_drawn_by_its_forms():
    space = OtherSpace()
    arch = torch.tensor([0, 1, 2, 0, 3, 1])
    assert figures.block_forms(arch, space) == ["5, x3", "", "5, x6", "3, x6"]
    texts = [text.get_text() for text in figures.draw_arch(space, arch).axes[0].texts]
    assert {"5\nx3", "5\nx6", "3\nx6", "first", "second"} <= set(texts)


def test_blocks_that_a_stage_never_has_are_not_drawn():
    axis = figures.draw_arch(LITE, LITE.smallest, 10).axes[0]
    names = [
        f"{stage}.{block + 1}" for stage, count in enumerate((2, 2, 3, 3, 4, 1), start=1) for block in range(count)
    ]
    assert [label.get_text() for label in axis.get_xticklabels()] == names == LITE.block_names()
    texts = [text.get_text() for text in axis.texts]
    assert (texts.count("3x3\n2"), texts.count("")) == (9, 6)
    middles = [text.get_position()[0] for text in axis.texts if text.get_text().startswith("stage")]
    assert middles == [0.5, 2.5, 5, 8, 11.5, 14]
    axis = figures.generated_archs(LITE.sample(3, seeded()), ["a", "b", "c"], LITE).axes[0]
    assert [line.get_xdata()[0] for line in axis.lines] == [2, 4, 7, 10, 14]
    assert axis.collections[0].get_array().reshape(3, -1).shape == (3, 15)


def test_block_sizes():
    archs = torch.stack([SPACE.smallest, SPACE.largest])
    sizes = figures.block_sizes(archs, SPACE)
    assert sizes.isnan().tolist() == [([False] + [True] * 3) * 3, [False] * 12]
    assert sizes[1].tolist() == [0.25] * 4 + [0.5] * 4 + [1.0] * 4 and sizes[0, 0] == 2 / 32


def test_generated_archs_leave_absent_blocks_blank():
    drawn = draw("generated_archs").axes[0].collections[0].get_array().reshape(10, 12)
    assert np.array_equal(~np.ma.getmaskarray(drawn), SPACE.active(ARCHS[:10]).numpy())


def test_a_wrong_answer_is_red_and_below():
    axes = draw("predictions").axes
    assert [axis.get_xlabel() for axis in axes[:2]] == ["", "OFA B"] and axes[1].get_title() == "A"
    assert axes[1].xaxis.label.get_color() == figures.WRONG


# -------------------------------------------------------------------- comparison


def test_points_over_budget_show_every_method_in_shared_panels():
    comparison = make_comparison(HIERARCHIES["glyphs"].superclasses)
    new = comparison[(comparison.method == "uniform") & (comparison.supernet == "plain")].assign(method="new_idea")
    figure = comparison_figures.points_over_budget(pd.concat([comparison, new]), "union")
    left, right = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["supernet dropout", "supernet plain"]
    assert left.get_ylim() == right.get_ylim() and "union" in left.get_ylabel()
    shown = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"generator", "OFA's search, blind", "new idea"} <= shown  # the last one is only in the right panel
    assert not any("alone" in text for text in shown)  # they serve one budget
    assert "generator with composed branches" in shown and "generator with branches" not in shown
    assert figure.legends[0].get_title().get_text().endswith("over seeds, of generator; OFA's search, blind")


def test_points_over_budget_leave_out_what_was_measured_on_some_of_the_seeds():
    comparison = make_comparison(HIERARCHIES["glyphs"].superclasses)
    few = comparison[(comparison.method != "evolution") | (comparison.seed == 0)]
    some, everything = (
        {text.get_text() for text in comparison_figures.points_over_budget(table).legends[0].get_texts()}
        for table in (few, comparison)
    )
    assert everything - some == {METHODS["evolution"].label}


def test_the_headline_holds_a_few_methods_against_ofas_way():
    comparison = make_comparison(HIERARCHIES["glyphs"].superclasses)
    axis = comparison_figures.headline(comparison, "A claim").axes[0]
    assert axis.get_title("left") == "A claim"
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names == ["OFA's way", *comparison_figures.HEADLINE.values()]
    means = [line.get_xdata()[0] for line in axis.lines if len(line.get_xdata()) == 1]
    rows = comparison[comparison.kind == "superclass"]
    sides = [stats.side_of(rows, method) for method in comparison_figures.HEADLINE]
    expected = [stats.paired_difference(rows, side, OFAS_WAY).mean for side in sides]
    assert np.allclose(sorted(means), sorted([0, *expected]))
    without = comparison[~comparison.method.isin(["generator_gates", "generator_composed", "ofa_finetuned"])]
    names = [text.get_text() for text in comparison_figures.headline(without, "A claim").axes[0].get_yticklabels()]
    assert names == ["OFA's way", "EAS, our version,\nno branches", "EAS with branches,\neach for one superclass"]


def test_the_headline_leaves_out_what_was_measured_on_some_seeds():
    comparison = make_comparison(HIERARCHIES["glyphs"].superclasses)
    few = comparison[(comparison.method != "ofa_finetuned") | (comparison.seed == 0)]
    axis = comparison_figures.headline(few, "A claim").axes[0]
    assert not any("tuned" in text.get_text() for text in axis.get_yticklabels())
    one_seed = comparison_figures.headline(comparison[comparison.seed == 1], "A claim").axes[0]
    assert "seed 1 only" in one_seed.get_xlabel()
    with pytest.raises(ValueError, match="OFA's way"):
        comparison_figures.headline(comparison[comparison.supernet == "dropout"], "A claim")


def test_heat_map_is_superclass_by_budget_the_easiest_first():
    axis = draw("heat_map", "cifar100").axes[0]
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert sorted(names) == sorted(HIERARCHIES["cifar100"].superclasses)
    drawn = axis.collections[0].get_array().reshape(20, 5).mean(1)
    assert (np.diff(drawn) <= 0).all()
    assert [text.get_text() for text in axis.get_xticklabels()] == ["15", "20", "25", "30", "35"]


def test_search_time_states_ratios():
    axis = draw("search_time").axes[0]
    assert axis.get_xscale() == "log"
    assert [text.get_text() for text in axis.texts] == ["× 1", "× 5", "× 100", "× 4,000", "× 150,000"]


def test_swap_matrix_loses_nothing_on_its_diagonal_and_is_white_there():
    axis = draw("swap_matrix").axes[0]
    mesh = axis.collections[0]
    drawn = mesh.get_array().reshape(10, 10)
    assert np.abs(np.diag(drawn)).max() == 0 and drawn.mean() > 0.5
    assert mesh.norm.vmin == -mesh.norm.vmax and f"{preferences.swap_cost(make_swap('glyphs'))['mean'][0]:+.2f}" in (
        axis.get_title()
    )


def test_split_half_says_that_it_shows_one_split():
    assert all("one split of one seed" in axis.get_title() for axis in draw("split_half_scatter").axes)
