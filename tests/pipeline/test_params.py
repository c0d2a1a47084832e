"""params.yaml: what is refused, and how the refusal reads."""

import time
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from eas.data import SOURCES
from eas.recipes import Dropout
from eas.spaces import SPACES
from pipeline.params import load_study

ROOT = Path(__file__).parents[2]
STUDIES = yaml.safe_load((ROOT / "params.yaml").read_text())["studies"]


def changed(path, value=None):
    """The published tiny study with the value at `path` (names and places, with dots) replaced, or left out."""
    content = yaml.safe_load(yaml.safe_dump(STUDIES["tiny"]))
    *sections, last = path.split(".")
    section = content
    for name in sections:
        section = section[int(name)] if isinstance(section, list) else section.setdefault(name, {})
    if value is None:
        del section[last]
    else:
        section[last] = value
    return content


def write(folder, content):
    (folder / "params.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return folder


def refusal(folder, content):
    """The message that the study tiny with this content is refused with."""
    with pytest.raises(ValueError) as caught:
        load_study("tiny", write(folder, {"studies": {"tiny": content}}))
    message = str(caught.value)
    assert message.startswith(f"{folder / 'params.yaml'}: study 'tiny': ") and "\n" not in message
    return message


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_of_the_repository_loads(name):
    study = load_study(name, ROOT)
    assert study.name == name and study.seeds
    for section in (study.dropout, study.branches, study.finetune, study.long_search):
        seeds = study.first_seeds(section)
        assert section is None or (seeds == study.seeds[: section.seeds] and len(seeds) == section.seeds)


def test_values_arrive_with_their_types_and_defaults(study):
    assert study.seeds == (0, 1) and study.space.ratios == (0.25, 0.5, 1.0)
    assert study.training.momentum == 0.9 and study.training.augment.shift == 2
    assert study.dropout.candidates == (Dropout(variant="own", rate=0.5),)
    assert [dropout.name for dropout in study.dropout.candidates] == ["own-0.5"]
    assert Dropout(variant="none", rate=0.0).name == "none"
    assert Dropout(variant="own", rate=0.9, begin=0.8).name == "own-0.9-from-0.8"


def test_a_whole_number_may_stand_for_a_real_one(tmp_path):
    folder = write(tmp_path, {"studies": {"tiny": changed("training.learning_rate", 1)}})
    assert load_study("tiny", folder).training.learning_rate == 1


@pytest.mark.parametrize(
    ("section", "absent"), [("branches", None), ("finetune", None), ("long_search", None), ("from_scratch", 0)]
)
def test_what_costs_most_is_optional(section, absent, tmp_path):
    study = load_study("tiny", write(tmp_path, {"studies": {"tiny": changed(section)}}))
    assert getattr(study, section) == absent and (section == "from_scratch" or study.first_seeds(absent) == ())


def test_sections_that_yaml_shares_by_an_anchor_are_those_of_both_studies(tmp_path):
    text = yaml.safe_dump(STUDIES["tiny"], indent=1).replace("\n", "\n  ")
    write(tmp_path, f"studies:\n tiny: &first\n  {text}\n second:\n  <<: *first\n  seeds: [5]\n")
    first, second = (load_study(name, tmp_path) for name in ("tiny", "second"))
    assert second.training == first.training and (first.seeds, second.seeds) == ((0, 1), (5,))


def test_a_study_cannot_be_changed(study):
    with pytest.raises(ValidationError, match="frozen"):
        study.training.epochs = 5


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("epochs", 1),
        ("trainig", {}),
        ("training.epoch", 1),
        ("training.augment", {"mirror": True}),
        ("dropout.candidates", [{"variant": "own", "rate": 0.5, "chance": 1}]),
        ("space.kernels", [3, 5]),
        ("name", "glyphs"),  # a study's name is the one that it stands under
        ("data.per_type", 1),
        ("generator.predictor.step", 3),
    ],
)
def test_an_unknown_parameter_is_named(path, value, tmp_path):
    message = refusal(tmp_path, changed(path, value))
    expected = {"training.augment": "training.augment.mirror", "dropout.candidates": "dropout.candidates.0.chance"}
    assert f"unknown parameter {expected.get(path, path)}" in message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("training.epochs", "3"),
        ("training.epochs", 3.0),
        ("training.epochs", 3.5),
        ("training.epochs", True),
        ("training.learning_rate", "0.3"),
        ("training.learning_rate", True),
        ("training", 3),
        ("data.seed", "0"),
        ("space.widths", 8),
        ("space.widths", "8, 16"),
        ("seeds", 2),
    ],
)
def test_a_mistyped_value_is_shown(path, value, tmp_path):
    message = refusal(tmp_path, changed(path, value))
    assert f"{path}: " in message and f"(got {value!r})" in message


