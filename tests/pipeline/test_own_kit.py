"""`eas train`: a kit of one's own photographs, its epochs, going on, and the commands around it."""

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from photo_cases import draw_class, draw_shop, smaller
from PIL import Image

import eas
from eas import training
from eas.serving.kit_files import load_kit
from pipeline import cli, own_kit, own_study, steps
from pipeline.own_kit import train, with_epochs
from pipeline.own_study import check
from pipeline.store import open_workspace


def small_study(folder, **options):
    """A shop, and a study of it that trains in seconds."""
    return smaller(check(draw_shop(folder / "shop", "train", "test"), **options).path)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """The file of a study: to be copied only."""
    return small_study(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def trained(untrained, tmp_path_factory):
    """The file of a study that was trained: to be read only."""
    path = copied(untrained, tmp_path_factory.mktemp("trained"))
    train(path)
    return path


@pytest.fixture
def study(untrained, tmp_path):
    return copied(untrained, tmp_path)


def copied(study, folder):
    """A study's file in another folder, with all that lies beside it."""
    return shutil.copytree(study.parent, folder, dirs_exist_ok=True) / study.name


def run(*arguments):
    return cli.main([str(each) for each in arguments])


def test_the_kit_serves_any_set_of_classes_and_says_how_good_it_is(trained):
    kit = load_kit(trained)
    assert kit.hierarchy.superclasses == ("bread", "fruit", "milk") and len(kit.test) == 120
    for names, images in ((["milk"], 40), (["fruit", "bread"], 80), (["rye", "kefir"], 40)):
        network, card = kit.specialize(names, 1.5e6)
        tested = kit.tested(network, card).test
        assert card.madds <= 1.5e6 and tested.images == images
        assert tested.top1[1] > 100 / len(card.classes)  # better than chance
    assert not card.synthetic and card.expected_top1


def test_only_what_deploying_needs_is_trained(trained):
    workspace = open_workspace(str(trained))
    made = {path.relative_to(workspace.folder).with_suffix("").as_posix() for path in workspace.folder.rglob("*.json")}
    parts = {"supernets/none-0", "generators/plain-0/pool", "generators/plain-0/additive", "branches/composed-0"}
    assert made == parts | {"comparison/plain-0/expected", "kit/kit"}


def test_statistics_are_taken_from_training_images(trained):
    own = {image.numpy().tobytes() for image in open_workspace(str(trained)).dataset().train.images}
    assert {image.numpy().tobytes() for image in load_kit(trained).branch_images.images} <= own


def test_nothing_is_made_twice(trained, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("made again")

    monkeypatch.setattr(steps, "write", never)
    assert train(trained).hierarchy == load_kit(trained).hierarchy


def test_a_training_that_was_stopped_goes_on(trained, tmp_path, monkeypatch):
    study, state = copied(trained, tmp_path), load_kit(trained).supernet.state_dict()
    for path in open_workspace(str(study)).folder.rglob("none-0.*"):
        path.unlink()
    shown = []

    def stop(*arguments):
        shown.append(arguments)
        if len(shown) == 2:
            raise KeyboardInterrupt
        return {}

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.supernets.curve_point", stop)
        assert run("train", study) == 130
    begun = list((study.parent / "build" / "shop" / "checkpoints" / "supernets").iterdir())
    assert len(begun) == 1
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.supernets.curve_point", lambda *arguments: shown.append(arguments) or {})
        again = train(study).supernet.state_dict()
    epochs = open_workspace(str(study)).study.training.epochs
    assert len(shown) == 2 + epochs - 1  # the first epoch was not trained again
    assert all(torch.equal(state[name], again[name]) for name in state)


def test_the_progress_bar_shows_what_the_ends_reach(study, capsys):
    assert run("train", study) == 0
    told = capsys.readouterr()
    assert "smallest_top1=" in told.err and "largest_top1=" in told.err and "loss=" in told.err
    lines = told.out.splitlines()
    assert lines[0].startswith("expected top-1 (%)") and {line.split()[0] for line in lines[1:4]} == {
        *("bread", "fruit", "milk")
    }
    assert f"next: eas specialize {study} bread --madds 1.7M" in lines[-1]


# -------------------------------------------------------------------- minutes


def test_minutes_become_epochs_in_the_file(study, monkeypatch):
    monkeypatch.setattr(own_kit, "seconds_an_epoch", lambda *arguments: 6.0)
    monkeypatch.setattr(steps, "make", lambda *arguments, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    before = study.read_text()
    with pytest.raises(KeyboardInterrupt):
        train(study, minutes=2)
    told = open_workspace(str(study)).study
    assert told.training.epochs == int(120 * own_kit.SUPERNET / 6) == 13
    assert told.branches.epochs == int(120 * own_kit.BRANCHES / (6 * own_kit.ONE_OF_SANDWICH)) == 9
    assert study.read_text().count("#") == before.count("#")


def test_what_a_comparison_trains_longer_is_taken_off(tmp_path, monkeypatch):
    path = small_study(tmp_path, compare=True)
    monkeypatch.setattr(own_kit, "seconds_an_epoch", lambda *arguments: 6.0)
    workspace = open_workspace(str(path))
    own_kit.set_epochs(path, workspace, None, 2)
    assert open_workspace(str(path)).study.training.epochs == 13 - 9


def test_an_epoch_takes_as_long_as_its_steps(study, monkeypatch):
    """A clock that goes on by a second each time it is read, and how many steps an epoch has."""
    clock = iter(range(1000))
    monkeypatch.setattr(own_kit, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    workspace = open_workspace(str(study))
    dataset, batch = own_kit.images_of(workspace), workspace.study.training.batch_size
    assert own_kit.seconds_an_epoch(workspace, dataset) == max(1, len(dataset.train) // batch)


def test_a_training_that_has_begun_keeps_its_epochs(trained, capsys):
    before = trained.read_text()
    train(trained, minutes=500)
    assert trained.read_text() == before and "it goes on with these" in capsys.readouterr().out


def test_other_photographs_are_no_training_that_has_begun(study):
    train(study)
    assert own_kit.begun(open_workspace(str(study)))
    draw_class(study.parent / "shop" / "train" / "milk" / "kefir", 1, 22, 7)
    assert not own_kit.begun(open_workspace(str(study)))


def test_a_kit_with_branches_trained_alone_has_the_generator_that_these_need(study):
    study.write_text(re.sub(r"(?m)^ *sets:.*\n", "", study.read_text()))
    train(study)
    names = [name for name, _ in own_kit.kit_jobs(open_workspace(str(study)))]
    assert names == ["supernets", "pools", "additive", "branches", "predictors", "expected"]


def test_dropout_without_branches_makes_no_kit(study):
    text = re.sub(r"(?ms)^branches:.*?(?=^scenarios:)", "", study.read_text()) + own_study.COMPARISON
    study.write_text(text)
    with pytest.raises(ValueError, match="there is no kit of a section dropout alone"):
        train(study, compare=True)


def test_epochs_are_found_however_they_are_written():
    assert with_epochs("training: {epochs: 3, batch: 4}\nbranches: {epochs: 5}", "training", 70) == (
        "training: {epochs: 70, batch: 4}\nbranches: {epochs: 5}"
    )
    assert with_epochs("branches:\n  # a comment\n  epochs: 5\n", "branches", 12).endswith("  epochs: 12\n")
    with pytest.raises(ValueError, match="write `epochs: 4` there yourself"):
        with_epochs("training: {length: 3}", "training", 4)


# -------------------------------------------------------------------- what is wrong is one line


def test_other_photographs_are_read_again_and_trained_anew(trained, tmp_path):
    study = copied(trained, tmp_path)
    draw_class(study.parent / "shop" / "train" / "milk" / "kefir", 1, 22, 7)
    workspace = open_workspace(str(study))
    name, job = next(own_kit.kit_jobs(workspace))
    assert steps.STEPS[name].result(workspace, job).find() is None
    assert len(own_kit.images_of(workspace).train) > 98


def test_photographs_are_read_again_where_the_study_asks_for_another_size(study):
    side = own_kit.images_of(open_workspace(str(study))).train.images.shape[-1]
    study.write_text(study.read_text().replace(f"image_size: {side}", f"image_size: {side + 8}"))
    for _ in range(2):
        assert own_kit.images_of(open_workspace(str(study))).train.images.shape[-1] == side + 8


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda text: text, ["--minutes", "0"], "--minutes 0: must be above zero"),
        (lambda text: text, ["--minutes", "1e400"], "--minutes inf: must be above zero and finite"),
        (lambda text: text, ["--compare"], "has no section dropout to compare with: `eas check --compare` writes one"),
        (lambda text: text.replace("supernet: plain", "supernet: dropout"), [], "add one, or write `supernet: plain`"),
        (lambda text: text.replace("batch_size: 64", "batch_sise: 64"), [], "unknown parameter training.batch_sise"),
        (lambda text: text.replace("budgets: [0.9", "budgets: [0.01"), [], "below the smallest arch"),
        (lambda text: text.replace("train: ", "train: elsewhere/"), [], "is missing: it should hold a folder"),
        (lambda text: "- a\n- list\n", [], "must map the parameters of one study to their values"),
        (lambda text: "a: [", [], "shop.yaml is not YAML"),
    ],
)
def test_what_is_wrong_is_told_before_any_training(study, capsys, monkeypatch, change, arguments, message):
    monkeypatch.setattr(training, "optimize", lambda *arguments, **options: pytest.fail("it was trained"))
    study.write_text(change(study.read_text()))
    assert run("train", study, *arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_a_training_that_diverges_is_one_line(study, capsys):
    study.write_text(study.read_text().replace("learning_rate: 0.2", "learning_rate: 1.0e+9"))
    assert run("train", study) == 1
    assert "try a lower learning rate" in capsys.readouterr().err.splitlines()[-1]


# -------------------------------------------------------------------- the four commands, as they are typed


def test_from_a_folder_to_an_answer(tmp_path):
    draw_shop(tmp_path / "shop", "train", "test")

    def command(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "wrote shop.yaml; next: eas train shop.yaml" in command("check", "shop")
    smaller(tmp_path / "shop.yaml")
    assert "next: eas specialize shop.yaml" in command("train", "shop.yaml")
    said = command("specialize", "shop.yaml", "milk", "--madds", "1.5M", "--onnx")
    assert "wrote milk.onnx" in said and "test: " in said and "of 40 images" in said
    answers = command("predict", "milk.onnx", "shop/test/milk/kefir/0.png", "shop/test/milk/whole/0.png").splitlines()
    assert [line.split("  ")[0] for line in answers] == ["shop/test/milk/kefir/0.png", "shop/test/milk/whole/0.png"]
    assert command("predict", "milk", "shop/test/milk/kefir/0.png").split()[1] == answers[0].split()[1]
    card = json.loads((tmp_path / "milk.json").read_text())["card"]
    assert card["test"]["images"] == 40 and card["classes"] == ["kefir", "whole"]
    network, card = eas.load(tmp_path / "milk.onnx")
    image = tmp_path / "shop" / "test" / "milk" / "kefir" / "0.png"
    assert eas.predict(network, card, [image])[0][0][0] in card.classes and Image.open(image).size == (48, 40)


def test_all_commands_are_named(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    told = capsys.readouterr().out
    for name in ("check", "train", "specialize", "predict", "list", "exit codes"):
        assert name in told


def test_a_comparison_runs_all_other_methods(tmp_path):
    path = small_study(tmp_path, compare=True)
    path.write_text(path.read_text().replace("rate: 0.9, begin: 0.8", "rate: 0.5"))
    train(path, compare=True)
    workspace = open_workspace(str(path))
    assert steps.missing(workspace, "06_specialize") == []
    assert own_study.COMPARISON.splitlines()[0] in path.read_text()


def test_packages_that_only_training_needs_are_named(study, capsys, monkeypatch):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "torchvision" else name)
    assert run("train", study) == 1
    assert capsys.readouterr().err == "error: training needs torchvision: pip install 'eas[train]'\n"


@pytest.mark.parametrize("name", ["cifar100", "shop", "shop.json"])
def test_what_is_no_studys_file_is_refused(name, capsys):
    assert run("train", name) == 1
    assert capsys.readouterr().err == f"error: {name} is no YAML file of a study: `eas check FOLDER` writes one\n"


@pytest.mark.parametrize(
    "groups", [{"food": ["apple", "pear", "rye"]}, {"a": ["apple", "pear"], "b": ["rye", "toast"]}]
)
def test_one_or_two_superclasses_are_enough(groups, tmp_path):
    (tmp_path / "groups.json").write_text(json.dumps(groups))
    shop = draw_shop(tmp_path / "shop", "train", "test")
    named = {name for names in groups.values() for name in names}
    for folder in [path for path in shop.glob("*/*/*") if path.name not in named]:
        shutil.rmtree(folder)
    for folder in [path for path in shop.glob("*/*") if not any(path.iterdir())]:
        folder.rmdir()
    kit = train(smaller(check(shop, tmp_path / "groups.json").path))
    assert (kit.branches is None) == (len(groups) == 1)
    for names in ([next(iter(groups))], ["apple", "rye"]):
        network, card = kit.specialize(names, 1.5e6)
        assert kit.tested(network, card).test.images == 20 * len(card.classes)
