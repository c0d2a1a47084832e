"""The training loop: it learns, repeats itself, survives being killed, and says when it diverged."""

import json

import pytest
import reference
import torch
from cases import random_step
from safetensors.torch import load_file, save_file

from eas import training
from eas.branches import require_gradients, tuned_names
from eas.data import Split
from eas.data.batches import batches
from eas.dropout import SuperclassDropout
from eas.layers import Statistics
from eas.recipes import Augment, Dropout, Training
from eas.sandwich import compute_type, distilled, sliced_step
from eas.training import Checkpoint, Diverged, make_optimizer, make_step, set_learning_rate, train

RECIPE = Training(
    epochs=3, batch_size=30, learning_rate=0.1, random_subnets=1, distinct_archs=16, mixed_precision=False
)


class Interrupted(Exception):
    """Stands for a killed process."""


@pytest.fixture(scope="module")
def few(dataset, hierarchy):
    """90 images of 18 classes: three steps an epoch."""
    return dataset.train.only(hierarchy.class_mask(["digits", "arrows"]))


@pytest.fixture
def new(space, hierarchy, dataset):
    """Makes an untrained supernet from a seed."""

    def make(seed=0):
        torch.manual_seed(seed)
        return space.supernet(len(hierarchy.classes), dataset.mean, dataset.std)

    return make


@pytest.fixture
def own(hierarchy):
    return SuperclassDropout(hierarchy.parent, Dropout(variant="own", rate=0.5))


def everything(labels, *_):
    """No dropout, without a hierarchy."""
    return torch.ones(len(labels), 160, dtype=torch.bool), torch.ones(len(labels))


