"""The scenarios of a study: which sets of classes, at which budgets, and what generators are trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from math import comb

import torch
from torch import Tensor

from eas.branches import DrawSets
from eas.data import Hierarchy
from eas.generator import ScenarioSampler
from pipeline.params import Study

MEGA = 1e6  # params.yaml gives budgets in million multiply-adds
MIXED_SETS = 12  # that branches are judged on
MOST_SETS = 20_000  # of a size that are trained on
PART, ACROSS = (2, 3, 4), 7  # classes of a part, in turn; superclasses that a set across takes a class of
Names = tuple[str, ...]  # of superclasses and classes


@dataclass(frozen=True)
class Scenarios:
    """Deployment scenarios: names, kinds, class masks (bool [n, classes]) and budgets (multiply-adds, float64 [n])."""

    names: list[str]
    kinds: list[str]  # of methods.KINDS
    class_masks: Tensor
    budgets: Tensor

    def __len__(self) -> int:
        return len(self.names)

    @property
    def class_counts(self) -> Tensor:
        return self.class_masks.sum(-1)

    def of_kind(self, kind: str) -> Tensor:
        """Which of them are of a kind, bool [n]."""
        return torch.tensor([each == kind for each in self.kinds])

    def subset(self, rows: Tensor) -> Scenarios:
        """Those of the rows, int64 [m]."""
        names, kinds = ([each[i] for i in rows.tolist()] for each in (self.names, self.kinds))
        return Scenarios(names, kinds, self.class_masks[rows], self.budgets[rows])


def superclass_sets(study: Study, hierarchy: Hierarchy) -> list[Names]:
    """The study's sets of superclasses: every single one, then the seeded unions of two and of three."""
    sets = [(name,) for name in hierarchy.superclasses]
    rng = torch.Generator().manual_seed(study.data.seed)
    for size, count in ((2, study.scenarios.unions_of_two), (3, study.scenarios.unions_of_three)):
        candidates = list(combinations(hierarchy.superclasses, size))
        picked = torch.randperm(len(candidates), generator=rng)[:count].sort().values
        sets += [candidates[i] for i in picked.tolist()]
    return sets


def scenarios(study: Study, hierarchy: Hierarchy) -> Scenarios:
    """Every set of `superclass_sets` at every budget of the study, budget after budget: for all methods."""
    sets = superclass_sets(study, hierarchy)
    kinds = ["union" if len(names) > 1 else "superclass" for names in sets]
    return at_budgets(hierarchy, list(zip(kinds, sets, strict=True)), study.scenarios.budgets)


def other_scenarios(study: Study, hierarchy: Hierarchy) -> Scenarios:
    """The study's other sets, at their one budget; none in a study without."""
    budgets = [study.other_sets.budget] if study.other_sets else []
    return at_budgets(hierarchy, other_sets(study, hierarchy), budgets)


def every_scenario(study: Study, hierarchy: Hierarchy) -> Scenarios:
    """The scenarios of all methods, then the other ones."""
    first, others = scenarios(study, hierarchy), other_scenarios(study, hierarchy)
    masks, budgets = (torch.cat([getattr(each, of) for each in (first, others)]) for of in ("class_masks", "budgets"))
    return Scenarios(first.names + others.names, first.kinds + others.kinds, masks, budgets)


def at_budgets(hierarchy: Hierarchy, sets: list[tuple[str, Names]], budgets: Sequence[float]) -> Scenarios:
    """Sets, each a kind and names of superclasses and classes, at budgets (in million), budget after budget."""
    masks = [hierarchy.class_mask(names) for _, names in sets]
    class_masks = torch.stack(masks) if masks else torch.zeros(0, len(hierarchy.classes), dtype=torch.bool)
    madds = torch.tensor(budgets, dtype=torch.float64) * MEGA
    names = ["all" if kind == "all" else "+".join(names) for kind, names in sets] * len(madds)
    kinds = [kind for kind, _ in sets] * len(madds)
    return Scenarios(names, kinds, class_masks.repeat(len(madds), 1), madds.repeat_interleave(len(sets)))


def other_sets(study: Study, hierarchy: Hierarchy) -> list[tuple[str, Names]]:
    """Kind and names of the sets that params.OtherSets asks for, seeded; none in a study without."""
    if not (asked := study.other_sets):
        return []
    rng, superclasses = torch.Generator().manual_seed(study.data.seed), hierarchy.superclasses
    members = dict(zip(superclasses, hierarchy.members, strict=True))
    divisible = tuple(name for name in superclasses if len(members[name]) > PART[0])
    sets = [("large_union", names) for names in large_unions(study, hierarchy)]
    for index in range(asked.parts if divisible else 0):
        classes = members[some(divisible, 1, rng)[0]]
        sets.append(("part", some(classes, min(PART[index % len(PART)], len(classes) - 1), rng)))
    for _ in range(asked.across):
        touched = some(superclasses, ACROSS, rng)
        sets.append(("across", tuple(some(members[name], 1, rng)[0] for name in touched)))
    return [*dict.fromkeys(sets), ("all", superclasses)]


