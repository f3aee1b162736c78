"""Which gallery rows count for which query: rows of the query's class, or rows that share a group with it.

Neither form holds a table of Q x G. A query that is itself a gallery row is counted like any other row here; a ranking
takes it out by its row number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cache.errors import RecordsError

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
