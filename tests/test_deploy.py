"""From a scenario to a specialised network, to a file, and back; with an untrained supernet and generator."""

import dataclasses
import json
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from eas import deploy
from eas.deploy import load, predict, save, specialize
from eas.evaluation import calibrate, subnet_logits
from eas.generator import Generator


@pytest.fixture
def made(supernet, hierarchy, dataset):
    torch.manual_seed(1)
    with torch.no_grad():  # as if trained: no fresh values, and not one answer to all images
        for parameter in supernet.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        logits = subnet_logits(supernet, supernet.space.largest, dataset.calibration, dataset.selection)
        supernet.classifier.bias.sub_(logits.mean(0))
    return Generator(supernet.space, len(hierarchy.classes), torch.tensor([3e5, 6e5]))


@pytest.fixture
def make(supernet, made, hierarchy, dataset):
    """Specialise for names under a budget."""

    def specialized(names, budget=5e5):
        return specialize(supernet, made, hierarchy, names, budget, dataset.calibration, synthetic=True)

    return specialized


@pytest.fixture
def names(hierarchy):
    """A superclass, and one class each of two others; out of order."""
    return [hierarchy.members[4][1], hierarchy.superclasses[1], hierarchy.members[2][0]]


@pytest.fixture
def saved(make, names, tmp_path):
    save(*make(names), tmp_path / "network")
    return tmp_path / "network"


def one_line(caught):
    return "\n" not in str(caught.value)


# -------------------------------------------------------------------- the network and its card


def test_the_network_is_the_supernets_slice_for_the_kept_classes(make, names, supernet, hierarchy, dataset):
    network, card = make(names)
    rows = hierarchy.kept(names).nonzero()[:, 0]
    assert card.classes == tuple(hierarchy.classes[row] for row in rows)
    sliced = subnet_logits(supernet, torch.tensor(card.arch), dataset.calibration, dataset.selection)
    with torch.inference_mode():
        logits = network(dataset.selection.images.float() / 255)
    assert logits.shape == (len(dataset.selection), len(rows)) and not network.training
    torch.testing.assert_close(logits, sliced[:, rows], rtol=1e-4, atol=1e-4)


def test_the_classifier_has_the_scenarios_rows_only(make, names, supernet, hierarchy):
    network, card = make(names)
    rows = hierarchy.kept(names)
    assert network.classifier.out_features == len(card.classes) == rows.sum()
    assert torch.equal(network.classifier.weight, supernet.classifier.weight[rows])
    assert torch.equal(network.classifier.bias, supernet.classifier.bias[rows])


def test_the_weights_are_the_networks_own(make, names, supernet):
    network, _ = make(names)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("budget", [2.5e5, 5e5, 2e6])
def test_the_cards_costs_are_those_counted_on_the_network(make, names, supernet, budget):
    network, card = make(names, budget)
    counted = []

    def count(module, inputs, output):
        pixels = output.shape[-1] * output.shape[-2] if isinstance(module, nn.Conv2d) else 1
        counted.append(module.weight.numel() * pixels)

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    network(torch.zeros(1, card.in_channels, card.image_size, card.image_size))
    assert sum(counted) == card.madds <= budget == card.budget_madds
    assert sum(parameter.numel() for parameter in network.parameters()) == card.parameters
    inner = [[block.conv1.out_channels for block in stage] for stage in network.stages]
    assert [list(stage) for stage in card.inner] == inner == supernet.space.describe(torch.tensor(card.arch))
    assert card.synthetic


def test_the_arch_is_the_generators(make, names, made, hierarchy):
    arch = made.generate(hierarchy.kept(names)[None], torch.tensor([5e5], dtype=torch.float64))[0]
    assert make(names)[1].arch == tuple(arch.tolist())


def test_the_statistics_are_the_calibrations(make, names, supernet, dataset):
    network, card = make(names)
    recorded = calibrate(supernet, torch.tensor(card.arch), dataset.calibration).recorded
    mean, variance = recorded[supernet.norm]
    torch.testing.assert_close(network.norm.running_mean, mean[0])
    torch.testing.assert_close(network.norm.running_var, variance[0])


def test_top1_is_the_share_of_right_answers_among_the_kept_classes(make, names, hierarchy, dataset):
    network, card = make(names)
    right = total = 0
    for image, label in zip(dataset.test.images, dataset.test.labels.tolist(), strict=True):
        if hierarchy.classes[label] in card.classes:
            total += 1
            right += predict(network, card, image[None])[0] == hierarchy.classes[label]
    assert total > 20
    assert deploy.top1(network, card, hierarchy, dataset.test) == pytest.approx(100 * right / total)


