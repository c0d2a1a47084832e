"""Published weights give the reported numbers; what is missing is said in one line."""

import os
from pathlib import Path

import pandas as pd
import pytest

from eas import data, recompute
from eas.config import load_study

ROOT = Path(__file__).parents[1]
CIFAR100 = Path(os.environ.get("EAS_CIFAR100", ROOT / "data")) / data.CIFAR100_FOLDER


@pytest.mark.skipif(not CIFAR100.is_dir(), reason=f"CIFAR-100 is not in {CIFAR100}: python -m eas.data cifar100")
@pytest.mark.parametrize("method", recompute.METHODS)
def test_two_scenarios_on_the_real_test_images_are_as_reported(method, monkeypatch):
    monkeypatch.setenv("EAS_DEVICE", "cpu")
    table = recompute.recompute(load_study("cifar100", ROOT), ROOT, method, count=2)
    assert len(table) == 2 and table.scenario.nunique() == 2 and table.budget_madds.nunique() == 2
    assert (table.reported > 60).all()
    assert (table.recomputed - table.reported).abs().max() <= recompute.LARGEST


def write_report(root, study="tiny"):
    folder = root / "reports" / study
    folder.mkdir(parents=True)
    rows = [("generator", "eas", 0, name, 300_000, 50.0) for name in ("digits", "arrows", "digits+arrows")]
    rows += [("generator", "ofa", 0, "digits", 300_000, 51.0), ("generator", "eas", 1, "digits", 300_000, 52.0)]
    columns = ["method", "supernet", "seed", "scenario", "budget_madds", "top1"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "comparison.csv", index=False)


def test_the_reported_rows_are_single_superclasses_of_the_first_seed(study, tmp_path):
    write_report(tmp_path)
    rows = recompute.reported(study, tmp_path, "generator")
    assert rows.scenario.tolist() == ["digits", "arrows"] and (rows.top1 == 50).all()


def test_what_is_missing_is_said(study, tmp_path):
    with pytest.raises(FileNotFoundError, match="the study tiny has no report"):
        recompute.recompute(study, tmp_path, "generator")
    write_report(tmp_path)
    with pytest.raises(ValueError, match="has no method generator_branch; methods: generator"):
        recompute.recompute(study, tmp_path, "generator_branch")
    with pytest.raises(FileNotFoundError, match="weights"):
        recompute.recompute(study, tmp_path, "generator")


def test_the_command_prints_both_numbers_and_fails_where_they_differ(monkeypatch, capsys):
    table = pd.DataFrame({"scenario": ["a", "b"], "budget_madds": [1, 2], "reported": [80.0, 70.0]})
    monkeypatch.setattr(recompute, "recompute", lambda *args: table.assign(recomputed=[80.2, 70.0]))
    assert recompute.main(["cifar100", "--count", "2"]) == 0
    assert "reported 75.00 %, recomputed 75.10 %; largest difference of a scenario: 0.20" in capsys.readouterr().out
    monkeypatch.setattr(recompute, "recompute", lambda *args: table.assign(recomputed=[90.2, 70.0]))
    assert recompute.main(["cifar100"]) == 1


def test_an_unknown_study_is_one_line(capsys):
    assert recompute.main(["cifar1000"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "cifar100" in error
