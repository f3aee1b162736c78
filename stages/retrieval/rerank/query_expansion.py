"""alpha query expansion (Radenović et al., Fine-tuning CNN image retrieval with no human annotation, 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from stages.ranking.nearest import Rows, nearest_rows, query_blocks, similarities
from stages.ranking.normalize import Vectors, unit_length


@dataclass(frozen=True)
class QueryExpansionConfig:
    """A query becomes the mean of itself and its nearest rows, each with its similarity to the power ``alpha``.

    A query that is in the gallery is not among its own nearest rows: it is taken out by identity before the mean.

    Args:
        n: nearest rows in the mean.
        alpha: 0 weighs them all alike; larger, the nearest count most. A similarity below 0 counts nothing.
    """

    kind: Literal["query_expansion"] = "query_expansion"
    n: int = 10
    alpha: float = 3.0

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    label: ClassVar[str] = "alpha_qe"

    def __post_init__(self) -> None:
        check_mean(self.n, self.alpha)

    def ranked(self, gallery: Vectors, queries: Vectors, itself: Rows, k: int, train: Vectors) -> Rows:  # noqa: ARG002
        """The rows (Q, k) of the ``gallery`` (G, E) nearest to what ``queries`` (Q, E) become."""
        rows = nearest_rows(gallery, queries, self.n, itself)
        return nearest_rows(gallery, with_neighbours(queries, gallery, rows, self.alpha), k, itself)


def check_mean(n: int, alpha: float) -> None:
    """ValueError unless so many neighbours can be weighed so."""
    if n < 1:
        raise ValueError(f"n is a number of neighbours, at least 1, got {n}")
    if not 0 <= alpha < np.inf:
        raise ValueError(f"alpha is a power of similarities, at least 0, got {alpha}")


def with_neighbours(vectors: Vectors, gallery: Vectors, rows: Rows, alpha: float) -> Vectors:
    """``vectors`` (Q, E) with their gallery ``rows`` (Q, n) added, weighed, as unit length; row -1 adds nothing."""
    together = np.empty(vectors.shape, np.float64)
    for block in query_blocks(len(vectors), rows.shape[1] * gallery.shape[1]):
        similarity = np.where(rows[block] < 0, 0, similarities(gallery, vectors[block], rows[block]))
        weights = np.where(rows[block] < 0, 0, np.maximum(similarity, 0) ** alpha)
        together[block] = vectors[block] + np.einsum("qn,qne->qe", weights, gallery[rows[block]], dtype=np.float64)
    return unit_length(together)
