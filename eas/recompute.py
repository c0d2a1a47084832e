"""Recompute a study's accuracies from its published weights, on the test images.

python -m eas.recompute cifar100                               the generator with superclass branches, 100 scenarios
python -m eas.recompute cifar100 --method generator --count 2   with the shared weights, two scenarios
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from eas import analysis, data, deploy, jobs
from eas.config import Study, load_study
from eas.study import spaced

METHODS = ("generator_branch", "generator")
LARGEST, MEAN = 1.5, 0.15  # points that one scenario, and their mean, may differ: machines round differently


def recompute(study: Study, root: str | Path, method: str, count: int | None = None) -> pd.DataFrame:
    """Specialise scenarios anew and measure them: columns scenario, budget_madds, reported, recomputed.

    The weights are those under weights/<study>/ (the first seed), the reported numbers those of
    reports/<study>/comparison.csv; `count` single superclasses, spread over superclasses and budgets, or all.

    Raises:
        FileNotFoundError: weights, report or test images are missing; the message says how to get them.
        ValueError: the report has no such method.
    """
    rows = reported(study, Path(root), method)
    rows = rows if count is None else rows.iloc[spaced(count, len(rows))]
    dataset, _ = data.build(study, root)
    kit = deploy.load_specializer(study, Path(root) / "weights" / study.name, dataset, study.seeds[0])
    if method == "generator":
        kit = dataclasses.replace(kit, branches=None)
    found = []
    for row in tqdm(rows.itertuples(), method, len(rows)):
        network, card = kit.specialize([row.scenario], row.budget_madds)
        found.append(deploy.top1(network, card, dataset.hierarchy, dataset.test))
    table = rows[["scenario", "budget_madds", "top1"]].rename(columns={"top1": "reported"})
    return table.assign(recomputed=found).reset_index(drop=True)


def reported(study: Study, root: Path, method: str) -> pd.DataFrame:
    """The rows of the report for one method on the supernet `eas`, first seed, single superclasses."""
    path = root / "reports" / study.name / "comparison.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the study {study.name} has no report")
    table = analysis.only(pd.read_csv(path), "single")
    rows = table[(table.method == method) & (table.supernet == "eas") & (table.seed == study.seeds[0])]
    if rows.empty:
        raise ValueError(f"{path} has no method {method}; methods: {', '.join(table.method.unique())}")
    return rows


def main(arguments: list[str] | None = None) -> int:
    """The command; an error is one line, and numbers that are not the reported ones make it fail."""
    parser = argparse.ArgumentParser(prog="python -m eas.recompute", description=__doc__.partition("\n")[0])
    parser.add_argument("study")
    parser.add_argument("--method", choices=METHODS, default=METHODS[0])
    parser.add_argument("--count", type=int, help="of scenarios; all by default")
    options = parser.parse_args(arguments)
    jobs.keep_memory()
    try:
        table = recompute(load_study(options.study), ".", options.method, options.count)
    except (OSError, ValueError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    difference = table.recomputed - table.reported
    print(table.round(2).to_string(index=False))
    print(
        f"mean: reported {table.reported.mean():.2f} %, recomputed {table.recomputed.mean():.2f} %; "
        f"largest difference of a scenario: {difference.abs().max():.2f} points"
    )
    return int(difference.abs().max() > LARGEST or (len(table) > 20 and abs(difference.mean()) > MEAN))


if __name__ == "__main__":
    sys.exit(main())
