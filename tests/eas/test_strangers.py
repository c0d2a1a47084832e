"""None of these: networks that tell images of other classes, in Python, in files and in ONNX."""

import dataclasses
import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from cases import random_bytes
from PIL import Image
from tiny_kit import make_kit, run, write_tiny_kit
from torch import nn

import eas
from eas import export_onnx, predict
from eas.costs import MADDS, total
from eas.data.batches import as_input
from eas.files import sealed
from eas.serving import cli, deploy
from eas.serving.answers import NONE, refused_on, weigh
from eas.serving.kit_files import load_kit
from eas.serving.strangers import MOST_FITTED, Refusing, inner, least_odds


class Counting(nn.Module):
    """Logits of three classes that images of one grey value have: the first two are its own."""

    def forward(self, images):
        value = images.mean((1, 2, 3)) * 255
        return torch.stack([value, torch.zeros_like(value), 10 - value], 1)


def grey(*values):
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)


@pytest.fixture
def kit(supernet, dataset):
    return dataclasses.replace(make_kit(supernet, dataset), test=dataset.test, unseen=dataset.selection)


# -------------------------------------------------------------------- the odds, and where the line is drawn


def test_odds_weigh_own_classes_against_all_others():
    network = Refusing(Counting(), 2)
    logits, odds = network.odds(as_input(grey(0, 3, 9)))
    assert torch.equal(network(as_input(grey(0, 3, 9))), logits) and logits.shape == (3, 2)
    whole = network.network(as_input(grey(0, 3, 9))).softmax(1)[:, :2].sum(1)
    torch.testing.assert_close(odds.sigmoid(), whole)


@pytest.mark.parametrize(
    ("own", "others", "kept", "refused"),
    [((8, 9, 10), (0, 1, 2), 3, 3), ((4, 8, 9, 10), (0, 1, 2, 7), 3, 3), ((5, 5, 5), (5, 5), 3, 0), ((7,), (3,), 1, 1)],
)
def test_the_line_is_drawn_between_own_images_and_others(own, others, kept, refused):
    network = Refusing(Counting(), 2)
    least = least_odds(network, grey(*own), grey(*others))
    assert int((network.odds(as_input(grey(*own)))[1] >= least).sum()) == kept
    assert int((network.odds(as_input(grey(*others)))[1] < least).sum()) == refused


def test_the_line_is_as_many_deviations_below_its_own_images_as_above_others():
    network, own, others = Refusing(Counting(), 2), (4, 8, 9, 10), (0, 1, 5)
    least = least_odds(network, grey(*own), grey(*others))
    odds = [network.odds(as_input(grey(*values)))[1].double().numpy() for values in (own, others)]
    below, above = ((least - each.mean()) / each.std() for each in odds)
    assert below == pytest.approx(-above) and below < 0


# -------------------------------------------------------------------- networks of a kit


@pytest.mark.parametrize("names", [["arrows"], ["digits", "arrows"], ["0", "1"]])
def test_a_network_that_refuses_answers_among_its_classes_as_one_that_does_not(kit, names):
    mask, space = kit.hierarchy.class_mask(names), kit.supernet.space
    plain, card = kit.specialize(names, 5e5)
    refusing, told = kit.specialize(names, 5e5, refuse=True)
    assert told.strangers.outputs == int((~mask).sum()) and told.outputs == len(mask)
    assert told.madds == total(space, MADDS, torch.tensor(told.arch), told.outputs) <= 5e5
    images = as_input(random_bytes(8))
    with torch.inference_mode():
        if told.arch == card.arch:
            torch.testing.assert_close(refusing(images), plain(images))
        logits, odds = refusing.odds(images)
        whole = inner(refusing)(images)
    assert logits.shape == (8, int(mask.sum())) and whole.shape == (8, len(mask))
    torch.testing.assert_close(odds, logits.logsumexp(1) - whole[:, int(mask.sum()) :].logsumexp(1))


def test_a_budget_holds_with_what_telling_strangers_takes(kit):
    space, mask = kit.supernet.space, kit.hierarchy.class_mask(["arrows"])
    least = float(space.madds(space.smallest, len(mask)))
    assert kit.specialize("arrows", least, refuse=True)[1].madds == least
    with pytest.raises(ValueError, match=f"below the smallest arch: .* for {len(mask)} classes"):
        kit.specialize("arrows", least - 1, refuse=True)


def test_a_network_of_all_classes_knows_no_strangers(kit):
    network, card = kit.specialize(kit.hierarchy.superclasses, 5e5, refuse=True)
    assert card.strangers is None and not isinstance(network, Refusing)


