"""The steps of a study, as the notebooks and a GPU machine run them; every step skips what is already there.

Files of a study, under one folder:
    supernets/<setting>-<seed>.safetensors + .json       weights; learning curve and accuracy on the selection split
    supernets/branches-<seed>.safetensors                weights of every superclass's branch (where the study has them)
    generators/<supernet>-<seed>/*.safetensors + .json   pool of measured archs, accuracy models, generators
    comparison.csv, ablations/*.csv                      the report's tables
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm

from eas import data, evaluation, jobs, search
from eas.config import Dropout, Study
from eas.data import Dataset, Hierarchy, save_tensors
from eas.dropout import KeptClasses, SuperclassDropout
from eas.generator import GateSignal, Generator, ModelSignal, train_generator
from eas.search import AccuracyModel, fit_accuracy_model
from eas.space import SearchSpace
from eas.supernet import Supernet
from eas.training import step_function, train

NONE = Dropout(variant="none", rate=0.0)
MEASURED = 8  # random subnets whose accuracy is reported beside the largest and the smallest


# -------------------------------------------------------------------- scenarios


@dataclass(frozen=True)
class Scenarios:
    """Deployment scenarios: names, classes kept (bool [n, classes]) and budgets (multiply-adds, float64 [n])."""

    names: list[str]
    kept: Tensor
    budgets: Tensor

    def __len__(self) -> int:
        return len(self.names)

    @property
    def is_union(self) -> list[bool]:
        return ["+" in name for name in self.names]


def groups(study: Study, hierarchy: Hierarchy) -> list[tuple[str, ...]]:
    """The study's sets of superclasses: every single one, then the seeded unions of two and of three."""
    singles = [(name,) for name in hierarchy.superclasses]
    rng = torch.Generator().manual_seed(study.data.seed)
    for size, count in ((2, study.scenarios.unions_of_two), (3, study.scenarios.unions_of_three)):
        candidates = list(combinations(hierarchy.superclasses, size))
        picked = torch.randperm(len(candidates), generator=rng)[:count].sort().values
        singles += [candidates[i] for i in picked.tolist()]
    return singles


def scenarios(study: Study, hierarchy: Hierarchy) -> Scenarios:
    """Every group of `groups` at every budget of the study, budget after budget."""
    sets = groups(study, hierarchy)
    kept = torch.stack([hierarchy.kept(names) for names in sets])
    budgets = torch.tensor(study.scenarios.budgets, dtype=torch.float64) * 1e6
    names = ["+".join(names) for names in sets] * len(budgets)
    return Scenarios(names, kept.repeat(len(budgets), 1), budgets.repeat_interleave(len(sets)))


