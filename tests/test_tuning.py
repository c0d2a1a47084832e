"""Superclass branches and single archs: what is tuned, on which images, from which weights, and what is kept."""

import json
import shutil
from itertools import combinations

import pytest
import torch
from safetensors.torch import load_file

from eas import data, tuning
from eas import study as steps
from eas.config import Branch, Branches, Dropout, Finetune
from eas.study import NONE

OWN = Dropout(variant="own", rate=0.5)
ALL, NORMS, CLASSIFIER = (Branch(part=part, learning_rate=0.1) for part in ("all", "norms", "classifier"))


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("EAS_DEVICE", "cpu")


@pytest.fixture(scope="module")
def quick(study):
    """The tiny study, even smaller: one epoch of two steps, one candidate of dropout, two of branches."""
    recipe = {"epochs": 1, "batch_size": 400, "learning_rate": 0.3, "random_subnets": 1}
    return study.model_copy(
        update={
            "training": study.training.model_copy(update=recipe),
            "dropout": study.dropout.model_copy(update={"seeds": 1, "candidates": (OWN,)}),
            "branches": Branches(epochs=1, batch_size=16, candidates=(ALL, NORMS), ranks=(1,)),
            "finetune": Finetune(epochs=2, batch_size=16, learning_rate=0.1),
            "evaluation": study.evaluation.model_copy(update={"calibration_images": 40}),
        }
    )


@pytest.fixture(scope="module")
def trained(quick, dataset, tmp_path_factory):
    """A folder with the supernets of the first seed and the dropout's on the second."""
    folder = tmp_path_factory.mktemp("build") / "tiny"
    data.save(dataset, folder / "dataset.safetensors")
    for setting, seed in ((NONE, 0), (NONE, 1), (OWN, 0), (OWN, 1)):
        steps.train_supernet(quick, folder, setting, seed)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "build" / "tiny")
    return tmp_path / "build" / "tiny"


@pytest.fixture
def shared(quick, dataset, trained):
    return steps.load_supernet(quick, dataset, steps.supernet_path(trained, OWN, 0))


def copy_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed_names(supernet, before):
    return {name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, before[name])}


# -------------------------------------------------------------------- superclass branches