def test_rates_are_those_of_the_test_images(kit):
    network, card = kit.specialize("arrows", 5e5, refuse=True)
    told = kit.tested(network, card).strangers
    mask = kit.hierarchy.class_mask(["arrows"])
    for rate, members in ((told.refused_own, mask), (told.refused_others, ~mask)):
        images = kit.test.only(members).images
        odds = weigh(network, card, images)[1]
        expected = 100 * float((odds < card.strangers.least_odds).double().mean())
        assert rate == pytest.approx(expected, abs=0.01 if len(images) <= 500 else 5)
    assert refused_on(network, card, kit.test.images[:0]) is None


# -------------------------------------------------------------------- files


def test_it_goes_through_files_and_onnx(kit, tmp_path):
    network, card = kit.specialize("arrows", 5e5, refuse=True)
    card = kit.tested(network, card)
    deploy.save(network, card, tmp_path / "network")
    path = export_onnx(network, card, tmp_path / "network")
    images = kit.test.images[:40]
    said = predict(network, card, images)
    again, read = deploy.load(tmp_path / "network")
    assert read == card and predict(again, read, images) == said
    onnx, told = deploy.load(path)
    assert told == card
    for here, there in zip(said, predict(onnx, told, images), strict=True):
        assert dict(here) == pytest.approx(dict(there), abs=1e-5) and here[0][0] == there[0][0]
    session = onnxruntime.InferenceSession(path)
    logits, odds, known = session.run(["logits", "odds", "known"], {"images": images.permute(0, 2, 3, 1).numpy()})
    assert known.dtype == bool and logits.shape == (40, len(card.classes))
    assert known.tolist() == [answer[0][0] != NONE for answer in said]
    assert (odds >= card.strangers.least_odds).tolist() == known.tolist()


def test_a_card_with_other_outputs_than_its_network_is_refused(kit, tmp_path):
    network, card = kit.specialize("arrows", 5e5, refuse=True)
    wrong = card.model_dump(mode="json")
    wrong["strangers"]["outputs"] += 1
    with pytest.raises(ValueError, match="not those stated"):
        deploy.Card.model_validate_json(json.dumps(wrong))
    for odd in ("nan", "inf"):
        with pytest.raises(ValueError, match="least_odds"):
            deploy.Card.model_validate(card.model_dump() | {"strangers": {"outputs": 1, "least_odds": float(odd)}})


# -------------------------------------------------------------------- answers and commands


def test_a_refused_image_is_answered_with_none_of_these(kit):
    network, card = kit.specialize("arrows", 5e5, refuse=True)
    images = kit.test.images[:60]
    odds = weigh(network, card, images)[1]
    for answer, certain in zip(predict(network, card, images), odds.tolist(), strict=True):
        assert (answer[0][0] == NONE) == (certain < card.strangers.least_odds)
        classes = [pair for pair in answer if pair[0] != NONE]
        assert sum(share for _, share in classes) == pytest.approx(torch.tensor(certain).sigmoid().item(), abs=1e-5)
        assert [share for _, share in classes] == sorted((share for _, share in classes), reverse=True)
    plain, same = kit.specialize("arrows", 5e5)
    assert all(sum(share for _, share in answer) == pytest.approx(1) for answer in predict(plain, same, images))


@pytest.fixture
def folder(kit, dataset, tmp_path):
    return write_tiny_kit(tmp_path / "kit", kit, dataset)


@pytest.mark.parametrize("option", [[], ["--no-strangers"]])
def test_commands_tell_strangers_unless_asked_not_to(folder, tmp_path, capsys, option):
    target = tmp_path / "network"
    assert run("specialize", folder, "arrows", "--madds", "0.5M", "--to", target, "--onnx", *option) == 0
    assert " images its logits are the network's" in capsys.readouterr().out
    assert bool(deploy.load(target)[1].strangers) == (not option)
    Image.fromarray(random_bytes(1)[0, 0].numpy()).save(tmp_path / "noise.png")
    for suffix in ("", ".onnx"):
        assert run("predict", f"{target}{suffix}", tmp_path / "noise.png") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and "noise.png  " in first


