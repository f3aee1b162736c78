"""An index of a gallery, by the kind that a config names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, TypeAlias

import faiss
import numpy as np
from pydantic import Field

from stages.ranking.nearest import Rows
from stages.ranking.normalize import Vectors, check_unit
from stages.retrieval.indexes.binary import BinaryIndexConfig
from stages.retrieval.indexes.faiss_search import index_inside
from stages.retrieval.indexes.flat import FlatIndexConfig
from stages.retrieval.indexes.hnsw import HnswIndexConfig
from stages.retrieval.indexes.ivf_flat import IvfFlatIndexConfig
from stages.retrieval.indexes.ivf_pq import IvfPqIndexConfig
from stages.retrieval.indexes.opq import OpqIndexConfig
from stages.retrieval.indexes.rabitq import RabitqIndexConfig
from stages.retrieval.indexes.scalar import ScalarIndexConfig

BuiltConfig: TypeAlias = Annotated[
    FlatIndexConfig
    | IvfFlatIndexConfig
    | IvfPqIndexConfig
    | OpqIndexConfig
    | HnswIndexConfig
    | ScalarIndexConfig
    | BinaryIndexConfig
    | RabitqIndexConfig,
    Field(discriminator="kind"),
]
"""Any kind of index, distinguished by ``kind``."""


def build_index(vectors: Vectors, config: BuiltConfig = FlatIndexConfig()) -> faiss.Index:
    """The index of the gallery ``vectors`` (G, E), float32 of unit length; a row's id is its place among them.

    It follows from the vectors and the config. Raises ValueError when a row holds NaN or is not of unit length, when
    there is no row, or when there are too few for the kind.

    >>> build_index(np.eye(3, dtype=np.float32)).ntotal
    3
    """
    if len(vectors) == 0:
        raise ValueError(f"an index needs at least one gallery row, got shape {vectors.shape}")
    vectors = check_unit(vectors, "gallery vectors")
    index = config.trained(vectors)
    append(index, vectors, np.arange(len(vectors)))
    return index


def append(index: faiss.Index, vectors: Vectors, ids: Rows) -> None:
    """Add ``vectors`` (n, E) to a trained ``index``, with ``ids`` (n,) where it keeps ids of its own."""
    if keeps_ids(index):
        index.add_with_ids(vectors, ids)
    else:
        with _one_thread(isinstance(index, faiss.IndexHNSW)):
            index.add(vectors)


def keeps_ids(index: faiss.Index) -> bool:
    """Whether ``index`` stores the id of each row. The others count rows, and close the gap of one that is removed."""
    return isinstance(index_inside(index), faiss.IndexIVF)


@contextmanager
def _one_thread(wanted: bool) -> Iterator[None]:
    threads = faiss.omp_get_max_threads()
    if wanted:
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
