"""Superclass branches: what is tuned, on which images, from which weights; and files that hold no branch."""

from itertools import combinations

import pytest
import torch
from safetensors.torch import load_file, save_file

from eas import branches
from eas.branches import PARTS, load_branch, require_gradients, tune_branches, tuned_names
from eas.data import SPLITS, Dataset, Hierarchy
from eas.files import write_tensors
from eas.recipes import Training

RECIPE = Training(epochs=1, batch_size=16, learning_rate=0.1, random_subnets=1, mixed_precision=False)


@pytest.fixture(scope="module")
def few(dataset):
    """The data set's first three superclasses."""
    names = dataset.hierarchy.superclasses[:3]
    split = dataset.train.only(dataset.hierarchy.class_mask(names))
    hierarchy = Hierarchy.from_groups(dict(zip(names, dataset.hierarchy.members, strict=False)))
    parts = dict.fromkeys(SPLITS, split)
    return Dataset(hierarchy, mean=dataset.mean, std=dataset.std, **parts)


@pytest.fixture
def new(space, few):
    def make(seed=0):
        torch.manual_seed(seed)
        return space.supernet(len(few.hierarchy.classes), few.mean, few.std)

    return make


@pytest.fixture(scope="module")
def tuned(space, few):
    """The shared weights and the branches of every part, tuned once."""
    torch.manual_seed(0)
    supernet = space.supernet(len(few.hierarchy.classes), few.mean, few.std)
    made = {part: tune_branches(supernet, few.train, few.hierarchy, part, RECIPE, seed=0) for part in PARTS}
    return copy_of(supernet), made


@pytest.fixture(params=["all", "norms"])
def stored(request, tuned, tmp_path):
    """A file of good branches."""
    path = tmp_path / "branches.safetensors"
    write_tensors(tuned[1][request.param], path)
    return path


def copy_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed_names(supernet, before):
    return {name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, before[name])}


# -------------------------------------------------------------------- tuning


@pytest.mark.parametrize("part", PARTS)
def test_only_the_chosen_part_is_tuned_and_kept(part, new, tuned):
    supernet, (before, made) = new(), tuned
    names = tuned_names(supernet, part)
    assert {name.partition(".")[2] for name in made[part]} == set(names)
    assert all(tensor.dtype == torch.bfloat16 for tensor in made[part].values())
    supernet.load_state_dict(before)
    load_branch(supernet, made[part], 1)
    changed = changed_names(supernet, before)
    assert {"classifier.weight", "classifier.bias"} <= changed <= set(names)
    assert any(name.startswith("stages") for name in changed) == (part != "classifier")
    assert any(before[name].ndim == 4 for name in names) == (part == "all")


def test_every_superclass_gets_weights_of_its_own(new, tuned, tmp_path):
    before, made = tuned
    path, name = tmp_path / "branches.safetensors", "stages.0.0.conv1.weight"
    write_tensors(made["all"], path)
    supernet, seen = new(), [before[name]]
    supernet.load_state_dict(before)
    for index in range(3):
        assert load_branch(supernet, path, index) is supernet
        seen.append(supernet.state_dict()[name].clone())
        assert seen[-1].dtype == torch.float32
        assert torch.equal(seen[-1], made["all"][f"{index}.{name}"].float())
    assert not any(torch.allclose(*pair, atol=1e-4) for pair in combinations(seen, 2))


def test_a_branch_starts_from_the_shared_weights_and_sees_its_own_images_only(new, few, monkeypatch, tmp_path):
    supernet, seen = new(), []
    before = copy_of(supernet)

    def train(supernet, split, dropout, recipe, *, seed, checkpoint, label, step_function):
        assert not changed_names(supernet, before) and recipe is RECIPE and seed == 7
        class_mask, weight = dropout(split.labels, None, 0.0)
        assert torch.equal(class_mask[0].nonzero()[:, 0], split.labels.unique()) and weight.all()
        seen.append((label, split.labels.unique().tolist(), checkpoint, step_function))
        with torch.no_grad():
            supernet.norm.bias += 1  # must not reach the next branch

    monkeypatch.setattr(branches, "train", train)
    made = tune_branches(supernet, few.train, few.hierarchy, "norms", RECIPE, seed=7, checkpoints=tmp_path)
    assert [label for label, *_ in seen] == list(few.hierarchy.superclasses)
    for index, (label, labels, checkpoint, step) in enumerate(seen):
        assert labels == few.hierarchy.class_mask([label]).nonzero()[:, 0].tolist()
        assert checkpoint == tmp_path / str(index) and step is seen[0][3]  # a GPU's captures are made once
        assert torch.equal(made[f"{index}.norm.bias"], (before["norm.bias"] + 1).bfloat16())
    assert not changed_names(supernet, before) and not any(p.requires_grad for p in supernet.parameters())


