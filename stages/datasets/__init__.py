"""Every kind of dataset: a configuration class whose ``read`` lists the images with labels and splits.

To add one: write a frozen dataclass with a ``kind`` and ``read``, and name it in ``DatasetConfig``.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field

from stages.datasets.benchmarks.fine_grained import (
    Cars196Benchmark,
    Cub200Benchmark,
    Food2kBenchmark,
    Inat2018Benchmark,
    InshopBenchmark,
    Products10kBenchmark,
    Rp2kBenchmark,
    SopBenchmark,
)
from stages.datasets.benchmarks.instances import (
    Gldv2Benchmark,
    InstreBenchmark,
    M4d35kBenchmark,
    MetBenchmark,
    RevisitedBenchmark,
    UnedBenchmark,
)
from stages.datasets.config import Source, SourceConfig
from stages.datasets.drawn import DrawnConfig
from stages.datasets.folder import FolderConfig
from stages.datasets.parquet import ParquetConfig
from stages.datasets.table import TableConfig
from stages.datasets.webdataset import WebDatasetConfig

DEFAULT_KIND = "table"


def _with_kind(value: Any) -> Any:
    return {"kind": DEFAULT_KIND} | value if isinstance(value, dict) else value


DatasetConfig: TypeAlias = Annotated[
    DrawnConfig | FolderConfig | ParquetConfig | TableConfig | WebDatasetConfig
    | Cars196Benchmark | Cub200Benchmark | Food2kBenchmark | Gldv2Benchmark | Inat2018Benchmark | InshopBenchmark
    | InstreBenchmark | M4d35kBenchmark | MetBenchmark | Products10kBenchmark | RevisitedBenchmark | Rp2kBenchmark
    | SopBenchmark | UnedBenchmark,
    Field(discriminator="kind"),
    BeforeValidator(_with_kind),
]  # fmt: skip
"""The ``[dataset]`` of a run file, chosen by ``kind``; without one it is a table."""

__all__ = [
    "DEFAULT_KIND", "Cars196Benchmark", "Cub200Benchmark", "DatasetConfig", "DrawnConfig", "FolderConfig",
    "Food2kBenchmark", "Gldv2Benchmark", "Inat2018Benchmark", "InshopBenchmark", "InstreBenchmark",
    "M4d35kBenchmark", "MetBenchmark", "ParquetConfig", "Products10kBenchmark", "RevisitedBenchmark",
    "Rp2kBenchmark", "SopBenchmark", "Source", "SourceConfig", "TableConfig", "UnedBenchmark", "WebDatasetConfig",
]  # fmt: skip
