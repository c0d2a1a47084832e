"""Every method's arch for every scenario: proposed and selected on the selection split, before any test image is seen.

Files, under a study's folder, as safetensors, with their records (.json) beside them:
    comparison/<supernet>-<seed>/   proposals: archs of every method that measures none; selected: of random search
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from eas import data, evaluation, search
from eas.config import Dropout, Study
from eas.fitting import SIGNALS, load_generator, load_model, marked, opened
from eas.study import Scenarios, calibration_images, new_supernet, require, scenarios, supernet_jobs


def comparison_folder(folder: Path, supernet: str, seed: int) -> Path:
    return folder / "comparison" / f"{supernet}-{seed}"


def propose(study: Study, folder: Path, supernet_name: str, setting: Dropout, seed: int) -> dict:
    """Every method's arch for every scenario, and its time; looks at the selection split only.

    Writes proposals.safetensors: one int64 [scenarios, decisions] for each method; the wall times, by
    method and scenario, are kept apart. A method that serves all scenarios in one batch is timed as a whole and the
    time is shared out.
    """
    out = comparison_folder(folder, supernet_name, seed)
    result = marked(study, folder, out / "proposals.safetensors", setting.name, str(seed))
    if record := result.finished():
        return record
    dataset = data.load(study, folder / "dataset.safetensors")
    space, wanted = new_supernet(study, dataset).space, scenarios(study, dataset.hierarchy)
    kept, budgets = wanted.kept, wanted.budgets
    generators = {n: load_generator(study, folder, dataset, supernet_name, seed, n) for n in (*SIGNALS, "blind")}
    effort = {"evaluations": study.search.evaluations, "population": study.search.population, "seed": seed}
    methods = {f"generator_{n}": (lambda g=g: g.generate(kept, budgets)) for n, g in generators.items()}
    methods["uniform"] = lambda: search.uniform(space, budgets, kept.sum(-1))
    proposals, seconds, begun = {}, {}, time.perf_counter()
    with torch.inference_mode():
        for suffix in ("", "_aware"):
            model = load_model(study, folder, dataset, supernet_name, seed, aware=bool(suffix))
            methods[f"evolution{suffix}"] = lambda m=model: search.evolution(space, m, kept, budgets, **effort)
            found, taken = one_by_one(lambda k, b, m=model: search.ofa_evolution(space, m, k, b, **effort), wanted)
            proposals[f"ofa_evolution{suffix}"], seconds[f"ofa_evolution{suffix}"] = found, taken
        for name, method in methods.items():
            method()  # warm up: the first call of any torch function is slow
            start = time.perf_counter()
            proposals[name] = method()
            seconds[name] = [(time.perf_counter() - start) / len(wanted)] * len(wanted)
    result.timed({"seconds": time.perf_counter() - begun} | seconds)
    return result.write({n: archs.clone() for n, archs in proposals.items()}, {"supernet": supernet_name, "seed": seed})


def one_by_one(method: Callable[[Tensor, float], Tensor], wanted: Scenarios) -> tuple[Tensor, list[float]]:
    """Archs and seconds of a method that serves one scenario at a time."""
    found, seconds = [], []
    for kept, budget in zip(wanted.kept, wanted.budgets.tolist(), strict=True):
        start = time.perf_counter()
        found.append(method(kept, budget))
        seconds.append(time.perf_counter() - start)
    return torch.stack(found), seconds


def select(study: Study, folder: Path, supernet_name: str, setting: Dropout, seed: int) -> dict:
    """What needs measuring on the selection split: random search, and each generator signal's accuracy.

    Writes selected.safetensors: random, int64 [scenarios, decisions]; the record holds the signals' mean superclass
    top-1.
    """
    out = comparison_folder(folder, supernet_name, seed)
    result = marked(study, folder, out / "selected.safetensors", setting.name, str(seed))
    if record := result.finished():
        return record
    dataset, supernet = opened(study, folder, setting, seed)
    wanted, proposals = scenarios(study, dataset.hierarchy), load_file(out / "proposals.safetensors")
    calibration = calibration_images(study, dataset)
    content, begun = {"supernet": supernet_name, "seed": seed}, time.perf_counter()
    for name in SIGNALS:
        archs = proposals[f"generator_{name}"]
        top1 = evaluation.measure_archs(supernet, archs, wanted.kept, calibration, dataset.selection)
        content[f"selection_top1_{name}"] = top1.mean().item()
    start, best = time.perf_counter(), torch.empty(len(wanted), supernet.space.decisions, dtype=torch.long)
    rng = torch.Generator().manual_seed(seed)
    most_classes = wanted.kept.sum(-1).max()[None]
    for budget in wanted.budgets.unique():
        rows = (wanted.budgets == budget).nonzero()[:, 0]
        archs = search.random_archs(supernet.space, budget[None], most_classes, study.search.random, rng)[0]
        shared, labels = evaluation.Begun(supernet, archs, calibration, dataset.selection), dataset.selection.labels
        top1 = [evaluation.superclass_top1(shared.logits(arch), labels, wanted.kept[rows]) for arch in archs]
        best[rows] = archs[torch.stack(top1).argmax(0)]
    ended = time.perf_counter()
    result.timed({"seconds": ended - begun, "random": (ended - start) / len(wanted)})
    return result.write({"random": best}, content)


def choose_signal(study: Study, folder: Path) -> str:
    """The generator's training signal with the best mean accuracy on the selection split, over supernets and seeds."""
    paths = [
        comparison_folder(folder, name, seed) / "selected.json" for _, _, name, _, seed in supernet_jobs(study, folder)
    ]
    records = pd.DataFrame([json.loads(require(path, study, "04_ablations").read_text()) for path in paths])
    return max(SIGNALS, key=lambda name: records[f"selection_top1_{name}"].mean())


def final_archs(folder: Path, supernet: str, seed: int, signal: str) -> dict[str, Tensor]:
    """Every method's archs, int64 [scenarios, decisions]; 'generator' is the one trained with the chosen signal."""
    out = comparison_folder(folder, supernet, seed)
    archs = load_file(out / "proposals.safetensors") | load_file(out / "selected.safetensors")
    trained = {name: archs.pop(f"generator_{name}") for name in SIGNALS}
    return {"generator": trained[signal]} | archs
