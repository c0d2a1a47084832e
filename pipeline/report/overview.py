"""reports/README.md: what was found in all studies, from their metrics.json alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from eas.files import write_text
from pipeline.report import badges, figures, main_result
from pipeline.report.findings import findings, points
from pipeline.report.metrics import Metrics, read_metrics
from pipeline.report.template import GENERATED, read_template

COLUMNS = {  # of the table over all studies; a cell is left empty where its number was not measured
    "OFA's way": "top1_ofa_evolution_plain",
    "EAS without branches": "top1_generator_dropout",
    "the paper's signal": "top1_generator_gates_dropout",
    "EAS with branches": "top1_generator_branch_dropout",
    "branches minus OFA's way": "generator_branch_minus_mean_ofa_evolution",
}

FIGURE = "main_result.png"
PAGES = ("grocery", "on_device")  # of benchmarks/, which say by themselves what was found

INTRODUCTION = """Superclass top-1 on test images, mean over superclasses and budgets; differences in points, with 95 %
intervals over seeds in brackets. *OFA's way*: a supernet without superclass dropout, and an evolutionary search for
every scenario with an accuracy predictor; trained longer by what branches cost, where a study has them. *EAS without
branches*: superclass dropout, and a generator that was trained on the predictor (ours). *The paper's signal*: the same
generator, trained through relaxed gates of the frozen supernet. *EAS with branches*: weights for each superclass
(ours)."""

EXPLORER = """To pick any superclasses and a bound, and see the arch, its cost and its accuracy beside OFA's way, open
[explorer.html](explorer.html) in a browser on a clone: one file, which can be sent to somebody."""


def write(root: str | Path = ".") -> Path:
    """Write reports/README.md under `root`, its figure and the badges; returns the page.

    Raises:
        FileNotFoundError: there are no reports.
    """
    reports = Path(root) / "reports"
    path = reports / "README.md"
    write_text(path, overview(reports))
    if drawn := comparisons(reports):
        figures.style()
        main_result.draw(drawn).savefig(reports / FIGURE, metadata={"Software": None})
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
    return {title: pd.read_csv(tables[name]) for name, title in titles.items() if title}


def overview(reports: Path) -> str:
    """The page: a table over the studies, their findings, what is over, and the benchmarks last.

    Raises:
        FileNotFoundError: the folder has no report, or not reports/experiments.md.
    """
    if not (found := every_metrics(reports)):
        raise FileNotFoundError(f"{reports} holds no report: run `dvc repro` first")
    studies = {name: metrics for name, metrics in found.items() if COLUMNS["OFA's way"] in metrics}
    parts = [GENERATED, "# What was found", INTRODUCTION, *figure(reports), table(studies)]
    if (reports / "explorer.html").is_file():
        parts.append(EXPLORER)
    for name, metrics in studies.items():
        lines = "\n".join(f"- {line}" for line in findings(metrics))
        parts += [f"## [{title(name)}]({name}/README.md)", lines]
    parts += [part for name in PAGES if (reports / name / "README.md").is_file() for part in told(reports, name)]
    parts.append((reports / "experiments.md").read_text(encoding="utf-8").strip())
    for name, metrics in found.items():
        if "search_us_50" in metrics:
            lines = "\n".join(f"- {line}" for line in benchmarks(metrics))
            parts += [f"## [Side by side with the package `ofa`]({name}/README.md)", lines]
    return "\n\n".join(parts) + "\n"


def figure(reports: Path) -> list[str]:
    """The figure over all studies, where one has what it shows."""
    names = ", ".join(comparisons(reports))
    return [f"![Accuracy over budget, {names}: four ways to a network]({FIGURE})"] if names else []


def told(reports: Path, name: str) -> list[str]:
    """What a page says first: its title, and the findings above its first section."""
    head = (reports / name / "README.md").read_text(encoding="utf-8").partition("\n## ")[0]
    heading = next(line for line in head.splitlines() if line.startswith("# ")).removeprefix("# ")
    findings_of_page = head[head.index("\n- ") + 1 :].partition("\n\n")[0]
    return [f"## [{heading}]({name}/README.md)", findings_of_page]


def title(study: str) -> str:
    """The heading of a study's page."""
    heading = next(line for line in read_template(study).body.splitlines() if line.startswith("# "))
    return heading.removeprefix("# ").format(study=study)


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


# -------------------------------------------------------------------- benchmarks


BENCHMARKS = (
    "**Search** in its MobileNetV3 space: the generator takes {search_us_50:.0f} microseconds a scenario for 50 of "
    "them. OFA's finder takes {search_times_ofa_finder_long:,.0f} times the generator's time at its published effort "
    "of 50,000 evaluations, and {search_times_ofa_finder:,.0f} times with 500. Training the generator pays off from "
    "{search_break_even_ofa_finder_long:,.0f} and {search_break_even_ofa_finder:,.0f} scenarios on.",
    "**A training step** of the same elastic network, against OFA's layers and loop, on a CPU: "
    "{training_times_cifar100:.2f} times as fast (CIFAR-100) and {training_times_glyphs:.2f} times (embedded study); "
    "where both compute in float32 {training_times_float32_cifar100:.2f} and {training_times_float32_glyphs:.2f} "
    "times.",
    "**A training step on a GPU**: {training_times_gpu_cifar100:.2f} and {training_times_gpu_glyphs:.2f} times as "
    "fast.",
    "**Calibration**: {calibration_times_equal:.2f} times as fast at equal batches, {calibration_times_own:.2f} times "
    "against OFA's own batches.",
)


def benchmarks(metrics: Metrics) -> list[str]:
    """What was timed beside the peer's package; on a GPU where there was one."""
    on_gpu = "training_times_gpu_cifar100" in metrics
    return [text.format(**metrics) for text in BENCHMARKS if on_gpu or "on a GPU" not in text]
