"""What DVC's stages depend on: code that a notebook needs, no other, and nothing that saving a notebook changes."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from study_cases import NOTEBOOKS, hashes

import eas
from pipeline import source
from pipeline.steps import STEPS

ROOT = Path(__file__).parents[2]
EVERY = {*NOTEBOOKS, "report"}


def copy_repository(target):
    """The parts of the repository that stages depend on."""
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("eas", "pipeline", "notebooks"):
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, target)
    return target


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A copy of the repository, and what `source` wrote of it."""
    root = copy_repository(tmp_path_factory.mktemp("repository"))
    source.main(str(root / "written"), str(root))
    return root


@pytest.fixture
def repository(original, tmp_path, monkeypatch):
    """A copy to be changed; notebooks are only copied, as here their code counts."""
    monkeypatch.setattr(source, "stripped", lambda path: path.read_text())
    return Path(shutil.copytree(original, tmp_path / "repository"))


def stale(repository):
    """The stages whose code has changed."""
    before = hashes(repository / "written", "*.code")
    source.main(str(repository / "written"), str(repository))
    after = hashes(repository / "written", "*.code")
    assert before.keys() == after.keys() == {f"{name}.code" for name in EVERY}
    return {name.removesuffix(".code") for name in before if before[name] != after[name]}


def listed(root, name):
    """What a .code file lists."""
    lines = (root / "written" / f"{name}.code").read_text().splitlines()
    return [line.split("  ", 1)[1] for line in lines]


# -------------------------------------------------------------------- images


def test_changed_image_folders_and_superclasses_are_told_and_missing_ones_too(repository):
    written, groups = repository / "written", repository / "pipeline" / "superclasses" / "miniimagenet.yaml"
    assert "mini-imagenet/train is missing" in (written / "miniimagenet.images").read_text()
    assert (written / "glyphs.images").read_text() == "\n"
    groups.write_text("one: [a]\ntwo: [b]\n")
    for part, name in ((part, name) for part in ("train", "val") for name in "ab"):
        folder = repository / "data" / "mini-imagenet" / part / name
        folder.mkdir(parents=True)
        (folder / "image.jpg").write_bytes(b"not looked at")
    told = []
    for change in (
        None,
        lambda: (folder / "more.jpg").write_bytes(b""),
        lambda: groups.write_text("one: [b]\ntwo: [a]\n"),
    ):
        _ = change and change()
        source.main(str(written), str(repository))
        told.append((written / "miniimagenet.images").read_text())
    assert len(set(told)) == 3 and not any("missing" in each for each in told)


# -------------------------------------------------------------------- code


def test_every_notebook_and_the_report_have_a_file_of_sorted_hashes(original):
    written = {path.name for path in (original / "written").iterdir()}
    studies = yaml.safe_load((original / "params.yaml").read_text())["run"]
    expected = {f"{name}.code" for name in EVERY} | {f"{name}.ipynb" for name in NOTEBOOKS}
    assert written == expected | {f"{name}.images" for name in studies}
    for name in EVERY:
        assert listed(original, name) == sorted(set(listed(original, name)))
        for line in (original / "written" / f"{name}.code").read_text().splitlines():
            digest, module = line.split("  ", 1)
            path = source.module_file(module, original) or original / module
            assert digest == source.sha256(path)


def test_a_notebook_needs_the_functions_of_its_steps_and_what_runs_it():
    for notebook in NOTEBOOKS:
        needed = source.needed(source.entry_modules(notebook, ROOT), ROOT)
        own = [step for step in STEPS.values() if step.notebook == notebook]
        assert {path.partition(":")[0] for step in own for path in (step.function, step.jobs)} < set(needed)
        assert "pipeline.engine" in needed


CHANGES = {  # a file, and what depends on it
    "eas/files.py": EVERY,
    "eas/data/glyphs.py": EVERY,
    "eas/training.py": EVERY - {"01_superclasses", "report"},
    "eas/cuda_graphs.py": EVERY - {"01_superclasses", "report"},  # imported inside a function
    "eas/predictor.py": {"03_generator", "04_comparison", "05_ablations", "06_specialize"},
    "eas/serving/kit_files.py": {"06_specialize"},
    "eas/serving/cli.py": set(),
    "pipeline/engine.py": set(NOTEBOOKS),
    "pipeline/throughput.py": {"04_comparison"},
    "pipeline/demo.py": {"06_specialize"},
    "pipeline/report/page.py": {"report"},
    "pipeline/report/__init__.py": EVERY,
    "pipeline/report/explorer/web/page.html": set(),
    "pipeline/report/templates/default.md": {"report"},
    "pipeline/gpu.py": set(),
    "pipeline/source.py": set(),
    "pipeline/dvc.yaml": set(),
    "params.yaml": set(),
}


@pytest.mark.parametrize("path", CHANGES)
def test_a_changed_file_changes_the_code_of_what_needs_it_and_of_nothing_else(path, repository):
    with (repository / path).open("a") as file:
        file.write("\n# changed\n")
    assert stale(repository) == CHANGES[path]


