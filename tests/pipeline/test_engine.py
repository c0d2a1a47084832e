"""The papermill engine: an executed notebook is the same bytes twice, whatever was printed on the way."""

import nbformat
import papermill
import pytest

KERNEL = {"kernel_name": "python3", "language": "python", "engine_name": "eas", "progress_bar": False}
NOISY = """
import sys, warnings
from tqdm import tqdm
from tqdm.auto import trange
for number in tqdm(range(3)):
    print(study, number)
    print("to the log", file=sys.stderr)
for number in trange(2):  # a widget
    pass
warnings.warn("not a result")
"""


@pytest.fixture
def source(tmp_path):
    code = nbformat.v4.new_code_cell
    cells = [code("study = 'tiny'", metadata={"tags": ["parameters"]}), code(NOISY, metadata={"scrolled": True})]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "source.ipynb")
    return tmp_path / "source.ipynb"


def run(source, target):
    papermill.execute_notebook(source, target, parameters={"study": "glyphs"}, **KERNEL)
    return nbformat.read(target, as_version=4)


def test_two_runs_give_the_same_bytes_in_a_new_folder(source, tmp_path):
    targets = [tmp_path / "new" / "folder" / f"{n}.ipynb" for n in range(2)]
    executed = [run(source, target) for target in targets][0]
    assert targets[0].read_bytes() == targets[1].read_bytes()
    assert [cell.id for cell in executed.cells] == ["0", "1", "2"]
    assert executed.cells[0].metadata.tags == ["parameters"]
    assert set(executed.metadata) == {"kernelspec", "language_info"}


def test_only_results_are_kept(source, tmp_path):
    *_, cell = run(source, tmp_path / "out.ipynb").cells
    assert [output.text for output in cell.outputs] == ["glyphs 0\nglyphs 1\nglyphs 2\n"]
    assert cell.metadata == {}


def test_progress_reaches_the_log_as_text(source, tmp_path, caplog, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    with caplog.at_level("INFO", logger="papermill"):
        papermill.execute_notebook(source, tmp_path / "out.ipynb", log_output=True, **KERNEL)
    assert "100%" in caplog.text
    assert "to the log" in caplog.text


def test_a_failure_is_raised_and_kept(source, tmp_path):
    notebook = nbformat.read(source, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("1 / 0"))
    nbformat.write(notebook, source)
    with pytest.raises(papermill.PapermillExecutionError, match="ZeroDivisionError"):
        run(source, tmp_path / "out.ipynb")
    assert "ZeroDivisionError" in (tmp_path / "out.ipynb").read_text()