@pytest.mark.parametrize(
    ("path", "value", "where", "shown"),
    [
        ("training.augment", {"flip": "false"}, "training.augment.flip", "'false'"),
        ("training.augment", {"flip": 0}, "training.augment.flip", "0"),
        ("seeds", [0, 0.5], "seeds.1", "0.5"),
        ("space.ratios", [0.25, "0.5"], "space.ratios.1", "'0.5'"),
        ("scenarios.budgets", ["0.3"], "scenarios.budgets.0", "'0.3'"),
        ("scenarios.budgets", [True], "scenarios.budgets.0", "True"),
        ("dropout.candidates", [{"variant": "own", "rate": "0.5"}], "dropout.candidates.0.rate", "'0.5'"),
    ],
)
def test_a_mistyped_value_is_shown_within_lists_and_sections(path, value, where, shown, tmp_path):
    message = refusal(tmp_path, changed(path, value))
    assert where in message and f"(got {shown})" in message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.image_size", 7),
        ("data.image_size", 65),
        ("data.per_typeface", 0),
        ("data.selection", 0),
        ("data.selection", 1),
        ("space.widths", []),
        ("space.widths", [8, 0]),
        ("space.ratios", [0.5, 1.5]),
        ("space.ratios", [0.0, 0.5]),
        ("training.epochs", 0),
        ("training.batch_size", -1),
        ("training.learning_rate", -0.1),
        ("training.learning_rate", float("nan")),
        ("training.learning_rate", float("inf")),
        ("training.momentum", 1.0),
        ("training.random_subnets", -1),
        ("training.distillation", 1.1),
        ("dropout.candidates", []),
        ("dropout.candidates", [{"variant": "own", "rate": 1.0}]),
        ("dropout.candidates", [{"variant": "one", "rate": 0.5}]),
        ("seeds", []),
        ("seeds", [-1]),
        ("seeds", [2**31]),
        ("data.seed", 2**32),
        ("search.population", 1),  # nothing to cross
        ("search.pool", 1),  # no variance
        ("generator.predictor.penalty", 0),
        ("scenarios.budgets", []),
        ("scenarios.budgets", [-0.3]),
        ("scenarios.budgets", [0]),
        ("scenarios.budgets", [float("nan")]),
        ("scenarios.unions_of_two", -1),
        ("data.calibration", 0),
        ("data.most_gigabytes", 0),
        ("data.seed", -1),
        ("space.stem_stride", 0),
        ("space.stem_stride", 5),
        ("space.image_sizes", [7]),
        ("training.distinct_archs", 0),
        ("training.warmup", 1.0),
        ("training.warmup", -0.1),
        ("training.weight_decay", -1),
        ("training.label_smoothing", 1.0),
        ("training.label_smoothing", -0.1),
        ("training.distillation", -0.1),
        ("training.augment.shift", -1),
        ("training.augment.cutout", -1),
        ("training.augment.crop", 0),
        ("training.augment.crop", 1.1),
        ("training.augment.color", -0.1),
        ("training.augment.color", 1.1),
        ("dropout.seeds", 0),
        ("dropout.candidates.0.rate", -0.1),
        ("dropout.candidates.0.begin", 1.0),
        ("dropout.candidates.0.begin", -0.1),
        ("branches.epochs", 0),
        ("branches.batch_size", 0),
        ("branches.seeds", 0),
        ("branches.candidates", []),
        ("branches.candidates.0.part", "stem"),
        ("branches.candidates.0.supernet", "both"),
        ("branches.candidates.0.learning_rate", 0),
        ("branches.candidates.0.batch_size", 0),
        ("branches.candidates.0.epochs", 0),
        ("branches.candidates.0.archs", "largest"),
        ("branches.candidates.0.sets", {}),
        ("branches.candidates.0.sets", {0: 1}),
        ("branches.candidates.0.sets", {1: 0}),
        ("branches.candidates.0.common", -0.1),
        ("branches.candidates.0.common", 1.1),
        ("branches.candidates.0.decay", -1),
        ("branches.candidates.0.label", "All"),
        ("finetune.epochs", 0),
        ("finetune.batch_size", 0),
        ("finetune.learning_rate", 0),
        ("finetune.seeds", 0),
        ("from_scratch", -1),
        ("generator.width", 0),
        ("generator.embedding", 0),
        ("generator.predictor.steps", 0),
        ("generator.predictor.scenarios", 0),
        ("generator.predictor.learning_rate", 0),
        ("generator.predictor.entropy", -0.1),
        ("generator.gates.steps", 0),
        ("generator.gates.scenarios", 0),
        ("generator.gates.learning_rate", 0),
        ("generator.gates.penalty", 0),
        ("generator.gates.entropy", float("inf")),
        ("generator.gates.images", 0),
        ("search.predictor_steps", 0),
        ("search.random", 0),
        ("search.evaluations", 0),
        ("long_search.evaluations", 0),
        ("long_search.seeds", 0),
        ("scenarios.unions_of_three", -1),
        ("other_sets.budget", 0),
        ("other_sets.unions_of_five", -1),
        ("other_sets.unions_of_ten", -1),
        ("other_sets.parts", -1),
        ("other_sets.across", -1),
        ("other_sets.tuned", -1),
        ("evaluation.calibration_images", 1),  # no variance
        ("evaluation.calibration_images", 0),
    ],
)
def test_a_value_out_of_range_is_refused(path, value, tmp_path):
    assert path in refusal(tmp_path, changed(path, value))


