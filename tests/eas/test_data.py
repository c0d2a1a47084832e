"""Hierarchies, splits, sources, and the file that keeps a data set."""

import dataclasses
import json
import subprocess
import sys
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from eas import data
from eas.data import SOURCES, SPLITS, Cifar100, Dataset, Folder, Glyphs, Hierarchy, Source, Split
from eas.data.glyphs import SUPERCLASSES
from eas.files import checksum

UNEQUAL = Hierarchy(("pets", "tools", "fruit"), (("cat", "dog"), ("saw",), ("apple", "plum", "pear")))
SOURCE = Glyphs(image_size=16, per_typeface=1, selection=0.25, calibration=0.1, seed=0)


@pytest.fixture(scope="module")
def built():
    return data.build(SOURCE)


@pytest.fixture(scope="module")
def dataset(built):
    return built[0]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(count, channels=1, side=12, seed=0):
    return torch.randint(256, (count, channels, side, side), generator=seeded(seed), dtype=torch.uint8)


def equal(one, other):
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def one_line(caught):
    return str(caught.value) if "\n" not in str(caught.value) else None


# -------------------------------------------------------------------- hierarchies


def test_parent_with_unequal_sizes():
    assert UNEQUAL.classes == ("cat", "dog", "saw", "apple", "plum", "pear")
    assert UNEQUAL.parent.tolist() == [0, 0, 1, 2, 2, 2] and UNEQUAL.parent.dtype == torch.int64


def test_groups_name_the_classes_of_each_superclass():
    groups = {"pets": ["cat", "dog"], "tools": iter(["saw"]), "fruit": ("apple", "plum", "pear")}
    assert Hierarchy.from_groups(groups) == UNEQUAL
    assert Hierarchy.from_groups({"vowels": "aei"}).classes == ("a", "e", "i")


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
def test_a_class_mask_is_of_superclasses_and_classes(names, expected):
    class_mask = UNEQUAL.class_mask(names)
    assert class_mask.dtype == torch.bool and class_mask.nonzero()[:, 0].tolist() == expected


def test_an_unknown_name_lists_the_known_ones_and_suggests():
    with pytest.raises(ValueError) as caught:
        UNEQUAL.class_mask(["pets", "aple"])
    message = one_line(caught)
    assert "'aple'" in message and "(did you mean 'apple'?)" in message
    assert all(name in message for name in UNEQUAL.superclasses + UNEQUAL.classes)


def test_an_empty_set_of_classes_is_an_error():
    with pytest.raises(ValueError, match="at least one superclass or class"):
        UNEQUAL.class_mask([])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({}, "0 superclasses"),
        ({"pets": ["cat"], "tools": []}, "superclasses without classes: tools"),
        ({"pets": ["cat", "dog"], "hunters": ["dog"]}, "names of more than one superclass or class: dog"),
        ({"pets": ["cat", ""]}, "names that are empty, or cannot be printed: ''"),
        ({"pets": ["cat", "do\ng"]}, "names that are empty, or cannot be printed: "),
        ({"pets": ["cat", "cat"]}, "names of more than one superclass or class: cat"),
        ({"pets": ["cat"], "cat": ["tabby"]}, "names of more than one superclass or class: cat"),
    ],
)
def test_a_name_has_one_meaning(groups, message):
    with pytest.raises(ValueError) as caught:
        Hierarchy.from_groups(groups)
    assert message in one_line(caught)


def test_superclasses_are_unique_and_have_classes():
    with pytest.raises(ValueError, match="names of more than one superclass or class: pets"):
        Hierarchy(("pets", "pets"), (("cat",), ("dog",)))
    with pytest.raises(ValueError, match="2 superclasses with 1 groups"):
        Hierarchy(("pets", "tools"), (("cat",),))


def test_every_superclass_and_class_of_the_data_sets_can_be_named():
    cifar100 = Cifar100(image_size=32, selection=0.1, calibration=0.04, seed=0).hierarchy()
    for hierarchy, superclasses, classes in ((SOURCE.hierarchy(), 10, 160), (cifar100, 20, 100)):
        assert len(hierarchy.superclasses) == superclasses and len(set(hierarchy.classes)) == classes
        assert hierarchy.class_mask(hierarchy.superclasses).all() and hierarchy.class_mask(hierarchy.classes).all()
        for name in hierarchy.superclasses:
            members = hierarchy.members[hierarchy.superclasses.index(name)]
            assert int(hierarchy.class_mask([name]).sum()) == len(members)
    assert cifar100.parent.bincount().unique().tolist() == [5]


# -------------------------------------------------------------------- splits


LABELS = torch.arange(30).remainder(4).repeat(5)[torch.randperm(150, generator=seeded(7))]  # classes of unequal size
CLASSES = ("ant", "bee", "cow", "doe")
FRACTIONS = {"selection": 0.2, "calibration": 0.1}


