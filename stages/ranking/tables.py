"""Which ranks hold something relevant: tables for a block of queries at a time, so that memory stays bounded.

From vectors there are three ways to the same ranks. A shallow table comes from the nearest rows; a deep one
from comparing with the whole gallery and looking up where the relevant rows fall; and where ties count as all of their
orders, from the whole ranking with its groups. From rows that somebody else ranked there is only what they listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from cache.errors import SettingsError
from stages.ranking.metrics import Counts, Metric, Relevant, Values
from stages.ranking.nearest import compare_all, nearest_rows, query_blocks, ranks_by_similarity
from stages.ranking.normalize import Vectors, check_finite
from stages.ranking.relevance import Judgement, Mask, Rows
from stages.ranking.ties import Tied, averaged, tied_order

T = TypeVar("T", np.int64, np.float32, np.float64)

ELSEWHERE = -2
"""A row of another gallery than the query's own."""

_SHALLOW = 100  # up to this depth searching is faster than ranking the whole gallery
_SCAN_COSTS = 64  # deeper too, where the gallery has this many times as many rows
_ARRAYS = 12  # of the size (block, G), held at once where ties count as all of their orders


class Table(NamedTuple):
    """A block of queries (B,), which of their ranks hold something relevant, (B, K), and where asked for what ties."""

    queries: Rows
    relevant: Relevant
    tied: Tied | None = None

    def value(self, metric: Metric, num_relevant: Counts) -> Values:
        """The value (B,) of ``metric``, by row order or over all orders of what ties."""
        if self.tied is not None:
            return averaged(metric, self.tied)
        return metric.function(self.relevant, num_relevant[self.queries])


def relevance_tables(
    gallery: Vectors, queries: Vectors, judged: Judgement, itself: Rows, depth: int, *, tied: bool = False
) -> Iterator[Table]:
    """The tables of all ``queries``, ``depth`` ranks deep.

    ``gallery`` (G, E) and ``queries`` (Q, E) are of unit length; ``itself`` (Q,) is each query's own gallery row, or
    -1. With ``tied`` the tables are whole rankings with the groups of equal similarity. Raises ValueError for rows
    with NaN or of two dimensions.
    """
    if gallery.shape[1] != queries.shape[1]:
        raise SettingsError(
            f"queries have {queries.shape[1]} numbers a row and the gallery {gallery.shape[1]}: both must come from "
            "one store"
        )
    check_finite(gallery, "gallery vectors")
    check_finite(queries, "queries")
    listed = depth + judged.most_junk()
    if not tied and (listed <= _SHALLOW or listed * _SCAN_COSTS < len(gallery)):
        for block in query_blocks(len(queries), 8 * listed):
            yield table_of_rows(judged, block, nearest_rows(gallery, queries[block], listed, itself[block]), depth)
        return
    for block in query_blocks(len(queries), (_ARRAYS if tied else 1) * len(gallery)):
        similarity = compare_all(gallery, queries[block], itself[block])
        own = zip((judged.relevant.rows(int(query)) for query in block), itself[block], strict=True)
        relevant_rows = [rows[rows != itself_row] for rows, itself_row in own]
        if judged.junk is not None:
            for at, query in enumerate(block):
                similarity[at, judged.junk.rows(int(query))] = -np.inf  # after everything else, and not relevant
        if not tied:
            yield Table(block, ranks_by_similarity(similarity, relevant_rows, depth))
            continue
        relevant = np.zeros(similarity.shape, np.bool_)
        for at, rows in enumerate(relevant_rows):
            relevant[at, rows] = True
        table = tied_order(similarity, relevant, relevant.sum(axis=1))
        yield Table(block, table.relevant, table)


def table_of_rows(judged: Judgement, queries: Rows, rows: Rows, depth: int) -> Table:
    """The table, ``depth`` ranks deep, of ``rows`` (B, K) ranked for ``queries`` (B,), without the :func:`unwanted`."""
    staying, _ = without(rows, unwanted(judged, queries, rows))
    return Table(queries, judged.relevant.among(queries, staying[:, :depth]))


def unwanted(judged: Judgement, queries: Rows, rows: Rows, itself: Rows | None = None) -> Mask:
    """Which ``rows`` (B, K) are to be taken out for ``queries`` (B,): junk, itself, and :data:`ELSEWHERE`."""
    mask: Mask = rows == ELSEWHERE
    if itself is not None:
        mask |= (rows == itself[:, None]) & (rows >= 0)
    if judged.junk is not None:
        mask |= judged.junk.among(queries, rows)
    return mask


def without(rows: Rows, dropped: Mask) -> tuple[Rows, Counts]:
    """``rows`` (B, K) without the ``dropped`` ones, as :func:`moved_up`, and how many each list still has."""
    counts = rows.shape[1] - dropped.sum(axis=1)
    return (moved_up(rows, dropped, -1) if dropped.any() else rows), counts


def moved_up(values: npt.NDArray[T], dropped: Mask, end: float) -> npt.NDArray[T]:
    """``values`` (B, K) without the ``dropped`` ones, those after them moved up, and ``end`` put in for them."""
    order = np.argsort(dropped, axis=1, kind="stable")
    return np.take_along_axis(np.where(dropped, values.dtype.type(end), values), order, axis=1)
