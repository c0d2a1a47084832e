"""Scenarios: which sets of classes at which budgets, and what generators are trained on."""

from itertools import combinations
from pathlib import Path

import pytest
import torch
import yaml
from cases import seeded
from study_cases import changed, hierarchy_of

from eas.data import Hierarchy
from pipeline.params import OtherSets, load_study
from pipeline.scenarios import (
    evenly_spaced,
    every_scenario,
    large_unions,
    mixed_sets,
    other_scenarios,
    other_sets,
    scenario_sampler,
    scenarios,
    set_sampler,
    superclass_sets,
    training_sets,
)

ROOT = Path(__file__).parents[2]
STUDIES = yaml.safe_load((ROOT / "params.yaml").read_text())["studies"]


@pytest.fixture(scope="module")
def wide(study):
    """The tiny study with three budgets and four unions, whatever params.yaml says."""
    return changed(study, scenarios={"budgets": (0.3, 0.45, 0.6), "unions_of_two": 2, "unions_of_three": 2})


def test_scenarios_are_every_set_at_every_budget_in_order(wide, hierarchy):
    every, sets = scenarios(wide, hierarchy), superclass_sets(wide, hierarchy)
    assert len(sets) == 10 + 2 + 2 and len(every) == 14 * 3
    assert sets[:10] == [(name,) for name in hierarchy.superclasses]
    assert [len(each) for each in sets[10:]] == [2, 2, 3, 3] and len(set(sets)) == 14
    assert every.names == ["+".join(each) for each in sets] * 3
    assert every.kinds == (["superclass"] * 10 + ["union"] * 4) * 3
    assert every.budgets.tolist() == [3e5] * 14 + [4.5e5] * 14 + [6e5] * 14
    assert every.class_masks.shape == (42, 160) and every.class_masks.dtype == torch.bool
    for names, mask, count in zip(sets * 3, every.class_masks, every.class_counts, strict=True):
        assert torch.equal(mask, hierarchy.class_mask(names)) and count == mask.sum()


def test_a_superclass_whose_name_has_a_plus_is_no_union(wide, hierarchy):
    named = type(hierarchy)(("c++", *hierarchy.superclasses[1:]), hierarchy.members)
    assert scenarios(wide, named).kinds[0] == "superclass"


def test_a_part_of_the_scenarios_is_chosen_by_rows_or_kind(wide, hierarchy):
    every = scenarios(wide, hierarchy)
    unions = every.subset(every.of_kind("union").nonzero()[:, 0])
    assert len(unions) == 12 and set(unions.kinds) == {"union"} and unions.class_masks.shape == (12, 160)
    few = every.subset(torch.tensor([20, 3]))
    assert few.names == [every.names[20], every.names[3]] and torch.equal(few.budgets, every.budgets[[20, 3]])


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_superclasses_and_unions_times_budgets_scenarios(name):
    study = load_study(name, ROOT)
    hierarchy, asked = hierarchy_of(study), study.scenarios
    sets = len(hierarchy.superclasses) + asked.unions_of_two + asked.unions_of_three
    every = scenarios(study, hierarchy)
    assert len(every) == sets * len(asked.budgets)
    assert len(set(zip(every.names, every.budgets.tolist(), strict=True))) == len(every)


def test_unions_follow_from_the_seed_of_the_data(wide, hierarchy):
    sets = superclass_sets(wide, hierarchy)
    assert sets == superclass_sets(changed(wide, seeds=(7, 8, 9)), hierarchy)
    others = [superclass_sets(changed(wide, data={"seed": seed}), hierarchy) for seed in range(1, 6)]
    assert all(other[:10] == sets[:10] for other in others) and any(other != sets for other in others)


def test_more_unions_than_there_are_give_them_all(study, hierarchy):
    sets = superclass_sets(changed(study, scenarios={"unions_of_two": 100, "unions_of_three": 0}), hierarchy)
    assert sets[10:] == list(combinations(hierarchy.superclasses, 2))


