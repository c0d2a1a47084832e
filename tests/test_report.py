"""eas.report on a study made up here, and the pipeline's files."""

import base64
import hashlib
import json
import subprocess
from pathlib import Path

import nbformat
import pytest

from eas import report

ROOT = Path(__file__).parents[1]
METRICS = {"top1": 71.256789, "archs": 12, "chosen": "own-0.5"}
PROSE = "# Title\n\nSee [the code](../eas/data.py).\n\n```python\n# a comment\n```\n\n## Part"
IMAGE = b"\x89PNG made up"


def notebook():
    new = nbformat.v4
    outputs = [
        new.new_output("stream", text="printed\n"),
        new.new_output("display_data", {"image/png": base64.b64encode(IMAGE).decode(), "text/plain": "<Figure>"}),
        new.new_output("display_data", {"text/markdown": "| a |\n|---|\n| 1 |", "text/plain": "<Markdown>"}),
    ]
    return new.new_notebook(cells=[new.new_markdown_cell(PROSE), new.new_code_cell("secret()", outputs=outputs)])


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository in which the study 'glyphs' has run and its report is committed."""
    build = tmp_path / "build" / "glyphs"
    build.mkdir(parents=True)
    for name in report.NOTEBOOKS:
        nbformat.write(notebook(), build / f"{name}.ipynb")
    (build / "metrics.json").write_text(json.dumps(METRICS))
    (build / "comparison.csv").write_text("method,top1\ngenerator,71.3\n")
    (build / "specialized").mkdir()
    (build / "specialized" / "explorer.html").write_text("<!doctype html>")
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    report.render("glyphs", tmp_path)
    (tmp_path / "reports" / "tolerances.yaml").write_text("glyphs: {top1: 0.5, chosen: 0}\n")
    (tmp_path / ".gitignore").write_text("build/\n")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "report"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def remeasured(root, **changed):
    metrics = {name: value for name, value in (METRICS | changed).items() if value is not None}
    (root / "reports" / "glyphs" / "metrics.json").write_text(json.dumps(metrics))


def test_hyper_parameters_and_published_weights_are_listed(root):
    page = root / "reports" / "glyphs" / "README.md"
    assert "| training.momentum" in page.read_text() and "## Weights" not in page.read_text()
    weights = root / "weights" / "glyphs" / "supernets" / "branches"
    weights.mkdir(parents=True)
    (weights / "all-0.1-0.safetensors").write_bytes(b"made up")
    report.render("glyphs")
    line = next(line for line in page.read_text().splitlines() if "all-0.1-0" in line)
    assert hashlib.sha256(b"made up").hexdigest() in line
    assert "](../../weights/glyphs/supernets/branches/all-0.1-0.safetensors)" in line


def test_rendering_again_changes_nothing(root):
    stale = root / "reports" / "glyphs" / "figures" / "09_gone-1.png"
    stale.touch()
    assert report.main(["render", "glyphs"]) == 0
    changed = subprocess.run(["git", "status", "--short"], cwd=root, capture_output=True, text=True).stdout
    assert not changed


def test_the_page_tells_results_without_code(root):
    page = (root / "reports" / "glyphs" / "README.md").read_text()
    assert "| top1 | 71.26 |" in page
    assert "\n## Title" in page and "\n### Part" in page and "\n# a comment" in page
    assert "```text\nprinted\n```" in page and "| a |" in page
    assert "![02_supernet, figure 1](figures/02_supernet-1.png)" in page
    assert "secret" not in page and "<Figure>" not in page and "<Markdown>" not in page
    assert (root / "reports" / "glyphs" / "figures" / "02_supernet-1.png").read_bytes() == IMAGE


def test_links_hold_from_the_report(root):
    for name in ("README.md", "02_supernet.ipynb"):
        assert "](../../eas/data.py)" in (root / "reports" / "glyphs" / name).read_text()


def test_findings_appear_where_their_numbers_were_measured(root, monkeypatch):
    findings = "It reaches {top1:.1f} %< [{low:.1f}]>< of {archs} archs>.", "It takes {seconds:.1f} s."
    monkeypatch.setattr(report, "FINDINGS", findings)
    report.render("glyphs")
    for entry in ("reports/README.md", "reports/glyphs/README.md"):
        assert "- It reaches 71.3 % of 12 archs." in (root / entry).read_text()
        assert "It takes" not in (root / entry).read_text()


def test_the_table_over_all_studies_leaves_empty_what_was_not_measured(root, monkeypatch):
    monkeypatch.setattr(report, "OVERVIEW", {"top": "{top1:.1f} %", "time": "{seconds:.1f} s", "archs": "{archs}"})
    report.render("glyphs")
    text = (root / "reports" / "README.md").read_text()
    assert "| study | top | time | archs |\n|---|---|---|---|\n" in text
    assert "| [glyphs](glyphs/README.md) | 71.3 % |  | 12 |" in text
    monkeypatch.setattr(report, "OVERVIEW", {"time": "{seconds:.1f} s"})
    report.render("glyphs")
    assert "| study |" not in (root / "reports" / "README.md").read_text()


def test_a_missing_notebook_is_named(root, capsys):
    (root / "build" / "glyphs" / "03_generator.ipynb").unlink()
    assert report.main(["render", "glyphs"]) == 1
    assert "03_generator.ipynb is missing: run `dvc repro`" in capsys.readouterr().err


def test_the_check_accepts_what_lies_within_the_tolerance(root):
    remeasured(root, top1=71.7)
    assert report.main(["check", "glyphs"]) == 0


@pytest.mark.parametrize("changed", [{"top1": 71.8}, {"top1": float("nan")}, {"chosen": "own-0.4"}])
def test_the_check_names_what_is_off(root, capsys, changed):
    remeasured(root, **changed)
    assert report.main(["check", "glyphs"]) == 1
    assert capsys.readouterr().err == f"off by more than the tolerance: {next(iter(changed))}\n"


def test_the_check_refuses_missing_numbers(root, capsys):
    remeasured(root, top1=None)
    assert report.main(["check", "glyphs"]) == 1
    assert "(fresh) lacks top1" in capsys.readouterr().err
    assert report.main(["check", "cifar100"]) == 1
    assert "lists no numbers of the study cifar100" in capsys.readouterr().err


def test_nested_metrics_are_refused(root):
    (root / "build" / "glyphs" / "metrics.json").write_text('{"top1": {"mean": 1}}')
    with pytest.raises(ValueError, match="without nesting"):
        report.render("glyphs")


@pytest.mark.parametrize("tier", ["gpu", "cpu", "teacher", "branches"])
def test_all_tiers_run_one_pipeline(request, tier):
    folder = request.config.rootpath
    same = (folder / tier / "dvc.yaml").read_bytes() == (folder / "dvc.yaml").read_bytes()
    assert same, f"run `make {tier}/dvc.yaml`"
