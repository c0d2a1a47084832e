"""Steps: listed once, their results found by one key, made where they are missing, whole after any kill."""

import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest
import torch
from kill_cases import begun, lived_on, survives
from safetensors.torch import load_file
from study_cases import (
    ALL,
    NORMS,
    NOTEBOOKS,
    OWN,
    SAMPLE,
    base,
    changed,
    every_job,
    hashes,
    one_line,
    times,
    with_study,
)

from eas import training
from eas.files import write_text
from eas.recipes import NO_DROPOUT, Start
from eas.registry import Section
from pipeline import comparison, steps, supernets, throughput
from pipeline.steps import STEPS, Step
from pipeline.store import Workspace

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("EAS_KILLS") or 6)  # at random moments, of each kind of job that writes checkpoints
COSTS = {"machine", "memory_gb", "seconds", "parts", "per_scenario", "total"}  # of a record, with throughput's


# -------------------------------------------------------------------- the list


def test_inputs_come_before_the_steps_that_read_them_and_notebooks_are_in_order():
    names = list(STEPS)
    for index, (name, step) in enumerate(STEPS.items()):
        assert step.name == name and set(step.inputs) <= set(names[:index])
        assert step.notebook in NOTEBOOKS and all(STEPS[each].notebook <= step.notebook for each in step.inputs)
    assert [step.notebook for step in STEPS.values()] == sorted(step.notebook for step in STEPS.values())


def test_only_final_measurements_are_given_test_images_and_nothing_is_chosen_by_them():
    assert set(steps.TESTED) < {name for name, step in STEPS.items() if step.notebook == "04_comparison"}
    for name, step in STEPS.items():
        assert name in steps.TESTED or not set(step.inputs) & set(steps.TESTED)


@pytest.mark.parametrize("name", STEPS)
def test_functions_and_parameters_of_a_step_exist(name, study):
    step = STEPS[name]
    assert callable(steps.load(step.function)) and callable(steps.load(step.jobs))
    for path in step.params:
        section = study
        for part in path.split("."):
            assert part in type(section).model_fields
            section = getattr(section, part)


def test_every_result_has_a_path_and_a_key_of_its_own(micro):
    results = [STEPS[name].result(micro, job) for name, job in every_job(micro)]
    assert len({result.path for result in results}) == len({result.key for result in results}) == len(results)
    files = {path for path in micro.folder.rglob("*") if path.is_file()} - {micro.dataset_path}
    expected = {result.path.with_suffix(".json") for result in results}
    expected |= {result.path for result in results if result.find()["sha256"]}
    assert files == expected  # no checkpoint, nothing half written
    assert not any(path.name.endswith(".part") for path in micro.folder.rglob("*"))


def test_every_record_tells_its_key_and_cost(micro):
    for name, job in every_job(micro):
        record = steps.record_of(micro, name, **job)
        assert record["key"] == STEPS[name].result(micro, job).key
        assert record["seconds"] > 0 and "no GPU" in record["machine"] and 0 < record["memory_gb"] < 100
        content = STEPS[name].result(micro, job).path.with_suffix(".json").read_text()
        told = json.loads(content)
        assert len(told.pop("seal")) == 64 and told == record and "NaN" not in content and "Infinity" not in content


# -------------------------------------------------------------------- keys


def keys(workspace, jobs):
    """The key of every result, by the name of its step and what tells it from the step's others."""
    return {(name, index): STEPS[name].result(workspace, job).key for index, (name, job) in enumerate(jobs)}


def stale(micro, **sections):
    """The steps of which some result has another key with these parameters, and those of which all have."""
    jobs = every_job(micro)
    before, after = keys(micro, jobs), keys(with_study(micro, **sections), jobs)
    some = {name for (name, index), key in before.items() if after[name, index] != key}
    return some, {name for name, _ in before} - {
        name for (name, index), key in before.items() if after[name, index] == key
    }


def downstream(*names):
    """Steps, and all that read from them, directly or not."""
    found = set(names)
    for name, step in STEPS.items():
        if found & set(step.inputs):
            found.add(name)
    return found