def test_a_split_must_be_left_to_train_on(tmp_path):
    assert "must leave a part for training" in refusal(tmp_path, changed("data.selection", 0.95))


@pytest.mark.parametrize("path", ["seeds", "training", "data.seed", "generator.predictor.steps", "dropout.candidates"])
def test_a_missing_parameter_is_named(path, tmp_path):
    assert f"{path}: Field required" in refusal(tmp_path, changed(path))


def test_all_mistakes_are_told_at_once(tmp_path):
    content = changed("training.epochs", "3") | {"seed": 1}
    assert "training.epochs" in (message := refusal(tmp_path, content)) and "unknown parameter seed" in message


def test_an_unknown_study_lists_the_known_ones_and_suggests():
    with pytest.raises(ValueError) as caught:
        load_study("glyph", ROOT)
    message = str(caught.value)
    assert all(name in message for name in STUDIES) and "did you mean 'glyphs'?" in message
    with pytest.raises(ValueError) as caught:
        load_study("svhn", ROOT)
    assert "known: " in str(caught.value) and "did you mean" not in str(caught.value)


def test_a_missing_file_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="pass the repository's folder as root"):
        load_study("tiny", tmp_path)


@pytest.mark.parametrize(("name", "root"), [(1, "."), (None, "."), (["tiny"], "."), ("tiny", 1), ("tiny", None)])
def test_name_and_root_must_be_text(name, root):
    with pytest.raises(TypeError, match="must be text"):
        load_study(name, root)


