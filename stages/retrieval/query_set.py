"""Queries beside the gallery that they search, with what counts for each: what studies of a score start from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cache import Features
from stages.ranking.nearest import Rows
from stages.ranking.relevance import Judgement, Relevance, own_rows
from stages.records import Records
from stages.retrieval.gallery import with_row
from stages.retrieval.protocols import Rules
from stages.retrieval.protocols.rules import same_class
from stages.retrieval.trial import trials

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Searches:
    """Q queries, the G gallery rows that all of them search, and what counts for each.

    ``itself`` (Q,) is the gallery row that is the query itself, -1 for none: it is not searched.
    """

    queries: Records
    gallery: Records
    judged: Judgement
    itself: Rows

    @classmethod
    def of(cls, queries: Records, gallery: Records) -> Searches:
        """By label, within the domain. Raises RecordsError where two gallery records have one key."""
        return cls(queries, gallery, same_class(queries, gallery), own_rows(queries.keys, gallery.keys))

    @classmethod
    def by_rules(cls, rules: Rules, queries: Records, gallery: Records) -> list[Searches]:
        """By the rules of a protocol: one for a merged gallery, or one for each domain that is searched by itself."""
        return [
            cls(queries.take(of.asked), gallery.take(of.searched), of.judged, of.itself)
            for of in trials(rules, queries, gallery)
        ]

    @classmethod
    def in_store(cls, vectors: Features, queries: Records, gallery: Records) -> Searches:
        """By label, those that have a row in ``vectors``. Raises as :func:`stages.retrieval.evaluate` does."""
        return cls.of(with_row(vectors, queries, "query"), with_row(vectors, gallery, "gallery"))

    @cached_property
    def num_relevant(self) -> npt.NDArray[np.int64]:
        """R: how many gallery rows are relevant to each query, (Q,)."""
        return self.judged.num_relevant(self.itself)

    @cached_property
    def num_searched(self) -> npt.NDArray[np.int64]:
        """How many gallery rows each query searches, (Q,): all but itself and its junk."""
        left = len(self.gallery) - (self.itself >= 0).astype(np.int64)
        if self.judged.junk is None:
            return left
        own = self.judged.junk.among(np.arange(len(self.itself)), self.itself[:, None])[:, 0]
        return left - self.judged.junk.counts + own

    def take(self, rows: Rows) -> Searches:
        """The queries at ``rows`` (n,), the gallery as it is."""
        return Searches(self.queries.take(rows), self.gallery, self.judged.take(rows), self.itself[rows])

    def answerable(self) -> Searches:
        """The queries to which something is relevant."""
        return self.take(np.flatnonzero(self.num_relevant > 0))

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


def _mask(of: Relevance, block: Rows, gallery: int) -> Mask:
    mask = np.zeros((len(block), gallery), np.bool_)
    for row, query in zip(mask, block, strict=True):
        row[of.rows(int(query))] = True
    return mask
