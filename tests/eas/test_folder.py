"""Photographs in folders: what is a class, what is read of it, and one error for all that is wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eas import data
from eas.data import Folder, photographs
from eas.data.images import read_pixels

NESTED = {
    "fruit": {"apple": 3, "pear": 4},
    "milk/fresh": {"whole": 5},
    "milk/sour": {"kefir": 3, "yoghurt": 3},
}
GROUPS = "fruit: [apple, pear]\nmilk: [kefir, whole, yoghurt]\n"


def draw(path, size=(20, 14), seed=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    Image.fromarray(np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8), mode).save(path)
    return path


@pytest.fixture
def place(tmp_path):
    """Two folders of images, nested, and a YAML file."""
    for part, scale in (("train", 3), ("test", 1)):
        for above, classes in NESTED.items():
            for name, count in classes.items():
                for index in range(count * scale):
                    draw(tmp_path / part / above / name / f"{index}.png", seed=hash((part, name, index)) % 1000)
    (tmp_path / "groups.yaml").write_text(GROUPS)
    return tmp_path


def source(**changes):
    fields = {"train": "train", "test": "test", "image_size": 12, "selection": 0.2, "calibration": 0.2, "seed": 0}
    return Folder(**fields | changes)


def test_the_deepest_folder_is_the_class_and_yaml_says_of_which_superclass(place):
    made = source(superclasses="groups.yaml")
    hierarchy = made.hierarchy(place)
    assert hierarchy.superclasses == ("fruit", "milk")
    assert hierarchy.members == (("apple", "pear"), ("kefir", "whole", "yoghurt"))
    known, test = made.load(place)
    assert known.labels.bincount().tolist() == [9, 12, 9, 15, 9] and test.labels.bincount().tolist() == [3, 4, 3, 5, 3]
    assert known.images.shape == (54, 3, 12, 12) and known.images.decoded().dtype == torch.uint8
    assert torch.equal(test.images[3], read_pixels(place / "test" / "fruit" / "pear" / "0.png", 12))
    dataset, indices = data.build(made, place)
    assert len(dataset.train) + len(dataset.selection) + len(dataset.calibration) == 54 and len(indices["test"]) == 18
    assert dataset.about == Folder.about and not dataset.synthetic


def test_yaml_may_say_what_classes_are_called(place):
    (place / "groups.yaml").write_text("fruit: {apple: red apple, pear: null}\nmilk: [kefir, whole, yoghurt]\n")
    with pytest.raises(ValueError, match="None is no name of a class"):
        source(superclasses="groups.yaml").hierarchy(place)
    (place / "groups.yaml").write_text("fruit: {apple: red apple, pear: 7}\nmilk: [kefir, whole, yoghurt]\n")
    named = source(superclasses="groups.yaml")
    assert named.hierarchy(place).members == (("red apple", "7"), ("kefir", "whole", "yoghurt"))
    (place / "plain.yaml").write_text(GROUPS)
    for one, other in zip(named.load(place), source(superclasses="plain.yaml").load(place), strict=True):
        assert torch.equal(one.images.decoded(), other.images.decoded()) and torch.equal(one.labels, other.labels)
    (place / "groups.yaml").write_text("fruit: {apple: one, pear: one}\nmilk: [kefir, whole, yoghurt]\n")
    with pytest.raises(ValueError, match="names of more than one superclass or class: one"):
        named.hierarchy(place)


def test_classes_of_no_superclass_are_an_error_or_ignored(place):
    (place / "groups.yaml").write_text("fruit: [apple]\nmilk: [kefir, whole]\n")
    with pytest.raises(ValueError, match="train has a class pear of no superclass"):
        source(superclasses="groups.yaml").hierarchy(place)
    some = source(superclasses="groups.yaml", ignore_others=True)
    assert some.hierarchy(place).classes == ("apple", "kefir", "whole")
    assert some.load(place)[0].labels.bincount().tolist() == [9, 9, 15]
    (place / "groups.yaml").write_text("fruit: [apple]\nmilk: [kefir, cream]\n")
    with pytest.raises(ValueError, match="train has no class cream; test has no class cream"):
        some.hierarchy(place)


def test_the_fingerprint_changes_with_files_and_superclasses_only(place):
    made = source(superclasses="groups.yaml")
    before = made.fingerprint(place)
    (place / "groups.yaml").write_text("# as it was\n" + GROUPS)
    (place / "train" / "notes.txt").write_text("no image")
    assert made.fingerprint(place) == before == source(superclasses="groups.yaml", seed=1).fingerprint(place)
    draw(place / "train" / "fruit" / "apple" / "new.png")
    more = made.fingerprint(place)
    (place / "groups.yaml").write_text("fruit: [apple, pear, kefir]\nmilk: [whole, yoghurt]\n")
    assert len({before, more, made.fingerprint(place)}) == 3


def test_without_yaml_the_folder_above_is_the_superclass(place):
    hierarchy = source().hierarchy(place)
    assert hierarchy.superclasses == ("fruit", "fresh", "sour")
    assert hierarchy.members == (("apple", "pear"), ("whole",), ("kefir", "yoghurt"))


def test_classes_in_one_folder_need_a_yaml_file(tmp_path):
    for part in ("train", "test"):
        for name in ("a", "b"):
            draw(tmp_path / part / name / "0.png")
    with pytest.raises(ValueError, match="all classes lie in one folder, .*train: name a YAML file"):
        source().hierarchy(tmp_path)
    (tmp_path / "groups.yaml").write_text("one: [a]\ntwo: [b]\n")
    assert source(superclasses="groups.yaml").hierarchy(tmp_path).members == (("a",), ("b",))


def test_superclasses_of_one_name_and_classes_beside_them_are_told(tmp_path):
    for index, name in enumerate(("fruit/dried/raisin", "fruit/fresh/apple", "veg/dried/pea", "carrot")):
        for part in ("train", "test"):
            draw(tmp_path / part / name / "0.png", seed=index)
    with pytest.raises(ValueError, match="carrot lie in no superclass's folder") as caught:
        source().hierarchy(tmp_path)
    assert "fruit/dried and veg/dried are both superclass dried" in str(caught.value)


def test_a_link_to_folders_is_told_and_one_to_a_class_is_a_class(place):
    (place / "train" / "fruit").rename(place / "elsewhere")
    (place / "train" / "fruit").symlink_to(place / "elsewhere")
    with pytest.raises(ValueError, match="train/fruit is a link to folders, which is not followed"):
        source(superclasses="groups.yaml").hierarchy(place)
    (place / "train" / "fruit").unlink()
    (place / "train" / "fruit").mkdir()
    for name in ("apple", "pear"):
        (place / "train" / "fruit" / name).symlink_to(place / "elsewhere" / name)
    assert source(superclasses="groups.yaml").hierarchy(place).superclasses == ("fruit", "milk")


@pytest.mark.parametrize("changes", [{"test": "train"}, {"selection": "test"}, {"selection": "link"}])
def test_no_photograph_is_in_two_splits(place, changes):
    (place / "link").symlink_to("train")
    with pytest.raises(ValueError, match="is in more than one of train, test and selection"):
        source(superclasses="groups.yaml", **changes).load(place)


def test_folders_may_be_named_from_the_root_of_the_disk(place):
    there = source(train=str(place / "train"), test=str(place / "test"), superclasses="groups.yaml")
    assert there.fingerprint(place) == source(superclasses="groups.yaml").fingerprint(place)


def test_a_full_disk_is_an_error_of_the_system(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(photographs.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        photographs.Photographs([draw(tmp_path / "a.png")], 12).decoded(tmp_path / "images")


def test_what_is_no_image_is_passed_over(place):
    (place / "train" / "fruit" / "apple" / "notes.txt").write_text("sweet")
    (place / "train" / "fruit" / "apple" / ".hidden.png").write_bytes(b"")
    draw(place / "train" / ".cache" / "x" / "0.png")
    assert source(superclasses="groups.yaml").load(place)[0].labels.bincount().tolist() == [9, 12, 9, 15, 9]


def test_one_error_tells_of_all_that_is_wrong(place):
    (place / "groups.yaml").write_text("fruit: [apple, pear, apple, kiwi]\nmilk: [kefir, whole, pear]\n")
    (place / "train" / "fruit" / "plum").mkdir()
    draw(place / "train" / "other" / "apple" / "0.png")
    draw(place / "train" / "fruit" / "lost.png")
    draw(place / "test" / "fruit" / "cherry" / "0.png")
    with pytest.raises(ValueError) as caught:
        source(superclasses="groups.yaml").load(place)
    message = str(caught.value)
    for told in (
        "fruit/plum holds no images",
        "other/apple and ",
        "are both class apple",
        "fruit/lost.png lies beside folders, in no class",
        "class pear is in 2 superclasses",
        "class apple is named twice in fruit",
        "train has no class kiwi",
        "test has no class kiwi",
        "test has a class cherry of no superclass",
        "train has a class yoghurt of no superclass",
    ):
        assert told in message
    assert "\n" not in message


def test_unreadable_images_are_all_named(place):
    broken = [place / "train" / "fruit" / "apple" / "1.png", place / "test" / "milk" / "sour" / "kefir" / "0.png"]
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    for most in (64.0, 1e-9):  # gigabytes: decoded, or only looked at
        with pytest.raises(ValueError, match="cannot be used") as caught:
            data.build(source(superclasses="groups.yaml", most_gigabytes=most), place)
    assert all(str(path) in str(caught.value) for path in broken) and "\n" not in str(caught.value)


def test_of_many_problems_the_first_are_named_and_the_others_counted(place, monkeypatch):
    monkeypatch.setattr(photographs, "NAMED", 2)
    (place / "groups.yaml").write_text("fruit: [apple, a, b, c]\nmilk: [pear, whole, kefir, yoghurt]\n")
    with pytest.raises(ValueError, match="train has no class a; train has no class b; and 4 more$"):
        source(superclasses="groups.yaml").hierarchy(place)


@pytest.mark.parametrize("missing", ["train", "test", "groups.yaml"])
def test_what_is_missing_is_told_before_anything_is_read(place, missing):
    (place / missing).rename(place / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"{missing} is missing: it should"):
        source(superclasses="groups.yaml").hierarchy(place)


@pytest.mark.parametrize("text", ["just words", "- a\n- b", "fruit: apple"])
def test_yaml_of_another_form_is_refused(place, text):
    (place / "groups.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"groups.yaml must map every superclass to a list of its classes"):
        source(superclasses="groups.yaml").hierarchy(place)


def test_yaml_that_is_none_or_runs_code_is_refused(place):
    for text in ("fruit: [apple", "fruit: [!!python/object/apply:os.getcwd []]"):
        (place / "groups.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"groups.yaml is not YAML") as caught:
            source(superclasses="groups.yaml").hierarchy(place)
        assert "\n" not in str(caught.value)


def test_images_of_any_mode_and_shape_become_squares_in_colour(tmp_path):
    grey, clear = draw(tmp_path / "grey.png", mode="L"), draw(tmp_path / "clear.png", (30, 12), mode="RGBA")
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((9, 9), 40_000, dtype=np.uint16)).save(deep)
    for path in (grey, clear, deep):
        assert read_pixels(path, 8).shape == (3, 8, 8)
    assert (read_pixels(grey, 8)[0] == read_pixels(grey, 8)[2]).all() and read_pixels(deep, 8).unique().tolist() == [
        156
    ]
    turned = Image.new("RGB", (16, 8), (255, 0, 0))
    turned.paste((0, 0, 255), (0, 0, 8, 8))  # the left half is blue; a camera that was held upright turns it
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = read_pixels(tmp_path / "turned.jpg", 8)
    assert upright[2, 0].float().mean() > 200 and upright[0, -1].float().mean() > 200  # blue above, red below


def test_photographs_are_scaled_as_by_pillows_bicubic_filter(tmp_path):
    with Image.open(draw(tmp_path / "noise.png", (37, 37))) as image:
        exact = np.array(image.resize((12, 12), Image.Resampling.BICUBIC))
    told = read_pixels(tmp_path / "noise.png", 12).permute(1, 2, 0)
    assert (told.float() - torch.from_numpy(exact).float()).abs().max() <= 2


def test_paths_are_strings_of_params(tmp_path):
    assert Path(source().train) == Path("train") and source().kind == "folder"
    with pytest.raises(ValueError):
        source(train=3)


def test_a_class_has_the_images_of_all_training_folders(place):
    draw(place / "val" / "other_depth" / "apple" / "0.png", seed=7)
    known, _ = source(train=("train", "val"), superclasses="groups.yaml").load(place)
    alone, _ = source(superclasses="groups.yaml").load(place)
    assert len(known) == len(alone) + 1 and known.labels.bincount().tolist() == [10, 12, 9, 15, 9]
    assert torch.equal(known.images[9], read_pixels(place / "val" / "other_depth" / "apple" / "0.png", 12))
    with pytest.raises(ValueError, match="train and val has no class salmon"):
        (place / "more.yaml").write_text(GROUPS + "fish: [salmon]\n")
        source(train=("train", "val"), superclasses="more.yaml").hierarchy(place)


def test_where_there_is_no_test_folder_a_share_of_every_class_is_kept_for_it(place):
    made = source(test=0.25, superclasses="groups.yaml")
    known, test = made.load(place)
    assert test.labels.bincount().tolist() == [2, 3, 2, 4, 2] and len(known) + len(test) == 54
    assert not set(known.images.paths) & set(test.images.paths)
    again, other = made.load(place)[1], source(test=0.25, superclasses="groups.yaml", seed=1).load(place)[1]
    assert list(again.images.paths) == list(test.images.paths) != list(other.images.paths)
    dataset, _ = data.build(made, place)
    assert len(dataset.test) == 13 and len(dataset.train) + len(dataset.selection) + len(dataset.calibration) == 41
    with pytest.raises(ValueError, match="class 'apple' has 9 images, too few for parts of .'test': 0.01"):
        source(test=0.01, superclasses="groups.yaml").load(place)


def test_choices_are_made_on_a_folder_of_photographs_where_there_is_one(place):
    for name in ("fruit/apple", "milk/sour/kefir"):  # a class need not have any
        draw(place / "val" / name / "0.png", seed=7)
    made, share = source(selection="val", superclasses="groups.yaml"), source(superclasses="groups.yaml")
    dataset, indices = data.build(made, place)
    assert len(dataset.train) + len(dataset.calibration) == 54 and dataset.selection.labels.tolist() == [0, 2]
    assert torch.equal(dataset.selection.images[0], read_pixels(place / "val" / "fruit" / "apple" / "0.png", 12))
    published = dict(
        zip(*(data.split_columns(dataset, indices, made)[name] for name in ("split", "published")), strict=False)
    )
    assert published == {"train": "train", "selection": "selection", "calibration": "train", "test": "test"}
    assert made.shares == {"calibration": 0.2} and made.fingerprint(place) != share.fingerprint(place)
    draw(place / "val" / "fruit" / "lemon" / "0.png", seed=7)
    with pytest.raises(ValueError, match="val has a class lemon of no superclass"):
        made.hierarchy(place)
    with pytest.raises(FileNotFoundError, match="nowhere is missing"):
        source(selection="nowhere").hierarchy(place)


def test_every_superclass_needs_a_photograph_to_choose_on(place):
    draw(place / "val" / "fruit" / "apple" / "0.png")
    with pytest.raises(ValueError, match="val has no image of milk: every superclass needs some"):
        data.build(source(selection="val", superclasses="groups.yaml"), place)


def test_files_to_skip_are_left_out_and_change_the_fingerprint(place):
    broken = place / "train" / "fruit" / "apple" / "1.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match="1.png is no image"):
        data.build(source(superclasses="groups.yaml"), place)
    made = source(superclasses="groups.yaml", skip=("train/fruit/apple/1.png",))
    dataset, _ = data.build(made, place)
    assert sum(len(getattr(dataset, name)) for name in ("train", "selection", "calibration")) == 53
    assert made.fingerprint(place) != source(superclasses="groups.yaml").fingerprint(place)
