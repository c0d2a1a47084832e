"""Hierarchies, splits, files and batches; the real CIFAR-100 where it is present."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from eas import data, download
from eas.config import Augment, load_study
from eas.data import Hierarchy, Split

ROOT = Path(__file__).parents[1]
CIFAR100 = load_study("cifar100", ROOT)
PRESENT = (Path(os.environ.get("EAS_CIFAR100", ROOT / "data")) / data.CIFAR100_FOLDER / "train").is_file()
UNEQUAL = Hierarchy(("pets", "tools", "fruit"), (("cat", "dog"), ("saw",), ("apple", "plum", "pear")))
OFF = Augment(shift=0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(count, channels=1, side=12, seed=0):
    return torch.randint(256, (count, channels, side, side), generator=seeded(seed), dtype=torch.uint8)


def equal(one, other):
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


# -------------------------------------------------------------------- hierarchies


def test_parent_with_unequal_sizes():
    assert UNEQUAL.classes == ("cat", "dog", "saw", "apple", "plum", "pear")
    assert UNEQUAL.parent.tolist() == [0, 0, 1, 2, 2, 2] and UNEQUAL.parent.dtype == torch.int64


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["pets"], [0, 1]),
        (["tools"], [2]),
        (["plum"], [4]),
        (["fruit", "cat"], [0, 3, 4, 5]),
        (["fruit", "pear", "fruit"], [3, 4, 5]),
        (("pets", "tools", "fruit"), [0, 1, 2, 3, 4, 5]),
        (iter(["saw", "dog"]), [1, 2]),
    ],
)
def test_kept_takes_superclasses_and_classes(names, expected):
    kept = UNEQUAL.kept(names)
    assert kept.dtype == torch.bool and kept.nonzero()[:, 0].tolist() == expected


def test_an_unknown_name_lists_the_known_ones_and_suggests():
    with pytest.raises(ValueError) as caught:
        UNEQUAL.kept(["pets", "aple"])
    message = str(caught.value)
    assert "'aple'" in message and "did you mean 'apple'?" in message and "\n" not in message
    assert all(name in message for name in UNEQUAL.superclasses + UNEQUAL.classes)


def test_an_empty_set_of_classes_is_an_error():
    with pytest.raises(ValueError, match="at least one superclass or class"):
        UNEQUAL.kept([])


def test_every_superclass_and_class_of_the_data_sets_can_be_named():
    for known, superclasses, classes in (("glyphs", 10, 160), ("cifar100", 20, 100)):
        hierarchy = data.hierarchy(known)
        assert len(hierarchy.superclasses) == superclasses and len(set(hierarchy.classes)) == classes
        assert hierarchy.kept(hierarchy.superclasses).all() and hierarchy.kept(hierarchy.classes).all()
        for name in hierarchy.superclasses:
            members = hierarchy.members[hierarchy.superclasses.index(name)]
            assert int(hierarchy.kept([name]).sum()) == len(members)
    assert data.hierarchy("cifar100").parent.bincount().unique().tolist() == [5]


# -------------------------------------------------------------------- splits


LABELS = torch.arange(30).remainder(4).repeat(5)[torch.randperm(150, generator=seeded(7))]  # classes of unequal size
FRACTIONS = {"selection": 0.2, "calibration": 0.1}


def test_divide_is_disjoint_covers_everything_and_is_sorted():
    parts = data.divide(LABELS, FRACTIONS, seed=0)
    assert list(parts) == ["selection", "calibration", "train"]
    assert torch.cat(list(parts.values())).sort().values.tolist() == list(range(150))
    assert all(torch.equal(rows, rows.sort().values) for rows in parts.values())


def test_divide_is_stratified():
    parts = data.divide(LABELS, FRACTIONS, seed=0)
    sizes = LABELS.bincount()
    assert len(sizes.unique()) > 1
    for name, fraction in FRACTIONS.items():
        assert ((LABELS[parts[name]].bincount() - fraction * sizes).abs() <= 0.5).all()


def test_divide_depends_on_the_seed_alone():
    first = data.divide(LABELS, FRACTIONS, seed=0)
    torch.manual_seed(99)
    again, other = data.divide(LABELS, FRACTIONS, seed=0), data.divide(LABELS, FRACTIONS, seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["selection"], other["selection"])


@pytest.mark.parametrize("fractions", [{"selection": 0.1}, {"selection": 0.9}, {"a": 0.2, "b": 0.1}])
def test_divide_refuses_a_class_with_too_few_images(fractions):
    with pytest.raises(ValueError, match="class 3 has 4 images, too few"):
        data.divide(torch.tensor([0] * 40 + [3] * 4), fractions, seed=0)


def test_the_splits_of_a_study_come_from_its_own_typefaces(study, dataset):
    known, test = data.load_images(study.data)
    _, indices = data.build(study)
    assert list(indices["test"]) == list(range(len(test))) and equal(dataset.test, test)
    for name in ("train", "selection", "calibration"):
        rows = indices[name]
        assert equal(getattr(dataset, name), Split(known.images[rows], known.labels[rows]))
    rows = torch.cat([indices[name] for name in ("train", "selection", "calibration")])
    assert sorted(rows.tolist()) == list(range(len(known)))


def test_mean_and_deviation_are_those_of_the_training_images(dataset):
    pixels = dataset.train.images.double() / 255
    assert dataset.mean == pytest.approx([pixels.mean().item()])
    assert dataset.std == pytest.approx([pixels.std().item()])


def test_split_table_names_every_image_once(study, dataset, hierarchy):
    table = data.split_table(*data.build(study))
    assert len(table) == sum(len(getattr(dataset, name)) for name in data.SPLITS)
    assert not table.duplicated(["published", "index"]).any()
    assert table.groupby("split")["class"].nunique().eq(160).all()
    assert (table.published.eq("test") == table.split.eq("test")).all()
    row = table[table["class"] == "Ω"].iloc[0]
    assert row.superclass == "greek"
    _, test = data.load_images(study.data)
    of_test = table[table.split == "test"]
    assert [hierarchy.classes[label] for label in test.labels[of_test["index"].tolist()]] == list(of_test["class"])


def test_only_keeps_images_of_the_kept_classes_and_their_labels(dataset, hierarchy):
    kept = hierarchy.kept(["digits", "arrows"])
    part = dataset.test.only(kept)
    assert len(part) == int(kept[dataset.test.labels].sum()) == 4 * 18
    assert sorted(part.labels.unique().tolist()) == kept.nonzero()[:, 0].tolist()
    assert torch.equal(part.images[0], dataset.test.images[kept[dataset.test.labels].nonzero()[0, 0]])


def test_images_of_another_size_than_the_study_asks_for_are_refused(monkeypatch):
    split = Split(random_images(200, 3, side=16), torch.arange(100).repeat(2))
    monkeypatch.setattr(data, "load_images", lambda *_: (split, split))
    with pytest.raises(ValueError, match="cifar100 has 16 pixels, not 32"):
        data.build(CIFAR100)


# -------------------------------------------------------------------- files


def test_what_is_saved_is_loaded(study, dataset, tmp_path):
    path = tmp_path / "new folder" / "data.safetensors"
    data.save(dataset, path)
    loaded = data.load(study, path)
    assert loaded.hierarchy == dataset.hierarchy
    assert all(equal(getattr(loaded, name), getattr(dataset, name)) for name in data.SPLITS)
    assert loaded.train.images.dtype == torch.uint8 and loaded.train.labels.dtype == torch.int64
    # As a supernet holds them, in float32:
    assert torch.equal(torch.tensor(loaded.mean), torch.tensor(dataset.mean))
    assert torch.equal(torch.tensor(loaded.std), torch.tensor(dataset.std))
    assert [file.name for file in path.parent.iterdir()] == ["data.safetensors"]


def test_a_missing_file_names_the_step_that_writes_it(study, tmp_path):
    with pytest.raises(FileNotFoundError, match="run notebooks/01_superclasses for the study tiny first"):
        data.load(study, tmp_path / "data.safetensors")


def test_a_failed_write_leaves_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"

    def fail_midway(file, content):
        file.write_text("half of")
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", fail_midway)
        with pytest.raises(OSError, match="no space"):
            data.save_tensors({"a": torch.ones(3)}, path)
        assert not path.exists()
    data.save_tensors({"a": torch.ones(3)}, path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", fail_midway)
        with pytest.raises(OSError, match="no space"):
            data.save_tensors({"a": torch.zeros(3)}, path)
    assert torch.equal(load_file(path)["a"], torch.ones(3))
    data.save_tensors({"a": torch.zeros(3)}, path)
    assert torch.equal(load_file(path)["a"], torch.zeros(3)) and list(tmp_path.iterdir()) == [path]


def test_whoever_may_read_other_files_may_read_weights(tmp_path):
    data.save_tensors({"a": torch.ones(3)}, tmp_path / "weights.safetensors")
    (tmp_path / "card.json").write_text("{}")
    assert (tmp_path / "weights.safetensors").stat().st_mode == (tmp_path / "card.json").stat().st_mode


def test_tensors_of_any_layout_are_saved(tmp_path):
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last).requires_grad_()
    data.save_tensors({"weight": weight, "part": weight[:, :1]}, tmp_path / "a", {"columns": "x"})
    loaded = load_file(tmp_path / "a")
    assert torch.equal(loaded["weight"], weight) and torch.equal(loaded["part"], weight[:, :1])


# -------------------------------------------------------------------- batches


def marked(count, side=8):
    """Images of one grey value, which is the label."""
    labels = torch.arange(count)
    return Split(labels.to(torch.uint8)[:, None, None, None].expand(-1, 3, side, side).contiguous(), labels)


def test_batches_have_one_shape_and_leave_out_the_rest():
    found = list(data.batches(marked(50), 16, OFF, seeded()))
    assert len(found) == 3
    for images, labels in found:
        assert images.shape == (16, 3, 8, 8) and images.dtype == torch.float32 and labels.shape == (16,)
        assert images.min() >= 0 and images.max() <= 1
    assert len(torch.cat([labels for _, labels in found]).unique()) == 48


@pytest.mark.parametrize("augment", [OFF, Augment(shift=3, flip=True)])
def test_labels_stay_with_their_images(augment):
    for images, labels in data.batches(marked(50), 16, augment, seeded()):
        assert torch.equal((images * 255).round().long(), labels[:, None, None, None].expand_as(images))


def test_epochs_are_in_a_random_order_that_the_generator_decides():
    def order(seed):
        augment = Augment(shift=2, flip=True, cutout=3)
        split = Split(random_images(64), torch.arange(64))
        images, labels = zip(*data.batches(split, 16, augment, seeded(seed)), strict=True)
        return torch.cat(images), torch.cat(labels)

    images, labels = order(0)
    torch.manual_seed(99)
    again, other = order(0), order(1)
    assert torch.equal(images, again[0]) and torch.equal(labels, again[1])
    assert not torch.equal(labels, other[1]) and not torch.equal(labels, torch.arange(64))
    rng = seeded(0)
    split = Split(random_images(64), torch.arange(64))
    one, two = (torch.cat([labels for _, labels in data.batches(split, 16, OFF, rng)]) for _ in range(2))
    assert not torch.equal(one, two)  # the next epoch


def test_a_split_smaller_than_the_batch_is_one_batch():
    ((images, labels),) = data.batches(marked(5), 16, OFF, seeded())
    assert len(images) == 5 and sorted(labels.tolist()) == list(range(5))


def test_no_change_is_no_change():
    images = random_images(20, 3)
    assert torch.equal(data.change(images, OFF, seeded()), images)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("shift", "side"), [(1, 12), (2, 12), (3, 8)])
def test_shift_and_flip_equal_a_naive_reference(shift, side, flip):
    """Every image is one of its shifts by reflection (mirrored or not), and every one of them comes up."""
    count = 12 * (2 * shift + 1) ** 2
    images = random_images(count, 2, side)
    found = data.change(images, Augment(shift=shift, flip=flip), seeded()).numpy()
    assert found.shape == images.shape and found.dtype == np.uint8
    seen = np.zeros((2, 2 * shift + 1, 2 * shift + 1), dtype=int)
    for image, changed in zip(images.numpy(), found, strict=True):
        padded = np.pad(image, ((0, 0), (shift, shift), (shift, shift)), mode="reflect")
        matches = [
            (mirrored, down, right)
            for mirrored, source in enumerate([padded, padded[:, :, ::-1]])
            for down in range(2 * shift + 1)
            for right in range(2 * shift + 1)
            if np.array_equal(source[:, down : down + side, right : right + side], changed)
        ]
        assert len(matches) == 1
        seen[matches[0]] += 1
    marginals = seen.sum((0, 2)), seen.sum((0, 1))
    assert all((np.abs(marginal / marginal.mean() - 1) < 0.5).all() for marginal in marginals)
    assert 0.35 < seen[1].sum() / count < 0.65 if flip else seen[1].sum() == 0


@pytest.mark.parametrize("cutout", [1, 3, 4, 7, 8])
def test_cutout_blanks_a_square_of_its_side(cutout):
    side = 20
    images = torch.full((4000, 2, side, side), 9, dtype=torch.uint8)
    changed = data.change(images, Augment(shift=0, cutout=cutout), seeded())
    assert torch.equal(changed[:, 0], changed[:, 1])
    blank = changed[:, 0] == 0
    high, wide = blank.any(2).sum(1), blank.any(1).sum(1)
    assert torch.equal(high * wide, blank.sum((1, 2)))  # a rectangle: at an edge, what is inside
    assert high.min() >= 1 and wide.min() >= 1
    assert high.max() == wide.max() == cutout
    assert (blank.sum((1, 2)) == cutout**2).float().mean() > 0.9 * ((side - cutout + 1) / side) ** 2
    assert (changed[~blank[:, None].expand_as(changed)] == 9).all()
    assert blank.any(0).all()


def test_as_input_maps_bytes_to_the_unit_interval():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(data.as_input(images), torch.tensor([0.0, 0.2, 1.0]))
    assert images.tolist() == [0, 51, 255]


# -------------------------------------------------------------------- CIFAR-100


def made_up_cifar100(folder, count=40):
    """A folder of the published form with images that are not; fine labels count in the published, sorted order."""
    folder = folder / data.CIFAR100_FOLDER
    folder.mkdir()
    names = sorted(data.hierarchy("cifar100").classes)
    pixels = np.arange(count * 3072, dtype=np.uint32).astype(np.uint8).reshape(count, 3072)
    files = {
        "meta": {"fine_label_names": names},
        "train": {"data": pixels, "fine_labels": [index % 100 for index in range(count)]},
        "test": {"data": pixels[::-1], "fine_labels": [99 - index % 100 for index in range(count)]},
    }
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
    return folder, names, pixels


def vouch_for(folder, monkeypatch):
    monkeypatch.setattr(download, "FILES", {name: download.md5(folder / name) for name in download.FILES})


def test_missing_cifar100_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("EAS_CIFAR100", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        data.build(CIFAR100)
    message = str(caught.value)
    assert str(tmp_path) in message and "python -m eas.data cifar100" in message and "EAS_MIRROR" in message


def test_cifar100_is_looked_for_under_the_root(tmp_path, monkeypatch):
    monkeypatch.delenv("EAS_CIFAR100", raising=False)
    with pytest.raises(FileNotFoundError, match="is missing") as caught:
        data.build(CIFAR100, tmp_path)
    assert str(tmp_path / "data" / data.CIFAR100_FOLDER) in str(caught.value)


def test_labels_are_renumbered_superclass_after_superclass(tmp_path, monkeypatch):
    folder, names, pixels = made_up_cifar100(tmp_path)
    vouch_for(folder, monkeypatch)
    monkeypatch.setenv("EAS_CIFAR100", str(tmp_path))
    train, test = data.load_images(CIFAR100.data)
    classes = data.hierarchy("cifar100").classes
    assert [classes[label] for label in train.labels] == names[:40]
    assert [classes[label] for label in test.labels] == names[:59:-1]
    assert train.images.shape == (40, 3, 32, 32) and train.images.dtype == torch.uint8
    assert np.array_equal(test.images.numpy().reshape(40, -1), pixels[::-1])


@pytest.mark.parametrize("damaged", ["train", "test", "meta"])
def test_a_damaged_file_is_named_before_it_is_opened(damaged, tmp_path, monkeypatch):
    folder, *_ = made_up_cifar100(tmp_path)
    vouch_for(folder, monkeypatch)

    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    (folder / damaged).write_bytes(pickle.dumps(Harmful()))
    monkeypatch.setenv("EAS_CIFAR100", str(tmp_path))
    with pytest.raises(ValueError, match=f"{damaged} is damaged"):
        data.load_images(CIFAR100.data)
    assert not (tmp_path / "harm").exists()


@pytest.mark.skipif(not PRESENT, reason="no CIFAR-100: python -m eas.data cifar100, or set EAS_CIFAR100")
def test_the_real_cifar100():
    dataset, indices = data.build(CIFAR100, ROOT)
    assert {name: len(getattr(dataset, name)) for name in data.SPLITS} == {
        "train": 43_000,
        "selection": 5_000,
        "calibration": 2_000,
        "test": 10_000,
    }
    assert all((getattr(dataset, name).labels.bincount().unique().numel()) == 1 for name in data.SPLITS)
    assert len(dataset.hierarchy.superclasses) == 20
    assert dataset.hierarchy.parent.bincount().tolist() == [5] * 20
    assert dataset.train.images.shape[1:] == (3, 32, 32)
    assert dataset.mean == pytest.approx([0.507, 0.487, 0.441], abs=0.003)
    assert dataset.std == pytest.approx([0.267, 0.256, 0.276], abs=0.003)
    # The published coarse labels put the same classes together.
    folder = Path(os.environ.get("EAS_CIFAR100", ROOT / "data")) / data.CIFAR100_FOLDER
    published = pickle.loads((folder / "train").read_bytes(), encoding="latin1")
    coarse = torch.tensor(published["coarse_labels"])[indices["train"]]
    assert torch.equal(dataset.hierarchy.parent[dataset.train.labels], coarse)
