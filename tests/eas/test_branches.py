"""Superclass branches: what is tuned, on which images, from which weights; and files that hold no branch."""

from itertools import combinations
from pathlib import Path

import pytest
import torch
from cases import random_class_masks, seeded
from safetensors.torch import load_file, save_file

from eas import branches, training
from eas.branches import (
    PARTS,
    SetBatches,
    TunedBranches,
    compose_branches,
    read_branch,
    require_gradients,
    restored,
    stored,
    superclass_shares,
    tune_branches,
    tuned_names,
)
from eas.data import SPLITS, Dataset, Hierarchy, Split
from eas.files import read_tensors, write_tensors
from eas.recipes import Training
from eas.sandwich import sliced_step
from eas.training import make_step

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
    given = (few.train, few.hierarchy)
    made = {part: tune_branches(supernet, *given, part, RECIPE, draw_single(few), seed=0) for part in PARTS}
    return copy_of(supernet), made


@pytest.fixture(params=["all", "norms"])
def file(request, tuned, tmp_path):
    """A file of good branches."""
    path = tmp_path / "branches.safetensors"
    write_tensors(tuned[1][request.param], path)
    return path


def draw_single(few):
    """Draws one superclass at a time."""
    names = few.hierarchy.superclasses
    singles = torch.stack([few.hierarchy.class_mask([name]) for name in names])
    return lambda count, rng: singles[torch.randint(len(names), (count,), generator=rng)]


def only(superclass):
    """The shares of a set of one superclass."""
    return torch.eye(3)[superclass]


def copy_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed_names(supernet, before):
    return {name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, before[name])}


# -------------------------------------------------------------------- tuning


@pytest.mark.parametrize("part", PARTS)
def test_only_the_chosen_part_is_tuned_and_kept(part, new, tuned):
    supernet, (before, made) = new(), tuned
    names = tuned_names(supernet, part)
    assert {name.partition(".")[2].removesuffix(".scale") for name in made[part]} == set(names)
    supernet.load_state_dict(before)
    changed = changed_names(compose_branches(supernet, made[part], only(1)), before)
    assert not changed_names(supernet, before)
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
        seen.append(compose_branches(supernet, read_tensors(path)[0], only(index)).state_dict()[name])
        difference = read_branch(supernet, made["all"], index)[name]
        assert seen[-1].dtype == torch.float32 and torch.equal(seen[-1], before[name] + difference)
    assert not any(torch.allclose(*pair, atol=1e-4) for pair in combinations(seen, 2))


def test_branches_that_are_alike_are_the_shared_weights_tuned_on(new, few):
    supernet, recipe = new(), RECIPE.model_copy(update={"batch_size": 8})
    before, draw = copy_of(supernet), draw_single(few)
    given = (supernet, few.train, few.hierarchy, "norms", recipe, draw)
    made = tune_branches(*given, common=1.0, alike=True, seed=0)
    first, *others = (read_branch(supernet, made, index) for index in range(3))
    assert all(map(torch.equal, first.values(), other.values()) for other in others)
    assert not changed_names(supernet, before) and max(each.abs().max() for each in first.values()) > 1e-3
    several = tune_branches(*given, common=1.0, seed=0)
    assert any(not torch.equal(several[f"0.{name}"], made[f"0.{name}"]) for name in first if f"0.{name}" in made)


def test_a_set_is_served_by_the_mean_of_its_superclasses_branches(new, tuned):
    supernet, (before, made) = new(), tuned
    supernet.load_state_dict(before)
    composed = compose_branches(supernet, made["norms"], torch.tensor([0.75, 0.0, 0.25]))
    first, third = (read_branch(supernet, made["norms"], index) for index in (0, 2))
    for name, tensor in composed.state_dict().items():
        mean = 0.75 * first[name] + 0.25 * third[name] if name in first else 0
        torch.testing.assert_close(tensor, before[name] + mean)


