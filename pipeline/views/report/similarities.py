"""How similar matching pairs are, and pairs that do not match: whether one threshold can tell them apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from pipeline.views.charts import histogram
from pipeline.views.report.measured import Measured
from stages.ranking import unit_length
from stages.retrieval.query_set import Searches

QUERIES = 1000
"""Queries looked at, at most."""
OTHERS = 50
"""Gallery images of another label that each is compared with; matching ones, at most so many too."""
_BINS = 60


class Pairs(NamedTuple):
    """Similarities of matching pairs and of others, each pair a query and a gallery image."""

    matching: npt.NDArray[np.float32]
    others: npt.NDArray[np.float32]

    @property
    def told_apart(self) -> float:
        """How often a matching pair is more similar than one that does not match: the area under the ROC curve."""
        below = np.searchsorted(np.sort(self.others), self.matching, side="left")
        upto = np.searchsorted(np.sort(self.others), self.matching, side="right")
        return float((below + upto).mean() / 2 / len(self.others))


def pairs(of: Measured, seed: int) -> Pairs | None:
    """Pairs drawn from ``seed``: the same for every head. None where no query has anything to find, or to mistake."""
    if of.ranking is None:
        return None
    rng = np.random.default_rng([seed, 1])
    parts = [_compared(of, searches, rng) for searches in of.ranking.searches]
    matching, others = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    return Pairs(matching, others) if len(matching) and len(others) else None


def _compared(of: Measured, searches: Searches, rng: np.random.Generator) -> Pairs:
    count = len(searches.queries)
    asked = searches.take(np.sort(rng.permutation(count)[:QUERIES]))
    matching, others = _drawn(asked, rng)
    store = of.vectors.store
    queries = unit_length(store.read(asked.queries.digests))
    rows, back = np.unique(np.concatenate([matching[:, 1], others[:, 1]]), return_inverse=True)
    gallery = unit_length(store.read(searches.gallery.take(rows).digests))
    which = np.concatenate([matching[:, 0], others[:, 0]])
    similarity = np.empty(len(which), np.float32)
    for low in range(0, len(which), 8192):
        some = slice(low, low + 8192)
        similarity[some] = np.einsum("ne,ne->n", queries[which[some]], gallery[back[some]])
    return Pairs(similarity[: len(matching)], similarity[len(matching) :])


def pair_chart(found: Pairs, name: str, threshold: float | None = None) -> Markup:
    """Both as a histogram, each as shares of its own; ``threshold`` is drawn where one was calibrated."""
    both = np.concatenate(found)
    low, high = float(np.quantile(both, 0.001)), float(np.quantile(both, 0.999))
    low, high = np.floor(low * 20) / 20, min(1.0, np.ceil(high * 20) / 20)
    edges = np.linspace(low, high, _BINS + 1)
    shares = {
        group: (np.histogram(np.clip(values, low, high), edges)[0] / len(values)).tolist()
        for group, values in (("other pairs", found.others), ("matching pairs", found.matching))
    }
    label = (
        f"similarity by {name}: matching pairs {np.median(found.matching):.2f} in the median, others "
        f"{np.median(found.others):.2f}; a matching pair is the more similar one {found.told_apart:.1%} of the time"
    )
    mark = None if threshold is None else (threshold, f"threshold {threshold:.3f}")
    return histogram(shares, label=label, across="cosine similarity", low=float(low), high=float(high), mark=mark)


def _drawn(asked: Searches, rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Matching pairs (n, 2) and others (m, 2), a query and a gallery row each."""
    matching, others = [], []
    for query, itself in enumerate(asked.itself):
        right = asked.judged.relevant.rows(query)
        right = rng.permutation(right[right != itself])[:OTHERS]
        drawn = rng.integers(0, len(asked.gallery), OTHERS)
        is_right = asked.judged.relevant.among(np.array([query]), drawn[None])[0]
        matching += [(query, row) for row in right.tolist()]
        others += [(query, row) for row in drawn[~is_right & (drawn != itself)].tolist()]
    return np.array(matching, np.int64).reshape(-1, 2), np.array(others, np.int64).reshape(-1, 2)
