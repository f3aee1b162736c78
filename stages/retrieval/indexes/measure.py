"""What an index costs and what it loses, measured here: milliseconds a query, bytes a row, and the task's metric."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from stages.ranking.metrics import Metric
from stages.ranking.nearest import Rows
from stages.ranking.normalize import Vectors
from stages.ranking.relevance import ByClass, Judgement
from stages.retrieval.indexes.gallery_index import GalleryIndex

_SECONDS = 0.4  # that a measurement of time takes, or until all queries were asked three times
_FEWEST = 3


@dataclass(frozen=True)
class Evidence:
    """Labelled queries to choose an index by.

    ``vectors`` (Q, E) are of unit length, ``classes`` (Q,) and those of the gallery, ``gallery`` (G,), are whole
    numbers, -1 for none; ``itself`` (Q,) is the gallery row that a query is, or -1.
    """

    vectors: Vectors
    classes: Rows
    gallery: Rows
    itself: Rows

    @classmethod
    def from_gallery(cls, vectors: Vectors, classes: Rows) -> Evidence:
        """Every gallery row of ``vectors`` (G, E) searches all others."""
        return cls(vectors, classes, classes, np.arange(len(classes)))

    @property
    def num_relevant(self) -> Rows:
        """How many gallery rows are relevant to each query, (Q,)."""
        return Judgement(ByClass(self.classes, self.gallery)).num_relevant(self.itself)

    def drawn(self, count: int, seed: int) -> Evidence:
        """At most ``count`` of the queries to which something is relevant, drawn from the ``seed``."""
        answerable = np.flatnonzero(self.num_relevant > 0)
        if len(answerable) > count:
            answerable = np.sort(np.random.default_rng(seed).choice(answerable, count, replace=False))
        return Evidence(self.vectors[answerable], self.classes[answerable], self.gallery, self.itself[answerable])

    def within(self, rows: Rows) -> Evidence:
        """The same for a gallery of only ``rows`` (n,), ascending: the queries to which something is left."""
        at = np.minimum(np.searchsorted(rows, self.itself), len(rows) - 1)
        itself = np.where(rows[at] == self.itself, at, -1)
        left = Evidence(self.vectors, self.classes, self.gallery[rows], itself)
        return left.drawn(len(left.classes), 0)


def value_of(index: GalleryIndex, evidence: Evidence, metric: Metric) -> float:
    """The mean of ``metric`` over the queries of ``evidence``, searched by a new ``index`` (ids are places)."""
    num_relevant = evidence.num_relevant
    depth = int(metric.depths(num_relevant, len(index)).max())
    ids, _ = index.search(evidence.vectors, depth, evidence.itself)
    relevant = ByClass(evidence.classes, evidence.gallery).among(np.arange(len(ids)), ids)
    return float(metric.function(relevant, num_relevant).mean())


def milliseconds(index: GalleryIndex, evidence: Evidence, k: int, batch: int) -> float:
    """A query's time: the median over searches for ``k`` rows of ``batch`` queries that come together."""
    queries = [evidence.vectors[low : low + batch] for low in range(0, len(evidence.vectors), batch)]
    index.search(queries[0], k)  # the first is slower: memory is touched
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < _FEWEST or (time.perf_counter() - started < _SECONDS and len(times) < 3 * len(queries)):
        some = queries[len(times) % len(queries)]
        before = time.perf_counter()
        index.search(some, k)
        times.append((time.perf_counter() - before) / len(some))
    return float(np.median(times)) * 1e3
