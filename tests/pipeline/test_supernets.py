"""Supernets: what is trained for how long, what a record says, the choice of the dropout, and reading weights back."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from cases import seeded
from safetensors.torch import load_file, save_file
from study_cases import ALL, OWN, SAMPLE, base, changed, make_quick, one_line, same, with_study

from eas import data
from eas.data.cifar100 import FOLDER
from eas.files import sha256, write_text
from eas.recipes import NO_DROPOUT, Augment, Dropout, Start
from eas.spaces import ElasticPreResNet
from pipeline import comparison, steps, supernets
from pipeline.params import load_study
from pipeline.steps import STEPS
from pipeline.store import Workspace, read_record

ROOT = Path(__file__).parents[2]
FIRST = {"dropout": OWN, "epochs": 1, "seed": 0}


@pytest.fixture
def quick(workspace):
    return dataclasses.replace(workspace, study=make_quick(workspace.study))


@pytest.fixture(scope="module")
def two_candidates(study, images, tmp_path_factory):
    """The quick study with two candidates of dropout and its supernets."""
    folder = tmp_path_factory.mktemp("supernets")
    shutil.copyfile(images, folder / images.name)
    quick = make_quick(study)
    workspace = Workspace(changed(quick, dropout={"candidates": (OWN, SAMPLE)}), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EAS_DEVICE", "cpu")
        while missing := [job for job in supernets.supernet_jobs(workspace) if not made(workspace, job)]:
            steps.make(workspace, "supernets", missing[0])
    return workspace


def made(workspace, job):
    return STEPS["supernets"].result(workspace, job).find()


# -------------------------------------------------------------------- one supernet


def test_training_a_supernet_writes_weights_and_a_record(workspace, study, dataset, monkeypatch):
    monkeypatch.setattr(supernets, "WATCHED", len(dataset.selection))
    record = steps.make(workspace, "supernets", {**FIRST, "seed": 1})
    path = workspace.folder / "supernets" / "own-0.5-1.safetensors"
    assert read_record(path) == record
    assert (record["dropout"], record["seed"], record["images"]) == ("own-0.5", 1, len(dataset.train))
    assert record["sha256"] == sha256(path) and record["seconds"] > 0
    assert [row["epoch"] for row in record["history"]] == [1] and record["history"][0]["loss"] > 0
    accuracy, curve = record["accuracy"], record["history"][-1]
    assert curve["largest_top1"] == pytest.approx(accuracy[0]["top1"]) and 0 < curve["all_classes_loss"] < 10
    assert curve["smallest_top1"] == pytest.approx(accuracy[-1]["top1"])
    assert [row["subnet"] for row in accuracy] == ["largest", *["random"] * 8, "smallest"]
    space = supernets.new_space(study, dataset)
    costs = [row["madds"] for row in accuracy]
    assert costs[0] == space.madds(space.largest, 160) == max(costs)
    assert costs[-1] == space.madds(space.smallest, 160) == min(costs)
    assert all(0 <= row["flat_top1"] <= row["top1"] <= 100 for row in accuracy)
    trained = supernets.load_supernet(workspace, dataset, base(seed=1))
    fresh = supernets.seeded_supernet(workspace, dataset, 1).state_dict()
    assert trained.state_dict().keys() == fresh.keys() and not same(trained.state_dict(), fresh)
    assert not any(parameter.requires_grad for parameter in trained.parameters())
    assert supernets.selection_accuracy(study, trained, dataset) == accuracy


def test_what_no_image_tells_is_answered_by_chance(workspace, dataset):
    """A pattern for each class is learned; where labels are shuffled over images, one of so many answers is right."""
    study = changed(workspace.study, training={"batch_size": 32, "learning_rate": 0.2, "augment": Augment()})
    patterns, told = torch.randint(256, (160, 1, 16, 16), generator=seeded(), dtype=torch.uint8), {}
    for name, shuffled in (("true", False), ("shuffled", True)):
        splits = {}
        for split in data.SPLITS:
            labels = getattr(dataset, split).labels
            order = torch.randperm(len(labels), generator=seeded())
            splits[split] = data.Split(patterns[labels], labels[order] if shuffled else labels)
        own = Workspace(study, workspace.folder / name)
        own.folder.mkdir()
        data.save(dataclasses.replace(dataset, **splits), own.dataset_path)
        accuracy = steps.make(own, "supernets", {**FIRST, "dropout": NO_DROPOUT, "epochs": 8})["accuracy"]
        told[name] = sum(row["top1"] for row in accuracy) / len(accuracy)
    sizes = torch.tensor([len(group) for group in dataset.hierarchy.members], dtype=torch.float)
    chance = 100 * len(sizes) / sizes.sum().item()
    assert told["shuffled"] == pytest.approx(chance, abs=2.5) and told["true"] > 5 * chance


def test_equal_seeds_give_equal_weights_and_others_do_not(quick):
    records = [steps.make(quick, "supernets", {**FIRST, "seed": seed}) for seed in (0, 1)]
    first, second = (load_file(quick.folder / "supernets" / f"own-0.5-{seed}.safetensors") for seed in (0, 1))
    assert not same(first, second) and records[0]["history"] != records[1]["history"]
    again = steps.make(quick, "supernets", FIRST)
    assert same(first, load_file(quick.folder / "supernets" / "own-0.5-0.safetensors"))
    assert again["history"] == records[0]["history"] and again["accuracy"] == records[0]["accuracy"]


@pytest.mark.parametrize("zero_init", [True, False])
def test_every_block_begins_as_its_shortcut_where_that_is_asked_for(zero_init, quick, dataset):
    fresh = supernets.seeded_supernet(with_study(quick, training={"zero_init": zero_init}), dataset, 0)
    last = [block.conv2.weight for stage in fresh.stages for block in stage]
    assert all((weight.count_nonzero() == 0) == zero_init for weight in last)


def test_training_starts_from_published_weights_where_they_are_named(quick, dataset, monkeypatch):
    seen, started = (
        [],
        with_study(quick, training={"start": Start(weights="weights/of_others.pth", sort_channels=True)}),
    )
    with pytest.raises(FileNotFoundError, match="weights/of_others.pth is missing"):
        supernets.seeded_supernet(started, dataset, 0)
    monkeypatch.setattr(ElasticPreResNet, "load_start", lambda supernet, path: seen.append(path))
    with pytest.raises(ValueError, match="sort_channels: not for spaces of kind preresnet: leave it out"):
        supernets.seeded_supernet(started, dataset, 0)
    seen.clear()
    monkeypatch.setattr(ElasticPreResNet, "sort_channels", lambda supernet: seen.append("sorted"))
    fresh = supernets.seeded_supernet(started, dataset, 0)
    assert seen == [started.root / "weights" / "of_others.pth", "sorted"]
    assert all(block.conv2.weight.count_nonzero() for stage in fresh.stages for block in stage)  # no shortcuts


def test_what_has_no_dropout_trains_as_long_as_supernet_and_branches_together(study):
    branches = study.branches.model_copy(update={"epochs": 3})
    assert supernets.plain_epochs(study.model_copy(update={"branches": branches})) == study.training.epochs + 3
    assert supernets.plain_epochs(study.model_copy(update={"branches": None})) == study.training.epochs


def test_missing_images_name_the_notebook_that_makes_them(study, tmp_path):
    with pytest.raises(FileNotFoundError, match="run notebooks/01_superclasses first"):
        steps.make(Workspace(study, tmp_path), "supernets", FIRST)


def test_a_budget_that_no_arch_fits_is_an_error_before_any_training(quick, monkeypatch):
    monkeypatch.setattr("eas.training.train", lambda *args, **kwargs: pytest.fail("trained"))
    impossible = with_study(quick, scenarios={"budgets": (0.05, 0.3)})
    with pytest.raises(ValueError, match="budget of 0.05M MAdds is below the smallest arch") as caught:
        steps.make(impossible, "supernets", FIRST)
    one_line(caught)
    assert not (quick.folder / "supernets").exists()


def test_a_study_without_dropout_has_nobody_to_time(quick):
    alone = with_study(quick, dropout=None)
    assert comparison.time_jobs(alone) == []
    with pytest.raises(ValueError, match="the study tiny has no supernet dropout of seed 0") as caught:
        supernets.base_of(alone, "dropout", 0)
    one_line(caught)


def test_budgets_in_other_units_are_refused_before_any_training(quick):
    with pytest.raises(ValueError, match="a budget of 450000: they are in millions") as caught:
        supernets.train_supernet(with_study(quick, scenarios={"budgets": (0.3, 450_000)}), **FIRST)
    one_line(caught)


def test_branches_of_sets_that_are_not_there_are_told_before_the_training(quick):
    many = ALL.model_copy(update={"sets": {11: 1.0}})
    with pytest.raises(ValueError, match="no set of 11 superclasses is there to train branches on") as caught:
        steps.run(with_study(quick, branches={"candidates": (many,)}), "02_supernet")
    one_line(caught)


# -------------------------------------------------------------------- which, and the choice of the dropout


def test_the_chosen_dropout_is_trained_on_all_seeds_and_the_others_on_the_first(two_candidates):
    workspace = two_candidates
    chosen = supernets.choose_dropout(workspace)
    runs = [(NO_DROPOUT, 2, 0), (NO_DROPOUT, 2, 1), (OWN, 1, 0), (SAMPLE, 1, 0), (chosen, 1, 1)]
    assert [tuple(job.values()) for job in supernets.supernet_jobs(workspace)] == runs
    records = steps.records(workspace, "supernets")
    assert [(r["dropout"], r["seed"]) for r in records] == [(dropout.name, seed) for dropout, _, seed in runs]
    assert [len(r["history"]) for r in records] == [epochs for _, epochs, _ in runs]
    paths = {workspace.folder / "supernets" / f"{dropout.name}-{seed}.json" for dropout, _, seed in runs}
    assert {path for path in (workspace.folder / "supernets").iterdir() if path.suffix == ".json"} == paths
    found = [(each.name, each.dropout, each.seed) for each in supernets.bases(workspace)]
    assert found == [("dropout", chosen, 0), ("dropout", chosen, 1), ("plain", NO_DROPOUT, 0), ("plain", NO_DROPOUT, 1)]
    assert [job["base"] for job in supernets.base_jobs(workspace)] == supernets.bases(workspace)
    assert all(made(workspace, each.job) for each in supernets.bases(workspace))
    assert supernets.base_of(workspace, "plain", 1) == supernets.bases(workspace)[-1]


def write_record(workspace, job, *top1):
    accuracy = [{"subnet": "random", "madds": 1, "top1": value, "flat_top1": 1.0} for value in top1]
    content = {"dropout": job["dropout"].name, "seed": job["seed"], "accuracy": accuracy}
    STEPS["supernets"].result(workspace, job).write({"x": torch.zeros(1)}, content)


def test_the_dropout_with_the_best_mean_over_subnets_and_the_first_seeds_is_chosen(workspace):
    three = with_study(workspace, seeds=(3, 4, 5), dropout={"seeds": 2, "candidates": (OWN, SAMPLE)})
    tops = {
        (NO_DROPOUT, 3): (99, 99),  # no candidate
        (NO_DROPOUT, 4): (99, 99),
        (NO_DROPOUT, 5): (99, 99),
        (OWN, 3): (60, 70),
        (OWN, 4): (80, 70),
        (SAMPLE, 3): (71, 50),  # the best subnet of its seed, and the worst
        (SAMPLE, 4): (81, 79),
        (OWN, 5): (0, 0),  # the third seed does not count
    }
    job = {(each["dropout"], each["seed"]): each for each in supernets.first_jobs(three.study)}
    assert set(job) == set(tops) - {(OWN, 5)}
    job[OWN, 5] = {**job[OWN, 3], "seed": 5}
    for run, top1 in tops.items():
        write_record(three, job[run], *top1)
    assert supernets.choose_dropout(three) == SAMPLE
    write_record(three, job[OWN, 4], 82, 70)
    assert supernets.choose_dropout(three) == OWN
    turned = with_study(three, dropout={"candidates": (SAMPLE, OWN)})
    assert supernets.choose_dropout(turned) == OWN
    table = supernets.accuracy_table([steps.record_of(three, "supernets", **job[OWN, 3])])
    assert table.to_dict("list")["top1"] == [60, 70] and set(table.dropout) == {"own-0.5"}


def test_a_missing_record_names_the_notebook_that_makes_it(workspace):
    needed = [job for job in supernets.first_jobs(workspace.study) if job["dropout"] != NO_DROPOUT]
    assert [job["dropout"] for job in needed] == list(workspace.study.dropout.candidates)
    for job in needed:
        for ask in (supernets.choose_dropout, supernets.bases, supernets.base_jobs):
            with pytest.raises(FileNotFoundError, match="run notebooks/02_supernet for the study tiny first") as caught:
                ask(workspace)
            name = f"{job['dropout'].name}-{job['seed']}.safetensors is missing"
            assert name in one_line(caught)
        assert supernets.supernet_jobs(workspace) == supernets.first_jobs(workspace.study)
        write_record(workspace, job, 50)
    assert supernets.choose_dropout(workspace) == needed[0]["dropout"] and len(supernets.bases(workspace)) == 4


# -------------------------------------------------------------------- weights that are not what they should be


@pytest.fixture
def written(workspace, supernet):
    """Untrained weights as those of the first supernet with dropout; their path."""
    result = STEPS["supernets"].result(workspace, base().job)
    result.write(supernet.state_dict(), {})
    return result.path


def sealed(path, tensors):
    """Write tensors that the record beside them tells of."""
    save_file(tensors, path)
    write_text(path.with_suffix(".json"), json.dumps(read_record(path) | {"sha256": sha256(path)}))


FOREIGN = {
    "other tensors": lambda tensors: {"weight": torch.zeros(2)},
    "another shape": lambda tensors: tensors | {"norm.bias": torch.zeros(3)},
    "one too few": lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "norm.bias"},
    "one too many": lambda tensors: tensors | {"surplus": torch.zeros(3)},
}


@pytest.mark.parametrize("foreign", FOREIGN)
def test_weights_of_another_network_are_refused_in_one_line(foreign, workspace, dataset, supernet, written):
    assert same(supernets.load_supernet(workspace, dataset, base()).state_dict(), supernet.state_dict())
    sealed(written, FOREIGN[foreign](load_file(written)))
    with pytest.raises(ValueError, match="own-0.5-0.safetensors does not fit the study tiny: ") as caught:
        supernets.load_supernet(workspace, dataset, base())
    assert any(word in one_line(caught) for word in ("weight", "norm.bias", "surplus", "size mismatch"))


DAMAGED = {
    "cut short": lambda content: content[:-100],
    "cut in its header": lambda content: content[:100],
    "empty": lambda content: b"",
    "no safetensors": lambda content: b"no weights at all",
    "a bit flipped": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_weights_are_missing_weights(damage, workspace, dataset, written):
    written.write_bytes(DAMAGED[damage](written.read_bytes()))
    with pytest.raises(FileNotFoundError, match="own-0.5-0.safetensors is missing: run notebooks/02_supernet"):
        supernets.load_supernet(workspace, dataset, base())


def test_weights_of_which_only_the_record_was_published_say_how_to_make_them(workspace, dataset, written, tmp_path):
    published = tmp_path / "weights"
    shutil.copytree(workspace.folder, published)
    (published / "supernets" / written.name).unlink()
    elsewhere = Workspace(workspace.study, tmp_path / "fresh", published)
    with pytest.raises(FileNotFoundError, match="only its record was published; EAS_FRESH=1 makes it here") as caught:
        supernets.load_supernet(elsewhere, dataset, base())
    one_line(caught)


# -------------------------------------------------------------------- real images

CIFAR100 = Path(os.environ.get("EAS_CIFAR100") or ROOT / "data") / FOLDER


@pytest.mark.skipif(not CIFAR100.is_dir(), reason=f"CIFAR-100 is not in {CIFAR100}: python -m eas.data cifar100")
def test_one_short_epoch_on_photographs_beats_chance(tmp_path, monkeypatch):
    monkeypatch.setattr(supernets, "MEASURED", 0)
    recipe = {"epochs": 1, "batch_size": 50, "learning_rate": 0.1, "random_subnets": 1}
    recipe |= {"label_smoothing": 0.0, "augment": Augment(shift=0, flip=True)}
    full = load_study("cifar100", ROOT)
    space = full.space.model_copy(update={"depths": (1, 2)})
    study = changed(full, training=recipe, branches=None, space=space, evaluation={"calibration_images": 400})
    dataset, _ = data.build(study.data, ROOT)
    assert len(dataset.train) == 43_000 and len(dataset.test) == 10_000
    sizes = {"train": 2000, "selection": 1000, "calibration": 400, "test": 1}

    def some(split, count):
        rows = torch.randperm(len(split), generator=seeded())[:count]
        return data.Split(split.images[rows], split.labels[rows])

    few = {name: some(getattr(dataset, name), count) for name, count in sizes.items()}
    workspace = Workspace(study, tmp_path)
    data.save(dataclasses.replace(dataset, **few), workspace.dataset_path)
    job = {"dropout": Dropout(variant="sample", rate=0.5), "epochs": 1, "seed": 0}
    largest = steps.make(workspace, "supernets", job)["accuracy"][0]
    # Chance is 20 % with a standard error of 1.3 on 1,000 images.
    assert largest["subnet"] == "largest" and largest["top1"] > 24 and largest["flat_top1"] > 2
