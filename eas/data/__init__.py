"""Data sets: hierarchies of classes, splits, their sources and files. Batches are in eas.data.batches.

A source that comes with the package is imported here, so that it is registered.
"""

from eas.data.base import (
    SOURCES,
    SPLITS,
    Dataset,
    Hierarchy,
    Source,
    Split,
    build,
    divide,
    load,
    make,
    save,
    split_columns,
)
from eas.data.cifar100 import Cifar100
from eas.data.folder import Folder
from eas.data.glyphs import Glyphs

__all__ = [
    "SOURCES",
    "SPLITS",
    "Cifar100",
    "Dataset",
    "Folder",
    "Glyphs",
    "Hierarchy",
    "Source",
    "Split",
    "build",
    "divide",
    "load",
    "make",
    "save",
    "split_columns",
]