def scenario_sampler(study: Study, hierarchy: Hierarchy) -> Callable[[int, torch.Generator], tuple[Tensor, Tensor]]:
    """Draws training scenarios: one to three superclasses, never a union of the comparison; any budget in range."""
    count = len(hierarchy.superclasses)
    names = hierarchy.superclasses
    held_out = {frozenset(names.index(n) for n in group) for group in groups(study, hierarchy) if len(group) > 1}
    every = [frozenset(c) for size in (1, 2, 3) for c in combinations(range(count), size)]
    allowed = [group for group in every if group not in held_out]
    member = torch.zeros(len(allowed), count, dtype=torch.bool)
    for row, group in enumerate(allowed):
        member[row, list(group)] = True
    kept = member[:, hierarchy.parent]
    size = member.sum(1)
    weight = 1.0 / torch.bincount(size)[size]  # one, two and three superclasses equally often
    low, high = min(study.scenarios.budgets) * 1e6, max(study.scenarios.budgets) * 1e6

    def draw(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.multinomial(weight, n, replacement=True, generator=rng)
        return kept[rows], low + (high - low) * torch.rand(n, dtype=torch.float64, generator=rng)

    return draw


# -------------------------------------------------------------------- supernets


def new_supernet(study: Study, dataset: Dataset) -> Supernet:
    space = SearchSpace.from_study(study, dataset.train.images.shape[1])
    return Supernet(space, len(dataset.hierarchy.classes), dataset.mean, dataset.std)


def load_supernet(study: Study, dataset: Dataset, path: Path) -> Supernet:
    """A trained supernet, frozen, on the job's device.

    Raises:
        FileNotFoundError: the weights are not there; the message says which step makes them.
        ValueError: the file holds other tensors than this study's supernet.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run notebooks/02_supernet for the study {study.name} first")
    supernet = new_supernet(study, dataset)
    try:
        supernet.load_state_dict(load_file(path))
    except RuntimeError as err:
        raise ValueError(f"{path} does not fit the study {study.name}: {str(err).splitlines()[1].strip()}") from None
    return supernet.requires_grad_(False).to(jobs.device())


def finished(path: Path, key: str) -> dict | None:
    """The record beside a result, if it was made with the same parameters."""
    record = path.with_suffix(".json")
    if record.is_file() and path.exists():
        content = json.loads(record.read_text())
        if content["key"] == key:
            return content
    return None


def write_record(path: Path, content: dict) -> dict:
    path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    return content


def supernet_path(folder: Path, setting: Dropout, seed: int) -> Path:
    return folder / "supernets" / f"{setting.name}-{seed}.safetensors"


def train_supernet(study: Study, folder: Path, setting: Dropout, seed: int) -> dict:
    """Train one supernet and measure it on the selection split; returns its record (history, accuracy)."""
    path = supernet_path(folder, setting, seed)
    key = study.key("data", "space", "training", "branch", "evaluation") + f"-{setting.name}-{seed}"
    if (record := finished(path, key)) is not None:
        return record
    dataset = data.load(study, folder / "dataset.safetensors").to(jobs.device())
    torch.manual_seed(seed)
    supernet = new_supernet(study, dataset).to(jobs.device())
    recipe = study.training
    if setting == NONE and study.branch:  # what the branches cost, the supernet without them may train longer
        recipe = recipe.model_copy(update={"epochs": recipe.epochs + study.branch.epochs})
    dropout = SuperclassDropout(dataset.hierarchy.parent.to(jobs.device()), setting)
    checkpoint = folder / "supernets" / f".{key}.checkpoint"
    start = time.perf_counter()
    history = train(supernet, dataset.train, dropout, recipe, seed=seed, checkpoint=checkpoint, label=path.stem)
    seconds = time.perf_counter() - start
    save_tensors(supernet.state_dict(), path)
    checkpoint.unlink()
    accuracy = selection_accuracy(study, supernet, dataset)
    record = {"key": key, "setting": setting.name, "seed": seed, "seconds": seconds}
    return write_record(path, record | {"history": history, "accuracy": accuracy})


def selection_accuracy(study: Study, supernet: Supernet, dataset: Dataset) -> list[dict]:
    """Calibrated accuracy of the largest, the smallest and some random subnets, the same ones for every supernet."""
    space = supernet.space
    random = space.sample(MEASURED, torch.Generator().manual_seed(0))
    archs = {"largest": space.largest[None], "random": random, "smallest": space.smallest[None]}
    parent, rows = dataset.hierarchy.parent, []
    for subnet, arch in ((name, row) for name, many in archs.items() for row in many):
        logits = evaluation.subnet_logits(supernet, arch, calibration_images(study, dataset), dataset.selection)
        labels = dataset.selection.labels
        own = evaluation.own_superclass_correct(logits, labels, parent).float().mean().item() * 100
        flat = (logits.argmax(1) == labels).float().mean().item() * 100
        rows.append({"subnet": subnet, "madds": int(space.madds(arch, len(parent))), "top1": own, "flat_top1": flat})
    return rows


def calibration_images(study: Study, dataset: Dataset) -> data.Split:
    """The first images of a fixed shuffle of the calibration split: a sample of all classes."""
    count = len(dataset.calibration)
    rows = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: study.evaluation.calibration_images]
    return data.Split(dataset.calibration.images[rows], dataset.calibration.labels[rows])


def train_supernets(study: Study, folder: Path) -> list[dict]:
    """None on all seeds, every candidate of superclass dropout on the first few, then the chosen one on the others."""
    jobs.run(train_supernet, [(study, folder, *run) for run in first_runs(study)], "supernets")
    chosen = choose_dropout(study, read_records(study, folder))
    rest = [(study, folder, chosen, seed) for seed in study.seeds[study.dropout.seeds :]]
    jobs.run(train_supernet, rest, f"supernets, chosen: {chosen.name}")
    return read_records(study, folder)


def first_runs(study: Study) -> list[tuple[Dropout, int]]:
    """What is trained before the choice of the dropout."""
    candidates = [(setting, seed) for seed in study.seeds[: study.dropout.seeds] for setting in study.dropout.candidates]
    return [(NONE, seed) for seed in study.seeds] + candidates


def read_records(study: Study, folder: Path) -> list[dict]:
    """The records of all trained supernets.

    Raises:
        FileNotFoundError: one of those that the choice needs is missing; the message says which step makes it.
    """
    for setting, seed in first_runs(study):
        if not (path := supernet_path(folder, setting, seed).with_suffix(".json")).is_file():
            raise FileNotFoundError(f"{path} is missing: run notebooks/02_supernet for the study {study.name} first")
    every = [supernet_path(folder, s, seed) for s in (NONE, *study.dropout.candidates) for seed in study.seeds]
    return [json.loads(r.read_text()) for path in every if (r := path.with_suffix(".json")).is_file()]


def choose_dropout(study: Study, records: list[dict]) -> Dropout:
    """The candidate with the best mean superclass top-1 on the selection split, over subnets and the first seeds."""
    seeds = study.seeds[: study.dropout.seeds]
    rows = [{"setting": r["setting"], **row} for r in records if r["seed"] in seeds for row in r["accuracy"]]
    mean = pd.DataFrame(rows).groupby("setting").top1.mean()
    return max(study.dropout.candidates, key=lambda setting: mean[setting.name])


def settings_of(study: Study, folder: Path) -> dict[str, Dropout]:
    """The two supernets of the comparison: 'eas' with the chosen superclass dropout, 'ofa' without any."""
    return {"eas": choose_dropout(study, read_records(study, folder)), "ofa": NONE}


def supernet_jobs(study: Study, folder: Path) -> list[tuple[Study, Path, str, Dropout, int]]:
    """Arguments of a job for every supernet of the comparison and every seed."""
    return [(study, folder, name, s, seed) for name, s in settings_of(study, folder).items() for seed in study.seeds]


# -------------------------------------------------------------------- superclass branches


def train_branches(study: Study, folder: Path, setting: Dropout, seed: int) -> dict:
    """Tune the shared supernet on every superclass's own images in turn; all branches go into one file, as bfloat16."""
    path = folder / "supernets" / f"branches-{setting.name}-{seed}.safetensors"
    key = study.key("data", "space", "training", "branch") + f"-{setting.name}-{seed}"
    if (record := finished(path, key)) is not None:
        return record
    dataset = data.load(study, folder / "dataset.safetensors").to(jobs.device())
    supernet = load_supernet(study, dataset, supernet_path(folder, setting, seed)).requires_grad_(True)
    shared = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    recipe = study.training.model_copy(update=study.branch.model_dump())
    compute = step_function(supernet, recipe, recipe.batch_size)
    branches, start = {}, time.perf_counter()
    for index, name in enumerate(dataset.hierarchy.superclasses):
        kept = dataset.hierarchy.kept([name])
        supernet.load_state_dict(shared)
        dropout = KeptClasses(kept.to(jobs.device()))
        train(supernet, dataset.train.only(kept), dropout, recipe, seed=seed, label=name, compute=compute)
        branches |= {f"{index}.{n}": tensor.bfloat16() for n, tensor in supernet.state_dict().items()}
    save_tensors(branches, path)
    return write_record(path, {"key": key, "seed": seed, "seconds": time.perf_counter() - start})


def load_branch(supernet: Supernet, path: Path, superclass: int) -> Supernet:
    """Put the weights of one superclass's branch into `supernet`, in place."""
    with safe_open(path, "pt") as file:
        supernet.load_state_dict({name: file.get_tensor(f"{superclass}.{name}") for name in supernet.state_dict()})
    return supernet


# -------------------------------------------------------------------- generators


def generator_folder(folder: Path, supernet: str, seed: int) -> Path:
    return folder / "generators" / f"{supernet}-{seed}"


def measure_pool(study: Study, folder: Path, supernet_name: str, setting: Dropout, seed: int) -> dict:
    """Measure random archs on the selection split: what accuracy models are fitted on.

    Writes pool.safetensors: archs [pool, decisions]; kept [s, classes], superclasses first, then unions that the
    comparison does not use; accuracy [pool, s] in percent; own [pool, images], whether each selection image is
    classified right among its superclass; labels [images]; seconds, the time of one arch.
    """
    path = generator_folder(folder, supernet_name, seed) / "pool.safetensors"
    key = study.key() + f"-{setting.name}-{seed}"
    if (record := finished(path, key)) is not None:
        return record
    dataset = data.load(study, folder / "dataset.safetensors").to(jobs.device())
    supernet = load_supernet(study, dataset, supernet_path(folder, setting, seed))
    rng = torch.Generator().manual_seed(seed)
    archs = pool_archs(study, supernet.space, dataset.hierarchy, rng)
    kept = pool_scenarios(study, dataset.hierarchy, rng)
    parent, calibration = dataset.hierarchy.parent, calibration_images(study, dataset)
    accuracy, own, start = [], [], time.perf_counter()
    for arch in tqdm(archs, f"pool {supernet_name}-{seed}", mininterval=1):
        logits = evaluation.subnet_logits(supernet, arch, calibration, dataset.selection)
        accuracy.append(evaluation.superclass_top1(logits, dataset.selection.labels, kept))
        own.append(evaluation.own_superclass_correct(logits, dataset.selection.labels, parent))
    seconds = (time.perf_counter() - start) / len(archs)
    tensors = {"archs": archs, "kept": kept, "accuracy": torch.stack(accuracy), "own": torch.stack(own)}
    save_tensors(tensors | {"labels": dataset.selection.labels}, path)
    return write_record(path, {"key": key, "supernet": supernet_name, "seed": seed, "seconds_per_arch": seconds})


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
    path = generator_folder(folder, supernet, seed) / "pool.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run notebooks/03_generator for the study {study.name} first")
    return load_file(path)


