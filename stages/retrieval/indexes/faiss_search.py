"""Reading and searching a faiss index with NumPy arrays."""

from __future__ import annotations

from typing import cast

import faiss
import numpy as np

from stages.ranking.nearest import Rows, Similarity
from stages.ranking.normalize import Vectors


def stored_vectors(index: faiss.Index) -> Vectors:
    """The gallery vectors (G, E) in a flat ``index``: a view, not a copy."""
    flat = cast("faiss.IndexFlat", faiss.downcast_index(index))
    size = index.ntotal * index.d
    return cast("Vectors", faiss.rev_swig_ptr(flat.get_xb(), size)).reshape(index.ntotal, index.d)


def search_index(
    index: faiss.Index, queries: Vectors, k: int, exclude: Rows, how: faiss.SearchParameters | None = None
) -> tuple[Rows, Similarity]:
    """What an approximate ``index`` finds: ids (Q, k) as it has them and its own similarities, best first.

    Equal similarities come in order of their ids. A list that is short ends in id -1 with similarity -inf.
    """
    width = min(k + int((exclude >= 0).any()), index.ntotal)
    # faiss.contrib.torch_utils, which PyTorch Metric Learning imports, replaces search by one without params.
    original = getattr(index, "search_numpy", index.search)
    similarity, ids = original(queries, width, params=how)
    inside = index_inside(index)
    if isinstance(inside, faiss.IndexLSH):
        similarity = np.cos(np.pi / inside.nbits * similarity)  # bits that differ -> cosine of the angle
    similarity[(ids < 0) | (ids == exclude[:, None])] = -np.inf
    ids[np.isneginf(similarity)] = -1
    columns = np.lexsort((ids, -similarity))[:, :k]
    rows = np.full((len(queries), k), -1, np.int64)
    rows[:, : columns.shape[1]] = np.take_along_axis(ids, columns, axis=1)
    similar = np.full((len(queries), k), -np.inf, np.float32)
    similar[:, : columns.shape[1]] = np.take_along_axis(similarity, columns, axis=1)
    return rows, similar


def index_inside(index: faiss.Index) -> faiss.Index:
    """``index``, or what a turned one is in its own space."""
    whole = faiss.downcast_index(index)
    return faiss.downcast_index(whole.index) if isinstance(whole, faiss.IndexPreTransform) else whole
