"""What a dataset may be, one reader a file: each gives the plain columns that ``stages.records`` makes records of.

A reader takes the dataset's configuration and returns a :class:`Source`. To add one: write its file, and name it in
``READERS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stages.datasets.benchmarks import BENCHMARKS
from stages.datasets.config import DatasetConfig, Source
from stages.datasets.drawn import read_drawn
from stages.datasets.folder import read_folder
from stages.datasets.parquet import read_parquet
from stages.datasets.table import read_table
from stages.datasets.webdataset import read_webdataset

READERS: Mapping[str, Callable[[DatasetConfig], Source]] = {
    "drawn": read_drawn,
    "folder": read_folder,
    "parquet": read_parquet,
    "table": read_table,
    "webdataset": read_webdataset,
    **BENCHMARKS,
}

__all__ = [
    "READERS",
    "DatasetConfig",
    "Source",
    "read_drawn",
    "read_folder",
    "read_parquet",
    "read_table",
    "read_webdataset",
]
