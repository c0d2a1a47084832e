"""A study on more seeds, as one command."""

import shutil

import pandas as pd
import pytest
from conftest import in_this_process, without_rates
from study_cases import ROOT, hashes, one_line, with_study

from pipeline import jobs, sweep
from pipeline.store import Workspace, open_workspace


def test_a_dry_run_tells_what_twenty_seeds_lack_and_makes_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    workspace = Workspace(open_workspace("cifar100").study, tmp_path / "build" / "cifar100", ROOT / "weights/cifar100")
    monkeypatch.setattr(sweep, "open_workspace", lambda study: workspace)
    assert sweep.main(["cifar100", "--seeds", "20", "--dry-run"]) == 0
    table = sweep.plan(sweep.on_seeds(workspace, 20)).set_index("step")
    own = sweep.plan(workspace).set_index("step")
    assert (own.jobs == own.there).all()
    assert (table.there == own.there).all()  # the study's own results count
    assert table.jobs["measured"] == 40 and own.jobs["measured"] == 6
    assert table.jobs["supernets"] - own.jobs["supernets"] == 2 * 17
    more = table.jobs["supernets"] - table.there["supernets"]
    assert table.hours_left["supernets"] == pytest.approx(more * table.hours_each["supernets"])
    said = capsys.readouterr().out
    assert f"{(table.jobs - table.there).sum()} results to make" in said and "wrote" not in said
    assert not workspace.folder.exists()


def test_more_seeds_leave_what_is_there_and_give_intervals_over_all(micro, tmp_path, monkeypatch):
    folder = shutil.copytree(micro.folder, tmp_path / "build")
    before, count = hashes(folder), len(micro.study.seeds)
    workspace = sweep.on_seeds(Workspace(micro.study, folder), count + 1)
    monkeypatch.setattr(jobs, "run", in_this_process)
    without_rates(monkeypatch)
    target = sweep.run(workspace)
    assert before.items() <= hashes(folder).items()
    table = pd.read_csv(target / "comparison.csv")
    assert target.name == f"sweep-{count + 1}" and sorted(table.seed.unique()) == list(range(count + 1))
    page = (target / "README.md").read_text()
    assert f"on {count + 1} seeds" in page and "generator" in page and "nan" not in page
    left = sweep.plan(workspace)
    assert (left.jobs == left.there).all() and "0 results to make" in sweep.told(left)


def test_steps_that_never_ran_have_no_hours(workspace):
    table = sweep.plan(workspace).set_index("step")
    assert table.there.sum() == 0 and table.hours_left["supernets"] != table.hours_left["supernets"]
    assert "those of supernets" in sweep.told(table.reset_index())


def test_too_few_seeds_are_one_line(workspace, capsys, monkeypatch):
    with pytest.raises(ValueError, match="leaves out the study's seed 7: at least 8") as caught:
        sweep.on_seeds(with_study(workspace, seeds=(0, 7)), 3)
    one_line(caught)
    monkeypatch.chdir(ROOT)
    assert sweep.main(["nothing", "--dry-run"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
