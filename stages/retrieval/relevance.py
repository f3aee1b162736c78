"""Who is relevant to whom: gallery rows of the query's class, or rows that share a group with it.

Both forms answer the same three questions, for Q queries and G gallery rows: how many rows each query has, which they
are, and which of a ranking's rows are among them. Neither holds a table of Q x G. The query itself is counted like any
other row here: a ranking takes it out, by identity.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cache.errors import RecordsError
from stages.records import Records

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Relevance(Protocol):
    """Which of G gallery rows count for each of Q queries."""

    @property
    def counts(self) -> Rows:
        """How many rows each query has, (Q,)."""

    def rows(self, query: int) -> Rows:
        """The gallery rows of one query, ascending."""

    def among(self, queries: Rows, found: Rows) -> Mask:
        """Which of the rows ``found`` (B, K) belong to the ``queries`` (B,) that found them; row -1 never does."""

    def take(self, queries: Rows) -> Relevance:
        """The same for the queries at these positions, in this order."""


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
        found: Rows = self._order[first[query] : last[query]]
        return found

    def among(self, queries: Rows, found: Rows) -> Mask:
        """Which of the rows ``found`` (B, K) belong to the ``queries`` (B,) that found them."""
        wanted = self.queries[queries, None]
        mask: Mask = (self.gallery[found] == wanted) & (found >= 0) & (wanted >= 0)
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


class Lists(NamedTuple):
    """Several lists of whole numbers, one after another: list i is ``values[first[i] : first[i + 1]]``."""

    first: Rows
    values: Rows

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> Lists:
        """The lists, each ascending and without repeats."""
        distinct = [sorted({*values}) for values in lists]
        first = np.append(0, np.cumsum([len(values) for values in distinct], dtype=np.int64)).astype(np.int64)
        return cls(first, np.array([value for values in distinct for value in values], dtype=np.int64))

    def __getitem__(self, at: int) -> Rows:  # type: ignore[override]  # a list of lists, which happens to be a tuple
        return self.values[self.first[at] : self.first[at + 1]]


@dataclass(frozen=True)
class ByGroups:
    """Relevant are the rows that share at least one group with the query.

    ``groups`` has the groups of each query, and ``members`` the gallery rows of each group. A list of rows that a
    ground truth gives for one query is a group of its own; labels, of which an image has several, are groups as well.
    """

    groups: Lists
    members: Lists
    queries: Rows
    """Positions in ``groups`` (Q,)."""

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
        asked = [[numbers[name] for name in names if name in numbers] for names in queries]
        return cls(Lists.of(asked), Lists.of(rows), np.arange(len(queries)))

    @classmethod
    def listed(cls, lists: Sequence[Sequence[int]]) -> ByGroups:
        """By the gallery rows of each query."""
        own = Lists(np.arange(len(lists) + 1), np.arange(len(lists)))
        return cls(own, Lists.of(lists), np.arange(len(lists)))

    @cached_property
    def counts(self) -> Rows:
        """How many rows each query has, (Q,)."""
        return np.array([len(self.rows(query)) for query in range(len(self.queries))], dtype=np.int64)

    def rows(self, query: int) -> Rows:
        """The gallery rows of one query, ascending."""
        groups = self.groups[int(self.queries[query])]
        if len(groups) == 1:
            return self.members[int(groups[0])]
        rows = [self.members[int(group)] for group in groups]
        return np.unique(np.concatenate(rows)) if rows else np.empty(0, np.int64)

    def among(self, queries: Rows, found: Rows) -> Mask:
        """Which of the rows ``found`` (B, K) belong to the ``queries`` (B,) that found them."""
        mask = np.zeros(found.shape, np.bool_)
        for at, query in enumerate(queries):
            mask[at] = np.isin(found[at], self.rows(int(query)))
        return mask

    def take(self, queries: Rows) -> ByGroups:
        """The same for the queries at these positions, in this order."""
        return replace(self, queries=self.queries[queries])


@dataclass(frozen=True)
class Judgement:
    """What counts in the rankings of Q queries.

    ``junk`` rows are taken out of a query's ranking as if they were not in the gallery: those after them move up.
    """

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


def by_class(queries: Records, gallery: Records) -> ByClass:
    """Relevant are the rows of the same label and, where records have domains, of the same domain."""
    numbers: dict[str, int] = {}

    def number(records: Records) -> Rows:
        names = records.classes
        return np.array([-1 if n is None else numbers.setdefault(n, len(numbers)) for n in names], dtype=np.int64)

    return ByClass(number(queries), number(gallery))


def by_labels(queries: Records, gallery: Records, attribute: str) -> Relevance:
    """Relevant are the rows with at least one label in common: the label, and those that ``attribute`` lists.

    The attribute is a JSON list of labels, or missing where a record has its label alone. The domain must be the same.
    """
    asked, searched = _labels(queries, attribute), _labels(gallery, attribute)
    if all(len(names) <= 1 for names in (*asked, *searched)):
        return by_class(queries, gallery)
    return ByGroups.of(asked, searched)


def by_keys(queries: Records, keys: Sequence[str], attributes: Sequence[str]) -> ByGroups:
    """Relevant are the gallery rows whose ``keys`` (G,) the ``attributes`` of a query list, JSON lists of keys.

    A listed key that the gallery has not is nobody's: its image failed, or it is junk that is not there.
    """
    position: Mapping[str, int] = {key: row for row, key in enumerate(keys)}
    listed = [json_lists(queries, name) for name in attributes]
    together = zip(*listed, strict=True)
    return ByGroups.listed([[position[n] for of in lists for n in of or () if n in position] for lists in together])


def json_lists(records: Records, attribute: str) -> list[list[str] | None]:
    """The lists that an attribute holds as JSON, (N,), None where a record has none or the attribute is not there."""
    if f"attributes.{attribute}" not in records.table.column_names:
        return [None] * len(records)
    found: list[list[str] | None] = []
    for key, text in zip(records.keys, records.attribute(attribute), strict=True):
        try:
            value = None if text is None else json.loads(text)
        except ValueError:
            value = text
        if value is not None and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
            raise RecordsError(f"attributes.{attribute} of {key!r} must be a JSON list of text, got {text!r:.100}")
        found.append(value)
    return found


def _labels(records: Records, attribute: str) -> list[list[str]]:
    """All labels of each record, (N,), within its domain."""
    return [
        [label if domain is None else f"{domain}\0{label}" for label in dict.fromkeys([*(listed or ()), *own])]
        for listed, own, domain in zip(
            json_lists(records, attribute),
            ([] if label is None else [label] for label in records.labels),
            records.domains,
            strict=True,
        )
    ]