MALFORMED = {
    "empty": b"",
    "no studies": b"studies:\n",
    "a list of studies": b"studies: [tiny]\n",
    "a list": b"- tiny\n",
    "no parameters": b"studies: {tiny: 3}\n",
    "an open bracket": b"studies: {tiny:\n",
    "not UTF-8": "studies: {tiny: {note: für}}".encode("latin-1"),
    "binary": bytes(range(256)),
    "nested deeply": b"studies: {tiny: " + b"[" * 100_000,
    "nested": b"studies: {tiny: {seeds: " + b"[" * 400 + b"]" * 400 + b"}}",
    "within itself": b"studies: {tiny: &tiny {seeds: [0], data: *tiny}}",
    "a number as a name": b"studies: {1: {}, 2: {}}",
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=list(MALFORMED))
def test_a_malformed_file_is_one_clear_line(content, tmp_path):
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        load_study("tiny", tmp_path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 3000
    assert "params.yaml" in message or "tiny" in message


@pytest.mark.parametrize(
    "value", ["2026-01-01", "!!set {a, b}", "!!binary aGFsbG8=", "2026-01-01 10:00:00", "!!omap []"]
)
@pytest.mark.parametrize("place", ["  seeds: {}", "  data: {{kind: glyphs, seed: {}}}", "  space: {}"])
def test_what_only_yaml_knows_is_one_clear_line(value, place, tmp_path):
    (tmp_path / "params.yaml").write_text("studies:\n tiny:\n" + place.format(value) + "\n")
    with pytest.raises(ValueError, match="study 'tiny': ") as caught:
        load_study("tiny", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["010", "-010", "1:30", "1:30.5", "0_1", "1:3:0"])
def test_a_number_that_yaml_reads_otherwise_than_its_writer_is_refused(value, tmp_path):
    """PyYAML would take 010 for 8, and 1:30 for 90."""
    text = yaml.safe_dump({"studies": {"tiny": changed("seeds", ["SEED"])}})
    (tmp_path / "params.yaml").write_text(text.replace("SEED", value))
    with pytest.raises(ValueError, match=f"params.yaml is not YAML: {value} is no plain number") as caught:
        load_study("tiny", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["0", "7", "0x10", "1_000"])
def test_a_plain_number_is_one(value, tmp_path):
    text = yaml.safe_dump({"studies": {"tiny": changed("seeds", ["SEED"])}})
    (tmp_path / "params.yaml").write_text(text.replace("SEED", value))
    assert load_study("tiny", tmp_path).seeds == (int(value, 0),)


# -------------------------------------------------------------------- what must differ, and kinds


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("seeds", [0, 1, 0], "seeds must differ, got [0, 1, 0]"),
        ("dropout.candidates", [{"variant": "own", "rate": 0.5}] * 2, "candidates must differ"),
        ("dropout.candidates", [{"variant": "own", "rate": 0.5}, {"variant": "own", "rate": 0.5000001}], "must differ"),
        ("dropout.candidates", [{"variant": "none"}], "none is always trained beside them"),
        ("branches.candidates", [{"part": "all", "learning_rate": 0.1}] * 2, "candidates must differ"),
        (
            "branches.candidates",
            [{"part": "all", "learning_rate": 0.1}, {"part": "norms", "learning_rate": 0.1, "alike": True}],
            "the branches norms-0.1 are alike: `common` must be above 0",
        ),
        ("dropout", None, "tuned from the supernet with dropout, which is trained where there is a section dropout"),
        (
            "branches.candidates",
            [{"part": "all", "learning_rate": 0.1, "alike": True, "common": 1.0}],
            "all candidates are alike, which are controls",
        ),
        ("space.depths", [2, 1], "space: depths must be strictly ascending, got [2, 1]"),
        ("space.depths", [1, 1], "space: depths must be strictly ascending, got [1, 1]"),
        ("scenarios.budgets", [0.6, 0.3], "budgets must be strictly ascending, got [0.6, 0.3]"),
        ("scenarios.budgets", [0.3, 0.3, 0.6], "budgets must be strictly ascending"),
        ("scenarios.budgets", [1, 1.0], "budgets must be strictly ascending"),
    ],
)
def test_what_would_count_twice_or_out_of_order_is_refused(path, value, message, tmp_path):
    assert message in refusal(tmp_path, changed(path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("seeds", [10**30], "seeds.0: Input should be less than"),
        ("seeds", [-1], "seeds.0: Input should be greater than or equal to 0"),
        ("data.per_typeface", 10**9, "data.per_typeface"),
        ("training.epochs", 10**18, "training.epochs: Input should be less than or equal to 10000"),
        ("training.batch_size", 10**12, "training.batch_size"),
        ("training.learning_rate", 1e300, "training.learning_rate: Input should be less than or equal to"),
        ("training.weight_decay", 1e300, "training.weight_decay"),
        ("training.random_subnets", 10**9, "training.random_subnets"),
        ("training.distinct_archs", 10**10, "training.distinct_archs"),
        ("training.augment", {"shift": 16}, "training.augment.shift: 16 pixels are no part of an image of 16"),
        ("training.augment", {"cutout": 99}, "training.augment.cutout: 99 pixels"),
        ("finetune.learning_rate", 1e300, "finetune.learning_rate"),
        ("generator.width", 10**9, "generator.width"),
        ("generator.embedding", 10**9, "generator.embedding"),
        ("generator.predictor", {"steps": 10**18}, "generator.predictor.steps"),
        ("search.pool", 1, "search.pool: Input should be greater than or equal to 2"),
        ("search.pool", 10**12, "search.pool"),
        ("search.random", 10**9, "search.random"),
        ("search.population", 1, "search.population"),
        ("long_search.evaluations", 19, "long_search.evaluations: 19 are fewer than search.population, which is 20"),
        ("dropout.seeds", 3, "dropout.seeds: 3 are more than the study's 2 seeds"),
        ("branches.seeds", 3, "branches.seeds: 3 are more than the study's 2 seeds"),
        ("finetune.seeds", 3, "finetune.seeds: 3 are more than the study's 2 seeds"),
        ("long_search.seeds", 3, "long_search.seeds: 3 are more than the study's 2 seeds"),
        ("other_sets.tuned", 3, "other_sets.tuned: 3 are more than the study's 2 seeds"),
        ("search.population", 41, "search: a population of 41 is more than the 40 evaluations"),
        ("scenarios.unions_of_two", 10**9, "scenarios.unions_of_two"),
        ("from_scratch", 10**9, "from_scratch"),
        ("evaluation.calibration_images", 1, "evaluation.calibration_images"),
        ("space.widths", [10**30], "space: it holds a number that is too large"),
        ("space.depths", [10**9], "space: 2000000000 blocks with 3 forms each are too many"),
        ("space", {"kind": "mobilenetv3", "depths": [10**7]}, "space: 50000000 blocks with 9 forms each"),
        ("other_sets.budget", 450_000, "other_sets.budget: 450000 is above 6, 10 times the largest of scenarios.budg"),
        ("branches.candidates", [{"part": "all", "learning_rate": 0.1, "sets": {10**9: 1}}], "branches.candidates"),
    ],
)
def test_what_no_study_means_is_refused_at_once(path, value, message, tmp_path):
    start = time.monotonic()
    assert message in refusal(tmp_path, changed(path, value))
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("data.kind", "cifar10", "data: unknown kind 'cifar10'; known: "),
        ("space.kind", "prerenset", "space: unknown kind 'prerenset'; known: "),
        ("space.kind", 3, "space: unknown kind 3; known: "),
        ("data.kind", None, "data: must map parameters to values and name a kind; known: "),
        ("space", 8, "space: must map parameters to values and name a kind; known: "),
    ],
)
def test_an_unknown_kind_lists_the_known_ones_and_suggests(path, kind, message, tmp_path):
    told, close = refusal(tmp_path, changed(path, kind)), {"cifar10": "cifar100", "prerenset": "preresnet"}
    assert message in told and all(name in told for name in (SOURCES if path.startswith("data") else SPACES))
    assert f"(did you mean '{close[kind]}'?)" in told if kind in close else "did you mean" not in told


@pytest.mark.parametrize("kind", ["glyphs", "cifar100"])
def test_a_kind_of_images_has_parameters_of_its_own(kind, tmp_path):
    content = changed("data.kind", kind)
    if kind == "cifar100":
        assert "unknown parameter data.per_typeface" in refusal(tmp_path, content)
        del content["data"]["per_typeface"]
        content["data"]["image_size"] = 32
    assert load_study("tiny", write(tmp_path, {"studies": {"tiny": content}})).data.kind == kind
