"""A study's scenarios and its supernets: what is written, what is skipped, and how a killed run goes on."""

import dataclasses
import json
import os
import shutil
from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from eas import data, records
from eas import study as steps
from eas.config import Augment, Branch, Branches, Dropout, Teacher, load_study
from eas.study import NONE
from eas.training import step_function

ROOT = Path(__file__).parents[1]
OWN = Dropout(variant="own", rate=0.5)
SAMPLE = Dropout(variant="sample", rate=0.25)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("EAS_DEVICE", "cpu")


@pytest.fixture(scope="module")
def file(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "dataset.safetensors"
    data.save(dataset, path)
    return path


@pytest.fixture
def folder(file, tmp_path):
    shutil.copyfile(file, tmp_path / "dataset.safetensors")
    return tmp_path


@pytest.fixture
def quick(study):
    """The tiny study, even smaller: one epoch of two steps, whatever params.yaml says."""
    training = {"epochs": 1, "batch_size": 400, "learning_rate": 0.3, "random_subnets": 1}
    tuned = Branch(part="all", learning_rate=0.1)
    branches = Branches(epochs=1, batch_size=16, candidates=(tuned,))
    return changed(study, seeds=(0, 1), training=training, branches=branches, evaluation={"calibration_images": 40})


@pytest.fixture
def wide(study):
    """The tiny study with three budgets and four unions."""
    return changed(study, scenarios={"budgets": (0.3, 0.45, 0.6), "unions_of_two": 2, "unions_of_three": 2})


def die_before_the_record(patch):
    def save_and_die(*args):
        data.save_tensors(*args)
        raise KeyboardInterrupt

    patch.setattr(records, "save_tensors", save_and_die)


def changed(study, **sections):
    """A copy with other values in some sections; what is no section is replaced."""
    update = {
        name: getattr(study, name).model_copy(update=values) if isinstance(values, dict) else values
        for name, values in sections.items()
    }
    return study.model_copy(update=update)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def weights(path):
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def forbid_training(monkeypatch):
    def train(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(steps, "train", train)


# -------------------------------------------------------------------- scenarios


def test_scenarios_are_every_group_at_every_budget_in_order(wide, hierarchy):
    wanted, groups = steps.scenarios(wide, hierarchy), steps.groups(wide, hierarchy)
    assert len(groups) == 10 + 2 + 2 and len(wanted) == 14 * 3
    assert groups[:10] == [(name,) for name in hierarchy.superclasses]
    assert [len(group) for group in groups[10:]] == [2, 2, 3, 3] and len(set(groups)) == 14
    assert wanted.names == ["+".join(group) for group in groups] * 3
    assert wanted.budgets.tolist() == [3e5] * 14 + [4.5e5] * 14 + [6e5] * 14
    assert wanted.kept.shape == (42, 160) and wanted.kept.dtype == torch.bool
    for name, kept in zip(wanted.names, wanted.kept, strict=True):
        assert torch.equal(kept, hierarchy.kept(name.split("+")))
    assert wanted.is_union == ([False] * 10 + [True] * 4) * 3


@pytest.mark.parametrize("name", ["tiny", "glyphs", "glyphs_teacher", "glyphs_branches", "cifar100", "cifar100_cpu"])
def test_every_study_has_superclasses_and_unions_times_budgets_scenarios(name):
    study, hierarchy = load_study(name, ROOT), data.hierarchy("cifar100" if name.startswith("cifar100") else "glyphs")
    asked = study.scenarios
    groups = len(hierarchy.superclasses) + asked.unions_of_two + asked.unions_of_three
    wanted = steps.scenarios(study, hierarchy)
    assert len(wanted) == groups * len(asked.budgets)
    assert len(set(zip(wanted.names, wanted.budgets.tolist(), strict=True))) == len(wanted)


def test_unions_follow_from_the_seed_of_the_data(wide, hierarchy):
    groups = steps.groups(wide, hierarchy)
    assert groups == steps.groups(changed(wide, seeds=(7, 8, 9)), hierarchy)
    others = [steps.groups(changed(wide, data={"seed": seed}), hierarchy) for seed in range(1, 6)]
    assert all(other[:10] == groups[:10] for other in others) and any(other != groups for other in others)


def test_more_unions_than_there_are_give_them_all(study, hierarchy):
    groups = steps.groups(changed(study, scenarios={"unions_of_two": 100, "unions_of_three": 0}), hierarchy)
    assert groups[10:] == list(combinations(hierarchy.superclasses, 2))


def drawn(study, hierarchy, count, seed=0):
    """Sets of superclasses and budgets as the sampler draws them; each a union of whole superclasses."""
    kept, budgets = steps.scenario_sampler(study, hierarchy)(count, seeded(seed))
    superclasses = torch.stack([hierarchy.kept([name]) for name in hierarchy.superclasses])
    touched, whole = (kept[:, None] & superclasses).any(2), (kept[:, None] | ~superclasses).all(2)
    assert torch.equal(touched, whole)
    return [frozenset(row.nonzero()[:, 0].tolist()) for row in whole], budgets


def test_training_scenarios_are_one_to_three_superclasses_and_never_a_held_out_union(wide, hierarchy):
    many = changed(wide, scenarios={"unions_of_two": 30, "unions_of_three": 100})
    names = hierarchy.superclasses
    held_out = {frozenset(map(names.index, group)) for group in steps.groups(many, hierarchy) if len(group) > 1}
    assert len(held_out) == 130
    sets, budgets = drawn(many, hierarchy, 6000)
    assert not held_out & set(sets)
    sizes = torch.tensor([len(each) for each in sets]).bincount() / len(sets)
    assert len(sizes) == 4 and (sizes[1:] - 1 / 3).abs().max() < 0.03
    assert len(set(sets)) == 10 + (45 - 30) + (120 - 100)  # everything else is drawn
    assert budgets.dtype == torch.float64 and 3e5 <= budgets.min() < 3.1e5 and 5.9e5 < budgets.max() <= 6e5
    assert budgets.mean() == pytest.approx(4.5e5, rel=0.01)


def test_training_scenarios_repeat_with_the_generators_seed(wide, hierarchy):
    first, second, other = (drawn(wide, hierarchy, 50, seed) for seed in (0, 0, 1))
    assert first[0] == second[0] and torch.equal(first[1], second[1])
    assert first[0] != other[0] and not torch.equal(first[1], other[1])


def test_every_union_held_out_leaves_what_remains_to_train_on(study, hierarchy):
    every = changed(study, scenarios={"unions_of_two": 100, "unions_of_three": 1000})
    sets, _ = drawn(every, hierarchy, 200)
    assert {len(each) for each in sets} == {1}


# -------------------------------------------------------------------- supernets


def test_training_a_supernet_writes_weights_and_a_record(study, dataset, folder, monkeypatch):
    record = steps.train_supernet(study, folder, OWN, 1)
    path = steps.supernet_path(folder, OWN, 1)
    assert path == folder / "supernets" / "own-0.5-1.safetensors"
    assert json.loads(path.with_suffix(".json").read_text()) == record
    assert record["setting"] == "own-0.5" and record["seed"] == 1
    assert [row["epoch"] for row in record["history"]] == list(range(1, study.training.epochs + 1))
    assert all(row["loss"] > 0 for row in record["history"])
    accuracy = record["accuracy"]
    assert [row["subnet"] for row in accuracy] == ["largest", *["random"] * 8, "smallest"]
    space = steps.new_supernet(study, dataset).space
    costs = [row["madds"] for row in accuracy]
    assert costs[0] == space.madds(space.largest, 160) == max(costs)
    assert costs[-1] == space.madds(space.smallest, 160) == min(costs)
    assert all(0 <= row["flat_top1"] <= row["top1"] <= 100 for row in accuracy)
    trained = steps.load_supernet(study, dataset, path)
    torch.manual_seed(1)
    fresh = steps.new_supernet(study, dataset).state_dict()
    assert trained.state_dict().keys() == fresh.keys() and not same(trained.state_dict(), fresh)
    assert not any(parameter.requires_grad for parameter in trained.parameters())
    assert steps.selection_accuracy(study, trained, dataset) == accuracy
    assert {path.suffix for path in (folder / "resume" / "supernets").iterdir()} == {".json", ".safetensors"}

    before = times(folder)
    forbid_training(monkeypatch)
    assert steps.train_supernet(study, folder, OWN, 1) == record
    assert times(folder) == before


def test_equal_seeds_give_equal_weights_and_others_do_not(quick, folder):
    first = steps.train_supernet(quick, folder, OWN, 0)
    weight = weights(steps.supernet_path(folder, OWN, 0))
    steps.train_supernet(quick, folder, OWN, 1)
    assert not same(weight, weights(steps.supernet_path(folder, OWN, 1)))
    for name in ("supernets", "resume"):
        shutil.rmtree(folder / name)
    assert steps.train_supernet(quick, folder, OWN, 0) == first
    assert same(weight, weights(steps.supernet_path(folder, OWN, 0)))


def test_changed_parameters_train_again_and_those_of_later_steps_do_not(quick, folder, monkeypatch):
    first = steps.train_supernet(quick, folder, OWN, 0)
    weight = weights(steps.supernet_path(folder, OWN, 0))
    second = steps.train_supernet(changed(quick, training={"learning_rate": 0.01}), folder, OWN, 0)
    assert second["key"] != first["key"] and second["history"] != first["history"]
    assert not same(weight, weights(steps.supernet_path(folder, OWN, 0)))
    assert json.loads(steps.supernet_path(folder, OWN, 0).with_suffix(".json").read_text()) == second
    assert steps.train_supernet(quick, folder, OWN, 0) == first  # and back
    assert same(weight, weights(steps.supernet_path(folder, OWN, 0)))
    forbid_training(monkeypatch)
    later = changed(quick, seeds=(0, 5), search={"pool": 99}, generator={"steps": 1}, scenarios={"budgets": (0.5,)})
    assert steps.train_supernet(later, folder, OWN, 0) == first


def test_the_supernet_without_dropout_trains_as_long_as_supernet_and_branches_together(quick, folder):
    assert len(steps.train_supernet(quick, folder, NONE, 0)["history"]) == 2
    assert len(steps.train_supernet(quick, folder, OWN, 0)["history"]) == 1
    assert len(steps.train_supernet(changed(quick, branches=None), folder, NONE, 0)["history"]) == 1


def test_a_finished_supernet_survives_that_dvc_deletes_the_stages_outputs(quick, folder, monkeypatch):
    record = steps.train_supernet(quick, folder, OWN, 0)
    path = steps.supernet_path(folder, OWN, 0)
    content = {suffix: path.with_suffix(suffix).read_bytes() for suffix in (".safetensors", ".json")}
    shutil.rmtree(folder / "supernets")
    forbid_training(monkeypatch)
    assert steps.train_supernet(quick, folder, OWN, 0) == record
    assert {suffix: path.with_suffix(suffix).read_bytes() for suffix in content} == content
    shutil.rmtree(folder / "supernets")
    with pytest.raises(AssertionError, match="trained again"):  # what is kept was made with other parameters
        steps.train_supernet(changed(quick, training={"learning_rate": 0.01}), folder, OWN, 0)


TEACHER = Teacher(widths=(16, 32), epochs=1, share=0.5)


def test_a_teacher_is_trained_once_and_all_supernets_of_its_seed_learn_from_it(quick, dataset, folder, monkeypatch):
    taught, alone = changed(quick, training={"teacher": TEACHER}), steps.train_supernet(quick, folder, OWN, 0)
    with pytest.raises(FileNotFoundError, match="teacher-0.safetensors is missing: run notebooks/02_supernet"):
        steps.train_supernet(taught, folder, OWN, 0)
    record = steps.train_teacher(taught, folder, 0)
    assert set(record) >= {"seed", "top1"} and 0 < record["top1"] <= 100
    network = steps.build_teacher(taught, dataset)
    assert network.space.widths == (16, 32) and steps.new_supernet(taught, dataset).space.widths == (8, 16)
    for setting in (NONE, OWN):
        assert steps.train_supernet(taught, folder, setting, 0)["history"] != alone["history"]
    forbid_training(monkeypatch)
    assert steps.train_teacher(taught, folder, 0) == record


def test_a_teacher_that_is_tried_teaches_one_more_supernet_and_leaves_the_others_alone(quick, folder, monkeypatch):
    chosen = {"seeds": 1, "candidates": (OWN,), "with_teacher": None}
    tried = changed(quick, dropout=chosen | {"with_teacher": TEACHER})
    assert steps.read_taught(changed(quick, dropout=chosen), folder) == {}
    records = steps.train_supernets(tried, folder)
    assert [(r["setting"], r["seed"]) for r in records] == [("none", 0), ("none", 1), ("own-0.5", 0), ("own-0.5", 1)]
    taught = steps.read_taught(tried, folder)
    assert taught["without"] in records and taught["with"] not in records
    assert taught["with"]["history"] != taught["without"]["history"] and 0 < taught["teacher"]["top1"] <= 100
    with monkeypatch.context() as patch:
        forbid_training(patch)
        assert steps.train_supernets(tried, folder) == records
    steps.supernet_path(folder, OWN, 0, taught=True).with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match="own-0.5-taught-0.json is missing: run notebooks/02_supernet"):
        steps.read_taught(tried, folder)
    everywhere = changed(quick, training={"teacher": TEACHER}, dropout=chosen)  # all supernets have it
    assert steps.train_supernet(everywhere, folder, OWN, 0)["history"] == taught["with"]["history"]


def test_a_teacher_predicts_each_image_by_itself(quick, dataset, folder):
    taught = changed(quick, training={"teacher": TEACHER})
    steps.train_teacher(taught, folder, 0)
    teacher = steps.load_teacher(taught, folder, dataset, 0)
    images = data.as_input(dataset.selection.images[:8])
    logits = teacher(images)
    assert logits.shape == (8, len(dataset.hierarchy.classes)) and not logits.requires_grad
    torch.testing.assert_close(torch.cat([teacher(image) for image in images.split(1)]), logits, rtol=1e-4, atol=1e-4)
    assert steps.load_teacher(quick, folder, dataset, 0) is None


def test_a_killed_training_goes_on_to_the_same_result(quick, folder, monkeypatch):
    longer = changed(quick, training={"epochs": 3})
    expected = steps.train_supernet(longer, folder, OWN, 0)
    weight = weights(steps.supernet_path(folder, OWN, 0))
    for name in ("supernets", "resume", "timings"):
        shutil.rmtree(folder / name)
    train = steps.train

    def killed(supernet, split, *args, **kwargs):
        draws = 0
        compute = step_function(supernet, longer.training)

        def compute_or_die(*arguments):
            nonlocal draws
            draws += 1
            if draws == 4:  # in the second epoch of two steps each
                raise KeyboardInterrupt
            return compute(*arguments)

        return train(supernet, split, *args, **kwargs, compute=compute_or_die)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(steps, "train", killed)
        steps.train_supernet(longer, folder, OWN, 0)
    assert len(list((folder / "resume" / "supernets").iterdir())) == 1  # the checkpoint
    assert not (folder / "supernets").exists()
    assert steps.train_supernet(longer, folder, OWN, 0) == expected
    assert same(weight, weights(steps.supernet_path(folder, OWN, 0)))
    assert not (folder / "timings").exists()  # a part of the time was spent before


def test_a_run_killed_before_its_record_is_no_finished_run(quick, folder, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        die_before_the_record(patch)
        steps.train_supernet(quick, folder, OWN, 0)
    path = steps.supernet_path(folder, OWN, 0)
    assert path.is_file() and not path.with_suffix(".json").exists()
    weight = weights(path)
    record = steps.train_supernet(quick, folder, OWN, 0)
    assert len(record["history"]) == 1 and same(weight, weights(path))


def test_a_record_never_stands_beside_weights_of_other_parameters(quick, folder, monkeypatch):
    steps.train_supernet(quick, folder, OWN, 0)
    weight = weights(steps.supernet_path(folder, OWN, 0))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # other parameters, killed at the end
        die_before_the_record(patch)
        steps.train_supernet(changed(quick, training={"learning_rate": 0.01}), folder, OWN, 0)
    assert not same(weight, weights(steps.supernet_path(folder, OWN, 0)))
    steps.train_supernet(quick, folder, OWN, 0)  # back to the first ones
    assert same(weight, weights(steps.supernet_path(folder, OWN, 0)))


def test_a_missing_data_set_names_the_notebook_that_makes_it(quick, tmp_path):
    with pytest.raises(FileNotFoundError, match="run notebooks/01_superclasses for the study tiny first"):
        steps.train_supernet(quick, tmp_path, OWN, 0)


def test_a_stage_that_is_killed_after_its_supernets_does_not_train_them_again(quick, folder):
    records = steps.train_supernets(quick, folder)
    spare, before = folder / "resume", times(folder / "resume")
    shutil.rmtree(folder / "supernets")  # as DVC does before it runs a stage
    assert steps.train_supernets(quick, folder) == records
    assert before and times(spare) == before  # else what was trained would have been written there anew


def test_train_supernets_trains_the_chosen_dropout_on_all_seeds_and_the_others_on_the_first(quick, folder):
    two = changed(quick, dropout={"seeds": 1, "candidates": (OWN, SAMPLE), "with_teacher": None})
    records = steps.train_supernets(two, folder)
    chosen = steps.choose_dropout(two, records)
    runs = [(NONE, 0), (NONE, 1), (OWN, 0), (SAMPLE, 0), (chosen, 1)]
    paths = [steps.supernet_path(folder, *run) for run in runs]
    assert set((folder / "supernets").iterdir()) == {p.with_suffix(s) for p in paths for s in (".safetensors", ".json")}
    assert {(r["setting"], r["seed"]) for r in records} == {(setting.name, seed) for setting, seed in runs}
    assert records == steps.read_records(two, folder)
    assert steps.settings_of(two, folder) == {"eas": chosen, "ofa": NONE}
    pairs = [(name, setting, seed) for name, setting in (("eas", chosen), ("ofa", NONE)) for seed in (0, 1)]
    assert steps.supernet_jobs(two, folder) == [(two, folder, *pair) for pair in pairs]
    before = times(folder)
    assert steps.train_supernets(two, folder) == records and times(folder) == before


# -------------------------------------------------------------------- the choice of the dropout


def record(setting, seed, *top1):
    return {"setting": setting.name, "seed": seed, "accuracy": [{"subnet": "random", "top1": value} for value in top1]}


def test_the_dropout_with_the_best_mean_over_subnets_and_the_first_seeds_is_chosen(study):
    two = changed(study, seeds=(3, 4, 5), dropout={"seeds": 2, "candidates": (OWN, SAMPLE)})
    records = [
        record(NONE, 3, 99, 99),  # no candidate
        record(NONE, 4, 99, 99),
        record(OWN, 3, 60, 70),
        record(OWN, 4, 80, 70),
        record(SAMPLE, 3, 71, 50),  # the best subnet of its seed, and the worst
        record(SAMPLE, 4, 81, 79),
        record(OWN, 5, 0, 0),  # the third seed does not count
    ]
    assert steps.choose_dropout(two, records) == SAMPLE
    records[3] = record(OWN, 4, 82, 70)
    assert steps.choose_dropout(two, records) == OWN
    assert steps.choose_dropout(two, records[::-1]) == OWN


def test_a_missing_record_names_the_notebook_that_makes_it(study, tmp_path):
    (tmp_path / "supernets").mkdir()
    needed = steps.first_runs(study)
    assert {setting for setting, _ in needed} == {NONE, *study.dropout.candidates}
    for setting, seed in needed:
        for ask in (steps.read_records, steps.settings_of, steps.supernet_jobs):
            with pytest.raises(FileNotFoundError, match="run notebooks/02_supernet for the study tiny first") as caught:
                ask(study, tmp_path)
        path = steps.supernet_path(tmp_path, setting, seed).with_suffix(".json")
        assert f"{path} is missing" in str(caught.value)
        path.write_text(json.dumps(record(setting, seed, 50)))
    assert len(steps.read_records(study, tmp_path)) == len(needed)


# -------------------------------------------------------------------- weights that are not what they should be


def test_missing_weights_name_the_notebook_that_makes_them(study, dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match="none-0.safetensors is missing: run notebooks/02_supernet for the stu"):
        steps.load_supernet(study, dataset, steps.supernet_path(tmp_path, NONE, 0))


BROKEN = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "cut in its header": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "empty": lambda path: path.write_bytes(b""),
    "no safetensors": lambda path: path.write_bytes(b"no weights at all"),
    "a pickle": lambda path: torch.save({"weight": torch.zeros(2)}, path),
    "other tensors": lambda path: save_file({"weight": torch.zeros(2)}, path),
    "another shape": lambda path: save_file(load_file(path) | {"norm.bias": torch.zeros(3)}, path),
    "one too few": lambda path: save_file({n: t for n, t in weights(path).items() if n != "norm.bias"}, path),
    "one too many": lambda path: save_file(weights(path) | {"surplus": torch.zeros(3)}, path),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_damaged_or_foreign_weights_are_refused_in_one_line(study, dataset, supernet, tmp_path, broken):
    path = steps.supernet_path(tmp_path, NONE, 0)
    data.save_tensors(supernet.state_dict(), path)
    assert same(steps.load_supernet(study, dataset, path).state_dict(), supernet.state_dict())
    BROKEN[broken](path)
    with pytest.raises(ValueError, match="none-0.safetensors") as caught:
        steps.load_supernet(study, dataset, path)
    assert "\n" not in str(caught.value)


def test_weights_of_another_study_are_refused(study, dataset, supernet, tmp_path):
    path = steps.supernet_path(tmp_path, NONE, 0)
    data.save_tensors(supernet.state_dict(), path)
    with pytest.raises(ValueError, match=f"{path.name} does not fit the study tiny") as caught:
        steps.load_supernet(changed(study, space={"widths": (8, 32)}), dataset, path)
    assert "\n" not in str(caught.value)


def test_weights_of_which_only_the_record_was_published_say_how_to_make_them(study, dataset, tmp_path):
    path = steps.supernet_path(tmp_path, NONE, 0)
    path.parent.mkdir(parents=True)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="for the study tiny first, without weights/tiny: that has only its re"):
        steps.load_supernet(study, dataset, path)


@pytest.mark.parametrize(
    ("count", "length", "expected"),
    [(0, 5, []), (1, 5, [0]), (2, 5, [0, 4]), (3, 6, [0, 2, 5]), (5, 5, [0, 1, 2, 3, 4])],
)
def test_spaced_indices_include_the_ends(count, length, expected):
    assert steps.spaced(count, length) == expected


# -------------------------------------------------------------------- calibration


def test_calibration_images_are_a_fixed_sample_of_the_calibration_split(study, dataset):
    few = changed(study, evaluation={"calibration_images": 100})
    sample = steps.calibration_images(few, dataset)
    assert len(sample) == 100 and torch.equal(sample.images, steps.calibration_images(few, dataset).images)
    pool, drawn = (
        {(label, image.numpy().tobytes()) for image, label in zip(part.images, part.labels.tolist(), strict=True)}
        for part in (dataset.calibration, sample)
    )
    assert drawn <= pool and len(drawn) == 100
    assert len(dataset.hierarchy.parent[sample.labels].unique()) == 10
    everything = steps.calibration_images(changed(study, evaluation={"calibration_images": 10**6}), dataset)
    assert len(everything) == len(dataset.calibration)


# -------------------------------------------------------------------- real images

CIFAR100 = Path(os.environ.get("EAS_CIFAR100", ROOT / "data")) / data.CIFAR100_FOLDER


@pytest.mark.skipif(not CIFAR100.is_dir(), reason=f"CIFAR-100 is not in {CIFAR100}: python -m eas.data cifar100")
def test_one_short_epoch_on_photographs_beats_chance(tmp_path):
    recipe = {"epochs": 1, "batch_size": 50, "learning_rate": 0.1, "random_subnets": 1}
    recipe |= {"label_smoothing": 0.0, "augment": Augment(shift=0, flip=True)}
    full = load_study("cifar100", ROOT)
    study = changed(
        full, training=recipe, branches=None, space={"depths": (1, 2)}, evaluation={"calibration_images": 400}
    )
    dataset, _ = data.build(study, ROOT)
    assert len(dataset.train) == 43_000 and len(dataset.test) == 10_000

    def some(split, count):
        rows = torch.randperm(len(split), generator=seeded())[:count]
        return data.Split(split.images[rows], split.labels[rows])

    sizes = {"train": 4000, "selection": 1000, "calibration": 400, "test": 1}
    few = {name: some(getattr(dataset, name), count) for name, count in sizes.items()}
    data.save(dataclasses.replace(dataset, **few), tmp_path / "dataset.safetensors")
    record = steps.train_supernet(study, tmp_path, Dropout(variant="sample", rate=0.5), 0)
    largest = record["accuracy"][0]
    # Chance is 20 % with a standard error of 1.3 on 1,000 images.
    assert largest["subnet"] == "largest" and largest["top1"] > 24 and largest["flat_top1"] > 2
