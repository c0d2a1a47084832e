"""Kits: which weights serve which classes, and the folder that a kit is stored in."""

import dataclasses
import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tiny_kit import COUNT, FILES, make_kit, write_branches, write_tiny_kit

from eas import data
from eas.additive import AdditiveGenerator
from eas.branches import compose_branches, superclass_shares
from eas.evaluation import calibrate, calibration_sample
from eas.files import sha256, write_tensors
from eas.serving import kit_files as kits
from eas.serving.answers import predict
from eas.serving.deploy import in_turn
from eas.serving.kit_files import load_kit, write_images, write_kit


@pytest.fixture
def shared(supernet, dataset):
    """A kit without branches."""
    return make_kit(supernet, dataset)


@pytest.fixture
def kit(shared, tmp_path):
    write_branches(shared, tmp_path / "branches.safetensors")
    return dataclasses.replace(shared, branches=load_file(tmp_path / "branches.safetensors"))


@pytest.fixture
def folder(shared, dataset, tmp_path):
    (tmp_path / "kit").mkdir()
    return write_tiny_kit(tmp_path / "kit", shared, dataset)


def refused(folder, reason, kind=ValueError):
    """`load_kit` fails with one line that holds the reason."""
    with pytest.raises(kind) as caught:
        load_kit(folder)
    message = str(caught.value)
    assert "\n" not in message and reason in message, message


def edit(folder, change):
    content = json.loads((folder / "kit.json").read_text())
    content.pop("seal", None)
    change(content)
    (folder / "kit.json").write_text(json.dumps(content))


# -------------------------------------------------------------------- which weights serve which classes


def test_classes_of_one_superclass_are_served_by_its_branch_however_they_are_named(kit, hierarchy):
    arrows = hierarchy.members[7]
    for names in (["arrows"], ["arrows", "arrows"], list(arrows), list(reversed(arrows)), [arrows[0], "arrows"]):
        assert kit.branches_for(hierarchy.class_mask(names)) == ["arrows"]
        assert kit.specialize(names, 5e5)[1] == kit.specialize("arrows", 5e5)[1]
    assert kit.branches_for(hierarchy.class_mask(arrows[1:3])) == ["arrows"]


def test_sets_of_more_superclasses_than_branches_were_trained_for_are_served_by_the_shared_weights(
    kit, shared, hierarchy
):
    two, three = (hierarchy.class_mask(names) for names in (["arrows", "0"], ["arrows", "0", "greek"]))
    assert not kit.branches_for(two) and not shared.branches_for(hierarchy.class_mask(["arrows"]))
    kit = dataclasses.replace(kit, largest_set=2)
    assert kit.branches_for(two) == ["digits", "arrows"] and not kit.branches_for(three)
    whole, arrows = hierarchy.class_mask(["arrows", "digits"]), hierarchy.class_mask(list(hierarchy.members[7][:2]))
    strict = dataclasses.replace(kit, mixed_sets=False)
    assert strict.branches_for(whole) == ["digits", "arrows"] and strict.branches_for(arrows) == ["arrows"]
    assert not strict.branches_for(two)
    branch = kit.weights(two)[0].state_dict()
    assert torch.equal(kit.weights(three)[0].norm.bias, kit.supernet.norm.bias)
    count = len(hierarchy.members[7])
    parts = kit.branches
    mean = (count * parts["7.norm.bias"].float() + parts["0.norm.bias"].float()) / (count + 1)
    torch.testing.assert_close(branch["norm.bias"], kit.supernet.norm.bias + mean)


