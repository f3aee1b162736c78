"""Faiss with NumPy arrays: what an index learns from the gallery, and how it is filled and searched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from cache.errors import SettingsError
from stages.ranking.nearest import Rows, Similarity
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


def best_of(ids: Rows, similarity: Similarity, k: int) -> tuple[Rows, Similarity]:
    """The first ``k`` of ``ids`` (Q, W) by ``similarity`` (Q, W), then by id; both (Q, k), at the end -1 and -inf."""
    columns = np.lexsort((ids, -similarity))[:, :k]
    shape = len(ids), k
    rows, similar = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
    rows[:, : columns.shape[1]] = np.take_along_axis(ids, columns, axis=1)
    similar[:, : columns.shape[1]] = np.take_along_axis(similarity, columns, axis=1)
    return rows, similar


PIECES = 256  # of a product code
SAMPLE = 256 * PIECES  # rows that codes are learned from
_ROWS_A_LIST = 39  # fewer rows than this for each centre, and centres are single rows
_SAMPLE_A_LIST = 48  # rows that a centre is learned from
_ROUNDS = 8
_CODE_ROUNDS = 25
_ROWS_AT_ONCE = 2**15  # faiss encodes so many together


class VectorRows(Protocol):
    """The vectors (G, E) of a gallery, of unit length, read as they are needed. An array is one that is in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(G, E)."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Rows, /) -> Vectors: ...


def in_blocks(low: int, high: int) -> Iterator[Rows]:
    """The rows from ``low`` up to ``high``, as many together as are read and encoded at a time."""
    return (np.arange(at, min(at + _ROWS_AT_ONCE, high)) for at in range(low, high, _ROWS_AT_ONCE))


def sample(vectors: VectorRows, rows: int, seed: int) -> Vectors:
    """At most so many ``rows`` of ``vectors`` (G, E), drawn from the ``seed``, in their order."""
    if len(vectors) <= rows:
        return vectors if isinstance(vectors, np.ndarray) else vectors[np.arange(len(vectors))]
    return vectors[np.sort(np.random.default_rng(seed).choice(len(vectors), rows, replace=False))]


def number_of_lists(lists: int, rows: int) -> int:
    """``lists``, or where that is 0 what fits a gallery of ``rows``. ValueError for more lists than rows."""
    if lists > rows:
        raise SettingsError(f"an index of {lists:,} lists needs as many rows, got {rows:,}. Ask for fewer lists.")
    return lists or max(1, min(round(4 * rows**0.5), rows // _ROWS_A_LIST))


def centres(vectors: VectorRows, lists: int, seed: int, turn: faiss.LinearTransform | None = None) -> faiss.IndexFlatIP:
    """Spherical k-means of a sample of ``vectors`` (G, E), as ``turn`` makes them; 0 ``lists`` are what fits."""
    lists = number_of_lists(lists, len(vectors))
    how = faiss.ClusteringParameters()
    how.niter, how.seed, how.spherical = _ROUNDS, seed, True
    how.min_points_per_centroid, how.max_points_per_centroid = 1, _SAMPLE_A_LIST
    learned, quantizer = sample(vectors, lists * _SAMPLE_A_LIST, seed), faiss.IndexFlatIP(vectors.shape[1])
    faiss.Clustering(vectors.shape[1], lists, how).train(learned if turn is None else turn.apply(learned), quantizer)
    return quantizer


def check_codes(size: int, rows: int, dim: int, kind: str) -> None:
    """ValueError unless vectors of ``dim`` numbers can be ``size`` bytes, learned from so many ``rows``."""
    if dim % size:
        fit = ", ".join(str(n) for n in range(1, dim + 1) if dim % n == 0)
        raise SettingsError(f"bytes must divide the {dim} numbers of a vector ({fit}), got {size}")
    if rows < PIECES:
        raise SettingsError(
            f"{kind} learns {PIECES} pieces and needs as many rows, got {rows}. A flat index fits here."
        )


def seeded(quantizer: faiss.ProductQuantizer, seed: int) -> faiss.ProductQuantizer:
    """Make what ``quantizer`` will learn follow from ``seed``."""
    quantizer.cp.seed, quantizer.cp.niter = seed, _CODE_ROUNDS
    quantizer.cp.min_points_per_centroid = 1
    return quantizer


def random_turn(dim: int, bits: int, seed: int) -> faiss.RandomRotationMatrix:
    """A random rotation of ``dim`` numbers into ``bits``."""
    turn = faiss.RandomRotationMatrix(dim, bits)
    turn.init(seed)
    return turn


def turned(vectors: Vectors, turn: faiss.LinearTransform, inner: faiss.Index) -> faiss.IndexPreTransform:
    """``inner``, trained on ``vectors`` (n, E) as the trained ``turn`` makes them, behind it."""
    inner.train(turn.apply(vectors))
    return faiss.IndexPreTransform(turn, inner)
