"""Rows of a table for text: the sentences of gallery images, of combinations that were never trained, search them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cache import Features, digest_bytes
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
        if digests and digests[0] in self._vectors:
            return np.stack([self._vectors[digest] for digest in digests])
        return self._store.read(digests)
