"""What the tests share: the tiny study, its images, its search space and an untrained supernet."""

from pathlib import Path

import pytest
import torch

from eas import data
from eas.config import load_study
from eas.space import SearchSpace
from eas.supernet import Supernet

torch.set_num_threads(1)  # oneDNN may crash in the backward pass of a convolution with several; it is also faster here


@pytest.fixture(scope="session")
def study():
    return load_study("tiny", Path(__file__).parents[1])


@pytest.fixture(scope="session")
def hierarchy():
    return data.hierarchy("glyphs")


@pytest.fixture(scope="session")
def dataset(study):
    return data.build(study)[0]


@pytest.fixture(scope="session")
def space(study):
    return SearchSpace.from_study(study, in_channels=1)


@pytest.fixture
def supernet(space, hierarchy, dataset):
    torch.manual_seed(0)
    return Supernet(space, len(hierarchy.classes), dataset.mean, dataset.std)
