"""Benchmark 1: what the archs for 1 to a million scenarios cost, in OFA's MobileNetV3 space with OFA's predictor."""

from __future__ import annotations

import contextlib
import io
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks import timing
from benchmarks.mobilenet import CLASSES, SIDE, SharedPredictor, flops_table, from_sample, new_space, scenario_sampler
from benchmarks.peers import EvolutionFinder, FLOPsTable
from eas import search
from eas.generator import Generator, PredictorSignal, train_generator
from eas.spaces import MobileNetV3Space
from pipeline.params import load_study

Method = Callable[[Tensor, Tensor], Tensor]  # class masks bool [n, classes], budgets [n]: archs int64 [n, decisions]

BUDGETS = 250e6, 550e6  # multiply-adds; the smallest arch has 188M, and OFA's finder draws until a candidate fits
FIT_STEPS = 1000  # of the predictor
COUNTS = 1, 5, 50, 500, 5_000, 1_000_000
POPULATION, EVALUATIONS = 100, 500
GENERATIONS = 500  # OFA's own setting, of 100 evaluations each
LARGEST = {  # scenarios that a method is run for at most: what takes longer is not run, and not guessed
    "generator": 1_000_000,
    "random": 500,
    "evolution": 500,
    "evolution_long": 50,
    "ofa_finder": 50,
    "ofa_finder_long": 5,
}
DESCRIPTIONS = {
    "generator": "the trained generator, one forward pass, hard budget included",
    "random": f"{EVALUATIONS} random archs that use the budget, best predicted one",
    "evolution": f"OFA's evolution, vectorised over scenarios (ours), {EVALUATIONS} evaluations",
    "evolution_long": f"the same, {POPULATION * GENERATIONS:,} evaluations",
    "ofa_finder": f"OFA's EvolutionFinder, unmodified, {EVALUATIONS} evaluations",
    "ofa_finder_long": f"the same at its published effort, {POPULATION * GENERATIONS:,} evaluations",
}


@dataclass(frozen=True)
class SearchCase:
    """What all methods share, and the generator."""

    table: FLOPsTable
    space: MobileNetV3Space
    predictor: SharedPredictor
    generator: Generator


def prepare(root: str | Path = ".", steps: int | None = None) -> tuple[SearchCase, dict[str, float]]:
    """Everything that is made once; and its seconds: predictor (all methods need it), generator (ours only).

    The generator is trained as in the embedded study. `steps` shortens both trainings, for a test.
    """
    space = new_space()
    start = time.perf_counter()
    predictor = SharedPredictor(space, seed=0)
    predictor.fit(steps or FIT_STEPS)
    fitted = time.perf_counter()
    generator = Generator(space, CLASSES, torch.linspace(*BUDGETS, 5))
    recipe = load_study("glyphs", root).generator.predictor
    recipe = recipe.model_copy(update={"steps": steps or recipe.steps})
    train_generator(generator, PredictorSignal(predictor), scenario_sampler(BUDGETS), recipe, seed=0)
    seconds = {"predictor": fitted - start, "generator": time.perf_counter() - fitted}
    return SearchCase(flops_table(space), space, predictor, generator.eval().requires_grad_(False)), seconds


# -------------------------------------------------------------------- the methods


