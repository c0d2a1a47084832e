"""A study's generators: archs are measured, accuracy models fitted on them, and generators trained on either signal.

Files, under a study's folder, as safetensors, with their records (.json) beside them:
    generators/<supernet>-<seed>/   pool: random archs measured on the selection split; models: accuracy models fitted
                                    on it, generators trained on these; gates: the generator trained by gates
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from eas import data, evaluation, jobs, search
from eas.config import Dropout, Study
from eas.data import Dataset, Hierarchy
from eas.generator import GateSignal, Generator, ModelSignal, train_generator
from eas.records import Result
from eas.search import AccuracyModel, fit_accuracy_model
from eas.space import SearchSpace
from eas.study import (
    calibration_images,
    load_supernet,
    new_supernet,
    require,
    scenario_sampler,
    supernet_jobs,
    supernet_path,
)
from eas.supernet import Supernet

SIGNALS = ("model", "gates")  # what a generator is trained on; the study's choice is made on the selection split


def run_generators(study: Study, folder: Path) -> None:
    """All steps from trained supernets to trained generators, for every supernet and seed."""
    every = supernet_jobs(study, folder)
    jobs.run(measure_pool, every, "pools of measured archs")
    jobs.run(fit_models, every, "accuracy models, generators", gpu=False)
    jobs.run(fit_gates, every, "generators by gates")


# -------------------------------------------------------------------- the pool and what is fitted on it


def marked(study: Study, folder: Path, path: Path, *more: str) -> Result:
    """A result that depends on all parameters of the study but those of results apart, and on `more`.

    Apart are weights of one's own, the long search, and the settings of superclass dropout: `more` names the one that
    counts, so that trying another makes nothing stale unless it is chosen.
    """
    sections = set(Study.model_fields) - {"name", "note", "dropout", "finetune", "from_scratch", "long_search"}
    shared = study.model_copy(update={"branches": study.branches and study.branches.only()})
    return Result(folder, path, "-".join([shared.key(*sections), *more]))


def opened(study: Study, folder: Path, setting: Dropout, seed: int) -> tuple[Dataset, Supernet]:
    """The study's images and one of its supernets, on the job's device."""
    dataset = data.load(study, folder / "dataset.safetensors").to(jobs.device())
    return dataset, load_supernet(study, dataset, supernet_path(folder, setting, seed))


def generator_folder(folder: Path, supernet: str, seed: int) -> Path:
    return folder / "generators" / f"{supernet}-{seed}"


def measure_pool(study: Study, folder: Path, supernet_name: str, setting: Dropout, seed: int) -> dict:
    """Measure random archs on the selection split: what accuracy models are fitted on.

    Writes pool.safetensors: archs [pool, decisions]; kept [s, classes], superclasses first, then unions that the
    comparison does not use; accuracy [pool, s] in percent; own [pool, images], whether each selection image is
    classified right among its superclass; labels [images].
    """
    path = generator_folder(folder, supernet_name, seed) / "pool.safetensors"
    result = marked(study, folder, path, setting.name, str(seed))
    if record := result.finished():
        return record
    dataset, supernet = opened(study, folder, setting, seed)
    rng = torch.Generator().manual_seed(seed)
    archs = pool_archs(study, supernet.space, dataset.hierarchy, rng)
    kept = pool_scenarios(study, dataset.hierarchy, rng)
    parent, calibration = dataset.hierarchy.parent, calibration_images(study, dataset)
    accuracy, own, start = [], [], time.perf_counter()
    begun = evaluation.Begun(supernet, archs, calibration, dataset.selection)
    for arch in tqdm(archs, f"pool {supernet_name}-{seed}", mininterval=1):
        logits = begun.logits(arch)
        accuracy.append(evaluation.superclass_top1(logits, dataset.selection.labels, kept))
        own.append(evaluation.own_superclass_correct(logits, dataset.selection.labels, parent))
    result.timed({"seconds": time.perf_counter() - start})
    tensors = {"archs": archs, "kept": kept, "accuracy": torch.stack(accuracy), "own": torch.stack(own)}
    tensors["labels"] = dataset.selection.labels
    return result.write(tensors, {"supernet": supernet_name, "seed": seed})


POOL_UNIONS = 30


def pool_archs(study: Study, space: SearchSpace, hierarchy: Hierarchy, rng: torch.Generator) -> Tensor:
    """Random archs that use budgets spread over the study's range, as the scenarios will ask for."""
    low, high = min(study.scenarios.budgets) * 1e6, max(study.scenarios.budgets) * 1e6
    budgets = torch.linspace(low, high, study.search.pool, dtype=torch.float64)
    classes = torch.full((len(budgets),), len(hierarchy.classes) // len(hierarchy.superclasses))
    return search.random_archs(space, budgets, classes, 1, rng)[:, 0]


def pool_scenarios(study: Study, hierarchy: Hierarchy, rng: torch.Generator) -> Tensor:
    """Every superclass, then some training unions, bool [scenarios, classes]."""
    singles = torch.stack([hierarchy.kept([name]) for name in hierarchy.superclasses])
    unions, _ = scenario_sampler(study, hierarchy)(POOL_UNIONS, rng)
    return torch.cat([singles, unions])


def read_pool(study: Study, folder: Path, supernet: str, seed: int) -> dict[str, Tensor]:
    return load_file(require(generator_folder(folder, supernet, seed) / "pool.safetensors", study, "03_generator"))


def new_generator(study: Study, space: SearchSpace, hierarchy: Hierarchy, *, blind: bool) -> Generator:
    anchors = torch.tensor(study.scenarios.budgets) * 1e6
    shape = {"width": study.generator.width, "embedding": study.generator.embedding}
    return Generator(space, len(hierarchy.classes), anchors, blind=blind, **shape)


def fit_models(study: Study, folder: Path, supernet_name: str, setting: Dropout, seed: int) -> dict:
    """Fit both accuracy models of one supernet on its pool, and train a generator on each; returns the record.

    Writes models.safetensors: the weights of model_aware, model (unaware of the scenario), and the generators
    generator_model and generator_blind, under these names.
    """
    path = generator_folder(folder, supernet_name, seed) / "models.safetensors"
    result = marked(study, folder, path, setting.name, str(seed))
    if record := result.finished():
        return record
    pool = read_pool(study, folder, supernet_name, seed)
    dataset = data.load(study, folder / "dataset.safetensors")
    space = new_supernet(study, dataset).space
    torch.manual_seed(seed)
    content, seconds, tensors, begun = {"supernet": supernet_name, "seed": seed}, {}, {}, time.perf_counter()
    for name, blind in (("model_aware", False), ("model", True)):
        start = time.perf_counter()
        model = AccuracyModel(space, len(dataset.hierarchy.classes), aware=not blind)
        steps = study.search.predictor_steps
        content[name.replace("model", "r2")] = fit_accuracy_model(
            model, pool["archs"], pool["kept"], pool["accuracy"], steps=steps, seed=seed
        )
        seconds[name] = time.perf_counter() - start
        signal = "blind" if blind else "model"
        start = time.perf_counter()
        generator, content[f"loss_{signal}"] = fit_generator(study, dataset, ModelSignal(space, model), signal, seed)
        seconds[f"generator_{signal}"] = time.perf_counter() - start
        tensors |= prefixed(name, model) | prefixed(f"generator_{signal}", generator)
    result.timed({"seconds": time.perf_counter() - begun} | seconds)
    return result.write(tensors, content)


def fit_gates(study: Study, folder: Path, supernet_name: str, setting: Dropout, seed: int) -> dict:
    """Train the generator `gates` of one supernet by relaxed gates through it; returns the record."""
    path = generator_folder(folder, supernet_name, seed) / "gates.safetensors"
    result = marked(study, folder, path, setting.name, str(seed))
    if record := result.finished():
        return record
    dataset = data.load(study, folder / "dataset.safetensors")
    supernet = load_supernet(study, dataset, supernet_path(folder, setting, seed))
    rng = torch.Generator().manual_seed(seed)
    signal = GateSignal(supernet, dataset.train.to(jobs.device()), study.generator.gate_images, rng)
    torch.manual_seed(seed)
    start = time.perf_counter()
    generator, losses = fit_generator(study, dataset, signal, "gates", seed)
    result.timed({"seconds": time.perf_counter() - start})
    content = {"supernet": supernet_name, "seed": seed, "loss_gates": losses}
    return result.write(prefixed("generator_gates", generator), content)


def fit_generator(
    study: Study, dataset: Dataset, signal: Callable, name: str, seed: int
) -> tuple[Generator, list[float]]:
    """Train one generator; returns it and its losses."""
    recipe, gates = study.generator, name == "gates"
    steps, count = (recipe.gate_steps, recipe.gate_scenarios) if gates else (recipe.steps, recipe.scenarios)
    generator = new_generator(study, new_supernet(study, dataset).space, dataset.hierarchy, blind=name == "blind")
    draw = scenario_sampler(study, dataset.hierarchy)
    label = f"generator {name}, seed {seed}"
    history = train_generator(generator, signal, draw, recipe, steps=steps, scenarios=count, seed=seed, label=label)
    return generator, [round(loss, 6) for loss in history]


def prefixed(name: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}


# -------------------------------------------------------------------- reading them back


def load_generator(study: Study, folder: Path, dataset: Dataset, supernet: str, seed: int, name: str) -> Generator:
    """A trained generator: 'model', 'gates' or 'blind'."""
    file = "gates" if name == "gates" else "models"
    path = require(generator_folder(folder, supernet, seed) / f"{file}.safetensors", study, "03_generator")
    generator = new_generator(study, new_supernet(study, dataset).space, dataset.hierarchy, blind=name == "blind")
    generator.load_state_dict(read_prefixed(path, f"generator_{name}"))
    return generator.eval()


def load_model(study: Study, folder: Path, dataset: Dataset, supernet: str, seed: int, *, aware: bool) -> AccuracyModel:
    """A fitted accuracy model."""
    path = require(generator_folder(folder, supernet, seed) / "models.safetensors", study, "03_generator")
    model = AccuracyModel(new_supernet(study, dataset).space, len(dataset.hierarchy.classes), aware=aware)
    model.load_state_dict(read_prefixed(path, "model_aware" if aware else "model"))
    return model.eval()


def read_prefixed(path: Path, name: str) -> dict[str, Tensor]:
    """The state that `prefixed` wrote under this name."""
    with safe_open(path, "pt") as file:
        return {k.removeprefix(f"{name}."): file.get_tensor(k) for k in file.keys() if k.startswith(f"{name}.")}  # noqa: SIM118 (not a dict)


def fit_records(study: Study, folder: Path) -> list[dict]:
    """What fitting left behind for every supernet and seed: losses of the generators, R^2 of the accuracy models."""
    outs = [generator_folder(folder, supernet, seed) for _, _, supernet, _, seed in supernet_jobs(study, folder)]
    files = ("models.json", "gates.json")
    return [{k: v for file in files for k, v in json.loads((out / file).read_text()).items()} for out in outs]