def weights(supernet):
    return {name: tensor.clone() for name, tensor in supernet.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def accuracy(supernet, arch, split):
    with torch.no_grad():
        return (supernet(split.images / 255, arch, Statistics()).argmax(1) == split.labels).float().mean()


def recipe(**changes):
    return Training(**(RECIPE.model_dump() | changes))


def failing_at(call, dropout, error):
    """`dropout`, whose call of this number (from 1) raises."""
    calls = 0

    def counted(*arguments):
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        return dropout(*arguments)

    return counted


# -------------------------------------------------------------------- the loop


def test_a_step_trains_the_archs_that_are_drawn_for_it(new, few, own, space):
    seen, step = [], make_step(supernet := new(), recipe())
    archs = space.sample(2, torch.Generator().manual_seed(1))
    options = {"draw_archs": lambda rng: archs[torch.randint(2, (1,), generator=rng)]}
    options["step_function"] = lambda *batch: seen.append(batch[-1]) or step(*batch)
    train(supernet, few, own, recipe(), seed=5, **options)
    assert len(seen) == 9 and len(torch.cat(seen).unique(dim=0)) == 2
    assert all(len(each) == 1 and (each == archs).all(1).any() for each in seen)


@pytest.mark.parametrize("variant", ["none", "batch"])
def test_the_loss_falls(variant, new, few, hierarchy):
    dropout = SuperclassDropout(hierarchy.parent, Dropout(variant=variant, rate=0.2))
    history = train(new(), few, dropout, recipe(epochs=8), seed=0)
    assert [row["epoch"] for row in history] == list(range(1, 9))
    # The teacher's part of the loss moves with it, so that only the whole trend counts.
    assert sum(row["loss"] for row in history[-2:]) < 0.85 * sum(row["loss"] for row in history[:2])


def test_every_subnet_learns(new, few, space):
    supernet, archs = new(), [space.largest, space.smallest, *space.sample(3, torch.Generator().manual_seed(1))]
    before = [accuracy(supernet, arch, few) for arch in archs]
    train(supernet, few, everything, recipe(epochs=20, augment=Augment(shift=0)), seed=0)
    after = [accuracy(supernet, arch, few) for arch in archs]
    assert max(before) < 0.2 and min(after) > 0.3


def test_equal_seeds_give_equal_weights_and_other_seeds_others(new, few, own):
    found = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        supernet = new()
        torch.manual_seed(noise)  # the global generator plays no part
        history = train(supernet, few, own, RECIPE, seed=seed)
        found.append((weights(supernet), history))
    assert same(found[0][0], found[1][0]) and found[0][1] == found[1][1]
    assert not same(found[0][0], found[2][0]) and found[0][1] != found[2][1]


def test_training_moves_every_weight_but_not_the_images_normalisation(new, few, own):
    supernet = new()
    before = weights(supernet)
    train(supernet, few, own, RECIPE, seed=0)
    unmoved = [name for name, tensor in weights(supernet).items() if torch.equal(tensor, before[name])]
    assert unmoved == ["mean", "std"]


def test_a_split_smaller_than_the_batch_is_a_step_an_epoch(new, few):
    seen, small = [], Split(few.images[:12], few.labels[:12])

    def dropout(labels, generator, progress):
        seen.append(len(labels))
        return everything(labels)

    history = train(new(), small, dropout, recipe(batch_size=128), seed=0)
    assert seen == [12] * 3 and len(history) == 3


@pytest.mark.parametrize("random_subnets", [0, 1, 3])
def test_a_step_trains_the_largest_some_random_and_the_smallest(random_subnets, new, few, own, space):
    seen = []

    def step(images, targets, class_mask, weight, archs):
        seen.append(archs)
        assert images.shape == (30, 1, 16, 16) and weight.shape == (30,)
        assert class_mask.shape == targets.shape == (30, 160)
        return torch.tensor(1.0)

    train(new(), few, own, recipe(random_subnets=random_subnets, distinct_archs=4), seed=5, step_function=step)
    assert len(seen) == 9
    sample = space.sample(4, torch.Generator().manual_seed(5)).tolist()
    for archs in seen:
        assert len(archs) == random_subnets + 2
        assert torch.equal(archs[0], space.largest) and torch.equal(archs[-1], space.smallest)
        assert all(arch in sample for arch in archs[1:-1].tolist())
    if random_subnets:
        assert len(torch.cat([archs[1:-1] for archs in seen]).unique(dim=0)) == len(torch.tensor(sample).unique(dim=0))


def test_the_loss_of_an_epoch_is_the_mean_over_its_steps(new, few, own):
    losses = iter([1.0, 2.0, 6.0, 4.0, 4.0, 4.0])
    history = train(new(), few, own, recipe(epochs=2), seed=0, step_function=lambda *_: torch.tensor(next(losses)))
    assert history == [{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 4.0}]


# -------------------------------------------------------------------- killed and resumed


@pytest.mark.parametrize(("variant", "kill_at"), [("none", 4), ("own", 5), ("batch", 9), ("sample", 8)])
def test_a_killed_run_continues_to_the_same_result_bit_for_bit(variant, kill_at, new, few, hierarchy, tmp_path):
    dropout = SuperclassDropout(hierarchy.parent, Dropout(variant=variant, rate=0.5))
    settings = recipe(augment=Augment(shift=2, flip=True, cutout=4), label_smoothing=0.1)
    whole, path, options = new(), tmp_path / "checkpoint", {"seed": 3, "watch": lambda: {"top1": 12.5}}
    expected = train(whole, few, dropout, settings, **options)
    killed, watched = new(), []
    with pytest.raises(Interrupted):
        train(killed, few, failing_at(kill_at, dropout, Interrupted()), settings, checkpoint=path, **options)
    assert not same(weights(killed), weights(whole))
    resumed = new(seed=7)  # another process: what it starts from must not matter
    options["watch"] = lambda: watched.append(1) or {"top1": 12.5}
    history = train(resumed, few, dropout, settings, checkpoint=path, **options)
    assert len(watched) == settings.epochs - (kill_at - 1) // 3  # steps an epoch; whole ones were not trained again
    assert json.dumps(history) == json.dumps(expected)
    assert same(weights(resumed), weights(whole))


def test_a_run_killed_in_its_first_epoch_begins_anew(new, few, own, tmp_path):
    whole, resumed, path = new(), new(), tmp_path / "checkpoint"
    expected = train(whole, few, own, RECIPE, seed=0)
    with pytest.raises(Interrupted):
        train(new(), few, failing_at(2, own, Interrupted()), RECIPE, seed=0, checkpoint=path)
    assert not path.exists()
    assert train(resumed, few, own, RECIPE, seed=0, checkpoint=path) == expected
    assert same(weights(resumed), weights(whole))


@pytest.mark.parametrize("call", [2, 3, 5, 6, 9])
@pytest.mark.parametrize("variant", ["own", "changed images"])
def test_a_run_killed_within_an_epoch_goes_on_to_the_same_result(call, variant, new, few, own, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", -1)
    path, settings = tmp_path / "checkpoint", RECIPE
    if variant == "changed images":
        settings = recipe(augment=Augment(shift=1, crop=0.5))
    whole, resumed = new(), new()
    expected = train(whole, few, own, settings, seed=3)
    with pytest.raises(Interrupted):
        train(new(), few, failing_at(call, own, Interrupted()), settings, seed=3, checkpoint=path)
    trained, step = [], make_step(resumed, settings)
    options = {"step_function": lambda *batch: trained.append(1) or step(*batch), "checkpoint": path}
    assert train(resumed, few, own, settings, seed=3, **options) == expected
    assert same(weights(resumed), weights(whole)) and len(trained) == 9 - (call - 1)


def test_a_run_without_momentum_is_resumed_too(new, few, own, tmp_path):
    whole, resumed, path = new(), new(), tmp_path / "checkpoint"
    expected = train(whole, few, own, recipe(momentum=0.0), seed=0)
    with pytest.raises(Interrupted):
        interrupted = failing_at(4, own, Interrupted())
        train(new(), few, interrupted, recipe(momentum=0.0), seed=0, checkpoint=path)
    assert train(resumed, few, own, recipe(momentum=0.0), seed=0, checkpoint=path) == expected
    assert same(weights(resumed), weights(whole))


def test_checkpoints_do_not_change_the_result_and_a_finished_run_is_not_repeated(new, few, own, tmp_path):
    plain, saved, again, path = new(), new(), new(seed=7), tmp_path / "folder" / "checkpoint"
    expected = train(plain, few, own, RECIPE, seed=0)
    assert train(saved, few, own, RECIPE, seed=0, checkpoint=path) == expected
    assert same(weights(saved), weights(plain))
    before = path.read_bytes()
    assert train(again, few, failing_at(1, own, Interrupted()), RECIPE, seed=0, checkpoint=path) == expected
    assert same(weights(again), weights(plain)) and path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def damaged(path, kind):
    """Makes a checkpoint one that is none any more, or another network's."""
    content, tensors, progress = (
        bytearray(path.read_bytes()),
        load_file(path),
        {"progress": '{"history": [], "step": 0, "total": 0}'},
    )
    match kind:
        case "empty" | "half":
            path.write_bytes(content[: len(content) // 2 if kind == "half" else 0])
            return
        case "header":
            content[20] ^= 0x81
            path.write_bytes(content)
            return
        case "not a number":
            tensors["momentum.3"].view(-1)[0] = float("nan")
        case "a tensor less":
            del tensors["weights.norm.bias"]
        case "another shape":
            tensors["weights.classifier.bias"] = torch.zeros(3)
        case "no progress":
            progress = None
        case "other progress":
            progress = {"progress": '{"history": 3, "step": 0, "total": 0}'}
    save_file(tensors, path, progress)


@pytest.mark.parametrize(
    "kind",
    ["empty", "half", "header", "not a number", "a tensor less", "another shape", "no progress", "other progress"],
)
def test_a_damaged_checkpoint_is_told_of_and_training_begins_anew(kind, new, few, own, tmp_path, capsys):
    path, short = tmp_path / "checkpoint", recipe(epochs=1, batch_size=90)
    whole, resumed = new(), new()
    expected = train(whole, few, own, short, seed=0, checkpoint=path)
    damaged(path, kind)
    capsys.readouterr()
    assert train(resumed, few, own, short, seed=0, checkpoint=path) == expected
    assert same(weights(resumed), weights(whole))
    told = [line for line in capsys.readouterr().out.splitlines() if "checkpoint" in line]
    assert len(told) == 1 and told[0].startswith(f"{path} is no good checkpoint (")
    assert told[0].endswith("training begins anew")


@pytest.mark.parametrize("resumed", [False, True])
def test_the_dropout_is_told_how_much_of_the_training_is_over(resumed, new, few, tmp_path):
    seen = []

    def dropout(labels, generator, progress):
        seen.append(progress)
        return everything(labels)

    path = tmp_path / "checkpoint"
    if resumed:
        with pytest.raises(Interrupted):
            train(new(), few, failing_at(4, everything, Interrupted()), RECIPE, seed=0, checkpoint=path)
    train(new(), few, dropout, RECIPE, seed=0, checkpoint=path)
    assert seen == pytest.approx([step / 9 for step in range(3 if resumed else 0, 9)])


# -------------------------------------------------------------------- divergence


def undefined_from(call):
    """No dropout, but from this call on (from 1) the loss is not a number."""
    calls = 0

    def dropout(labels, generator, progress):
        nonlocal calls
        calls += 1
        class_mask, weight = everything(labels)
        return class_mask, weight * (float("nan") if calls >= call else 1)

    return dropout


def test_divergence_ends_with_its_step_and_leaves_the_last_good_checkpoint(new, few, tmp_path):
    path, supernet, restored = tmp_path / "checkpoint", new(), new(seed=7)
    with pytest.raises(Diverged) as caught:
        train(supernet, few, undefined_from(8), RECIPE, seed=0, checkpoint=path, label="none-0")
    message = str(caught.value)
    assert "none-0" in message and "by step 2 of epoch 3" in message and str(path) in message and "\n" not in message
    with pytest.raises(Interrupted):
        interrupted = failing_at(7, everything, Interrupted())
        train(new(), few, interrupted, RECIPE, seed=0, checkpoint=tmp_path / "two epochs")
    assert same(load_file(path), load_file(tmp_path / "two epochs"))
    history, *_ = Checkpoint(path, restored, make_optimizer(restored, RECIPE)).load()
    assert [row["epoch"] for row in history] == [1, 2]
    assert all(tensor.isfinite().all() for tensor in weights(restored).values())


@pytest.mark.parametrize("checkpoint", [True, False])
def test_divergence_in_the_first_epoch_promises_no_checkpoint(checkpoint, new, few, tmp_path):
    path = tmp_path / "checkpoint" if checkpoint else None
    with pytest.raises(Diverged, match="loss is nan by step 2 of epoch 1; try a lower learning rate$"):
        train(new(), few, undefined_from(2), RECIPE, seed=0, checkpoint=path)
    assert not list(tmp_path.iterdir())


def test_an_absurd_learning_rate_diverges(new, few):
    with pytest.raises(Diverged, match="try a lower learning rate"):
        train(new(), few, everything, RECIPE.model_copy(update={"learning_rate": 1e30}), seed=0)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_loss_that_is_no_number_is_divergence(value, new, few):
    with pytest.raises(Diverged, match=f"loss is {value} by step 1 of epoch 1"):
        train(new(), few, everything, RECIPE, seed=0, step_function=lambda *_: torch.tensor(value))


def test_weights_that_the_last_step_of_an_epoch_ruined_are_not_the_last_good_state(new, few, tmp_path):
    supernet, path, calls = new(), tmp_path / "checkpoint", 0
    usual = make_step(supernet, RECIPE)

    def step(*arguments):
        nonlocal calls
        calls += 1
        loss = usual(*arguments)  # still finite: it was computed before the step
        if calls == 6:
            supernet.stem.weight.grad.fill_(float("nan"))
        return loss

    with pytest.raises(Diverged):
        train(supernet, few, everything, RECIPE, seed=0, checkpoint=path, step_function=step)
    assert all(tensor.isfinite().all() for tensor in load_file(path).values())


# -------------------------------------------------------------------- one step


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_distilled_targets_sum_to_one_over_the_classes_that_count(share):
    _, hard, class_mask, _ = random_step()
    teacher = torch.randn(16, 160, generator=torch.Generator().manual_seed(1)) * 5
    targets = distilled(hard, teacher, class_mask, share)
    torch.testing.assert_close(targets.sum(-1), torch.ones(16))
    assert (targets[~class_mask] == 0).all()
    for row, mask in enumerate(class_mask):
        expected = (1 - share) * hard[row, mask] + share * teacher[row, mask].softmax(-1)
        torch.testing.assert_close(targets[row, mask], expected)


def test_a_step_is_that_of_each_arch_in_turn_and_the_teacher_gets_no_gradient_from_its_students(new, space):
    settings, case = recipe(label_smoothing=0.1, distillation=0.7), random_step(smoothing=0.1)
    archs = torch.stack([space.largest, *space.sample(4, torch.Generator().manual_seed(2)), space.smallest])
    supernet, plain = new(), new()
    loss = make_step(supernet, settings)(*case, archs)
    torch.testing.assert_close(loss, reference.train_step(plain, settings, *case, archs))
    for one, other in zip(supernet.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("device", "units", "mixed", "expected"),
    [
        ("cuda", False, True, torch.bfloat16),
        ("cpu", True, True, torch.bfloat16),
        ("cpu", False, True, torch.float32),
        ("cuda", True, False, torch.float32),
        ("cpu", True, False, torch.float32),
    ],
)
def test_bfloat16_is_for_hardware_with_units_and_recipes_that_let_it(device, units, mixed, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": units})
    assert compute_type(recipe(mixed_precision=mixed), torch.device(device)) == expected


def test_a_step_in_bfloat16_points_where_one_in_float32_does(new, space, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})  # others emulate it, slowly
    (rounded, exact), case = (new(), new()), random_step()
    archs = torch.stack([space.largest, *space.sample(2, torch.Generator().manual_seed(2)), space.smallest])
    make_step(rounded, recipe(mixed_precision=True))(*case, archs)
    make_step(exact, recipe())(*case, archs)
    one, other = (torch.cat([p.grad.flatten() for p in s.parameters()]) for s in (rounded, exact))
    assert one.dtype == torch.float32 and not torch.equal(one, other)
    assert torch.cosine_similarity(one, other, 0) > 0.99


@pytest.mark.parametrize("part", ["norms", "classifier"])
def test_a_frozen_beginning_gets_no_gradient_and_the_rest_its_own(part, new, space):
    """What archs have in common is differentiated apart from the rest: also where only some of it is tuned."""
    supernet, plain, case = new(), new(), random_step()
    tuned, archs = tuned_names(supernet, part), torch.stack([space.largest, space.smallest])
    require_gradients(supernet, part)
    make_step(supernet, recipe())(*case, archs)
    reference.train_step(plain, recipe(), *case, archs)
    assert tuned and len(tuned) < len(weights(supernet))
    whole = dict(plain.named_parameters())
    for name, parameter in supernet.named_parameters():
        expected = whole[name].grad if name in tuned else torch.zeros_like(parameter)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)


def test_without_distillation_every_subnet_sees_the_labels_alone(new, space):
    supernet, case = new(), random_step()
    make_step(supernet, recipe(distillation=0.0))
    alone = [
        sliced_step(supernet, recipe(distillation=0.0), *case, arch[None]) for arch in (space.largest, space.smallest)
    ]
    both = sliced_step(supernet, recipe(distillation=0.0), *case, torch.stack([space.largest, space.smallest]))
    torch.testing.assert_close(both, torch.stack(alone).mean())


# -------------------------------------------------------------------- optimiser


def test_norms_and_biases_are_not_decayed(new):
    supernet = new()
    optimizer = make_optimizer(supernet, RECIPE)
    decay = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len(decay) == len(list(supernet.parameters()))
    for name, parameter in supernet.named_parameters():
        plain = "norm" in name or name.endswith("bias")
        assert decay[parameter] == (0 if plain else 5e-4), name
    assert all(group["momentum"] == 0.9 and group["nesterov"] for group in optimizer.param_groups)


@pytest.mark.parametrize("warmup", [0.15, 0.5, 0.0])
def test_the_learning_rate_rises_and_falls_in_straight_lines(warmup, new):
    settings = recipe(learning_rate=2.0, warmup=warmup)
    optimizer = make_optimizer(new(), settings)

    def rate(progress):
        set_learning_rate(optimizer, settings, progress)
        (found,) = {group["lr"] for group in optimizer.param_groups}
        return found

    assert rate(warmup) == pytest.approx(2.0)
    assert rate((1 + warmup) / 2) == pytest.approx(1.0)
    assert rate(0.25 + 0.75 * warmup) == pytest.approx(1.5)
    assert rate(0.9999) == pytest.approx(0.02)  # never nothing
    if warmup:
        assert rate(0) == pytest.approx(0.02) and rate(warmup / 2) == pytest.approx(1.0)
    rates = torch.tensor([rate(step / 1000) for step in range(1000)])
    peak = int(rates.argmax())
    assert peak == pytest.approx(1000 * warmup, abs=1)
    assert (rates[: peak + 1].diff() >= 0).all() and (rates[peak:].diff() <= 0).all()


def test_training_uses_that_schedule_step_by_step(new, few, monkeypatch):
    seen = []
    monkeypatch.setattr("eas.training.set_learning_rate", lambda optimizer, recipe, progress: seen.append(progress))
    train(new(), few, everything, RECIPE, seed=0, step_function=lambda *_: torch.tensor(0.0))
    assert seen == pytest.approx([step / 9 for step in range(9)])


def test_every_epoch_sees_every_image_once_in_an_order_of_its_own(new, few):
    labelled, seen = Split(few.images, torch.arange(len(few))), []

    def step(images, targets, *_):
        seen.append(targets.argmax(-1))
        return torch.tensor(0.0)

    train(new(), labelled, everything, RECIPE, seed=0, step_function=step)
    epochs = torch.cat(seen).view(3, 90)
    assert (epochs.sort(1).values == torch.arange(90)).all()
    assert len(epochs.unique(dim=0)) == 3
    assert len(list(batches(labelled, 30, RECIPE.augment, torch.Generator()))) == 3
