"""How costs grow with the number of classes, superclasses, decisions and scenarios."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks import timing
from eas.additive import fit_additive
from eas.branches import TunedBranches, tuned_names
from eas.dropout import SuperclassDropout, masked_cross_entropy, soft_targets
from eas.evaluation import own_superclass_correct
from eas.generator import Generator, PredictorSignal, train_generator
from eas.predictor import AccuracyPredictor
from eas.recipes import Dropout, GeneratorTraining
from eas.search import evolution
from eas.spaces import ChoiceSpace, PreResNetSpace

Works = Mapping[tuple[str, int], timing.Work]  # (work, size) to what is timed

IMAGE_SIZE, CHANNELS, WIDTHS, RATIOS = 32, 3, (16, 32, 64), (0.25, 0.5, 0.75, 1.0)  # as in the study cifar100
BLOCKS, CLASSES, SUPERCLASSES = 4, 100, 20  # likewise, where another size grows
MEMBERS = 5  # classes of a superclass, where the number of classes grows
SCENARIOS, BATCH, ARCHS = 50, 256, 10_000  # of one call, where another size grows
EVALUATIONS, POPULATION = 200, 50
IMAGES, POOL = 10_000, 200  # that are evaluated, and the archs that were measured on them
STEPS = 20  # of training a generator
SET = 3  # superclasses of the set that a step trains branches of
ANCHORS = 5  # budgets that a generator's embedding interpolates between
MANY = 500_000  # scenarios from which one round is enough: it takes so long that hiccups do not show
TOP = 3  # largest sizes whose growth `exponents` gives by itself


@dataclass(frozen=True)
class Sizes:
    """What is timed along every axis."""

    classes: tuple[int, ...] = (10, 30, 100, 300, 1000)
    superclasses: tuple[int, ...] = (2, 10, 50, 250)
    superclasses_of: int = 1000  # classes
    blocks: tuple[int, ...] = (2, 4, 8, 16, 32)  # a stage
    scenarios: tuple[int, ...] = (1, 10, 100, 1000, 10_000, 100_000, 1_000_000)
    memory: tuple[int, ...] = (1000, 100_000, 1_000_000)  # those of `scenarios` whose peak memory is measured


FULL = Sizes()
TRAIN = f"train a generator, {STEPS} steps"
TOP1 = f"top-1 of {IMAGES} images"
FIT = f"closed form, {POOL} archs on {IMAGES} images"
BRANCHES = f"branches, around a training step of {SET} superclasses"


def measure(sizes: Sizes = FULL) -> pd.DataFrame:
    """Columns axis, work, size; seconds, low, high, rounds (see timing.compare); peak_mb, NaN where not measured."""
    classes = time_works(over_classes(sizes.classes), "classes")
    superclasses = time_works(over_superclasses(sizes.superclasses, sizes.superclasses_of), "superclasses")
    parts = {
        "classes": with_memory(
            classes,
            {
                TRAIN: partial(for_classes, generator_steps),
                TOP1: partial(for_classes, evaluation),
                FIT: partial(for_classes, closed_form),
            },
        ),
        "superclasses": with_memory(superclasses, {BRANCHES: branches_and_step}),
        "decisions": time_works(over_decisions(sizes.blocks), "decisions"),
        "scenarios": over_scenarios(sizes.scenarios, sizes.memory),
    }
    table = pd.concat([part.assign(axis=axis) for axis, part in parts.items()], ignore_index=True)
    return table[["axis", "work", "size", "seconds", "low", "high", "rounds", "peak_mb"]]


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """How each work of `measure` grows: columns axis, work, exponent, exponent_top (see timing.exponent).

    exponent_top is of the largest sizes, where fixed costs no longer hide the growth.
    """
    rows = []
    for (axis, work), part in table.groupby(["axis", "work"], sort=False):
        size, seconds = part.sort_values("size")[["size", "seconds"]].to_numpy().T
        over_all, at_top = (timing.exponent(size[-n:], seconds[-n:]) for n in (len(size), TOP))
        rows.append({"axis": axis, "work": work, "exponent": over_all, "exponent_top": at_top})
    return pd.DataFrame(rows)


def time_works(works: Works, label: str) -> pd.DataFrame:
    """Time all works in turns; columns work, size, seconds, low, high, rounds and an empty peak_mb."""
    table = timing.compare({f"{work}: {size}": run for (work, size), run in works.items()}, label)
    return table.assign(work=[work for work, _ in works], size=[size for _, size in works], peak_mb=np.nan)


def with_memory(table: pd.DataFrame, prepared: Mapping[str, Callable[[int], timing.Work]]) -> pd.DataFrame:
    """The table with the peak memory of some works at every size, each in a process of its own (timing.peak_memory)."""
    peaks = {}
    for work, prepare in prepared.items():
        rows = table["size"][table.work == work]
        peaks |= {index: timing.peak_memory(prepare, size) for index, size in rows.items()}
    return table.assign(peak_mb=pd.Series(peaks).reindex(table.index))


# -------------------------------------------------------------------- the axes


def for_classes(prepare: Callable[[Tensor], timing.Work], classes: int) -> timing.Work:
    """A work on so many classes, in superclasses of MEMBERS."""
    return prepare(hierarchy(classes, classes // MEMBERS))


def over_classes(sizes: tuple[int, ...]) -> Works:
    """Superclasses of equal size, so that their number grows as well; a scenario is one superclass."""
    works = {}
    for classes in sizes:
        parent = hierarchy(classes, classes // MEMBERS)
        works[f"generate, {SCENARIOS} scenarios", classes] = generation(space_of(BLOCKS), parent, SCENARIOS)
        works[f"superclass dropout and loss, batch of {BATCH}", classes] = dropout_and_loss(parent)
        works[TRAIN, classes] = generator_steps(parent)
        works[TOP1, classes] = evaluation(parent)
        works[FIT, classes] = closed_form(parent)
    return works


def over_superclasses(sizes: tuple[int, ...], classes: int) -> Works:
    """The same classes in more and more superclasses; a scenario is one superclass."""
    works = {}
    for superclasses in sizes:
        parent = hierarchy(classes, superclasses)
        labels, rng = random_labels(parent), torch.Generator().manual_seed(0)
        draw = partial(dropout_of(parent), labels, rng, 0.0)
        works[f"superclass dropout, batch of {BATCH}", superclasses] = draw
        works[f"generate, {SCENARIOS} scenarios", superclasses] = generation(space_of(BLOCKS), parent, SCENARIOS)
        works[BRANCHES, superclasses] = branch_step(superclasses)
    return works


def over_decisions(blocks: tuple[int, ...]) -> Works:
    """Deeper and deeper stages; the size is the number of decisions."""
    works, parent = {}, hierarchy(CLASSES, SUPERCLASSES)
    for space in map(space_of, blocks):
        archs = space.sample(ARCHS, torch.Generator().manual_seed(0))
        size = space.decisions
        works[f"generate, {SCENARIOS} scenarios", size] = generation(space, parent, SCENARIOS)
        works[f"multiply-adds, {ARCHS} archs", size] = partial(space.madds, archs, CLASSES)
        works[f"evolution, {SCENARIOS} scenarios, {EVALUATIONS} evaluations each", size] = search(space, parent)
    return works


def over_scenarios(sizes: tuple[int, ...], memory: tuple[int, ...]) -> pd.DataFrame:
    """More and more scenarios in one call; the memory of `memory` of them, each in a process of its own."""
    works = {("generate", count): prepare_generation(count) for count in sizes if count < MANY}
    table = time_works(works, "scenarios")
    for count in (count for count in sizes if count >= MANY):
        seconds = timing.seconds(prepare_generation(count))
        row = {"work": "generate", "size": count, "seconds": seconds, "low": seconds, "high": seconds, "rounds": 1}
        table = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
    peak = {count: timing.peak_memory(prepare_generation, count) for count in memory}
    return table.assign(peak_mb=table["size"].map(peak))


# -------------------------------------------------------------------- the works


def space_of(blocks: int) -> PreResNetSpace:
    """Three stages of at most `blocks` blocks, any number of which an arch keeps."""
    return PreResNetSpace(IMAGE_SIZE, CHANNELS, WIDTHS, tuple(range(1, blocks + 1)), RATIOS)


def hierarchy(classes: int, superclasses: int) -> Tensor:
    """The superclass of every class, int64 [classes]; sizes differ by one at most."""
    return torch.arange(classes) * superclasses // classes


def scenarios(space: ChoiceSpace, parent: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Random superclasses, one a scenario, as class masks (bool [count, classes]), and random budgets [count].

    Budgets are between a tenth above the smallest arch and the largest arch: few fit at once, few fit everything.
    """
    rng = torch.Generator().manual_seed(0)
    member = torch.arange(int(parent.max()) + 1)[:, None] == parent
    rows = torch.randint(len(member), (count,), generator=rng)
    low, high = space.madds(space.smallest, member.sum(1)) * 1.1, space.madds(space.largest, member.sum(1)).double()
    return member[rows], torch.lerp(low.double()[rows], high[rows], torch.rand(count, dtype=high.dtype, generator=rng))


