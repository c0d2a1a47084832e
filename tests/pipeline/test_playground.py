"""A kit to play with: what the controls do, without a browser."""

import dataclasses
import io

import matplotlib.pyplot as plt
import pytest
import torch
from cases import random_bytes
from PIL import Image
from safetensors.torch import load_file
from tiny_kit import make_kit, write_branches

from eas import load
from eas.expected import ExpectedAccuracy
from eas.serving import latency
from pipeline import playground
from pipeline.playground import MADDS, MS, Playground


@pytest.fixture
def kit(supernet, dataset, tmp_path):
    kit = make_kit(supernet, dataset)
    write_branches(kit, tmp_path / "branches.safetensors")
    labels = dataset.selection.labels
    answers = torch.randint(-100, 100, (2, len(labels), 160), dtype=torch.int8)
    answers[:, torch.arange(len(labels)), labels] = 100
    ends, nothing = torch.tensor([1e5, 1e6]).double(), torch.zeros(2).double()
    expected = ExpectedAccuracy(answers, labels, ends, torch.tensor([0.0, 1.0, 0.0]).double(), nothing)
    return dataclasses.replace(kit, branches=load_file(tmp_path / "branches.safetensors"), expected=expected)


@pytest.fixture
def played(kit, tmp_path, monkeypatch):
    """The controls; what they show is printed."""
    monkeypatch.setattr(playground, "display", lambda figure: print(f"[{figure.axes[0].get_title(loc='left')}]"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(latency, "ARCHS", 12)
    yield Playground(kit, tmp_path / "out")
    plt.close("all")


def said_by(capsys):
    """What was printed; without a notebook, clearing prints a code of terminals."""
    return capsys.readouterr().out.replace("\x1b[2K", "").replace("\r", "")


def test_it_begins_with_the_first_superclass_at_a_middle_bound(played, kit):
    assert played.names == [kit.hierarchy.superclasses[0]] and played.unit.value == MADDS
    assert (played.bound.min, played.bound.max) == (0.3, 0.6)
    assert played.card.madds <= played.bound.value * 1e6 and set(played.card.classes) == set(kit.hierarchy.members[0])


def test_picking_and_moving_makes_another_network(played, kit, capsys):
    played.superclasses.value, played.classes.value = ("arrows",), ("0", "1")
    assert set(played.card.classes) == {*kit.hierarchy.members[kit.hierarchy.superclasses.index("arrows")], "0", "1"}
    before = played.card.madds
    played.bound.value = 0.6
    assert before <= played.card.madds <= 6e5
    said = said_by(capsys)
    assert "arrows + 0 + 1: 10 classes" in said and "expected top-1" in said and "M MAdds" in said


def test_nothing_picked_is_a_sentence(played, capsys):
    capsys.readouterr()
    played.superclasses.value = ()
    assert said_by(capsys) == "pick a superclass or a class\n" and played.network is None
    played.save()
    played.answer({"new": []})
    said = said_by(capsys)
    assert "there is no network to save" in said and "there is no network to ask" in said


def test_milliseconds_are_measured_once_and_bound_the_network(played, capsys, monkeypatch):
    played.unit.value = MS
    assert "measuring how long networks take" in said_by(capsys)
    assert played.bound.min < played.bound.value < played.bound.max
    (bound,) = played.card.bounds
    assert bound.told <= bound.most == pytest.approx(played.bound.value) and played.card.budget_madds is None
    monkeypatch.setattr(playground, "latency_table", None)
    played.unit.value = MADDS
    assert (played.bound.min, played.bound.max) == (0.3, 0.6) and played.card.bounds == ()
    played.unit.value = MS
    assert " ms here" in said_by(capsys)


def test_a_network_is_saved_for_both(played, capsys):
    played.save()
    assert "wrote" in said_by(capsys)
    path = played.folder / played.names[0]
    assert load(path)[1] == load(f"{path}.onnx")[1] == played.card


def photograph():
    with io.BytesIO() as file:
        Image.fromarray(random_bytes(1)[0, 0].numpy()).save(file, "png")
        return file.getvalue()


def test_photographs_are_answered_and_what_is_none_is_told(played, capsys):
    capsys.readouterr()
    files = [("photo.png", photograph()), ("text.png", b"no image")]
    played.answer({"new": [{"name": name, "content": memoryview(content)} for name, content in files]})
    first, second = said_by(capsys).splitlines()
    assert first.startswith("photo.png: ") and "%" in first
    assert second.startswith("text.png: what was given is no image that can be read")


def test_figures_are_of_the_network(played, kit):
    table, count = playground.confusion(kit, played.network, played.card)
    assert list(table) == list(played.card.classes) and count > 0
    assert table.sum(axis=1).round(3).isin([0, 100]).all()
    figure = playground.accuracy_figure(kit, played.network, played.card)
    lines = figure.axes[0].get_legend_handles_labels()[1]
    assert lines == ["shared weights", "weights of their own", "this network"]
    unknowing = dataclasses.replace(kit, expected=None)
    network, card = playground.make(unknowing, ["arrows"], 0.5, None)
    assert playground.accuracy_figure(unknowing, network, card).axes[0].texts[0].get_text() == "this kit does not know"
