"""A study on more seeds, as one command: intervals from all of them.

    python -m pipeline.sweep cifar100 --seeds 20 --dry-run      what is there, what is left, about how many hours
    EAS_CLUSTER=tcp://host:8786 python -m pipeline.sweep cifar100 --seeds 20

makes what the study lacks on the seeds 0 to 19, here or on a cluster (see pipeline.cluster), and writes its comparison
to build/<study>/sweep-20/. What is there counts, results of the study's own seeds among it; stopped, the same command
goes on. What the study does on its first seeds only (a choice, a costly baseline) stays what it is.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd

from eas.files import write_text
from pipeline import steps, tables
from pipeline.report import stats
from pipeline.store import Workspace, open_workspace

COLUMNS = ["step", "jobs", "there", "hours_each", "hours_left"]


def on_seeds(workspace: Workspace, count: int) -> Workspace:
    """The same study on the seeds 0 to count - 1; its results are the same files.

    Raises:
        ValueError: the study has seeds that would be left out.
    """
    seeds = tuple(range(count))
    if more := set(workspace.study.seeds) - set(seeds):
        raise ValueError(f"--seeds {count} leaves out the study's seed {max(more)}: at least {max(more) + 1}")
    return replace(workspace, study=workspace.study.model_copy(update={"seeds": seeds}))


def plan(workspace: Workspace) -> pd.DataFrame:
    """What is there and what is left of every step: COLUMNS, hours of one processor, or GPU, as records tell.

    Of a step that has not run, hours are NaN. Jobs that follow from a choice that cannot be made yet are not listed.
    """
    rows = []
    for step in steps.STEPS.values():
        found = [step.result(workspace, job).find() for job in step.jobs_so_far(workspace)]
        there = [record for record in found if record is not None]
        seconds = pd.Series([record.get("seconds") for record in there], dtype=float)
        hours, left = seconds.median() / 3600, len(found) - len(there)
        rows.append([step.name, len(found), len(there), hours, left * hours if left else 0.0])
    return pd.DataFrame(rows, columns=COLUMNS)


def told(table: pd.DataFrame) -> str:
    """The plan, as text."""
    left, unknown = int((table.jobs - table.there).sum()), table[table.hours_left.isna()].step.tolist()
    hours = f"{left} results to make, {table.hours_left.sum():.1f} hours of one processor or GPU like those recorded"
    more = f", and those of {', '.join(unknown)}, which have not run" if unknown else ""
    return f"{table.to_string(index=False, float_format='%.3g', na_rep='?')}\n{hours}{more}"


def run(workspace: Workspace) -> Path:
    """Make everything that is not there, and write the comparison; returns its folder."""
    workspace.make_images()
    for step in steps.STEPS.values():
        steps.run_step(workspace, step)
    table = tables.comparison_table(workspace)
    folder = workspace.folder / f"sweep-{len(workspace.study.seeds)}"
    folder.mkdir(exist_ok=True)
    table.to_csv(folder / "comparison.csv", index=False)
    write_text(folder / "README.md", page(workspace, table))
    return folder


def page(workspace: Workspace, table: pd.DataFrame) -> str:
    """What all methods reach, and what they gain over OFA's way, with 95 % intervals over the seeds."""
    everywhere = stats.on_all_seeds(table)
    parts = {
        "What every method reaches": stats.method_table(everywhere),
        "Points over OFA's way": stats.against_ofas_way(everywhere),
    }
    shown = {title: rows.round(2).to_markdown(index=False).replace("nan", "") for title, rows in parts.items()}
    head = f"# {workspace.study.name} on {len(workspace.study.seeds)} seeds"
    about = "Methods that were measured on all of them; intervals are of 95 %."
    return "\n\n".join([head, about, *(f"## {title}\n\n{rows}" for title, rows in shown.items())]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command; an error is one line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.sweep", description=__doc__.partition("\n")[0])
    parser.add_argument("study", help="its name in params.yaml")
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="0 to N-1 (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="tell what would be made, and make nothing")
    options = parser.parse_args(arguments)
    try:
        workspace = on_seeds(open_workspace(options.study), options.seeds)
        print(told(plan(workspace)), flush=True)
        if not options.dry_run:
            print(f"wrote {run(workspace)}")
    except (OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
