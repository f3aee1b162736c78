"""k-reciprocal re-ranking (Zhong et al., Re-ranking person re-identification with k-reciprocal encoding, 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from stages.ranking.nearest import Rows, nearest_rows
from stages.ranking.normalize import Vectors

Table = npt.NDArray[np.float64]


@dataclass(frozen=True)
class KReciprocalConfig:
    """The first rows of a ranking are ordered again by whose neighbours they are.

    As in the paper, with the query and its first ``candidates`` as the whole set in which neighbours are counted: a
    query costs the square of them, and nothing is kept of G x G. What comes after them keeps its place. A query that is
    in the gallery is no candidate of its own, and the other queries are not in the set unless the gallery has them.

    Args:
        k1: neighbours that are counted.
        k2: neighbours whose encodings are averaged.
        original: the share of the original distance, the paper's lambda.
        candidates: the first rows of a ranking, which are ordered again.
    """

    kind: Literal["k_reciprocal"] = "k_reciprocal"
    k1: int = 20
    k2: int = 6
    original: float = 0.3
    candidates: int = 200

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    label: ClassVar[str] = "k_reciprocal"

    def __post_init__(self) -> None:
        if not 1 <= self.k2 <= self.k1 <= self.candidates:
            raise ValueError(
                f"k1, k2 and candidates are numbers of rows, 1 <= k2 <= k1 <= candidates, got k1 = {self.k1}, "
                f"k2 = {self.k2} and candidates = {self.candidates}"
            )
        if not 0 <= self.original <= 1:
            raise ValueError(f"original is the share of the original distance, in [0, 1], got {self.original}")

    def ranked(self, gallery: Vectors, queries: Vectors, itself: Rows, k: int, train: Vectors) -> Rows:  # noqa: ARG002
        """The rows (Q, k) of the ``gallery`` (G, E) for ``queries`` (Q, E), the first of them ordered again."""
        rows = nearest_rows(gallery, queries, max(k, self.candidates), itself)
        for query, ranked in enumerate(rows):
            first = ranked[: self.candidates][ranked[: self.candidates] >= 0]
            pool = np.concatenate([queries[query : query + 1], gallery[first]]).astype(np.float64)
            distance = self.distances(2 - 2 * (pool @ pool.T))
            rows[query, : len(first)] = first[np.lexsort((first, distance))]
        return rows[:, :k]

    def distances(self, squared: Table) -> Table:
        """The new distance (n - 1,) of row 0 to the others, of their ``squared`` distances (n, n)."""
        far = np.maximum(squared.max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        distance = np.maximum(squared, 0) / far
        np.fill_diagonal(squared, -np.inf)  # each is its own first neighbour, whatever equals it
        order = np.argsort(squared, axis=1, kind="stable")
        reciprocal, half = _reciprocal(order, self.k1), _reciprocal(order, round(self.k1 / 2))
        shared = reciprocal @ half.T  # (n, n): how many of c's half are among the row's
        taken = reciprocal * (shared > 2 / 3 * half.sum(axis=1))
        neighbours = (reciprocal + taken @ half) > 0
        weights = np.where(neighbours, np.exp(-distance), 0)
        weights /= weights.sum(axis=1, keepdims=True)
        weights = np.mean([weights[order[:, place]] for place in range(min(self.k2, len(order)))], axis=0)
        least = np.minimum(weights[0], weights).sum(axis=1)
        jaccard: Table = 1 - least / (2 - least)
        mixed: Table = (1 - self.original) * jaccard + self.original * distance[0]
        return mixed[1:]


def _reciprocal(order: Rows, k: int) -> Table:
    """1 where two of n rows are among each other's first k (n, n), each row being its own first in ``order``."""
    near = np.zeros(order.shape)
    np.put_along_axis(near, order[:, : k + 1], 1, axis=1)
    return near * near.T
