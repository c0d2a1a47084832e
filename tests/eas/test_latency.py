"""Latency as a cost: fitted on measured archs, kept in a file, and a bound like any other."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from cases import CIFAR100, GLYPHS, LITE, SIZED, SIZED_MOBILENET, random_class_masks, seeded
from tiny_kit import make_kit, run, write_tiny_kit

from eas import export_onnx
from eas.costs import PARAMETERS, Bound, total
from eas.files import read_json
from eas.serving import deploy, latency
from eas.serving.latency import (
    RUNTIMES,
    LatencyTable,
    Measured,
    fit_latency,
    latency_table,
    load_latency,
    measure,
    outputs_of,
    save_latency,
    spread_archs,
    steady,
    terms,
)

SPACES = {"glyphs": GLYPHS, "cifar100": CIFAR100, "lite": LITE, "sized": SIZED, "sized mobilenet": SIZED_MOBILENET}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Tables are kept here, not where the user's are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made_up(space, count=60, noise=0.01):
    """Archs and seconds [rounds, archs] of a machine that the model describes, whose speed changes from round to
    round; and the seconds that are meant.
    """
    archs, rng = spread_archs(space, count), np.random.default_rng(1)
    x = terms(space, archs, outputs_of(archs))
    truth = x @ (rng.uniform(0.2, 1, x.shape[1]) / np.maximum(x.mean(0), 1e-9)) * 1e-4
    speed = rng.uniform(0.95, 1.05, (15, 1))
    return archs, truth * speed * rng.uniform(1 - noise, 1 + noise, (15, count)), truth


def made_up_table(space):
    archs, seconds, _ = made_up(space)
    return fit_latency(Measured.here(space), space, archs, seconds)


# -------------------------------------------------------------------- the model


@pytest.mark.parametrize("space", SPACES)
def test_what_a_machine_takes_is_found_from_sixty_archs(space):
    space = SPACES[space]
    archs, seconds, truth = made_up(space)
    table = fit_latency(Measured.here(space), space, archs, seconds)
    assert table.error < 0.02 and table.correlation > 0.98 and table.archs == 60
    told = table.seconds(space, archs, outputs_of(archs)).numpy()
    assert np.abs(told / truth - 1).mean() < 0.02
    assert 0.93 < (seconds <= told * (1 + table.margin)).mean() < 0.97  # a bound holds for nearly every run
    others = space.sample(300, seeded(9))
    assert (table.seconds(space, others, 10) > 0).all()


def test_what_outputs_take_is_told_apart_from_what_every_network_does():
    archs, rng = spread_archs(LITE, 60), np.random.default_rng(0)
    x = terms(LITE, archs, outputs_of(archs))
    numbers = np.r_[1e-3, 0, np.full(x.shape[1] - 2, 1e-3 / x[:, 2:].sum(1).mean())]
    table = fit_latency(Measured.here(LITE), LITE, archs, x @ numbers * rng.uniform(0.99, 1.01, (15, 60)))
    many = torch.full((60,), 1000)
    told = table.seconds(LITE, archs, many).numpy()
    np.testing.assert_allclose(told, terms(LITE, archs, many) @ numbers, rtol=0.03)


@pytest.mark.parametrize("space", SPACES)
def test_a_table_is_a_cost_of_blocks(space):
    space = SPACES[space]
    table, archs = made_up_table(space), space.sample(50, seeded(3))
    numbers = np.r_[table.start, table.fixed_madds, table.first_madds, table.later_madds, table.block]
    for classes in (1, 7):
        expected = terms(space, archs, torch.full((50,), classes)) @ numbers * (1 + table.margin)
        np.testing.assert_allclose(total(space, table, archs, classes), expected, rtol=1e-12)
    for one in space.sized:
        of_blocks = table.of_blocks(one)
        least = of_blocks.where(one.exists[1], of_blocks[:, :1]) >= of_blocks[:, :1]
        assert least.all() and (of_blocks[~one.in_stage] == 0).all()


def test_numbers_are_never_negative_however_odd_the_measurements():
    archs, rng = spread_archs(GLYPHS, 60), np.random.default_rng(0)
    seconds = rng.uniform(1e-4, 1e-3, (5, 60))  # noise alone
    table = fit_latency(Measured.here(GLYPHS), GLYPHS, archs, seconds)
    assert table.error > 0.2 and table.margin > 0.3  # which is told
    in_sample = table.seconds(GLYPHS, archs, outputs_of(archs)).numpy() / steady(seconds) - 1
    assert table.error > 1.03 * np.abs(in_sample).mean()  # of archs that it was not fitted on
    assert min(table.start, table.fixed_madds, *table.first_madds, *table.later_madds, *table.block) >= 0


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_networks_are_measured(runtime):
    archs, before = torch.stack([SIZED.smallest, SIZED.largest]), torch.get_num_threads()
    seconds = measure(SIZED, archs, runtime, 1)
    assert seconds.shape == (latency.ROUNDS, 2) and (seconds > 0).all() and torch.get_num_threads() == before
    assert np.median(seconds[:, 0]) < np.median(seconds[:, 1])


# -------------------------------------------------------------------- files


def test_a_table_is_measured_once_for_a_machine(monkeypatch, cache):
    monkeypatch.setattr(latency, "ARCHS", 12)
    table = latency_table(GLYPHS)
    assert table.processor == latency.processor() and table.archs == 12
    assert [table.path()] == list(cache.rglob("*.json"))

    def fail(*arguments):
        raise AssertionError("measured again")

    with monkeypatch.context() as patch:
        patch.setattr(latency, "measure", fail)
        assert latency_table(GLYPHS) == table
        for other in ({"again": True}, {"runtime": "torch"}):
            with pytest.raises(AssertionError, match="measured again"):
                latency_table(GLYPHS, **other)
        with pytest.raises(AssertionError, match="measured again"):
            latency_table(CIFAR100)
    table.path().write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="is damaged, or not a table of latencies"):
        latency_table(GLYPHS)
    assert latency_table(GLYPHS, again=True).processor == table.processor


def test_a_table_that_cannot_be_kept_is_there_nevertheless(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(latency, "ARCHS", 12)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file" / "cache"))
    (tmp_path / "a file").touch()
    assert latency_table(GLYPHS).archs == 12
    assert "measured, and not kept for the next time: " in capsys.readouterr().out


def test_a_table_goes_to_another_machine_but_not_to_another_space(tmp_path):
    table = made_up_table(GLYPHS)
    save_latency(table, tmp_path / "there.json")
    assert load_latency(tmp_path / "there.json", GLYPHS) == table
    other = dataclasses.replace(GLYPHS, ratios=(0.5, 1.0))
    with pytest.raises(ValueError, match="there.json was measured on networks of another space"):
        load_latency(tmp_path / "there.json", other)
    with pytest.raises(ValueError, match="there.json is damaged"):
        text = (tmp_path / "there.json").read_text(encoding="utf-8")
        (tmp_path / "there.json").write_text(text.replace('"start"', '"begin"'), encoding="utf-8")
        load_latency(tmp_path / "there.json", GLYPHS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"runtime": "toaster"}, "runtime 'toaster': known are"), ({"threads": 0}, "0 threads: this machine has 1 to")],
)
def test_what_cannot_be_measured_is_refused_at_once(wrong, message):
    with pytest.raises(ValueError, match=message):
        latency_table(GLYPHS, **wrong)


# -------------------------------------------------------------------- networks under a bound of milliseconds


@pytest.fixture
def kit(supernet, dataset):
    return make_kit(supernet, dataset)


def test_networks_keep_to_milliseconds_and_say_so(kit, tmp_path):
    space = kit.supernet.space
    table = made_up_table(space)
    low, high = (float(total(space, table, arch, 8)) for arch in (space.smallest, space.largest))
    for share in (0.0, 0.3, 0.6, 1.0):
        most = low + share * (high - low)
        network, card = kit.specialize("arrows", bounds=[(table, most)])
        (kept,) = card.bounds
        assert kept.told <= kept.most == pytest.approx(most * 1e3) and card.budget_madds is None
        assert kept.told == pytest.approx(1e3 * float(total(space, table, torch.tensor(card.arch), len(card.classes))))
        deploy.save(network, card, tmp_path / "network")
        assert deploy.load(tmp_path / "network")[1] == card
        assert deploy.load(export_onnx(network, card, tmp_path / "network"))[1] == card


def test_several_bounds_hold_together(kit):
    space = kit.supernet.space
    table = made_up_table(space)
    low, high = (float(total(space, table, arch, 5)) for arch in (space.smallest, space.largest))
    bounds = [(table, (low + high) / 2), (PARAMETERS, 3e4)]
    card = kit.specialize("arrows", 4e5, bounds=bounds)[1]
    assert card.madds <= 4e5 and card.parameters <= 3e4 and card.bounds[0].told <= card.bounds[0].most
    assert [bound.unit for bound in card.bounds] == ["ms", "M"]
    with pytest.raises(ValueError, match="is below the smallest arch"):
        kit.specialize("arrows", 4e5, bounds=[(table, low / 2)])
    with pytest.raises(ValueError, match="give either a budget"):
        kit.specialize("arrows", top1=50, bounds=bounds)
    with pytest.raises(ValueError, match="must be finite"):
        kit.specialize("arrows", bounds=[(table, float("inf"))])


def test_a_card_that_exceeds_its_bounds_is_refused(kit):
    card = kit.specialize("arrows", bounds=[(PARAMETERS, 3e4)])[1]
    wrong = card.model_dump(mode="json")
    wrong["bounds"][0]["told"] = 1.0
    with pytest.raises(ValueError, match="1 M of parameters are more than 0.03"):
        deploy.Card.model_validate_json(json.dumps(wrong))


def test_scenarios_under_milliseconds_are_generated_in_one_pass(kit):
    space, masks = kit.supernet.space, random_class_masks(500)
    table, classes = made_up_table(space), masks.sum(-1)
    low, high = (total(space, table, arch, classes) for arch in (space.smallest, space.largest))
    most = low + (high - low) * torch.rand(500, generator=seeded(), dtype=torch.float64)
    archs = kit.generator.generate(masks, torch.full((500,), torch.inf).double(), [Bound(table, most)])
    share = total(space, table, archs, classes) / most
    assert share.max() <= 1 and share.mean() > 0.9


# -------------------------------------------------------------------- commands


@pytest.fixture
def folder(kit, dataset, tmp_path):
    return write_tiny_kit(tmp_path / "kit", kit, dataset)


def test_eas_latency_measures_and_specialize_reads_it(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(latency, "ARCHS", 12)
    there = tmp_path / "there.json"
    assert run("latency", folder, "--to", there) == 0
    said = capsys.readouterr().out
    assert "told from 12 measured networks" in said and f"written: {there}" in said and latency.processor() in said
    monkeypatch.setattr(latency, "measure", None)  # no more of it
    table = LatencyTable.model_validate_json(read_json(there))
    target, most = tmp_path / "network", 1e3 * (table.start + sum(table.block)) * 100 + 10
    for given in (["--latency", there], []):
        assert run("specialize", folder, "arrows", "--ms", most, "--parameters", "30e3", *given, "--to", target) == 0
        said = capsys.readouterr().out
        assert f"ms, at most {most:.4g} were asked for" in said and "parameters: 0.0" in said
        assert deploy.load(target)[1].parameters <= 3e4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--ms 0", "--ms 0: must be above zero and finite"),
        ("--ms nan", "--ms nan: must be above zero and finite"),
        ("--ms 1 --runtime toaster", "runtime 'toaster': known are onnxruntime, onnxruntime-int8, torch"),
        ("--ms 1 --threads 0", "0 threads: this machine has"),
        ("--madds 1M --latency there.json", "are of the bound --ms, which is missing"),
        ("--madds 1M --threads 2", "are of the bound --ms, which is missing"),
        ("--ms 1 --latency there.json --runtime torch", "was measured with its own runtime and threads"),
        ("--ms 1 --top1 50", "--top1 asks for the cheapest network"),
        ("--ms 1 --latency nowhere.json", "nowhere.json"),
        ("--parameters many", "--parameters many: a number such as"),
        ("--parameters 5", "that few parameters are no network; did you mean 5M?"),
        ("--parameters 100", "is below the smallest arch"),
        ("", "say how large it may be: --madds"),
    ],
)
def test_wrong_bounds_are_one_line(folder, tmp_path, capsys, options, message):
    assert run("specialize", folder, "arrows", *options.split(), "--to", tmp_path / "network") == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.glob("network*"))