def new_generator(study: Study, space: SearchSpace, hierarchy: Hierarchy, *, blind: bool) -> Generator:
    anchors = torch.tensor(study.scenarios.budgets) * 1e6
    shape = {"width": study.generator.width, "embedding": study.generator.embedding}
    return Generator(space, len(hierarchy.classes), anchors, blind=blind, **shape)


def fit_models(study: Study, folder: Path, supernet_name: str, setting: Dropout, seed: int) -> dict:
    """Fit both accuracy models of one supernet on its pool, and train a generator on each; returns the record.

    Writes model_aware, model (unaware of the scenario), and the generators `model` and `blind`, each as safetensors.
    """
    out = generator_folder(folder, supernet_name, seed)
    key = study.key() + f"-{setting.name}-{seed}"
    if (record := finished(out / "generator_blind.safetensors", key)) is not None:
        return record
    pool = read_pool(study, folder, supernet_name, seed)
    dataset = data.load(study, folder / "dataset.safetensors")
    space = new_supernet(study, dataset).space
    torch.manual_seed(seed)
    record = {"key": key, "supernet": supernet_name, "seed": seed}
    for name, blind in (("_aware", False), ("", True)):
        model, start = AccuracyModel(space, len(dataset.hierarchy.classes), aware=not blind), time.perf_counter()
        steps = study.search.predictor_steps
        record[f"r2{name}"] = fit_accuracy_model(
            model, pool["archs"], pool["kept"], pool["accuracy"], steps=steps, seed=seed
        )
        record[f"seconds_model{name}"] = time.perf_counter() - start
        save_tensors(model.state_dict(), out / f"model{name}.safetensors")
        generator = "blind" if blind else "model"
        record |= fit_generator(study, dataset, space, ModelSignal(space, model), out, generator, seed)
    return write_record(out / "generator_blind.safetensors", record)


