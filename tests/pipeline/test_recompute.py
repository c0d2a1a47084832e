"""Published weights give the reported numbers; what is missing is said in one line."""

import os
from pathlib import Path

import pandas as pd
import pytest
from study_cases import one_line

from eas import data
from eas.data.cifar100 import FOLDER
from pipeline import publish, recompute, tables
from pipeline.params import load_study

ROOT = Path(__file__).parents[2]
CIFAR100 = Path(os.environ.get("EAS_CIFAR100") or ROOT / "data") / FOLDER


@pytest.mark.skipif(not CIFAR100.is_dir(), reason=f"CIFAR-100 is not in {CIFAR100}: python -m eas.data cifar100")
@pytest.mark.parametrize("shared", [False, True])
def test_two_scenarios_on_the_real_test_images_are_as_reported(shared):
    table = recompute.recompute(load_study("cifar100", ROOT), ROOT, shared=shared, count=2)
    assert len(table) == 2 and table.scenario.nunique() == 2 and table.budget_madds.nunique() == 2
    assert (table.reported > 60).all()
    assert (table.recomputed - table.reported).abs().max() <= recompute.LARGEST


@pytest.fixture(scope="module")
def repository(finished, tmp_path_factory):
    """A repository that has published the tiny study's weights and report."""
    root = tmp_path_factory.mktemp("repository")
    publish.publish(finished, root / "weights" / "tiny")
    (root / "reports" / "tiny").mkdir(parents=True)
    tables.comparison_table(finished).to_csv(root / "reports" / "tiny" / "comparison.csv", index=False)
    return root


@pytest.mark.parametrize("shared", [False, True])
def test_the_reported_numbers_of_the_first_seed_are_recomputed_from_weights_and_images(shared, finished, repository):
    table = recompute.recompute(finished.study, repository, shared=shared)
    assert list(table.columns) == ["scenario", "budget_madds", "reported", "recomputed"]
    assert len(table) == 10 * 3 and (table.recomputed - table.reported).abs().max() < 1e-3
    few = recompute.recompute(finished.study, repository, shared=shared, count=3)
    assert few.equals(table.iloc[[0, 14, 29]].reset_index(drop=True))


def write_report(root):
    folder = root / "reports" / "tiny"
    folder.mkdir(parents=True)
    rows = [("generator", "dropout", 0, name, "superclass", 300_000, 50.0) for name in ("digits", "c++")]
    rows += [("generator", "dropout", 0, "digits+c++", "union", 300_000, 53.0)]
    rows += [
        ("generator", name, seed, "digits", "superclass", 3, 51.0) for name, seed in (("plain", 0), ("dropout", 1))
    ]
    columns = ["method", "supernet", "seed", "scenario", "kind", "budget_madds", "top1"]
    pd.DataFrame(rows, columns=columns).assign(madds=2).to_csv(folder / "comparison.csv", index=False)


def test_the_reported_rows_are_single_superclasses_of_the_first_seed(study, tmp_path):
    write_report(tmp_path)
    rows = recompute.reported(recompute.read_report(study, tmp_path), "generator_branch", "generator")
    assert rows.scenario.tolist() == ["digits", "c++"] and (rows.top1 == 50).all()


def test_what_is_missing_is_said(study, repository, tmp_path):
    with pytest.raises(FileNotFoundError, match="the study tiny has no report"):
        recompute.recompute(study, tmp_path)
    with pytest.raises(ValueError, match="--count 0: must be 1 or more"):
        recompute.recompute(study, tmp_path, count=0)
    write_report(tmp_path)
    with pytest.raises(FileNotFoundError, match="weights") as caught:
        recompute.recompute(study, tmp_path)
    one_line(caught)
    (tmp_path / "weights").symlink_to(repository / "weights")
    with pytest.raises(ValueError, match="has no method generator_[a-z]+; methods: generator"):
        recompute.recompute(study, tmp_path)


def test_missing_images_say_how_to_get_them(finished, repository, monkeypatch):
    monkeypatch.setattr(data, "build", lambda *args: (_ for _ in ()).throw(FileNotFoundError("get them")))
    with pytest.raises(FileNotFoundError, match="get them"):
        recompute.recompute(finished.study, repository)


def test_the_command_prints_both_numbers_and_fails_where_they_differ(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    table = pd.DataFrame({"scenario": ["a", "b"], "budget_madds": [1, 2], "reported": [80.0, 70.0]})
    monkeypatch.setattr(recompute, "recompute", lambda *args, **options: table.assign(recomputed=[80.2, 70.0]))
    assert recompute.main(["cifar100", "--count", "2"]) == 0
    assert "reported 75.00 %, recomputed 75.10 %; largest difference of a scenario: 0.20" in capsys.readouterr().out
    monkeypatch.setattr(recompute, "recompute", lambda *args, **options: table.assign(recomputed=[90.2, 70.0]))
    assert recompute.main(["cifar100"]) == 1


def test_an_unknown_study_is_one_line(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert recompute.main(["cifar1000"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "cifar100" in error
