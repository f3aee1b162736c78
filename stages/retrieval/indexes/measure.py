"""What an index costs and what it loses, measured here: milliseconds a query, bytes a row, and the task's metric."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.ranking.metrics import Metric
from stages.ranking.nearest import Rows
from stages.ranking.normalize import Vectors
from stages.ranking.relevance import ByClass, ByGroups, Judgement, Relevance, table_of_rows
from stages.retrieval.indexes.gallery_index import GalleryIndex

_ROUNDS = 5
_SECONDS = 0.1  # that a round takes, or until all queries were asked
_FEWEST = 3


@dataclass(frozen=True)
class Evidence:
    """Queries to choose an index by.

    ``vectors`` (Q, E) are of unit length; ``judged`` says which of the G gallery rows are relevant to each, and
    ``itself`` (Q,) is the gallery row that a query is, or -1.
    """

    vectors: Vectors
    judged: Judgement
    itself: Rows

    @classmethod
    def from_gallery(cls, vectors: Vectors, classes: Rows) -> Evidence:
        """Every gallery row of ``vectors`` (G, E) searches all others for its class (G,), -1 for none."""
        return cls(vectors, Judgement(ByClass(classes, classes)), np.arange(len(classes)))

    def __len__(self) -> int:
        return len(self.itself)

    @property
    def num_relevant(self) -> Rows:
        """How many gallery rows are relevant to each query, (Q,)."""
        return self.judged.num_relevant(self.itself)

    def gallery_classes(self, rows: int) -> Rows:
        """The class of each of the gallery's ``rows``; -1, none, where relevance is not by one class."""
        relevant = self.judged.relevant
        return relevant.gallery if isinstance(relevant, ByClass) else np.full(rows, -1)

    def drawn(self, count: int, seed: int) -> Evidence:
        """At most ``count`` of the queries to which something is relevant, drawn from the ``seed``."""
        answerable = np.flatnonzero(self.num_relevant > 0)
        if len(answerable) > count:
            answerable = np.sort(np.random.default_rng(seed).choice(answerable, count, replace=False))
        return Evidence(self.vectors[answerable], self.judged.take(answerable), self.itself[answerable])

    def within(self, rows: Rows) -> Evidence:
        """The same for a gallery of only ``rows`` (n,), ascending: the queries to which something is left."""
        at = np.minimum(np.searchsorted(rows, self.itself), len(rows) - 1)
        itself = np.where(rows[at] == self.itself, at, -1)
        junk = self.judged.junk
        judged = Judgement(_within(self.judged.relevant, rows), None if junk is None else _within(junk, rows))
        left = Evidence(self.vectors, judged, itself)
        return left.drawn(len(left), 0)


def _within(relevance: Relevance, rows: Rows) -> Relevance:
    if isinstance(relevance, ByClass):
        return ByClass(relevance.queries, relevance.gallery[rows])
    own = (relevance.rows(query) for query in range(len(relevance.counts)))
    return ByGroups.listed([np.flatnonzero(np.isin(rows, listed)).tolist() for listed in own])


def value_of(index: GalleryIndex, evidence: Evidence, metric: Metric) -> float:
    """The mean of ``metric`` over the queries of ``evidence``, searched by a new ``index`` (ids are places)."""
    num_relevant, judged = evidence.num_relevant, evidence.judged
    depth = int(metric.depths(num_relevant, len(index)).max())
    ids, _ = index.search(evidence.vectors, min(depth + judged.most_junk(), len(index)), evidence.itself)
    return float(table_of_rows(judged, np.arange(len(ids)), ids, depth).value(metric, num_relevant).mean())


def milliseconds(indexes: Sequence[GalleryIndex], evidence: Evidence, k: int, batch: int) -> list[float]:
    """A query's time by each of ``indexes``, in searches for ``k`` rows of ``batch`` queries that come together.

    It is CPU time of the thread that searches, so that waiting for other programs does not count, and the least of the
    medians of several rounds, in which the indexes take turns.
    """
    queries = [evidence.vectors[low : low + batch] for low in range(0, len(evidence), batch)]
    rounds = [[_round(index, queries, k) for index in indexes] for _ in range(_ROUNDS)]
    return list(map(min, zip(*rounds, strict=True)))


def _round(index: GalleryIndex, queries: Sequence[Vectors], k: int) -> float:
    index.search(queries[0], k)  # the first is slower: memory is touched
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < _FEWEST or (time.perf_counter() - started < _SECONDS and len(times) < len(queries)):
        some = queries[len(times) % len(queries)]
        before = time.thread_time()
        index.search(some, k)
        times.append((time.thread_time() - before) / len(some))
    return float(np.median(times)) * 1e3