def large_unions(study: Study, hierarchy: Hierarchy) -> list[Names]:
    """The study's unions of five and of ten superclasses, seeded."""
    rng, superclasses = torch.Generator().manual_seed(study.data.seed), hierarchy.superclasses
    asked = study.other_sets
    counts = {5: asked.unions_of_five, 10: asked.unions_of_ten} if asked else {}
    sizes = [size for size, count in counts.items() if size < len(superclasses) for _ in range(count)]
    return [*dict.fromkeys(some(superclasses, size, rng) for size in sizes)]


def some(names: Names, count: int, rng: torch.Generator) -> Names:
    """So many of the names at random, all where there are fewer, in their order."""
    return tuple(names[i] for i in torch.randperm(len(names), generator=rng)[:count].sort().values.tolist())


def whole_sets(study: Study, hierarchy: Hierarchy) -> list[Names]:
    """All of the study's sets of whole superclasses."""
    every = [hierarchy.superclasses] if study.other_sets else []
    return superclass_sets(study, hierarchy) + large_unions(study, hierarchy) + every


def mixed_sets(study: Study, hierarchy: Hierarchy) -> list[Names]:
    """Seeded sets of some of the classes of two superclasses up to ACROSS (a test: none is the comparison's)."""
    rng, superclasses = torch.Generator().manual_seed(study.data.seed + 1), hierarchy.superclasses
    members = dict(zip(superclasses, hierarchy.members, strict=True))
    found: list[Names] = []
    for index in range(MIXED_SETS):
        touched = some(superclasses, 2 + index % (ACROSS - 1), rng)
        most = max(1, min(len(members[name]) for name in touched) - 1)
        count = 1 + int(torch.randint(most, (1,), generator=rng))
        found.append(tuple(chain.from_iterable(some(members[name], count, rng) for name in touched)))
    return [*dict.fromkeys(found)]


def training_sets(study: Study, hierarchy: Hierarchy, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The sets of so many superclasses that may be trained on, never a union that is measured.

    All of a size, or MOST_SETS at random of very many. Masks bool [n, classes], and the number of superclasses of each,
    int64 [n].
    """
    count, names = len(hierarchy.superclasses), hierarchy.superclasses
    sets = superclass_sets(study, hierarchy) + (large_unions(study, hierarchy) if max(sizes) > 3 else [])
    held_out = {frozenset(names.index(name) for name in each) for each in sets if len(each) > 1}
    rng = torch.Generator().manual_seed(study.data.seed)
    allowed = [each for size in sizes for each in sets_of(count, size, rng) if each not in held_out]
    member = torch.zeros(len(allowed), count, dtype=torch.bool)
    for row, each in enumerate(allowed):
        member[row, list(each)] = True
    return member[:, hierarchy.parent], member.sum(1)


def sets_of(count: int, size: int, rng: torch.Generator) -> list[frozenset[int]]:
    """The sets of `size` of `count` numbers; MOST_SETS draws, each set once, where there are more."""
    if comb(count, size) <= MOST_SETS:
        return [frozenset(each) for each in combinations(range(count), size)]
    drawn = torch.rand(MOST_SETS, count, generator=rng).topk(size).indices
    return [*dict.fromkeys(map(frozenset, drawn.tolist()))]


def set_sampler(study: Study, hierarchy: Hierarchy, frequencies: Mapping[int, float]) -> DrawSets:
    """Draws sets of so many superclasses that often; those of equal size in proportion to their classes.

    As evenly as their number allows (systematic sampling), in random order: how often a branch is trained is not left
    to chance. ValueError where there are none of a size.
    """
    masks, size = training_sets(study, hierarchy, list(frequencies))
    if without := sorted(set(frequencies) - set(size.tolist())):
        raise ValueError(f"no set of {without[0]} superclasses is there to train branches on: leave it out of `sets`")
    classes, often = masks.sum(1).double(), torch.zeros(max(frequencies) + 1, dtype=torch.double)
    often[list(frequencies)] = torch.tensor(list(frequencies.values()), dtype=torch.double)
    upto = (often[size] * classes / torch.zeros_like(often).index_add(0, size, classes)[size]).cumsum(0)

    def draw(count: int, rng: torch.Generator) -> Tensor:
        points = (torch.arange(count) + torch.rand(1, generator=rng).double()) / count * upto[-1]
        rows = torch.searchsorted(upto, points).clamp_max(len(masks) - 1)
        return masks[rows[torch.randperm(count, generator=rng)]]

    return draw


def scenario_sampler(study: Study, hierarchy: Hierarchy) -> ScenarioSampler:
    """Draws training scenarios: one to three superclasses, equally often (see training_sets); any budget in range."""
    masks, size = training_sets(study, hierarchy, (1, 2, 3))
    weight = 1.0 / torch.bincount(size)[size]
    low, high = min(study.scenarios.budgets) * MEGA, max(study.scenarios.budgets) * MEGA

    def draw(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.multinomial(weight, n, replacement=True, generator=rng)
        return masks[rows], low + (high - low) * torch.rand(n, dtype=torch.float64, generator=rng)

    return draw


def evenly_spaced(count: int, length: int) -> list[int]:
    """`count` indices from 0 to length - 1, evenly spaced, ends included."""
    return [i * (length - 1) // max(1, count - 1) for i in range(count)]