def test_other_sets_are_of_every_kind_and_follow_from_the_seed_of_the_data(wide, hierarchy):
    asked = OtherSets(budget=0.45, unions_of_five=3, unions_of_ten=2, parts=6, across=4)
    study = changed(wide, other_sets=asked)
    sets = other_sets(study, hierarchy)
    kinds = [kind for kind, _ in sets]
    assert kinds == ["large_union"] * 3 + ["part"] * 6 + ["across"] * 4 + ["all"]  # ten superclasses: no union of ten
    parent = dict(zip(hierarchy.classes, hierarchy.parent.tolist(), strict=True))
    by_kind = {kind: [names for each, names in sets if each == kind] for kind in kinds}
    assert all(len(set(names)) == 5 and set(names) < set(hierarchy.superclasses) for names in by_kind["large_union"])
    assert [len(names) for names in by_kind["part"]] == [2, 3, 4] * 2
    assert all(len({parent[name] for name in names}) == 1 for names in by_kind["part"])
    assert all(len({parent[name] for name in names}) == len(names) == 7 for names in by_kind["across"])
    assert by_kind["all"] == [hierarchy.superclasses]
    assert other_sets(changed(study, seeds=(5,)), hierarchy) == sets
    assert other_sets(changed(study, data={"seed": 1}), hierarchy) != sets
    every = other_scenarios(study, hierarchy)
    assert every.kinds == kinds and every.budgets.tolist() == [4.5e5] * 14 and every.names[-1] == "all"
    for (_, names), mask in zip(sets, every.class_masks, strict=True):
        assert torch.equal(mask, hierarchy.class_mask(names))
    first, both = scenarios(study, hierarchy), every_scenario(study, hierarchy)
    assert both.names == first.names + every.names and torch.equal(both.class_masks[len(first) :], every.class_masks)
    none = changed(study, other_sets=None)
    assert len(other_scenarios(none, hierarchy)) == 0 and every_scenario(none, hierarchy).names == first.names


def test_a_part_is_never_a_whole_superclass_and_large_unions_are_never_trained_on(wide):
    hierarchy = Hierarchy.from_groups({f"s{i}": [f"s{i}c{c}" for c in range(2 + i % 2)] for i in range(6)})
    study = changed(wide, other_sets=OtherSets(budget=0.45, unions_of_five=2, parts=9, across=1))
    parts = [names for kind, names in other_sets(study, hierarchy) if kind == "part"]
    assert parts and all(len(names) == 2 and names[0][:2] in ("s1", "s3", "s5") for names in parts)
    held = {hierarchy.class_mask(names) for names in large_unions(study, hierarchy)}
    masks, size = training_sets(study, hierarchy, (1, 5))
    assert (size == 5).sum() == 6 - 2 and not any(torch.equal(mask, each) for mask in masks for each in held)


def test_of_very_many_sets_some_are_trained_on(wide, monkeypatch):
    monkeypatch.setattr("pipeline.scenarios.MOST_SETS", 50)
    hierarchy = Hierarchy.from_groups({f"s{i}": [f"s{i}a", f"s{i}b"] for i in range(12)})
    masks, size = training_sets(wide, hierarchy, (1, 2, 5))  # 12, 66 and 792 of these
    assert (size == 1).sum() == 12 and 20 < (size == 2).sum() <= 50 and 40 < (size == 5).sum() <= 50
    assert len(masks.unique(dim=0)) == len(masks) and torch.equal(masks.sum(1), 2 * size)
    assert torch.equal(masks, training_sets(wide, hierarchy, (1, 2, 5))[0])


def drawn(study, hierarchy, count, seed=0):
    """Sets of superclasses and budgets as the sampler draws them; each a union of whole superclasses."""
    masks, budgets = scenario_sampler(study, hierarchy)(count, seeded(seed))
    superclasses = torch.stack([hierarchy.class_mask([name]) for name in hierarchy.superclasses])
    touched, whole = (masks[:, None] & superclasses).any(2), (masks[:, None] | ~superclasses).all(2)
    assert torch.equal(touched, whole)
    return [frozenset(row.nonzero()[:, 0].tolist()) for row in whole], budgets


