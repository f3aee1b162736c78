"""How similar matching pairs are, and pairs that do not match: how well one threshold can separate them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cache import Features
from stages.ranking import unit_length
from stages.retrieval.query_set import Searches

QUERIES = 1000
"""Queries that are compared, at most, for each part of the gallery that is searched by itself."""
OTHERS = 50
"""Gallery images of another label that each is compared with; matching ones, at most so many too."""
_PAIRS_AT_ONCE = 8192


class PairSimilarities(NamedTuple):
    """Similarities of matching pairs and of others, each pair a query and a gallery image."""

    matching: npt.NDArray[np.float32]
    others: npt.NDArray[np.float32]

    @property
    def roc_auc(self) -> float:
        """How often a matching pair is more similar than one that does not match: the area under the ROC curve."""
        below = np.searchsorted(np.sort(self.others), self.matching, side="left")
        up_to = np.searchsorted(np.sort(self.others), self.matching, side="right")
        return float((below + up_to).mean() / 2 / len(self.others))


def pair_similarities(vectors: Features, searches: Sequence[Searches], seed: int) -> PairSimilarities | None:
    """Compare pairs sampled from ``seed``, the same for all vectors; None without matching pairs, or without others."""
    rng = np.random.default_rng([seed, 1])
    parts = [_compared(vectors, part, rng) for part in searches]
    matching, others = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    return PairSimilarities(matching, others) if len(matching) and len(others) else None


def _compared(vectors: Features, part: Searches, rng: np.random.Generator) -> PairSimilarities:
    part = part.take(np.sort(rng.permutation(len(part.queries))[:QUERIES]))
    matching, others = _sampled(part, rng)
    queries = unit_length(vectors.read(part.queries.digests))
    rows, place = np.unique(np.concatenate([matching[:, 1], others[:, 1]]), return_inverse=True)
    gallery = unit_length(vectors.read(part.gallery.take(rows).digests))
    query = np.concatenate([matching[:, 0], others[:, 0]])
    similarity = np.empty(len(query), np.float32)
    for low in range(0, len(query), _PAIRS_AT_ONCE):
        some = slice(low, low + _PAIRS_AT_ONCE)
        similarity[some] = np.einsum("ne,ne->n", queries[query[some]], gallery[place[some]])
    return PairSimilarities(similarity[: len(matching)], similarity[len(matching) :])


def _sampled(part: Searches, rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Matching pairs (n, 2) and others (m, 2), a query and a gallery row each."""
    matching, others = [], []
    for query, own in enumerate(part.itself):
        right = part.judged.relevant.rows(query)
        right = rng.permutation(right[right != own])[:OTHERS]
        sampled = rng.integers(0, len(part.gallery), OTHERS)
        is_right = part.judged.relevant.among(np.array([query]), sampled[None])[0]
        matching += [(query, row) for row in right.tolist()]
        others += [(query, row) for row in sampled[~is_right & (sampled != own)].tolist()]
    return np.array(matching, np.int64).reshape(-1, 2), np.array(others, np.int64).reshape(-1, 2)
