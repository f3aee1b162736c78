"""Scores of rankings other than the exact one: through an index, and after post-processing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cache import Features
from stages.ranking.metrics import find_metric
from stages.ranking.normalize import unit_length
from stages.ranking.relevance import own_rows
from stages.records import Records
from stages.retrieval.evaluate_ranking import evaluate_ranking
from stages.retrieval.gallery import with_row
from stages.retrieval.indexes.gallery_index import GalleryIndex
from stages.retrieval.protocols import ByLabelConfig, RankedConfig
from stages.retrieval.relevance import by_class
from stages.retrieval.rerank import RerankConfig
from stages.retrieval.scores import Scores, UnanswerablePolicy

DEEPEST = 1000
"""Rows that a ranking lists where a metric looks at the whole gallery: what is beyond counts as not relevant."""


def evaluate_index(
    vectors: Features,
    index: GalleryIndex,
    *,
    queries: Records,
    gallery: Records,
    metrics: Sequence[str],
    protocol: RankedConfig = ByLabelConfig(),
    unanswerable: UnanswerablePolicy = "leave_out",
) -> Scores:
    """Score what a new ``index`` of the ``gallery`` finds, as :func:`evaluate` scores exact search.

    Images that failed are left out. A list that the index leaves short, and what a metric looks at beyond the first
    1,000, counts as not relevant. Raises as :func:`evaluate_ranking` does.

    >>> from stages.retrieval.example import IMAGES, VECTORS
    >>> from stages.retrieval import ScalarIndexConfig, index_gallery
    >>> index = index_gallery(VECTORS, IMAGES, ScalarIndexConfig(stored="float16"))
    >>> evaluate_index(VECTORS, index, queries=IMAGES, gallery=IMAGES, metrics=["hit@1"]).value("hit@1")
    1.0
    """
    searching, searched = with_row(vectors, queries, "query"), with_row(vectors, gallery, "gallery")
    rows, _ = index.search(
        unit_length(vectors.read(searching.digests)),
        depth_of(metrics, protocol, searching, searched),
        own_rows(searching.keys, searched.keys),
    )
    return evaluate_ranking(
        rows,
        queries=searching,
        gallery=searched,
        metrics=metrics,
        protocol=protocol,
        unanswerable=unanswerable,
        beyond="not_relevant",
    )


def evaluate_reranked(
    vectors: Features,
    rerank: RerankConfig,
    *,
    queries: Records,
    gallery: Records,
    train: Records,
    metrics: Sequence[str],
    protocol: RankedConfig = ByLabelConfig(),
    unanswerable: UnanswerablePolicy = "leave_out",
) -> Scores:
    """Score exact search after post-processing. ``train`` is what whitening learns from. As :func:`evaluate_index`.

    >>> from stages.retrieval.example import IMAGES, VECTORS
    >>> from stages.retrieval import QueryExpansionConfig
    >>> sides = {"queries": IMAGES, "gallery": IMAGES, "train": IMAGES}
    >>> evaluate_reranked(VECTORS, QueryExpansionConfig(n=2), **sides, metrics=["hit@1"]).value("hit@1")
    1.0
    """
    searching, searched = with_row(vectors, queries, "query"), with_row(vectors, gallery, "gallery")
    learned = train.take(train.rows_in(vectors))
    rows = rerank.ranked(
        unit_length(vectors.read(searched.digests)),
        unit_length(vectors.read(searching.digests)),
        own_rows(searching.keys, searched.keys),
        depth_of(metrics, protocol, searching, searched),
        unit_length(vectors.read(learned.digests)) if len(learned) else np.empty((0, vectors.dim), np.float32),
    )
    return evaluate_ranking(
        rows,
        queries=searching,
        gallery=searched,
        metrics=metrics,
        protocol=protocol,
        unanswerable=unanswerable,
        beyond="not_relevant",
    )


def depth_of(metrics: Sequence[str], protocol: RankedConfig, queries: Records, gallery: Records) -> int:
    """How many rows to search for: what the ``metrics`` look at, at most 1,000 where their name has no number.

    Where the protocol takes rows out of a ranking (junk, other domains), at least 1,000.
    """
    most = int(by_class(queries, gallery).counts.max(initial=1))
    depths = [
        min(metric.depth(most, len(gallery)), len(gallery) if isinstance(metric.reach, int) else DEEPEST)
        for metric in map(find_metric, metrics)
    ]
    rules = protocol.rules()
    plain = isinstance(protocol, ByLabelConfig) and rules.searched == "merged"
    return max(1, *depths, 0 if plain else min(DEEPEST, len(gallery)))
