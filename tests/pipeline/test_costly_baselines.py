"""Baselines of far higher cost: on which seeds and scenarios, of what they are made, and that each is optional."""

import json

import pytest
import torch
from study_cases import same, with_study

from eas import training
from eas.evaluation import measure_archs
from eas.files import write_text
from eas.recipes import NO_DROPOUT
from pipeline import comparison, costly_baselines, generators, steps, supernets
from pipeline.scenarios import scenarios
from pipeline.steps import STEPS


def base(workspace, name, seed=0):
    return supernets.base_of(workspace, name, seed)


# -------------------------------------------------------------------- a long search


def test_a_long_search_finds_what_is_predicted_better(finished):
    study, dataset = finished.study, finished.dataset()
    assert study.long_search.evaluations > study.search.evaluations
    every = scenarios(study, dataset.hierarchy)
    assert [job["base"].seed for job in costly_baselines.long_jobs(finished)] == [0, 0]
    for job in costly_baselines.long_jobs(finished):
        predictor = generators.load_predictor(finished, dataset, job["base"], aware=False)
        short = steps.tensors_of(finished, "proposals", base=job["base"])["evolution"]
        archs = steps.tensors_of(finished, "long", **job)["archs"], short
        with torch.inference_mode():
            long, short = (predictor.score(each, every.class_masks) for each in archs)
        assert long.mean() > short.mean()
        space = supernets.new_space(study, dataset)
        assert (space.madds(archs[0], every.class_counts) <= every.budgets).all()


# -------------------------------------------------------------------- archs tuned alone


def test_archs_are_tuned_for_superclasses_on_one_supernet_and_for_unions_on_the_other(finished):
    """OFA's at every budget; the generator's at the middle one."""
    jobs = costly_baselines.tuned_jobs(finished)
    found = [(job["base"].name, job["base"].seed, job["budget"]) for job in jobs]
    assert found == [("dropout", 0, 1), ("plain", 0, 0), ("plain", 0, 1), ("plain", 0, 2)]
    more = costly_baselines.tuned_jobs(with_study(finished, finetune={"seeds": 2}))
    assert [job for job in more if job["base"].seed == 0] == jobs and len(more) == 8
    nothing = with_study(finished, scenarios={"unions_of_two": 0, "unions_of_three": 0})
    assert {job["base"].name for job in costly_baselines.tuned_jobs(nothing)} == {"plain"}
    assert costly_baselines.tuned_jobs(with_study(finished, finetune=None)) == []


@pytest.mark.parametrize(("name", "kind"), [("plain", "superclass"), ("dropout", "union")])
def test_tuned_archs_are_measured_with_the_weights_and_statistics_of_their_scenario(name, kind, micro, monkeypatch):
    """Without any training the tuned weights are the shared ones, calibrated on the scenario's own images."""
    monkeypatch.setattr(costly_baselines, "train", lambda *args, **kwargs: None)
    study, dataset, wanted = micro.study, micro.dataset(), base(micro, name)
    found, record = costly_baselines.tune_archs(micro, wanted, 1)
    every = scenarios(study, dataset.hierarchy)
    at_budget = every.of_kind(kind) & (every.budgets == study.scenarios.budgets[1] * 1e6)
    assert found["rows"].tolist() == at_budget.nonzero()[:, 0].tolist() and len(found["rows"]) == len(found["top1"])
    archs = comparison.shared_archs(micro, wanted)[costly_baselines.TUNED[name][1]]
    supernet = supernets.load_supernet(micro, dataset, wanted)
    for row, top1 in zip(found["rows"].tolist(), found["top1"], strict=True):
        mask = every.class_masks[row]
        own = dataset.train.only(mask)
        assert top1 == measure_archs(supernet, archs[row, None], mask[None], own, dataset.test).item()
    assert record["per_scenario"] == pytest.approx(record["seconds"] / len(found["rows"]))


def test_what_a_killed_run_has_tuned_is_not_tuned_again(micro_copy, monkeypatch, capsys):
    job = {"base": base(micro_copy, "plain"), "budget": 0}
    result = steps.STEPS["tuned"].result(micro_copy, job)
    checkpoint, whole, tuned = steps.checkpoint_of(micro_copy, result), result.tensors(), []
    result.path.unlink()

    def train_until(supernet, split, dropout, recipe, **options):
        if options["label"] == stop:
            raise KeyboardInterrupt
        tuned.append(options["label"])
        return training.train(supernet, split, dropout, recipe, **options)

    monkeypatch.setattr(costly_baselines, "train", train_until)
    stop = "arch 2"
    with pytest.raises(KeyboardInterrupt):
        steps.make(micro_copy, "tuned", job)
    assert tuned == ["arch 0", "arch 1"] and len(json.loads(checkpoint.read_text())["done"]) == 2
    stop = None
    record = steps.make(micro_copy, "tuned", job)
    assert tuned == ["arch 0", "arch 1", "arch 2"] and not checkpoint.exists()
    assert same(result.tensors(), whole) and record["seconds"] is None and record["per_scenario"] > 0
    result.path.unlink()
    write_text(checkpoint, "[{")
    steps.make(micro_copy, "tuned", job)
    assert len(tuned) == 6 and same(result.tensors(), whole)
    assert "is damaged" in capsys.readouterr().out


