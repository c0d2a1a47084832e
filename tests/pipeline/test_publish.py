"""From a study's results to what the repository keeps, and to the kit; and what the repository does keep."""

import json
import shutil
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import torch
from study_cases import base, every_job, hashes, one_line, times

from eas.serving.kit_files import load_kit
from pipeline import demo, publish, recompute, steps, tables
from pipeline.scenarios import scenarios
from pipeline.steps import STEPS
from pipeline.store import Workspace, open_workspace

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "weights" / "cifar100"


@pytest.fixture(scope="module")
def published(micro, tmp_path_factory):
    """The study of six classes as it is published."""
    target = tmp_path_factory.mktemp("weights") / "tiny"
    publish.publish(micro, target)
    return target


# -------------------------------------------------------------------- results


def test_all_results_are_copied_as_they_are_and_found_there(micro, published, tmp_path):
    expected = hashes(micro.folder) | hashes(micro.folder, "*.json")
    del expected["dataset.safetensors"]
    found = hashes(published) | hashes(published, "*.json")
    assert {name: found[name] for name in expected} == expected
    assert found.keys() - expected.keys() == {"kit.json", "calibration.safetensors"}
    elsewhere = Workspace(micro.study, tmp_path, published)
    for name, job in every_job(micro):
        assert steps.record_of(elsewhere, name, **job) == steps.record_of(micro, name, **job)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_study_that_is_found_published_is_fetched_without_any_work(micro, published, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "make", lambda *args: pytest.fail("made"))
    elsewhere = Workspace(micro.study, tmp_path, published)
    shutil.copy(micro.dataset_path, tmp_path)
    for notebook in sorted({step.notebook for step in STEPS.values()}):
        steps.run(elsewhere, notebook)
    assert hashes(tmp_path) | hashes(tmp_path, "*.json") == hashes(micro.folder) | hashes(micro.folder, "*.json")
    pd.testing.assert_frame_equal(tables.comparison_table(elsewhere), tables.comparison_table(micro))


def test_of_large_tensors_those_of_the_kit_are_published(micro, tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "LARGE", 0)
    publish.publish(micro, tmp_path)
    (tmp_path / publish.IMAGES).unlink()
    contents = json.loads((tmp_path / "kit.json").read_text())
    listed = {contents["files"][name]["path"] for name in ("supernet", "generator", "branches", "expected")}
    assert set(hashes(tmp_path)) == listed and len(listed) == 4
    assert hashes(tmp_path, "*-[01].json").keys() == hashes(micro.folder, "*-[01].json").keys()
    elsewhere = Workspace(micro.study, tmp_path / "nothing", tmp_path)
    for name, job in every_job(micro):
        assert STEPS[name].result(elsewhere, job).find()  # their records do


def test_publishing_again_repairs_what_is_damaged_and_takes_away_what_is_of_other_parameters(
    micro, published, tmp_path, monkeypatch
):
    target = Path(shutil.copytree(published, tmp_path / "weights"))
    before = hashes(target) | hashes(target, "*.json")
    (target / "supernets" / "none-0.safetensors").write_bytes(b"cut short by a kill")
    (target / "generators" / "plain-1" / "gates.json").write_bytes(b"{")
    workspace = Workspace(micro.study, micro.folder, target)
    publish.publish(workspace, target)
    assert hashes(target) | hashes(target, "*.json") == before
    unchanged = times(target / "supernets")
    (tmp_path / "nothing").mkdir()
    shutil.copy(micro.dataset_path, tmp_path / "nothing")
    publish.publish(Workspace(micro.study, tmp_path / "nothing", target), target.with_name("copy"))
    assert hashes(target.with_name("copy"), "*-0.safetensors") == hashes(target, "*-0.safetensors")
    assert times(target / "supernets") == unchanged
    monkeypatch.setattr(publish, "LARGE", 20_000)
    (target / "supernets" / "none-1.safetensors").write_bytes(b"of other parameters")
    publish.publish(workspace, target)
    assert not (target / "supernets" / "none-1.safetensors").exists()
    assert steps.record_of(Workspace(micro.study, tmp_path / "nothing", target), "supernets", **base("plain", 1, 2).job)


def test_what_there_is_of_an_unfinished_study_is_published_without_a_kit(micro_copy, tmp_path):
    shutil.rmtree(micro_copy.folder / "comparison")
    (micro_copy.folder / "branches" / "all-0.1-0.json").unlink()
    publish.publish(micro_copy, tmp_path)
    assert (tmp_path / "branches" / "norms-0.1-0.json").is_file() and not (tmp_path / "kit.json").exists()
    assert not (tmp_path / "branches" / "all-0.1-0.json").exists() and not (tmp_path / "comparison").exists()
    shutil.rmtree(micro_copy.folder / "supernets")
    publish.publish(micro_copy, tmp_path / "less")
    assert not (tmp_path / "less").exists()