def test_differences_are_stored_in_four_bits_a_value_and_a_factor_for_each_channel():
    torch.manual_seed(0)
    for shape in ((5, 3, 3, 3), (4, 6), (7, 1)):
        difference = torch.randn(shape) * torch.rand(len(torch.zeros(shape)), *[1] * (len(shape) - 1))
        made = stored("0.a", difference)
        assert made["0.a"].dtype == torch.uint8 and len(made["0.a"]) == (difference.numel() + 1) // 2
        back = restored(made["0.a"], made["0.a.scale"], difference)
        most = difference.flatten(1).abs().amax(1).view(-1, *[1] * (len(shape) - 1))
        assert ((back - difference).abs() <= most / 14 + 1e-6).all() and ((back.abs() - most).abs() < 1e-6).any(
            -1
        ).any()
    assert torch.equal(restored(**unnamed(stored("0.a", torch.zeros(3, 3))), like=torch.ones(3, 3)), torch.zeros(3, 3))
    norm = torch.randn(6)
    assert stored("0.b", norm).keys() == {"0.b"} and torch.equal(stored("0.b", norm)["0.b"], norm.bfloat16())


def unnamed(made):
    """What `stored` gave, as `restored` takes it."""
    return {"values": made["0.a"], "scale": made["0.a.scale"]}


def test_shares_are_those_of_a_sets_classes(few):
    hierarchy = few.hierarchy
    names = [hierarchy.superclasses[0], *hierarchy.members[2][:3]]
    count = len(hierarchy.members[0])
    shares = superclass_shares(hierarchy, hierarchy.class_mask(names))
    assert shares.tolist() == pytest.approx([count / (count + 3), 0, 3 / (count + 3)])
    assert superclass_shares(hierarchy, hierarchy.class_mask(hierarchy.members[1][:1])).tolist() == [0, 1, 0]


@pytest.mark.parametrize("common", [0.0, 0.25])
def test_a_step_is_plain_sgd_on_every_branch_of_the_set_by_its_share(common, new, few, monkeypatch):
    """The slow twin: a network for every step, and the optimiser's formula written out; the last part is in common."""
    settings, hierarchy = RECIPE.model_copy(update={"warmup": 0.0, "batch_size": 8}), few.hierarchy
    sets, seen, make_step = [[0], [0, 2], [2], [2, 0]], [], branches.make_step
    masks = [hierarchy.class_mask([hierarchy.superclasses[i] for i in members]) for members in sets]
    rows = torch.cat([(hierarchy.parent[few.train.labels] == i).nonzero()[:16, 0] for i in (0, 2)])

    def watched(supernet, recipe):
        step = make_step(supernet, recipe)
        return lambda *batch: seen.append((copy_of(supernet), batch)) or step(*batch)

    monkeypatch.setattr(branches, "make_step", watched)
    split = Split(few.train.images[rows], few.train.labels[rows])
    given = (split, hierarchy, "all", settings, lambda count, rng: torch.stack(masks))
    made = tune_branches(new(), *given, common=common, seed=0)

    twin, shared, momentum = new(), copy_of(new()), [{}, {}, {}, {}]
    own = [{name: torch.zeros_like(tensor) for name, tensor in shared.items()} for _ in range(4)]
    for number, (members, mask, (state, batch)) in enumerate(zip(sets, masks, seen, strict=True)):
        shares, rate = superclass_shares(hierarchy, mask), settings.learning_rate * (1 - number / 4)
        weights = {i: shares[i] for i in members} | ({3: common**0.5} if common else {})
        mean = {name: shared[name] + sum(w * own[i][name] for i, w in weights.items()) for name in state}
        assert torch.equal(batch[2], mask.expand(8, -1))
        for name in tuned_names(twin, "all"):
            torch.testing.assert_close(state[name], mean[name])
        twin.load_state_dict(mean)
        twin.zero_grad()
        sliced_step(twin, settings, *batch)
        for name, parameter in twin.named_parameters():
            for i, weight in weights.items():
                gradient = weight * parameter.grad
                if parameter.ndim > 1:
                    gradient = gradient + settings.weight_decay * own[i][name]
                momentum[i][name] = settings.momentum * momentum[i].get(name, 0) + gradient
                own[i][name] = own[i][name] - rate * (gradient + settings.momentum * momentum[i][name])
    for name in tuned_names(twin, "all"):
        for i in range(3):  # the second was never drawn: it has what is common
            difference = own[i][name] + common**0.5 * own[3][name]
            error = (read_branch(twin, made, i)[name] - difference).abs().max()
            assert error <= difference.abs().max() / (13 if difference.ndim > 1 else 100) + 1e-4