def methods(case: SearchCase) -> dict[str, Method]:
    """All that are compared, by name."""
    space, predictor = case.space, case.predictor

    def evolution(evaluations: int) -> Method:
        effort = {"evaluations": evaluations, "population": POPULATION, "seed": 0}
        return lambda class_masks, budgets: search.evolution(space, predictor, class_masks, budgets, **effort)

    return {
        "generator": case.generator.generate,
        "random": lambda class_masks, budgets: best_random(case, class_masks, budgets),
        "evolution": evolution(EVALUATIONS),
        "evolution_long": evolution(POPULATION * GENERATIONS),
        "ofa_finder": lambda _, budgets: run_finder(case, budgets, EVALUATIONS // POPULATION - 1),
        "ofa_finder_long": lambda _, budgets: run_finder(case, budgets, GENERATIONS),
    }


def best_random(case: SearchCase, class_masks: Tensor, budgets: Tensor) -> Tensor:
    """The best of EVALUATIONS random archs by the predictor, for every scenario."""
    rng = torch.Generator().manual_seed(0)
    archs = search.random_archs(case.space, budgets, class_masks.sum(-1), EVALUATIONS, rng)
    best = case.predictor.score(archs, class_masks[:, None]).argmax(1)
    return archs[torch.arange(len(archs)), best]


def run_finder(case: SearchCase, budgets: Tensor, generations: int) -> Tensor:
    """OFA's finder, scenario after scenario, which is how it works: a new search for every budget."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (what the finder draws from)
    archs = []
    for budget in budgets.tolist():
        effort = {"population_size": POPULATION, "max_time_budget": generations}
        finder = EvolutionFinder("flops", budget / 1e6, case.table, case.predictor.peer, **effort)
        finder.arch_manager.resolutions = [SIDE]  # the space here has one image size
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar a scenario
            _, (_, sample, _) = finder.run_evolution_search()
        archs.append(from_sample(case.space, sample))
    return torch.stack(archs)


# -------------------------------------------------------------------- the measurement


@torch.inference_mode()
def measure(case: SearchCase, counts: Sequence[int] = COUNTS, largest: dict[str, int] = LARGEST) -> pd.DataFrame:
    """A row for every method and number of scenarios that it is run for.

    Columns method, scenarios; seconds, low, high: of all scenarios, median and quartiles over rounds; rounds;
    per_scenario (seconds); times_generator: that of the method over the generator's, in the same run.
    """
    by_name, tables = methods(case), []
    rng = torch.Generator().manual_seed(1)
    for count in counts:
        scenarios = scenario_sampler(BUDGETS)(count, rng)
        works = {name: on(scenarios, by_name[name]) for name in by_name if count <= largest[name]}
        table = timing.compare(works, f"archs for {count:,} scenarios").rename(columns={"work": "method"})
        generator = table.seconds[table.method == "generator"].item()
        table = table.assign(per_scenario=table.seconds / count, times_generator=table.seconds / generator)
        tables.append(table.assign(scenarios=count))
    first = ["method", "scenarios"]
    table = pd.concat(tables, ignore_index=True)
    return table[first + [name for name in table if name not in first]]


def on(scenarios: tuple[Tensor, Tensor], method: Method) -> timing.Work:
    """A method's work on some scenarios."""
    return lambda: method(*scenarios)


def break_even(table: pd.DataFrame, setup: float) -> pd.DataFrame:
    """From how many scenarios on training the generator pays off, against every other method.

    Columns method, per_scenario (seconds, at the most scenarios that it was run for), scenarios (rounded up).
    """
    last = table.sort_values("scenarios").groupby("method", sort=False).last()
    others = last.drop(index="generator")
    saved = others.per_scenario - last.per_scenario["generator"]
    return others[["per_scenario"]].assign(scenarios=np.ceil(setup / saved).where(saved > 0)).reset_index()


@torch.inference_mode()
def quality(case: SearchCase, count: int = 5) -> pd.DataFrame:
    """What every method finds for the same scenarios.

    Columns method; predicted: mean predicted accuracy; used_percent: mean share of the budget; within: all within it.
    """
    class_masks, budgets = scenario_sampler(BUDGETS)(count, torch.Generator().manual_seed(2))
    rows = []
    for name, method in methods(case).items():
        archs = method(class_masks, budgets)
        used = case.space.madds(archs, class_masks.sum(-1)) / budgets
        row = {"method": name, "predicted": case.predictor.score(archs, class_masks).mean().item()}
        rows.append(row | {"used_percent": 100 * used.mean().item(), "within": bool((used <= 1).all())})
    return pd.DataFrame(rows)


def generate_many(count: int) -> timing.Work:
    """For timing.peak_memory: the archs of `count` scenarios by an untrained generator."""
    generator = Generator(new_space(), CLASSES, torch.linspace(*BUDGETS, 5))
    scenarios = scenario_sampler(BUDGETS)(count, torch.Generator().manual_seed(1))
    generator.generate(*(each[:1] for each in scenarios))
    return on(scenarios, generator.generate)
