"""A papermill engine whose executed notebooks are the same bytes whenever the results are the same.

    papermill in.ipynb out.ipynb --engine eas

papermill imports this module (an entry point in pyproject.toml); whoever imports it directly imports papermill first.
"""

from __future__ import annotations

from pathlib import Path

from nbformat import NotebookNode
from papermill.engines import NBClientEngine

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
WIDGET = "application/vnd.jupyter.widget-view+json"

KERNEL_ARGUMENTS = ["--IPKernelApp.log_level=CRITICAL"]  # it warns of talking to its own machine unencrypted


class StableEngine(NBClientEngine):
    """Makes the output's folder, shows progress as text, and leaves nothing in the notebook that changes by itself."""

    @classmethod
    def execute_notebook(cls, nb: NotebookNode, kernel_name: str, output_path: str | None = None, **kwargs):
        """Run `nb`; a failed notebook is kept as it is, with its traceback, for papermill to report."""
        if output_path:
            Path(output_path).parent.mkdir(parents=True, exist_ok=True)
        nb = super().execute_notebook(nb, kernel_name, output_path, **kwargs)
        failed = any(cell.metadata.get("papermill", {}).get("exception") for cell in nb.cells)
        return nb if failed else stabilise(nb)

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name: str, **kwargs):
        """Run the cells without timing them, a cell's prints joined into one output."""
        stable = {"coalesce_streams": True, "record_timing": False, "extra_arguments": KERNEL_ARGUMENTS}
        return super().execute_managed_notebook(nb_man, kernel_name, **kwargs, **stable)


def stabilise(nb: NotebookNode) -> NotebookNode:
    """Drop times, random ids, progress bars and warnings; write the same kernel name on every machine."""
    nb.metadata = NotebookNode(kernelspec=NotebookNode(KERNELSPEC), language_info=NotebookNode(name="python"))
    for index, cell in enumerate(nb.cells):
        cell.id = str(index)
        cell.metadata = NotebookNode({"tags": tags} if (tags := cell.metadata.get("tags")) else {})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if lasting(output)]
    return nb


def lasting(output: NotebookNode) -> bool:
    """Whether an output belongs to the result: neither stderr nor a widget."""
    return output.get("name") != "stderr" and WIDGET not in output.get("data", {})