def test_one_class_alone_is_always_recognised(make, hierarchy, dataset):
    network, card = make([hierarchy.classes[5]])
    assert deploy.top1(network, card, hierarchy, dataset.test) == 100


# -------------------------------------------------------------------- what cannot be asked for


def test_an_unknown_name_is_an_error_that_lists_the_known_ones(make, hierarchy):
    with pytest.raises(ValueError, match="unknown superclass or class 'digit'") as caught:
        make(["digit"])
    message = str(caught.value)
    assert all(name in message for name in hierarchy.superclasses + hierarchy.classes) and one_line(caught)


def test_no_name_is_an_error(make):
    with pytest.raises(ValueError, match="empty: name at least one"):
        make([])


@pytest.mark.parametrize("budget", [0, 1e5, float("nan")])
def test_a_budget_below_the_smallest_arch_is_an_error_that_states_it(make, names, hierarchy, supernet, budget):
    classes = int(hierarchy.kept(names).sum())
    smallest = int(supernet.space.madds(supernet.space.smallest, classes))
    with pytest.raises(ValueError, match=f"smallest arch: {smallest / 1e6:g}M MAdds for {classes} classes") as caught:
        make(names, budget)
    assert one_line(caught)
    assert make(names, smallest)[1].madds == smallest


# -------------------------------------------------------------------- files


def test_a_saved_network_gives_the_same_logits_bit_for_bit(make, names, dataset, tmp_path):
    network, card = make(names)
    assert save(network, card, tmp_path / "deep" / "v1.0") == tmp_path / "deep" / "v1.0.safetensors"
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"v1.0.safetensors", "v1.0.json"}
    again, same_card = load(tmp_path / "deep" / "v1.0")
    assert same_card == card and not again.training
    images = dataset.test.images[:100].float() / 255
    with torch.inference_mode():
        assert torch.equal(again(images), network(images))


def test_saving_what_was_loaded_writes_the_same_bytes(saved, tmp_path):
    save(*load(saved), tmp_path / "again")
    for suffix in ("safetensors", "json"):
        assert (tmp_path / f"again.{suffix}").read_bytes() == (tmp_path / f"network.{suffix}").read_bytes()


def test_the_card_is_readable_text(saved, names):
    text = saved.with_suffix(".json").read_text(encoding="utf-8")
    assert all(name in text for name in json.loads(text)["classes"])  # not \u escapes
    assert names[0] in text


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a flipped bit": flip,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "empty": lambda path: path.write_bytes(b""),
    "no safetensors": lambda path: path.write_bytes(b"something else entirely"),
    "another file": lambda path: save_file({"weight": torch.zeros(3)}, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_refused(saved, damage):
    weights = saved.with_suffix(".safetensors")
    DAMAGES[damage](weights)
    with pytest.raises(ValueError, match="is damaged, or belongs to another card") as caught:
        load(saved)
    assert str(weights) in str(caught.value) and one_line(caught)


@pytest.mark.parametrize("damage", ["empty", "no safetensors", "another file"])
def test_weights_that_do_not_fit_the_card_are_refused_though_their_hash_does(saved, damage):
    DAMAGES[damage](saved.with_suffix(".safetensors"))
    rewrite(saved, sha256=deploy.sha256(saved.with_suffix(".safetensors")))
    with pytest.raises(ValueError, match="does not fit its card") as caught:
        load(saved)
    assert one_line(caught)


def test_weights_of_another_network_are_refused(saved, make, tmp_path):
    save(*make(["digits"]), tmp_path / "other")
    (tmp_path / "other.safetensors").rename(tmp_path / "network.safetensors")
    with pytest.raises(ValueError, match="belongs to another card"):
        load(saved)


def rewrite(path, **changes):
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) | changes
    card = {name: value for name, value in card.items() if value is not None}
    path.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"weights"])
def test_a_card_that_is_not_json_is_refused(saved, content):
    saved.with_suffix(".json").write_bytes(content)
    with pytest.raises(ValueError, match="network.json is damaged: it is not JSON") as caught:
        load(saved)
    assert one_line(caught)


@pytest.mark.parametrize("content", [b"{}", b"[1, 2]", b"null", b'"text"', b'{"format": "eas-specialized-0"}'])
def test_foreign_json_is_refused(saved, content):
    saved.with_suffix(".json").write_bytes(content)
    with pytest.raises(ValueError, match="network.json is not the card of a specialised network") as caught:
        load(saved)
    assert one_line(caught)


