"""The weights that the repository holds: small, whole, and enough to specialise without a data set."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eas import data, deploy
from eas.study import scenarios

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "weights" / "cifar100"


@pytest.fixture(scope="module")
def kit():
    return deploy.published("cifar100", ROOT)


def test_weights_are_small_enough_for_git():
    apart = ("pool.safetensors", deploy.IMAGES)
    sizes = [path.stat().st_size for path in WEIGHTS.rglob("*.safetensors") if path.name not in apart]
    assert sum(sizes) < 30e6 and max(sizes) < 20e6


def test_every_scenario_gets_a_network_within_budget(kit):
    wanted = scenarios(kit.study, kit.dataset.hierarchy)
    archs = kit.generator.generate(wanted.kept, wanted.budgets)
    assert len(wanted) == 150 and (kit.supernet.space.madds(archs, wanted.kept.sum(1)) <= wanted.budgets).all()


def test_specialised_networks_are_right_on_photographs(kit):
    """A superclass with its branch, and a union with the shared weights; chance is 20 and 10 %.

    The images are the ones that calibrate, without their labels, so they are new to the trained weights.
    """
    for names, least in ((["flowers"], 70), (["flowers", "trees"], 60)):
        network, card = kit.specialize(names, 20e6)
        assert card.madds <= 20e6 and not card.synthetic
        assert deploy.top1(network, card, kit.dataset.hierarchy, kit.dataset.calibration) > least


def test_without_a_selection_split_nothing_is_compared(kit):
    with pytest.raises(ValueError, match="make the kit with load_specializer"):
        kit.compare(["flowers"], 20e6)


def test_the_images_beside_the_weights_are_the_calibration_split(dataset, kit, tmp_path):
    deploy.write_images(dataset, tmp_path)
    written = load_file(tmp_path / deploy.IMAGES)
    assert torch.equal(written["images"], dataset.calibration.images)
    assert torch.equal(written["labels"], dataset.calibration.labels)
    assert tuple(written["mean"].tolist()) == pytest.approx(dataset.mean)
    counts = kit.dataset.calibration.labels.bincount()
    assert len(counts) == 100 and counts.unique().tolist() == [20]
    assert kit.dataset.calibration.images.shape[1:] == (3, 32, 32)


def test_the_command_writes_a_network_that_can_be_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    target = tmp_path / "flowers"
    assert deploy.main(["cifar100", "flowers", "--madds", "15e6", "--to", str(target), "--onnx"]) == 0
    network, card = deploy.load(target)
    assert card.classes == data.hierarchy("cifar100").members[2] and card.madds <= 15e6
    said = capsys.readouterr().out
    for suffix in ("safetensors", "onnx"):
        assert f"wrote {target}.{suffix}" in said and Path(f"{target}.{suffix}").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar100", "flower", "--madds", "2e7"], "did you mean 'flowers'"),
        (["cifar100", "flowers", "--madds", "2e6"], "below the smallest arch"),
        (["glyphs", "digits", "--madds", "1e6"], "no weights of the study glyphs are published"),
        (["cifar10", "cat", "--madds", "1e6"], "unknown study 'cifar10'"),
        (["cifar100", "flowers", "--madds", "nan"], "budget"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert deploy.main([*arguments, "--to", str(tmp_path / "network")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_half_published_weights_say_what_is_missing(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    folder = tmp_path / "weights" / "cifar100"
    folder.mkdir(parents=True)
    shutil.copy(WEIGHTS / deploy.IMAGES, folder)
    with pytest.raises(FileNotFoundError, match="is missing: run notebooks/02_supernet for the study cifar100"):
        deploy.published("cifar100", tmp_path)
