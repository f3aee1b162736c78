"""Indexes of a gallery: the kinds there are, the one that knows its keys, and the choice of one by budgets."""

from typing import Annotated, TypeAlias

from pydantic import Field

from stages.retrieval.indexes.auto import AutoIndexConfig, Choice, Tried, choose_index
from stages.retrieval.indexes.gallery_index import GalleryIndex
from stages.retrieval.indexes.kinds import (
    BinaryIndexConfig,
    BuiltConfig,
    FlatIndexConfig,
    HnswIndexConfig,
    IvfFlatIndexConfig,
    IvfPqIndexConfig,
    OpqIndexConfig,
    RabitqIndexConfig,
    RefineConfig,
    ScalarIndexConfig,
    build_index,
)
from stages.retrieval.indexes.measure import Evidence

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