def generation(space: ChoiceSpace, parent: Tensor, count: int) -> timing.Work:
    """An untrained generator, called once for `count` scenarios."""
    class_masks, budgets = scenarios(space, parent, count)
    torch.manual_seed(0)
    generator = Generator(space, len(parent), torch.linspace(float(budgets.min()), float(budgets.max()), ANCHORS))
    return partial(generator.generate, class_masks, budgets)


def prepare_generation(count: int) -> timing.Work:
    """`generation` where scenarios grow. One scenario is generated here: what the first call sets up is no growth."""
    space, parent = space_of(BLOCKS), hierarchy(CLASSES, SUPERCLASSES)
    generation(space, parent, 1)()
    return generation(space, parent, count)


def dropout_of(parent: Tensor) -> SuperclassDropout:
    """The variant that draws most: every superclass for every sample."""
    return SuperclassDropout(parent, Dropout(variant="sample", rate=0.5))


def random_labels(parent: Tensor) -> Tensor:
    """int64 [BATCH]"""
    return torch.randint(len(parent), (BATCH,), generator=torch.Generator().manual_seed(0))


def dropout_and_loss(parent: Tensor) -> timing.Work:
    """What superclass dropout adds to a training step, forward: the draw, the targets and the masked loss."""
    rng, labels, dropout = torch.Generator().manual_seed(0), random_labels(parent), dropout_of(parent)
    logits = torch.randn(BATCH, len(parent), generator=rng)

    def work() -> Tensor:
        class_mask, weight = dropout(labels, rng, 0.0)
        return masked_cross_entropy(logits, soft_targets(labels, class_mask, 0.0), class_mask, weight)

    return work