def test_a_branch_is_calibrated_on_some_of_its_superclasss_images(kit, supernet, hierarchy, dataset):
    kit = dataclasses.replace(kit, branch_images=dataset.train, calibrated=12)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    network, card = kit.specialize(list(hierarchy.members[7]), 5e5)
    assert torch.equal(
        kit.weights(hierarchy.class_mask(hierarchy.members[7][:2]))[1].labels.unique(),
        hierarchy.class_mask(["arrows"]).nonzero()[:, 0],
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())
    mask = hierarchy.class_mask(["arrows"])
    branch = compose_branches(supernet, kit.branches, superclass_shares(hierarchy, mask))
    assert torch.equal(network.classifier.weight, branch.classifier.weight[mask])
    whole = kit.weights(mask)[1]
    images = in_turn(whole, 12)
    assert len(images) == 12 < len(whole) and mask[whole.labels].all()
    mean, _ = calibrate(branch, torch.tensor(card.arch), images).recorded[branch.norm]
    torch.testing.assert_close(network.norm.running_mean, mean)


def test_shared_weights_are_calibrated_on_images_of_all_classes(kit, supernet, hierarchy):
    network, card = kit.specialize(["arrows", "0"], 5e5)
    assert torch.equal(network.classifier.weight, supernet.classifier.weight[hierarchy.class_mask(["arrows", "0"])])
    mean, _ = calibrate(supernet, torch.tensor(card.arch), kit.calibration).recorded[supernet.norm]
    torch.testing.assert_close(network.norm.running_mean, mean)


def test_an_unknown_name_is_an_error_that_lists_the_known_ones(kit, hierarchy):
    with pytest.raises(ValueError, match="unknown superclass or class 'digit'") as caught:
        kit.specialize(["digit"], 5e5)
    message = str(caught.value)
    assert all(name in message for name in hierarchy.superclasses + hierarchy.classes) and "\n" not in message


def test_one_name_needs_no_list(kit):
    assert kit.specialize("arrows", 5e5)[1] == kit.specialize(["arrows"], 5e5)[1]


def test_no_name_is_an_error(kit):
    with pytest.raises(ValueError, match="empty: name at least one"):
        kit.specialize([], 5e5)


def test_a_loaded_kit_serves_what_was_checked_whatever_becomes_of_its_files(folder):
    kit = load_kit(folder)
    before = kit.specialize("arrows", 5e5)[0].state_dict()
    write_tensors({"7.weight": torch.zeros(3)}, folder / FILES["branches"][0])
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in kit.specialize("arrows", 5e5)[0].state_dict().items()
    )


