"""Notebooks in JupyterLab: what was run and saved there still passes `pytest --nbval`, and the playground is played."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from browser import CHROMIUM, SECONDS, Browser

ROOT = Path(__file__).parents[2]
STUDY = "01_superclasses.ipynb"
LAB = [
    *("--no-browser", "--expose-app-in-browser", "--ServerApp.port=0", "--ServerApp.ip=127.0.0.1"),
    *("--IdentityProvider.token=", "--ServerApp.allow_root=True", "--ServerApp.terminals_enabled=False"),
]
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


def with_notebooks(folder, *names):
    """A folder with notebooks beside the parameters, as in a clone."""
    (folder / "notebooks").mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", folder)
    for name in (*names, "conftest.py", "sanitize.cfg"):
        shutil.copy(ROOT / "notebooks" / name, folder / "notebooks")
    return folder


def passes_nbval(folder, name):
    """Run a notebook anew: every output is as saved."""
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "-p", "no:cacheprovider", f"notebooks/{name}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode == 0 and "8 passed" in done.stdout, done.stdout[-2000:]


# ---------------------------------------------------------------- as if it were saved


def saved_in_jupyterlab(notebook):
    """What JupyterLab writes beside the results: progress bars, counts, and metadata of its own."""
    notebook.metadata["language_info"] = {"name": "python", "version": "3.11.7", "file_extension": ".py"}
    state = {"state": {}, "version_major": 2, "version_minor": 0}
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": state}
    for count, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.execution_count, cell.metadata["trusted"] = 40 + count, True
        cell.outputs.insert(0, nbformat.v4.new_output("stream", name="stderr", text="supernets: 100%|####| 2/2\n"))
    return notebook


def test_what_jupyterlab_adds_does_no_harm(tmp_path):
    path = with_notebooks(tmp_path / "clone", STUDY) / "notebooks" / STUDY
    nbformat.write(saved_in_jupyterlab(nbformat.read(path, as_version=4)), path)
    passed, said = passes_nbval(tmp_path / "clone", STUDY)
    assert passed, said


# ---------------------------------------------------------------- in a real JupyterLab


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return with_notebooks(tmp_path_factory.mktemp("lab") / "clone", STUDY, "playground.ipynb")


@pytest.fixture(scope="module")
def lab(clone):
    """The address of a JupyterLab that shows the clone, and a browser to look at it."""
    home = clone.parent / "home"
    names = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR", "LAB_SETTINGS_DIR", "LAB_WORKSPACES_DIR")
    own = {f"JUPYTER{name}" if name[:3] == "LAB" else f"JUPYTER_{name}": str(home / name.lower()) for name in names}
    own |= {"IPYTHONDIR": str(home), "EAS_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with open(clone.parent / "lab.log", "wb") as log:
        command = [sys.executable, "-m", "jupyterlab", *LAB, f"--ServerApp.root_dir={clone}"]
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log)
    try:
        with Browser(clone.parent / "profile", strict=False) as browser:
            browser.size(1280, 1600)
            yield address_of(server, home / "runtime_dir"), browser
    finally:
        server.terminate()
        server.wait(SECONDS)


def address_of(server, runtime):
    """Where a server listens, once it does."""
    end = time.monotonic() + SECONDS
    while not (found := list(runtime.glob("jpserver-*.json"))) or not found[0].stat().st_size:
        assert server.poll() is None and time.monotonic() < end, "JupyterLab does not start"
        time.sleep(0.1)
    return json.loads(found[0].read_text())["url"]


def run_all(lab, name):
    """Open a notebook and run all of its cells, as its menu does."""
    address, browser = lab
    browser.open(f"{address}lab/tree/notebooks/{name}")
    browser.wait_for("window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status", "idle")
    do(browser, "notebook:run-all-cells")


def do(browser, command):
    """A command of JupyterLab, to its end."""
    browser.say(f"done = false; jupyterapp.commands.execute('{command}').then(() => {{ done = true }}); 0")
    browser.wait_for("done", True)


@needs_chromium
def test_the_kit_is_played_with(lab, clone):
    run_all(lab, "playground.ipynb")
    shown = "[...document.querySelectorAll('.jp-OutputArea-output')].map(each => each.textContent).join(' ')"
    lab[1].wait_for(f"{shown}.includes('aquatic mammals: 5 classes')", True)
    chosen = "[...select.options].forEach(each => { each.selected = each.text == 'flowers' })"
    lab[1].say(f"select = document.querySelector('.jupyter-widgets select'); {chosen}; 0")
    lab[1].say("select.dispatchEvent(new Event('change', {bubbles: true})); 0")
    lab[1].wait_for(f"{shown}.includes('flowers: 5 classes')", True)
    lab[1].say("[...document.querySelectorAll('button')].find(each => each.textContent.trim() == 'Save').click(); 0")
    lab[1].wait_for(f"{shown}.includes('wrote ')", True)
    assert {path.name for path in (clone / "notebooks").glob("flowers*")} >= {"flowers.onnx", "flowers.safetensors"}


@needs_chromium
def test_a_notebook_that_was_run_and_saved_passes(lab, clone):
    path = clone / "notebooks" / STUDY
    before = path.read_bytes()
    run_all(lab, STUDY)
    do(lab[1], "docmanager:save")
    assert path.read_bytes() != before
    sources = [
        [cell.source for cell in nbformat.reads(text, as_version=4).cells] for text in (before, path.read_bytes())
    ]
    assert sources[0] == sources[1]
    passed, said = passes_nbval(clone, STUDY)
    assert passed, said
