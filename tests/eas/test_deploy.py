"""From a scenario to a specialised network, to files and back; with an untrained supernet and generator."""

import json
import random
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
import torch
from cases import counted_madds
from hostile_cases import memory_from_here
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy import stats
from tiny_kit import make_kit

from eas import export_onnx, files
from eas.data import Split
from eas.evaluation import SharedStem, calibrate
from eas.files import sha256
from eas.serving.answers import accuracy_on, predict, read_image, share_of
from eas.serving.deploy import Card, in_turn, load, save, specialize
from eas.spaces import SPACES


@pytest.fixture
def kit(supernet, dataset):
    return make_kit(supernet, dataset)


@pytest.fixture
def make(kit):
    """Specialise for names under a budget."""

    def specialized(names, budget=5e5):
        mask = kit.hierarchy.class_mask(names)
        return specialize(kit.supernet, kit.generator, kit.hierarchy, mask, budget, kit.calibration, synthetic=True)

    return specialized


@pytest.fixture
def names(hierarchy):
    """A superclass, and one class each of two others; out of order."""
    return [hierarchy.members[4][1], hierarchy.superclasses[1], hierarchy.members[2][0]]


@pytest.fixture
def saved(make, names, tmp_path):
    save(*make(names), tmp_path / "network")
    return tmp_path / "network"


def refused(path, reason, kind=ValueError):
    """`load` fails with one line that names the file and holds the reason; returns it."""
    with pytest.raises(kind) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message and reason in message, message
    return message


# -------------------------------------------------------------------- the network and its card


def test_the_network_is_the_supernets_slice_for_the_classes(make, names, kit, dataset):
    network, card = make(names)
    rows = kit.hierarchy.class_mask(names).nonzero()[:, 0]
    assert card.classes == tuple(kit.hierarchy.classes[row] for row in rows)
    arch = torch.tensor(card.arch)
    sliced = SharedStem(kit.supernet, arch[None], kit.calibration, dataset.selection).logits(arch)
    with torch.inference_mode():
        logits = network(dataset.selection.images.float() / 255)
    assert logits.shape == (len(dataset.selection), len(rows)) and not network.training
    torch.testing.assert_close(logits, sliced[:, rows], rtol=1e-4, atol=1e-4)


def test_the_classifier_has_the_scenarios_rows_only(make, names, kit):
    network, card = make(names)
    rows = kit.hierarchy.class_mask(names)
    assert network.classifier.out_features == len(card.classes) == rows.sum()
    assert torch.equal(network.classifier.weight, kit.supernet.classifier.weight[rows])
    assert torch.equal(network.classifier.bias, kit.supernet.classifier.bias[rows])


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
    image = torch.zeros(1, card.in_channels, card.image_size, card.image_size)
    assert counted_madds(network, image) == card.madds <= budget == card.budget_madds
    assert sum(parameter.numel() for parameter in network.parameters()) == card.parameters
    inner = [[block.conv1.out_channels for block in stage] for stage in network.stages]
    assert card.choice_space() == supernet.space and card.space == supernet.space.recipe
    assert inner == supernet.space.describe(torch.tensor(card.arch)) and card.synthetic


def test_the_arch_is_the_generators(make, names, kit):
    budget = torch.tensor([5e5], dtype=torch.float64)
    arch = kit.generator.generate(kit.hierarchy.class_mask(names)[None], budget)[0]
    assert make(names)[1].arch == tuple(arch.tolist())


def test_the_statistics_are_the_calibrations(make, names, kit):
    network, card = make(names)
    mean, variance = calibrate(kit.supernet, torch.tensor(card.arch), kit.calibration).recorded[kit.supernet.norm]
    torch.testing.assert_close(network.norm.running_mean, mean)
    torch.testing.assert_close(network.norm.running_var, variance)


