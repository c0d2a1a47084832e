"""Write a study's report from what its notebooks left in build/, and compare its numbers with the committed ones.

python -m eas.report render glyphs     build/glyphs/ -> reports/glyphs/ and reports/README.md
python -m eas.report check glyphs      reports/glyphs/metrics.json against the one in git, within tolerances
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import shutil
import string
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

from eas import fidelity
from eas.config import load_study

Metrics = dict[str, float | str]

NOTEBOOKS = ("01_superclasses", "02_supernet", "03_generator", "04_ablations", "05_specialize")
NARRATED = NOTEBOOKS[1:4]  # these tell the results; their prose, tables and figures are the page
GENERATED = "<!-- Written by `python -m eas.report`: changes made here are lost. -->"

# What was found, a sentence a line. A sentence appears in the reports of the studies that measured all its numbers, but
# for what is between < and >, which may be missing: an interval takes more than one seed.
FINDINGS = (
    "{images}",
    "**Accuracy.** Superclass top-1 on test, mean over superclasses and budgets: {top1_generator_eas:.1f} % for the "
    "generator on the supernet trained with superclass dropout (`eas`), {top1_generator_ofa:.1f} % on the one trained "
    "without (`ofa`); {top1_ofa_evolution_ofa:.1f} % for OFA's way (`ofa`, accuracy model and evolution).",
    "**The paper's own parts**, superclass dropout and generator, minus OFA's way: "
    "{eas_minus_ofas_way_mean_single:+.2f} points [{eas_minus_ofas_way_low_single:+.2f}, "
    "{eas_minus_ofas_way_high_single:+.2f}].",
    "**With superclass branches** the generator reaches {top1_generator_branch_eas:.1f} %: "
    "{generator_branch_minus_mean_ofa_evolution:+.2f} points [{generator_branch_minus_low_ofa_evolution:+.2f}, "
    "{generator_branch_minus_high_ofa_evolution:+.2f}] over OFA's way at equal cost of training and equal budgets, and "
    "{generator_branch_minus_mean_generator:+.2f} [{generator_branch_minus_low_generator:+.2f}, "
    "{generator_branch_minus_high_generator:+.2f}] over the same archs with shared weights.",
    "**OFA's arch tuned for its superclass**, scenario by scenario, on the seeds that it was done for: "
    "{ofa_finetuned_minus_mean_ofa_evolution:+.2f} points< [{ofa_finetuned_minus_low_ofa_evolution:+.2f}, "
    "{ofa_finetuned_minus_high_ofa_evolution:+.2f}]> over OFA's arch as it is; the branches, which serve all budgets "
    "of a superclass at once, minus it: {generator_branch_minus_mean_ofa_finetuned:+.2f}"
    "< [{generator_branch_minus_low_ofa_finetuned:+.2f}, {generator_branch_minus_high_ofa_finetuned:+.2f}]>.",
    "**A union** has no branch. Tuned for it alone, the generator's arch gains "
    "{generator_finetuned_minus_mean_generator:+.2f} points< [{generator_finetuned_minus_low_generator:+.2f}, "
    "{generator_finetuned_minus_high_generator:+.2f}]> over the same arch with shared weights.",
    "**From scratch**, trained alone on as many images as `ofa`, the generator's arch lies "
    "{from_scratch_minus_mean_generator:+.2f} points from itself with shared weights and "
    "{from_scratch_minus_mean_generator_branch:+.2f} from itself with a branch (a few scenarios, one seed).",
    "**Superclass dropout** ({dropout_chosen}, the best on the selection split) changes the generator's top-1 by "
    "{eas_minus_ofa_mean_generator:+.2f} points [{eas_minus_ofa_low_generator:+.2f}, "
    "{eas_minus_ofa_high_generator:+.2f}] against the supernet without it.",
    "**Do branches need superclass dropout?** Tuned from supernets trained as long without it, they lie "
    "{other_branches_minus_own_mean_own_0:+.2f} points< [{other_branches_minus_own_low_own_0:+.2f}, "
    "{other_branches_minus_own_high_own_0:+.2f}]> from those tuned from supernets with it, on the seeds that it was "
    "done for (selection split)<; the shared weights alone {other_shared_minus_own_own_0:+.2f}>.",
    "**Superclass dropout that begins late** (own-0.9, in the last fifth of the training): the shared weights lie "
    "{other_shared_minus_own_own_0_9_from_0_8:+.2f} points from the study's own, branches tuned from them "
    "{other_branches_minus_own_mean_own_0_9_from_0_8:+.2f} from its branches (selection split, on the seeds that it "
    "was done for); the comparison is without.",
    "**A teacher** of {teacher_top1:.1f} % changes what the shared weights reach with this dropout by "
    "{teacher_gain_all:+.2f} points in the mean over subnets, from {teacher_gain_smallest:+.2f} for the smallest to "
    "{teacher_gain_largest:+.2f} for the largest (selection split, one seed); the comparison is without.",
    "In this study `ofa` has trained longer than `eas`, by what the branches ({top1_generator_branch_eas:.1f} %) cost: "
    "with them the costs of training are equal, without them dropout's effect is understated.",
    "**Speed.** Archs for {timed_scenarios:.0f} scenarios in one batch, the hard budget included: "
    "{generator_ms:.2g} ms on one CPU core. Per scenario, OFA's search as it is run takes "
    "{times_generator_ofa_evolution_aware:,.0f} times as long, the same search vectorised "
    "{times_generator_evolution_aware:,.0f} times, the measuring of random archs {times_generator_random:,.0f} times.",
    "**Training speed** ({training_machine}): {training_images_per_second:,.0f} images a second, each through all "
    "subnets of a step; that is {training_share_of_matrix_rate:.2g} % of the best matrix rate measured there. "
    "Convolutions take {training_share_convolutions:.0f} % of a step, batch norms {training_share_batch_norm:.0f} %.",
    "**One seed**, from the images to the comparison: {minutes_a_seed:.1f} minutes, one step after the other "
    "({minutes_a_seed_machine}).",
    "**Search, side by side with the package `ofa`**, in its MobileNetV3 space: {search_us_50:.0f} microseconds a "
    "scenario for 50 of them; OFA's own finder takes {search_times_ofa_finder_long:,.0f} times as long as published, "
    "{search_times_ofa_finder:,.0f} times with 500 evaluations. Training the generator pays off from "
    "{search_break_even_ofa_finder_long:,.0f} and {search_break_even_ofa_finder:,.0f} scenarios on.",
    "**A training step** of the same elastic network, against OFA's layers and loop: {training_times_cifar100:.2f} "
    "times as fast (CIFAR-100) and {training_times_glyphs:.2f} times (embedded study), where both compute in float32 "
    "{training_times_float32_cifar100:.2f} and {training_times_float32_glyphs:.2f} times<; on a GPU "
    "{training_times_gpu_cifar100:.2f} and {training_times_gpu_glyphs:.2f} times>. **Calibration**: "
    "{calibration_times_equal:.2f} times as fast at equal batches, {calibration_times_own:.2f} times against OFA's own "
    "batches.",
    "**Budgets.** {within_budget_eas:.0f} % of the generated archs keep to their budget; they use "
    "{budget_use_mean_eas:.1f} % of it on average and never less than {budget_use_min_eas:.1f} %.",
    "**Regret** of the generator to the best of all other methods on the same supernet, picked scenario by scenario on "
    "test and so an upper bound: {regret_mean_eas:.2f} points [{regret_low_eas:.2f}, {regret_high_eas:.2f}] on `eas`, "
    "{regret_mean_ofa:.2f} [{regret_low_ofa:.2f}, {regret_high_ofa:.2f}] on `ofa`. To the one method that is best on "
    "average: {regret_to_best_method_mean_eas:+.2f} [{regret_to_best_method_low_eas:+.2f}, "
    "{regret_to_best_method_high_eas:+.2f}] and {regret_to_best_method_mean_ofa:+.2f} "
    "[{regret_to_best_method_low_ofa:+.2f}, {regret_to_best_method_high_ofa:+.2f}].",
    "**A long search** with the accuracy model, on the seeds that it was done for: the generator minus it, "
    "{generator_minus_evolution_long_mean_eas:+.2f} points< [{generator_minus_evolution_long_low_eas:+.2f}, "
    "{generator_minus_evolution_long_high_eas:+.2f}]> on `eas`, {generator_minus_evolution_long_mean_ofa:+.2f}"
    "< [{generator_minus_evolution_long_low_ofa:+.2f}, {generator_minus_evolution_long_high_ofa:+.2f}]> on `ofa`.",
    "**Does seeing the classes help the choice of the arch?** The generator minus the one that is blind to them: "
    "{generator_minus_generator_blind_mean_eas:+.2f} points [{generator_minus_generator_blind_low_eas:+.2f}, "
    "{generator_minus_generator_blind_high_eas:+.2f}].",
    "**Does the best arch depend on the superclass?** Between two halves of the images, the effect of the arch "
    "correlates by {split_half_arch_correlation_mean_eas:.2f}, that of arch and superclass together by "
    "{split_half_interaction_correlation_mean_eas:.2f}; choosing an arch for every superclass on one half gains "
    "{split_half_gain_mean_eas:+.2f} points [{split_half_gain_low_eas:+.2f}, {split_half_gain_high_eas:+.2f}] on the "
    "other over one arch for all. Another superclass's arch costs {swap_cost_mean_eas:+.2f} points "
    "[{swap_cost_low_eas:+.2f}, {swap_cost_high_eas:+.2f}].",
)

OPTIONAL = re.compile("<(.*?)>")

OVERVIEW = {  # columns of the table over all studies; a cell is left empty where its numbers were not measured
    "OFA's way": "{top1_ofa_evolution_ofa:.1f} %",
    "EAS": "{top1_generator_eas:.1f} %",
    "EAS minus OFA's way": "{eas_minus_ofas_way_mean_single:+.2f} [{eas_minus_ofas_way_low_single:+.2f}, "
    "{eas_minus_ofas_way_high_single:+.2f}]",
    "EAS with branches": "{top1_generator_branch_eas:.1f} %",
    "branches minus OFA's way": "{generator_branch_minus_mean_ofa_evolution:+.2f} "
    "[{generator_branch_minus_low_ofa_evolution:+.2f}, {generator_branch_minus_high_ofa_evolution:+.2f}]",
    "archs in one pass": "{timed_scenarios:.0f} in {generator_ms:.2g} ms",
}


def render(study: str, root: str | Path = ".") -> Path:
    """Write reports/<study>/ and reports/README.md under `root`; the same input gives the same bytes.

    Raises:
        FileNotFoundError: something that the report is made of is not in build/<study>; says what.
    """
    build, report = Path(root) / "build" / study, Path(root) / "reports" / study
    notebooks = {name: read_notebook(build / f"{name}.ipynb") for name in NOTEBOOKS}
    metrics = read_metrics(build / "metrics.json")
    shutil.rmtree(report / "figures", ignore_errors=True)
    (report / "figures").mkdir(parents=True)
    for path in ("metrics.json", "comparison.csv", "specialized/explorer.html"):
        shutil.copyfile(build / path, report / Path(path).name)
    for name, notebook in notebooks.items():
        nbformat.write(notebook, report / f"{name}.ipynb")
        for file, image in figures(name, notebook).items():
            (report / "figures" / file).write_bytes(image)
    ends = [weights(Path(root), study), hyper_parameters(study, root)]
    (report / "README.md").write_text(page(study, metrics, notebooks, ends), encoding="utf-8")
    (report.parent / "README.md").write_text(entry(report.parent), encoding="utf-8")
    return report


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


def read_metrics(path: Path) -> Metrics:
    """The headline numbers, a flat mapping.

    Raises:
        FileNotFoundError: there are none yet.
        ValueError: it is not a flat mapping of numbers and text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run `dvc repro` first")
    return flat(json.loads(path.read_text(encoding="utf-8")), path)


