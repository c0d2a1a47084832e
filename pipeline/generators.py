"""The steps `pools`, `predictors`, `gates` and `additive`: archs are measured, predictors and generators fitted."""

from __future__ import annotations

import time
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from eas import devices, search
from eas.additive import AdditiveGenerator, fit_additive
from eas.data import Dataset, Hierarchy
from eas.evaluation import SharedStem, calibration_sample, own_superclass_correct, superclass_top1
from eas.generator import ArchGenerator, GateSignal, Generator, PredictorSignal, Signal, train_generator
from eas.predictor import AccuracyPredictor, fit_predictor
from eas.recipes import GeneratorTraining
from eas.spaces import ChoiceSpace
from pipeline import steps
from pipeline.params import Study
from pipeline.scenarios import MEGA, scenario_sampler
from pipeline.store import Record, Workspace
from pipeline.supernets import Base, load_supernet, new_space

Module = TypeVar("Module", bound=nn.Module)
POOL_UNIONS = 30
GENERATORS = {  # of the predictors' step: the predictor that each is trained on
    "generator": "predictor_aware",
    "generator_blind": "predictor",
}
FITTED_BY = {  # the step that makes a generator
    "generator": "predictors",
    "generator_blind": "predictors",
    "generator_gates": "gates",
    "generator_additive": "additive",
}


# -------------------------------------------------------------------- the pool


def measure_pool(workspace: Workspace, base: Base) -> tuple[dict[str, Tensor], Record]:
    """Measure random archs on the selection split: what predictors are fitted on.

    Tensors: archs [pool, decisions]; class_masks [s, classes], superclasses first, then unions that the comparison does
    not use; accuracy [pool, s] in percent; correct, in bits, uint8 [pool, images / 8]: see `load_pool`; labels
    [images].
    """
    study, dataset = workspace.study, workspace.dataset().to(devices.device())
    supernet, rng = load_supernet(workspace, dataset, base), torch.Generator().manual_seed(base.seed)
    archs = pool_archs(study, supernet.space, dataset.hierarchy, rng)
    class_masks = pool_scenarios(study, dataset.hierarchy, rng)
    parent, labels = dataset.hierarchy.parent, dataset.selection.labels
    calibration = calibration_sample(dataset.calibration, study.evaluation.calibration_images)
    accuracy, correct, start = [], [], time.perf_counter()
    stem = SharedStem(supernet, archs, calibration, dataset.selection)
    for arch in tqdm(archs, f"pool {base.name}-{base.seed}", mininterval=1):
        logits = stem.logits(arch)
        accuracy.append(superclass_top1(logits, labels, class_masks))
        correct.append(own_superclass_correct(logits, labels, parent))
    seconds = time.perf_counter() - start
    tensors = {"archs": archs, "class_masks": class_masks, "accuracy": torch.stack(accuracy)}
    bits = np.packbits(torch.stack(correct).cpu().numpy(), axis=1)
    tensors |= {"correct": torch.from_numpy(bits), "labels": labels}
    return tensors, {"supernet": base.name, "seed": base.seed, "seconds": seconds}


def load_pool(workspace: Workspace, base: Base) -> dict[str, Tensor]:
    """The pool of a supernet; `correct` as bool [pool, images]: is each image told from those of its superclass?"""
    pool = steps.tensors_of(workspace, "pools", base=base)
    bits = np.unpackbits(pool["correct"].numpy(), axis=1, count=len(pool["labels"]))
    return pool | {"correct": torch.from_numpy(bits).bool()}


