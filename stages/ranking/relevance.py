"""Which gallery rows count for which query: rows of the query's class, or rows that share a group with it.

Neither form holds a table of Q x G. A query that is itself a gallery row is counted like any other row here; a ranking
takes it out by its row number. Tables of which ranks hold something relevant come a block of queries at a time.
From vectors there are three ways to the same ranks. A shallow table comes from the nearest rows; a deep one
from comparing with the whole gallery and looking up where the relevant rows fall; and where ties count as all of their
orders, from the whole ranking with its groups. From rows that somebody else ranked there is only what they listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from cache.errors import RecordsError, SettingsError
from stages.ranking.metrics import Counts, Metric, Relevant, Values
from stages.ranking.nearest import compare_all, nearest_rows, query_blocks, ranks_by_similarity
from stages.ranking.normalize import Vectors, check_finite
from stages.ranking.ties import Tied, averaged, tied_order

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ByClass:
    """Relevant are the rows of the query's own class: whole numbers ``queries`` (Q,) and ``gallery`` (G,), -1 none."""

    queries: Rows
    gallery: Rows

    @cached_property
    def counts(self) -> Rows:
        """How many rows each query has, (Q,)."""
        first, last = self._stretch
        counts: Rows = np.where(self.queries >= 0, last - first, 0)
        return counts

    def rows(self, query: int) -> Rows:
        """The gallery rows of one query, ascending."""
        if self.queries[query] < 0:
            return np.empty(0, np.int64)
        first, last = self._stretch
        members: Rows = self._order[first[query] : last[query]]
        return members

    def among(self, queries: Rows, ranked: Rows) -> Mask:
        """Which of the rows ``ranked`` (B, K) belong to the ``queries`` (B,) that found them; row -1 never does."""
        if not len(self.gallery):
            return np.zeros(ranked.shape, np.bool_)
        wanted = self.queries[queries, None]
        mask: Mask = (self.gallery[ranked] == wanted) & (ranked >= 0) & (wanted >= 0)
        return mask

    def take(self, queries: Rows) -> ByClass:
        """The same for the queries at these positions, in this order."""
        return ByClass(self.queries[queries], self.gallery)

    @cached_property
    def _order(self) -> Rows:
        return np.argsort(self.gallery, kind="stable")

    @cached_property
    def _stretch(self) -> tuple[Rows, Rows]:
        """Where the class of each query (Q,) begins and ends in the gallery sorted by class."""
        ordered = self.gallery[self._order]
        return np.searchsorted(ordered, self.queries, "left"), np.searchsorted(ordered, self.queries, "right")


@dataclass(frozen=True)
class ByGroups:
    """Relevant are the rows that share at least one group with the query.

    ``groups`` (Q) has the groups of each query, and ``members`` the gallery rows of each group, ascending. A list of
    rows that a ground truth gives for one query is a group of its own; labels, of which an image has several, are
    groups as well.
    """

    groups: Sequence[Rows]
    members: Sequence[Rows]

    @classmethod
    def of(cls, queries: Sequence[Sequence[str]], gallery: Sequence[Sequence[str]]) -> ByGroups:
        """By the names of the groups of each query, and of each gallery row."""
        numbers: dict[str, int] = {}
        rows: list[list[int]] = []
        for row, names in enumerate(gallery):
            for name in names:
                if numbers.setdefault(name, len(rows)) == len(rows):
                    rows.append([])
                rows[numbers[name]].append(row)
        known = [[numbers[name] for name in names if name in numbers] for names in queries]
        return cls(_distinct(known), _distinct(rows))

    @classmethod
    def listed(cls, lists: Sequence[Sequence[int]]) -> ByGroups:
        """By the gallery rows of each query."""
        return cls([np.array([query]) for query in range(len(lists))], _distinct(lists))

    @cached_property
    def counts(self) -> Rows:
        """How many rows each query has, (Q,)."""
        return np.array([len(self.rows(query)) for query in range(len(self.groups))], dtype=np.int64)

    def rows(self, query: int) -> Rows:
        """The gallery rows of one query, ascending."""
        rows = [self.members[int(group)] for group in self.groups[query]]
        if len(rows) == 1:
            return rows[0]
        return np.unique(np.concatenate(rows)) if rows else np.empty(0, np.int64)

    def among(self, queries: Rows, ranked: Rows) -> Mask:
        """Which of the rows ``ranked`` (B, K) belong to the ``queries`` (B,) that found them."""
        mask = np.zeros(ranked.shape, np.bool_)
        for at, query in enumerate(queries):
            mask[at] = np.isin(ranked[at], self.rows(int(query)))
        return mask

    def take(self, queries: Rows) -> ByGroups:
        """The same for the queries at these positions, in this order."""
        return ByGroups([self.groups[query] for query in queries], self.members)


Relevance: TypeAlias = ByClass | ByGroups
"""Which of G gallery rows count for each of Q queries."""


def _distinct(lists: Sequence[Sequence[int]]) -> list[Rows]:
    return [np.array(sorted({*values}), np.int64) for values in lists]


@dataclass(frozen=True)
class Judgement:
    """What counts in the rankings of Q queries. ``junk`` rows are taken out, and those after them move up."""

    relevant: Relevance
    junk: Relevance | None = None

    def take(self, queries: Rows) -> Judgement:
        """The same for the queries at these positions, in this order."""
        return Judgement(self.relevant.take(queries), None if self.junk is None else self.junk.take(queries))

    def num_relevant(self, itself: Rows) -> Rows:
        """How many rows are relevant to each query (Q,), the query itself (its gallery row, or -1) not counted."""
        counted = self.relevant.among(np.arange(len(itself)), itself[:, None])[:, 0]
        return self.relevant.counts - counted

    def most_junk(self) -> int:
        """The most junk that any query has."""
        return 0 if self.junk is None else int(self.junk.counts.max(initial=0))


def own_rows(keys: Sequence[str], gallery_keys: Sequence[str]) -> Rows:
    """The gallery row (Q,) that has the key of each query, -1 where there is none.

    Raises RecordsError where two gallery rows have one key.

    >>> own_rows(["b", "x"], ["a", "b"]).tolist()
    [1, -1]
    """
    searched = set(gallery_keys)
    if len(searched) < len(gallery_keys):
        twice = next(key for key, count in Counter(gallery_keys).items() if count > 1)
        raise RecordsError(f"the gallery has more than one record of key {twice!r}; keys must differ")
    if searched.isdisjoint(keys):  # most often, and much faster than a table of all positions
        return np.full(len(keys), -1, np.int64)
    position = {key: row for row, key in enumerate(gallery_keys)}
    return np.array([position.get(key, -1) for key in keys], dtype=np.int64)


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
