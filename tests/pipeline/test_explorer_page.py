"""The explorer as a file: what is on it, and that it needs nothing else. Another test shows it in a browser."""

import json
import re
import shutil

import pytest

from pipeline.report.__main__ import main
from pipeline.report.explorer import page as explorer_page


@pytest.fixture
def reports(request):
    return request.config.rootpath / "reports"


@pytest.fixture
def root(tmp_path, monkeypatch, reports):
    """A repository with a study whose sets are known, and one that has a report only."""
    for name in ("cifar100", "glyphs"):
        (tmp_path / "reports" / name).mkdir(parents=True)
        shutil.copy(reports / name / "comparison.csv", tmp_path / "reports" / name)
    shutil.copy(reports / "cifar100" / "sets.json", tmp_path / "reports" / "cifar100")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content_of(text):
    return json.loads(re.search(r"^const data = (\{.*\});$", text, re.MULTILINE)[1])


def test_the_committed_page_is_that_of_the_committed_files(reports):
    assert explorer_page.page(reports) == (reports / "explorer.html").read_text(encoding="utf-8")


def test_studies_that_cannot_be_shown_are_named(root):
    assert main(["explorer"]) == 0
    content = content_of((root / "reports" / "explorer.html").read_text())
    assert [each["key"] for each in content["studies"]] == ["cifar100"] and content["missing"] == [
        "synthetic characters"
    ]
    assert content["studies"][0]["name"] == "CIFAR-100"


def test_a_study_appears_by_itself_as_soon_as_its_sets_are_known(root):
    shutil.copy(root / "reports" / "cifar100" / "sets.json", root / "reports" / "glyphs")
    content = content_of(explorer_page.page(root / "reports"))
    assert [each["key"] for each in content["studies"]] == ["cifar100", "glyphs"] and not content["missing"]


def test_it_needs_no_other_file_and_no_network(reports):
    text = (reports / "explorer.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]+\.|<link|\bsrc=|@import|url\(|fetch\(|import\(", text)
    assert len(text.encode()) < 150_000 * len(content_of(text)["studies"])  # it goes with a message


def test_names_open_no_tag_and_dollars_stay(root):
    path = root / "reports" / "cifar100" / "sets.json"
    content = json.loads(path.read_text())
    content["superclasses"][0]["name"] = "</script><b>$STYLE $SCRIPT \\1"
    path.write_text(json.dumps(content))
    text = explorer_page.page(root / "reports")
    assert (
        "</script><b>" not in text and content_of(text)["studies"][0]["superclasses"][0] == content["superclasses"][0]
    )


def test_names_are_no_identifiers(reports):
    content = content_of((reports / "explorer.html").read_text(encoding="utf-8"))
    for study in content["studies"]:
        shown = [study["name"], study["about"], *(each["label"] for each in study["measured"]["methods"])]
        shown += [name for each in study["superclasses"] for name in (each["name"], *each["classes"])]
        assert not [name for name in shown if "_" in name]
    assert explorer_page.name_of("my_study") == "my study"


def test_without_sets_there_is_nothing_to_write(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["explorer"]) == 1
    assert "python -m pipeline.report sets STUDY" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b"[" * 100_000, bytes(range(256))])
def test_damaged_sets_are_named_in_one_line(root, capsys, content):
    (root / "reports" / "cifar100" / "sets.json").write_bytes(content)
    assert main(["explorer"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: reports/cifar100/sets.json is damaged (") and told.count("\n") == 1
    assert "python -m pipeline.report sets cifar100" in told