def fit_gates(study: Study, folder: Path, supernet_name: str, setting: Dropout, seed: int) -> dict:
    """Train the generator `gates` of one supernet by relaxed gates through it; returns the record."""
    out = generator_folder(folder, supernet_name, seed)
    key = study.key() + f"-{setting.name}-{seed}"
    if (record := finished(out / "generator_gates.safetensors", key)) is not None:
        return record
    dataset = data.load(study, folder / "dataset.safetensors")
    supernet = load_supernet(study, dataset, supernet_path(folder, setting, seed))
    rng = torch.Generator().manual_seed(seed)
    signal = GateSignal(supernet, dataset.train.to(jobs.device()), study.generator.gate_images, rng)
    torch.manual_seed(seed)
    record = {"key": key, "supernet": supernet_name, "seed": seed}
    record |= fit_generator(study, dataset, supernet.space, signal, out, "gates", seed)
    return write_record(out / "generator_gates.safetensors", record)


def fit_generator(
    study: Study, dataset: Dataset, space: SearchSpace, signal: Callable, out: Path, name: str, seed: int
) -> dict:
    """Train one generator and write generator_<name>.safetensors; returns its losses and seconds."""
    recipe, start = study.generator, time.perf_counter()
    gates = name == "gates"
    steps, count = (recipe.gate_steps, recipe.gate_scenarios) if gates else (recipe.steps, recipe.scenarios)
    generator = new_generator(study, space, dataset.hierarchy, blind=name == "blind")
    draw = scenario_sampler(study, dataset.hierarchy)
    label = f"{out.name} {name}"
    history = train_generator(generator, signal, draw, recipe, steps=steps, scenarios=count, seed=seed, label=label)
    save_tensors(generator.state_dict(), out / f"generator_{name}.safetensors")
    return {f"loss_{name}": history, f"seconds_generator_{name}": time.perf_counter() - start}


