"""Post-processing: a ranking made again from the gallery's own structure. Each is reported in a row of its own.

Whitening learns from the training images; the others look at the gallery that is searched, which a single search
cannot do for nothing: their scores are not comparable with plain ones without saying so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field

from cache.errors import SettingsError
from cache.settings import Settings, Within
from stages.ranking.nearest import Rows, nearest_rows, query_blocks, similarities
from stages.ranking.normalize import Vectors, unit_length

Table = npt.NDArray[np.float64]

_LEAST = 1e-6  # of the largest variance: what varies less is rounding


@dataclass(frozen=True)
class _MeanConfig(Settings):
    """The mean of a vector and its nearest rows.

    Args:
        n: nearest rows in the mean.
        alpha: 0 weighs them all alike; larger, the nearest count most. A similarity below 0 counts nothing.
    """

    n: Annotated[int, Within("[1, inf]", "a number of neighbours")] = 10
    alpha: Annotated[float, Within("[0, inf)", "a power of similarities")] = 3.0


@dataclass(frozen=True)
class QueryExpansionConfig(_MeanConfig):
    """alpha query expansion (Radenović et al., Fine-tuning CNN image retrieval with no human annotation, 2019).

    A query becomes the mean of itself and its nearest rows, each with its similarity to the power ``alpha``. One that
    is in the gallery is not among its own nearest rows: it is taken out by identity before the mean.
    """

    kind: Literal["query_expansion"] = "query_expansion"
    label: ClassVar[str] = "alpha_qe"

    def ranked(self, gallery: Vectors, queries: Vectors, itself: Rows, k: int, train: Vectors) -> Rows:  # noqa: ARG002
        """The rows (Q, k) of the ``gallery`` (G, E) nearest to what ``queries`` (Q, E) become."""
        rows = nearest_rows(gallery, queries, self.n, itself)
        return nearest_rows(gallery, _with_neighbours(queries, gallery, rows, self.alpha), k, itself)


@dataclass(frozen=True)
class DatabaseAugmentationConfig(_MeanConfig):
    """Database-side augmentation (Arandjelović and Zisserman, Three things everyone should know, 2012).

    Every gallery row becomes the mean of itself and its nearest rows, as a query does in query expansion.

    A query that is in the gallery helps nobody: the rows that have it among their nearest are, for this query, made
    without it. Otherwise what is searched for would have been put there by the searcher.
    """

    kind: Literal["database_augmentation"] = "database_augmentation"
    label: ClassVar[str] = "dba"

    def ranked(self, gallery: Vectors, queries: Vectors, itself: Rows, k: int, train: Vectors) -> Rows:  # noqa: ARG002
        """The rows (Q, k) of what the ``gallery`` (G, E) becomes nearest to ``queries`` (Q, E)."""
        near = nearest_rows(gallery, gallery, self.n + 1, np.arange(len(gallery)))
        augmented = _with_neighbours(gallery, gallery, near[:, : self.n], self.alpha)
        ranked = np.full((len(queries), k), -1, np.int64)
        ranked[itself < 0] = nearest_rows(augmented, queries[itself < 0], k, itself[itself < 0])
        for query in np.flatnonzero(itself >= 0).tolist():
            row = itself[query]
            moved = np.flatnonzero((near[:, : self.n] == row).any(axis=1))
            others = np.where(near[moved] == row, -1, near[moved])  # the next nearest takes the place of the query
            with_query = augmented[moved]
            augmented[moved] = _with_neighbours(gallery[moved], gallery, others, self.alpha)
            (ranked[query],) = nearest_rows(augmented, queries[query : query + 1], k, itself[query : query + 1])
            augmented[moved] = with_query
        return ranked


@dataclass(frozen=True)
class KReciprocalConfig(Settings):
    """k-reciprocal re-ranking (Zhong et al., Re-ranking person re-identification with k-reciprocal encoding, 2017).

    The first rows of a ranking are ordered again by whose neighbours they are.

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
    original: Annotated[float, Within("[0, 1]", "the share of the original distance")] = 0.3
    candidates: int = 200

    label: ClassVar[str] = "k_reciprocal"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.k2 <= self.k1 <= self.candidates:
            raise SettingsError(
                f"k1, k2 and candidates are numbers of rows, 1 <= k2 <= k1 <= candidates, got k1 = {self.k1}, "
                f"k2 = {self.k2} and candidates = {self.candidates}"
            )

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


@dataclass(frozen=True)
class WhiteningConfig(Settings):
    """PCA whitening (Jégou and Chum, Negative evidences and co-occurrences, 2012), learned on the training images.

    Vectors less the training mean, along the principal axes of the training vectors, each over its spread.

    Args:
        power: 1 makes every axis vary alike, 0 is PCA without whitening.
        dim: axes that are kept; 0 keeps all.
    """

    kind: Literal["whitening"] = "whitening"
    power: Annotated[float, Within("[0, 1]", "how much is whitened")] = 1.0
    dim: Annotated[int, Within("[0, inf]", "a number of axes, 0 for all")] = 0

    label: ClassVar[str] = "whitening"

    def ranked(self, gallery: Vectors, queries: Vectors, itself: Rows, k: int, train: Vectors) -> Rows:
        """The rows (Q, k) of the ``gallery`` (G, E) nearest to ``queries`` (Q, E), whitened by ``train`` (n, E)."""
        if len(train) < 2:
            raise SettingsError(f"whitening is learned from training images, at least 2, got {len(train)}")
        mean = train.mean(axis=0, dtype=np.float64)
        variance, axes = np.linalg.eigh(np.cov(train, rowvar=False, dtype=np.float64).reshape(len(mean), len(mean)))
        axes_used = np.flatnonzero(variance > _LEAST * variance.max())[::-1][: self.dim or None]
        turn = (axes[:, axes_used] * variance[axes_used] ** (-self.power / 2)).astype(np.float32)
        shift = (mean @ turn).astype(np.float32)
        return nearest_rows(unit_length(gallery @ turn - shift), unit_length(queries @ turn - shift), k, itself)


RerankConfig: TypeAlias = Annotated[
    QueryExpansionConfig | DatabaseAugmentationConfig | KReciprocalConfig | WhiteningConfig, Field(discriminator="kind")
]
"""Any kind of post-processing, distinguished by ``kind``."""


def _with_neighbours(vectors: Vectors, gallery: Vectors, rows: Rows, alpha: float) -> Vectors:
    """``vectors`` (Q, E) with their gallery ``rows`` (Q, n) added, weighed, as unit length; row -1 adds nothing."""
    together = np.empty(vectors.shape, np.float64)
    for block in query_blocks(len(vectors), rows.shape[1] * gallery.shape[1]):
        similarity = np.where(rows[block] < 0, 0, similarities(gallery, vectors[block], rows[block]))
        weights = np.where(rows[block] < 0, 0, np.maximum(similarity, 0) ** alpha)
        together[block] = vectors[block] + np.einsum("qn,qne->qe", weights, gallery[rows[block]], dtype=np.float64)
    return unit_length(together)


def _reciprocal(order: Rows, k: int) -> Table:
    """1 where two of n rows are among each other's first k (n, n), each row being its own first in ``order``."""
    near = np.zeros(order.shape)
    np.put_along_axis(near, order[:, : k + 1], 1, axis=1)
    return near * near.T
