"""What the tests share: their order, images and search space of the tiny study, and an untrained supernet.

More is in cases.py.
"""

import pytest
import torch

from eas import data
from eas.spaces import SPACES

LONGEST = [  # files that take longest: they come first, so that pytest-xdist's workers end together
    *("test_benchmarks.py", "test_gpu.py", "test_hostile_files.py", "test_own_kit.py", "test_comparison.py"),
    *("test_steps.py", "test_many_gpus.py", "test_supernets.py", "test_mobilenetv3.py", "test_cluster.py"),
    *("test_imagenet10.py", "test_grocery.py", "test_figures.py", "test_jobs.py", "test_ranks.py", "test_training.py"),
    *("test_decoding.py", "test_explorer_sets.py", "test_source.py", "test_toy_space.py", "test_toy_source.py"),
    *("test_photographs.py", "test_efficientnet_lite.py", "test_publish.py", "test_engine.py", "test_notebooks.py"),
    *("test_site.py", "test_own_study.py", "test_page.py", "test_dvc.py", "test_sweep.py"),
]

torch.set_num_threads(1)  # oneDNN may crash in the backward pass of a convolution with several; it is also faster here


def pytest_configure(config):
    config.option.loadscopereorder = False  # of pytest-xdist: files with many tests first, however little they take


def pytest_collection_modifyitems(items):
    place = {name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


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