def test_every_superclass_gets_weights_of_its_own(quick, dataset, folder, shared, monkeypatch):
    record = tuning.train_branches(quick, folder, OWN, ALL, 0)
    path = tuning.branches_path(folder, ALL, 0)
    assert path == folder / "supernets" / "branches" / "all-0.1-0.safetensors"
    stored = load_file(path)
    assert all(tensor.dtype == torch.bfloat16 for tensor in stored.values())
    assert record["values"] == sum(tensor.numel() for tensor in stored.values())
    name, seen = "stages.0.0.conv1.weight", [shared.state_dict()["stages.0.0.conv1.weight"].clone()]
    for index in range(10):
        supernet = steps.new_supernet(quick, dataset)
        assert tuning.load_branch(supernet, path, index) is supernet
        seen.append(supernet.state_dict()[name].clone())
        assert seen[-1].dtype == torch.float32
    assert not any(torch.allclose(*pair, atol=1e-4) for pair in combinations(seen, 2))

    monkeypatch.setattr(tuning, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    assert tuning.train_branches(quick, folder, OWN, ALL, 0) == record
    shutil.rmtree(folder / "supernets" / "branches")
    assert tuning.train_branches(quick, folder, OWN, ALL, 0) == record  # found again in resume/
    assert path.is_file()


def test_killed_branches_go_on_with_the_superclass_they_were_at_to_the_same_result(quick, folder, monkeypatch):
    timing = folder / "timings" / "supernets" / "branches" / "all-0.1-0.json"
    train, step_function, begun, steps_taken = tuning.train, tuning.step_function, [], []

    def counted(*args):
        compute = step_function(*args)
        return lambda *arguments: steps_taken.append(1) or compute(*arguments)

    def killed(*args, **kwargs):
        begun.append(kwargs["label"])
        return pytest.fail("killed") if len(begun) == 4 else train(*args, **kwargs)

    monkeypatch.setattr(tuning, "step_function", counted)
    expected, whole = tuning.train_branches(quick, folder, OWN, ALL, 0), len(steps_taken)
    stored = load_file(tuning.branches_path(folder, ALL, 0))
    assert timing.is_file()
    for name in ("supernets/branches", "resume", "timings"):
        shutil.rmtree(folder / name)
    with monkeypatch.context() as patch, pytest.raises(pytest.fail.Exception):
        patch.setattr(tuning, "train", killed)
        tuning.train_branches(quick, folder, OWN, ALL, 0)
    assert tuning.train_branches(quick, folder, OWN, ALL, 0) == expected
    assert len(steps_taken) == 2 * whole  # no step was taken twice
    again = load_file(tuning.branches_path(folder, ALL, 0))
    assert stored.keys() == again.keys() and all(torch.equal(stored[name], again[name]) for name in stored)
    assert not timing.exists()  # a part of the time was spent before
    assert {path.suffix for path in (folder / "resume/supernets/branches").iterdir()} == {".json", ".safetensors"}


def test_another_candidate_leaves_the_branches_at_hand_valid(quick, folder, monkeypatch):
    record = tuning.train_branches(quick, folder, OWN, NORMS, 0)
    monkeypatch.setattr(tuning, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    fewer = quick.branches.model_copy(update={"candidates": (NORMS,), "seeds": 2})
    assert tuning.train_branches(quick.model_copy(update={"branches": fewer}), folder, OWN, NORMS, 0) == record


def test_a_candidate_may_have_a_batch_size_of_its_own(quick, folder, monkeypatch):
    small, seen = ALL.model_copy(update={"batch_size": 8}), []
    train = tuning.train
    monkeypatch.setattr(
        tuning, "train", lambda *args, **kwargs: seen.append(args[3].batch_size) or train(*args, **kwargs)
    )
    tuning.train_branches(quick, folder, OWN, small, 0)
    assert set(seen) == {8} and small.name == "all-0.1-batch-8"
    assert tuning.branch_key(quick, OWN, small, 0) != tuning.branch_key(quick, OWN, ALL, 0)


def test_the_accuracy_of_branches_is_that_on_the_selection_split(quick, dataset, folder, shared):
    record = tuning.train_branches(quick, folder, OWN, ALL, 0)
    assert [row["subnet"] for row in record["accuracy"]] == ["largest", *["random"] * 8, "smallest"]
    top1 = []
    for index, name in enumerate(dataset.hierarchy.superclasses):
        kept = dataset.hierarchy.kept([name])
        tuning.load_branch(shared, tuning.branches_path(folder, ALL, 0), index)
        images, own = dataset.selection.only(kept), dataset.train.only(kept)
        logits = tuning.evaluation.subnet_logits(shared, shared.space.largest, own, images)
        top1.append(tuning.evaluation.superclass_top1(logits, images.labels, kept[None]).item())
    assert record["accuracy"][0]["top1"] == pytest.approx(sum(top1) / 10, abs=1e-4)


def test_low_rank_differences_are_smaller_and_exact_at_full_rank(quick, dataset, folder, shared):
    record = tuning.train_branches(quick, folder, OWN, ALL, 0)
    low = tuning.measure_low_rank(quick, folder, OWN, ALL, 0, 1)
    assert (low["branch"], low["seed"], low["rank"]) == (ALL.name, 0, 1) and low["values"] < record["values"]
    branches = load_file(tuning.branches_path(folder, ALL, 0))
    full, values = tuning.low_rank(shared, branches, 1000)
    assert values == record["values"] and all(torch.equal(full[name], branches[name]) for name in branches)
    cut, values = tuning.low_rank(shared, branches, 1)
    assert values == low["values"]
    top1 = [row["top1"] for row in tuning.branch_accuracy(shared, cut, dataset)]
    assert low["top1"] == pytest.approx(sum(top1) / len(top1), abs=1e-4)


def test_low_rank_branches_are_measured_again_only_where_the_branch_or_the_rank_changed(quick, folder, monkeypatch):
    tuning.train_branches(quick, folder, OWN, ALL, 0)
    tuning.measure_low_rank(quick, folder, OWN, ALL, 0, 1)
    monkeypatch.setattr(tuning, "branch_accuracy", lambda *args: [{"subnet": "largest", "top1": 1.0}])
    assert tuning.measure_low_rank(quick, folder, OWN, ALL, 0, 1)["top1"] != 1.0
    more = quick.branches.model_copy(update={"ranks": (1, 2), "candidates": (ALL,)})
    more = quick.model_copy(update={"branches": more})
    assert tuning.measure_low_rank(more, folder, OWN, ALL, 0, 1)["top1"] != 1.0
    assert tuning.measure_low_rank(more, folder, OWN, ALL, 0, 2)["top1"] == 1.0


def test_a_rank_one_difference_is_kept_exactly(shared):
    before, name = copy_of(shared), "stages.0.0.conv1.weight"
    weight = before[name]
    difference = torch.outer(torch.arange(len(weight)) + 1.0, torch.ones(weight[0].numel())).view_as(weight)
    cut, values = tuning.low_rank(shared, {f"0.{name}": weight + difference}, 1)
    assert torch.allclose(cut[f"0.{name}"], weight + difference, atol=1e-4)
    assert values == len(weight) + weight[0].numel() and torch.equal(shared.state_dict()[name], before[name])


def test_the_best_candidate_on_the_first_seeds_is_trained_on_the_others(quick, folder):
    records = tuning.run_branches(quick, folder)
    chosen = tuning.choose_branch(quick, folder)
    first = {r["branch"]: sum(row["top1"] for row in r["accuracy"]) for r in records if r["seed"] == 0}
    assert set(first) == {"all-0.1", "norms-0.1"} and chosen.name == max(first, key=first.get)
    assert [r["branch"] for r in records if r["seed"] == 1] == [chosen.name]
    assert not (folder / "resume").exists()
    table = tuning.branch_table(records, steps.read_records(quick, folder), OWN)
    assert list(table.weights) == ["shared", "all-0.1", "norms-0.1"] and table.stored[0] == 0 < table.stored[1]
    shared = next(r for r in steps.read_records(quick, folder) if (r["setting"], r["seed"]) == (OWN.name, 0))
    assert table.largest[0] == shared["accuracy"][0]["top1"]  # the second seed has one candidate only: not among rows
    ranks = tuning.read_low_rank(quick, folder)
    assert ranks[["branch", "seed", "rank"]].values.tolist() == [[chosen.name, 0, "all"], [chosen.name, 0, 1]]
    assert not ranks.isna().any().any() and ranks["values"].is_monotonic_decreasing
    assert table[["largest", "random", "smallest"]].notna().all(axis=None)

    path = tuning.branches_path(folder, NORMS, 0).with_suffix(".json")
    content = json.loads(path.read_text())
    for row in content["accuracy"]:
        row["top1"] = 100.0
    path.write_text(json.dumps(content))
    assert tuning.choose_branch(quick, folder) == NORMS


def test_branches_of_other_supernets_stand_beside_the_studys_own(quick, folder, monkeypatch):
    without = Dropout(variant="own", rate=0.0)
    others = quick.branches.model_copy(update={"dropouts": (without,)})
    both = quick.model_copy(update={"branches": others})
    assert tuning.read_other_branches(quick, folder).empty  # none are asked for
    own = tuning.run_branches(quick, folder)
    chosen = tuning.choose_branch(quick, folder)
    tuning.run_branches(both, folder)
    assert tuning.read_branches(both, folder) == own
    few = quick.model_copy(update={"branches": others.model_copy(update={"dropout_seeds": 1})})
    table = tuning.read_other_branches(few, folder)
    assert table[["setting", "seed"]].values.tolist() == [["own-0.5", 0], ["own-0", 0]]
    table = tuning.read_other_branches(both, folder)
    assert table[["setting", "seed"]].values.tolist() == [["own-0.5", 0], ["own-0.5", 1], ["own-0", 0], ["own-0", 1]]
    other = folder / "supernets" / "branches" / "own-0" / f"{chosen.name}-1.json"
    shared, tuned = (json.loads(path.read_text()) for path in (folder / "supernets" / "own-0-1.json", other))
    assert len(shared["history"]) == quick.training.epochs < quick.longer.epochs  # as the study's own, unlike `none`
    for found, record in zip(table.loc[3, ["shared", "branches"]], (shared, tuned), strict=True):
        assert found == pytest.approx(sum(row["top1"] for row in record["accuracy"]) / len(record["accuracy"]))

    monkeypatch.setattr(tuning, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    tuning.train_other_branches(both, folder, without, chosen, 1)
    other.unlink()
    with pytest.raises(FileNotFoundError, match="run notebooks/02_supernet for the study tiny first"):
        tuning.read_other_branches(both, folder)


def test_a_study_without_branches_trains_none(quick, folder):
    none = quick.model_copy(update={"branches": None})
    assert tuning.run_branches(none, folder) == tuning.read_branches(none, folder) == []
    assert not (folder / "supernets" / "branches").exists() and not (folder / "resume").exists()


def test_a_missing_record_of_a_branch_names_the_notebook_that_makes_it(quick, folder):
    with pytest.raises(FileNotFoundError, match="run notebooks/02_supernet for the study tiny first"):
        tuning.choose_branch(quick, folder)


# -------------------------------------------------------------------- single archs


def test_single_archs_are_tuned_for_their_own_classes_from_the_shared_weights(quick, dataset, shared, monkeypatch):
    before, train, seen = copy_of(shared), tuning.train, []

    def watched(supernet, split, dropout, recipe, **options):
        seen.append((split.labels.unique().tolist(), recipe.epochs, recipe.learning_rate, options["arch"].tolist()))
        assert not changed_names(supernet, before)
        return train(supernet, split, dropout, recipe, **options)

    monkeypatch.setattr(tuning, "train", watched)
    archs = torch.stack([shared.space.smallest, shared.space.largest])
    kept = torch.stack([dataset.hierarchy.kept([name]) for name in dataset.hierarchy.superclasses[:2]])
    for index, tuned in tuning.tune_archs(quick, shared, dataset, archs, kept, 0, None):
        names = changed_names(tuned, before)
        assert {"classifier.weight", "stem.weight"} <= names
        last = "stages.1.1.norm1.bias"  # of a block that the smallest arch leaves out; biases are not decayed
        assert (last in names) == (index == 1)
    assert not changed_names(shared, before) and not any(p.requires_grad for p in shared.parameters())
    labels = [row.nonzero()[:, 0].tolist() for row in kept]
    assert seen == [(labels[i], 2, 0.1, archs[i].tolist()) for i in range(2)]


def test_an_arch_alone_is_trained_as_long_as_the_supernet_without_branches(quick, dataset, monkeypatch):
    seen, train = [], tuning.train

    def watched(supernet, split, dropout, recipe, **options):
        seen.append((len(split), recipe.epochs, dropout.setting, options["arch"].tolist()))
        return train(supernet, split, dropout, recipe, **options)

    monkeypatch.setattr(tuning, "train", watched)
    arch = steps.new_supernet(quick, dataset).space.smallest
    networks = [tuning.train_alone(quick, dataset, arch, seed, None) for seed in (0, 0, 1)]
    assert seen == [(len(dataset.train), 2, NONE, arch.tolist())] * 3
    assert not changed_names(networks[0], networks[1].state_dict())
    assert changed_names(networks[0], networks[2].state_dict())
    assert not any(parameter.requires_grad for parameter in networks[0].parameters())