def test_a_kit_of_its_own_draws_the_line_with_images_that_it_was_not_trained_on(folder, kit, monkeypatch):
    seen = {}
    monkeypatch.setattr(deploy, "least_odds", lambda network, own, others: seen.update(own=own, others=others) or 0.0)
    read = load_kit(folder)
    assert read.unseen is None  # a published kit's images are such
    for each, images in ((read, read.branch_images), (kit, kit.unseen)):
        each.specialize("arrows", 5e5, refuse=True)
        own = images.only(each.hierarchy.class_mask(["arrows"])).images
        assert len(seen["own"]) == min(len(own), MOST_FITTED)
        assert len(seen["others"]) == min(len(images) - len(own), MOST_FITTED)
        assert {row.numpy().tobytes() for row in seen["own"]} <= {row.numpy().tobytes() for row in own}


def test_without_unseen_images_of_the_classes_no_line_is_drawn_and_that_is_said(
    kit, folder, tmp_path, capsys, monkeypatch
):
    arrows = kit.hierarchy.class_mask(["arrows"])
    few = dataclasses.replace(kit, unseen=kit.unseen.only(~arrows))
    assert few.specialize("arrows", 5e5, refuse=True)[1].strangers is None
    assert few.specialize("digits", 5e5, refuse=True)[1].strangers
    monkeypatch.setattr(eas, "load_kit", lambda path: few)
    assert run("specialize", folder, "arrows", "--madds", "0.5M", "--to", tmp_path / "network") == 0
    assert "none of these: is never said, for want of images of these classes" in capsys.readouterr().out


# -------------------------------------------------------------------- verify


def test_verify_runs_a_file_on_its_check_and_beside_the_network(folder, kit, tmp_path, capsys):
    target = tmp_path / "network"
    assert run("specialize", folder, "arrows", "--madds", "0.5M", "--to", target, "--onnx") == 0
    Image.fromarray(random_bytes(1)[0, 0].numpy()).save(tmp_path / "noise.png")
    capsys.readouterr()
    assert run("verify", f"{target}.onnx", tmp_path / "noise.png") == 0
    said = capsys.readouterr().out
    assert "as exported: on its own check" in said and "on 5 images they are" in said and "an image takes" in said
    (tmp_path / "network.safetensors").unlink()
    assert run("verify", f"{target}.onnx") == 0 and "on 5 images" not in capsys.readouterr().out


def changed_check(path, by):
    import onnx

    model = onnx.load(path)
    (entry,) = (each for each in model.metadata_props if each.key == "check")
    entry.value = json.dumps((torch.tensor(json.loads(entry.value)) + by).tolist())
    (seal,) = (json.loads(each.value) for each in model.metadata_props if each.key == "sha256")
    Path(path).write_bytes(sealed(model.SerializeToString(), seal))


def test_verify_tells_a_file_that_says_something_else(folder, tmp_path, capsys):
    target = tmp_path / "network"
    assert run("specialize", folder, "arrows", "--madds", "0.5M", "--to", target, "--onnx") == 0
    capsys.readouterr()
    assert run("verify", target) == 1
    assert "is no .onnx file" in capsys.readouterr().err
    assert run("specialize", folder, "arrows", "--madds", "0.4M", "--to", target) == 0  # another network beside it
    assert run("verify", f"{target}.onnx") == 1
    assert "was not exported from" in capsys.readouterr().err
    (tmp_path / "network.safetensors").unlink()
    changed_check(f"{target}.onnx", by=0.05)
    assert run("verify", f"{target}.onnx") == 1
    error = capsys.readouterr().err
    assert "says something else than it did when it was made" in error and error.count("\n") == 1


def add_to_logits(network, by):
    with torch.no_grad():
        inner(network).classifier.bias.add_(by)


def test_verify_tells_that_the_network_beside_a_file_says_something_else(folder, tmp_path, capsys):
    target = tmp_path / "network"
    assert run("specialize", folder, "arrows", "--madds", "0.5M", "--to", target, "--onnx") == 0
    network, card = deploy.load(target)
    add_to_logits(network, 0.05)
    deploy.save(network, card, target)
    capsys.readouterr()
    assert run("verify", f"{target}.onnx") == 1
    error = capsys.readouterr().err
    assert "says something else" in error and "logits differ by 0.05" in error and error.count("\n") == 1


def test_a_file_that_does_not_say_what_its_network_does_is_an_error(kit, tmp_path):
    network, card = kit.specialize("arrows", 5e5, refuse=True)
    path = str(export_onnx(network, card, tmp_path / "network"))
    assert "its logits are the network's" in cli.proven(network, path, kit, card)
    add_to_logits(network, 0.05)
    with pytest.raises(ValueError, match=r"say what the network does.*: logits differ by 0\.05"):
        cli.proven(network, path, kit, card)