EVERYTHING = set(STEPS)
TUNED = {"tuned", "other_tuned"}
PREDICTORS, TRAINED = downstream("predictors"), downstream("pools", "gates")
LEAVES = {  # every parameter of a study: another value, and the steps whose results depend on it
    "seeds": ((0, 1, 2), set()),
    "note": ("of another machine", set()),
    "name": ("other", set()),
    "show_images": (False, set()),
    "data.image_size": (20, EVERYTHING),
    "data.per_typeface": (2, EVERYTHING),
    "data.selection": (0.3, EVERYTHING),
    "data.calibration": (0.2, EVERYTHING),
    "data.seed": (1, EVERYTHING),
    "space.widths": ((8, 24), EVERYTHING),
    "space.depths": ((1, 3), EVERYTHING),
    "space.ratios": ((0.5, 1.0), EVERYTHING),
    "space.stem_stride": (2, EVERYTHING),
    "data.most_gigabytes": (1.0, EVERYTHING),
    "training.start": (Start(weights="weights.pth"), EVERYTHING),
    "training.augment.crop": (0.5, EVERYTHING),
    "training.augment.color": (0.5, EVERYTHING),
    "space.image_sizes": ((12, 16), EVERYTHING),
    "training.epochs": (9, EVERYTHING),
    "training.batch_size": (11, EVERYTHING),
    "training.learning_rate": (0.2, EVERYTHING),
    "training.random_subnets": (2, EVERYTHING),
    "training.distinct_archs": (255, EVERYTHING),
    "training.warmup": (0.2, EVERYTHING),
    "training.momentum": (0.8, EVERYTHING),
    "training.weight_decay": (0.0, EVERYTHING),
    "training.zero_init": (False, EVERYTHING),
    "training.label_smoothing": (0.1, EVERYTHING),
    "training.distillation": (0.4, EVERYTHING),
    "training.augment.shift": (1, EVERYTHING),
    "training.augment.flip": (True, EVERYTHING),
    "training.augment.cutout": (3, EVERYTHING),
    "training.mixed_precision": (True, EVERYTHING),
    "dropout.candidates": ((OWN, SAMPLE), set()),
    "dropout.seeds": (2, set()),
    "branches.epochs": (3, downstream("branches") | {"from_scratch"}),  # `plain` has it in its job: see below
    "branches.batch_size": (17, downstream("branches")),
    "branches.candidates": ((ALL, NORMS, ALL.model_copy(update={"learning_rate": 0.3})), set()),
    "branches.seeds": (2, set()),
    "finetune.epochs": (4, TUNED),
    "finetune.batch_size": (5, TUNED),
    "finetune.learning_rate": (0.3, TUNED),
    "finetune.seeds": (2, set()),
    "from_scratch": (3, set()),
    "generator.width": (32, downstream("predictors", "gates")),
    "generator.embedding": (16, downstream("predictors", "gates")),
    "generator.predictor.steps": (4, PREDICTORS),
    "generator.predictor.scenarios": (9, PREDICTORS),
    "generator.predictor.learning_rate": (0.1, PREDICTORS),
    "generator.predictor.penalty": (3.0, PREDICTORS),
    "generator.predictor.entropy": (0.5, PREDICTORS),
    "generator.gates.steps": (4, downstream("gates")),
    "generator.gates.scenarios": (3, downstream("gates")),
    "generator.gates.learning_rate": (0.1, downstream("gates")),
    "generator.gates.penalty": (3.0, downstream("gates")),
    "generator.gates.entropy": (0.5, downstream("gates")),
    "generator.gates.images": (5, downstream("gates")),
    "search.pool": (5, downstream("pools")),
    "search.predictor_steps": (4, PREDICTORS),
    "search.random": (3, downstream("selected")),
    "search.evaluations": (13, downstream("proposals", "other_sets")),
    "search.population": (7, downstream("proposals", "long", "other_sets")),
    "long_search.evaluations": (25, {"long"}),
    "long_search.seeds": (2, set()),
    "scenarios.budgets": ((0.3, 0.5), TRAINED),
    "scenarios.unions_of_two": (2, TRAINED | downstream("branches")),
    "scenarios.unions_of_three": (1, TRAINED | downstream("branches")),
    "other_sets.budget": (0.35, downstream("other_sets", "expected", "measured_additive", "measured_branches")),
    "other_sets.unions_of_five": (2, downstream("other_sets", "branches", "measured_additive")),
    "other_sets.unions_of_ten": (2, downstream("other_sets", "branches", "measured_additive")),
    "other_sets.parts": (2, downstream("other_sets", "expected", "measured_additive", "measured_branches")),
    "other_sets.across": (2, downstream("other_sets", "expected", "measured_additive", "measured_branches")),
    "other_sets.tuned": (2, set()),
    "evaluation.calibration_images": (7, EVERYTHING - {"throughput"}),
}


