"""Filling and searching a faiss index with NumPy arrays."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

from stages.ranking.nearest import Rows, Similarity, similarities
from stages.ranking.normalize import Vectors
from stages.retrieval.indexes import lazy_faiss as faiss


def index_inside(index: faiss.Index) -> faiss.Index:
    """``index``, or what a turned one is in its own space."""
    whole = faiss.downcast_index(index)
    return faiss.downcast_index(whole.index) if isinstance(whole, faiss.IndexPreTransform) else whole


def keeps_ids(index: faiss.Index) -> bool:
    """Whether ``index`` stores the id of each row. The others count rows, and close the gap of one that is removed."""
    return isinstance(index_inside(index), faiss.IndexIVF)


def append(index: faiss.Index, vectors: Vectors, ids: Rows) -> None:
    """Add ``vectors`` (n, E) to a trained ``index``, with ``ids`` (n,) where it keeps ids of its own."""
    if keeps_ids(index):
        index.add_with_ids(vectors, ids)
        return
    threads = faiss.omp_get_max_threads()
    if isinstance(index, faiss.IndexHNSW):
        faiss.omp_set_num_threads(1)
    try:
        index.add(vectors)
    finally:
        faiss.omp_set_num_threads(threads)


def stored_vectors(index: faiss.Index) -> Vectors:
    """The gallery vectors (G, E) in a flat ``index``: a view, not a copy."""
    flat = cast("faiss.IndexFlat", faiss.downcast_index(index))
    size = index.ntotal * index.d
    return cast("Vectors", faiss.rev_swig_ptr(flat.get_xb(), size)).reshape(index.ntotal, index.d)


def selecting(index: faiss.Index, allowed: npt.NDArray[np.bool_]) -> faiss.SearchParameters | None:
    """Parameters by which ``index`` finds rows alone whose id, as it has them, is ``allowed`` (ids,).

    Every inverted list is visited, and a graph searched as it always is. None where faiss has no such search of a kind.
    """
    inside = index_inside(index)
    if isinstance(inside, (faiss.IndexPQ, faiss.IndexLSH)):
        return None
    bits = np.zeros(-(-len(allowed) // 8) * 8, np.bool_)
    bits[: len(allowed)] = allowed
    sel = faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))  # type: ignore[call-arg,arg-type]
    how: faiss.SearchParameters
    if isinstance(inside, faiss.IndexIVF):
        how = faiss.SearchParametersIVF(sel=sel, nprobe=inside.nlist)  # type: ignore[call-arg]
    elif isinstance(inside, faiss.IndexHNSW):
        how = faiss.SearchParametersHNSW(sel=sel, efSearch=inside.hnsw.efSearch)
    else:
        how = faiss.SearchParameters(sel=sel)  # type: ignore[call-arg]
    if isinstance(faiss.downcast_index(index), faiss.IndexPreTransform):
        how = faiss.SearchParametersPreTransform(index_params=how)  # type: ignore[call-arg]
    return how


def search_index(
    index: faiss.Index, queries: Vectors, k: int, exclude: Rows, how: faiss.SearchParameters | None = None
) -> tuple[Rows, Similarity]:
    """What an approximate ``index`` finds, as :func:`best_of`: ids (Q, k) as it has them and its own similarities."""
    width = min(k + int((exclude >= 0).any()), index.ntotal)
    # faiss.contrib.torch_utils, which PyTorch Metric Learning imports, replaces search by one without params.
    original = getattr(index, "search_numpy", index.search)
    similarity, ids = original(queries, width, params=how)
    inside = index_inside(index)
    if isinstance(inside, faiss.IndexLSH):
        similarity = np.cos(np.pi / inside.nbits * similarity)  # bits that differ -> cosine of the angle
    similarity[(ids < 0) | (ids == exclude[:, None])] = -np.inf
    ids[np.isneginf(similarity)] = -1
    return best_of(ids, similarity, k)


def compare_again(
    originals: npt.NDArray[np.floating], queries: Vectors, places: Rows, k: int
) -> tuple[Rows, Similarity]:
    """The first k of each query's ``places`` (Q, W) in ``originals`` (G, E) by exact similarity, as :func:`best_of`."""
    return best_of(places, similarities(originals, queries, places), k)


def best_of(ids: Rows, similarity: Similarity, k: int) -> tuple[Rows, Similarity]:
    """The first ``k`` of ``ids`` (Q, W) by ``similarity`` (Q, W), then by id; both (Q, k), at the end -1 and -inf."""
    columns = np.lexsort((ids, -similarity))[:, :k]
    shape = len(ids), k
    rows, similar = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
    rows[:, : columns.shape[1]] = np.take_along_axis(ids, columns, axis=1)
    similar[:, : columns.shape[1]] = np.take_along_axis(similarity, columns, axis=1)
    return rows, similar