@pytest.mark.parametrize("name", STUDIES)
def test_mixed_sets_have_some_classes_of_several_superclasses_and_are_none_of_the_comparison(name):
    study = load_study(name, ROOT)
    hierarchy = hierarchy_of(study)
    sets, known = mixed_sets(study, hierarchy), {each for _, each in other_sets(study, hierarchy)}
    assert len(sets) == 12 and known.isdisjoint(sets) and sets == mixed_sets(study, hierarchy)
    parents = [hierarchy.parent[hierarchy.class_mask(each)] for each in sets]
    assert [len(each.unique()) for each in parents] == [2, 3, 4, 5, 6, 7] * 2
    sizes = torch.tensor([len(names) for names in hierarchy.members])
    assert all((classes.bincount(minlength=len(sizes)) < sizes).all() for classes in parents)  # some, but not all


def test_training_scenarios_are_one_to_three_superclasses_and_never_a_union_of_the_comparison(wide, hierarchy):
    many = changed(wide, scenarios={"unions_of_two": 30, "unions_of_three": 100})
    names = hierarchy.superclasses
    held_out = {frozenset(map(names.index, each)) for each in superclass_sets(many, hierarchy) if len(each) > 1}
    assert len(held_out) == 130
    sets, budgets = drawn(many, hierarchy, 6000)
    assert not held_out & set(sets)
    sizes = torch.tensor([len(each) for each in sets]).bincount() / len(sets)
    assert len(sizes) == 4 and (sizes[1:] - 1 / 3).abs().max() < 0.03
    assert len(set(sets)) == 10 + (45 - 30) + (120 - 100)  # everything else is drawn
    assert budgets.dtype == torch.float64 and 3e5 <= budgets.min() < 3.1e5 and 5.9e5 < budgets.max() <= 6e5
    assert budgets.mean() == pytest.approx(4.5e5, rel=0.01)


def test_sets_to_train_branches_on_are_drawn_evenly_and_never_a_union_of_the_comparison(wide, hierarchy):
    masks = set_sampler(wide, hierarchy, {3: 3.0, 1: 1.0})(4000, seeded())
    superclasses = torch.stack([hierarchy.class_mask([name]) for name in hierarchy.superclasses])
    member = (masks[:, None] & superclasses).any(2)
    held_out = [hierarchy.class_mask(names) for names in superclass_sets(wide, hierarchy) if len(names) == 3]
    assert not (masks[:, None] == torch.stack(held_out)).all(2).any()
    single = member[member.sum(1) == 1].sum(0)
    expected = single.sum() * superclasses.sum(1) / superclasses.sum()
    assert (single - expected).abs().max() <= 1  # in proportion to their classes, but for rounding
    assert set(member.sum(1).tolist()) == {1, 3} and 900 < single.sum() < 1100


def test_sets_that_are_not_there_are_refused_in_one_line(wide, hierarchy):
    with pytest.raises(ValueError, match="no set of 11 superclasses is there to train branches on") as caught:
        set_sampler(wide, hierarchy, {1: 1.0, 11: 2.0})
    assert "\n" not in str(caught.value)


def test_training_scenarios_repeat_with_the_generators_seed(wide, hierarchy):
    first, second, other = (drawn(wide, hierarchy, 50, seed) for seed in (0, 0, 1))
    assert first[0] == second[0] and torch.equal(first[1], second[1])
    assert first[0] != other[0] and not torch.equal(first[1], other[1])


def test_every_union_held_out_leaves_what_remains_to_train_on(study, hierarchy):
    every = changed(study, scenarios={"unions_of_two": 100, "unions_of_three": 1000})
    sets, _ = drawn(every, hierarchy, 200)
    assert {len(each) for each in sets} == {1}


@pytest.mark.parametrize(
    ("count", "length", "expected"),
    [(0, 5, []), (1, 5, [0]), (2, 5, [0, 4]), (3, 6, [0, 2, 5]), (5, 5, [0, 1, 2, 3, 4])],
)
def test_spaced_indices_include_the_ends(count, length, expected):
    assert evenly_spaced(count, length) == expected