def test_single_archs_are_tuned_for_their_own_classes_from_the_shared_weights(micro, monkeypatch):
    wanted, dataset, seen = base(micro, "plain"), micro.dataset(), []
    shared = supernets.load_supernet(micro, dataset, wanted).state_dict()

    def watched(supernet, split, dropout, recipe, **options):
        assert same(supernet.state_dict(), shared) and all(p.requires_grad for p in supernet.parameters())
        class_mask, weight = dropout(split.labels, None, 0.0)
        assert torch.equal(class_mask[0].nonzero()[:, 0], split.labels.unique()) and weight.all()
        assert torch.equal(split.images, dataset.train.only(class_mask[0]).images)
        seen.append((split.labels.unique().tolist(), recipe, options["draw_archs"](None)[0], options["seed"]))
        return training.train(supernet, split, dropout, recipe, **options)

    monkeypatch.setattr(costly_baselines, "train", watched)
    found, _ = costly_baselines.tune_archs(micro, wanted, 0)
    proposed = steps.tensors_of(micro, "proposals", base=wanted)["ofa_evolution"]
    assert [labels for labels, *_ in seen] == [[0, 1], [2, 3], [4, 5]]
    assert all(torch.equal(arch, proposed[row]) for row, (_, _, arch, _) in zip(found["rows"], seen, strict=True))
    asked = micro.study.finetune
    for _, recipe, _, seed in seen:
        assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, seed) == (asked.epochs, 4, 0.02, wanted.seed)
        assert recipe.weight_decay == micro.study.training.weight_decay
    stored = steps.tensors_of(micro, "tuned", base=wanted, budget=0)
    assert same(stored, found)  # and it repeats


# -------------------------------------------------------------------- archs from scratch


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, [0]), (2, [0, 37]), (4, [0, 3, 20, 37])])
def test_scenarios_trained_from_scratch_are_spread_over_superclasses_and_budgets(finished, count, expected):
    jobs = costly_baselines.from_scratch_jobs(with_study(finished, from_scratch=count))
    every = scenarios(finished.study, finished.dataset().hierarchy)
    assert [job["row"] for job in jobs] == expected
    assert all(every.kinds[job["row"]] == "superclass" and job["base"] == base(finished, "dropout") for job in jobs)


def test_an_arch_from_scratch_is_trained_on_all_images_as_long_as_the_supernet_without_branches(micro, monkeypatch):
    seen, (job,) = [], costly_baselines.from_scratch_jobs(micro)

    def watched(network, dataset, dropout, recipe, seed, checkpoint, **options):
        seen.append((len(dataset.train), dropout, recipe.epochs, seed, options["draw_archs"](None)[0]))
        assert torch.equal(dataset.train.images, micro.dataset().train.images)
        fresh = supernets.seeded_supernet(micro, micro.dataset(), seed)
        assert same(network.state_dict(), fresh.state_dict())
        return supernets.train_on_all(network, dataset, dropout, recipe, seed, checkpoint, **options)

    monkeypatch.setattr(costly_baselines, "train_on_all", watched)
    tensors, record = costly_baselines.train_from_scratch(micro, **job)
    ((images, dropout, epochs, seed, arch),) = seen
    plain = steps.record_of(micro, "supernets", **base(micro, "plain").job)
    assert (images, dropout, seed) == (len(micro.dataset().train), NO_DROPOUT, 0)
    assert epochs == len(plain["history"]) and images * epochs == plain["images"]
    generated = steps.tensors_of(micro, "proposals", base=job["base"])["generator"]
    assert torch.equal(arch, generated[job["row"]]) and record["row"] == job["row"]
    assert same(tensors, steps.tensors_of(micro, "from_scratch", **job)) and 0 <= tensors["top1"].item() <= 100


# -------------------------------------------------------------------- all of them beside the others


def test_what_was_measured_is_put_beside_the_others_and_the_rest_is_nan(finished):
    every = scenarios(finished.study, finished.dataset().hierarchy)
    shape = {"plain": ("ofa_finetuned", "superclass", 3), "dropout": ("generator_finetuned", "union", 1)}
    for name, (method, kind, budgets) in shape.items():
        wanted = base(finished, name)
        archs = comparison.shared_archs(finished, wanted)
        seconds = steps.record_of(finished, "proposals", base=wanted)["per_scenario"]
        before = list(seconds["ofa_evolution"])
        found = costly_baselines.measured(finished, wanted, archs, seconds)
        assert set(found) == {method, "evolution_long"} | ({"from_scratch"} if name == "dropout" else set())
        source, top1, times = found[method]
        assert torch.equal(source, archs[costly_baselines.TUNED[name][1]])
        measured = ~top1.isnan()
        assert not (measured & ~every.of_kind(kind)).any()
        assert len(every.budgets[measured].unique()) == budgets
        own = seconds[costly_baselines.TUNED[name][1]]
        assert all((time > old) == there for time, old, there in zip(times, own, measured.tolist(), strict=True))
        assert seconds["ofa_evolution"] == before  # it trains, too; the search's own times are left alone
        assert not found["evolution_long"][1].isnan().any()
    _, top1, times = found["from_scratch"]
    rows = (~top1.isnan()).nonzero()[:, 0].tolist()
    assert rows == [0, 37] and [row for row, time in enumerate(times) if time == time] == rows
    assert costly_baselines.measured(finished, base(finished, "plain", 1), archs, seconds) == {}


def test_each_is_optional(micro):
    none = with_study(micro, finetune=None, long_search=None, from_scratch=0)
    assert all(STEPS[name].all_jobs(none) == [] for name in ("tuned", "long", "from_scratch"))
    wanted = base(none, "dropout")
    assert costly_baselines.measured(none, wanted, comparison.shared_archs(none, wanted), {}) == {}
