"""Images -> features: read, decode and preprocess ahead on threads, forward, commit chunk by chunk."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cache import Chunk, FeatureStore, Provenance, RowOutcome, parse_source
from cache.store import CHUNK_ROWS
from stages.extraction.backbones import Backbone
from stages.extraction.decode import DecodeError, decode
from stages.extraction.memory import keep_freed_memory
from stages.records import Records

LIBRARIES = ("numpy", "open_clip_torch", "pillow", "timm", "torch", "torchvision", "zarr")
_BATCHES_AHEAD = 3

Image = npt.NDArray[np.uint8]


class Progress(NamedTuple):
    """How far an extraction is, in images."""

    done: int
    total: int
    failed: int


def extract(
    records: Records,
    backbone: Backbone,
    path: Path | str,
    *,
    batch_size: int = 32,
    workers: int | None = None,
    dtype: str = "float16",
    chunk_rows: int = CHUNK_ROWS,
    retry_failed: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> FeatureStore:
    """Fill the feature store of ``backbone`` below ``path`` with the images of ``records`` that it lacks.

    An image that is there already is not opened. An image that gives no feature becomes a row with its reason and
    the run goes on. Everything committed stays, whenever the run ends; the next one computes the rest.

    Args:
        records: the images. Those whose bytes could not be read are passed over.
        backbone: the frozen network with its preprocessing.
        path: the folder of feature stores; the store's own folder in it is named after the backbone's identity.
        batch_size: images in one forward. Changes speed, and numbers only by rounding.
        workers: threads that decode; by default one for each processor.
        dtype: the dtype features are stored in, ``float16`` or ``float32``.
        chunk_rows: images a chunk, for a store that is begun now. A kill costs at most the chunk in work.
        retry_failed: compute failed images again too.
        on_progress: hears of every batch.

    Returns:
        The store. ``store.failures(records.digests)`` lists what has no feature.

    Raises:
        StoreBusyError: another process is writing to the store.
    """
    provenance = Provenance.here(backbone.device, LIBRARIES)
    store = FeatureStore.open(
        path,
        backbone.name,
        backbone.identity,
        dim=backbone.dim,
        dtype=dtype,
        chunk_rows=chunk_rows,
        provenance=provenance,
    )
    places = {digest: uri for digest, uri in zip(records.digests, records.uris, strict=True) if digest}
    if not store.missing(list(places), retry_failed=retry_failed):
        return store
    keep_freed_memory()
    with store.writing():
        chunks = store.plan(list(places), retry_failed=retry_failed)
        total = sum(len(chunk.digests) for chunk in chunks)
        done = failed = 0
        for batch in _computed(chunks, places, backbone, batch_size, workers or _processors()):
            done += len(batch.outcomes)
            failed += sum(outcome.status != "ok" for outcome in batch.outcomes)
            if batch.first == 0:
                features = np.full((len(batch.chunk.digests), store.dim), np.nan, np.float32)
                outcomes: list[RowOutcome] = []
            features[batch.first + batch.good] = batch.features
            outcomes += batch.outcomes
            if len(outcomes) == len(batch.chunk.digests):
                if _nothing_new(store, batch.chunk, outcomes):
                    continue
                committed = store.write_chunk(batch.chunk, features, outcomes, provenance)
                failed += sum(o.status == "ok" != c.status for o, c in zip(outcomes, committed, strict=True))
            if on_progress is not None:
                on_progress(Progress(done, total, failed))
        store.plan([])  # the array ends at its last row
    return store


def _nothing_new(store: FeatureStore, chunk: Chunk, outcomes: Sequence[RowOutcome]) -> bool:
    """Whether every image of the chunk has a row already and gave no feature this time either."""
    return all(outcome.status != "ok" for outcome in outcomes) and not store.absent(chunk.digests)


class _Batch(NamedTuple):
    """Some rows of a chunk: their outcomes (n,), and the features (m, D) of the ``good`` (m,) among them."""

    chunk: Chunk
    first: int
    outcomes: list[RowOutcome]
    good: npt.NDArray[np.int64]
    features: npt.NDArray[np.float32]


def _computed(
    chunks: Sequence[Chunk], places: dict[bytes, str], backbone: Backbone, batch_size: int, workers: int
) -> Iterator[_Batch]:
    """The batches of all ``chunks`` in order, a few of them decoded ahead of the one that is in the network.

    The forward runs on a thread of its own: so the caller hears Ctrl-C at once, however long one forward takes.
    """
    readers, network = ThreadPoolExecutor(workers, "decode"), ThreadPoolExecutor(1, "forward")

    def begin(chunk: Chunk, first: int) -> Future[_Batch]:
        digests = chunk.digests[first : first + batch_size]
        images = [readers.submit(_prepared, places[digest], digest, backbone) for digest in digests]
        return network.submit(_forward, chunk, first, images, backbone)

    try:
        work = ((chunk, first) for chunk in chunks for first in range(0, len(chunk.digests), batch_size))
        ahead = deque(begin(*item) for item in islice(work, _BATCHES_AHEAD))
        while ahead:
            batch = ahead.popleft().result()
            ahead.extend(begin(*item) for item in islice(work, 1))
            yield batch
    finally:
        network.shutdown(wait=False, cancel_futures=True)
        readers.shutdown(wait=False, cancel_futures=True)


def _prepared(uri: str, digest: bytes, backbone: Backbone) -> tuple[RowOutcome, Image | None]:
    """Read, decode and preprocess one image: its outcome, and its tensor (3, S, S) where there is one."""
    source = parse_source(uri)
    try:
        content = source.read()
    except OSError as error:
        return RowOutcome("unread", error=f"cannot be read: {error.strerror or error}"), None
    if source.digest(content) != digest:
        return RowOutcome("unread", error="changed while the run was going on"), None
    try:
        image = decode(content, box=source.box)
    except DecodeError as error:
        return RowOutcome("failed", error=str(error)), None
    height, width = image.shape[:2]
    return RowOutcome("ok", width, height), backbone.preprocess(image)


def _forward(
    chunk: Chunk, first: int, images: Sequence[Future[tuple[RowOutcome, Image | None]]], backbone: Backbone
) -> _Batch:
    prepared = [image.result() for image in images]
    good = np.array([row for row, (_, image) in enumerate(prepared) if image is not None], dtype=np.int64)
    batch = [image for _, image in prepared if image is not None]
    features = backbone.forward(np.stack(batch)) if batch else np.empty((0, backbone.dim), np.float32)
    return _Batch(chunk, first, [outcome for outcome, _ in prepared], good, features)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