# -------------------------------------------------------------------- comparison: archs first, then their accuracy

SIGNALS = ("model", "gates")


def load_generator(study: Study, folder: Path, dataset: Dataset, supernet: str, seed: int, name: str) -> Generator:
    """A trained generator: 'model', 'gates' or 'blind'."""
    path = generator_folder(folder, supernet, seed) / f"generator_{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run notebooks/03_generator for the study {study.name} first")
    space = new_supernet(study, dataset).space
    generator = new_generator(study, space, dataset.hierarchy, blind=name == "blind")
    generator.load_state_dict(load_file(path))
    return generator.eval()


def propose(study: Study, folder: Path, supernet_name: str, setting: Dropout, seed: int) -> dict:
    """Every method's arch for every scenario, and its time; looks at the selection split only.

    Writes proposals.safetensors: one int64 [scenarios, decisions] for each method; the record holds search seconds for
    each method and scenario. A method that serves all scenarios in one batch is timed as a whole and shared out.
    """
    out = generator_folder(folder, supernet_name, seed)
    path, key = out / "proposals.safetensors", study.key() + f"-{setting.name}-{seed}"
    if (record := finished(path, key)) is not None:
        return record
    dataset = data.load(study, folder / "dataset.safetensors")
    space, wanted = new_supernet(study, dataset).space, scenarios(study, dataset.hierarchy)
    kept, budgets = wanted.kept, wanted.budgets
    generators = {n: load_generator(study, folder, dataset, supernet_name, seed, n) for n in (*SIGNALS, "blind")}
    effort = {"evaluations": study.search.evaluations, "population": study.search.population, "seed": seed}
    methods = {f"generator_{n}": (lambda g=g: g.generate(kept, budgets)) for n, g in generators.items()}
    methods["uniform"] = lambda: search.uniform(space, budgets, kept.sum(-1))
    proposals, seconds = {}, {}
    with torch.inference_mode():
        for suffix in ("", "_aware"):
            model = AccuracyModel(space, len(dataset.hierarchy.classes), aware=suffix == "_aware")
            model.load_state_dict(load_file(out / f"model{suffix}.safetensors"))
            methods[f"evolution{suffix}"] = lambda m=model: search.evolution(space, m, kept, budgets, **effort)
            found, taken = one_by_one(lambda k, b, m=model: search.ofa_evolution(space, m, k, b, **effort), wanted)
            proposals[f"ofa_evolution{suffix}"], seconds[f"ofa_evolution{suffix}"] = found, taken
        for name, method in methods.items():
            method()  # warm up: the first call of any torch function is slow
            start = time.perf_counter()
            proposals[name] = method()
            seconds[name] = [(time.perf_counter() - start) / len(wanted)] * len(wanted)
    save_tensors({name: archs.clone() for name, archs in proposals.items()}, path)
    return write_record(path, {"key": key, "supernet": supernet_name, "seed": seed, "seconds": seconds})


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

    Writes selected.safetensors: random, int64 [scenarios, decisions]; the record holds its seconds and the signals'
    mean superclass top-1.
    """
    out = generator_folder(folder, supernet_name, seed)
    path, key = out / "selected.safetensors", study.key() + f"-{setting.name}-{seed}"
    if (record := finished(path, key)) is not None:
        return record
    dataset = data.load(study, folder / "dataset.safetensors").to(jobs.device())
    supernet = load_supernet(study, dataset, supernet_path(folder, setting, seed))
    wanted, proposals = scenarios(study, dataset.hierarchy), load_file(out / "proposals.safetensors")
    calibration = calibration_images(study, dataset)
    record = {"key": key, "supernet": supernet_name, "seed": seed}
    for name in SIGNALS:
        top1 = measure_archs(supernet, proposals[f"generator_{name}"], wanted.kept, calibration, dataset.selection)
        record[f"selection_top1_{name}"] = top1.mean().item()
    start, best = time.perf_counter(), torch.empty(len(wanted), supernet.space.decisions, dtype=torch.long)
    rng = torch.Generator().manual_seed(seed)
    most_classes = wanted.kept.sum(-1).max()[None]
    for budget in wanted.budgets.unique():
        rows = (wanted.budgets == budget).nonzero()[:, 0]
        archs = search.random_archs(supernet.space, budget[None], most_classes, study.search.random, rng)[0]
        logits = [evaluation.subnet_logits(supernet, arch, calibration, dataset.selection) for arch in archs]
        top1 = [evaluation.superclass_top1(each, dataset.selection.labels, wanted.kept[rows]) for each in logits]
        best[rows] = archs[torch.stack(top1).argmax(0)]
    record["seconds"] = (time.perf_counter() - start) / len(wanted)
    save_tensors({"random": best}, path)
    return write_record(path, record)


def measure_archs(supernet: Supernet, archs: Tensor, kept: Tensor, calibration: data.Split, split: data.Split) -> Tensor:
    """Superclass top-1 in percent of every (arch, scenario) pair, float [n]; an arch that occurs twice is run once.

    `archs` int64 [n, decisions], `kept` bool [n, classes].
    """
    distinct, member = archs.unique(dim=0, return_inverse=True)
    top1 = torch.empty(len(archs))
    for index, arch in enumerate(distinct):
        rows = (member == index).nonzero()[:, 0]
        images = split.only(kept[rows].any(0))
        logits = evaluation.subnet_logits(supernet, arch, calibration, images)
        top1[rows] = evaluation.superclass_top1(logits, images.labels, kept[rows])
    return top1


def choose_signal(study: Study, folder: Path) -> str:
    """The generator's training signal with the best mean accuracy on the selection split, over supernets and seeds."""
    paths = [generator_folder(folder, name, seed) / "selected.json" for _, _, name, _, seed in supernet_jobs(study, folder)]
    records = pd.DataFrame([json.loads(path.read_text()) for path in paths])
    return max(SIGNALS, key=lambda name: records[f"selection_top1_{name}"].mean())