def leaves(section, prefix=""):
    """The dotted names of all parameters, however deep."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from leaves(value, f"{prefix}{name}.")
        elif name != "kind":
            yield prefix + name


def test_the_table_of_parameters_is_whole(study):
    assert set(leaves(study)) == set(LEAVES)


def set_leaf(section, path, value):
    """A copy of a section with another value at a dotted name, at any depth."""
    first, _, rest = path.partition(".")
    return section.model_copy(update={first: set_leaf(getattr(section, first), rest, value) if rest else value})


@pytest.mark.parametrize("path", LEAVES)
def test_a_parameter_changes_the_keys_of_the_steps_that_depend_on_it_and_no_others(path, micro):
    value, expected = LEAVES[path]
    other = set_leaf(micro.study, path, value)
    some, whole = stale(micro, **{name: getattr(other, name) for name in type(other).model_fields})
    assert some == whole == expected


def test_leaving_a_section_out_changes_no_other_results_key(micro):
    assert stale(micro, finetune=None) == (TUNED,) * 2 and stale(micro, long_search=None) == ({"long"},) * 2
    assert stale(micro, branches=None) == (downstream("branches") | {"from_scratch"},) * 2
    assert stale(micro, from_scratch=0) == (set(), set())


def test_only_what_has_no_dropout_depends_on_how_long_branches_are_tuned(micro):
    """It is trained longer, by what they cost."""
    longer = changed(micro.study, branches={"epochs": micro.study.branches.epochs + 2})
    before, after = supernets.first_jobs(micro.study), supernets.first_jobs(longer)
    for old, new in zip(before, after, strict=True):
        plain = old["dropout"] == NO_DROPOUT
        assert (new["epochs"] - old["epochs"], old == new) == ((2, False) if plain else (0, True))
    assert supernets.first_jobs(changed(micro.study, branches=None))[0]["epochs"] == micro.study.training.epochs


def test_more_of_anything_leaves_all_results_at_hand_valid(micro):
    """Another seed, candidate, baseline: the jobs that there were are found, and others come to them."""
    more = {
        "seeds": (0, 1, 5),
        "branches": {"candidates": (ALL, NORMS, ALL.model_copy(update={"batch_size": 8}))},
        "finetune": {"seeds": 2},
        "long_search": {"seeds": 2},
        "from_scratch": 2,
    }
    other = with_study(micro, **more)
    for name, job in every_job(micro):
        assert steps.record_of(other, name, **job) == steps.record_of(micro, name, **job)
        if name not in ("supernets", "branches", "measured_branches", "expected"):  # whose last ones wait for a choice
            assert job in STEPS[name].all_jobs(other)
    for name in ("pools", "tuned", "long", "from_scratch"):
        assert len(STEPS[name].all_jobs(other)) > len(STEPS[name].all_jobs(micro))
    candidates = with_study(micro, dropout={"candidates": (OWN, SAMPLE)})
    jobs = STEPS["supernets"].all_jobs(candidates)
    missing = [job for job in jobs if STEPS["supernets"].result(candidates, job).find() is None]
    assert missing == [{"dropout": SAMPLE, "epochs": 2, "seed": 0}]


class Watched:
    """A study, or a section of it, that notes the dotted names of the parameters that are read."""

    def __init__(self, section, seen, prefix=""):
        self.__dict__.update(_section=section, _seen=seen, _prefix=prefix)

    def __getattr__(self, name):
        value = getattr(self._section, name)
        if isinstance(value, Section):
            return Watched(value, self._seen, f"{self._prefix}{name}.")
        if name == "model_dump":
            return self.dumped
        # Another method reads its whole section; those of a study tell nothing of their own.
        if not callable(value) or self._prefix:
            self._seen.add(self._prefix.rstrip(".") if callable(value) else self._prefix + name)
        return value

    def dumped(self, **options):
        content = self._section.model_dump(**options)
        self._seen.update(self._prefix + name for name in content)
        return content


@pytest.fixture
def little_work(monkeypatch):
    """Nothing is trained or timed: only what is read counts."""
    monkeypatch.setattr(throughput, "fastest", lambda *args: 1.0)
    monkeypatch.setattr(throughput, "shares", lambda *args: {})
    monkeypatch.setattr(comparison, "TURNS", 1)
    monkeypatch.setattr(comparison, "REPEATS", 1)


HARMLESS = {  # what a step reads beside its parameters
    **dict.fromkeys(
        ("supernets", "branches", "throughput"), {"scenarios"}
    ),  # checks that an arch fits, before any work
    "long": {"search.evaluations"},  # it has evaluations of its own instead
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_reads_no_parameter_that_is_not_listed(name, micro, monkeypatch, little_work):
    step, seen = STEPS[name], set()
    watched, lookup = Workspace(Watched(micro.study, seen), micro.folder), steps.lookup
    monkeypatch.setattr(steps, "lookup", lambda study, names: lookup(getattr(study, "_section", study), names))
    for job in {json.dumps(str(job.get("base", job))[:24]): job for job in step.all_jobs(micro)}.values():
        steps.load(step.function)(watched, **job)
    listed = steps.all_params(step) | HARMLESS.get(name, set())
    unlisted = {path for path in seen if not any(f"{path}.".startswith(f"{each}.") for each in listed)}
    assert seen and not unlisted


# -------------------------------------------------------------------- running


def toy(workspace, number):
    """A step's function."""
    MADE.append(number)
    return {"x": torch.tensor([float(number)])}, {"number": number}