def test_a_sample_takes_an_image_of_every_class_in_turn():
    labels = torch.tensor([2] * 50 + [0] * 7 + [3] * 3)
    split = Split(torch.arange(60).view(-1, 1, 1, 1).to(torch.uint8), labels)
    some = in_turn(split, 10)
    assert some.labels.bincount().tolist() == [4, 0, 3, 3]  # a class's turn is over where it has no more
    assert [len(set(some.labels[:3].tolist())), len(some.images.unique())] == [3, 10]
    assert torch.equal(labels[some.images.flatten().long()], some.labels)
    assert torch.equal(in_turn(split, 10).images, some.images) and len(in_turn(split, 1000)) == 60
    own = in_turn(split, 10, torch.tensor([True, True, True, False]))
    assert own.labels.bincount().tolist() == [5, 0, 5]
    assert len(in_turn(split, 10, torch.zeros(4, dtype=torch.bool))) == 0


def test_no_class_is_an_error(kit):
    mask = torch.zeros(len(kit.hierarchy.classes), dtype=torch.bool)
    with pytest.raises(ValueError, match="keeps no class: name at least one"):
        specialize(kit.supernet, kit.generator, kit.hierarchy, mask, 5e5, kit.calibration, synthetic=True)


@pytest.mark.parametrize("budget", [0, 1e5, -1, float("nan")])
def test_a_budget_below_the_smallest_arch_is_an_error_that_states_it(make, names, hierarchy, supernet, budget):
    classes = int(hierarchy.class_mask(names).sum())
    smallest = int(supernet.space.madds(supernet.space.smallest, classes))
    with pytest.raises(ValueError, match=f"smallest arch: {smallest / 1e6:g}M MAdds for {classes} classes") as caught:
        make(names, budget)
    assert "\n" not in str(caught.value)
    assert make(names, smallest)[1].madds == smallest


def test_an_infinite_budget_is_an_error(make, names):
    with pytest.raises(ValueError, match="a budget must be finite"):
        make(names, float("inf"))


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
    card = json.loads(text)["card"]
    assert all(name in text for name in card["classes"])  # not \u escapes
    assert names[0] in text and card["space"]["kind"] == "preresnet"


def test_the_file_holds_nothing_but_the_networks_tensors(saved):
    network, _ = load(saved)
    assert load_file(saved.with_suffix(".safetensors")).keys() == network.state_dict().keys()


def test_a_loaded_network_can_be_trained_on(saved):
    network, _ = load(saved)
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"cpu"}


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "one bit": flip,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "empty": lambda path: path.write_bytes(b""),
    "no safetensors": lambda path: path.write_bytes(b"something else entirely"),
    "another file": lambda path: save_file({"weight": torch.zeros(3)}, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_refused(saved, damage):
    weights = saved.with_suffix(".safetensors")
    DAMAGES[damage](weights)
    assert str(weights) in refused(saved, "is damaged, or belongs to another card")


@pytest.mark.parametrize("damage", ["empty", "no safetensors", "another file", "cut short"])
def test_damaged_weights_are_refused_though_their_hash_was_made_to_fit(saved, damage):
    weights, text = saved.with_suffix(".safetensors"), saved.with_suffix(".json")
    DAMAGES[damage](weights)
    text.write_text(json.dumps(json.loads(text.read_text()) | {"sha256": sha256(weights)}))
    refused(saved, "saved with" if damage == "another file" else "is damaged, or no safetensors file")


def test_any_bit_that_flips_is_noticed(saved):
    network, card = load(saved)
    draw = random.Random(0)
    for file in (saved.with_suffix(".safetensors"), saved.with_suffix(".json")):
        content = file.read_bytes()
        for _ in range(60):
            changed = bytearray(content)
            changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            file.write_bytes(changed)
            refused(saved, "network")
        file.write_bytes(content)
    assert load(saved)[1] == card


def test_weights_of_another_network_are_refused(saved, make, tmp_path):
    save(*make(["digits"]), tmp_path / "other")
    (tmp_path / "other.safetensors").rename(tmp_path / "network.safetensors")
    refused(saved, "belongs to another card")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"weights", b"[" * 3000, b"[" * 10**6, b'{"card":' * 5000, b"1" * 9999]
)
def test_a_card_that_is_not_json_is_refused(saved, content):
    saved.with_suffix(".json").write_bytes(content)
    assert "network.json" in refused(saved, "is damaged, or not the card of a specialised network: ")


