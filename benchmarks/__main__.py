"""Run the benchmarks and write reports/benchmarks/: `python -m benchmarks`, or some parts of it by name.

Parts that are not named keep the results of an earlier run; the page says which run every part is of. With `--render`
nothing is measured: page, figures and metrics.json are written anew from the tables that are there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from benchmarks import (
    growth,
    loading,
    mobilenetv3_step,
    processes,
    report,
    search_cost,
    study_minutes,
    timing,
    to_network,
    training_step,
)
from eas import devices

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "reports" / "benchmarks"
MEMORY = 50, 5_000, 1_000_000  # scenarios
Tables = dict[str, pd.DataFrame]


def search() -> Tables:
    case, setup = search_cost.prepare(ROOT)
    table = search_cost.measure(case)
    memory = [{"scenarios": n, "peak_mb": timing.peak_memory(search_cost.generate_many, n)} for n in MEMORY]
    return {
        "search": table,
        "search_quality": search_cost.quality(case),
        "search_break_even": search_cost.break_even(table, setup["generator"]),
        "search_setup": pd.DataFrame(list(setup.items()), columns=["part", "seconds"]),
        "search_memory": pd.DataFrame(memory),
    }


def training() -> Tables:
    tables = {"training": training_step.measure(root=ROOT), "training_profile": training_step.profiles(root=ROOT)}
    if devices.device().type == "cuda":
        tables["training_gpu"] = training_step.measure(device="cuda", root=ROOT)
    return tables


def mobilenetv3() -> Tables:
    return {"mobilenetv3": mobilenetv3_step.measure(), "mobilenetv3_equality": mobilenetv3_step.equality()}


def photographs() -> Tables:
    return {"loading": loading.measure()}


def network() -> Tables:
    table = to_network.measure(root=ROOT)
    ratios = pd.DataFrame(to_network.ratios(table).items(), columns=["step", "times"])
    return {"network": table, "network_ratios": ratios}


def growth_tables() -> Tables:
    table = growth.measure()
    return {"growth": table, "growth_exponents": growth.exponents(table)}


def processes_tables() -> Tables:
    return {"processes": processes.measure(), "processes_cluster": processes.measure_cluster(ROOT)}


def study() -> Tables:
    stages, steps = study_minutes.measure(ROOT)
    return {"study_stages": stages, "study_steps": steps}


PARTS: dict[str, Callable[[], Tables]] = {
    "search": search,
    "training": training,
    "mobilenetv3": mobilenetv3,
    "photographs": photographs,
    "network": network,
    "growth": growth_tables,
    "processes": processes_tables,
    "study": study,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--beside", default="nothing", help="what else the machine does meanwhile; the page says so")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the page anew")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"no part {unknown[0]!r}: there are {', '.join(PARTS)}")
    if options.render and options.parts:
        parser.error("--render measures no part: name none")
    if not options.render:
        measure(options.parts or list(PARTS), options.beside)
    report.render(FOLDER)
    print(f"written: {FOLDER.relative_to(ROOT)}/README.md")
    return 0


def measure(parts: list[str], beside: str) -> None:
    """Run parts and write their tables."""
    # For all sides, as the study's jobs run: one thread, and glibc keeps the memory of large tensors.
    torch.set_num_threads(1)
    devices.keep_memory()
    run = time.strftime("%Y-%m-%d %H:%M")
    for name in parts:
        print(f"--- {name}", flush=True)
        for table, content in PARTS[name]().items():
            report.write_table(FOLDER, table, content, run, beside)


if __name__ == "__main__":
    sys.exit(main())