def toy_jobs(workspace):
    """One job; two more once that is done; two more once these are."""
    first, second, third = ([{"number": n}] if n == 0 else [{"number": n}, {"number": n + 1}] for n in (0, 1, 3))
    if not steps.all_there(workspace, "toy", first):
        return first
    return first + second + (third if steps.all_there(workspace, "toy", second) else [])


MADE = []


@pytest.fixture
def toy_step(monkeypatch, inline):
    here = "test_steps"
    step = Step("toy", "02_supernet", "toys/{number}", f"{here}:toy", f"{here}:toy_jobs", ("data",))
    monkeypatch.setitem(STEPS, "toy", step)
    MADE.clear()
    return step


def test_jobs_that_depend_on_a_choice_appear_once_it_can_be_made(workspace, toy_step):
    steps.run_step(workspace, toy_step)
    assert MADE == [0, 1, 2, 3, 4]
    assert [r["number"] for r in steps.records(workspace, "toy")] == [0, 1, 2, 3, 4]
    assert steps.tensors_of(workspace, "toy", number=3)["x"] == 3


def test_what_is_no_measurement_gets_a_data_set_without_test_images(workspace, toy_step, monkeypatch):
    seen = []

    def look(workspace, number):
        seen.append(workspace.dataset())
        return {}, {}

    monkeypatch.setattr(steps, "load", lambda path: look)
    steps.make(workspace, "toy", {"number": 0})
    monkeypatch.setattr(steps, "TESTED", ("toy",))
    steps.make(workspace, "toy", {"number": 1})
    without, whole = seen
    assert len(without.test) == 0 and len(whole.test) > 0
    assert all(
        torch.equal(getattr(without, name).images, getattr(whole, name).images) for name in ("train", "selection")
    )


def test_only_what_is_missing_is_made(workspace, toy_step):
    steps.run_step(workspace, toy_step)
    MADE.clear()
    before = times(workspace.folder)
    steps.run_step(workspace, toy_step)
    assert MADE == [] and times(workspace.folder) == before
    (workspace.folder / "toys" / "0.json").unlink()
    (workspace.folder / "toys" / "3.safetensors").unlink()
    (workspace.folder / "toys" / "4.safetensors").write_bytes(b"damaged")
    steps.run_step(workspace, toy_step)
    assert MADE == [0, 3, 4]
    MADE.clear()
    steps.run_step(with_study(workspace, data={"seed": 1}), toy_step)  # other parameters
    assert MADE == [0, 1, 2, 3, 4]


def test_what_is_published_is_fetched_not_made(workspace, toy_step, tmp_path):
    steps.run_step(workspace, toy_step)
    published, fresh = tmp_path / "weights", tmp_path / "fresh"
    shutil.copytree(workspace.folder, published)
    (published / "toys" / "1.safetensors").unlink()  # too large to publish
    MADE.clear()
    elsewhere = Workspace(workspace.study, fresh, published)
    steps.run_step(elsewhere, toy_step)
    assert MADE == []
    assert {path.name for path in (fresh / "toys").iterdir()} == {path.name for path in (published / "toys").iterdir()}
    with pytest.raises(FileNotFoundError, match="toys/1.safetensors is missing: only its record was published"):
        steps.tensors_of(elsewhere, "toy", number=1)
    steps.run_step(Workspace(workspace.study, tmp_path / "other"), toy_step)
    assert MADE == [0, 1, 2, 3, 4]


