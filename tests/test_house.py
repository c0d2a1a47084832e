"""How the house is built: what the method needs, that it knows nothing of the study, and how long modules are."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METHOD, STUDY = sorted((ROOT / "eas").rglob("*.py")), sorted((ROOT / "pipeline").rglob("*.py"))
FOREIGN = {"pandas", "matplotlib", "dvc", "jupyter", "IPython", "seaborn", "scipy", "pipeline", "benchmarks"}


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def imported(path):
    """The first names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def test_every_module_of_the_method_can_be_imported_without_what_only_the_study_needs():
    code = (
        f"import importlib, pkgutil, sys\n"
        f"sys.modules |= dict.fromkeys({sorted(FOREIGN)})\n"
        "import eas\n"
        "names = [each.name for each in pkgutil.walk_packages(eas.__path__, 'eas.')]\n"
        "for name in names: name.endswith('__main__') or importlib.import_module(name)\n"
        "for name in eas.__all__: getattr(eas, name)\n"
        "print(*names)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"eas.generator", "eas.spaces.preresnet", "eas.data.glyphs"} <= set(done.stdout.split())


@pytest.mark.parametrize("path", METHOD, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_of_the_method_imports_the_study(path):
    assert not {"pipeline", "benchmarks", "tests"} & set(imported(path))


def test_no_module_is_longer_than_350_lines():
    assert not {str(path.relative_to(ROOT)): lines(path) for path in METHOD + STUDY if lines(path) > 350}


def lines_of_code(path):
    """Of a file, without blank lines, comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    told = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node):
            told |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    numbered = enumerate(text.splitlines(), start=1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and n not in told for n, line in numbered)


def is_of_a_kind(path):
    """Whether a module belongs to one kind of space or source, of which there may be many."""
    shared = {"__init__", "__main__", "base", "supernet", "batches", "images", "photographs"}
    return path.parent.name in ("spaces", "data") and path.stem not in shared


def test_the_method_without_its_kinds_of_spaces_and_sources_has_at_most_2500_lines_of_code():
    own = [path for path in METHOD if not is_of_a_kind(path) and path.parent.name != "serving"]
    assert 1000 < sum(map(lines_of_code, own)) <= 2500


def test_what_trains_and_generates_knows_nothing_of_what_serves():
    for path in METHOD:
        if path.parent.name != "serving" and path.stem != "__main__":
            found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
            assert not [node.module for node in found if (node.module or "").startswith("eas.serving")], path