def flat(metrics: object, where: object) -> Metrics:
    """`metrics` itself, if it is a mapping of names to numbers and text; else ValueError."""
    if not isinstance(metrics, dict) or not all(isinstance(value, int | float | str) for value in metrics.values()):
        raise ValueError(f"{where} must map names to numbers or text, without nesting")
    return metrics


# -------------------------------------------------------------------- a study's page


def page(study: str, metrics: Metrics, notebooks: dict[str, NotebookNode], ends: Sequence[str] = ()) -> str:
    """README.md of a study: findings, what the notebooks tell of them in prose, tables and figures, all numbers.

    `ends` are sections of their own, before the last.
    """
    links = ", ".join(f"[{name}]({name}.ipynb)" for name in notebooks)
    parts = [GENERATED, f"# Study {study}", *bullets(metrics)]
    parts += [f"The executed notebooks, code included: {links}."]
    parts.append("Every comparison behind these numbers: [comparison.csv](comparison.csv).")
    parts.append(
        "Pick a scenario, see its arch and what it reaches: [explorer.html](explorer.html), for a browser on a clone."
    )
    for name in NARRATED:
        parts += narrate(name, notebooks[name])
    parts += [end for end in ends if end]
    parts += ["## All numbers", "Those of [metrics.json](metrics.json); in brackets the interval over seeds."]
    parts.append(table({name: value for name, value in metrics.items() if name != "images"}))
    return "\n\n".join(parts) + "\n"