def test_a_step_trains_the_one_arch_that_is_proposed_for_its_set(new, few, monkeypatch):
    asked, seen, make_step = [], [], branches.make_step
    supernet = new()
    archs = supernet.space.sample(len(few.train) // 16, torch.Generator().manual_seed(3))

    def watched(supernet, recipe):
        step = make_step(supernet, recipe)
        return lambda *batch: seen.append(batch) or step(*batch)

    monkeypatch.setattr(branches, "make_step", watched)
    given = (supernet, few.train, few.hierarchy, "norms", RECIPE, draw_single(few))
    tune_branches(*given, propose=lambda masks, rng: asked.append(masks) or archs, seed=0)
    assert torch.equal(torch.cat([batch[-1] for batch in seen]), archs)
    assert all(torch.equal(batch[2][0], mask) for batch, mask in zip(seen, asked[0], strict=True))


def test_a_batch_shows_its_set_only_and_an_epoch_as_many_images_as_there_are(new, few):
    supernet, drawn = new(), draw_single(few)
    made = TunedBranches(supernet, tuned_names(supernet, "norms"), 3)
    sets = SetBatches(made, few.train, few.hierarchy, RECIPE, drawn)
    count = 0
    for images, labels in sets.epoch(torch.Generator().manual_seed(3)):
        class_mask, weight = sets.classes_that_count(labels, None, 0.0)
        assert class_mask.shape == (len(labels), len(few.hierarchy.classes)) and weight.all()
        assert class_mask[0, labels].all() and images.min() >= 0 and images.max() <= 1
        assert few.hierarchy.parent[labels].unique().numel() == 1
        count += len(labels)
    assert count == len(few.train) // RECIPE.batch_size * RECIPE.batch_size


def test_an_epoch_of_many_sets_shows_nearly_all_images(few):
    sets = SetBatches(None, few.train, few.hierarchy, RECIPE, None)
    masks = random_class_masks(sets.steps, len(few.hierarchy.classes))
    rows = torch.cat(sets.draw_rows(masks, seeded()))
    assert len(rows.unique()) > 0.95 * len(rows)


def test_the_supernet_is_afterwards_what_it_was(new, few):
    supernet = new()
    before = copy_of(supernet)
    tune_branches(supernet, few.train, few.hierarchy, "all", RECIPE, draw_single(few), seed=1)
    assert not changed_names(supernet, before) and not any(p.requires_grad for p in supernet.parameters())


def test_killed_branches_go_on_to_the_same_result(new, few, monkeypatch, tmp_path):
    settings, path = RECIPE.model_copy(update={"epochs": 3, "batch_size": 64}), tmp_path / "checkpoint"
    given = (few.train, few.hierarchy, "norms", settings, draw_single(few))
    expected, epoch, begun = tune_branches(new(), *given, seed=0), SetBatches.epoch, []

    def killed(self, generator, skip):
        begun.append(1)
        return pytest.fail("killed") if len(begun) == 3 else epoch(self, generator, skip)

    with monkeypatch.context() as patch, pytest.raises(pytest.fail.Exception):
        patch.setattr(SetBatches, "epoch", killed)
        tune_branches(new(), *given, seed=0, checkpoint=path)
    begun.clear()
    monkeypatch.setattr(
        SetBatches, "epoch", lambda self, generator, skip: begun.append(1) or epoch(self, generator, skip)
    )
    made = tune_branches(new(), *given, seed=0, checkpoint=path)
    assert begun == [1]  # the last epoch alone
    assert made.keys() == expected.keys() and all(torch.equal(made[name], expected[name]) for name in made)


@pytest.mark.parametrize("archs", ["sandwich", "generated"])
def test_branches_killed_within_an_epoch_go_on_to_the_same_result(archs, new, few, space, monkeypatch, tmp_path):
    monkeypatch.setattr(training, "SAVE_EVERY", -1)
    settings, path = RECIPE.model_copy(update={"epochs": 2, "batch_size": 64}), tmp_path / "checkpoint"
    given = (few.train, few.hierarchy, "norms", settings, draw_single(few))
    options = {"common": 0.3, "seed": 0}
    if archs == "generated":
        options["propose"] = lambda masks, rng: space.sample(len(masks), rng)
    expected, steps = tune_branches(new(), *given, **options), []

    def killing(supernet, recipe):
        step = make_step(supernet, recipe)

        def run(*batch):
            steps.append(1)
            return pytest.fail("killed") if len(steps) == 4 else step(*batch)

        return run

    with monkeypatch.context() as patch, pytest.raises(pytest.fail.Exception):
        patch.setattr(branches, "make_step", killing)
        tune_branches(new(), *given, **options, checkpoint=path)
    made = tune_branches(new(), *given, **options, checkpoint=path)
    assert made.keys() == expected.keys() and all(torch.equal(made[name], expected[name]) for name in made)


def test_gradients_flow_to_a_part_only(new):
    supernet = new()
    for part in ("norms", "all", "classifier"):
        require_gradients(supernet, part)
        assert [name for name, p in supernet.named_parameters() if p.requires_grad] == tuned_names(supernet, part)


# -------------------------------------------------------------------- files that hold no branch


def not_a_number(tensors):
    tensors["1.norm.bias"][3] = float("nan")


def infinite(tensors):
    tensors["1.classifier.weight.scale"][0] = float("inf")


def without_a_factor(tensors):
    del tensors["1.classifier.weight.scale"]


def with_a_factor_too_many(tensors):
    tensors["1.norm.weight.scale"] = torch.ones(8)


def cut_short(tensors):
    tensors["1.classifier.weight"] = tensors["1.classifier.weight"][:-1].clone()


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
        without_a_factor,
        with_a_factor_too_many,
        cut_short,
        of_another_network,
        of_whole_numbers,
        of_other_superclasses,
        nothing_but_a_classifier,
        of_more,
        of_nothing,
    ],
)
def test_a_file_that_holds_no_such_branch_is_refused_in_one_line_and_changes_nothing(damage, new, file):
    tensors = load_file(file)
    damage(tensors)
    save_file(tensors, file)
    assert_refused(new(), file)
    assert_refused(new(), tensors)


