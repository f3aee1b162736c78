"""Rows of a table beside exact search: through the index that the run file names, and after post-processing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from cache import LocalStorage, fingerprint
from cache.errors import UnwritableError
from cache.fingerprint import JSON
from cache.storage import Where
from pipeline.checks import check_by_label
from pipeline.dataset import Run
from pipeline.vectors import Vectors
from pipeline.views.tables import aligned
from stages.ranking.metrics import find_metric
from stages.records import Records
from stages.retrieval import (
    AutoIndexConfig,
    FlatIndexConfig,
    IndexConfig,
    Scores,
    Tried,
    choose_gallery_index,
    evaluate_index,
    evaluate_reranked,
    index_gallery,
)
from stages.retrieval.evaluate_ranking import DEEPEST
from stages.retrieval.gallery import Index


def approximate_scores(run: Run, vectors: Vectors) -> Iterator[tuple[str, Scores]]:
    """The scores through the index, ``arcface64 (ivf_pq)``, and after post-processing, ``arcface64 + alpha_qe``."""
    retrieval, records, (head, store) = run.config.retrieval, run.records, (vectors.head, vectors.store)
    if isinstance(retrieval.index, FlatIndexConfig) and not retrieval.rerank:
        return
    metrics = retrieval.by_label
    check_by_label(run)
    queries, gallery = records.split("query"), records.split("gallery")
    score: dict[str, Any] = {
        "queries": queries, "gallery": gallery, "metrics": metrics, "protocol": retrieval.ranked,
        "unanswerable": retrieval.unanswerable,
    }  # fmt: skip
    if others := [name for name in retrieval.metrics if name not in metrics]:
        run.display.warn(
            f"note: {', '.join(others)}: of exact search alone, so '-' in the rows of an index and of post-processing, "
            "which are ranked by label"
        )
    if not isinstance(retrieval.index, FlatIndexConfig):
        index = find_index(run, gallery, vectors)
        kind = index.config.kind
        name = f"auto: {kind}" if isinstance(retrieval.index, AutoIndexConfig) else kind
        yield f"{head} ({name})", evaluate_index(store, index, **score)
    for rerank in retrieval.rerank:
        yield f"{head} + {rerank.label}", evaluate_reranked(store, rerank, train=records.split("train"), **score)
    if any(name in ("map", "mrr", "ndcg", "map_trapezoid") for name in metrics) and len(gallery) > DEEPEST:
        run.display.say(
            f"{vectors.backbone} {head}: other rankings list {DEEPEST:,} rows; what is beyond counts as not relevant"
        )


def find_index(run: Run, gallery: Records, vectors: Vectors) -> Index:
    """The index of the ``gallery``, kept in the artifacts where these can be written."""
    where = run.storage.below(index_key(run, gallery, vectors))
    try:
        return _built_index(run, gallery, vectors, where.path() if isinstance(where, LocalStorage) else where)
    except UnwritableError as error:
        if not error.read_only:
            raise
        return _built_index(run, gallery, vectors, None)


def index_key(run: Run, gallery: Records, vectors: Vectors) -> str:
    """Where the index of ``gallery`` is, named by all it follows from: it never changes under a reader."""
    wanted = _wanted(run)
    images: list[JSON] = [list[JSON](gallery.keys), [digest.hex() for digest in gallery.digests]]
    identity: list[JSON] = [vectors.store.fingerprint, asdict(wanted), *images]
    if isinstance(wanted, AutoIndexConfig):
        identity.append(asdict(run.config.retrieval.ranked))
    return f"indexes/{vectors.backbone}/{vectors.head}-{fingerprint(identity)[:8]}"


def _wanted(run: Run) -> IndexConfig:
    """The index of the run file; budgets without a metric take the first of the run that looks at the first ranks."""
    retrieval = run.config.retrieval
    if not isinstance(retrieval.index, AutoIndexConfig) or retrieval.index.metric is not None:
        return retrieval.index
    of_first_ranks = (name for name in retrieval.by_label if find_metric(name).reach != "gallery")
    return replace(retrieval.index, metric=next(of_first_ranks, None))


def _built_index(run: Run, gallery: Records, vectors: Vectors, folder: Where | None) -> Index:
    wanted = _wanted(run)
    if not isinstance(wanted, AutoIndexConfig):
        return index_gallery(vectors.store, gallery, wanted, folder=folder)
    validation = run.records.split("validation_query")
    judge = run.config.retrieval.ranked.judge
    choice = choose_gallery_index(vectors.store, gallery, wanted, folder=folder, queries=validation, judge=judge)
    table = tried_text(choice.tried, wanted.judged_by)
    run.display.say(f"index of {vectors.backbone} {vectors.head}, by budgets:\n{table}")
    return choice.index


def tried_text(tried: Sequence[Tried], metric: str) -> str:
    """A line for each index that was measured."""
    table = [["index", "rows", "built in s", "bytes a row", "ms a query", metric, "loss", "verdict"]]
    table += [
        [t.name, f"{t.rows:,}", f"{t.build_s:.2f}", f"{t.bytes:.1f}", f"{t.ms:.3f}", f"{t.value:.4f}",
         f"{t.loss:+.4f}", f" {t.verdict}"]
        for t in tried
    ]  # fmt: skip
    width = max(len(line[-1]) for line in table)
    table = [[*line[:-1], line[-1].ljust(width)] for line in table]
    return "\n".join(aligned(table, texts=1))