def test_divide_is_disjoint_covers_everything_and_is_sorted():
    parts = data.divide(LABELS, CLASSES, FRACTIONS, seed=0)
    assert list(parts) == ["selection", "calibration", "train"]
    assert torch.cat(list(parts.values())).sort().values.tolist() == list(range(150))
    assert all(torch.equal(rows, rows.sort().values) for rows in parts.values())


def test_divide_is_stratified():
    parts = data.divide(LABELS, CLASSES, FRACTIONS, seed=0)
    sizes = LABELS.bincount()
    assert len(sizes.unique()) > 1
    for name, fraction in FRACTIONS.items():
        assert ((LABELS[parts[name]].bincount() - fraction * sizes).abs() <= 0.5).all()


def test_divide_depends_on_the_seed_alone():
    first = data.divide(LABELS, CLASSES, FRACTIONS, seed=0)
    torch.manual_seed(99)
    again, other = (data.divide(LABELS, CLASSES, FRACTIONS, seed=seed) for seed in (0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["selection"], other["selection"])


def test_divide_draws_what_published_splits_were_drawn_with():
    labels = torch.arange(3).repeat(5)
    parts = data.divide(labels, CLASSES[:3], FRACTIONS | {"calibration": 0.2}, seed=0)
    generator = torch.Generator().manual_seed(0)
    orders = [(labels == label).nonzero()[:, 0][torch.randperm(5, generator=generator)] for label in range(3)]
    expected = {name: sorted(int(order[at]) for order in orders) for at, name in enumerate(FRACTIONS)}
    assert {name: parts[name].tolist() for name in FRACTIONS} == expected


@pytest.mark.parametrize("fractions", [{"selection": 0.1}, {"selection": 0.9}, {"a": 0.2, "b": 0.1}])
def test_divide_refuses_a_class_with_too_few_images(fractions):
    with pytest.raises(ValueError, match="^class 'bee' has 4 images, too few for parts of .*: add images$"):
        data.divide(torch.tensor([0] * 40 + [1] * 4), CLASSES[:2], fractions, seed=0)


def test_divide_refuses_a_class_without_images():
    with pytest.raises(ValueError, match="class 'doe' has 0 images"):
        data.divide(torch.arange(3).repeat(40), CLASSES, FRACTIONS, seed=0)


def test_the_splits_of_glyphs_come_from_their_own_typefaces(built):
    dataset, indices = built
    known, test = SOURCE.load()
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


def test_split_columns_name_every_image_once(built):
    dataset, _ = built
    table = pd.DataFrame(data.split_columns(*built, SOURCE))
    assert list(table) == ["published", "index", "split", "class", "superclass"]
    assert len(table) == sum(len(getattr(dataset, name)) for name in SPLITS)
    assert not table.duplicated(["published", "index"]).any()
    assert table.groupby("split")["class"].nunique().eq(160).all()
    assert (table.published.eq("test") == table.split.eq("test")).all()
    row = table[table["class"] == "Ω"].iloc[0]
    assert row.superclass == "greek"
    known, test = SOURCE.load()
    for name in SPLITS:
        part = table[table.split == name]
        labels = (test if name == "test" else known).labels[part["index"].tolist()]
        assert [dataset.hierarchy.classes[label] for label in labels] == list(part["class"])
    assert [name for name, _ in table.groupby("split", sort=False)] == list(SPLITS)


def test_only_leaves_the_images_of_some_classes_and_their_labels(dataset):
    class_mask = dataset.hierarchy.class_mask(["digits", "arrows"])
    part = dataset.test.only(class_mask)
    assert len(part) == int(class_mask[dataset.test.labels].sum()) == 4 * 18
    assert sorted(part.labels.unique().tolist()) == class_mask.nonzero()[:, 0].tolist()
    assert torch.equal(part.images[0], dataset.test.images[class_mask[dataset.test.labels].nonzero()[0, 0]])


SIX = Split(random_images(12), torch.arange(6).repeat(2))
NONE = Split(SIX.images[:0], SIX.labels[:0])


def made_up(**splits):
    return Dataset(UNEQUAL, mean=(0.5,), std=(0.25,), **dict.fromkeys(SPLITS, SIX) | splits)


def test_a_split_may_be_empty_or_lack_classes():
    assert len(made_up(selection=NONE, test=SIX.only(UNEQUAL.class_mask(["cat"]))).test) == 2
    assert len(made_up(**dict.fromkeys(SPLITS, NONE)).train) == 0


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": SIX.only(UNEQUAL.class_mask(["pets", "plum"]))}, "without training images: saw, apple, pear"),
        ({"test": Split(SIX.images, SIX.labels + 1)}, "test: labels must be 0 to 5, as there are classes"),
        ({"test": Split(SIX.images, SIX.labels - 1)}, "test: labels must be 0 to 5, as there are classes"),
        ({"selection": Split(SIX.images.float(), SIX.labels)}, "selection: images must be uint8 [n, "),
        ({"selection": Split(SIX.images[:, 0], SIX.labels)}, "selection: images must be uint8 [n, "),
        ({"train": Split(SIX.images, SIX.labels.int())}, "train: images must be uint8 [n, "),
        ({"train": Split(SIX.images, SIX.labels[:5])}, "train: images must be uint8 [n, "),
        ({"train": Split(SIX.images, SIX.labels[:, None])}, "train: images must be uint8 [n, "),
    ],
)
def test_a_data_set_fits_its_hierarchy(splits, message):
    with pytest.raises(ValueError) as caught:
        made_up(**splits)
    assert message in one_line(caught)


