"""Indexes of a gallery: one kind a file, each a config that says what it keeps and what it costs."""

from typing import Annotated, TypeAlias

from pydantic import Field

from stages.retrieval.indexes.auto import AutoIndexConfig, Choice, Tried, choose_index
from stages.retrieval.indexes.binary import BinaryIndexConfig
from stages.retrieval.indexes.build import BuiltConfig, build_index
from stages.retrieval.indexes.flat import FlatIndexConfig
from stages.retrieval.indexes.gallery_index import GalleryIndex
from stages.retrieval.indexes.hnsw import HnswIndexConfig
from stages.retrieval.indexes.ivf_flat import IvfFlatIndexConfig
from stages.retrieval.indexes.ivf_pq import IvfPqIndexConfig
from stages.retrieval.indexes.measure import Evidence
from stages.retrieval.indexes.opq import OpqIndexConfig
from stages.retrieval.indexes.rabitq import RabitqIndexConfig
from stages.retrieval.indexes.refine import RefineConfig
from stages.retrieval.indexes.scalar import ScalarIndexConfig

IndexConfig: TypeAlias = Annotated[AutoIndexConfig | BuiltConfig, Field(discriminator="kind")]
"""Any kind of index, distinguished by ``kind``, or the budgets that one is chosen by."""

__all__ = [
    "AutoIndexConfig",
    "BinaryIndexConfig",
    "BuiltConfig",
    "Choice",
    "Evidence",
    "FlatIndexConfig",
    "GalleryIndex",
    "HnswIndexConfig",
    "IndexConfig",
    "IvfFlatIndexConfig",
    "IvfPqIndexConfig",
    "OpqIndexConfig",
    "RabitqIndexConfig",
    "RefineConfig",
    "ScalarIndexConfig",
    "Tried",
    "build_index",
    "choose_index",
]