def pool_archs(study: Study, space: ChoiceSpace, hierarchy: Hierarchy, rng: torch.Generator) -> Tensor:
    """Random archs that use budgets spread over the study's range, as the scenarios will ask for."""
    low, high = min(study.scenarios.budgets) * MEGA, max(study.scenarios.budgets) * MEGA
    budgets = torch.linspace(low, high, study.search.pool, dtype=torch.float64)
    classes = torch.full((len(budgets),), len(hierarchy.classes) // len(hierarchy.superclasses))
    return search.random_archs(space, budgets, classes, 1, rng)[:, 0]


def pool_scenarios(study: Study, hierarchy: Hierarchy, rng: torch.Generator) -> Tensor:
    """Every superclass, then some training unions, bool [scenarios, classes]."""
    superclasses = torch.stack([hierarchy.class_mask([name]) for name in hierarchy.superclasses])
    unions, _ = scenario_sampler(study, hierarchy)(POOL_UNIONS, rng)
    return torch.cat([superclasses, unions])


# -------------------------------------------------------------------- what is fitted on it


def fit_predictors(workspace: Workspace, base: Base) -> tuple[dict[str, Tensor], Record]:
    """Fit both predictors of one supernet on its pool, and train a generator on each.

    Tensors: the weights of predictor_aware, predictor (unaware of the scenario), and the generators of GENERATORS,
    under these names. The record has R^2 of the predictors and the losses of the generators.
    """
    study, dataset, pool = workspace.study, workspace.dataset(), load_pool(workspace, base)
    space = new_space(study, dataset)
    torch.manual_seed(base.seed)
    content, seconds, tensors = {"supernet": base.name, "seed": base.seed}, {}, {}
    for name, trained_on in GENERATORS.items():
        start = time.perf_counter()
        aware = trained_on == "predictor_aware"
        predictor = AccuracyPredictor(space, len(dataset.hierarchy.classes), aware=aware)
        measured = (pool["archs"], pool["class_masks"], pool["accuracy"])
        content[f"r2_{trained_on}"] = fit_predictor(
            predictor, *measured, steps=study.search.predictor_steps, seed=base.seed
        )
        seconds[trained_on] = time.perf_counter() - start
        start = time.perf_counter()
        generator = new_generator(study, space, dataset.hierarchy, blind=not aware)
        signal, recipe = PredictorSignal(predictor), study.generator.predictor
        content[f"loss_{name}"] = fit_generator(study, dataset, generator, signal, recipe, base.seed, name)
        seconds[name] = time.perf_counter() - start
        tensors |= with_prefix(trained_on, predictor) | with_prefix(name, generator)
    return tensors, content | {"parts": seconds}


def train_on_gates(workspace: Workspace, base: Base) -> tuple[dict[str, Tensor], Record]:
    """Train the generator `generator_gates` of one supernet by relaxed gates through it (the paper's signal)."""
    study, dataset = workspace.study, workspace.dataset()
    supernet, recipe = load_supernet(workspace, dataset, base), study.generator.gates
    rng = torch.Generator().manual_seed(base.seed)
    signal = GateSignal(supernet, dataset.train.to(devices.device()), recipe.images, study.training, rng)
    torch.manual_seed(base.seed)
    start = time.perf_counter()
    generator = new_generator(study, supernet.space, dataset.hierarchy)
    losses = fit_generator(study, dataset, generator, signal, recipe, base.seed, "generator_gates")
    content = {"supernet": base.name, "seed": base.seed, "loss_generator_gates": losses}
    return with_prefix("generator_gates", generator), content | {"seconds": time.perf_counter() - start}


def fit_additive_generator(workspace: Workspace, base: Base) -> tuple[dict[str, Tensor], Record]:
    """Fit the generator `generator_additive` on the pool of one supernet, in closed form."""
    dataset, pool = workspace.dataset(), load_pool(workspace, base)
    space, parent, start = new_space(workspace.study, dataset), dataset.hierarchy.parent, time.perf_counter()
    budgets = workspace.study.scenarios.budgets
    options = {"budget_range": (budgets[0] * MEGA, budgets[-1] * MEGA), "seed": base.seed}
    generator, told = fit_additive(space, pool["archs"], pool["correct"], pool["labels"], parent, **options)
    content = {"supernet": base.name, "seed": base.seed, "seconds": time.perf_counter() - start}
    return with_prefix("generator_additive", generator), content | told


def new_generator(study: Study, space: ChoiceSpace, hierarchy: Hierarchy, *, blind: bool = False) -> Generator:
    """The study's generator, untrained; its budgets are the anchors."""
    anchors = torch.tensor(study.scenarios.budgets) * MEGA
    shape = {"width": study.generator.width, "embedding": study.generator.embedding}
    return Generator(space, len(hierarchy.classes), anchors, blind=blind, **shape)


def fit_generator(
    study: Study,
    dataset: Dataset,
    generator: Generator,
    signal: Signal,
    recipe: GeneratorTraining,
    seed: int,
    name: str,
) -> list[float]:
    """Train a generator in place on the study's training scenarios; returns its losses."""
    draw, label = scenario_sampler(study, dataset.hierarchy), f"{name.replace('_', ' ')}, seed {seed}"
    return [round(loss, 6) for loss in train_generator(generator, signal, draw, recipe, seed=seed, label=label)]


def with_prefix(name: str, module: nn.Module) -> dict[str, Tensor]:
    """A module's weights as '<name>.<its name>'."""
    return {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}


# -------------------------------------------------------------------- reading them back


def load_generator(workspace: Workspace, dataset: Dataset, base: Base, name: str) -> ArchGenerator:
    """A fitted generator, by its name in FITTED_BY."""
    space, hierarchy = new_space(workspace.study, dataset), dataset.hierarchy
    if name == "generator_additive":
        generator = AdditiveGenerator(space, len(hierarchy.classes))
    else:
        generator = new_generator(workspace.study, space, hierarchy, blind=name == "generator_blind")
    return load_part(workspace, generator, base, FITTED_BY[name], name)


def load_predictor(workspace: Workspace, dataset: Dataset, base: Base, *, aware: bool) -> AccuracyPredictor:
    """A fitted predictor."""
    space, name = new_space(workspace.study, dataset), "predictor_aware" if aware else "predictor"
    predictor = AccuracyPredictor(space, len(dataset.hierarchy.classes), aware=aware)
    return load_part(workspace, predictor, base, "predictors", name)


def load_part(workspace: Workspace, module: Module, base: Base, step: str, name: str) -> Module:
    """Load what `with_prefix` wrote under a name of a step's result; in eval mode."""
    tensors, prefix = steps.tensors_of(workspace, step, base=base), f"{name}."
    module.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
    return module.eval()


def generator_records(workspace: Workspace) -> list[Record]:
    """What fitting left behind for every supernet and seed: losses of the generators, what predictors explain."""
    fitted = (steps.records(workspace, step) for step in ("predictors", "gates", "additive"))
    return [{**predictors, **gates, **additive} for predictors, gates, additive in zip(*fitted, strict=True)]
