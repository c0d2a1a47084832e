"""How long a kit takes to serve: a cold command, live sets of classes, and fifty verified files at once."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from itertools import islice, product
from pathlib import Path

import numpy as np
import pandas as pd

from eas import export_onnx
from eas.serving.cli import proven
from eas.serving.kit import Kit
from eas.serving.kit_files import find_kit

SCENARIOS, BUDGETS = 50, 5
LIVE = {"a superclass": 1, "two superclasses": 2, "five superclasses": 5}
MIXED = "ten classes of five superclasses"
ROUNDS = 9
WATCH = """# A small process between: a child's peak counts that of the process which it was forked from.
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def times_of(study: str, kit: Kit) -> pd.DataFrame:
    """Columns what, seconds, megabytes (the most that the command's process took), study."""
    rows = [live(kit, name, sets) for name, sets in sets_of(kit).items()] + [every(kit)]
    if has_folder(study):
        rows = [cold(study, kit), {"what": "of this, loading torch"} | watched(["-c", "import torch"]), *rows]
    return pd.DataFrame(rows, columns=["what", "seconds", "megabytes"]).assign(study=Path(study).stem)


def has_folder(study: str) -> bool:
    """Whether its kit is there as files, which the command needs."""
    try:
        return bool(find_kit(study))
    except FileNotFoundError:
        return False


def middle_budget(kit: Kit) -> float:
    """Multiply-adds in the middle of what the generator was made for."""
    return kit.generator.budget_range.mean().item()


def cold(study: str, kit: Kit) -> dict:
    """The command in a new process, with an ONNX file that is compared with the network."""
    command = ["-m", "eas", "specialize", study, kit.hierarchy.superclasses[0]]
    command += ["--madds", f"{middle_budget(kit):.0f}", "--onnx", "--to"]
    with tempfile.TemporaryDirectory() as folder:
        return {"what": "cold: the command, with a verified ONNX file"} | watched([*command, f"{folder}/network"])


def watched(command: list[str]) -> dict:
    """What Python takes for a command in a new process: the median of three, and the most memory."""
    taken, most = [], 0
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", WATCH, sys.executable, *command], stdout=subprocess.PIPE)
        if done.returncode:
            raise ValueError(f"python {' '.join(command)} failed")
        seconds, kilobytes = map(float, done.stdout.split())
        taken.append(seconds)
        most = max(most, kilobytes)
    return {"seconds": np.median(taken), "megabytes": most / 1e3}


def sets_of(kit: Kit) -> dict[str, list[list[str]]]:
    """Sets of classes of every kind, from the first superclasses on."""
    groups, members = kit.hierarchy.superclasses, kit.hierarchy.members
    found = {}
    for name, count in LIVE.items():
        found[name] = [[groups[(start + place) % len(groups)] for place in range(count)] for start in range(ROUNDS)]
    mixed = [
        [each for place in range(5) for each in members[(start + place) % len(groups)][:2]] for start in range(ROUNDS)
    ]
    return found | {MIXED: mixed}


def live(kit: Kit, name: str, sets: list[list[str]]) -> dict:
    """A network for a set of classes, in a process that has the kit: the median over sets."""
    budget, taken = middle_budget(kit), []
    for names in sets:
        start = time.perf_counter()
        kit.specialize(names, budget)
        taken.append(time.perf_counter() - start)
    return {"what": f"live: {name}", "seconds": np.median(taken)}


def every(kit: Kit) -> dict:
    """Fifty scenarios, to fifty ONNX files that were compared with their networks."""
    budgets = np.linspace(*kit.generator.budget_range.tolist(), BUDGETS)
    scenarios = list(islice(product(kit.hierarchy.superclasses, budgets), SCENARIOS))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for index, (name, budget) in enumerate(scenarios):
            network, card = kit.specialize(name, budget, refuse=True)
            path = export_onnx(network, card, Path(folder, str(index)))
            proven(network, path, kit, card)
    return {
        "what": f"{len(scenarios)} scenarios, to as many verified ONNX files",
        "seconds": time.perf_counter() - start,
    }