def test_without_images_there_is_no_kit(micro_copy, tmp_path):
    micro_copy.dataset_path.unlink()
    with pytest.raises(FileNotFoundError, match="dataset.safetensors is missing: run notebooks/01_superclasses first"):
        publish.publish(micro_copy, tmp_path / "weights")


@pytest.mark.parametrize(("study", "message"), [("tinny", "did you mean 'tiny'"), ("tiny", "dataset.safetensors")])
def test_a_mistake_is_one_line(study, message, tmp_path, monkeypatch, capsys):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert publish.main([study]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


# -------------------------------------------------------------------- kits


@pytest.fixture(scope="module")
def kit(finished):
    return publish.study_kit(finished, finished.dataset())


def test_a_superclass_gets_its_own_weights_and_a_union_the_shared_ones(finished, kit):
    """The networks are those that the comparison has measured."""
    dataset, table = finished.dataset(), tables.comparison_table(finished)
    budget, seed = finished.study.scenarios.budgets[1] * 1e6, finished.study.seeds[0]
    rows = table[(table.supernet == "dropout") & (table.seed == seed) & (table.budget_madds == budget)]
    own, shared = demo.kit_methods(finished)
    singles = rows[(rows.method == own) & (rows.kind == "superclass")].iloc[:3]
    served = kit.largest_set > 1
    unions = rows[(rows.method == (own if served else shared)) & (rows.kind == "union")].iloc[:2]  # of two
    before = {name: tensor.clone() for name, tensor in kit.supernet.state_dict().items()}
    for row in [*singles.itertuples(), *unions.itertuples()]:
        network, card = kit.specialize(row.scenario.split("+"), budget)
        assert card.madds == row.madds and card.synthetic
        top1 = recompute.superclass_top1(network, card, dataset.hierarchy, dataset.test)
        assert top1 == pytest.approx(row.top1, abs=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in kit.supernet.state_dict().items())


def test_some_classes_of_a_superclass_get_its_branch(finished, kit):
    hierarchy = finished.dataset().hierarchy
    network, card = kit.specialize(hierarchy.members[0][:3], finished.study.scenarios.budgets[1] * 1e6)
    assert card.classes == hierarchy.members[0][:3]
    branch, _ = kit.weights(hierarchy.class_mask([hierarchy.superclasses[0]]))
    assert torch.equal(network.classifier.weight, branch.classifier.weight[:3])


def test_the_published_kit_serves_the_same_archs_without_a_data_set(micro, published):
    """And the same networks where the shared weights serve: a branch has fewer images to be calibrated on."""
    folder, own = load_kit(published), publish.study_kit(micro, micro.dataset())
    for names in (["digits"], ["digits", "latin small"], ["0", "A"]):
        (network, card), (expected, told) = (each.specialize(names, 4.5e5) for each in (folder, own))
        assert card == told and card.madds <= 4.5e5
        same = all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in network.state_dict().items())
        assert same == (not own.branches_for(own.hierarchy.class_mask(names)))
    assert own.branch_images.images.shape == micro.dataset().train.images.shape
    assert len(folder.branch_images) == len(micro.dataset().calibration)


def test_a_study_without_branches_has_a_kit(micro, tmp_path):
    none = Workspace(micro.study.model_copy(update={"branches": None}), micro.folder)
    kit = publish.study_kit(none, none.dataset())
    assert kit.branches is None and not kit.branches_for(none.dataset().hierarchy.class_mask(["digits"]))
    publish.publish(none, tmp_path)
    assert load_kit(tmp_path).branches is None


@pytest.mark.parametrize(
    ("part", "notebook"),
    [
        ("supernets/own-0.5-0.json", "02_supernet"),
        ("supernets/own-0.5-0.safetensors", "02_supernet"),
        ("branches/norms-0.1-0.safetensors", "03_generator"),
        ("generators/dropout-0/predictors.json", "03_generator"),
    ],
)
def test_a_missing_part_of_a_kit_names_the_notebook_that_makes_it(part, notebook, micro_copy, tmp_path):
    (micro_copy.folder / part).unlink()
    with pytest.raises(FileNotFoundError, match=f"run notebooks/{notebook} for the study tiny first") as caught:
        publish.study_kit(micro_copy, micro_copy.dataset())
    one_line(caught)
    assert (
        not publish.write_study_kit(micro_copy, tmp_path / "kit", micro_copy.dataset())
        and not (tmp_path / "kit").exists()
    )


# -------------------------------------------------------------------- what notebook 06 shows