def weights(root: Path, study: str) -> str:
    """The published weights of a study with their hashes, or nothing where there are none."""
    folder = root / "weights" / study
    files = [
        path for place in ("supernets", "supernets/branches") for path in sorted((folder / place).glob("*.safetensors"))
    ]
    if not files:
        return ""
    rows = []
    for path in files:
        digest, link = hashlib.sha256(path.read_bytes()).hexdigest(), f"../../{path.relative_to(root).as_posix()}"
        rows.append(f"| [{path.name}]({link}) | {path.stat().st_size / 1e6:.1f} | `{digest}` |")
    text = f"""## Weights

Those of the first seed, some of other seeds, and the generators and records of all are in
[weights/{study}](../../weights/{study}). `python -m eas.deploy {study} ...` makes networks from them, without a data
set; `python -m eas.recompute {study}` specialises the scenarios and compares the accuracies with those of
[comparison.csv](comparison.csv)."""
    return "\n".join([text, "", "| file | MB | SHA-256 |", "|---|---:|---|", *rows])


def hyper_parameters(study: str, root: str | Path) -> str:
    """Every parameter of a study and where it comes from."""
    rows = fidelity.table(load_study(study, root)).to_markdown(index=False)
    return f"""## Hyper-parameters

Where each one comes from: the paper, the related code (a port by a co-author), OFA, or us.

<details><summary>All of them</summary>

{rows}

</details>"""


