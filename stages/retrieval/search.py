"""Nearest gallery rows, and the rank of every relevant one, under one order.

The order: similarity (float32) descending, then gallery row ascending. Nothing else decides, so equal images always
come in gallery order, whichever of the two ways below found them:

* :func:`search` lets the index propose candidates, a few more than asked for. Its similarities carry rounding errors,
  so the candidates are compared again exactly, and a query's answer counts only when no row that was left out can
  belong to it; otherwise more candidates are asked for, and at last all.
* :func:`relevant_ranks` compares a query with the whole gallery and *counts* the rows before each relevant one.
"""

from __future__ import annotations

from collections.abc import Iterator

import faiss
import numpy as np
import numpy.typing as npt

from stages.retrieval.index import check_unit, stored_vectors

Rows = npt.NDArray[np.int64]
Similarity = npt.NDArray[np.float32]
Vectors = npt.NDArray[np.float32]

_SPARE = 16  # candidates beyond k, so that most queries are settled at the first attempt
_SCAN_COSTS = 32  # comparing with the whole gallery costs as much as this share of it as candidates
_NUMBERS = 2**22  # of the largest array held while searching: 32 MB in float64


def search(index: faiss.Index, queries: Vectors, k: int, exclude: Rows | None = None) -> tuple[Rows, Similarity]:
    """The ``k`` nearest gallery rows of each query, and their similarity, both (Q, k).

    ``queries`` (Q, E) are float32 of unit length. ``exclude`` (Q,) is the gallery row that is the query itself, or
    -1 for none: it is left out by identity, so another row with equal bytes stays. Where the gallery has fewer than
    k rows the rest is row -1 with similarity -inf. ``index`` is one of :func:`stages.retrieval.build_index`.

    Raises ValueError when shapes do not agree, a query holds NaN, or ``k`` is below 1.
    """
    queries, exclude = _checked(queries, index, exclude)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    gallery = stored_vectors(index)
    rows = np.full((len(queries), k), -1, np.int64)
    similarity = np.full((len(queries), k), -np.inf, np.float32)
    unsettled, width = np.arange(len(queries)), k + 1 + _SPARE
    while len(unsettled) and width * _SCAN_COSTS < len(gallery):
        # faiss blocks its work itself and is several times slower on many small batches than on a large one.
        roughly, candidates = index.search(queries[unsettled], width)
        settled = np.zeros(len(unsettled), np.bool_)
        for block in query_blocks(len(unsettled), width * index.d):
            which = unsettled[block]
            columns, exact = _compare(gallery, queries[which], candidates[block], exclude[which], k)
            rows[which], similarity[which] = columns, exact
            settled[block] = exact[:, -1] > roughly[block, -1] + _rounding(index.d)
        unsettled, width = unsettled[~settled], width * 8
    for block in query_blocks(len(unsettled), len(gallery)):
        which = unsettled[block]
        columns, exact = _first(compare_all(gallery, queries[which], exclude[which]), k)
        rows[which, : columns.shape[1]] = np.where(np.isneginf(exact), -1, columns)
        similarity[which, : columns.shape[1]] = exact
    return rows, similarity


def relevant_ranks(
    gallery: Vectors,
    queries: Vectors,
    exclude: Rows,
    relevant_rows: list[Rows],
    depth: int,
    junk_rows: list[Rows] | None = None,
) -> npt.NDArray[np.bool_]:
    """Which of the first ``depth`` ranks hold a relevant row, (Q, depth), for a block of queries.

    ``gallery`` (G, E) and ``queries`` (Q, E) come from :func:`stages.retrieval.unit_length`; ``relevant_rows`` are the
    gallery rows relevant to each query, ``exclude`` (Q,) and its ``junk_rows``, which are taken out of its ranking,
    not among them. Sorting the similarities and looking the relevant ones up is several times faster than sorting the
    rows, and only ties need the latter.
    """
    similarity = compare_all(gallery, queries, exclude)
    for query, rows in enumerate(junk_rows or ()):
        similarity[query, rows] = -np.inf
    ascending = np.sort(similarity, axis=1)
    relevant = np.zeros((len(queries), depth), np.bool_)
    for query, rows in enumerate(relevant_rows):
        wanted = similarity[query, rows]
        upto = np.searchsorted(ascending[query], wanted, side="right")
        if (upto - np.searchsorted(ascending[query], wanted, side="left") > 1).any():
            columns, _ = _first(similarity[query : query + 1], depth)
            relevant[query, : columns.shape[1]] = np.isin(columns[0], rows)
        else:
            ranks = len(gallery) - upto
            relevant[query, ranks[ranks < depth]] = True
    return relevant


def query_blocks(num_queries: int, numbers_a_query: int) -> Iterator[Rows]:
    """Positions 0 to ``num_queries`` in blocks for which an array of ``numbers_a_query`` per query stays small."""
    size = max(1, _NUMBERS // max(1, numbers_a_query))
    return (np.arange(low, min(low + size, num_queries)) for low in range(0, num_queries, size))


def _checked(queries: Vectors, index: faiss.Index, exclude: Rows | None) -> tuple[Vectors, Rows]:
    queries = check_unit(queries, "queries")
    if queries.shape[1] != index.d:
        raise ValueError(
            f"queries have {queries.shape[1]} numbers a row, the index has {index.d}: both must come from one store"
        )
    if exclude is None:
        return queries, np.full(len(queries), -1, np.int64)
    if exclude.shape != (len(queries),) or (exclude >= index.ntotal).any():
        raise ValueError(
            f"exclude must give each of the {len(queries)} queries a gallery row below {index.ntotal} or -1, "
            f"got shape {exclude.shape} with largest {exclude.max(initial=-1)}"
        )
    return queries, exclude


def _compare(gallery: Vectors, queries: Vectors, candidates: Rows, exclude: Rows, k: int) -> tuple[Rows, Similarity]:
    """The first k (Q, k) of each query's ``candidates`` (Q, W), gallery rows in any order, compared exactly."""
    candidates = np.sort(candidates, axis=1)
    similarity = np.einsum("qwe,qe->qw", gallery[candidates], queries, dtype=np.float64).astype(np.float32)
    similarity[candidates == exclude[:, None]] = -np.inf
    columns, similarity = _first(similarity, k)
    return np.take_along_axis(candidates, columns, axis=1), similarity


def _rounding(dim: int) -> float:
    """How far a float32 sum of ``dim`` products of unit vectors may be off, in any order: dim * 2**-24, and double."""
    return dim * 2.0**-23


def compare_all(gallery: Vectors, queries: Vectors, exclude: Rows) -> Similarity:
    """Exact similarity (Q, G); the excluded rows get -inf."""
    wide = queries.astype(np.float64)
    similarity = np.empty((len(queries), len(gallery)), np.float32)
    step = max(1, _NUMBERS // max(gallery.shape[1], len(queries)))
    for low in range(0, len(gallery), step):
        similarity[:, low : low + step] = wide @ gallery[low : low + step].T.astype(np.float64)
    (itself,) = np.nonzero(exclude >= 0)
    similarity[itself, exclude[itself]] = -np.inf
    return similarity


def _first(similarity: Similarity, k: int) -> tuple[Rows, Similarity]:
    """The columns of the k most similar, (Q, min(k, columns)): the stable sort keeps equal ones in column order."""
    columns = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return columns, np.take_along_axis(similarity, columns, axis=1)