@pytest.mark.parametrize(
    "changes",
    [
        {"madds": None},
        {"surplus": 1},
        {"classes": ["one", "two"]},
        {"classes": 3},
        {"inner": [[8]]},
        {"inner": [[8], [3]]},
        {"widths": []},
        {"widths": ["8", "16"]},
        {"in_channels": 3},
    ],
    ids=str,
)
def test_a_card_that_was_changed_is_refused(saved, changes):
    rewrite(saved, **changes)
    with pytest.raises(ValueError, match="does not fit its card") as caught:
        load(saved)
    assert one_line(caught)


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_missing_file_is_named(saved, suffix):
    saved.with_suffix(suffix).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load(saved)
    assert f"network{suffix} is missing" in str(caught.value) and one_line(caught)


def test_a_disk_that_fills_up_leaves_the_saved_network_as_it_was(saved, make, monkeypatch):
    before = {path: path.read_bytes() for path in saved.parent.iterdir()}

    def full(path, content):
        path.write_text("half")
        raise OSError("No space left on device")

    for target in (saved, saved.parent / "fresh"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr(Path, "write_bytes", full)
            save(*make(["digits"]), target)
    finished = [path for path in saved.parent.iterdir() if path.suffix in (".safetensors", ".json")]
    assert {path: path.read_bytes() for path in finished} == before
    load(saved)


def test_a_card_that_cannot_be_written_never_passes_for_a_network(saved, make, names, tmp_path):
    network, card = make(["digits"])
    unwritable = dataclasses.replace(card, classes=("\ud800",) * len(card.classes))  # no UTF-8
    for target in (saved, tmp_path / "fresh"):
        with pytest.raises(UnicodeEncodeError):
            save(network, unwritable, target)
        with pytest.raises((ValueError, FileNotFoundError)):
            load(target)
    save(*make(names), saved)  # and does not stand in the way
    load(saved)


# -------------------------------------------------------------------- for other runtimes


@pytest.mark.parametrize("budget", [2.5e5, 5e5, 2e6])
def test_an_onnx_runtime_gives_the_same_logits(make, names, dataset, tmp_path, budget):
    network, card = make(names, budget)
    path = deploy.export_onnx(network, card, tmp_path / "deep" / "v1.0")
    assert [path] == list((tmp_path / "deep").iterdir()) and path.name == "v1.0.onnx"
    session = onnxruntime.InferenceSession(path)
    for count in (1, 50):
        images = dataset.test.images[:count].float() / 255
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(logits), network(images), rtol=1e-4, atol=1e-4)


def test_an_onnx_file_says_what_it_is(make, names, tmp_path):
    network, card = make(names)
    path = deploy.export_onnx(network, card, tmp_path / "network")
    said = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert {name: json.loads(value) for name, value in said.items()} == json.loads(json.dumps(dataclasses.asdict(card)))


def test_an_onnx_file_names_no_path_of_the_machine_that_wrote_it(make, names, tmp_path):
    content = deploy.export_onnx(*make(names), tmp_path / "network").read_bytes()
    for path in (deploy.__file__, torch.__file__, str(tmp_path)):
        assert str(Path(path).parent).encode() not in content
    assert b".py" not in content


def test_without_its_packages_onnx_is_an_error_that_says_how_to_install_them(make, names, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r"ONNX needs onnxscript: pip install -e '.\[onnx\]'") as caught:
        deploy.export_onnx(*make(names), tmp_path / "network")
    assert one_line(caught) and not list(tmp_path.iterdir())


# -------------------------------------------------------------------- predictions


def test_predictions_are_class_names(saved, dataset):
    network, card = load(saved)
    images = dataset.test.images[:200]
    said = predict(network, card, images)
    with torch.inference_mode():
        assert said == [card.classes[i] for i in network(images.float() / 255).argmax(1)]
    assert len(set(said)) > 3 and set(said) <= set(card.classes)
    assert predict(network, card, images[:0]) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images.float() / 255,
        lambda images: images.long(),
        lambda images: images[0],
        lambda images: images[0, 0],
        lambda images: images.expand(-1, 3, -1, -1),
        lambda images: images[..., :15],
        lambda images: images[None],
    ],
    ids=["float", "int64", "one image", "one channel", "colour", "narrow", "five dimensions"],
)
def test_images_of_another_type_or_shape_are_refused(saved, dataset, change):
    with pytest.raises(ValueError, match=r"images must be uint8 \[n, 1, 16, 16\], got torch\.") as caught:
        predict(*load(saved), change(dataset.test.images[:2]))
    assert one_line(caught)


def test_the_file_holds_nothing_but_the_networks_tensors(saved):
    network, _ = load(saved)
    stored = load_file(saved.with_suffix(".safetensors"))
    assert stored.keys() == network.state_dict().keys()
