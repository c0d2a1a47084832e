"""Every hyper-parameter of every study says where it comes from."""

from pathlib import Path

import pytest

from eas import fidelity
from eas.config import load_study

ROOT = Path(__file__).parents[1]
STUDIES = ["tiny", "glyphs", "glyphs_teacher", "glyphs_branches", "cifar100", "cifar100_cpu"]


@pytest.mark.parametrize("name", STUDIES)
def test_every_parameter_of_a_study_has_a_source(name):
    study = load_study(name, ROOT)
    table = fidelity.table(study).set_index("parameter")
    assert set(table["from"]) <= {fidelity.PAPER, fidelity.RELATED, fidelity.OFA, fidelity.OURS}
    assert table.value["training.epochs"] == str(study.training.epochs)
    assert {"space.widths", "dropout.candidates", "scenarios.budgets", "training.augment.flip"} <= set(table.index)
    assert "name" not in table.index


def test_every_source_is_used_by_some_parameter():
    names = [name for study in STUDIES for name in fidelity.table(load_study(study, ROOT)).parameter]
    assert all(any(name.startswith(known) for name in names) for known in fidelity.SOURCES)


def test_the_closest_source_counts():
    assert fidelity.source("generator.gate_steps")[1].startswith("the signal is the paper's")
    assert fidelity.source("training.momentum") == fidelity.SOURCES["training"]
    with pytest.raises(KeyError):
        fidelity.source("unheard_of")