def test_a_branch_of_another_network_is_an_error(kit):
    kit = dataclasses.replace(kit, branches={"7.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match="not the branch of superclass 7"):
        kit.specialize(["arrows"], 5e5)


def test_the_calibration_sample_is_the_beginning_of_a_fixed_shuffle(dataset):
    rows = torch.randperm(len(dataset.calibration), generator=torch.Generator().manual_seed(0))
    sample = calibration_sample(dataset.calibration, 20)
    assert torch.equal(sample.images, dataset.calibration.images[rows[:20]])
    assert torch.equal(sample.labels, dataset.calibration.labels[rows[:20]])
    assert len(calibration_sample(dataset.calibration, 10**6)) == len(dataset.calibration)


# -------------------------------------------------------------------- the folder


@pytest.mark.parametrize("names", [["arrows"], ["arrows", "digits", "Α"]])
def test_a_stored_kit_serves_as_the_one_that_was_stored(kit, folder, dataset, names):
    stored = load_kit(folder)
    (network, card), (again, same_card) = (each.specialize(names, 5e5) for each in (kit, stored))
    assert card == same_card and card.synthetic
    images = dataset.test.images[:100].float() / 255
    with torch.inference_mode():
        assert torch.equal(network(images), again(images))
    assert len({answer[0][0] for answer in predict(again, card, dataset.test.images)}) > 1


def test_a_stored_kit_has_the_parts_that_were_stored(kit, folder, dataset):
    stored = load_kit(folder)
    assert stored.hierarchy == dataset.hierarchy and stored.synthetic
    assert stored.supernet.space == stored.generator.space == kit.supernet.space
    assert torch.equal(stored.calibration.labels, kit.calibration.labels) and len(stored.calibration) == COUNT
    assert torch.equal(stored.branch_images.images, dataset.calibration.images)
    modules = {"supernet": stored.supernet, "generator": stored.generator}
    for name, module in modules.items():
        assert not module.training and not any(parameter.requires_grad for parameter in module.parameters())
        for key, tensor in getattr(kit, name).state_dict().items():
            assert torch.equal(tensor, module.state_dict()[key])
    strides = [layer.weight.stride() for layer in kit.supernet.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert strides == [m.weight.stride() for m in stored.supernet.modules() if isinstance(m, torch.nn.Conv2d)]


def test_the_images_beside_the_weights_are_the_calibration_split(dataset, tmp_path):
    write_images(dataset, tmp_path / "images.safetensors", "calibration")
    written = data.load(tmp_path / "images.safetensors")
    assert torch.equal(written.calibration.images, dataset.calibration.images)
    assert torch.equal(written.calibration.labels, dataset.calibration.labels)
    assert written.mean == pytest.approx(dataset.mean) and written.hierarchy == dataset.hierarchy
    assert (written.about, written.synthetic) == (dataset.about, dataset.synthetic)
    assert not len(written.train) + len(written.selection) + len(written.test)


def test_a_kit_without_branches_serves_superclasses_by_shared_weights(folder, shared):
    write_kit(folder, shared.generator, COUNT, {name: where for name, where in FILES.items() if name != "branches"})
    stored = load_kit(folder)
    assert stored.branches is None
    network, _ = stored.specialize(["arrows"], 5e5)
    rows = shared.hierarchy.class_mask(["arrows"])
    assert torch.equal(network.classifier.weight, shared.supernet.classifier.weight[rows])


def test_a_generator_in_closed_form_is_stored_and_serves(folder, shared, dataset):
    made = AdditiveGenerator(shared.supernet.space, len(dataset.hierarchy.classes), (3e5, 6e5))
    made.effects.copy_(torch.rand(made.effects.shape, generator=torch.Generator().manual_seed(0)))
    tensors = load_file(folder / FILES["generator"][0])
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("generator.")}
    write_tensors(tensors | {f"generator.{n}": t for n, t in made.state_dict().items()}, folder / FILES["generator"][0])
    write_kit(folder, made, COUNT, FILES)
    kit = load_kit(folder)
    assert isinstance(kit.generator, AdditiveGenerator) and kit.generator.budget_range.tolist() == [3e5, 6e5]
    _, card = kit.specialize("arrows", 5e5)
    mask = dataset.hierarchy.class_mask(["arrows"])
    assert list(card.arch) == made.generate(mask[None], torch.tensor([5e5]))[0].tolist()


def test_a_blind_generator_stays_blind(folder, shared):
    shared.generator.class_embedding.blind = True
    write_kit(folder, shared.generator, COUNT, FILES)
    assert load_kit(folder).generator.class_embedding.blind


def test_equal_parts_give_equal_bytes(folder, shared, dataset, tmp_path):
    (tmp_path / "again").mkdir()
    write_tiny_kit(tmp_path / "again", shared, dataset)
    for path in ("kit.json", *{path for path, _ in FILES.values()}):
        assert (folder / path).read_bytes() == (tmp_path / "again" / path).read_bytes()


# -------------------------------------------------------------------- by name


def test_a_name_means_a_kit_under_weights(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "weights/tiny")
    assert kits.find_kit("tiny").resolve() == (tmp_path / "weights" / "tiny").resolve()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(kits, "__file__", str(tmp_path / "eas" / "serving" / "kit.py"))
    assert kits.find_kit("tiny").resolve() == (tmp_path / "weights" / "tiny").resolve()
    assert len(load_kit("tiny").calibration) == COUNT
    refused("small", "no kit small: looked for weights/small/kit.json; kits that have names: ", FileNotFoundError)
    refused("small", "tiny", FileNotFoundError)


def test_a_kit_in_a_folder_of_that_name_comes_first_and_other_folders_hide_none(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "weights/tiny")
    (tmp_path / "tiny").mkdir()  # one's images, say
    assert load_kit("tiny").hierarchy == load_kit(folder).hierarchy
    (tmp_path / "tiny" / "kit.json").write_text("{")
    refused("tiny", "tiny/kit.json is damaged")
    refused("weights/other", "no kit weights/other: looked for weights/other/kit.json", FileNotFoundError)


# -------------------------------------------------------------------- damage


@pytest.mark.parametrize("part", FILES)
def test_a_damaged_file_is_named(folder, part):
    path = folder / FILES[part][0]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    refused(folder, f"{path} is damaged, or another file: its SHA-256 differs from {folder / 'kit.json'}")


@pytest.mark.parametrize("part", FILES)
def test_a_missing_file_is_named(folder, part):
    path = folder / FILES[part][0]
    path.unlink()
    refused(folder, f"{path} is missing", FileNotFoundError)


@pytest.mark.parametrize("part", ["supernet", "generator", "images"])
def test_a_file_with_other_contents_is_refused_though_it_is_the_listed_one(folder, part):
    path = folder / FILES[part][0]
    write_tensors({FILES[part][1] + "weight": torch.zeros(3)}, path)
    edit(folder, lambda content: [each.update(sha256=sha256(folder / each["path"])) for each in listed(content)])
    refused(folder, str(path))


def listed(content):
    return content["files"].values()


def change_tensor(folder, name, change):
    path = folder / FILES["supernet"][0]
    tensors = load_file(path)
    tensors[name] = change(tensors[name])
    write_tensors(tensors, path)
    edit(folder, lambda content: [each.update(sha256=sha256(folder / each["path"])) for each in listed(content)])


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("supernet.std", torch.zeros_like, "std holds impossible values"),
        ("supernet.stem.weight", lambda x: x * float("nan"), "stem.weight holds impossible values"),
        ("supernet.stem.weight", lambda x: x[:4], "stem.weight is torch.float32 [4, 1, 3, 3] in place of"),
        ("generator.anchors", lambda x: x.float(), "anchors is torch.float32 [2] in place of torch.float64 [2]"),
    ],
)
def test_impossible_weights_are_refused(folder, name, change, reason):
    change_tensor(folder, name, change)
    refused(folder, reason)


