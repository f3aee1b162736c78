"""Score a store of features or embeddings on a set of queries and a gallery.

::

    rows by digest -> unit length -> ranks of the relevant rows, block of queries by block -> metrics -> Scores

What is relevant to a query: the gallery rows of the same label. Where records have domains the domain must be the same
too, while the gallery stays one, merged over the domains (the UnED protocol). Gallery rows without a label are
relevant to nobody: distractors. A query that is itself in the gallery (the same record key) is taken out of its own
ranking; a byte-identical image under another key is another record, and stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from cache import Features
from cache.errors import NothingToScoreError
from stages.records import Records
from stages.retrieval.gallery import positions_of, with_row
from stages.retrieval.metrics import Relevant, find_metric
from stages.retrieval.scores import ALL, Resampling, Scores, domain_names, summarise
from stages.retrieval.search import Rows, nearest_rows, query_blocks, relevant_ranks
from stages.retrieval.unit import unit_length

_SHALLOW = 100  # up to this depth searching is faster than ranking the whole gallery


def evaluate(
    vectors: Features,
    *,
    queries: Records,
    gallery: Records,
    metrics: Sequence[str] = ("mmp@5", "map@r", "hit@1", "map"),
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Scores:
    """Score ``vectors``, made unit length, on every query against the whole gallery, exactly.

    Images that failed are left out and counted (``failed_queries``, ``failed_gallery``), and so are queries to which
    nothing is relevant (``unanswerable``).

    Args:
        vectors: features or embeddings of the images in both.
        queries: what searches.
        gallery: what is searched; with leave-one-out the same records.
        metrics: names as :func:`find_metric` takes them.
        confidence: the share of resampled means between ``low`` and ``high``.
        resamples: how many times the queries are drawn anew for that.
        seed: of those draws.

    Raises:
        ValueError: an unknown metric, or a number out of range.
        RecordsError: two gallery records of one key, or a domain named ``all`` or ``mean``.
        MissingRowsError: an image that has no row in ``vectors`` at all.
        NothingToScoreError: no gallery image or no query is left.
    """
    wanted = [find_metric(name) for name in dict.fromkeys(metrics)]
    if not wanted:
        raise ValueError("metrics must name at least one, got none")
    resampling = Resampling(confidence, resamples, seed)
    names = domain_names(queries.domains)
    asked, searched = with_row(vectors, queries, "query"), with_row(vectors, gallery, "gallery")
    query_classes, gallery_classes = _classes(asked, searched)
    itself = positions_of(asked.keys, searched.keys)
    num_relevant = _num_relevant(query_classes, gallery_classes, itself)
    answerable = np.flatnonzero(num_relevant > 0)
    if not len(answerable):
        raise NothingToScoreError(
            f"none of the {len(asked):,} queries has another image of its label in the gallery of {len(searched):,}. "
            "Compare the labels of both (and the domains), or choose other splits."
        )
    per_query = {metric.name: np.empty(len(answerable)) for metric in wanted}
    depth = max(metric.depth(int(num_relevant.max()), len(searched)) for metric in wanted)
    scored = asked.take(answerable)
    tables = relevance_tables(
        unit_length(vectors.read(searched.digests)),
        unit_length(vectors.read(scored.digests)),
        gallery_classes,
        query_classes[answerable],
        itself[answerable],
        depth,
    )
    for block, relevant in tables:
        for metric in wanted:
            per_query[metric.name][block] = metric.function(relevant, num_relevant[answerable][block])
    domains = np.array(scored.domains, dtype=object)
    members = {name: np.flatnonzero(domains == name) for name in names}
    unanswerable = Counter(domain for domain, count in zip(asked.domains, num_relevant, strict=True) if not count)
    return Scores(
        scores=summarise(
            per_query,
            {name: rows for name, rows in members.items() if len(rows)},
            {ALL: len(asked) - len(scored)} | {name: unanswerable[name] for name in names},
            len(searched),
            resampling,
        ),
        query_keys=tuple(scored.keys),
        query_domains=tuple(scored.domains),
        per_query=per_query,
        failed_queries=len(queries) - len(asked),
        failed_gallery=len(gallery) - len(searched),
        unanswerable=len(asked) - len(scored),
        classes=len(np.unique(query_classes[answerable])),
        unscored_domains=tuple(name for name, rows in members.items() if not len(rows)),
    )


def _classes(queries: Records, gallery: Records) -> tuple[Rows, Rows]:
    """Whole numbers (Q,) and (G,) that are equal where a gallery row is relevant; -1 for a record without a label."""
    numbers: dict[str, int] = {}

    def number(records: Records) -> Rows:
        names = records.classes
        return np.array([-1 if n is None else numbers.setdefault(n, len(numbers)) for n in names], dtype=np.int64)

    return number(queries), number(gallery)


def _num_relevant(query_classes: Rows, gallery_classes: Rows, itself: Rows) -> npt.NDArray[np.int64]:
    """How many gallery rows are relevant to each query (Q,), the query itself not counted."""
    sizes = np.bincount(gallery_classes + 1, minlength=int(query_classes.max()) + 2)  # class -1 comes first
    counted = (itself >= 0) & (gallery_classes[itself] == query_classes)
    counts: npt.NDArray[np.int64] = np.where(query_classes >= 0, sizes[query_classes + 1] - counted, 0)
    return counts


def relevance_tables(
    gallery: npt.NDArray[np.float32],
    queries: npt.NDArray[np.float32],
    gallery_classes: Rows,
    query_classes: Rows,
    itself: Rows,
    depth: int,
) -> Iterator[tuple[Rows, Relevant]]:
    """Blocks of queries, and which of their first ``depth`` ranks hold a relevant row, (block, depth)."""
    if depth <= _SHALLOW:
        for block in query_blocks(len(queries), 8 * depth):
            rows = nearest_rows(gallery, queries[block], depth, itself[block])
            yield block, (gallery_classes[rows] == query_classes[block, None]) & (rows >= 0)
        return
    order = np.argsort(gallery_classes, kind="stable")
    first, last = (np.searchsorted(gallery_classes[order], query_classes, side) for side in ("left", "right"))
    for block in query_blocks(len(queries), len(gallery)):
        same_class = ((order[first[q] : last[q]], itself[q]) for q in block)
        relevant_rows = [rows[rows != query_itself] for rows, query_itself in same_class]
        yield block, relevant_ranks(gallery, queries[block], itself[block], relevant_rows, depth)
