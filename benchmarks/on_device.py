"""Networks under a bound of milliseconds, in floats and in 8-bit integers, and strangers: reports/on_device.

    python -m benchmarks.on_device cifar100 miniimagenet build/grocery/grocery-0.yaml

For each study's kit, on this machine: tables of latency, fitted on sixty archs and tried on thirty others; then for
every superclass at five bounds a network, exported, run and tested. Needs the studies' images, and a quiet machine.
Each study's rows replace those of its last run; the others' stay. `--render` measures nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor
from tqdm import tqdm

from benchmarks import on_device_page, serving_times
from eas import devices, export_onnx, load, load_kit
from eas.files import write_text
from eas.search import random_archs
from eas.serving.answers import refused_on
from eas.serving.deploy import in_turn
from eas.serving.kit import Kit
from eas.serving.kit_files import MOST_IMAGES
from eas.serving.latency import (
    ARCHS,
    OUTPUTS,
    LatencyTable,
    Run,
    in_turns,
    latency_table,
    measure,
    outputs_of,
    run_of,
    spread_archs,
    steady,
)
from eas.serving.onnx_files import session_of
from eas.spaces import ChoiceSpace
from eas.spaces.supernet import resized
from pipeline import own_kit
from pipeline.publish import study_kit
from pipeline.store import open_workspace

FOLDER = Path(__file__).resolve().parent.parent / "reports" / "on_device"
RUNTIMES = "onnxruntime", "onnxruntime-int8"
REFERENCES = 10  # archs that say how fast the machine is when networks are measured
HELD_OUT, DRAWN = 30, 16  # archs that a table was not fitted on; of so many at each cost the first such
BOUNDS = 5
LOW, HIGH = 0.1, 0.9  # of the way from the smallest arch to the largest


def kit_of(study: str) -> Kit:
    """What serves a study, tested on its test images: its kit where there is one, else what its results make."""
    workspace = open_workspace(study)
    dataset = own_kit.images_of(workspace)
    try:
        kit = load_kit(study)
    except FileNotFoundError:
        kit = study_kit(workspace, dataset)
    return replace(kit, test=dataset.test.decoded(), branch_images=in_turn(kit.branch_images, MOST_IMAGES))


def held_out(space: ChoiceSpace) -> Tensor:
    """Archs at costs between the smallest and the largest, none of them fitted on; int64 [HELD_OUT, decisions]."""
    low, high = (float(space.madds(arch, OUTPUTS[0])) for arch in (space.smallest, space.largest))
    budgets = torch.linspace(low, high, HELD_OUT + 2, dtype=torch.float64)[1:-1]
    counts, rng = torch.full((HELD_OUT,), OUTPUTS[0]), torch.Generator().manual_seed(99)
    drawn = random_archs(space, budgets, counts, DRAWN, rng)
    fresh = ~(drawn[:, :, None] == spread_archs(space, ARCHS)).all(-1).any(-1)
    return drawn[torch.arange(HELD_OUT), fresh.int().argmax(1)]


def judge(study: str, space: ChoiceSpace, table: LatencyTable) -> dict:
    """How far a table is from what networks take that it has not seen.

    `speed` is what all of them take beyond what it tells: the machine's has changed by so much since. `error` and
    `kept` are without that.
    """
    archs = held_out(space)
    outputs = outputs_of(archs)
    runs = measure(space, archs, table.runtime, table.threads)
    told = table.seconds(space, archs, outputs).numpy()
    speed = np.median(steady(runs) / told)
    runs, madds = runs / speed, space.madds(archs, outputs)
    seconds = steady(runs)
    return {
        "study": study,
        "runtime": table.runtime,
        "fastest_ms": 1e3 * seconds.min(),
        "slowest_ms": 1e3 * seconds.max(),
        "speed": 100 * (speed - 1),
        "error": 100 * np.abs(told / seconds - 1).mean(),
        "correlation": spearmanr(told, seconds).statistic,
        "correlation_of_madds": spearmanr(madds, seconds).statistic,
        "margin": 100 * table.margin,
        "kept": 100 * (runs <= told * (1 + table.margin)).mean(),
        "processor": table.processor,
    }


def networks_of(study: str, kit: Kit, table: LatencyTable, folder: Path) -> Iterator[tuple[dict, list[Run]]]:
    """A row for every superclass and bound, and what runs its network once in floats and in integers."""
    space, groups = kit.supernet.space, kit.hierarchy.superclasses
    outputs = len(kit.hierarchy.classes)  # with those for strangers
    ends = (table.seconds(space, arch, outputs) * (1 + table.margin) for arch in (space.smallest, space.largest))
    low, high = map(float, ends)
    for group, share in tqdm(list(product(groups, np.linspace(LOW, HIGH, BOUNDS))), study):
        most = low + share * (high - low)
        network, card = kit.specialize(group, bounds=[(table, most)], refuse=True)
        card = kit.tested(network, card)
        own = torch.tensor([name in card.classes for name in kit.hierarchy.classes])
        images = resized(kit.branch_images.only(own).decoded().images, card.image_size)
        path = folder / f"{len(list(folder.iterdir()))}"
        files = {
            "float": export_onnx(network, card, path),
            "int8": export_onnx(network, card, f"{path}-8", int8=images),
        }
        small = kit.tested(*load(files["int8"]))
        yield (
            {"study": study, "group": group, "share": share, "asked_ms": 1e3 * most, "told_ms": card.bounds[0].told}
            | {"madds": card.madds, "top1": card.test.top1[0], "low": card.test.top1[1], "high": card.test.top1[2]}
            | {"top1_int8": small.test.top1[0], "images": card.test.images}
            | {f"bytes_{name}": file.stat().st_size for name, file in files.items()}
            | {"refused_own": card.strangers.refused_own, "refused_others": card.strangers.refused_others}
            | {"strangers": refused_on(network, card, noise(kit))},
            [runner(file, card.image_size, card.in_channels) for file in files.values()],
        )


def noise(kit: Kit) -> Tensor:
    """Images of nothing: smooth noise, uint8 [200, channels, size, size]."""
    channels, size = kit.test.images.shape[1:3]
    rough = torch.rand(200, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    return (resized(rough, size).clamp(0, 1) * 255).to(torch.uint8)


def runner(file: Path, pixels: int, channels: int) -> Run:
    """What runs an exported network once."""
    session = session_of(file.read_bytes(), threads=1)
    images = np.random.default_rng(0).integers(256, size=(1, pixels, pixels, channels), dtype=np.uint8)
    return lambda: session.run(["logits"], {"images": images})


def measure_study(study: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Tables of latency, networks, and how long serving takes, of a study."""
    kit = kit_of(study)
    times = serving_times.times_of(study, kit)
    space, name = kit.supernet.space, Path(study).stem
    tables = [latency_table(space, runtime, again=True) for runtime in RUNTIMES]
    judged = pd.DataFrame([judge(name, space, table) for table in tables])
    with tempfile.TemporaryDirectory() as folder:
        rows, runs = zip(*networks_of(name, kit, tables[0], Path(folder)), strict=True)
    networks, (known, told) = pd.DataFrame(rows), references(space, tables[0])
    seconds = in_turns([*known, *(run for pair in runs for run in pair)])
    networks["speed"] = float(np.median(steady(seconds[:, : len(known)]) / told))
    seconds = 1e3 * seconds[:, len(known) :]
    networks["measured_ms"], networks["measured_ms_int8"] = steady(seconds).reshape(-1, 2).T
    networks["kept"] = (seconds[:, ::2] <= networks.asked_ms.to_numpy()).mean(0)
    networks["kept_at_speed"] = (seconds[:, ::2] / networks.speed.to_numpy() <= networks.asked_ms.to_numpy()).mean(0)
    return judged, networks, times


