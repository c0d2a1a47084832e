"""A fresh report beside the committed one."""

import json
import shutil
import subprocess

import pytest

from pipeline.report.__main__ import main

METRICS = {"top1": 71.256789, "archs": 12, "chosen": "own-0.5"}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository with the committed report of a study."""
    report = tmp_path / "reports" / "toy"
    report.mkdir(parents=True)
    (report / "metrics.json").write_text(json.dumps(METRICS))
    (tmp_path / "reports" / "tolerances.yaml").write_text("toy: {top1: 0.5, chosen: 0}\n")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "report"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def remeasured(root, **changed):
    metrics = {name: value for name, value in (METRICS | changed).items() if value is not None}
    (root / "reports" / "toy" / "metrics.json").write_text(json.dumps(metrics))


def test_what_lies_within_the_tolerance_is_accepted(root, capsys):
    remeasured(root, top1=71.7)
    assert main(["check", "toy"]) == 0
    assert "71.26       71.7        0.5" in capsys.readouterr().out


@pytest.mark.parametrize("changed", [{"top1": 71.8}, {"chosen": "own-0.4"}])
def test_what_is_off_is_named(root, capsys, changed):
    remeasured(root, **changed)
    assert main(["check", "toy"]) == 1
    assert capsys.readouterr().err == f"off by more than the tolerance: {next(iter(changed))}\n"


def test_missing_numbers_are_refused(root, capsys):
    remeasured(root, top1=None)
    assert main(["check", "toy"]) == 1
    assert "(fresh) lacks top1" in capsys.readouterr().err
    assert main(["check", "other"]) == 1
    assert "lists no numbers of the study other" in capsys.readouterr().err


def test_what_is_no_number_is_damage_on_either_side(root, capsys):
    remeasured(root, top1=float("nan"))
    assert main(["check", "toy"]) == 1
    told = "metrics.json is damaged (top1 is nan, no number): "
    assert error(capsys) == f"error: reports/toy/{told}run `dvc repro` again\n"
    subprocess.run(
        ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "commit", "-qam", "damage"], check=True
    )
    assert main(["check", "toy"]) == 1
    assert error(capsys) == f"error: the committed reports/toy/{told}commit another one\n"


def error(capsys):
    """The one line that a failed command leaves."""
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1
    return text


def test_a_zip_without_history_is_told_so_in_a_line(root, capsys, monkeypatch):
    shutil.rmtree(root / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
    assert main(["check", "toy"]) == 1
    assert "no git history (a ZIP?); clone the repository" in error(capsys)


def test_a_machine_without_git_is_told_so_in_a_line(root, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(root / "nothing"))
    assert main(["check", "toy"]) == 1
    assert "the command git was not found" in error(capsys)


def test_a_report_that_is_not_committed_is_told_so_in_a_line(root, capsys):
    subprocess.run(["git", "mv", "reports/toy", "reports/new"], cwd=root, check=True)
    (root / "reports" / "tolerances.yaml").write_text("new: {top1: 0.5}\n")
    assert main(["check", "new"]) == 1
    assert "reports/new/metrics.json cannot be compared with the committed one" in error(capsys)


def test_the_commands_are_told(capsys):
    for wrong in ([], ["render"], ["overview", "toy"]):
        with pytest.raises(SystemExit):
            main(wrong)
    assert "usage: python -m pipeline.report" in capsys.readouterr().err


def test_tolerances_name_numbers_that_the_committed_reports_have(request):
    import yaml

    reports = request.config.rootpath / "reports"
    for study, tolerances in yaml.safe_load((reports / "tolerances.yaml").read_text()).items():
        assert set(tolerances) <= set(json.loads((reports / study / "metrics.json").read_text()))