def test_an_added_import_counts_for_those_that_it_reaches_with_all_that_it_brings(repository):
    with (repository / "pipeline" / "throughput.py").open("a") as file:
        file.write("\n\ndef late():\n    from pipeline import demo\n\n    return demo\n")
    assert stale(repository) == {"04_comparison"}
    assert {"pipeline.demo", "pipeline.publish", "eas.serving.kit"} <= set(listed(repository, "04_comparison"))
    with (repository / "pipeline" / "demo.py").open("a") as file:
        file.write("\n# changed\n")
    assert stale(repository) == {"04_comparison", "06_specialize"}


def test_a_new_template_is_one_more_and_bytecode_and_notes_are_none(repository):
    (repository / "pipeline" / "report" / "templates" / "other.md").write_text("new")
    assert stale(repository) == {"report"}
    (repository / "pipeline" / "notes.md").write_text("new")
    (repository / "pipeline" / "__pycache__").mkdir()
    (repository / "pipeline" / "__pycache__" / "page.pyc").write_bytes(b"new")
    assert stale(repository) == set()


def test_an_import_in_a_notebook_counts_and_its_magic_does_no_harm(repository):
    path = repository / "notebooks" / "01_superclasses.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("%matplotlib inline\n!ls\nimport pipeline.demo as d"))
    nbformat.write(notebook, path)
    assert stale(repository) == {"01_superclasses"}
    assert "pipeline.demo" in listed(repository, "01_superclasses")


IMPORT_FOR_REAL = """
import ast, importlib, json, sys
import nbformat, papermill
from pipeline import source
from pipeline.steps import STEPS
for name in sys.argv[1:]:
    for module in [each for each in sys.modules if each.partition(".")[0] in source.PACKAGES]:
        del sys.modules[module]
    if name == "report":
        import pipeline.report.__main__
        importlib.import_module("pipeline.report.page")
    else:
        cells = nbformat.read(f"notebooks/{name}.ipynb", as_version=4).cells
        trees = [ast.parse(cell.source) for cell in cells if cell.cell_type == "code"]
        nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(nodes, []), name, "exec"), {})
        paths = [path for step in STEPS.values() if step.notebook == name for path in (step.function, step.jobs)]
        for path in [*paths, "pipeline.engine:"]:
            importlib.import_module(path.partition(":")[0])
    print(name, *sorted(each for each in sys.modules if each.partition(".")[0] in source.PACKAGES))
"""


def test_no_module_that_is_really_imported_is_missing(original):
    command = [sys.executable, "-c", IMPORT_FOR_REAL, *sorted(EVERY)]
    done = subprocess.run(command, cwd=original, capture_output=True, text=True, env=None)
    assert done.returncode == 0, done.stderr
    loaded = {name: modules for name, *modules in map(str.split, done.stdout.splitlines())}
    assert loaded.keys() == EVERY
    for name, modules in loaded.items():
        assert len(modules) > 10 and not set(modules) - set(listed(original, name))


def test_what_imports_cannot_tell_is_not_done():
    """Relative imports, and the names that `eas` itself gives to users, are not followed."""
    files = [*ROOT.glob("eas/**/*.py"), *ROOT.glob("pipeline/**/*.py")]
    sources = {path: path.read_text(encoding="utf-8") for path in files}
    for path in ROOT.glob("notebooks/[0-9]*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        sources[path] = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    for path, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                assert not node.level, path
                lazy = {alias.name for alias in node.names} & set(eas.HOMES) if node.module == "eas" else set()
                assert not lazy or path.name == "cli.py", path
            if isinstance(node, ast.Import):
                assert "eas" not in {alias.name for alias in node.names}, path


# -------------------------------------------------------------------- notebooks


def saved_again(text):
    """A notebook as JupyterLab may save it after a run."""
    content = json.loads(text)
    content["metadata"] |= {
        "kernelspec": {"display_name": "mine", "language": "python", "name": "mine"},
        "language_info": {"name": "python", "version": "3.99"},
        "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2}},
    }
    for count, cell in enumerate(content["cells"]):
        cell["metadata"] |= {"collapsed": True, "scrolled": True, "execution": {"iopub.execute_input": f"2026-{count}"}}
        if cell["cell_type"] == "code":
            cell["execution_count"] = count
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": [f"{count}\n"]}]
    return json.dumps(content, indent=4)


def test_saving_a_notebook_changes_nothing_and_editing_it_does(original, tmp_path):
    path = tmp_path / "02_supernet.ipynb"
    written = (original / "written" / path.name).read_text()
    path.write_text(saved_again((original / "notebooks" / path.name).read_text()), encoding="utf-8")
    assert source.stripped(path) == written
    notebook = json.loads(written)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook["cells"])
    assert not {"kernelspec", "language_info", "widgets"} & notebook["metadata"].keys()
    assert any("parameters" in cell["metadata"].get("tags", []) for cell in notebook["cells"])
    notebook["cells"][-1]["source"] = ["1 + 1"]
    path.write_text(json.dumps(notebook), encoding="utf-8")
    assert source.stripped(path) != written
