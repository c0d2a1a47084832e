"""Notebooks that a user has run and saved in JupyterLab still pass `pytest --nbval`."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[2]


def saved_in_jupyterlab(notebook):
    """What JupyterLab writes beside the results: progress bars, counts, and metadata of its own."""
    notebook.metadata["language_info"] = {"name": "python", "version": "3.11.7", "file_extension": ".py"}
    state = {"state": {}, "version_major": 2, "version_minor": 0}
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": state}
    for count, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.execution_count, cell.metadata["trusted"] = 40 + count, True
        cell.outputs.insert(0, nbformat.v4.new_output("stream", name="stderr", text="supernets: 100%|####| 2/2\n"))
    return notebook


def test_a_notebook_that_was_run_and_saved_passes(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "notebooks").mkdir()
    for name in ("conftest.py", "sanitize.cfg"):
        shutil.copy(ROOT / "notebooks" / name, tmp_path / "notebooks")
    notebook = saved_in_jupyterlab(nbformat.read(ROOT / "notebooks" / "01_superclasses.ipynb", as_version=4))
    nbformat.write(notebook, tmp_path / "notebooks" / "01_superclasses.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "-p", "no:cacheprovider", "notebooks"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "8 passed" in done.stdout
