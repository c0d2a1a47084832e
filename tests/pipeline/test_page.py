"""A study's page, on a study made up here; and that the words of the written ones hold of the committed numbers."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import nbformat
import pytest
from report_cases import make_comparison

from pipeline.report import page
from pipeline.report.__main__ import main
from pipeline.report.inputs import read_metrics
from pipeline.report.metrics import metrics
from pipeline.report.template import (
    GENERATED,
    TEMPLATES,
    Template,
    check_signs,
    claim_about,
    fill,
    read_template,
    wrapped,
)

COMPARISON = make_comparison(("greek", "digits"), seeds=2)
WORDS = "**Two** of them. On the [code](../eas/dropout.py). More."
PROSE = f"# Title\n\nSee this.\n\n```python\n# a comment\n```\n\n## Part\n\n- a list\n\n{WORDS}"
IMAGE = b"\x89PNG made up"
WRITTEN = [path.stem for path in sorted(TEMPLATES.glob("*.md")) if path.stem != "default"]


def notebook():
    new = nbformat.v4
    outputs = [
        new.new_output("stream", text="printed {in braces}\n"),
        new.new_output("display_data", {"image/png": base64.b64encode(IMAGE).decode(), "text/plain": "<Figure>"}),
        new.new_output("display_data", {"text/markdown": "| a |\n|---|\n| 1 |", "text/plain": "<Markdown>"}),
    ]
    return new.new_notebook(cells=[new.new_markdown_cell(PROSE), new.new_code_cell("secret()", outputs=outputs)])


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """What `root` is a copy of."""
    root = tmp_path_factory.mktemp("repository")
    build = root / "build" / "toy"
    build.mkdir(parents=True)
    for name in page.NOTEBOOKS:
        nbformat.write(notebook(), build / f"{name}.ipynb")
    (build / "metrics.json").write_text(json.dumps(metrics(COMPARISON)))
    COMPARISON.to_csv(build / "comparison.csv", index=False)
    (build / "specialized").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "load_study", made_up_study)
        patch.chdir(root)
        page.render("toy", root)
    (root / ".gitignore").write_text("build/\n")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "report"]):
        subprocess.run([*git, *command], cwd=root, check=True)
    return root


def made_up_study(study, root):
    return SimpleNamespace(note=f"Made up: {study}.")


@pytest.fixture
def root(repository, tmp_path, monkeypatch):
    """A repository in which a study without a template of its own has run and its report is committed."""
    shutil.copytree(repository, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(page, "load_study", made_up_study)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rendering_again_changes_nothing(root):
    report = root / "reports" / "toy"
    (report / "figures" / "09_gone-1.png").touch()
    assert main(["render", "toy"]) == 0
    changed = subprocess.run(["git", "status", "--short"], cwd=root, capture_output=True, text=True).stdout
    assert not changed
    assert {path.name for path in report.iterdir()} == {
        *(f"{name}.ipynb" for name in page.NOTEBOOKS),
        *("README.md", "metrics.json", "comparison.csv", "figures"),
    }
    assert not (root / "reports" / "README.md").exists()  # the overview has one writer, which is not this


def test_the_page_shows_figures_under_the_words_that_lead_to_them(root):
    text = (root / "reports" / "toy" / "README.md").read_text()
    assert text.startswith(GENERATED) and text.count("# Study toy") == 1 and "Made up: toy." in text
    section = "### Part\n\n**Two** of them. On the [code](../../eas/dropout.py). More.\n\n"
    assert section + "![Two of them. On the code](figures/02_supernet-1.png)" in text
    assert text.count("### Part") == len(page.DRAWN) and "06_specialize-1.png" not in text
    for left in ("Title", "a comment", "a list", "printed", "| a |", "secret", "<Figure>", "<Markdown>"):
        assert left not in text
    assert (root / "reports" / "toy" / "figures" / "02_supernet-1.png").read_bytes() == IMAGE
    found = read_metrics(root / "reports" / "toy" / "metrics.json")
    assert f"{found['top1_ofa_evolution_plain']:.1f} %" in text


def test_the_headline_is_drawn(root):
    assert (root / "reports" / "toy" / "figures" / "headline.png").read_bytes().startswith(b"\x89PNG")
    assert "](figures/headline.png)" in (root / "reports" / "toy" / "README.md").read_text()


def test_links_hold_from_the_report(root):
    for name in ("README.md", "02_supernet.ipynb"):
        assert "](../../eas/dropout.py)" in (root / "reports" / "toy" / name).read_text()


def test_published_weights_are_listed_with_their_hashes(root):
    readme = root / "reports" / "toy" / "README.md"
    assert "## Weights" not in readme.read_text()
    weights = root / "weights" / "toy" / "branches"
    weights.mkdir(parents=True)
    (weights / "all-0.1-0.safetensors").write_bytes(b"made up")
    page.render("toy")
    line = next(line for line in readme.read_text().splitlines() if "all-0.1-0" in line)
    assert hashlib.sha256(b"made up").hexdigest() in line
    assert "](../../weights/toy/branches/all-0.1-0.safetensors)" in line
    assert "eas specialize toy" not in readme.read_text() and "pipeline.publish toy" in readme.read_text()
    (weights.parent / "kit.json").write_text("{}")  # what the command reads
    page.render("toy")
    assert "`eas specialize toy ...` makes networks" in " ".join(readme.read_text().split())


@pytest.mark.parametrize("study", ["cifar100", "miniimagenet"])
def test_the_hashes_that_a_committed_page_lists_are_those_of_the_weights(study, request):
    repository = request.config.rootpath
    text = (repository / "reports" / study / "README.md").read_text(encoding="utf-8")
    listed = [line for line in text.splitlines() if "safetensors)" in line]
    assert listed == [line for line in page.weights(repository, study).splitlines() if "safetensors)" in line]
    assert listed or study != "cifar100"


def test_a_missing_notebook_is_named(root, capsys):
    (root / "build" / "toy" / "03_generator.ipynb").unlink()
    assert main(["render", "toy"]) == 1
    assert "03_generator.ipynb is missing: run `dvc repro`" in capsys.readouterr().err


def test_a_missing_number_is_named_before_anything_is_written(root, capsys):
    path = root / "build" / "toy" / "metrics.json"
    numbers = json.loads(path.read_text())
    del numbers["top1_ofa_evolution_plain"]
    path.write_text(json.dumps(numbers))
    assert main(["render", "toy"]) == 1
    assert capsys.readouterr().err == ("error: default.md tells top1_ofa_evolution_plain, which metrics.json lacks\n")
    assert not subprocess.run(["git", "status", "--short"], cwd=root, capture_output=True).stdout


def test_nested_metrics_are_refused(root):
    (root / "build" / "toy" / "metrics.json").write_text('{"top1": {"mean": 1}}')
    with pytest.raises(ValueError, match="without nesting"):
        page.render("toy")


DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "noise": lambda content: bytes(range(256)),
    "nested": lambda content: b"[" * 100_000,
    "a list": lambda content: b"[]",
    "no names": lambda content: b"{}",
    "missing": None,
}


@pytest.mark.parametrize("name", ["metrics.json", "comparison.csv", "03_generator.ipynb"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_named_in_one_line_and_leaves_the_report_as_it_was(damage, name, root, capsys):
    path = root / "build" / "toy" / name
    path.write_bytes(DAMAGES[damage](path.read_bytes())) if DAMAGES[damage] else path.unlink()
    assert main(["render", "toy"]) == 1
    told = capsys.readouterr().err
    word = "damaged" if DAMAGES[damage] else "missing"
    assert told.startswith(f"error: build/toy/{name} is {word}") and told.count("\n") == 1 and "`dvc repro`" in told
    assert not subprocess.run(["git", "status", "--short"], cwd=root, capture_output=True).stdout


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "text"])
def test_what_is_no_number_is_named_and_leaves_the_report_as_it_was(value, root, capsys):
    path = root / "build" / "toy" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"top1_ofa_evolution_plain": value}))
    assert main(["render", "toy"]) == 1
    told = capsys.readouterr().err
    assert "top1_ofa_evolution_plain" in told and "metrics.json" in told and told.count("\n") == 1
    assert not subprocess.run(["git", "status", "--short"], cwd=root, capture_output=True).stdout


# -------------------------------------------------------------------- what sentences claim

BODY = "# A page\n\n- **It wins.** By {gain_mean_all:+.1f} points.\n- **It is\n  quick**: {times:.0f} times.\n"
NUMBERS = {"gain_mean_all": 1.0, "gain_low_all": 0.5, "gain_high_all": 1.5, "times": 3.0}


def template(**signs):
    return Template(TEMPLATES / "made_up.md", "A claim", signs, BODY)


@pytest.mark.parametrize(
    "sign, low, high, right",
    [
        *[("+", 0.5, 1.5, True), ("+", -0.1, 1.5, False), ("+", -1.5, -0.5, False)],
        *[("-", -1.5, -0.5, True), ("-", -1.5, 0.1, False), ("-", 0.5, 1.5, False)],
        *[("0", -0.5, 1.5, True), ("0", 0.1, 1.5, False), ("0", -1.5, -0.1, False)],
    ],
)
def test_a_sign_is_where_the_interval_lies(sign, low, high, right):
    numbers = NUMBERS | {"gain_low_all": low, "gain_high_all": high}
    if right:
        check_signs(template(gain_mean_all=sign), numbers)
    else:
        with pytest.raises(ValueError, match=r"^made_up.md claims 'It wins.', for which gain_mean_all must be"):
            check_signs(template(gain_mean_all=sign), numbers)


@pytest.mark.parametrize("sign, value, right", [(">", 3, True), (">", -3, False), ("<", -3, True), ("<", 0, False)])
def test_a_number_without_an_interval_is_compared_with_zero(sign, value, right):
    if right:
        check_signs(template(times=sign), NUMBERS | {"times": value})
    else:
        with pytest.raises(
            ValueError, match=f"claims 'It is quick', for which times must be '{sign}': times = {value}"
        ):
            check_signs(template(times=sign), NUMBERS | {"times": value})


def test_a_sign_needs_its_number_a_sentence_and_a_meaning():
    with pytest.raises(ValueError, match="rests on gain_low_all, which metrics.json lacks"):
        check_signs(template(gain_mean_all="+"), {"gain_mean_all": 1.0})
    with pytest.raises(ValueError, match="no sentence tells it"):
        check_signs(template(other=">"), {"other": -1.0})
    with pytest.raises(ValueError, match="unknown sign"):
        check_signs(template(gain_mean_all="!"), NUMBERS)


def test_paragraphs_and_lists_are_wrapped_anew_and_nothing_else_is():
    long = "word " * 40
    for block in ("# " + long, "| a | b |\n|---|---|\n| 1 | 2 |", f"![{long}](figure.png)", "```sh\nmake\n```"):
        assert wrapped(block) == block
    assert wrapped("one\n   two\nthree") == "one two three"
    lines = wrapped(f"- {long}\n  {long}\n- **b** [link](a-b.md)").splitlines()
    assert (
        all(len(line) <= 120 for line in lines)
        and lines[1].startswith("  word")
        and lines[-1] == "- **b** [link](a-b.md)"
    )


def test_numbers_and_parts_are_filled_in():
    body = "Of {study}: {times:.1f}.\n\n{note}\n\n{figures}\n"
    text = fill(Template(TEMPLATES, "", {}, body), "toy", NUMBERS, {"note": "", "figures": "{times} stays"})
    assert text == "Of toy: 3.0.\n\n{times} stays\n"


def test_a_study_without_a_template_gets_the_one_for_any():
    assert read_template("toy").path.name == "default.md" and not read_template("toy").signs
    assert read_template("cifar100").path.name == "cifar100.md"


@pytest.fixture(params=WRITTEN)
def written(request):
    """A template written for a study, and the study's committed numbers."""
    reports = request.config.rootpath / "reports"
    return read_template(request.param), read_metrics(reports / request.param / "metrics.json")