def test_killed_branches_go_on_with_the_superclass_that_they_were_at(new, few, tuned, monkeypatch, tmp_path):
    train, begun = branches.train, []

    def killed(*args, **options):
        begun.append(options["label"])
        return pytest.fail("killed") if len(begun) == 3 else train(*args, **options)

    options = {"seed": 0, "checkpoints": tmp_path}
    with monkeypatch.context() as patch, pytest.raises(pytest.fail.Exception):
        patch.setattr(branches, "train", killed)
        tune_branches(new(), few.train, few.hierarchy, "all", RECIPE, **options)
    steps, make_step = [], branches.make_step

    def counted(*args):
        step = make_step(*args)
        return lambda *arguments: steps.append(1) or step(*arguments)

    monkeypatch.setattr(branches, "make_step", counted)
    made, expected = tune_branches(new(), few.train, few.hierarchy, "all", RECIPE, **options), tuned[1]["all"]
    assert made.keys() == expected.keys() and all(torch.equal(made[name], expected[name]) for name in made)
    last = few.train.only(few.hierarchy.class_mask([few.hierarchy.superclasses[2]]))
    assert len(steps) == len(last) // 16  # those of the others were not taken again


def test_gradients_flow_to_a_part_only(new):
    supernet = new()
    for part in ("norms", "all", "classifier"):
        require_gradients(supernet, part)
        assert [name for name, p in supernet.named_parameters() if p.requires_grad] == tuned_names(supernet, part)


# -------------------------------------------------------------------- files that hold no branch


def not_a_number(tensors):
    tensors["1.norm.bias"][3] = float("nan")


def infinite(tensors):
    tensors["1.classifier.weight"][0, 0] = float("inf")


def of_another_network(tensors):
    tensors["1.norm.weight"] = torch.ones(7, dtype=torch.bfloat16)


def of_whole_numbers(tensors):
    tensors["1.norm.weight"] = tensors["1.norm.weight"].to(torch.int8)


def of_other_superclasses(tensors):
    for name in [name for name in tensors if name.startswith("1.")]:
        tensors[f"11{name[1:]}"] = tensors.pop(name)


def nothing_but_a_classifier(tensors):
    """What one part's branch has, in a file of another part."""
    for name in [name for name in tensors if name.startswith("1.") and "classifier" not in name]:
        del tensors[name]


def of_more(tensors):
    tensors["1.stages.9.0.conv1.weight"] = torch.zeros(3)


def of_nothing(tensors):
    tensors.clear()


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors: tensors.pop("1.norm.weight"),
        lambda tensors: [tensors.pop(name) for name in list(tensors) if name.endswith(".norm.bias")],
        not_a_number,
        infinite,
        of_another_network,
        of_whole_numbers,
        of_other_superclasses,
        nothing_but_a_classifier,
        of_more,
        of_nothing,
    ],
)
def test_a_file_that_holds_no_such_branch_is_refused_in_one_line_and_changes_nothing(damage, new, stored):
    tensors = load_file(stored)
    damage(tensors)
    save_file(tensors, stored)
    assert_refused(new(), stored)
    assert_refused(new(), tensors, "the branches")


@pytest.mark.parametrize("content", [b"", b"12345678", b"\x10\0\0\0\0\0\0\0{}", b"half"])
def test_a_file_that_is_no_safetensors_is_refused(content, new, stored):
    whole = stored.read_bytes()
    stored.write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    assert_refused(new(), stored)


def test_flipped_bytes_of_the_header_never_go_unnoticed(new, stored):
    """Those of the values do, unless they make no number of them: a kit's list holds the file's SHA-256 for that."""
    whole, supernet = stored.read_bytes(), new()
    header, before = 8 + int.from_bytes(whole[:8], "little"), copy_of(supernet)
    expected = copy_of(load_branch(supernet, stored, 1))
    for place in [*range(8), *torch.randint(8, header, (100,), generator=torch.Generator().manual_seed(0)).tolist()]:
        supernet.load_state_dict(before)
        stored.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        try:
            load_branch(supernet, stored, 1)
        except ValueError as error:
            assert str(stored) in str(error) and "\n" not in str(error) and not changed_names(supernet, before)
        else:
            assert not changed_names(supernet, expected)  # of another superclass's tensors, or blanks


def test_a_missing_file_is_an_error_that_names_it(new, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors is missing: no branches were trained"):
        load_branch(new(), tmp_path / "nowhere.safetensors", 0)


def assert_refused(supernet, stored, name=None):
    before = copy_of(supernet)
    with pytest.raises(ValueError) as caught:
        load_branch(supernet, stored, 1)
    assert str(caught.value).startswith(name or str(stored)) and "\n" not in str(caught.value)
    assert not changed_names(supernet, before)
