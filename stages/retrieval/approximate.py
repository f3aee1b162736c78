"""Scores of rankings other than the exact one: through an index, and after post-processing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cache import Features
from cache.errors import SettingsError
from stages.ranking.metrics import Metric
from stages.ranking.nearest import query_blocks
from stages.ranking.normalize import unit_length
from stages.ranking.tables import Table, table_of_rows
from stages.records import Records
from stages.retrieval.evaluate import depths, score_rankings
from stages.retrieval.gallery import Index
from stages.retrieval.protocols import ByLabelConfig, RankedConfig
from stages.retrieval.query_set import QuerySet, Sides
from stages.retrieval.rerank import RerankConfig
from stages.retrieval.scores import Scores, UnanswerablePolicy

DEEPEST = 1000
"""Rows that a ranking lists where a metric looks at the whole gallery: what is beyond counts as not relevant."""


def evaluate_index(
    vectors: Features,
    index: Index,
    *,
    queries: Records,
    gallery: Records,
    metrics: Sequence[str],
    protocol: RankedConfig = ByLabelConfig(),
    unanswerable: UnanswerablePolicy = "leave_out",
) -> Scores:
    """Score what a new ``index`` of the ``gallery`` finds, as :func:`evaluate` scores exact search.

    Equal similarities come by gallery row. What the index does not find, and what a metric of the whole gallery looks
    at beyond the first 1,000, counts as not relevant; so an exact index scores what exact search does. Raises as
    :func:`evaluate` does, and SettingsError for an index of other rows.

    >>> from stages.retrieval.example import IMAGES, VECTORS
    >>> from stages.retrieval import ScalarIndexConfig, index_gallery
    >>> index = index_gallery(VECTORS, IMAGES, ScalarIndexConfig(stored="float16"))
    >>> evaluate_index(VECTORS, index, queries=IMAGES, gallery=IMAGES, metrics=["hit@1"]).value("hit@1")
    1.0
    """
    sides = Sides.in_store(vectors, queries, gallery)
    if list(index.keys) != sides.searched.keys or index.next_id != len(index):
        raise SettingsError(
            f"the index has {len(index):,} rows, which are not the {len(sides.searched):,} gallery images with a "
            "feature, in their order: build it of them, with index_gallery()"
        )

    def tables(part: QuerySet, metrics: Sequence[Metric]) -> Iterator[Table]:
        place, depth = part.places(len(index)), _depth_of(metrics, part)
        width = min(depth + part.judged.most_junk() + len(index) - len(part.gallery), len(index))
        unit = unit_length(vectors.read(part.queries.digests))
        itself = np.append(part.gallery_rows, -1)[part.itself]
        for block in query_blocks(len(part), 8 * width):
            ids, _ = index.search(unit[block], width, itself[block])
            yield table_of_rows(part.judged, block, place[ids], depth)

    return score_rankings(tables, sides, metrics, protocol.rules(), "row", unanswerable)


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

    Where every domain has a gallery of its own, that is what is looked at.

    >>> from stages.retrieval.example import IMAGES, VECTORS
    >>> from stages.retrieval import QueryExpansionConfig
    >>> sides = {"queries": IMAGES, "gallery": IMAGES, "train": IMAGES}
    >>> evaluate_reranked(VECTORS, QueryExpansionConfig(n=2), **sides, metrics=["hit@1"]).value("hit@1")
    1.0
    """
    learned = train.take(train.rows_in(vectors))
    trained = unit_length(vectors.read(learned.digests)) if len(learned) else np.empty((0, vectors.dim), np.float32)

    def tables(part: QuerySet, metrics: Sequence[Metric]) -> Iterator[Table]:
        depth = _depth_of(metrics, part)
        searched, searching = (unit_length(vectors.read(side.digests)) for side in (part.gallery, part.queries))
        width = min(depth + part.judged.most_junk(), len(part.gallery))
        rows = rerank.ranked(searched, searching, part.itself, width, trained)
        for block in query_blocks(len(part), 8 * width):
            yield table_of_rows(part.judged, block, rows[block], depth)

    sides = Sides.in_store(vectors, queries, gallery)
    return score_rankings(tables, sides, metrics, protocol.rules(), "row", unanswerable)


def _depth_of(metrics: Sequence[Metric], part: QuerySet) -> int:
    """How many ranks the ``metrics`` look at for the queries of ``part``; 1,000 for the whole gallery."""
    return max(
        min(depth, DEEPEST) if metric.reach == "gallery" else depth
        for metric in metrics
        for depth in [int(depths([metric], part).max(initial=1))]
    )