@pytest.mark.parametrize("path", ["../images.safetensors", "/etc/hostname", "parts/../../images.safetensors", "link"])
def test_files_outside_the_folder_are_refused(folder, path):
    shutil.copy(folder / "images.safetensors", folder.parent / "images.safetensors")
    (folder / "link").symlink_to(folder.parent / "images.safetensors")
    edit(folder, lambda content: content["files"]["images"].update(path=path))
    refused(folder, f"kit.json lists {path}, which is outside its folder")


def test_a_folder_that_is_a_link_is_a_kit(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert len(load_kit(tmp_path / "link").calibration) == COUNT


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update(format="eas-kit-1"), "format: Input should be 'eas-kit-2'; make it again"),
        (lambda c: c.pop("format"), "format: Field required"),
        (lambda c: c.update(more=1), "more: Extra inputs"),
        (lambda c: c["space"].update(kind="resnet"), "space: unknown kind 'resnet'"),
        (lambda c: c["space"].update(depths=[1, 2**40]), "is too large"),
        (lambda c: c["space"].update(widths=[8, 32]), "does not fit"),
        (lambda c: c["space"].update(widths=[8, 10**30]), "would be too large"),
        (lambda c: c["generator"].update(width=10**12), "does not fit"),
        (lambda c: c["generator"].update(width=0), "generator.width: "),
        (lambda c: c["generator"].update(anchors=[]), "generator.anchors: "),
        (lambda c: c["generator"].update(anchors=[1.0]), "does not fit"),
        (lambda c: c.update(image_size=32), "images.safetensors does not fit"),
        (lambda c: c.update(calibration_images=0), "calibration_images: "),
        (lambda c: c["files"].pop("supernet"), "files.supernet: Field required"),
        (lambda c: c["files"].update(more=1), "files.more: Extra inputs"),
        (lambda c: c["files"]["images"].update(sha256="x"), "files.images.sha256: "),
        (lambda c: c["files"]["images"].update(path=""), "files.images.path: "),
        (lambda c: c["files"]["supernet"].update(prefix="other."), "classifier.bias is missing"),
    ],
)
def test_a_wrong_list_is_refused(folder, change, reason):
    edit(folder, change)
    refused(folder, reason)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 10**5, b"null", b"\xff"])
