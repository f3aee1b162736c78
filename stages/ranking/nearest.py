"""Nearest gallery rows, and the rank of every relevant one, under one order: exact, by blocks, never Q x G numbers.

The order: similarity (float32) descending, then gallery row ascending. Nothing else decides, so equal images always
come in gallery order, whichever of the two ways below found them:

* :func:`nearest_rows` takes candidates, a few more than asked for, by float32 products. Those carry rounding errors, so
  candidates that are too near to each other to be ordered by them are compared again exactly, and a query's answer
  counts only when no row that was left out can belong to it; otherwise more candidates are taken, and at last all.
  :func:`search` gives the exact similarities too.
* :func:`ranks_by_similarity`, of a whole table of :func:`compare_all`, *counts* the rows before each relevant one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from cache.errors import SettingsError
from stages.ranking.normalize import Vectors, check_unit

Rows = npt.NDArray[np.int64]
Similarity = npt.NDArray[np.float32]

_SPARE = 4  # candidates beyond k, so that most queries are settled at the first attempt
_SCAN_COSTS = 8  # comparing with the whole gallery costs as much as this share of it as candidates
_NUMBERS = 2**22  # of the largest array held while searching: 32 MB in float64
_FIRST_COLUMNS, _COLUMNS = 256, 4096  # gallery rows of the first and of the largest product
_PRODUCTS = 2**20  # numbers in the largest product, at least: of few queries it takes more gallery rows
_FEW = 3  # queries whose products are faster one by one: of 100,000 x 64 two take 5.2 ms at once, 3.1 apart


def search(gallery: Vectors, queries: Vectors, k: int, exclude: Rows | None = None) -> tuple[Rows, Similarity]:
    """The ``k`` rows of ``gallery`` (G, E) nearest to each query, and their similarity, both (Q, k).

    ``gallery`` and ``queries`` (Q, E) are float32 of unit length. ``exclude`` (Q,) is the gallery row that is the query
    itself, or -1 for none: it is left out by its number, so another row with equal bytes stays. Where fewer than k rows
    are left the rest is row -1 with similarity -inf.

    Raises ValueError when shapes do not agree, a query holds NaN, or ``k`` is below 1.

    >>> gallery = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    >>> search(gallery, gallery[:1], 2)[0]
    array([[0, 2]])
    """
    queries, exclude = check_queries(queries, gallery.shape, k, exclude)
    rows = nearest_rows(gallery, queries, k, exclude)
    return rows, similarities(gallery, queries, rows)


def search_among(
    gallery: Vectors, among: Rows, queries: Vectors, k: int, exclude: Rows | None = None
) -> tuple[Rows, Similarity]:
    """:func:`search`, but of the rows ``among`` (n,) of the gallery alone, ascending; they are copied block by block.

    >>> gallery = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    >>> search_among(gallery, np.array([1, 2]), gallery[:1], 2)[0]
    array([[2, 1]])
    """
    queries, exclude = check_queries(queries, gallery.shape, k, exclude)
    nearest = np.full((len(queries), k), -1, np.int64)
    similarity = np.full((len(queries), k), -np.inf, np.float32)
    for places in query_blocks(len(among), gallery.shape[1]):
        block = among[places]
        some = gallery[block]
        itself = np.where(np.isin(exclude, block), np.searchsorted(block, exclude), -1)
        rows = nearest_rows(some, queries, min(k, len(block)), itself)
        both = np.hstack([similarity, similarities(some, queries, rows)])
        columns, similarity = _first(both, k)  # equal ones stay in gallery order
        nearest = np.take_along_axis(np.hstack([nearest, np.where(rows < 0, -1, block[rows])]), columns, axis=1)
    return nearest, similarity


def check_queries(queries: Vectors, gallery: tuple[int, ...], k: int, exclude: Rows | None) -> tuple[Vectors, Rows]:
    """``queries`` and ``exclude``, ready to search a gallery of shape (G, E). Raises ValueError as :func:`search`."""
    queries = check_unit(queries, "queries")
    rows, dim = gallery
    if queries.shape[1] != dim:
        raise SettingsError(
            f"queries have {queries.shape[1]} numbers a row, the gallery has {dim}: both must come from one store"
        )
    if k < 1:
        raise SettingsError(f"k must be at least 1, got {k}")
    if exclude is None:
        return queries, np.full(len(queries), -1, np.int64)
    if exclude.shape != (len(queries),) or (exclude >= rows).any():
        raise SettingsError(
            f"exclude must give each of the {len(queries)} queries a gallery row below {rows} or -1, "
            f"got shape {exclude.shape} with largest {exclude.max(initial=-1)}"
        )
    return queries, exclude


def nearest_rows(gallery: Vectors, queries: Vectors, k: int, exclude: Rows) -> Rows:
    """The rows (Q, k) that :func:`search` gives, for vectors from :func:`stages.ranking.unit_length`."""
    rows = np.full((len(queries), k), -1, np.int64)
    unsettled, width = np.arange(len(queries)), k + int((exclude >= 0).any()) + _SPARE
    while len(unsettled) and width * _SCAN_COSTS < len(gallery):
        columns = max(_COLUMNS, 16 * width, _PRODUCTS // len(unsettled))
        settled = np.zeros(len(unsettled), np.bool_)
        for block in query_blocks(len(unsettled), min(columns, len(gallery))):
            which = unsettled[block]
            some = queries[which]
            roughly, candidates = _candidates(gallery, some, width, columns)
            rows[which], settled[block] = _in_order(gallery, some, roughly, candidates, exclude[which], k)
        unsettled, width = unsettled[~settled], width * 8
    for block in query_blocks(len(unsettled), len(gallery)):
        which = unsettled[block]
        nearest, exact = _first(compare_all(gallery, queries[which], exclude[which]), k)
        rows[which, : nearest.shape[1]] = np.where(np.isneginf(exact), -1, nearest)
    return rows


def _candidates(gallery: Vectors, queries: Vectors, width: int, columns: int) -> tuple[Similarity, Rows]:
    """The ``width`` rows (Q, W) of highest float32 product with each query, descending, and these products.

    ``least`` (Q,) is the W-th highest product so far, so that nearly all of a further block falls to one comparison:
    blocks double up to ``columns`` rows, and of a block as large as all before it about W rows a query are left. A
    gallery of at most ``columns`` rows is one block. Rows that tie with the last candidate may be left out.
    """
    best, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    least = np.full(len(queries), -np.inf, np.float32)
    low = 0
    while low < len(gallery):
        high = len(gallery) if len(gallery) <= columns else low + min(max(_FIRST_COLUMNS, 8 * width, low), columns)
        some = gallery[low:high]
        few = len(queries) <= _FEW
        products = np.stack([some @ query for query in queries]) if few else queries @ some.T  # (Q, columns)
        if not low and products.shape[1] > width:
            least = np.partition(products, -width, axis=1)[:, -width]
            above = products >= least[:, None]
        else:
            above = products > least[:, None]
        query, column = np.divmod(np.flatnonzero(above), products.shape[1])  # four times as fast as np.nonzero
        counts = np.bincount(query, minlength=len(queries))
        place = best.shape[1] + np.arange(len(query)) - (np.cumsum(counts) - counts)[query]
        more = ((0, 0), (0, int(counts.max(initial=0))))
        best, rows = np.pad(best, more, constant_values=-np.inf), np.pad(rows, more, constant_values=-1)
        best[query, place], rows[query, place] = products[query, column], column + low
        if best.shape[1] > width:
            highest = np.argpartition(best, -width, axis=1)[:, -width:]
            best, rows = np.take_along_axis(best, highest, axis=1), np.take_along_axis(rows, highest, axis=1)
            least = best.min(axis=1)
        low = high
    order = np.argsort(-best, axis=1)
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(rows, order, axis=1)


def similarities(gallery: npt.NDArray[np.floating], queries: Vectors, rows: Rows) -> Similarity:
    """The exact similarity (Q, K) of each query (Q, E) with its gallery ``rows`` (Q, K); -inf for row -1."""
    similarity = np.empty(rows.shape, np.float32)
    for block in query_blocks(len(queries), rows.shape[1] * gallery.shape[1]):
        similarity[block] = np.einsum("qke,qe->qk", gallery[rows[block]], queries[block], dtype=np.float64)
    similarity[rows < 0] = -np.inf
    return similarity


def ranks_by_similarity(
    similarity: npt.NDArray[np.floating], relevant_rows: Sequence[Rows], depth: int
) -> npt.NDArray[np.bool_]:
    """Which of the first ``depth`` ranks hold a relevant row, (Q, depth), by a table of ``similarity`` (Q, G).

    Sorting the similarities and looking the relevant ones up is several times faster than sorting the rows, and only
    ties need the latter.
    """
    ascending = np.sort(similarity, axis=1)
    relevant = np.zeros((len(similarity), depth), np.bool_)
    for query, rows in enumerate(relevant_rows):
        wanted = similarity[query, rows]
        upto = np.searchsorted(ascending[query], wanted, side="right")
        if (upto - np.searchsorted(ascending[query], wanted, side="left") > 1).any():
            columns, _ = _first(similarity[query : query + 1], depth)
            relevant[query, : columns.shape[1]] = np.isin(columns[0], rows)
        else:
            ranks = similarity.shape[1] - upto
            relevant[query, ranks[ranks < depth]] = True
    return relevant


def query_blocks(num_queries: int, numbers_a_query: int) -> Iterator[Rows]:
    """Positions 0 to ``num_queries`` in blocks for which an array of ``numbers_a_query`` per query stays small."""
    size = max(1, _NUMBERS // max(1, numbers_a_query))
    return (np.arange(low, min(low + size, num_queries)) for low in range(0, num_queries, size))


def _in_order(
    gallery: Vectors, queries: Vectors, roughly: Similarity, candidates: Rows, exclude: Rows, k: int
) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """The first k (Q, k) of ``candidates`` (Q, W), which descend by ``roughly`` (Q, W), and which queries they settle.

    Where two that follow each other are farther apart than rounding reaches, their order is right as it is.
    """
    error = _rounding(gallery.shape[1])
    near = roughly[:, :-1] - roughly[:, 1:] <= 2 * error
    doubtful = np.zeros(roughly.shape, np.bool_)
    doubtful[:, :-1] |= near
    doubtful[:, 1:] |= near
    similarity, last = roughly, roughly[:, -1].copy()
    query, column = np.nonzero(doubtful)
    for pairs in query_blocks(len(query), gallery.shape[1]):
        some, at = query[pairs], column[pairs]
        similarity[some, at] = np.einsum("ne,ne->n", gallery[candidates[some, at]], queries[some], dtype=np.float64)
    itself = candidates == exclude[:, None]
    similarity[itself] = -np.inf
    moved = np.flatnonzero(doubtful.any(axis=1) | itself.any(axis=1))
    by_row = np.argsort(candidates[moved], axis=1)
    columns, similarity[moved] = _first(np.take_along_axis(similarity[moved], by_row, axis=1), similarity.shape[1])
    candidates[moved] = np.take_along_axis(np.take_along_axis(candidates[moved], by_row, axis=1), columns, axis=1)
    return candidates[:, :k], similarity[:, k - 1] - last > 2 * error


def _rounding(dim: int) -> float:
    """How far a float32 similarity of unit vectors may be off, summed in any order and rounded.

    A sum of ``dim`` products is off by at most dim * 2**-24 of the sum of their sizes, which is 1 (lengths may be off
    by 1e-3); one more for rounding the exact sum.
    """
    return 1.01 * (dim + 2) * 2.0**-24


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
