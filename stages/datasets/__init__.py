"""Every kind of dataset, one a file: a configuration class whose ``read`` lists the images with labels and splits.

To add one: write its file, a frozen dataclass with a ``kind`` and ``read``, and name it in ``DatasetConfig``.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field

from stages.datasets.benchmarks.cars196 import Cars196Benchmark
from stages.datasets.benchmarks.cub200 import Cub200Benchmark
from stages.datasets.benchmarks.food2k import Food2kBenchmark
from stages.datasets.benchmarks.gldv2 import Gldv2Benchmark
from stages.datasets.benchmarks.inat2018 import Inat2018Benchmark
from stages.datasets.benchmarks.inshop import InshopBenchmark
from stages.datasets.benchmarks.instre import InstreBenchmark
from stages.datasets.benchmarks.m4d35k import M4d35kBenchmark
from stages.datasets.benchmarks.met import MetBenchmark
from stages.datasets.benchmarks.products10k import Products10kBenchmark
from stages.datasets.benchmarks.revisited import RevisitedBenchmark
from stages.datasets.benchmarks.rp2k import Rp2kBenchmark
from stages.datasets.benchmarks.sop import SopBenchmark
from stages.datasets.benchmarks.uned import UnedBenchmark
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
    DrawnConfig
    | FolderConfig
    | ParquetConfig
    | TableConfig
    | WebDatasetConfig
    | Cars196Benchmark
    | Cub200Benchmark
    | Food2kBenchmark
    | Gldv2Benchmark
    | Inat2018Benchmark
    | InshopBenchmark
    | InstreBenchmark
    | M4d35kBenchmark
    | MetBenchmark
    | Products10kBenchmark
    | RevisitedBenchmark
    | Rp2kBenchmark
    | SopBenchmark
    | UnedBenchmark,
    Field(discriminator="kind"),
    BeforeValidator(_with_kind),
]
"""The ``[dataset]`` of a run file, chosen by ``kind``; without one it is a table."""

__all__ = [
    "DEFAULT_KIND",
    "Cars196Benchmark",
    "Cub200Benchmark",
    "DatasetConfig",
    "DrawnConfig",
    "FolderConfig",
    "Food2kBenchmark",
    "Gldv2Benchmark",
    "Inat2018Benchmark",
    "InshopBenchmark",
    "InstreBenchmark",
    "M4d35kBenchmark",
    "MetBenchmark",
    "ParquetConfig",
    "Products10kBenchmark",
    "RevisitedBenchmark",
    "Rp2kBenchmark",
    "SopBenchmark",
    "Source",
    "SourceConfig",
    "TableConfig",
    "UnedBenchmark",
    "WebDatasetConfig",
]