def test_a_notebook_runs_its_own_steps_in_turn(workspace, monkeypatch):
    ran = []
    monkeypatch.setattr(steps, "run_step", lambda workspace, step: ran.append(step.name))
    for notebook in NOTEBOOKS:
        steps.run(workspace, notebook)
    assert ran == list(STEPS)


def test_running_all_again_changes_nothing(micro, inline):
    before = times(micro.folder)
    for notebook in NOTEBOOKS:
        steps.run(micro, notebook)
    assert times(micro.folder) == before


def test_what_is_missing_names_the_notebook_that_makes_it(workspace):
    job = supernets.first_jobs(workspace.study)[0]
    message = "supernets/none-0.safetensors is missing: run notebooks/02_supernet for the study tiny first"
    for ask in (steps.find, steps.record_of, steps.tensors_of):
        with pytest.raises(FileNotFoundError, match=message) as caught:
            ask(workspace, "supernets", **job)
        one_line(caught)
    for name in ("pools", "measured", "tuned", "from_scratch"):  # their jobs follow from a choice
        with pytest.raises(FileNotFoundError, match="run notebooks/02_supernet for the study tiny first"):
            STEPS[name].all_jobs(workspace)
    with pytest.raises(
        FileNotFoundError, match="generators/dropout-0/pool.safetensors is missing: run notebooks/03_ge"
    ):
        steps.find(workspace, "pools", base=base())


# -------------------------------------------------------------------- what comes before a notebook


def test_what_a_notebook_misses_are_the_notebooks_before_it(micro_copy):
    for index, notebook in enumerate(NOTEBOOKS):
        assert steps.missing(micro_copy, notebook) == []
        nothing = Workspace(micro_copy.study, micro_copy.folder / "nothing")
        before = NOTEBOOKS[: max(index, 1)]
        assert steps.missing(nothing, notebook) == [each for each in before if each != "05_ablations"]  # makes nothing
    (micro_copy.folder / "generators" / "plain-1" / "gates.json").unlink()
    assert steps.missing(micro_copy, "03_generator") == []
    assert steps.missing(micro_copy, "04_comparison") == steps.missing(micro_copy, "06_specialize") == ["03_generator"]
    (micro_copy.folder / "supernets" / "own-0.5-0.json").unlink()  # without a choice no job of the others is known
    assert steps.missing(micro_copy, "06_specialize") == ["02_supernet", "03_generator", "04_comparison"]
    micro_copy.dataset_path.unlink()
    assert steps.missing(micro_copy, "02_supernet") == ["01_superclasses"]


def test_the_tiny_study_is_prepared_in_passing_and_only_what_is_missing(micro_copy, inline, capsys):
    """The notebook's own steps are left to it."""
    kept = hashes(micro_copy.folder)
    gone = [
        "generators/dropout-1/gates.safetensors",
        "supernets/none-1.safetensors",
        "comparison/plain-0/measured.json",
    ]
    for path in gone:
        (micro_copy.folder / path).unlink()
    before = times(micro_copy.folder)
    steps.prepare(micro_copy, "04_comparison")
    assert capsys.readouterr().out == "made here, as by the notebooks before: 02_supernet, 03_generator\n"
    written = {path for path, time in times(micro_copy.folder).items() if path.is_file() and before.get(path) != time}
    made = [micro_copy.folder / path for path in gone[:2]]
    assert written == {path.with_suffix(suffix) for path in made for suffix in (".safetensors", ".json")}
    assert hashes(micro_copy.folder) == kept
    before = times(micro_copy.folder)
    steps.prepare(micro_copy, "04_comparison")
    assert capsys.readouterr().out == "" and times(micro_copy.folder) == before


def test_the_images_are_made_as_well(study, images, tmp_path, capsys):
    workspace = Workspace(study, tmp_path)
    steps.prepare(workspace, "02_supernet")
    assert capsys.readouterr().out == "made here, as by the notebooks before: 01_superclasses\n"
    assert [path.name for path in tmp_path.rglob("*")] == ["dataset.safetensors"]
    assert workspace.dataset_path.read_bytes() == images.read_bytes()