def table(metrics: Metrics) -> str:
    """The metrics as a Markdown table; a mean and the two ends of its interval share a row."""
    rows = []
    for name, value in metrics.items():
        ends = [metrics.get(name.replace("_mean", side)) for side in ("_low", "_high")]
        if "_mean" in name and None not in ends:
            rows.append(f"| {name.replace('_mean', '')} | {number(value)} [{', '.join(map(number, ends))}] |")
        elif not any(name.replace(side, "_mean") in metrics for side in ("_low", "_high") if side in name):
            rows.append(f"| {name} | {number(value)} |")
    return "\n".join(["| | |", "|---|---:|", *rows])


def number(value: float | str) -> str:
    """Four significant digits are all that a headline needs."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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
    plain = output.get("text", data.get("text/plain", "")).strip("\n")
    return f"```text\n{plain}\n```" if plain else ""


def lower_headings(markdown: str) -> str:
    """One more # before every heading, not before a # inside a code block."""
    blocks = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(b if b.startswith("```") else re.sub(r"^(#{1,5} )", r"#\1", b, flags=re.MULTILINE) for b in blocks)


def figures(name: str, notebook: NotebookNode) -> dict[str, bytes]:
    """A notebook's PNG outputs in order, by file name: NN_name-1.png and so on."""
    outputs = (output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))
    images = [base64.b64decode(data["image/png"]) for data in outputs if "image/png" in data]
    return {f"{name}-{index}.png": image for index, image in enumerate(images, start=1)}


# -------------------------------------------------------------------- the entry


def entry(reports: Path) -> str:
    """reports/README.md: what was found, in every study that has results."""
    every = {path.parent.name: read_metrics(path) for path in sorted(reports.glob("*/metrics.json"))}
    parts = [GENERATED, "# What was found", *overview(every)]
    for study, metrics in every.items():
        parts += [f"## [{study}]({study}/README.md)", *bullets(metrics)]
    return "\n\n".join(parts) + "\n"


