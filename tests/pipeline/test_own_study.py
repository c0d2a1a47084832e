"""`eas check`: what it finds in folders, what it suggests, what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from photo_cases import GROUPS, draw_shop

from eas import data
from eas.serving.kit_files import load_kit
from pipeline import own_study
from pipeline.own_study import FEWEST, check
from pipeline.params import load_study
from pipeline.scenarios import scenarios, set_sampler
from pipeline.store import open_workspace
from pipeline.supernets import new_space

ROOT = Path(__file__).parents[2]


@pytest.fixture
def shop(tmp_path):
    return draw_shop(tmp_path / "shop", "train", "test")


@pytest.fixture(params=[True, False], ids=["pre-trained", "from nothing"])
def either_start(request, monkeypatch):
    monkeypatch.setattr(own_study, "is_pretrained", lambda: request.param)
    return request.param


def test_a_study_is_written_beside_the_folder_and_can_be_read(shop, either_start):
    found = check(shop)
    assert found.path == shop.parent / "shop.yaml" and found.tested == 120 and found.side == 40
    assert found.counts == dict.fromkeys([name for names in GROUPS.values() for name in names], 20)
    workspace = open_workspace(str(found.path))
    study = workspace.study
    assert study.name == "shop" and (study.data.train, study.data.test) == ("shop/train", "shop/test")
    assert workspace.folder == shop.parent / "build" / "shop" and workspace.root == shop.parent
    assert study.data.image_size == 32 and bool(study.training.start) == either_start
    hierarchy = study.data.hierarchy(workspace.root)
    assert hierarchy == found.hierarchy and set(hierarchy.superclasses) == set(GROUPS)
    # Every budget has an arch, and every set that branches are trained on exists.
    space = study.space.build(32, 3)
    every = scenarios(study, hierarchy)
    space.check_scenarios(every.class_masks, every.budgets)
    low, high = (float(space.madds(arch, 6)) / 1e6 for arch in (space.smallest, space.largest))
    assert low < study.scenarios.budgets[0] < 1.2 * low and study.scenarios.budgets[-1] == pytest.approx(high, rel=0.01)
    (branch,) = study.branches.candidates
    set_sampler(study, hierarchy, branch.sets)


def test_what_is_told(shop):
    (shop / "train" / "milk" / "whole" / "0.png").write_bytes(b"no image")
    said = str(check(shop))
    for line in (
        "6 classes in 3 groups: bread 2, fruit 2, milk 2",
        "119 photographs to learn from, 120 to test on; their shorter sides: 40 pixels",
        "smallest class: whole, 19 photographs",
        "left out, as unreadable: shop/train/milk/whole/0.png",
        f"next: eas train {shop.parent / 'shop.yaml'}",
    ):
        assert line in said
    study = load_study("shop.yaml", shop.parent)
    assert study.data.skip == ("shop/train/milk/whole/0.png",)
    known, _ = study.data.load(shop.parent)
    assert len(known) == 119


def test_photographs_to_validate_on_are_what_choices_are_made_on(shop):
    for group, (name, *_) in GROUPS.items():  # not of every class
        shutil.copytree(shop / "test" / group / name, shop / "val" / group / name)
    found = check(shop)
    assert set(found.counts.values()) == {20} and found.source.train == "shop/train"
    study = load_study("shop.yaml", shop.parent)
    assert study.data.selection == "shop/val"
    dataset, _ = data.build(study.data, shop.parent)
    first = [dataset.hierarchy.classes.index(names[0]) for names in GROUPS.values()]
    assert sorted(dataset.selection.labels.unique().tolist()) == sorted(first)
    assert len(dataset.train) + len(dataset.calibration) == 120


def test_photographs_to_validate_on_that_lack_a_group_give_way_to_a_share(shop):
    shutil.copytree(shop / "test" / "milk", shop / "val" / "milk")
    found = check(shop)
    assert "no photograph to validate on of bread, fruit: a share of the others is kept" in str(found)
    dataset, _ = data.build(load_study("shop.yaml", shop.parent).data, shop.parent)
    assert len(dataset.selection.labels.unique()) == 6


def test_classes_without_a_test_folder_keep_a_share(tmp_path):
    found = check(draw_shop(tmp_path / "shop"), to=tmp_path / "mine.yaml")
    assert found.source.train == "shop" and found.source.test == own_study.HELD_OUT and found.tested == 0
    assert "a share of 0.2 of them to test on" in str(found)
    known, test = load_study("mine.yaml", tmp_path).data.load(tmp_path)
    assert len(known) == 96 and len(test) == 24


def test_groups_may_be_in_a_file(shop, tmp_path):
    (tmp_path / "groups.json").write_text(json.dumps({"dark": ["rye", "kefir"], "light": ["toast", "whole"]}))
    with pytest.raises(ValueError, match="has a class apple of no superclass; .*has a class pear of no superclass"):
        check(shop, tmp_path / "groups.json")
    (tmp_path / "groups.json").write_text(json.dumps({"dark": ["rye", "kefir"], "light": [*"ab", "toast", "whole"]}))
    with pytest.raises(ValueError, match="shop/train has no class a; shop/train has no class b"):
        check(shop, tmp_path / "groups.json")
    (tmp_path / "groups.json").write_text(json.dumps({"food": [name for names in GROUPS.values() for name in names]}))
    found = check(shop, tmp_path / "groups.json")
    assert found.hierarchy.superclasses == ("food",) and load_study("shop.yaml", tmp_path).scenarios.unions_of_two == 0


def test_a_comparison_is_asked_for(shop):
    assert load_study(check(shop).path.name, shop.parent).dropout is None
    found = check(shop, to=shop.parent / "compared.yaml", compare=True)
    study = load_study(found.path.name, shop.parent)
    assert study.dropout.candidates[0].begin == 0.8 and study.finetune


def test_a_name_of_any_characters_is_written_and_read(shop):
    broken = shop / "train" / "bread" / "rye" / "\u00c3\u0089clair.png"  # what archives make of names
    broken.write_bytes(b"no image")
    found = check(shop)
    assert load_study(found.path.name, shop.parent).data.skip == (broken.relative_to(shop.parent).as_posix(),)


def test_what_cannot_be_used_is_one_line_and_writes_nothing(shop, tmp_path):
    before = sorted(tmp_path.rglob("*"))

    def refused(kind, reason, *arguments, **options):
        with pytest.raises(kind, match=reason) as caught:
            check(*arguments, **options)
        assert "\n" not in str(caught.value) and sorted(tmp_path.rglob("*")) == before

    refused(FileNotFoundError, "nowhere is no folder", tmp_path / "nowhere")
    refused(FileNotFoundError, "groups.yaml is missing", shop, tmp_path / "groups.yaml")
    for path in list((shop / "train" / "milk" / "whole").iterdir())[: 21 - FEWEST]:
        path.unlink()
    before = sorted(tmp_path.rglob("*"))
    refused(ValueError, rf"classes with fewer than {FEWEST} photographs: whole \(3\): add some", shop)
    for path in (shop / "train").rglob("*.png"):
        path.write_bytes(b"no image")
    refused(ValueError, "train/bread/rye holds no images; .*train/milk/whole holds no images", shop)
    shutil.rmtree(shop / "test" / "bread" / "rye")
    before = sorted(tmp_path.rglob("*"))
    refused(ValueError, "shop/test has no class rye", shop)


def test_a_studys_file_is_never_overwritten(shop):
    path = check(shop).path
    text = path.read_text()
    with pytest.raises(FileExistsError, match="shop.yaml is there already: name another file with --to, or delete it"):
        check(shop)
    assert path.read_text() == text


@pytest.mark.parametrize(("side", "size"), [(20, 32), (48, 32), (64, 64), (128, 96), (4000, 96)])
def test_the_size_fits_the_photographs(side, size, monkeypatch):
    monkeypatch.setenv("EAS_DEVICE", "cpu")
    assert own_study.suggested_size(side) == size


@pytest.mark.parametrize("fewest", [4, 5, 7, 16, 100, 5000])
def test_the_smallest_class_has_an_image_in_every_part(fewest):
    share = own_study.shares(fewest)
    parts = [round(each * fewest) for each in share.values()]
    assert min(parts) >= 1 and fewest - sum(parts) >= 1


def test_the_smallest_possible_classes_make_a_data_set(tmp_path):
    found = check(draw_shop(tmp_path / "shop", count=FEWEST))
    workspace = open_workspace(str(found.path))
    dataset, _ = data.make(workspace.study.data, workspace.root, workspace.dataset_path)
    assert all(len(getattr(dataset, name)) == 6 for name in data.SPLITS)
    new_space(workspace.study, dataset)


def test_training_may_start_from_a_kit_in_its_space(shop):
    found = check(shop, start="cifar100")
    study, root = load_study("shop.yaml", shop.parent), shop.parent
    assert study.data.image_size == 32 and study.space == load_study("cifar100", ROOT).space
    supernet = study.space.build(32, 3).supernet(6, [0.5] * 3, [0.2] * 3)
    supernet.load_start(supernet.start_file(study.training.start.weights, root))
    assert torch.equal(supernet.state_dict()["stem.weight"], load_kit("cifar100").supernet.state_dict()["stem.weight"])
    assert found.budgets[-1] > 50


def test_what_training_may_not_start_from_is_one_line(shop, tmp_path):
    with pytest.raises(FileNotFoundError, match="no kit nowhere: looked for"):
        check(shop, start="nowhere")
    assert not (tmp_path / "shop.yaml").exists()
    check(shop, start="nothing")
    assert load_study("shop.yaml", tmp_path).training.start is None


def test_a_study_among_its_photographs_is_refused(tmp_path, monkeypatch, shop):
    classes = tmp_path / "only"
    shutil.copytree(shop / "train", classes)
    for to in (classes / "mine.yaml", classes / "milk" / "mine.yaml"):
        with pytest.raises(ValueError, match="would lie among the photographs: name a file outside of"):
            check(classes, to=to)
    monkeypatch.chdir(classes)
    with pytest.raises(ValueError, match="would lie among the photographs"):
        check(".")
    monkeypatch.chdir(shop)
    assert check(".").path == Path("shop.yaml") and (shop / "shop.yaml").is_file()


def test_a_file_that_is_no_yaml_is_refused_before_anything_is_read(shop, monkeypatch):
    monkeypatch.setattr(own_study, "looked_at", None)
    with pytest.raises(ValueError, match="mine.txt: a study's file ends in .yaml"):
        check(shop, to=shop.parent / "mine.txt")
    assert not (shop.parent / "mine.txt").exists()