@pytest.mark.parametrize("content", [b"{}", b"[1, 2]", b"null", b'"text"', b'{"format": 3}'])
def test_foreign_json_is_refused(saved, content):
    saved.with_suffix(".json").write_bytes(content)
    assert "network.json" in refused(saved, "is damaged, or not the card of a specialised network: ")


def test_a_file_of_the_first_format_is_to_be_made_again(saved):
    old = {"format": "eas-specialized-1", "sha256": "0", "classes": ["a"], "widths": [8], "inner": [[8]]}
    saved.with_suffix(".json").write_text(json.dumps(old))
    refused(saved, "format: Input should be 'eas-specialized-2'; make it again with this version")


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_missing_file_is_named(saved, suffix):
    saved.with_suffix(suffix).unlink()
    refused(saved, f"network{suffix} is missing", FileNotFoundError)


def test_a_disk_that_fills_up_leaves_the_saved_network_as_it_was(saved, make, monkeypatch):
    before = {path: path.read_bytes() for path in saved.parent.iterdir()}

    def full(tensors, path, metadata):
        path.write_text("half")
        raise SafetensorError("I/O error: No space left on device")

    for target in (saved, saved.parent / "fresh"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr(files, "save_file", full)
            save(*make(["digits"]), target)
    assert {path: path.read_bytes() for path in saved.parent.iterdir()} == before
    load(saved)


def test_a_card_that_cannot_be_written_never_passes_for_a_network(saved, make, names, tmp_path):
    network, card = make(["digits"])
    unwritable = card.model_copy(update={"classes": ("\ud800",) * len(card.classes)})  # no UTF-8
    for target in (saved, tmp_path / "fresh"):
        with pytest.raises(ValueError):
            save(network, unwritable, target)
    load(saved)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "fresh")


# -------------------------------------------------------------------- cards and weights that somebody made up


def forge(path, tensors=None, **changes):
    """Change card and tensors with everything that would give it away: hash, and the card among the weights."""
    weights, text = path.with_suffix(".safetensors"), path.with_suffix(".json")
    stored = json.loads(text.read_text(encoding="utf-8"))
    card = {name: value for name, value in (stored["card"] | changes).items() if value is not None}
    try:
        told = Card.model_validate_json(json.dumps(card)).model_dump_json()
    except ValueError:
        told = json.dumps(card)
    save_file(tensors or load_file(weights), weights, {"card": told})
    stored |= {"sha256": sha256(weights), "card": card}
    text.write_text(json.dumps(stored), encoding="utf-8")


def test_a_card_that_was_changed_is_not_that_of_the_weights(saved):
    text = saved.with_suffix(".json")
    stored = json.loads(text.read_text(encoding="utf-8"))
    stored["card"]["classes"][0] = "tuliq"
    text.write_text(json.dumps(stored))
    refused(saved, "network.json was changed: it is not the card that")


def test_a_network_with_other_names_for_its_classes_is_one(saved):
    classes = [f"class {i}" for i in range(len(load(saved)[1].classes))]
    forge(saved, classes=classes)
    assert load(saved)[1].classes == tuple(classes)


