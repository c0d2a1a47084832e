"""A study's report, reports/<study>/, from what its notebooks left in build/<study>/."""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
from nbformat import NotebookNode

from eas.files import sha256, write_text
from pipeline.params import load_study
from pipeline.report import comparison_figures, figures
from pipeline.report.findings import findings
from pipeline.report.metrics import read_metrics
from pipeline.report.template import GENERATED, fill, read_template

NOTEBOOKS = ("01_superclasses", "02_supernet", "03_generator", "04_ablations", "05_specialize")
NARRATED = NOTEBOOKS[1:4]  # these tell the results; their prose, tables and figures are in the page


def render(study: str, root: str | Path = ".") -> Path:
    """Write reports/<study>/ under `root`; the same input gives the same bytes. Returns the folder.

    Raises:
        FileNotFoundError: something that the report is made of is not in build/<study>; says what.
        ValueError: a number is missing, or does not bear out what the study's template claims; says which.
    """
    root = Path(root)
    build, report = root / "build" / study, root / "reports" / study
    notebooks = {name: read_notebook(build / f"{name}.ipynb") for name in NOTEBOOKS}
    metrics, template = read_metrics(build / "metrics.json"), read_template(study)
    parts = {"note": load_study(study, root).note, "weights": weights(root, study)}
    parts["findings"] = "\n".join(f"- {line}" for line in findings(metrics))
    parts["narrated"] = "\n\n".join(part for name in NARRATED for part in narrate(name, notebooks[name]))
    text = f"{GENERATED}\n\n{fill(template, study, metrics, parts)}"
    shutil.rmtree(report / "figures", ignore_errors=True)
    (report / "figures").mkdir(parents=True)
    for path in ("metrics.json", "comparison.csv", "specialized/explorer.html"):
        shutil.copyfile(build / path, report / Path(path).name)
    draw_headline(build / "comparison.csv", template.headline, report / "figures" / "headline.png")
    for name, notebook in notebooks.items():
        nbformat.write(notebook, report / f"{name}.ipynb")
        for file, image in images(name, notebook).items():
            (report / "figures" / file).write_bytes(image)
    write_text(report / "README.md", text)
    return report


def draw_headline(comparison: Path, title: str, path: Path) -> None:
    """The figure that stands alone in a README."""
    figures.style()
    figure = comparison_figures.headline(pd.read_csv(comparison), title)
    figure.savefig(path, metadata={"Software": None})  # equal bytes, whichever matplotlib wrote them
    plt.close(figure)


# -------------------------------------------------------------------- the narrated notebooks


def read_notebook(path: Path) -> NotebookNode:
    """An executed notebook, its relative links made to hold from reports/<study>/, one folder further down.

    Raises:
        FileNotFoundError: it has not been run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run `dvc repro` first")
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"(\]\(|src=\")\.\./", r"\1../../", cell.source)
    return notebook


def narrate(name: str, notebook: NotebookNode) -> list[str]:
    """The Markdown of a notebook without its code: prose and outputs in order, headings one level down."""
    parts, shown = [], 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(lower_headings(cell.source.strip()))
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                shown += 1
                parts.append(f"![{name}, figure {shown}](figures/{name}-{shown}.png)")
            elif text := as_text(output):
                parts.append(text)
    parts.append(f"*The code is in [{name}.ipynb]({name}.ipynb).*")
    return [part for part in parts if part]


def as_text(output: NotebookNode) -> str:
    """An output as Markdown: what was displayed as such stays so, prints and plain representations are fenced."""
    data = output.get("data", {})
    if "text/markdown" in data:
        return data["text/markdown"].strip()
    text = output.get("text", data.get("text/plain", "")).strip("\n")
    return f"```text\n{text}\n```" if text else ""


def lower_headings(markdown: str) -> str:
    """One more # before every heading, not before a # inside a code block."""
    blocks = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(b if b.startswith("```") else re.sub(r"^(#{1,5} )", r"#\1", b, flags=re.MULTILINE) for b in blocks)


def images(name: str, notebook: NotebookNode) -> dict[str, bytes]:
    """A notebook's PNG outputs in order, by file name: NN_name-1.png and so on."""
    outputs = (output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))
    encoded = [base64.b64decode(data["image/png"]) for data in outputs if "image/png" in data]
    return {f"{name}-{index}.png": image for index, image in enumerate(encoded, start=1)}


# -------------------------------------------------------------------- published weights


def weights(root: Path, study: str) -> str:
    """The published weights of a study with their hashes, or nothing where there are none."""
    folder = root / "weights" / study
    files = [path for place in ("supernets", "branches") for path in sorted((folder / place).rglob("*.safetensors"))]
    if not files:
        return ""
    rows = [
        f"| [{path.relative_to(folder).as_posix()}](../../{path.relative_to(root).as_posix()}) "
        f"| {path.stat().st_size / 1e6:.1f} | `{sha256(path)}` |"
        for path in files
    ]
    text = f"""## Weights

Those of the first seed, some of other seeds, and the generators and records of all are in
[weights/{study}](../../weights/{study}). `eas specialize {study} ...` makes networks from them, without a data
set; `python -m pipeline.recompute {study}` specialises the scenarios and compares the accuracies with those of
[comparison.csv](comparison.csv)."""
    return "\n".join([text, "", "| file | MB | SHA-256 |", "|---|---:|---|", *rows])