def references(space: ChoiceSpace, table: LatencyTable) -> tuple[list[Run], np.ndarray]:
    """What runs some archs, and the seconds that the table tells of them: they say how fast the machine is later."""
    archs = spread_archs(space, REFERENCES)
    outputs = outputs_of(archs)
    each = zip(archs, outputs.tolist(), strict=True)
    runs = [run_of(space, arch, count, table.runtime, table.threads) for arch, count in each]
    return runs, table.seconds(space, archs, outputs).numpy()


def replace_rows(path: Path, rows: pd.DataFrame) -> None:
    """Write a study's rows into a table, in place of those that it has of the same study."""
    known = pd.read_csv(path) if path.is_file() else rows[:0]
    others = known[~known.study.isin(rows.study)]
    write_text(path, pd.concat([others, rows]).to_csv(index=False, float_format="%.6g"))


def main(arguments: list[str] | None = None) -> int:
    """The command; an error is one line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.on_device", description=__doc__.partition("\n")[0])
    parser.add_argument("studies", nargs="*", help="names in params.yaml, or YAML files of one's own")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the page anew")
    options = parser.parse_args(arguments)
    try:
        if not options.render:
            if not options.studies:
                raise ValueError("name the studies whose networks are to be measured")
            devices.keep_memory()
            FOLDER.mkdir(parents=True, exist_ok=True)
            for study in options.studies:
                for name, rows in zip(on_device_page.TABLES, measure_study(study), strict=True):
                    replace_rows(FOLDER / f"{name}.csv", rows)
        on_device_page.render(FOLDER)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {FOLDER.relative_to(FOLDER.parents[1])}/README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