def test_a_data_set_moves_whole(dataset):
    moved = dataset.to(torch.device("cpu"))
    assert all(equal(getattr(moved, name), getattr(dataset, name)) for name in SPLITS)
    fields = ("hierarchy", "mean", "std", "about", "synthetic")
    assert all(getattr(moved, name) == getattr(dataset, name) for name in fields)


# -------------------------------------------------------------------- sources


@pytest.fixture
def pets():
    """A source from outside the package, registered while a test runs."""

    @SOURCES.register
    class Pets(Source):
        kind: Literal["pets"] = "pets"
        images: int = 40

        about = "*Images: noise.*"
        synthetic = True

        def hierarchy(self, root="."):
            return UNEQUAL

        def load(self, root="."):
            labels = torch.arange(6).repeat(self.images // 6 + 1)[: self.images]
            train = Split(random_images(self.images, 3, side=16), labels)
            return train, SIX if root == "other sizes" else Split(random_images(5, 3, side=16), SIX.labels[:5])

    yield Pets
    SOURCES.pop("pets")


PETS = {"kind": "pets", "image_size": 16, "selection": 0.2, "calibration": 0.2, "seed": 0, "images": 60}


def test_the_sources_of_the_package_are_registered():
    assert {"glyphs": Glyphs, "cifar100": Cifar100, "folder": Folder}.items() <= SOURCES.items()
    described = {"kind": "glyphs", "image_size": 16, "selection": 0.25, "calibration": 0.1, "seed": 0}
    assert SOURCES.validate(described) == SOURCE
    message = r"unknown kind 'cifar10'; known: cifar100, folder, glyphs.*did you mean 'cifar100'\?"
    with pytest.raises(ValueError, match=message):
        SOURCES.validate(described | {"kind": "cifar10"})
    for source in (Glyphs, Cifar100):
        assert source.about.startswith("*Images: **") and source.about.endswith("*") and "\n" not in source.about


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 4},
        {"image_size": 16.0},
        {"selection": 0.0},
        {"calibration": 1.0},
        {"selection": 0.6, "calibration": 0.4},
        {"seed": -1},
        {"seed": 2**32},
        {"speed": 1},
    ],
)
def test_a_source_refuses_what_cannot_be(changes):
    with pytest.raises(ValidationError):
        SOURCES.validate(SOURCE.model_dump() | changes)


def test_a_new_source_needs_nothing_else(pets, tmp_path):
    source = SOURCES.validate(PETS)
    with pytest.raises(ValueError, match="^classes without test images: pear$"):
        data.build(source)
    with pytest.raises(ValueError, match="^pets has 12 pixels, not 16$"):
        data.build(source, "other sizes")
    with pytest.raises(ValueError, match="^class 'apple' has 2 images, too few"):
        data.build(SOURCES.validate(PETS | {"images": 15}))
    with pytest.raises(ValueError, match="^pets has 16 pixels, not 24$"):
        data.build(SOURCES.validate(PETS | {"image_size": 24}))


def test_what_a_new_source_says_reaches_the_file(pets, tmp_path, monkeypatch):
    monkeypatch.setattr(pets, "load", lambda source, root: (Split(random_images(60, 3, 16), SIX.labels.repeat(5)),) * 2)
    dataset, _ = data.build(SOURCES.validate(PETS))
    assert (dataset.about, dataset.synthetic, dataset.hierarchy) == ("*Images: noise.*", True, UNEQUAL)
    data.save(dataset, tmp_path / "dataset.safetensors")
    loaded = data.load(tmp_path / "dataset.safetensors")
    assert (loaded.about, loaded.synthetic, loaded.hierarchy) == ("*Images: noise.*", True, UNEQUAL)


