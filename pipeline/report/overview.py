"""reports/README.md: what was found in all studies, from their metrics.json alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from eas.files import write_text
from pipeline.report import Metrics, badges, figures, main_result
from pipeline.report.findings import points
from pipeline.report.inputs import read_comparison, read_metrics
from pipeline.report.template import GENERATED, fill, read_page, read_template

COLUMNS = {  # of the table over all studies; a cell is left empty where its number was not measured
    "OFA's way": "top1_ofa_evolution_plain",
    "our signal, no branches": "top1_generator_dropout",
    "the paper's signal": "top1_generator_gates_dropout",
    "EAS with branches": "top1_generator_branch_dropout",
    "branches minus OFA's way": "generator_branch_minus_mean_ofa_evolution",
}

FIGURE, DRAWING = "main_result.png", "method.svg"
PAGES = ("grocery", "on_device")  # of benchmarks/, which say by themselves what was found
PAGE = Path(__file__).with_name("overview.md")


def write(root: str | Path = ".") -> Path:
    """Write reports/README.md under `root`, its pictures and the badges; returns the page.

    Raises:
        FileNotFoundError: there are no reports.
        ValueError: a number that the page tells is missing, or does not bear out what it claims.
    """
    reports = Path(root) / "reports"
    path = reports / "README.md"
    write_text(path, overview(reports))
    shutil.copyfile(PAGE.with_name(DRAWING), reports / DRAWING)
    if drawn := comparisons(reports):
        figures.style()
        main_result.draw(drawn, read_page(PAGE).headline).savefig(reports / FIGURE, metadata={"Software": None})
    badges.write(every_metrics(reports), reports / "badges")
    return path


def every_metrics(reports: Path) -> dict[str, Metrics]:
    """Those of all studies, and of the benchmarks."""
    paths = [path for path in sorted(reports.glob("*/metrics.json")) if path.parent.name not in PAGES]
    return {path.parent.name: read_metrics(path) for path in paths}


def comparisons(reports: Path) -> dict[str, pd.DataFrame]:
    """What the figure over all studies shows: the comparisons of those whose template has a title for it."""
    tables = {path.parent.name: path for path in sorted(reports.glob("*/comparison.csv"))}
    titles = {name: read_template(name).panel for name in tables}
    return {title: read_comparison(tables[name]) for name, title in titles.items() if title}


def overview(reports: Path) -> str:
    """The page: overview.md with the numbers of all studies, each named by its study and its name there.

    Raises:
        FileNotFoundError: the folder has no report.
        ValueError: a number is missing, or does not bear out what the page claims.
    """
    if not (found := every_metrics(reports)):
        raise FileNotFoundError(f"{reports} holds no report: run `dvc repro` first")
    studies = {name: metrics for name, metrics in found.items() if COLUMNS["OFA's way"] in metrics}
    numbers = {f"{study}_{name}": value for study, metrics in found.items() for name, value in metrics.items()}
    parts = {"table": table(studies), "figure": figure(reports), "pages": "\n\n".join(pages(reports))}
    return f"{GENERATED}\n\n{fill(read_page(PAGE), 'overview', numbers, parts)}"


def figure(reports: Path) -> str:
    """The figure over all studies, where one has what it shows."""
    names = ", ".join(comparisons(reports))
    return f"![Accuracy over budget, {names}: four ways to a network]({FIGURE})" if names else ""


def pages(reports: Path) -> list[str]:
    """What the pages of benchmarks/ that are there say first: title, and the findings above their first section."""
    parts = []
    for name in PAGES:
        path = reports / name / "README.md"
        if path.is_file():
            head = path.read_text(encoding="utf-8").partition("\n## ")[0]
            heading = next(line for line in head.splitlines() if line.startswith("# ")).removeprefix("# ")
            told = head[head.index("\n- ") + 1 :].partition("\n\n")[0]
            parts += [f"## [{heading}]({name}/README.md)", told]
    return parts


def table(studies: dict[str, Metrics]) -> str:
    """A row for each study."""
    rows = [f"| study | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for study, metrics in studies.items():
        cells = [cell(metrics, name) for name in COLUMNS.values()]
        rows.append(f"| [{study}]({study}/README.md) | {' | '.join(cells)} |")
    return "\n".join(rows)


def cell(metrics: Metrics, name: str) -> str:
    """A percentage, or a difference in points; nothing where it was not measured."""
    if name not in metrics:
        return ""
    return points(metrics, name) if "_minus_" in name else f"{metrics[name]:.1f} %"
