"""What DVC's stages depend on: a notebook without its outputs, and the code that it needs.

    python -m pipeline.source build/source

writes, for every numbered notebook and for the report, <name>.ipynb (stripped, so that saving it in JupyterLab makes no
stage stale) and <name>.code: the hash of every module of this repository that it imports, directly or not, and of those
that hold its steps' functions. A stage that depends on these goes stale when code changes that it needs, and only then.
For every study that is run, <study>.images has what tells of changed image folders (Source.fingerprint).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import nbformat
import yaml
from nbstripout import strip_output

from eas.files import sha256, write_text
from pipeline.params import load_study
from pipeline.steps import STEPS

PACKAGES = ("eas", "pipeline")
REPORT = "report"  # python -m pipeline.report
ENGINE = "pipeline.engine"  # decides the bytes of every executed notebook
VOLATILE = [  # beside outputs and counts
    *(f"metadata.{name}" for name in ("kernelspec", "language_info", "signature", "widgets")),
    *(f"cell.metadata.{name}" for name in ("collapsed", "ExecuteTime", "execution", "hidden", "scrolled", "trusted")),
]


def entry_modules(name: str, root: Path) -> Iterator[str]:
    """The modules that a notebook, or the report, imports by itself, runs as steps, or is run by."""
    if name == REPORT:
        yield from ("pipeline.report.__main__", "pipeline.report.page")
        return
    notebook = nbformat.read(root / "notebooks" / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            yield from names_in("\n".join(line for line in cell.source.splitlines() if not line.startswith(("%", "!"))))
    yield from (module for step in STEPS.values() if step.notebook == name for module in functions(step))
    yield ENGINE


def functions(step) -> list[str]:
    """The modules of a step's functions."""
    return [path.partition(":")[0] for path in (step.function, step.jobs)]


@cache
def names_in(code: str) -> set[str]:
    """What a piece of code imports of this repository, inside functions too: modules, and names that may be modules."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.split(".")[0] in PACKAGES}


@cache
def words_in(code: str) -> set[str]:
    """The strings that stand in a piece of code."""
    nodes = ast.walk(ast.parse(code))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def module_file(module: str, root: Path) -> Path | None:
    """The file of a module or package, if there is one of that name."""
    path = root / Path(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def needed(modules: Iterable[str], root: Path) -> dict[str, str]:
    """All modules that these need, themselves and their packages included, and the hash of each; sorted.

    With them what they read: templates, a page.
    """
    found: dict[str, str] = {}
    todo = list(modules)
    while todo:
        module = todo.pop()
        file = module_file(module, root)
        if module in found or file is None:
            continue
        code = file.read_text(encoding="utf-8")
        found[module] = sha256(file)
        found |= {str(path.relative_to(root)): sha256(path) for path in read_by(file, words_in(code))}
        todo += names_in(code)
        if "." in module:
            todo.append(module.rpartition(".")[0])
    return dict(sorted(found.items()))


def read_by(file: Path, words: set[str]) -> Iterator[Path]:
    """Files beside a module that have its name or that it names, and all in a folder that it names, but no modules."""
    for path in file.parent.iterdir():
        if path.is_file() and path.suffix != ".py" and (path.stem == file.stem or path.name in words):
            yield path
        if path.is_dir() and path.name in words and not (path / "__init__.py").is_file():
            yield from (each for each in path.rglob("*") if each.is_file())


def stripped(path: Path) -> str:
    """A notebook without outputs, counts and what JupyterLab writes when it saves."""
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    return nbformat.writes(strip_output(notebook, None, False, False, extra_keys=VOLATILE)) + "\n"


def main(target: str, root: str = ".") -> None:
    """Write the files into the folder `target`."""
    notebooks = sorted(path.stem for path in (Path(root) / "notebooks").glob("[0-9]*.ipynb"))
    for name in (*notebooks, REPORT):
        modules = needed(entry_modules(name, Path(root)), Path(root))
        write_text(
            Path(target) / f"{name}.code", "".join(f"{digest}  {module}\n" for module, digest in modules.items())
        )
        if name != REPORT:
            write_text(Path(target) / f"{name}.ipynb", stripped(Path(root) / "notebooks" / f"{name}.ipynb"))
    for study in yaml.safe_load((Path(root) / "params.yaml").read_text(encoding="utf-8"))["run"]:
        write_text(Path(target) / f"{study}.images", f"{images_of(study, root)}\n")


def images_of(study: str, root: str) -> str:
    """The fingerprint of a study's images, or why there is none."""
    try:
        return load_study(study, root).data.fingerprint(root)
    except (OSError, ValueError) as error:  # the stage that needs the images will tell
        return str(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
