"""Stage 3 of a run file: search and score, and what the scores follow from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cache import Features, digest_bytes
from cache.atomic import unless_read_only
from cache.errors import RecordsError
from cache.settings import changed_settings
from pipeline.approximate_scores import approximate_scores
from pipeline.dataset import Run
from pipeline.score_rows import ScoreRow, json_lines
from pipeline.vectors import Vectors
from stages.analysis.bounds import run_bounds
from stages.records import Records
from stages.retrieval import AutoIndexConfig, Scores, WhiteningConfig, evaluate
from stages.retrieval.evaluate import score
from stages.retrieval.protocols import MetConfig
from stages.retrieval.query_values import QueryValues, Scored, data_of, scored_numbers, values_of
from stages.training import TextHeadConfig
from stages.training.text.sentences import embed_text, sentences_of

_NO_BOUNDS: Mapping[tuple[str, str], tuple[float, float]] = {}  # of queries that are no images of the run
_NOT_OF_A_SCORE = {"metrics", "gallery_sizes", "distractors"}  # [retrieval]: what changes no single value


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
    return data_of(queries, gallery, settings, retrieval.columns(records), tuned_on)


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
    both = cast("Features", _WithText(vectors.store, dict(zip(digests, embed_text(head, new), strict=True))))
    images = {"key": gallery.keys, "digest": gallery.table["digest"]}
    queries, images_ = _labelled(asking, new), _labelled(images, [sentence or None for sentence in searched])
    scores = evaluate(both, queries=queries, gallery=images_, metrics=metrics, ties=run.config.retrieval.ties)
    yield f"{vectors.head} (text)", scores


def _labelled(columns: dict[str, object], labels: Sequence[str | None]) -> Records:
    table = pa.table({**columns, "label": pa.array(labels, pa.string()), "domain": pa.nulls(len(labels), pa.string())})
    return Records(table, {})


class _WithText:
    """A store of embeddings, with the ``vectors`` of text beside them by digest: what :func:`evaluate` reads of one."""

    def __init__(self, store: Features, vectors: dict[bytes, npt.NDArray[np.float32]]) -> None:
        self._store, self._vectors = store, vectors

    @property
    def address(self) -> str:
        return self._store.address

    def absent(self, digests: Sequence[bytes]) -> Sequence[bytes]:
        return self._store.absent([digest for digest in digests if digest not in self._vectors])

    def usable(self, digests: Sequence[bytes]) -> npt.NDArray[np.bool_]:
        return self._store.usable(digests) | np.array([digest in self._vectors for digest in digests], np.bool_)

    def read(self, digests: Sequence[bytes]) -> npt.NDArray[np.generic]:
        if len(digests) and digests[0] in self._vectors:
            return np.stack([self._vectors[digest] for digest in digests])
        return self._store.read(digests)
