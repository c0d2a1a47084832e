"""reports/README.md: what was found in all studies, from their metrics.json alone."""

from __future__ import annotations

from pathlib import Path

from eas.files import write_text
from pipeline.report.metrics import Metrics, read_metrics
from pipeline.report.template import GENERATED, read_template

COLUMNS = {  # of the table over all studies; a cell is left empty where its number was not measured
    "OFA's way": "top1_ofa_evolution_plain",
    "EAS without branches": "top1_generator_dropout",
    "the paper's signal": "top1_generator_gates_dropout",
    "EAS with branches": "top1_generator_branch_dropout",
    "branches minus OFA's way": "generator_branch_minus_mean_ofa_evolution",
}

INTRODUCTION = """Superclass top-1 on test images, mean over superclasses and budgets; differences in points, with 95 %
intervals over seeds in brackets. *OFA's way*: a supernet without superclass dropout, and an evolutionary search for
every scenario with an accuracy predictor; trained longer by what branches cost, where a study has them. *EAS without
branches*: superclass dropout, and a generator that was trained on the predictor (ours). *The paper's signal*: the same
generator, trained through relaxed gates of the frozen supernet. *EAS with branches*: weights for each superclass
(ours)."""


def write(root: str | Path = ".") -> Path:
    """Write reports/README.md under `root`; returns it.

    Raises:
        FileNotFoundError: there are no reports.
    """
    reports = Path(root) / "reports"
    path = reports / "README.md"
    write_text(path, overview(reports))
    return path


def overview(reports: Path) -> str:
    """The page: a table over the studies, their findings, what is over, and the benchmarks last.

    Raises:
        FileNotFoundError: the folder has no report, or not reports/experiments.md.
    """
    found = {path.parent.name: read_metrics(path) for path in sorted(reports.glob("*/metrics.json"))}
    if not found:
        raise FileNotFoundError(f"{reports} holds no report: run `dvc repro` first")
    studies = {name: metrics for name, metrics in found.items() if COLUMNS["OFA's way"] in metrics}
    parts = [GENERATED, "# What was found", INTRODUCTION, table(studies)]
    for name, metrics in studies.items():
        lines = "\n".join(f"- {line}" for line in findings(metrics))
        parts += [f"## [{title(name)}]({name}/README.md)", lines]
    parts.append((reports / "experiments.md").read_text(encoding="utf-8").strip())
    for name, metrics in found.items():
        if "search_us_50" in metrics:
            lines = "\n".join(f"- {line}" for line in benchmarks(metrics))
            parts += [f"## [Side by side with the package `ofa`]({name}/README.md)", lines]
    return "\n\n".join(parts) + "\n"


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


# -------------------------------------------------------------------- sentences


def points(metrics: Metrics, name: str, digits: int = 1) -> str:
    """A difference and its interval, such as '+3.0 [+2.0, +4.0]'; alone where one seed gives no interval."""
    ends = [metrics.get(name.replace("_mean", f"_{part}", 1)) for part in ("mean", "low", "high")]
    mean, *interval = [f"{value:+.{digits}f}" for value in ends if value is not None]
    return f"{mean} [{', '.join(interval)}]" if interval else mean


def verdict(metrics: Metrics, name: str, above: str, below: str, unclear: str) -> str:
    """One of three words, by where the difference's interval lies; without an interval it is unclear."""
    low, high = (metrics.get(name.replace("_mean", f"_{part}", 1), 0.0) for part in ("low", "high"))
    return above if low > 0 else below if high < 0 else unclear


def findings(metrics: Metrics) -> list[str]:
    """At most six lines on a study, the most important first; a line stands where its numbers were measured."""
    told = (branches, system, dependence, speed, paper_signal, closed_form)
    return [line for line in (tell(metrics) for tell in told) if line]


def branches(metrics: Metrics) -> str:
    """Are weights of one's own worth it?"""
    name = "generator_branch_minus_mean_ofa_evolution"
    if name not in metrics:
        return ""
    claim = verdict(metrics, name, "beat OFA's way", "lose to OFA's way", "are not told apart from OFA's way")
    text = f"**Weights of a superclass's own {claim}**: with branches {points(metrics, name)} points"
    if (tuned := "ofa_finetuned_minus_mean_ofa_evolution") in metrics:
        text += f"; each of OFA's archs tuned alone, which trains for every scenario, {points(metrics, tuned)}"
    if (union := "generator_composed_minus_mean_generator_additive_union") in metrics:
        text += f". On unions never trained on, the branches' mean gains {points(metrics, union)} over shared weights"
    if (tuned := "generator_finetuned_minus_mean_generator_union") in metrics:
        text += f"; tuned alone, a union gains {points(metrics, tuned)}"
    return f"{text}."


def system(metrics: Metrics) -> str:
    """EAS without branches against OFA's way."""
    name = "generator_minus_ofas_way_mean_superclass"
    claim = verdict(metrics, name, "beats OFA's way", "does not reach OFA's way", "is not told apart from OFA's way")
    return f"**EAS without branches {claim}**: {points(metrics, name)} points."


def dependence(metrics: Metrics) -> str:
    """Does the best arch depend on the superclass?"""
    name = "swap_cost_mean_dropout"
    if name not in metrics:
        return ""
    found = "The best arch depends on the superclass"
    not_found = "That the best arch depends on the superclass was not found"
    claim = verdict(metrics, name, found, not_found, not_found)
    text = f"**{claim}**: another superclass's arch costs {points(metrics, name, 2)} points"
    if (bound := "split_half_interaction_sd_upper_dropout") in metrics:
        text += f"; preferences of its own with a standard deviation of up to {metrics[bound]:.1f} are not excluded"
    return f"{text}."


def speed(metrics: Metrics) -> str:
    """How fast is the generator, against the opponent whose accuracy is told?"""
    if "generator_ms" not in metrics:
        return ""
    text = f"**{metrics['timed_scenarios']:.0f} archs take {metrics['generator_ms']:.2g} ms** on one CPU core"
    if (times := "times_generator_ofa_evolution") in metrics:
        text += f"; a scenario takes OFA's way {metrics[times]:,.0f} times as long"
    return f"{text}."


def paper_signal(metrics: Metrics) -> str:
    """The generator's two training signals."""
    name = "generator_minus_generator_gates_mean_dropout"
    if name not in metrics:
        return ""
    claim = verdict(metrics, name, "does worse than the predictor's", "does better", "is not told apart from it")
    return f"**The paper's signal {claim}**: the predictor's minus the paper's, {points(metrics, name)} points."


def closed_form(metrics: Metrics) -> str:
    """The generator that is not trained, against the trained one and a long search."""
    name = "generator_minus_generator_additive_mean_dropout"
    if name not in metrics:
        return ""
    better, worse = "finds worse archs than the trained one", "finds better archs than the trained one"
    claim = verdict(metrics, name, better, worse, "is not told apart from the trained one")
    text = f"**A generator in closed form {claim}**: the trained one's minus its, {points(metrics, name)} points"
    if (long := "generator_additive_minus_evolution_long_mean_dropout") in metrics:
        text += f"; its minus those of a search with many evaluations, {points(metrics, long, 2)}"
    return f"{text}."


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
