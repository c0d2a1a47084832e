"""A study's report, reports/<study>/, from what its notebooks left in build/<study>/."""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
from matplotlib.figure import Figure
from nbformat import NotebookNode

from eas.files import sha256, write_text
from pipeline.params import load_study
from pipeline.report import comparison_figures, figures
from pipeline.report.findings import findings
from pipeline.report.inputs import naming, read_comparison, read_metrics, read_notebook
from pipeline.report.template import GENERATED, fill, read_template

NOTEBOOKS = ("01_superclasses", "02_supernet", "03_generator", "04_comparison", "05_ablations", "06_specialize")
LESSON = r"\b(generator_)?lessons\."  # a cell that calls these modules teaches the method
KIT = "kit.json"  # of a kit's files, the list
FEW = 4  # words that say nothing by themselves
DRAWN = NOTEBOOKS[1:5]  # these tell the results; their figures are in the page


def render(study: str, root: str | Path = ".") -> Path:
    """Write reports/<study>/ under `root`; the same input gives the same bytes. Returns the folder.

    Raises:
        FileNotFoundError: something that the report is made of is not in build/<study>; says what.
        ValueError: something is damaged, or a number is missing, or does not bear out what the study's template claims;
            says which.
    """
    root = Path(root)
    build, report = root / "build" / study, root / "reports" / study
    notebooks = {name: linked(read_notebook(build / f"{name}.ipynb")) for name in NOTEBOOKS}
    metrics, template = read_metrics(build / "metrics.json"), read_template(study)
    parts = {"note": load_study(study, root).note, "weights": weights(root, study)}
    with naming(build / "metrics.json"):
        parts["findings"] = "\n".join(f"- {line}" for line in findings(metrics))
    parts["figures"] = "\n\n".join(part for name in DRAWN for part in illustrate(name, notebooks[name]))
    text = f"{GENERATED}\n\n{fill(template, study, metrics, parts)}"
    headline = draw_headline(build / "comparison.csv", template.headline)
    if (report / "figures").exists():  # all that could be damaged has been read
        shutil.rmtree(report / "figures")
    (report / "figures").mkdir(parents=True)
    for path in ("metrics.json", "comparison.csv"):
        shutil.copyfile(build / path, report / path)
    headline.savefig(report / "figures" / "headline.png", metadata={"Software": None})  # equal bytes, any matplotlib
    plt.close(headline)
    for name, notebook in notebooks.items():
        nbformat.write(notebook, report / f"{name}.ipynb")
        for file, image in images(name, notebook).items():
            (report / "figures" / file).write_bytes(image)
    write_text(report / "README.md", text)
    return report


def draw_headline(comparison: Path, title: str) -> Figure:
    """The figure that stands alone in a README. Errors as `read_comparison`."""
    figures.style()
    table = read_comparison(comparison)
    with naming(comparison):
        return comparison_figures.headline(table, title)


# -------------------------------------------------------------------- the notebooks


def linked(notebook: NotebookNode) -> NotebookNode:
    """A notebook whose relative links, in place, hold from reports/<study>/, one folder further down."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"(\]\(|src=\")\.\./", r"\1../../", cell.source)
    return notebook


def illustrate(name: str, notebook: NotebookNode) -> list[str]:
    """The figures of a notebook in Markdown, each under the words that lead to it: its section's title, what it shows.

    Tables, all else that was printed, and pictures that teach the method are in the notebook.
    """
    parts, title, words, shown = [], "", "", 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for part in paragraphs(cell.source):
                if part.startswith("#"):
                    title, words = part.lstrip("# "), ""
                else:
                    words = part
        for _ in pictures(cell):
            shown += 1
            parts += [f"### {title}"] * bool(title) + [words] * bool(words)
            alt = first_sentence(words) or title or f"{name}, figure {shown}"
            parts.append(f"![{alt}](figures/{name}-{shown}.png)")
            title = words = ""  # told once
    return parts


def paragraphs(markdown: str) -> list[str]:
    """Headings, and paragraphs of prose: no lists, tables and code, which are in the notebook."""
    blocks = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL).split("\n\n")
    return [block.strip() for block in blocks if block.strip() and block.lstrip()[0] not in "|-*<" or is_bold(block)]


def is_bold(block: str) -> bool:
    """Whether a paragraph begins with words in bold, which is no list."""
    return block.lstrip().startswith("**")


def first_sentence(text: str) -> str:
    """Of a paragraph, without marks: what a reader is told who does not see the figure."""
    plain = re.sub(r"[*`\[]|\]\([^)]*\)", "", " ".join(text.split()))
    first, dot, rest = plain.partition(". ")
    return first + dot + rest.partition(". ")[0] if len(first.split()) < FEW else first


def images(name: str, notebook: NotebookNode) -> dict[str, bytes]:
    """A notebook's pictures in order, by file name: NN_name-1.png and so on."""
    found = (picture for cell in notebook.cells for picture in pictures(cell))
    return {f"{name}-{index}.png": image for index, image in enumerate(found, start=1)}


def pictures(cell: NotebookNode) -> list[bytes]:
    """A cell's PNG outputs; none of one that teaches the method, whose place is the notebook."""
    if re.search(LESSON, cell.source):
        return []
    outputs = (output.get("data", {}) for output in cell.get("outputs", []))
    return [base64.b64decode(data["image/png"]) for data in outputs if "image/png" in data]


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
[weights/{study}](../../weights/{study}). """
    if (folder / KIT).is_file():
        text += f"""`eas specialize {study} ...` makes networks from them, without a data
set; `python -m pipeline.recompute {study}` specialises the scenarios and compares the accuracies with those of
[comparison.csv](comparison.csv)."""
    else:
        text += f"""A kit holds images, which may not be published here: on a machine that has the
images, `python -m pipeline.publish {study}` makes it."""
    return "\n".join([text, "", "| file | MB | SHA-256 |", "|---|---:|---|", *rows])