def test_the_written_pages_hold_of_the_committed_numbers(written):
    made, numbers = written
    text = fill(made, made.path.stem, numbers, {"note": "", "figures": "", "weights": ""})
    assert not re.search(r"[{}]|\bnan\b", text) and text.startswith("# ")


def test_a_number_that_changes_its_sign_is_refused(written):
    made, numbers = written
    for name, sign in made.signs.items():
        names = [name] if sign in "<>" else [name.replace("_mean", f"_{end}", 1) for end in ("mean", "low", "high")]
        if sign == "0":
            flipped = dict.fromkeys(names, 1.0)  # an interval that has left zero
        else:
            flipped = {each: -numbers[each] for each in names}
            if sign in "+-":
                flipped[names[1]], flipped[names[2]] = flipped[names[2]], flipped[names[1]]
        with pytest.raises(ValueError, match=f"{made.path.name} claims .*{name}"):
            check_signs(made, numbers | flipped)


@pytest.mark.parametrize("study", WRITTEN)
def test_every_claim_is_bold_and_every_sign_is_told(study):
    made = read_template(study)
    bullets = re.findall(r"^- .*?(?=\n- |\n\n)", made.body, re.MULTILINE | re.DOTALL)
    assert 4 <= len(bullets) <= 12 and all(bullet.startswith("- **") for bullet in bullets)
    for name in made.signs:
        assert claim_about(made, name)
    assert made.body.count("\n## How this was run, and what was chosen when\n") == 1


def test_every_difference_that_cifar100_tells_has_its_sign():
    made = read_template("cifar100")
    told = set(re.findall(r"\{(\w+):\+", made.body))
    means = {name for name in told if not re.search("_(low|high)(_|$)", name)}
    assert means and means <= set(made.signs)


def test_pictures_that_teach_the_method_stay_in_the_notebook():
    shown = {"image/png": base64.b64encode(IMAGE).decode()}
    output = nbformat.v4.new_output("display_data", shown)
    plot, lesson = (nbformat.v4.new_code_cell(code, outputs=[output]) for code in ("figures.x()", "a = lessons.x()"))
    assert page.pictures(plot) == [IMAGE] and page.pictures(lesson) == []
