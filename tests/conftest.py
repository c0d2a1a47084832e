"""What the tests share: images and search space of the tiny study, and an untrained supernet. More is in cases.py."""

import pytest
import torch

from eas import data
from eas.spaces import SPACES

torch.set_num_threads(1)  # oneDNN may crash in the backward pass of a convolution with several; it is also faster here


@pytest.fixture(scope="session")
def source():
    return data.Glyphs(kind="glyphs", image_size=16, per_typeface=1, selection=0.25, calibration=0.1, seed=0)


@pytest.fixture(scope="session")
def hierarchy(source):
    return source.hierarchy()


@pytest.fixture(scope="session")
def dataset(source):
    return data.build(source)[0]


@pytest.fixture(scope="session")
def space():
    return SPACES["preresnet"](kind="preresnet", widths=(8, 16), depths=(1, 2), ratios=(0.25, 0.5, 1.0)).build(16, 1)


@pytest.fixture
def supernet(space, hierarchy, dataset):
    torch.manual_seed(0)
    return space.supernet(len(hierarchy.classes), dataset.mean, dataset.std)
