"""Score a ranking that anybody made: an approximate index, a re-ranked list, another program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from cache import Features
from cache.errors import NothingToScoreError, SettingsError
from stages.ranking.metrics import Metric, Values
from stages.ranking.nearest import query_blocks
from stages.ranking.normalize import unit_length
from stages.ranking.relevance import Mask, Rows, Table, moved_up, table_of_rows, unwanted, without
from stages.ranking.ties import AVERAGED, tied_order
from stages.records import Records
from stages.retrieval.evaluate import TiePolicy, depths, score_rankings
from stages.retrieval.gallery import Index
from stages.retrieval.protocols import ByLabelConfig, ProtocolConfig, RankedConfig
from stages.retrieval.query_set import QuerySet, Sides
from stages.retrieval.rerank import RerankConfig
from stages.retrieval.scores import Scores, UnanswerablePolicy, check_choice

BeyondPolicy: TypeAlias = Literal["refuse", "not_relevant"]
"""A metric that looks further than a list goes: refused, or what is not listed counts as not relevant."""


def evaluate_ranking(
    rows: npt.NDArray[np.integer],
    *,
    queries: Records,
    gallery: Records,
    metrics: Sequence[str] | None = None,
    similarity: npt.NDArray[np.floating] | None = None,
    protocol: ProtocolConfig = ByLabelConfig(),
    ties: TiePolicy = "row",
    unanswerable: UnanswerablePolicy = "leave_out",
    beyond: BeyondPolicy = "refuse",
) -> Scores:
    """Score the ranking ``rows`` (Q, K): positions in ``gallery``, the best first, one line a query.

    A place that holds nothing is -1, as faiss leaves it where it found fewer: it counts as not relevant and keeps its
    rank. The query itself, and junk, are taken out where they are listed, and what comes after moves up; so ask for
    as many rows more. A list with -1 at its end, or with the whole gallery, is all there is. Any other list must be as
    deep as the metrics look (``map`` and ``mrr`` look at the whole gallery, ``map@r`` at R ranks), unless what lies
    ``beyond`` may count as not relevant.

    ``queries`` are only those that could search (with a feature), in the order of ``rows``; ``gallery`` is in the order
    that positions count in. ``ties = "expected"`` ranks by ``similarity`` (Q, K) alone, which descends. Otherwise as
    :func:`stages.retrieval.evaluate`. Raises what that does, and ValueError for rows of another shape, positions that
    are not in the gallery or listed twice, similarities that do not descend, and a list too short for a metric.

    >>> from stages.retrieval.example import IMAGES, VECTORS
    >>> rows = np.array([[1, 2, 4], [0, 4, 2]])  # made by any program
    >>> scores = evaluate_ranking(rows, queries=IMAGES.take([0, 1]), gallery=IMAGES, metrics=["precision@3"])
    >>> scores.per_query["precision@3"].round(3).tolist()
    [0.667, 0.667]
    """
    if not isinstance(protocol, RankedConfig):
        raise SettingsError(
            f"protocol {protocol.kind} scores no rankings, but answers or a set in itself: use evaluate()"
        )
    check_choice("beyond", beyond, get_args(BeyondPolicy))
    if ties == AVERAGED and similarity is None:
        raise SettingsError(
            'ties = "expected" needs the similarity of each row: the order alone does not say what ties'
        )
    if not len(queries) or not len(gallery):
        role = "gallery" if len(queries) else "query"
        raise NothingToScoreError(f"there is no {role} record. Name another split.")
    listed = _checked_rows(rows, queries, gallery)
    known = None if similarity is None else _checked_similarity(similarity, listed)
    keys = queries.keys

    def tables(part: QuerySet, metrics: Sequence[Metric]) -> Iterator[Table]:
        place = part.places(len(gallery))
        limits = depths(metrics, part)
        for block in query_blocks(len(part), 8 * max(listed.shape[1], 1)):
            rows_of_block = part.query_rows[block]
            own = place[listed[rows_of_block]]
            dropped = unwanted(part.judged, block, own, part.itself[block])
            staying, counts = without(own, dropped)
            ended = (listed[rows_of_block, -1:] == -1).any(axis=1) | (counts >= part.num_searched[block])
            if beyond == "refuse":
                _refuse_short(counts, limits[block], ended, rows_of_block, keys, listed.shape[1])
            relevant = part.judged.relevant.among(block, staying)
            if ties != AVERAGED or known is None:
                yield Table(block, relevant)  # not cut at the size of the gallery: empty places keep their rank
                continue
            ranked = moved_up(known[rows_of_block], dropped, -np.inf)
            levels = _levels(ranked, staying, rows_of_block, keys)
            if beyond == "refuse":
                _refuse_open_ties(levels, counts, limits[block], ended, rows_of_block, keys)
            tied = tied_order(levels, relevant, part.num_relevant[block])
            yield Table(block, tied.relevant, tied)

    sides = Sides(queries, gallery, queries, gallery)
    return score_rankings(tables, sides, metrics, protocol, ties, unanswerable)


def _checked_rows(rows: npt.NDArray[np.integer], queries: Records, gallery: Records) -> Rows:
    if rows.ndim != 2 or len(rows) != len(queries) or rows.shape[1] == 0 or not np.issubdtype(rows.dtype, np.integer):
        raise SettingsError(
            f"rows must be whole numbers of shape (Q, K), a line for each of the {len(queries):,} queries and K of at "
            f"least 1; got {rows.dtype} of shape {rows.shape}"
        )
    listed = rows.astype(np.int64)
    if (wrong := (listed < -1) | (listed >= len(gallery))).any():
        query, place = np.argwhere(wrong)[0]
        raise SettingsError(
            f"rows must be positions in the gallery, 0 to {len(gallery) - 1}, or -1 for none; query "
            f"{queries.keys[query]!r} lists {listed[query, place]} at rank {place + 1}"
        )
    for block in query_blocks(len(listed), listed.shape[1]):
        ordered = np.sort(listed[block], axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        if twice.any():
            query, place = np.argwhere(twice)[0]
            raise SettingsError(
                f"a row can be listed once in a ranking; query {queries.keys[block[query]]!r} lists row "
                f"{ordered[query, place]} twice"
            )
    return listed


def _checked_similarity(similarity: npt.NDArray[np.floating], listed: Rows) -> npt.NDArray[np.float64]:
    if similarity.shape != listed.shape:
        raise SettingsError(f"similarity must have the shape of rows, {listed.shape}, got {similarity.shape}")
    known = np.where(listed >= 0, similarity, -np.inf).astype(np.float64)
    if np.isnan(known).any():
        raise SettingsError("similarity holds NaN where a row is listed; a failed image has none: leave it out")
    there = np.where(listed >= 0, known, np.inf)  # an empty place says nothing about the order
    lowest = np.minimum.accumulate(there, axis=1)
    if (rising := (listed[:, 1:] >= 0) & (known[:, 1:] > lowest[:, :-1])).any():
        query, place = np.argwhere(rising)[0]
        raise SettingsError(
            f"similarity must descend along each ranking; that of query {query} rises at rank {place + 2}. Distances "
            "are given with their sign turned."
        )
    return known


def _refuse_short(counts: Rows, limits: Rows, ended: Mask, queries: Rows, keys: Sequence[str], width: int) -> None:
    if (short := ~ended & (counts < limits)).any():
        at = int(np.argmax(short))
        raise SettingsError(
            f"the list of query {keys[queries[at]]!r} has {counts[at]} rows once the query itself and junk are out, "
            f"and the metrics look at {limits[at]}. Search for at least {width + int((limits - counts)[short].max())} "
            "rows, score metrics that look less far, or count what is not listed as not relevant: beyond = "
            '"not_relevant"'
        )


def _levels(similarity: npt.NDArray[np.float64], rows: Rows, queries: Rows, keys: Sequence[str]) -> Values:
    """What stands for ``similarity`` (B, K) of ``rows`` (B, K): one number a group of ties, and one an empty place.

    So an empty place keeps its rank. Within a group it would be one of the ranks that the others share: refused.
    """
    empty = rows < 0
    before = np.minimum.accumulate(np.where(empty, np.inf, similarity), axis=1)
    after = np.maximum.accumulate(np.where(empty, -np.inf, similarity)[:, ::-1], axis=1)[:, ::-1]
    if (inside := empty & (before == after)).any():
        query, place = np.argwhere(inside)[0]
        raise SettingsError(
            f"the list of query {keys[queries[query]]!r} has an empty place, -1, at rank {place + 1}, between rows of "
            'one similarity: where they tie is not known. Put it at the end, or score with ties = "row".'
        )
    starts = np.ones(rows.shape, np.bool_)
    starts[:, 1:] = empty[:, 1:] | empty[:, :-1] | (similarity[:, 1:] != similarity[:, :-1])
    levels: Values = -np.cumsum(starts, axis=1, dtype=np.float64)
    return levels


def _refuse_open_ties(
    similarity: npt.NDArray[np.float64], counts: Rows, limits: Rows, ended: Mask, queries: Rows, keys: Sequence[str]
) -> None:
    """Where the last of a list ties with the last rank that counts, rows that are not listed may tie too."""
    lines = np.arange(len(counts))
    last = similarity[lines, np.maximum(counts - 1, 0)]
    deepest = similarity[lines, np.clip(limits - 1, 0, similarity.shape[1] - 1)]
    if (unclear := ~ended & (last >= deepest)).any():
        raise SettingsError(
            f"the list of query {keys[queries[int(np.argmax(unclear))]]!r} ends within rows of one similarity, and "
            'more of them may not be listed: ties = "expected" needs the whole group. Search for more rows.'
        )


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

    return score_rankings(tables, sides, metrics, protocol, "row", unanswerable)


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
    return score_rankings(tables, sides, metrics, protocol, "row", unanswerable)


def _depth_of(metrics: Sequence[Metric], part: QuerySet) -> int:
    """How many ranks the ``metrics`` look at for the queries of ``part``; 1,000 for the whole gallery."""
    deepest = {metric.reach: int(depths([metric], part).max(initial=1)) for metric in metrics}
    return max(min(depth, DEEPEST) if reach == "gallery" else depth for reach, depth in deepest.items())