SPACE = {"kind": "preresnet", "widths": [8, 16], "depths": [1, 2], "ratios": [0.25, 0.5, 1.0]}
WRONG_CARDS = [
    ({"madds": None}, "card.madds: Field required"),
    ({"surplus": 1}, "card.surplus: Extra inputs"),
    ({"classes": ["one", "two"]}, "the arch needs"),
    ({"classes": 3}, "card.classes: "),
    ({"classes": "text"}, "card.classes: "),
    ({"classes": []}, "card.classes: "),
    ({"classes": [""]}, "card.classes.0: "),
    ({"classes": [["a"]]}, "card.classes.0: "),
    ({"classes": [1, 2]}, "card.classes.0: "),
    ({"classes": ["a"] * 28}, "card: a class is named twice"),
    ({"budget_madds": "much"}, "card.budget_madds: "),
    ({"budget_madds": float("inf")}, "card.budget_madds: "),
    ({"budget_madds": float("nan")}, "card.budget_madds: "),
    ({"budget_madds": -5}, "card.budget_madds: "),
    ({"budget_madds": 1e5}, "more than the budget"),
    ({"madds": 3}, "the arch needs"),
    ({"madds": True}, "card.madds: "),
    ({"madds": 4.5}, "card.madds: "),
    ({"parameters": 3}, "the arch needs"),
    ({"parameters": 10**40}, "the arch needs"),
    ({"image_size": 17}, "the arch needs"),
    ({"image_size": "16"}, "card.image_size: "),
    ({"image_size": 0}, "card.image_size: "),
    ({"image_size": 10**6}, "card.image_size: "),
    ({"in_channels": 3}, "the arch needs"),
    ({"in_channels": -1}, "card.in_channels: "),
    ({"arch": []}, "the arch has 0 choices"),
    ({"arch": [1, 1, 0, 1, 0, 1, 0]}, "the arch has 7 choices"),
    ({"arch": [9, 9, 9, 9, 9, 9]}, "outside 0 ... "),
    ({"arch": [-1, 0, 0, 0, 0, 0]}, "card.arch.0: "),
    ({"arch": [10**30, 0, 0, 0, 0, 0]}, "card.arch.0: "),
    ({"arch": "010101"}, "card.arch: "),
    ({"arch": [0.5, 0, 0, 0, 0, 0]}, "card.arch.0: "),
    ({"arch": {}}, "card.arch: "),
    ({"space": {}}, "card.space: must map parameters to values and name a kind"),
    ({"space": "preresnet"}, "card.space: must map"),
    ({"space": {"kind": "preresnets"}}, "card.space: unknown kind 'preresnets'"),
    ({"space": {"kind": "preresnet"}}, "card.space.widths: Field required"),
    ({"space": SPACE | {"widths": []}}, "card.space.widths: "),
    ({"space": SPACE | {"widths": {}}}, "card.space.widths: "),
    ({"space": SPACE | {"widths": ["8", "16"]}}, "card.space.widths.0: "),
    ({"space": SPACE | {"widths": [8, 0]}}, "card.space.widths.1: "),
    ({"space": SPACE | {"widths": [8, 16, 32]}}, "the arch has 6 choices"),
    ({"space": SPACE | {"widths": [8, 10**30]}}, "card: it holds a number that is too large"),
    ({"space": SPACE | {"depths": [2, 1]}}, "card.space: depths must be strictly ascending"),
    ({"space": SPACE | {"depths": [1, 2**40]}}, "is too large"),
    ({"space": SPACE | {"ratios": [0.25, 0.5, 2.0]}}, "card.space.ratios.2: "),
    ({"space": SPACE | {"inner": 3}}, "card.space.inner: Extra inputs"),
    ({"synthetic": 1}, "card.synthetic: "),
    ({"synthetic": "no"}, "card.synthetic: "),
]


@pytest.mark.parametrize(("changes", "reason"), WRONG_CARDS, ids=lambda value: str(value)[:60])
def test_an_impossible_card_is_refused(saved, changes, reason):
    forge(saved, **changes)
    refused(saved, reason)


def largest_card(recipe, in_channels=1):
    """The largest network of a space, as a card that is right in itself; its costs are too, if that takes no time."""
    space = SPACES.validate(recipe).build(16, in_channels)
    costs = (space.madds, space.parameters) if space.blocks < 5_000 else (lambda *_: 1,) * 2
    madds, parameters = (int(cost(space.largest, 2)) for cost in costs)
    changes = {"space": recipe, "arch": space.largest.tolist(), "budget_madds": 1e30, "classes": ["a", "b"]}
    return changes | {"in_channels": in_channels, "madds": madds, "parameters": parameters}