def test_another_study_is_not_prepared_in_passing(micro_copy, inline, capsys):
    other = with_study(micro_copy, name="glyphs")
    steps.prepare(other, "06_specialize")  # all is there
    (micro_copy.folder / "generators" / "plain-0" / "gates.json").unlink()
    (micro_copy.folder / "comparison" / "throughput.json").unlink()
    before = times(micro_copy.folder)
    message = "run these notebooks for the study glyphs first, in turn: 03_generator, 04_comparison"
    with pytest.raises(FileNotFoundError, match=message) as caught:
        steps.prepare(other, "06_specialize")
    one_line(caught)
    empty = Workspace(other.study, micro_copy.folder / "nothing")
    with pytest.raises(FileNotFoundError, match="in turn: 01_superclasses, 02_supernet, 03_generator$"):
        steps.prepare(empty, "04_comparison")
    assert times(micro_copy.folder) == before and capsys.readouterr().out == ""


# -------------------------------------------------------------------- kills and damage


KILLED = {  # a job of a step that is killed
    "supernets": {"dropout": OWN, "epochs": 2, "seed": 0},
    "branches": {"base": base(epochs=2), "branch": ALL},
    "pools": {"base": base(epochs=2)},
    "predictors": {"base": base(epochs=2)},
}


@pytest.fixture(scope="module")
def inputs(micro, tmp_path_factory):
    """The micro study with what any of KILLED reads, and the choice of the dropout; none of what KILLED makes."""
    folder = Path(shutil.copytree(micro.folder, tmp_path_factory.mktemp("inputs") / "micro"))
    shutil.rmtree(folder / "comparison")
    return Workspace(micro.study, folder)


def remake(workspace, name, job):
    """What `run_step` does for one job."""
    return STEPS[name].result(workspace, job).find() or steps.make(workspace, name, job)


def comparable(record):
    return {name: value for name, value in record.items() if name not in COSTS}


@pytest.mark.parametrize("name", KILLED)
def test_after_a_kill_at_any_file_operation_a_restart_ends_in_the_same(name, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(supernets, "MEASURED", 0)
    job, result = KILLED[name], STEPS[name].result(inputs, KILLED[name])
    expected, record = steps.tensors_of(inputs, name, **job), None
    for kill_at in range(1, 200):
        workspace = Workspace(inputs.study, Path(shutil.copytree(inputs.folder, tmp_path / f"{kill_at}")))
        own = workspace.folder / f"{result.name}.safetensors"
        own.unlink()
        if kill_at % 2:  # else its record stands there without it
            own.with_suffix(".json").unlink()
        alive = survives(lambda w=workspace: steps.make(w, name, job), workspace.folder, kill_at)
        again = comparable(remake(workspace, name, job))
        record = record or again
        found = load_file(own)
        assert again == record and found.keys() == expected.keys()
        assert all(torch.equal(found[each], expected[each]) for each in expected)
        assert STEPS[name].result(workspace, job).find()
        shutil.rmtree(workspace.folder)
        if alive:
            break
    assert alive and kill_at > 10


@pytest.mark.parametrize("name", [name for name, step in STEPS.items() if step.checkpoints])
def test_after_a_kill_at_any_moment_a_restart_ends_in_the_same(name, micro_copy, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", -1)
    job = STEPS[name].all_jobs(micro_copy)[0]
    result, draw, kills, gone_on = STEPS[name].result(micro_copy, job), random.Random(0), 0, 0
    expected, checkpoint = result.path.read_bytes(), steps.checkpoint_of(micro_copy, result)

    def begin():
        for suffix in (".json", ".safetensors"):
            result.path.with_suffix(suffix).unlink()
        return begun(lambda: steps.make(micro_copy, name, job))

    start = time.perf_counter()
    assert lived_on(begin())
    whole = time.perf_counter() - start
    while kills < KILLS:
        if lived_on(begin(), draw.uniform(0, whole)):
            continue
        kills, gone_on = kills + 1, gone_on + checkpoint.exists()
        remake(micro_copy, name, job)
        assert result.path.read_bytes() == expected
    assert gone_on or name != "supernets"


def test_a_killed_training_goes_on_where_it_was_and_its_time_is_not_told(inputs, tmp_path, monkeypatch):
    """Killed as the second epoch's state is about to be written."""
    workspace = Workspace(inputs.study, Path(shutil.copytree(inputs.folder, tmp_path / "copy")))
    job, result = KILLED["supernets"], STEPS["supernets"].result(workspace, KILLED["supernets"])
    expected = result.tensors()
    result.path.unlink()
    saved, save = [], steps.load("eas.training:Checkpoint").save

    def save_or_die(*args):
        if saved:
            raise KeyboardInterrupt
        saved.append(save(*args))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("eas.training.Checkpoint.save", save_or_die)
        steps.make(workspace, "supernets", job)
    (checkpoint,) = [path for path in (workspace.folder / "checkpoints").rglob("*") if path.is_file()]
    assert checkpoint.name == f"own-0.5-0-{result.key}" and result.find() is None
    trained, step = [], steps.load("eas.training:sliced_step")
    monkeypatch.setattr("eas.training.sliced_step", lambda *args: trained.append(1) or step(*args))
    record = steps.make(workspace, "supernets", job)
    assert len(trained) == 3 and record["seconds"] is None  # of 30 images in batches of 10: one epoch of two
    assert [row["epoch"] for row in record["history"]] == [1, 2] and not checkpoint.exists()
    assert result.tensors().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[each]) for each, tensor in result.tensors().items())


