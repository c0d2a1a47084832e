"""params.yaml: what is refused, how the refusal reads, and what a key depends on."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from eas.config import Dropout, load_study

ROOT = Path(__file__).parents[1]
TIERS = ["", "gpu", "cpu", "teacher", "branches"]  # folders with a params.yaml and a dvc.yaml
STUDIES = yaml.safe_load((ROOT / "params.yaml").read_text())["studies"]


def changed(path, value=None):
    """The published tiny study with the value at `path` (names with dots) replaced, or left out."""
    content = yaml.safe_load(yaml.safe_dump(STUDIES["tiny"]))
    *sections, last = path.split(".")
    section = content
    for name in sections:
        section = section[name]
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
    assert message.startswith("study 'tiny': ") and "\n" not in message
    return message


@pytest.mark.parametrize("file", [ROOT / tier / "params.yaml" for tier in TIERS], ids=TIERS)
def test_every_study_of_the_repository_loads(file):
    tier = yaml.safe_load(file.read_text())["tier"]
    for name in {*STUDIES, tier["study"]}:
        study = load_study(name, ROOT)
        assert study.name == name and study.seeds and study.dropout.seeds <= len(study.seeds)


def test_values_arrive_with_their_types_and_defaults(study):
    assert study.seeds == (0, 1) and study.space.ratios == (0.25, 0.5, 1.0)
    assert study.training.momentum == 0.9 and study.training.augment.shift == 2
    assert study.dropout.candidates == (Dropout(variant="own", rate=0.5),)
    assert [dropout.name for dropout in study.dropout.candidates] == ["own-0.5"]
    assert Dropout(variant="none", rate=0.0).name == "none"
    assert Dropout(variant="own", rate=0.9, begin=0.8).name == "own-0.9-from-0.8"


def test_a_note_is_no_part_of_a_key(study, tmp_path):
    noted = load_study("tiny", write(tmp_path, {"studies": {"tiny": changed("note", "few epochs")}}))
    assert noted.note == "few epochs" and noted.key() == study.key()


def test_a_whole_number_may_stand_for_a_real_one(tmp_path):
    folder = write(tmp_path, {"studies": {"tiny": changed("training.learning_rate", 1)}})
    assert load_study("tiny", folder).training.learning_rate == 1


def test_branch_is_optional(tmp_path):
    assert load_study("tiny", write(tmp_path, {"studies": {"tiny": changed("branches")}})).branches is None


def test_what_has_no_branches_trains_longer_by_what_they_cost(study):
    branches = study.branches.model_copy(update={"epochs": 3})
    assert study.model_copy(update={"branches": branches}).longer.epochs == study.training.epochs + 3
    assert study.model_copy(update={"branches": None}).longer == study.training


def test_a_parameter_at_its_default_does_not_change_a_key(study):
    same = study.model_copy(update={"training": study.training.model_copy(update={"momentum": 0.9})})
    other = study.model_copy(update={"training": study.training.model_copy(update={"momentum": 0.8})})
    assert "momentum" not in study.training.model_fields_set
    assert same.key() == study.key() != other.key()


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
        ("data.name", 1),
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
        ("data.name", "cifar10"),
        ("data.image_size", 7),
        ("data.image_size", 65),
        ("data.per_typeface", 0),
        ("data.selection", 0),
        ("data.selection", 1),
        ("space.widths", []),
        ("space.widths", [8, 0]),
        ("space.depths", [2, 1]),
        ("space.depths", [1, 1]),
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
        ("search.population", 0),
        ("scenarios.budgets", []),
        ("scenarios.budgets", [-0.3]),
        ("scenarios.budgets", [0]),
        ("scenarios.budgets", [float("nan")]),
        ("scenarios.unions_of_two", -1),
        ("evaluation.calibration_images", 0),
    ],
)
def test_a_value_out_of_range_is_refused(path, value, tmp_path):
    assert path.rpartition(".")[0] in refusal(tmp_path, changed(path, value))


def test_a_split_must_be_left_to_train_on(tmp_path):
    assert "must leave a part for training" in refusal(tmp_path, changed("data.selection", 0.95))


def test_branches_of_a_supernet_that_trained_longer_are_refused(tmp_path):
    message = refusal(tmp_path, changed("branches.dropouts", [{"variant": "none", "rate": 0}]))
    assert "branches: Value error, dropouts: none trains longer" in message


def test_a_teacher_is_tried_only_where_not_all_have_one(tmp_path):
    message = refusal(tmp_path, changed("training.teacher", {"widths": [16], "epochs": 1, "share": 0.5}))
    assert "Value error, dropout.with_teacher: training.teacher has every supernet learn from one already" in message


@pytest.mark.parametrize("path", ["seeds", "training", "data.seed", "generator.steps", "dropout.candidates"])
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
        load_study("imagenet", ROOT)
    assert "known: " in str(caught.value) and "did you mean" not in str(caught.value)


def test_a_missing_file_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="pass the repository's folder as root"):
        load_study("tiny", tmp_path)


@pytest.mark.parametrize(("name", "root"), [(1, "."), (None, "."), (["tiny"], "."), ("tiny", 1), ("tiny", None)])
def test_name_and_root_must_be_text(name, root):
    with pytest.raises(TypeError, match="must be text"):
        load_study(name, root)


@pytest.mark.parametrize(
    "content", ["", "studies:\n", "studies: [tiny]\n", "- tiny\n", "studies: {tiny: 3}\n", "studies: {tiny:\n"]
)
def test_a_malformed_file_is_one_clear_line(content, tmp_path):
    with pytest.raises(ValueError) as caught:
        load_study("tiny", write(tmp_path, content))
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------- keys


SECTIONS = {
    "seeds": ("seeds", [0]),
    "data": ("data.seed", 1),
    "space": ("space.widths", [8, 24]),
    "training": ("training.weight_decay", 0.0),
    "dropout": ("dropout.candidates", [{"variant": "own", "rate": 0.25}]),
    "branches": ("branches", None),
    "finetune": ("finetune.epochs", 2),
    "from_scratch": ("from_scratch", 0),
    "generator": ("generator.steps", 21),
    "search": ("search.pool", 13),
    "long_search": ("long_search.evaluations", 81),
    "scenarios": ("scenarios.budgets", [0.3, 0.45]),
    "evaluation": ("evaluation.calibration_images", 101),
}


@pytest.mark.parametrize("section", SECTIONS)
def test_a_key_changes_with_its_own_section_only(section, study, tmp_path):
    other = load_study("tiny", write(tmp_path, {"studies": {"tiny": changed(*SECTIONS[section])}}))
    assert other.key() != study.key()
    assert other.key(section) != study.key(section)
    assert other.key("name", section) != study.key("name", section)
    for unchanged in SECTIONS.keys() - {section}:
        assert other.key(unchanged) == study.key(unchanged)
    assert other.key(*SECTIONS.keys() - {section}) == study.key(*SECTIONS.keys() - {section})


def test_a_key_is_the_same_for_equal_studies_and_any_order(study):
    again = load_study("tiny", ROOT)
    assert again.key() == study.key() and again.key("data", "space") == study.key("space", "data")
    assert study.key("data") != study.key("space")
    assert load_study("glyphs", ROOT).key() != study.key()


def test_a_written_default_does_not_change_the_key(study, tmp_path):
    spelled = load_study("tiny", write(tmp_path, {"studies": {"tiny": changed("training.momentum", 0.9)}}))
    assert spelled.key() == study.key()
