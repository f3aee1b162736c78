"""Database-side augmentation (Arandjelović and Zisserman, Three things everyone should know, 2012)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from stages.ranking.nearest import Rows, nearest_rows, query_blocks, similarities
from stages.ranking.normalize import Vectors
from stages.retrieval.rerank.query_expansion import check_mean, with_neighbours


@dataclass(frozen=True)
class DatabaseAugmentationConfig:
    """Every gallery row becomes the mean of itself and its nearest rows, as a query does in query expansion.

    A query that is in the gallery helps nobody: the rows that have it among their nearest are, for this query, made
    without it. Otherwise what is searched for would have been put there by the searcher.

    Args:
        n: nearest rows in the mean.
        alpha: 0 weighs them all alike; larger, the nearest count most.
    """

    kind: Literal["database_augmentation"] = "database_augmentation"
    n: int = 10
    alpha: float = 3.0

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    label: ClassVar[str] = "dba"

    def __post_init__(self) -> None:
        check_mean(self.n, self.alpha)

    def ranked(self, gallery: Vectors, queries: Vectors, itself: Rows, k: int, train: Vectors) -> Rows:  # noqa: ARG002
        """The rows (Q, k) of what the ``gallery`` (G, E) becomes nearest to ``queries`` (Q, E)."""
        near = nearest_rows(gallery, gallery, self.n + 1, np.arange(len(gallery)))
        augmented = with_neighbours(gallery, gallery, near[:, : self.n], self.alpha)
        ranked = np.full((len(queries), k), -1, np.int64)
        ranked[itself < 0] = nearest_rows(augmented, queries[itself < 0], k, itself[itself < 0])
        helped = _helped(near[:, : self.n])
        inside = np.flatnonzero(itself >= 0)
        counts = np.diff(helped.first)[itself[inside]]
        for size in np.unique(-(-counts // 16)).tolist():  # queries that help about as many rows, together
            some = inside[-(-counts // 16) == size]
            for block in query_blocks(len(some), (k + 16 * size) * gallery.shape[1]):
                ranked[some[block]] = self._without(
                    gallery, augmented, near, helped, queries[some[block]], itself[some[block]], k, 16 * size
                )
        return ranked

    def _without(
        self,
        gallery: Vectors,
        augmented: Vectors,
        near: Rows,
        helped: _Helped,
        queries: Vectors,
        itself: Rows,
        k: int,
        most: int,
    ) -> Rows:
        """The rows (Q, k) for queries that are the gallery rows ``itself`` (Q,), which help ``most`` at most."""
        rows = nearest_rows(augmented, queries, min(k + most, len(gallery)), itself)
        similarity = similarities(augmented, queries, rows)
        ranked = np.full((len(queries), k), -1, np.int64)
        for at, own in enumerate(itself.tolist()):
            moved = helped.rows(own)
            others = np.where(near[moved] == own, -1, near[moved])  # the next nearest takes the place of the query
            again = with_neighbours(gallery[moved], gallery, others, self.alpha)
            unmoved = (rows[at] >= 0) & ~np.isin(rows[at], moved)
            every = np.concatenate([rows[at, unmoved], moved])
            exact = (again.astype(np.float64) @ queries[at].astype(np.float64)).astype(np.float32)
            order = np.lexsort((every, -np.concatenate([similarity[at, unmoved], exact])))[:k]
            ranked[at, : len(order)] = every[order]
        return ranked


@dataclass(frozen=True)
class _Helped:
    """The rows that have a row among their nearest: ``sorted_rows[first[r] : first[r + 1]]``."""

    first: Rows
    sorted_rows: Rows

    def rows(self, row: int) -> Rows:
        return self.sorted_rows[self.first[row] : self.first[row + 1]]


def _helped(near: Rows) -> _Helped:
    """Of the nearest rows ``near`` (G, n), -1 for none."""
    owner = np.repeat(np.arange(len(near)), near.shape[1])
    helper = near.ravel()
    order = np.argsort(helper, kind="stable")
    first = np.searchsorted(helper[order], np.arange(len(near) + 1))
    return _Helped(first, owner[order])
