"""Rows of a table for text: the sentences of gallery images, of combinations that were never trained, search them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from cache import digest_bytes
from pipeline.dataset import Run
from pipeline.vectors import Vectors
from stages.records import Records
from stages.retrieval import Scores, evaluate
from stages.training import TextHeadConfig
from stages.training.text.sentences import embed_text, sentences_of


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
    store, text = vectors.store, dict(zip(digests, embed_text(head, new), strict=True))
    both: Any = SimpleNamespace(  # as much of cache.Features as scoring takes: the store, with text beside it
        address=store.address,
        absent=lambda wanted: store.absent([digest for digest in wanted if digest not in text]),
        usable=lambda wanted: store.usable(wanted) | np.array([digest in text for digest in wanted], np.bool_),
        read=lambda wanted: (
            np.stack([text[each] for each in wanted]) if len(wanted) and wanted[0] in text else store.read(wanted)
        ),
    )
    images = {"key": gallery.keys, "digest": gallery.table["digest"]}
    queries, images_ = _labelled(asking, new), _labelled(images, [sentence or None for sentence in searched])
    scores = evaluate(both, queries=queries, gallery=images_, metrics=metrics, ties=run.config.retrieval.ties)
    yield f"{vectors.head} (text)", scores


def _labelled(columns: dict[str, object], labels: Sequence[str | None]) -> Records:
    table = pa.table({**columns, "label": pa.array(labels, pa.string()), "domain": pa.nulls(len(labels), pa.string())})
    return Records(table, {})