def search(space: ChoiceSpace, parent: Tensor) -> timing.Work:
    """Evolution of SCENARIOS scenarios side by side, on a predictor that is not fitted."""
    torch.manual_seed(0)
    predictor = AccuracyPredictor(space, len(parent), aware=True)
    effort = {"evaluations": EVALUATIONS, "population": POPULATION, "seed": 0}
    return torch.inference_mode()(partial(evolution, space, predictor, *scenarios(space, parent, SCENARIOS), **effort))


def generator_steps(parent: Tensor) -> timing.Work:
    """Training of a generator on a predictor that is not fitted."""
    space, recipe = space_of(BLOCKS), GeneratorTraining(steps=STEPS)
    class_masks, budgets = scenarios(space, parent, recipe.scenarios)
    torch.manual_seed(0)
    generator = Generator(space, len(parent), torch.linspace(float(budgets.min()), float(budgets.max()), ANCHORS))
    signal = PredictorSignal(AccuracyPredictor(space, len(parent), aware=True))

    def work() -> None:
        with redirect_stderr(io.StringIO()):  # its progress bar, once a call
            train_generator(generator, signal, lambda count, rng: (class_masks, budgets), recipe, seed=0)

    return work


def evaluation(parent: Tensor) -> timing.Work:
    """What follows a network's logits: the best class of each image's own superclass."""
    labels = torch.arange(IMAGES) % len(parent)
    logits = torch.randn(IMAGES, len(parent), generator=torch.Generator().manual_seed(0))
    return partial(own_superclass_correct, logits, labels, parent)


def closed_form(parent: Tensor) -> timing.Work:
    """The fit of a generator in closed form, on archs that are right at random."""
    space, rng = space_of(BLOCKS), torch.Generator().manual_seed(0)
    labels, right = torch.arange(IMAGES) % len(parent), torch.rand(POOL, IMAGES, generator=rng) < 0.5
    measured = (space.sample(POOL, rng), right, labels, parent)
    return partial(fit_additive, space, *measured, budget_range=(0.0, 1.0), seed=0)


def branch_step(superclasses: int) -> timing.Work:
    """What branches add to a training step: the mean of a set's, its gradients shared out, and their step."""
    supernet = space_of(BLOCKS).supernet(CLASSES, [0.5] * CHANNELS, [0.25] * CHANNELS)
    branches = TunedBranches(supernet, tuned_names(supernet, "all"), superclasses)
    optimizer = torch.optim.SGD(branches.parameters(), 0.1, momentum=0.9)
    chosen = torch.randperm(superclasses, generator=torch.Generator().manual_seed(0))[:SET]
    shares = torch.zeros(superclasses).index_fill(0, chosen, 1 / len(chosen))

    def work() -> None:
        branches.compose(shares)
        for parameter in branches.mean:
            parameter.grad = torch.ones_like(parameter)
        branches.take_gradients()
        optimizer.step()

    return work


def branches_and_step(superclasses: int) -> timing.Work:
    """The same with what holds the branches, for its memory."""
    return lambda: branch_step(superclasses)()