def test_a_checkpoint_of_other_parameters_or_damaged_is_not_gone_on_with(inputs, tmp_path):
    workspace = Workspace(inputs.study, Path(shutil.copytree(inputs.folder, tmp_path / "copy")))
    job, result = KILLED["supernets"], STEPS["supernets"].result(workspace, KILLED["supernets"])
    expected = result.path.read_bytes()
    result.path.unlink()
    checkpoint = workspace.folder / "checkpoints" / f"{result.name}-{result.key}"
    write_text(checkpoint, "damaged")
    write_text(checkpoint.with_name("own-0.5-0-0123456789abcdef"), "of other parameters")
    steps.make(workspace, "supernets", job)
    assert result.path.read_bytes() == expected and not checkpoint.exists()


@pytest.mark.parametrize("name", ["supernets", "branches"])
def test_the_same_made_twice_at_once_is_made_whole(name, inputs, tmp_path):
    """As where a killed run's worker trains on beside the next run."""
    workspace = Workspace(inputs.study, Path(shutil.copytree(inputs.folder, tmp_path / "copy")))
    result = STEPS[name].result(workspace, KILLED[name])
    expected = result.path.read_bytes()
    result.path.with_suffix(".json").unlink()
    children = []
    for _ in range(3):
        if not (child := os.fork()):
            code = 1
            try:
                steps.make(workspace, name, KILLED[name])
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    assert result.find() and result.path.read_bytes() == expected


def test_whatever_is_damaged_is_made_again_and_the_same(micro_copy, inline):
    """Every second record of the study is damaged in one way or another, and tensors of the others are."""
    expected, rng = hashes(micro_copy.folder), random.Random(0)
    records = sorted(micro_copy.folder.rglob("*.json"))
    for index, path in enumerate(records):
        content, tensors = path.read_bytes(), path.with_suffix(".safetensors")
        ways = [b"", content[: rng.randrange(1, len(content) - 2)], rng.randbytes(50), b"[]", b"null", b'{"key": 3}']
        if index % 2:
            path.write_bytes(ways[index // 2 % len(ways)])
        elif tensors.exists():
            flipped = bytearray(tensors.read_bytes())
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
            tensors.write_bytes(flipped)
    for notebook in NOTEBOOKS:
        steps.run(micro_copy, notebook)
    assert hashes(micro_copy.folder) == expected
    for name, job in every_job(micro_copy):
        assert steps.record_of(micro_copy, name, **job)["machine"]


def test_published_tensors_that_are_damaged_stop_the_step_in_one_line(micro_copy, inline, tmp_path):
    published = Workspace(micro_copy.study, tmp_path / "build", micro_copy.folder)
    path = micro_copy.folder / "branches" / "norms-0.1-0.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is damaged: its SHA-256 is not the one in its record") as caught:
        steps.run(published, "03_generator")
    one_line(caught)
    assert hashes(micro_copy.folder)["branches/norms-0.1-0.safetensors"]  # left as it is