def measure_test(study: Study, folder: Path, supernet_name: str, setting: Dropout, seed: int, signal: str) -> dict:
    """The one look at the test split: top-1 of every method for every scenario, and the swap test.

    Writes measured.safetensors: for every method float [scenarios]; swap [budgets, superclasses, superclasses], the
    accuracy for the last one of the generated arch of the one before.
    """
    out = generator_folder(folder, supernet_name, seed)
    path, key = out / "measured.safetensors", study.key() + f"-{setting.name}-{seed}-{signal}"
    if (record := finished(path, key)) is not None:
        return record
    dataset = data.load(study, folder / "dataset.safetensors").to(jobs.device())
    supernet = load_supernet(study, dataset, supernet_path(folder, setting, seed))
    wanted, calibration = scenarios(study, dataset.hierarchy), calibration_images(study, dataset)
    archs = final_archs(folder, supernet_name, seed, signal)
    top1 = {}
    together = measure_archs(
        supernet, torch.cat(list(archs.values())), wanted.kept.repeat(len(archs), 1), calibration, dataset.test
    )
    top1 = dict(zip(archs, together.split(len(wanted)), strict=True))
    singles = len(dataset.hierarchy.superclasses)
    by_budget = archs["generator"].view(len(wanted.budgets.unique()), -1, supernet.space.decisions)[:, :singles]
    pairs = by_budget.repeat_interleave(singles, 1).flatten(0, 1)
    kept = wanted.kept[:singles].repeat(len(pairs) // singles, 1)
    swap = measure_archs(supernet, pairs, kept, calibration, dataset.test)
    top1["swap"] = swap.view(len(by_budget), singles, singles)
    if study.branch and supernet_name == "eas":
        top1["generator_branch"] = measure_branches(study, folder, supernet, dataset, archs["generator"], setting, seed)
    save_tensors(top1, path)
    return write_record(path, {"key": key, "supernet": supernet_name, "seed": seed, "signal": signal})


def final_archs(folder: Path, supernet: str, seed: int, signal: str) -> dict[str, Tensor]:
    """Every method's archs, int64 [scenarios, decisions]; 'generator' is the one trained with the chosen signal."""
    out = generator_folder(folder, supernet, seed)
    archs = load_file(out / "proposals.safetensors") | load_file(out / "selected.safetensors")
    trained = {name: archs.pop(f"generator_{name}") for name in SIGNALS}
    return {"generator": trained[signal]} | archs


def measure_branches(
    study: Study, folder: Path, supernet: Supernet, dataset: Dataset, archs: Tensor, setting: Dropout, seed: int
) -> Tensor:
    """Test top-1 of the generated archs with each superclass's own weights, float [scenarios]; NaN for unions.

    A branch is calibrated on the images that it was tuned on: its norms have only seen the superclass.
    """
    wanted = scenarios(study, dataset.hierarchy)
    path = folder / "supernets" / f"branches-{setting.name}-{seed}.safetensors"
    top1 = torch.full((len(wanted),), float("nan"))
    for index, name in enumerate(dataset.hierarchy.superclasses):
        branch = load_branch(supernet, path, index)
        rows = torch.tensor([row for row, scenario in enumerate(wanted.names) if scenario == name])
        own = dataset.train.only(wanted.kept[rows[0]])
        top1[rows] = measure_archs(branch, archs[rows], wanted.kept[rows], own, dataset.test)
    return top1


def comparison(study: Study, folder: Path, signal: str) -> pd.DataFrame:
    """The comparison table: one row for every method, supernet, seed and scenario."""
    dataset, rows = data.load(study, folder / "dataset.safetensors"), []
    space, wanted = new_supernet(study, dataset).space, scenarios(study, dataset.hierarchy)
    classes = wanted.kept.sum(-1)
    for _, _, supernet, _, seed in supernet_jobs(study, folder):
        out = generator_folder(folder, supernet, seed)
        archs, top1 = final_archs(folder, supernet, seed, signal), load_file(out / "measured.safetensors")
        seconds = json.loads((out / "proposals.json").read_text())["seconds"]
        seconds |= {"generator": seconds[f"generator_{signal}"]}
        seconds["random"] = [json.loads((out / "selected.json").read_text())["seconds"]] * len(wanted)
        if "generator_branch" in top1:
            archs["generator_branch"], seconds["generator_branch"] = archs["generator"], seconds["generator"]
        for method, found in archs.items():
            columns = {"method": method, "supernet": supernet, "seed": seed, "scenario": wanted.names}
            columns |= {"classes_kept": classes, "budget_madds": wanted.budgets.long()}
            columns |= {"madds": space.madds(found, classes), "top1": top1[method].double().round(decimals=4)}
            rows.append(pd.DataFrame(columns | {"search_seconds": seconds[method]}).dropna())
    return pd.concat(rows, ignore_index=True)
