"""Queries beside the gallery rows that all of them search, with what counts for each: what is scored and studied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from cache import Features
from cache.errors import NothingToScoreError
from stages.ranking.nearest import Similarity, compare_all, query_blocks
from stages.ranking.normalize import unit_length
from stages.ranking.relevance import Judgement, Mask, Relevance, Rows, own_rows
from stages.ranking.tables import ELSEWHERE
from stages.records import Records
from stages.retrieval.rules import Rules, same_class


def rows_of(vectors: Features, records: Records, role: str) -> Rows:
    """Positions of the ``records`` that have a row; what failed is left out, what was never computed is refused."""
    rows = records.rows_in(vectors)
    if not len(rows):
        why = f"all {len(records):,} {role} images failed" if len(records) else f"there is no {role} record"
        raise NothingToScoreError(f"{why}. Name another split, or see the failures of {vectors.address}.")
    return rows


def with_row(vectors: Features, records: Records, role: str) -> Records:
    """The ``records`` that have a row. NothingToScoreError, which calls them by their ``role``, where none has."""
    return records.take(rows_of(vectors, records, role))


class Sides(NamedTuple):
    """The queries and the gallery, all of them, and those that have a row: ``searching`` (Q,) and ``searched`` (G,)."""

    queries: Records
    gallery: Records
    searching: Records
    searched: Records

    @classmethod
    def in_store(cls, vectors: Features, queries: Records, gallery: Records) -> Sides:
        """Raises NothingToScoreError where one side has no row."""
        return cls(queries, gallery, with_row(vectors, queries, "query"), with_row(vectors, gallery, "gallery"))


@dataclass(frozen=True, eq=False)
class QuerySet:
    """Q queries, the G gallery rows that all of them search, and what counts for each.

    A merged gallery makes one set; where every domain has a gallery of its own there is a set for each.

    ``itself`` (Q,) is the gallery row that is the query, which it does not search, or -1. ``query_rows`` (Q,) and
    ``gallery_rows`` (G,) are positions among all that the set was made from.
    """

    queries: Records
    gallery: Records
    judged: Judgement
    itself: Rows
    query_rows: Rows
    gallery_rows: Rows

    @classmethod
    def of(
        cls, queries: Records, gallery: Records, judge: Callable[[Records, Records], Judgement] = same_class
    ) -> QuerySet:
        """By label, within the domain, or as ``judge`` says. Raises RecordsError for a gallery key that is there twice.

        >>> from stages.retrieval.example import IMAGES
        >>> QuerySet.of(IMAGES, IMAGES).num_relevant.tolist()[:4]
        [3, 3, 3, 3]
        """
        itself, everything = own_rows(queries.keys, gallery.keys), (np.arange(len(queries)), np.arange(len(gallery)))
        return cls(queries, gallery, judge(queries, gallery), itself, *everything)

    @classmethod
    def by_rules(cls, rules: Rules, queries: Records, gallery: Records) -> list[QuerySet]:
        """By the rules of a protocol: one for a merged gallery, or one for each domain that is searched by itself."""
        if rules.searched == "merged":
            return [cls.of(queries, gallery, rules.judge)]
        domains = [np.array(records.domains, dtype=object) for records in (queries, gallery)]
        sets = []
        for domain in dict.fromkeys(queries.domains):
            own, searched = (np.flatnonzero(of_side == domain) for of_side in domains)
            part = cls.of(queries.take(own), gallery.take(searched), rules.judge)
            sets.append(replace(part, query_rows=own, gallery_rows=searched))
        return sets

    @classmethod
    def in_store(cls, vectors: Features, queries: Records, gallery: Records) -> QuerySet:
        """By label, those that have a row in ``vectors``. Raises as :func:`stages.retrieval.evaluate` does."""
        return cls.of(with_row(vectors, queries, "query"), with_row(vectors, gallery, "gallery"))

    def __len__(self) -> int:
        return len(self.query_rows)

    @cached_property
    def num_relevant(self) -> Rows:
        """R: how many gallery rows are relevant to each query, (Q,)."""
        return self.judged.num_relevant(self.itself)

    @cached_property
    def num_searched(self) -> Rows:
        """How many gallery rows each query searches, (Q,): all but itself and its junk."""
        left = len(self.gallery) - (self.itself >= 0).astype(np.int64)
        if self.judged.junk is None:
            return left
        own = self.judged.junk.among(np.arange(len(self.itself)), self.itself[:, None])[:, 0]
        return left - self.judged.junk.counts + own

    def places(self, gallery: int) -> Rows:
        """The place here of each of the ``gallery`` rows it was made from (rows + 1,), or ELSEWHERE; -1 for row -1."""
        place = np.full(gallery + 1, ELSEWHERE, np.int64)
        place[self.gallery_rows], place[-1] = np.arange(len(self.gallery)), -1
        return place

    def take(self, rows: Rows) -> QuerySet:
        """The queries at ``rows`` (n,), the gallery as it is."""
        queries, judged = self.queries.take(rows), self.judged.take(rows)
        return QuerySet(queries, self.gallery, judged, self.itself[rows], self.query_rows[rows], self.gallery_rows)

    def answerable(self) -> QuerySet:
        """The queries to which something is relevant."""
        return self.take(np.flatnonzero(self.num_relevant > 0))

    def compared(self, vectors: Features, arrays: int) -> Iterator[tuple[Rows, Similarity, Mask, Mask]]:
        """Blocks of queries (n,), exact similarity (n, G), and :meth:`masks`: so many ``arrays`` in memory."""
        gallery, queries = (unit_length(vectors.read(side.digests)) for side in (self.gallery, self.queries))
        for block in query_blocks(len(queries), arrays * len(gallery)):
            yield block, compare_all(gallery, queries[block], self.itself[block]), *self.masks(block)

    def masks(self, block: Rows) -> tuple[Mask, Mask]:
        """Which gallery rows are relevant to the queries at ``block`` (n,), and which are the others; both (n, G).

        The query itself and its junk are neither.
        """
        relevant = _mask(self.judged.relevant, block, len(self.gallery))
        others = ~relevant
        if self.judged.junk is not None:
            others &= ~_mask(self.judged.junk, block, len(self.gallery))
        (place,) = np.nonzero(self.itself[block] >= 0)
        for mask in (relevant, others):
            mask[place, self.itself[block][place]] = False
        return relevant, others


def _mask(relevance: Relevance, block: Rows, gallery: int) -> Mask:
    mask = np.zeros((len(block), gallery), np.bool_)
    for row, query in zip(mask, block, strict=True):
        row[relevance.rows(int(query))] = True
    return mask
