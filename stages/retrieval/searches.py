"""Queries beside the gallery that they search, with what is relevant to each: what studies of a score start from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cache import Features
from stages.records import Records
from stages.retrieval.evaluate import positions_of, with_row
from stages.retrieval.search import Rows

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Searches:
    """Q queries and G gallery rows; relevant are rows of the same class (label, within its domain) but itself.

    Whole numbers stand for classes, -1 for none: such a gallery row is relevant to nobody.
    """

    queries: Records
    gallery: Records
    query_classes: Rows
    """(Q,)"""
    gallery_classes: Rows
    """(G,)"""
    itself: Rows
    """The gallery row that is the query itself, (Q,); -1 for none."""

    @classmethod
    def of(cls, queries: Records, gallery: Records) -> Searches:
        """Every record of both. Raises RecordsError where two gallery records have one key."""
        itself = positions_of(queries.keys, gallery.keys)
        numbers: dict[str, int] = {}
        of_queries, of_gallery = (
            np.array([-1 if name is None else numbers.setdefault(name, len(numbers)) for name in names], np.int64)
            for names in (queries.classes, gallery.classes)
        )
        return cls(queries, gallery, of_queries, of_gallery, itself)

    @classmethod
    def in_store(cls, vectors: Features, queries: Records, gallery: Records) -> Searches:
        """Those that have a row in ``vectors``. Raises as :func:`stages.retrieval.evaluate` does."""
        return cls.of(with_row(vectors, queries, "query"), with_row(vectors, gallery, "gallery"))

    @cached_property
    def num_relevant(self) -> npt.NDArray[np.int64]:
        """R: how many gallery rows are relevant to each query, (Q,)."""
        sizes = np.bincount(self.gallery_classes + 1, minlength=int(self.query_classes.max(initial=-1)) + 2)
        own = (self.itself >= 0) & (np.append(self.gallery_classes, -1)[self.itself] == self.query_classes)
        counts: npt.NDArray[np.int64] = np.where(self.query_classes >= 0, sizes[self.query_classes + 1] - own, 0)
        return counts

    @property
    def num_searched(self) -> npt.NDArray[np.int64]:
        """How many gallery rows each query searches, (Q,): all but itself."""
        return len(self.gallery) - (self.itself >= 0).astype(np.int64)

    def take(self, rows: npt.NDArray[np.integer]) -> Searches:
        """The queries at ``rows`` (n,), the gallery as it is."""
        return Searches(
            self.queries.take(rows), self.gallery, self.query_classes[rows], self.gallery_classes, self.itself[rows]
        )

    def answerable(self) -> Searches:
        """The queries to which something is relevant."""
        return self.take(np.flatnonzero(self.num_relevant > 0))

    def relevant(self, block: Rows) -> Mask:
        """Which gallery rows are relevant to the queries at ``block`` (n,), (n, G)."""
        asked = self.query_classes[block, None]
        found: Mask = (self.gallery_classes == asked) & (asked >= 0)
        (place,) = np.nonzero(self.itself[block] >= 0)
        found[place, self.itself[block][place]] = False
        return found
