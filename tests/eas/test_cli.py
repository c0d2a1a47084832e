"""What a user types: `python -m eas`."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from PIL import Image
from tiny_kit import make_kit, run, write_tiny_kit

from eas.expected import ExpectedAccuracy
from eas.serving import answers, cli, deploy


@pytest.fixture
def folder(supernet, dataset, tmp_path):
    return write_tiny_kit(tmp_path / "kit", make_kit(supernet, dataset), dataset)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out" / "network"


@pytest.mark.parametrize(
    ("names", "weights"), [(["arrows"], "superclass branches (arrows)"), (["arrows", "0"], "shared by all")]
)
def test_specialize_writes_a_network_that_can_be_read(folder, target, hierarchy, capsys, names, weights):
    assert run("specialize", folder, *names, "--madds", "0.5M", "--to", target, "--onnx") == 0
    network, card = deploy.load(target)
    mask = hierarchy.class_mask(names).tolist()
    assert card.classes == tuple(name for name, counts in zip(hierarchy.classes, mask, strict=True) if counts)
    assert card.madds <= card.budget_madds == 5e5
    said = capsys.readouterr().out
    for suffix in ("safetensors", "onnx"):
        assert f"wrote {target}.{suffix}" in said and Path(f"{target}.{suffix}").is_file()
    assert f"{card.parameters:,} parameters) for {', '.join(card.classes)}" in said
    assert f"weights: {weights}" in said
    assert onnxruntime.InferenceSession(f"{target}.onnx").get_outputs()[0].shape == ["n", len(card.classes)]


def test_an_accuracy_may_be_asked_for_and_what_is_expected_is_said(supernet, dataset, target, tmp_path, capsys):
    kit, space = make_kit(supernet, dataset), supernet.space
    labels = dataset.selection.labels
    answers = torch.zeros(2, len(labels), 160, dtype=torch.int8)
    answers[:, torch.arange(len(labels)), labels] = 100  # all right
    ends, nothing = torch.tensor([1e5, 1e6]).double(), torch.zeros(2).double()
    expected = ExpectedAccuracy(answers, labels, ends, torch.tensor([0.0, 1.0, 0.0]).double(), nothing)
    folder = write_tiny_kit(tmp_path, dataclasses.replace(kit, expected=expected), dataset)
    assert run("specialize", folder, "arrows", "--top1", "80", "--to", target) == 0
    card = deploy.load(target)[1]
    line = "expected: {:.1f} % top-1 [{:.1f}, {:.1f}]".format(*card.expected_top1)
    assert line in capsys.readouterr().out and card.expected_top1[0] > 80
    assert card.madds == int(space.madds(torch.tensor(card.arch), card.outputs))
    assert run("specialize", folder, "arrows", "--top1", "100", "--to", target) == 1
    assert "no network is expected to reach 100 %" in capsys.readouterr().err


def test_onnx_is_written_on_demand_only(folder, target):
    assert run("specialize", folder, "arrows", "--madds", "500000", "--to", target) == 0
    assert {path.name for path in target.parent.iterdir()} == {"network.safetensors", "network.json"}


def test_predict_says_for_every_image_what_it_may_be(folder, target, dataset, tmp_path, capsys):
    run("specialize", folder, "arrows", "--madds", "0.5M", "--to", target)
    capsys.readouterr()
    paths = [tmp_path / "one.png", tmp_path / "another image.jpg"]
    for path, image in zip(paths, dataset.test.images, strict=False):
        Image.fromarray(image[0].numpy()).resize((40, 60)).save(path)
    assert run("predict", target, *paths) == 0
    lines = capsys.readouterr().out.splitlines()
    said = answers.predict(*deploy.load(target), paths)
    assert len(lines) == 2
    for line, path, row in zip(lines, paths, said, strict=True):
        assert line == f"{path}  " + " | ".join(f"{name} {share:.2f}" for name, share in row[:3])


def test_list_shows_superclasses_classes_and_budgets(folder, hierarchy, supernet, capsys):
    assert run("list", folder) == 0
    *lines, budgets = capsys.readouterr().out.splitlines()
    groups = zip(hierarchy.superclasses, hierarchy.members, strict=True)
    assert lines == [f"{name}: {', '.join(classes)}" for name, classes in groups]
    least = int(supernet.space.madds(supernet.space.smallest, 1))
    assert "0.3M to 0.6M" in budgets and f"{least / 1e6:.4g}M to" in budgets


@pytest.mark.parametrize("text", ["20e6", "20M", "20m", "2e7", "20000000", "20.0M", "20_000_000"])
def test_a_budget_may_be_written_in_several_ways(text):
    assert cli.budget(text) == 2e7


def test_small_budgets_in_millions_are_understood():
    assert cli.budget("0.45M") == 4.5e5 and cli.budget("0.001M") == 1e3 and cli.budget("10000") == 1e4


def test_ctrl_c_is_one_line_that_does_not_promise_too_much(folder, capsys, monkeypatch):
    monkeypatch.setattr(cli, "list_kit", lambda options: (_ for _ in ()).throw(KeyboardInterrupt))
    assert cli.main(["list", str(folder)]) == 130 and capsys.readouterr().err == "stopped\n"


MISTAKES = [
    ("specialize {kit} digit --madds 0.5M --to {to}", "did you mean 'digits'"),
    ("specialize {kit} digits --madds 0.1M --to {to}", "below the smallest arch: 0.15"),
    (
        "specialize {kit} digits --madds 20 --to {to}",
        "--madds 20: that few multiply-adds are no network; did you mean",
    ),
    ("specialize {kit} digits --madds 0.45 --to {to}", "did you mean 0.45M?"),
    ("specialize {kit} digits --madds nan --to {to}", "--madds nan: a budget must be above zero and finite"),
    ("specialize {kit} digits --madds inf --to {to}", "above zero and finite"),
    ("specialize {kit} digits --madds infM --to {to}", "above zero and finite"),
    ("specialize {kit} digits --madds=-5M --to {to}", "above zero and finite"),
    ("specialize {kit} digits --madds 0 --to {to}", "above zero and finite"),
    ("specialize {kit} digits --madds M --to {to}", "--madds M: a number such as 20M or 20e6 is needed"),
    ("specialize {kit} digits --madds 20k --to {to}", "--madds 20k: a number such as"),
    ("specialize {kit} digits --madds 1e400 --to {to}", "above zero and finite"),
    ("specialize {kit} digits --to {to}", "say how large it may be: --madds, --parameters or --ms, or --top1"),
    ("specialize {to}.yaml digits --madds 0.5M --to {to}", "kit.json is missing: run `eas train"),
    ("predict {to}.onnx {to}.png", "network.onnx is missing"),
    ("specialize {kit} --madds 0.5M --to {to}", "required: name"),
    (
        "specialize nowhere digits --madds 0.5M --to {to}",
        "no kit nowhere: looked for weights/nowhere/kit.json; kits that have names: ",
    ),
    ("specialize {kit} digits --madds 0.5M --to {kit}/kit.json/network", "kit.json"),
    ("predict {to} {to}.png", "network.safetensors is missing"),
    ("list {to}", "no kit"),
    ("lists {kit}", "invalid choice: 'lists'"),
    ("", "required: command"),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(folder, target, capsys, monkeypatch, line, message):
    monkeypatch.chdir(folder)
    before = sorted(folder.parent.rglob("*"))
    assert run(*line.format(kit=folder, to=target).split()) == 1
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and message in error and error.count("\n") == 1 and not out
    assert sorted(folder.parent.rglob("*")) == before


@pytest.mark.parametrize("file", ["parts/models.safetensors", "branches.safetensors", "images.safetensors"])
def test_a_damaged_kit_writes_nothing(folder, target, capsys, file):
    (folder / file).write_bytes((folder / file).read_bytes()[:-100])
    assert run("specialize", folder, "digits", "--madds", "0.5M", "--to", target) == 1
    assert f"error: {folder / file} is damaged" in capsys.readouterr().err and not target.parent.exists()


def test_onnx_without_its_package_writes_nothing(folder, target, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert run("specialize", folder, "digits", "--madds", "0.5M", "--to", target, "--onnx") == 1
    assert "pip install 'eas[onnx]'" in capsys.readouterr().err and not target.parent.exists()


def test_an_image_that_cannot_be_read_is_one_line(folder, target, tmp_path, capsys):
    run("specialize", folder, "digits", "--madds", "0.5M", "--to", target)
    (tmp_path / "text.jpg").write_text("hello")
    capsys.readouterr()
    assert run("predict", target, tmp_path / "text.jpg") == 1
    out, error = capsys.readouterr()
    assert "text.jpg is no image that can be read" in error and error.count("\n") == 1 and not out


def test_the_module_is_the_command(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "weights" / "tiny")
    command = [sys.executable, "-m", "eas", "list", "tiny"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "arrows: ←" in done.stdout and not done.stderr


def test_a_reader_that_has_enough_is_no_error(folder):
    command = subprocess.Popen([sys.executable, "-m", "eas", "list", str(folder)], stdout=-1, stderr=-1, text=True)
    command.stdout.close()  # as `head` does
    assert command.stderr.read() == "" and command.wait() == 1
    command.stderr.close()
