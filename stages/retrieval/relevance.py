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
import pyarrow as pa

from cache.errors import RecordsError
from stages.records import Records
from stages.retrieval.attribute_similarity import several

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
    labels, domains = (_numbers(queries, gallery, column) for column in ("label", "domain"))
    names = labels * (domains.max(initial=-1) + 2) + domains  # a pair has a number of its own
    classes = np.where(labels < 0, -1, np.unique(names, return_inverse=True)[1])
    return ByClass(classes[: len(queries)], classes[len(queries) :])


def _numbers(queries: Records, gallery: Records, column: str) -> Rows:
    """A whole number for each text of a column, of the queries and then of the gallery (Q + G,); -1 for none."""
    chunks = [chunk.cast(pa.string()) for of in (queries, gallery) for chunk in of.table[column].chunks]
    numbered = pa.chunked_array(chunks, pa.string()).combine_chunks().dictionary_encode().indices
    found: Rows = numbered.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def by_labels(queries: Records, gallery: Records, names: str) -> Relevance:
    """Relevant are the rows with at least one label in common, of the same domain where records have domains.

    The labels of a record are those that the attribute ``names`` lists (``tags``: its tags), as a JSON list or with
    ``|`` between them; where it lists none, the label alone.
    """
    asked, searched = _labels(queries, names), _labels(gallery, names)
    if all(len(labels) <= 1 for labels in (*asked, *searched)):
        numbers: dict[str, int] = {}
        codes = [
            np.array([numbers.setdefault(labels[0], len(numbers)) if labels else -1 for labels in of], dtype=np.int64)
            for of in (asked, searched)
        ]
        return ByClass(*codes)
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
    column = f"attributes.{attribute}"
    if column not in records.table.column_names:
        return [None] * len(records)
    texts = zip(records.keys, records.table[column].to_pylist(), strict=True)
    return [None if text is None else json_list(text, column, key) for key, text in texts]


def json_list(text: str, column: str, key: str) -> list[str]:
    """The texts that ``text`` lists as JSON. Raises RecordsError where it is no such list."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        raise RecordsError(f"{column} of {key!r} must be a JSON list of text, got {text!r:.100}")
    return value


def has_labels(records: Records, names: str) -> bool:
    """Whether the records have the column that :func:`by_labels` would look for."""
    return _column(names) in records.table.column_names


def _column(names: str) -> str:
    return names if names == "tags" else f"attributes.{names}"


def _labels(records: Records, names: str) -> list[list[str]]:
    """The labels of each record, (N,), within its domain."""
    column = _column(names)
    texts = records.table[column].to_pylist() if has_labels(records, names) else [None] * len(records)
    found = []
    for key, text, label, domain in zip(records.keys, texts, records.labels, records.domains, strict=True):
        if text:
            own = json_list(text, column, key) if text.startswith("[") else several(text)
        else:
            own = [] if label is None else [label]
        found.append([name if domain is None else f"{domain}\0{name}" for name in dict.fromkeys(own)])
    return found