@pytest.mark.parametrize("count", [1, 2])
def test_the_comparison_with_opponents_is_within_budget_and_on_the_selection_split(count, finished, kit):
    dataset, budget = finished.dataset(), finished.study.scenarios.budgets[1] * 1e6
    names = list(dataset.hierarchy.superclasses[:count])
    table = demo.compare(finished, dataset, kit, names, budget)
    assert list(table.columns) == ["method", "madds", "top1"] and (table.madds <= budget).all()
    branches = bool(kit.branches_for(dataset.hierarchy.class_mask(names)))
    own, shared = demo.kit_methods(finished)
    assert list(table.method) == [own] * branches + [shared, "uniform", "evolution"]
    network, card = kit.specialize(names, budget)
    assert table.madds[0] == card.madds
    top1 = recompute.superclass_top1(network, card, dataset.hierarchy, dataset.selection)
    assert table.top1[0] == pytest.approx(top1, abs=1e-4)
    pd.testing.assert_frame_equal(table, demo.compare(finished, dataset, kit, names, budget))


# -------------------------------------------------------------------- the weights that the repository holds


@pytest.fixture(scope="module")
def repository():
    return open_workspace("cifar100", ROOT)


def test_weights_are_small_enough_for_git():
    apart = ("pool.safetensors", publish.IMAGES)
    sizes = [path.stat().st_size for path in WEIGHTS.rglob("*.safetensors") if path.name not in apart]
    assert sum(sizes) < 30e6 and max(sizes) < 20e6


@pytest.mark.parametrize("name", [name for name in STEPS if name != "search_times"])  # each machine times it for itself
def test_every_result_of_the_study_is_published_and_whole(name, repository, tmp_path):
    """With the keys of today's parameters; so that no machine has to train anything."""
    workspace = Workspace(repository.study, tmp_path, repository.published)
    jobs = STEPS[name].all_jobs(workspace)
    assert jobs and steps.all_there(workspace, name, jobs)


def test_nothing_else_is_published(repository, tmp_path):
    workspace = Workspace(repository.study, tmp_path, repository.published)
    names = {STEPS[name].result(workspace, job).name for name, job in every_job(workspace)}
    stems = {str(path.relative_to(WEIGHTS).with_suffix("")) for path in WEIGHTS.rglob("*") if path.is_file()}
    assert stems - names == {"kit", Path(publish.IMAGES).stem}
    for path in WEIGHTS.rglob("*.safetensors"):
        assert path.name == publish.IMAGES or json.loads(path.with_suffix(".json").read_text())["sha256"]


@pytest.fixture(scope="module")
def published_kit():
    return load_kit(WEIGHTS)


def test_every_scenario_gets_a_network_within_budget(repository, published_kit):
    every = scenarios(repository.study, published_kit.hierarchy)
    archs = published_kit.generator.generate(every.class_masks, every.budgets)
    assert len(every) == 150
    assert (published_kit.supernet.space.madds(archs, every.class_counts) <= every.budgets).all()
    workspace = Workspace(repository.study, Path("nothing"), repository.published)
    measured = steps.tensors_of(workspace, "measured_additive", base=publish.first_base(workspace))["archs"]
    assert (archs == measured[: len(every)]).all(1).float().mean() > 0.95  # machines round differently


def test_specialised_networks_are_right_on_photographs(published_kit):
    """A superclass and a union with branches, and some classes of two with the shared weights; chance is 10 to 25 %.

    The images are the ones that calibrate, without their labels, so they are new to the trained weights.
    """
    images = published_kit.calibration
    for names, least in ((["flowers"], 70), (["flowers", "trees"], 60), (["rose", "tulip", "bee", "lion"], 70)):
        served = published_kit.branches_for(published_kit.hierarchy.class_mask(names))
        assert bool(served) == ("rose" not in names)
        network, card = published_kit.specialize(names, 20e6)
        assert card.madds <= 20e6 and not card.synthetic
        assert recompute.superclass_top1(network, card, published_kit.hierarchy, images) > least


def test_the_images_beside_the_weights_are_of_all_classes_alike(published_kit):
    counts = published_kit.branch_images.labels.bincount()
    assert len(counts) == 100 and counts.unique().tolist() == [20]
    assert published_kit.branch_images.images.shape[1:] == (3, 32, 32)
    assert len(published_kit.hierarchy.superclasses) == 20 and published_kit.branches


def test_the_package_brings_all_files_of_the_kit_and_no_other():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    brought = {f"{folder}/{Path(path).name}": path for folder, paths in listed.items() for path in paths}
    contents = json.loads((WEIGHTS / "kit.json").read_text())
    parts = {"kit.json", *(part["path"] for part in contents["files"].values())}
    assert brought == {f"share/eas/kits/cifar100/{part}": f"weights/cifar100/{part}" for part in parts}