def overview(every: dict[str, Metrics]) -> list[str]:
    """A sentence and a table with a row for each study that compares EAS with OFA's way, or nothing."""
    rows = []
    for study, metrics in every.items():
        cells = [text.format(**metrics) if fields(text) <= metrics.keys() else "" for text in OVERVIEW.values()]
        if any(cells):
            rows.append(f"| [{study}]({study}/README.md) | {' | '.join(cells)} |")
    if not rows:
        return []
    text = """Superclass top-1 on test, mean over superclasses and budgets, and differences in points with their 95 %
intervals over seeds. *EAS*: the paper's own parts, superclass dropout and generator. *OFA's way*: a supernet without
dropout, an accuracy model and evolution; trained longer by what branches cost, where a study has them."""
    return [text, "\n".join([f"| study | {' | '.join(OVERVIEW)} |", "|---" * (len(OVERVIEW) + 1) + "|", *rows])]


def bullets(metrics: Metrics) -> list[str]:
    """One list of the findings whose numbers were all measured, or nothing."""
    told = [OPTIONAL.sub(lambda part: part[1] if fields(part[1]) <= metrics.keys() else "", text) for text in FINDINGS]
    found = [f"- {text.format(**metrics)}" for text in told if fields(text) <= metrics.keys()]
    return ["\n".join(found)] if found else []


def fields(text: str) -> set[str]:
    """The names in braces of a format string."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


# -------------------------------------------------------------------- the check


def check(study: str, root: str | Path = ".") -> list[str]:
    """Print a study's numbers beside the committed ones; returns the names of those that are off.

    Raises:
        FileNotFoundError: no metrics in the report or in git.
        ValueError: reports/tolerances.yaml has no tolerance for the study, or names a number that is missing.
    """
    root = Path(root)
    tolerances = (yaml.safe_load((root / "reports" / "tolerances.yaml").read_text()) or {}).get(study)
    if not tolerances:
        raise ValueError(f"reports/tolerances.yaml lists no numbers of the study {study}")
    path = f"reports/{study}/metrics.json"
    sides = {"committed": committed(path, root), "fresh": read_metrics(root / path)}
    for side, metrics in sides.items():
        if missing := [name for name in tolerances if name not in metrics]:
            raise ValueError(f"{path} ({side}) lacks {', '.join(missing)}")
    width = max(map(len, tolerances))
    print(f"{'':{width}}  committed      fresh  tolerance")
    off = []
    for name, tolerance in tolerances.items():
        old, new = (metrics[name] for metrics in sides.values())
        if not within(old, new, tolerance):
            off.append(name)
        print(f"{name:{width}}  {number(old):>9}  {number(new):>9}  {tolerance:>9g}{'  OFF' * (name in off)}")
    return off


def within(old: float | str, new: float | str, tolerance: float) -> bool:
    """Whether two numbers differ by at most the tolerance, or two texts not at all."""
    if isinstance(old, str) or isinstance(new, str):
        return old == new
    return abs(old - new) <= tolerance  # false for NaN


def committed(path: str, root: Path) -> Metrics:
    """The metrics in the last commit.

    Raises:
        FileNotFoundError: the last commit has no such file, or this is no git repository.
    """
    shown = subprocess.run(["git", "show", f"HEAD:./{path}"], cwd=root, capture_output=True, text=True)
    if shown.returncode:
        raise FileNotFoundError(f"no committed {path} to compare with: {shown.stderr.strip()}")
    return flat(json.loads(shown.stdout), f"the committed {path}")


def main(arguments: list[str] | None = None) -> int:
    """The commands `render` and `check`; an error is one line."""
    parser = argparse.ArgumentParser(prog="python -m eas.report", description=__doc__.partition("\n")[0])
    parser.add_argument("command", choices=["render", "check"])
    parser.add_argument("study")
    options = parser.parse_args(arguments)
    try:
        off = check(options.study) if options.command == "check" else []
        if options.command == "render":
            print(f"wrote {render(options.study)}")
    except (OSError, ValueError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    if off:
        print(f"off by more than the tolerance: {', '.join(off)}", file=sys.stderr)
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