def test_importing_the_package_is_light():
    """What draws, plots or downloads is imported where it is used."""
    heavy = ("matplotlib", "pandas", "torchvision", "requests", "dvc")
    command = f"import sys, eas.data, eas.data.batches; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -------------------------------------------------------------------- the file


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "new folder" / "dataset.safetensors"
    data.save(made_up(calibration=NONE), path)
    return path


def test_what_is_saved_is_loaded(dataset, tmp_path):
    path = tmp_path / "dataset.safetensors"
    data.save(dataset, path)
    loaded = data.load(path)
    assert loaded.hierarchy == dataset.hierarchy and loaded.hierarchy.superclasses == tuple(SUPERCLASSES)
    assert loaded.about == Glyphs.about and loaded.synthetic is True
    assert all(equal(getattr(loaded, name), getattr(dataset, name)) for name in SPLITS)
    assert loaded.train.images.dtype == torch.uint8 and loaded.train.labels.dtype == torch.int64
    # As a supernet holds them, in float32:
    assert torch.equal(torch.tensor(loaded.mean), torch.tensor(dataset.mean))
    assert torch.equal(torch.tensor(loaded.std), torch.tensor(dataset.std))
    assert [file.name for file in path.parent.iterdir()] == ["dataset.safetensors"]


def test_a_data_set_of_no_source_is_saved_too(path):
    loaded = data.load(str(path))
    assert (loaded.about, loaded.synthetic, loaded.hierarchy) == ("", False, UNEQUAL)
    assert equal(loaded.train, SIX) and equal(loaded.calibration, NONE)


def test_equal_data_sets_are_equal_files(path, tmp_path):
    once, again = path.read_bytes(), made_up(calibration=NONE)
    sideways = Split(SIX.images.transpose(2, 3).contiguous().transpose(2, 3), SIX.labels)
    for dataset in (again, data.load(path), dataclasses.replace(again, train=sideways)):
        data.save(dataset, path)
        assert path.read_bytes() == once


def test_a_missing_file_names_the_step_that_writes_it(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        data.load(tmp_path / "dataset.safetensors")
    assert one_line(caught) == f"{tmp_path}/dataset.safetensors is missing: run notebooks/01_superclasses first"


def change(path, sealed=False, **changes):
    """The file with other tensors or other metadata, and where it is `sealed` with the right checksum of them."""
    with safe_open(path, "pt") as file:
        told = json.loads(file.metadata()["dataset"])
    tensors, before = load_file(path), told.pop("checksum")
    for name, value in changes.items():
        (tensors if torch.is_tensor(value) else told)[name.replace("__", ".")] = value
    told["checksum"] = checksum(tensors, told) if sealed else before
    save_file(tensors, path, {"dataset": json.dumps(told)})


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(3000)),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "header": lambda path: flip(path, 3),
    "first pixel": lambda path: flip(path, -1),
    "pixel": lambda path: flip(path, path.stat().st_size // 2),
    "other labels": lambda path: change(path, test__labels=SIX.labels.flip(0)),
    "another name": lambda path: change(path, hierarchy={"pets": UNEQUAL.members[0], "tools": ["paw"], "fruit": "abc"}),
    "another sentence": lambda path: change(path, about="*Images: real ones.*"),
}
STRANGE = {
    "other tensors": lambda path: save_file({"weight": torch.ones(3)}, path),
    "other metadata": lambda path: save_file(load_file(path), path, {"columns": "x"}),
    "no JSON": lambda path: save_file(load_file(path), path, {"dataset": "{"}),
    "JSON of another form": lambda path: save_file(load_file(path), path, {"dataset": "[]"}),
    "nested JSON": lambda path: save_file(load_file(path), path, {"dataset": "[" * 100_000}),
    "unknown word": lambda path: change(path, sealed=True, author="x"),
    "no hierarchy": lambda path: change(path, sealed=True, hierarchy={}),
    "hierarchy of text": lambda path: change(path, sealed=True, hierarchy="cats"),
    "class twice": lambda path: change(path, sealed=True, hierarchy={"pets": ["cat", "cat"]}),
    "hierarchy of another data set": lambda path: change(path, sealed=True, hierarchy={"pets": ["cat", "dog"]}),
}


@pytest.mark.parametrize("harm", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named_in_one_line(harm, path):
    harm(path)
    with pytest.raises(ValueError) as caught:
        data.load(path)
    message = one_line(caught)
    assert message.startswith(f"{path} is damaged, or no ") and "run notebooks/01_superclasses again" in message


@pytest.mark.parametrize("harm", STRANGE.values(), ids=STRANGE)
def test_a_file_of_another_kind_is_named_in_one_line(harm, path):
    harm(path)
    with pytest.raises(ValueError) as caught:
        data.load(path)
    message = one_line(caught)
    assert (
        message.startswith(f"{path} is damaged, or no data set (") and "run notebooks/01_superclasses again" in message
    )