@pytest.mark.parametrize("content", [b"", b"12345678", b"\x10\0\0\0\0\0\0\0{}", b"half"])
def test_a_file_that_is_no_safetensors_is_refused(content, new, file):
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    assert_refused(new(), file, str(file))


def test_flipped_bytes_of_the_header_never_go_unnoticed(new, file):
    """Those of the values do, unless they make no number of them: a kit's list holds the file's SHA-256 for that."""
    whole, supernet = file.read_bytes(), new()
    header, before = 8 + int.from_bytes(whole[:8], "little"), copy_of(supernet)
    expected = copy_of(compose_branches(supernet, read_tensors(file)[0], only(1)))
    for place in [*range(8), *torch.randint(8, header, (100,), generator=torch.Generator().manual_seed(0)).tolist()]:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        try:
            composed = compose_branches(supernet, read_tensors(file)[0], only(1))
        except ValueError as error:
            assert (
                str(error).startswith((str(file), "branches: "))
                and "\n" not in str(error)
                and not changed_names(supernet, before)
            )
        else:
            assert not changed_names(composed, expected)  # of another superclass's tensors, or blanks


def assert_refused(supernet, branches, name="branches: "):
    """Tensors, or a file of such."""
    before = copy_of(supernet)
    with pytest.raises(ValueError) as caught:
        tensors = read_tensors(branches)[0] if isinstance(branches, Path) else branches
        compose_branches(supernet, tensors, only(1))
    assert str(caught.value).startswith(name) and "\n" not in str(caught.value)
    assert not changed_names(supernet, before)