BOMBS = {  # cards of a few kB, or some hundred, that ask for gigabytes or for minutes, and what is wrong with them
    "wide": (lambda: largest_card(SPACE | {"widths": [20_000, 20_000]}), " in place of "),
    "wide at the end": (lambda: largest_card(SPACE | {"widths": [8, 10**6]}), " in place of "),
    "channels": (lambda: largest_card(SPACE, in_channels=10**9), " in place of "),
    "deep": (lambda: largest_card(SPACE | {"depths": [1, 2_000]}), "fewer than the arch has blocks"),
    "deeper": (lambda: largest_card(SPACE | {"depths": [1, 500_000]}), "is too large"),
    "stages": (lambda: largest_card(SPACE | {"widths": [1] * 2_000}), "fewer than the arch has blocks"),
    "more stages": (lambda: largest_card(SPACE | {"widths": [1] * 100_000}), "is too large"),
    "forms": (lambda: largest_card(SPACE | {"ratios": [(i + 1) / 50_000 for i in range(50_000)]}), "is too large"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_card_of_a_huge_network_costs_neither_memory_nor_time(make, tmp_path, bomb):
    card, reason = BOMBS[bomb]
    save(*make(["digits"], 2e6), tmp_path / "network")
    forge(tmp_path / "network", **card())
    began, more_bytes = time.process_time(), memory_from_here()
    refused(tmp_path / "network", reason)
    assert time.process_time() - began < 2 and more_bytes() < 300e6


def changed(name, change):
    def apply(tensors):
        tensors[name] = change(tensors[name])

    return apply


WRONG_TENSORS = {
    "nan": (changed("stem.weight", lambda x: x.fill_(float("nan"))), "stem.weight holds impossible values"),
    "inf": (changed("classifier.bias", lambda x: x.fill_(float("inf"))), "classifier.bias holds impossible values"),
    "variance": (changed("norm.running_var", lambda x: -x), "norm.running_var holds impossible values"),
    "no deviation": (changed("std", torch.zeros_like), "std holds impossible values"),
    "half": (changed("stem.weight", torch.Tensor.half), "stem.weight is torch.float16 [8, 1, 3, 3] in place of"),
    "double": (changed("stem.weight", torch.Tensor.double), "stem.weight is torch.float64"),
    "int8": (changed("stem.weight", torch.Tensor.char), "stem.weight is torch.int8"),
    "bool": (changed("stem.weight", torch.Tensor.bool), "stem.weight is torch.bool"),
    "complex": (changed("stem.weight", lambda x: x.to(torch.complex64)), "stem.weight is torch.complex64"),
    "counter": (changed("norm.num_batches_tracked", torch.Tensor.int), "norm.num_batches_tracked is torch.int32"),
    "shape": (changed("classifier.bias", lambda x: x[:-1].clone()), "classifier.bias is torch.float32 [27] in place"),
    "missing": (lambda tensors: tensors.pop("mean"), "mean is missing"),
    "surplus": (lambda tensors: tensors.update(more=torch.zeros(2)), "more is not part of it"),
    "few": (lambda tensors: [tensors.pop(name) for name in list(tensors)[1:]], "fewer than the arch has blocks"),
}


@pytest.mark.parametrize("wrong", WRONG_TENSORS)
def test_impossible_weights_are_refused(saved, wrong):
    change, reason = WRONG_TENSORS[wrong]
    tensors = load_file(saved.with_suffix(".safetensors"))
    change(tensors)
    forge(saved, tensors)
    assert "does not fit its card: " in refused(saved, reason)


# -------------------------------------------------------------------- predictions


MAKE = """
import sys
from eas.serving.deploy import make_module
from eas.spaces import EfficientNetLiteSpace, MobileNetV3Space, PreResNetSpace

space = {space}
for build in (lambda: space.network(space.smallest, 3), lambda: space.supernet(3, [0.0] * 3, [1.0] * 3)):
    make_module(build, build().state_dict(), "unfit")
sys.exit(", ".join({{"sympy", "torch._dynamo", "torch._inductor"}} & sys.modules.keys()) or 0)
"""


@pytest.mark.parametrize(
    "space",
    ["EfficientNetLiteSpace(32, 3)", "MobileNetV3Space(32, 3)", "PreResNetSpace(32, 3, (8, 16), (1, 2), (0.5, 1.0))"],
)
def test_torchs_compiler_is_not_loaded_for_a_network_that_is(space):
    done = subprocess.run([sys.executable, "-c", MAKE.format(space=space)], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_predictions_are_class_names(saved, dataset):
    network, card = load(saved)
    images = dataset.test.images[:200]
    said = [answer[0][0] for answer in predict(network, card, images)]
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
    assert "\n" not in str(caught.value)


def test_image_files_are_classified_as_their_pixels_are(saved, dataset, tmp_path):
    network, card = load(saved)
    images = dataset.test.images[:20]
    paths = [tmp_path / f"{index}.png" for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image[0].numpy()).save(path)
    rows = predict(network, card, paths)
    for row, answer in zip(rows, predict(network, card, images), strict=True):
        assert dict(row) == pytest.approx(dict(answer), abs=1e-6)
        shares = [share for _, share in row]
        assert {name for name, _ in row} == set(card.classes) and sum(shares) == pytest.approx(1)
        assert shares == sorted(shares, reverse=True)


# -------------------------------------------------------------------- image files


@pytest.fixture
def colour(make):
    return make(["digits"])[1].model_copy(update={"in_channels": 3})


@pytest.fixture
def grey(make):
    return make(["digits"])[1]


def pixels(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_an_image_of_the_networks_size_is_read_as_it_is(colour, grey, tmp_path):
    array = pixels(16, 16)
    Image.fromarray(array).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", colour)
    assert image.dtype == torch.uint8 and torch.equal(image, torch.from_numpy(array).permute(2, 0, 1)[None])
    one = pixels(16, 16, 1)
    Image.fromarray(one).save(tmp_path / "b.png")
    assert torch.equal(read_image(tmp_path / "b.png", grey), torch.from_numpy(one)[None, None])


@pytest.mark.parametrize(("height", "width"), [(40, 100), (100, 40), (7, 9), (1, 500), (16, 17)])
def test_the_centre_is_cut_out_of_the_scaled_image(colour, tmp_path, height, width):
    Image.fromarray(pixels(height, width)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", colour).shape == (1, 3, 16, 16)


def test_what_lies_beside_the_centre_does_not_count(colour, tmp_path):
    array = np.zeros((64, 192, 3), np.uint8)
    array[:, 64:128] = 200
    Image.fromarray(array).save(tmp_path / "a.png")
    inside = read_image(tmp_path / "a.png", colour)[..., 1:-1]
    assert (inside.float() - 200).abs().max() < 5


def test_small_detail_is_averaged_and_not_picked(grey, tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (160, 80))
    Image.fromarray(stripes).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", grey).float() - 127.5).abs().max() < 4


def test_a_photo_is_turned_upright(colour, tmp_path):
    array = np.zeros((32, 32, 3), np.uint8)
    array[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the stored top is the right side
    Image.fromarray(array).save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = read_image(tmp_path / "a.jpg", colour).float()
    assert image[..., 10:].mean() > 240 and image[..., :6].mean() < 15


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr"])
def test_any_kind_of_pixels_becomes_grey_or_colour(colour, grey, tmp_path, mode):
    if mode == "I;16":
        image = Image.fromarray(np.full((16, 16), 128 << 8, np.uint16))
    else:
        image = Image.fromarray(np.where(pixels(16, 16, 1) > 127, 255, 0).astype(np.uint8)).convert(mode)
    image.save(tmp_path / "a.tiff")
    for card in (colour, grey):
        read = read_image(tmp_path / "a.tiff", card)
        assert read.shape == (1, card.in_channels, 16, 16)
        assert (read == 128).all() if mode == "I;16" else {0, 255} >= set(read.unique().tolist())


@pytest.mark.parametrize("values", [np.float32(0.5), np.int32(200)])
def test_values_of_which_nobody_knows_what_white_is_are_refused(colour, tmp_path, values):
    Image.fromarray(np.full((16, 16), values)).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match="its values are no colours of 8 or 16 bits"):
        read_image(tmp_path / "a.tiff", colour)


@pytest.mark.parametrize("name", ["a.png", "a.pgm", "big.tiff"])
def test_of_sixteen_bits_the_upper_eight_are_read(grey, tmp_path, name):
    image = Image.fromarray(np.full((16, 16), 128 << 8, ">u2" if name == "big.tiff" else np.uint16))
    image.save(tmp_path / name)
    assert (read_image(tmp_path / name, grey) == 128).all()


def test_what_is_no_image_is_one_line(colour, tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    Image.fromarray(pixels(64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    for name in ("text.jpg", "cut.png"):
        with pytest.raises(ValueError, match=f"{name} is no image that can be read") as caught:
            read_image(tmp_path / name, colour)
        assert "\n" not in str(caught.value)
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{path.name} is missing"):
            read_image(path, colour)


def test_a_network_of_two_channels_reads_no_image_files(colour, tmp_path):
    with pytest.raises(ValueError, match="1 or 3 channels, but the network reads 2"):
        read_image(tmp_path / "a.png", colour.model_copy(update={"in_channels": 2}))


@pytest.mark.parametrize(("right", "count"), [(0, 7), (7, 7), (5, 11), (230, 250), (1, 1)])
def test_the_interval_of_a_share_is_scipys(right, count):
    interval = stats.binomtest(right, count).proportion_ci(method="wilson")
    expected = [100 * right / count, 100 * interval.low, 100 * interval.high]
    assert share_of(right, count) == pytest.approx(expected, abs=0.006)


def test_accuracy_counts_right_answers_and_names_what_is_taken_for_what(saved):
    _, card = load(saved)
    names, logits = card.classes, torch.eye(len(card.classes))

    def network(images):  # says the class whose number is the first pixel
        return logits[(images[:, 0, 0, 0] * 255).round().long()]

    said, labels = torch.tensor([0, 1, 1, 2, 0, 0, 2]), torch.tensor([0, 1, 2, 2, 2, 2, 1])
    images = said.view(-1, 1, 1, 1).expand(-1, 1, card.image_size, card.image_size).to(torch.uint8)
    found = accuracy_on(network, card, Split(images, labels))
    assert found.images == 7 and found.top1 == share_of(3, 7)
    assert found.confused == ((names[2], names[0], 2), (names[1], names[2], 1), (names[2], names[1], 1))
    perfect = accuracy_on(network, card, Split(images, said))
    assert perfect.top1[0] == 100 and perfect.confused == ()


def test_an_onnx_file_is_loaded_and_says_the_same(saved, dataset, tmp_path):
    network, card = load(saved)
    path = export_onnx(network, card, tmp_path / "network")
    other, same_card = load(path)
    assert same_card == card
    for here, there in zip(*(predict(each, card, dataset.test.images[:50]) for each in (network, other)), strict=True):
        assert dict(here) == pytest.approx(dict(there), abs=1e-5)


def test_what_is_no_onnx_file_of_ours_is_refused(saved, tmp_path):
    path = tmp_path / "network.onnx"
    with pytest.raises(FileNotFoundError, match="network.onnx is missing"):
        load(path)
    path.write_bytes(b"no network")
    with pytest.raises(ValueError, match="network.onnx is damaged, or no network that was exported here") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    network, card = load(saved)
    model = onnx.load(export_onnx(network, card, tmp_path / "other"))
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(ValueError, match="network.onnx is damaged, or no network that was exported here"):
        load(path)