def test_a_list_that_is_not_json_is_refused(folder, content):
    (folder / "kit.json").write_bytes(content)
    refused(folder, f"{folder / 'kit.json'} is damaged, or not the list of a kit")


def test_images_must_be_of_every_class(folder, shared, dataset):
    mask = ~dataset.hierarchy.class_mask(["arrows"])
    write_images(
        dataclasses.replace(dataset, calibration=dataset.calibration.only(mask)),
        folder / "images.safetensors",
        "calibration",
    )
    write_kit(folder, shared.generator, COUNT, FILES)
    refused(folder, "classes without calibration images: ←")


# -------------------------------------------------------------------- the package


def test_importing_the_package_is_quick_until_it_is_used():
    code = "import sys, eas; eager = 'torch' in sys.modules; eas.load_kit; print(eager, 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False True\n"


def test_the_package_has_the_names_that_it_lists():
    import eas

    assert all(callable(getattr(eas, name)) for name in eas.__all__) and set(eas.__all__) <= set(dir(eas))
    with pytest.raises(AttributeError, match="no attribute 'loads'"):
        eas.loads  # noqa: B018


# -------------------------------------------------------------------- what it was tested on


def test_networks_are_tested_on_the_kits_test_images(kit, folder, dataset):
    write_images(dataset, folder / "test.safetensors", "test")
    files = FILES | {"test": ("test.safetensors", "")}
    write_kit(folder, kit.generator, COUNT, files)
    stored = load_kit(folder)
    assert len(stored.test) == len(dataset.test) and not len(data.load(folder / "test.safetensors").calibration)
    network, card = stored.specialize(["arrows"], 5e5)
    assert card.test is None
    own = dataset.test.only(dataset.hierarchy.class_mask(["arrows"]))
    first = dataset.hierarchy.classes.index(card.classes[0])
    answers = predict(network, card, own.images)
    right = sum(
        card.classes[label - first] == row[0][0] for row, label in zip(answers, own.labels.tolist(), strict=True)
    )
    tested = stored.tested(network, card)
    assert tested.test.images == len(own) and tested.test.top1[0] == pytest.approx(100 * right / len(own), abs=0.01)
    assert load_kit(folder).tested(network, card) == tested and kit.tested(network, card) == card


def test_a_kit_carries_no_more_test_images_than_it_should(folder, dataset, monkeypatch):
    monkeypatch.setattr(kits, "MOST_IMAGES", 12)
    write_images(dataset, folder / "test.safetensors", "test")
    assert len(data.load(folder / "test.safetensors").test) == 12


def test_a_studys_file_means_the_kit_that_was_trained_for_it(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "build" / "shop" / "kit")
    assert kits.find_kit(tmp_path / "shop.yaml") == tmp_path / "build" / "shop" / "kit"
    refused(tmp_path / "other.yaml", "other/kit/kit.json is missing: run `eas train", FileNotFoundError)


def test_a_kit_that_was_installed_is_found_by_its_name_from_anywhere(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "prefix" / "share" / "eas" / "kits" / "tiny")

    class File:
        name = "kit.json"

        def locate(self):
            return tmp_path / "prefix" / "lib" / ".." / "share" / "eas" / "kits" / "tiny" / "kit.json"

    class Distribution:
        files = [File()]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kits, "distribution", lambda name: Distribution)
    assert kits.find_kit("tiny") == (tmp_path / "prefix" / "share" / "eas" / "kits" / "tiny").resolve()
    assert len(load_kit("tiny").calibration) == COUNT
