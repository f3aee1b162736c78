"""Stage 3 of a run file: search and score, exactly, through an index, post-processed; what the scores follow from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from cache import LocalStorage, digest_bytes, fingerprint
from cache.atomic import unless_read_only
from cache.errors import ConfigError, RecordsError, UnwritableError
from cache.fingerprint import JSON
from cache.settings import changed_settings
from cache.storage import Where
from pipeline.dataset import Run
from pipeline.progress import aligned
from pipeline.vectors import Vectors
from stages.analysis.bounds import run_bounds
from stages.ranking.metrics import find_metric
from stages.records import Records
from stages.retrieval import (
    AutoIndexConfig,
    FlatIndexConfig,
    IndexConfig,
    Scores,
    Tried,
    WhiteningConfig,
    choose_gallery_index,
    evaluate,
    evaluate_index,
    evaluate_reranked,
    index_gallery,
)
from stages.retrieval.evaluate import score
from stages.retrieval.evaluate_ranking import DEEPEST
from stages.retrieval.gallery import Index, evidence_fingerprint
from stages.retrieval.protocols import MetConfig
from stages.retrieval.query_values import QueryValues, Scored, data_of, scored_numbers, values_of
from stages.training import TextHeadConfig
from stages.training.text.sentences import embed_text, sentences_of

_NO_BOUNDS: Mapping[tuple[str, str], tuple[float, float]] = {}  # of queries that are no images of the run
_NOT_OF_A_SCORE = {"metrics", "gallery_sizes", "distractors"}  # [retrieval]: what changes no single value


class ScoreRow(NamedTuple):
    """One score: a line of JSON. ``low`` and ``high`` bound its 95 % interval over classes.

    ``floor`` is the score of a random ranking for these queries and this gallery, ``ceiling`` that of a perfect one;
    None where it is not known.
    """

    backbone: str
    head: str
    domain: str
    metric: str
    value: float
    low: float
    high: float
    queries: int
    gallery: int
    embeddings: str
    floor: float | None = None
    ceiling: float | None = None


def json_lines(rows: Iterable[Any]) -> str:
    """A flat JSON object a line, of each named tuple or mapping."""
    return "".join(json.dumps(row if isinstance(row, dict) else row._asdict()) + "\n" for row in rows)


def score_run(run: Run, vectors: Sequence[Vectors]) -> tuple[list[ScoreRow], QueryValues]:
    """Stage 3: search and score, the means and the value of every query.

    They are written to ``scores/<run>.jsonl`` and ``<run>.parquet`` too, unless the folder is read-only. Raises
    RecordsError where no image has a label.
    """
    records, retrieval = run.records, run.config.retrieval
    if not records.has_labels:
        raise RecordsError(
            f"none of the {len(records):,} images has a label, and labels say which image is right for a query: "
            "there is nothing to score by. `permafrost search` needs none."
        )
    rows, scored = [], []
    known: dict[bytes, Mapping[tuple[str, str], tuple[float, float]]] = {}  # bounds, by which images there are
    for entry in vectors:
        usable = entry.store.usable(records.digests).tobytes()
        if usable not in known:
            known[usable] = run_bounds(entry.store, records, retrieval)
        numbers = scored_numbers(entry.store, records)
        exact = ((entry.head, scores) for scores in score(entry.store, records, retrieval))
        images = ((head, scores, known[usable]) for head, scores in chain(exact, approximate_scores(run, entry)))
        texts = ((head, scores, _NO_BOUNDS) for head, scores in text_scores(run, entry))
        for head, scores, bounds in chain(images, texts):
            scored.append(Scored(entry.backbone, head, numbers, scores))
            rows += [
                ScoreRow(entry.backbone, head, one.domain, one.metric, one.value, one.low, one.high, one.queries,
                         one.gallery, numbers, *bounds.get((one.metric, one.domain), ()))
                for one in scores
            ]  # fmt: skip
            if left_out := _left_out(scores):
                run.display.warn(f"{entry.backbone} {head}: left out: {left_out}")
    values = values_of(scored, scored_data(run))
    with unless_read_only(run.display.warn):
        values.write(run.storage, values_key(run))
        run.storage.put(rows_key(run), json_lines(rows).encode())
    return rows, values


def values_key(run: Run) -> str:
    """Where the value of every query is stored."""
    return f"scores/{run.name}.parquet"


def stored_rows(run: Run) -> list[ScoreRow]:
    """The scores that the run has. Raises OSError, ValueError or TypeError where it has none of this version."""
    return [ScoreRow(**json.loads(line)) for line in run.storage.read(rows_key(run)).decode().splitlines()]


def rows_key(run: Run) -> str:
    """Where the means are stored, as lines of JSON."""
    return f"scores/{run.name}.jsonl"


def scored_data(run: Run) -> dict[str, str]:
    """What the scores of a run follow from beside the embeddings."""
    records, retrieval = run.records, run.config.retrieval
    changed = changed_settings(retrieval)
    settings = {key: value for key, value in changed.items() if key not in _NOT_OF_A_SCORE}
    roles: list[str] = []
    if isinstance(retrieval.protocol, MetConfig):
        roles += ["validation_query", "validation_query_distractor", "validation_gallery"]
    if isinstance(retrieval.index, AutoIndexConfig):
        roles.append("validation_query")
    if any(isinstance(rerank, WhiteningConfig) for rerank in retrieval.rerank):
        roles.append("train")
    queries, gallery = records.split("query", "query_distractor"), records.split("gallery")
    tuned_on = [records.split(role) for role in roles]
    data = data_of(queries, gallery, settings, retrieval.columns(records), tuned_on)
    if captions := [
        head.recipe.head.columns for head in run.config.heads if isinstance(head.recipe.head, TextHeadConfig)
    ]:
        data["captions"] = fingerprint([_captions(run, columns) for columns in captions])
    return data


def _captions(run: Run, columns: Sequence[str]) -> str:
    """What the scores of text follow from: the sentence of each gallery image, and those that were trained."""
    gallery = run.records.split("gallery")
    searched = sorted(zip(gallery.keys, sentences_of(gallery, columns), strict=True))
    return json.dumps([searched, sorted({*sentences_of(run.records.split("train"), columns)})])


def _left_out(scores: Scores) -> str:
    counts = {
        "failed queries": scores.failed_queries,
        "failed gallery images": scores.failed_gallery,
        "queries with nothing relevant in the gallery": scores.unanswerable,
    }
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def text_scores(run: Run, vectors: Vectors) -> Iterator[tuple[str, Scores]]:
    """The scores of sentences that no training image has, as queries: of a head that knows text, else none.

    A gallery image is relevant to the sentence that is its own. The row is named ``captions (text)``.
    """
    head, metrics = vectors.trained, run.config.retrieval.by_label
    if head is None or not isinstance(head.config, TextHeadConfig) or not metrics:
        return
    columns = head.config.columns
    gallery = run.records.split("gallery")
    searched = sentences_of(gallery, columns)
    trained = {*sentences_of(run.records.split("train"), columns)}
    new = [sentence for sentence in dict.fromkeys(searched) if sentence and sentence not in trained]
    if not new:
        run.display.say(
            f"{vectors.backbone} {vectors.head}: every sentence of the gallery was trained: text is not scored"
        )
        return
    digests = [digest_bytes(sentence.encode()) for sentence in new]
    asking = {"key": [f"text: {sentence}" for sentence in new], "digest": digests}
    store, texts = vectors.store, dict(zip(digests, embed_text(head, new), strict=True))
    both: Any = SimpleNamespace(  # the store, and the sentences beside it: as much of Features as evaluate reads
        address=store.address,
        absent=lambda wanted: store.absent([digest for digest in wanted if digest not in texts]),
        usable=lambda wanted: store.usable(wanted) | np.array([digest in texts for digest in wanted], np.bool_),
        read=lambda wanted: (
            np.stack([texts[one] for one in wanted]) if any(one in texts for one in wanted) else store.read(wanted)
        ),
    )
    images = {"key": gallery.keys, "digest": gallery.table["digest"]}
    queries, images_ = _labelled(asking, new), _labelled(images, [sentence or None for sentence in searched])
    scores = evaluate(both, queries=queries, gallery=images_, metrics=metrics, ties=run.config.retrieval.ties)
    yield f"{vectors.head} (text)", scores


def _labelled(columns: dict[str, object], labels: Sequence[str | None]) -> Records:
    table = pa.table({**columns, "label": pa.array(labels, pa.string()), "domain": pa.nulls(len(labels), pa.string())})
    return Records(table, {})


def check_by_label(run: Run) -> None:
    """Raise ConfigError where an index or a post-processing has nothing to be scored by."""
    if not run.config.retrieval.by_label or isinstance(run.config.retrieval.protocol, MetConfig):
        raise ConfigError(
            "retrieval.index and retrieval.rerank are scored as rankings by label: name such a metric (and a protocol "
            "other than met), or leave them out"
        )


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
        judged = evidence_fingerprint(gallery, run.records.split("validation_query"))
        identity += [asdict(run.config.retrieval.ranked), judged]
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
