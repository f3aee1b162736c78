"""Images -> features: what is missing in the stores goes through the networks and is committed chunk by chunk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cache import Chunk, FeatureStore, Provenance, RowOutcome, StoreWriter, parse_source
from cache.reader import CHUNK_ROWS
from stages.device import device_name
from stages.extraction.backbones import Backbone
from stages.extraction.batch_size import ON_CPU, find_batch_size
from stages.extraction.flow import Batch, Clock, flow
from stages.extraction.threads import processors
from stages.malloc import keep_freed_memory
from stages.records import Records

LIBRARIES = ("numpy", "open_clip_torch", "pillow", "timm", "torch", "torchvision", "zarr")


class Progress(NamedTuple):
    """How far an extraction is, in images, each counted once for all backbones, and what took the time."""

    done: int
    total: int
    failed: int
    clock: Clock


class Filled(NamedTuple):
    """A store, and how many images were computed for it now."""

    store: FeatureStore
    computed: int


def extract(
    records: Records,
    backbone: Backbone,
    path: Path | str,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    dtype: str = "float16",
    chunk_rows: int = CHUNK_ROWS,
    retry_failed: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> FeatureStore:
    """:func:`extract_all` for one backbone."""
    (filled,) = extract_all(
        records,
        [backbone],
        path,
        batch_size=batch_size,
        workers=workers,
        dtype=dtype,
        chunk_rows=chunk_rows,
        retry_failed=retry_failed,
        on_progress=on_progress,
    )
    return filled.store


def extract_all(
    records: Records,
    backbones: Sequence[Backbone],
    path: Path | str,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    dtype: str = "float16",
    chunk_rows: int = CHUNK_ROWS,
    retry_failed: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Filled]:
    """Fill the feature stores of ``backbones`` below ``path`` with the images of ``records`` that they lack.

    Each image is read and decoded once for all backbones that lack it; one that no store lacks is not opened. An
    image that gives no feature becomes a row with its reason and the run goes on. Each store commits on its own, and
    everything committed stays, whenever the run ends; the next one computes the rest.

    Args:
        records: the images. Those whose bytes could not be read are passed over.
        backbones: the frozen networks with their preprocessing.
        path: the folder of feature stores; each store's own folder in it is named after the backbone's identity.
        batch_size: images in one forward; halved where the memory does not suffice. Changes speed, and numbers only
            by rounding. By default 32 on a CPU; on another device what the store's chunks were computed with, or,
            where there are none yet, found by trial.
        workers: threads that read and decode; by default one for each processor.
        dtype: the dtype features are stored in, ``float16`` or ``float32``.
        chunk_rows: images a chunk, for a store that is begun now. A kill costs at most the chunk in work.
        retry_failed: compute failed images again too.
        on_progress: hears of every batch.

    Returns:
        A :class:`Filled` for each of ``backbones``. ``store.failures(records.digests)`` lists what has no feature.

    Raises:
        StoreBusyError: another process is writing to one of the stores.
    """
    stores = [open_store(backbone, path, dtype=dtype, chunk_rows=chunk_rows) for backbone in backbones]
    uris = {digest: uri for digest, uri in zip(records.digests, records.uris, strict=True) if digest}
    asked = list(uris)
    paths = [store.path for store in stores]
    lacking = [
        n
        for n, store in enumerate(stores)
        if n == paths.index(store.path) and store.missing(asked, retry_failed=retry_failed)
    ]  # two backbones of one identity fill one store, once
    if not lacking:
        return [Filled(store, 0) for store in stores]
    keep_freed_memory()
    with ExitStack() as locks:
        writers = {n: locks.enter_context(StoreWriter(stores[n])) for n in lacking}
        planned = [writer.pending().batch_size for writer in writers.values()]
        size = batch_size or next(filter(None, planned), None)
        size = size or _batch_size([backbones[n] for n in lacking], [stores[n] for n in lacking])
        filling = [_Filling(backbones[n], writers[n], asked, retry_failed, size) for n in lacking]
        filling = [one for one in filling if one.chunks]  # another process may have filled one before the lock was had
        for one in filling:
            locks.callback(one.finish)  # no store is let go while it is being written
        wanted = _wanted(asked, filling)
        done = failed = 0
        clock = Clock()
        batches = _batches(wanted, uris, size)
        device = next((one.backbone.device for one in filling if one.backbone.device != "cpu"), "cpu")
        for through in flow(batches, workers=workers or processors(), clock=clock, device=device):
            began = time.perf_counter()
            for backbone, features in zip(through.batch.backbones, through.features, strict=True):
                here = next(one for one in filling if one.backbone is backbone)
                failed += here.add(through.batch.digests, through.outcomes, features)
            clock.writing += time.perf_counter() - began
            done += len(through.outcomes)
            failed += sum(outcome.status != "ok" for outcome in through.outcomes)
            if on_progress is not None:
                on_progress(Progress(done, len(wanted), failed, clock))
        for one in filling:
            failed += one.finish()
        for writer in writers.values():
            writer.store.reload()
            writer.finish()
    computed = {one.store.path: sum(len(chunk.digests) for chunk in one.chunks) for one in filling}
    return [Filled(stores[paths.index(path)], computed.get(path, 0)) for path in paths]


def open_store(
    backbone: Backbone, path: Path | str, *, dtype: str = "float16", chunk_rows: int = CHUNK_ROWS
) -> FeatureStore:
    """The feature store of ``backbone`` below ``path``, begun where there is none."""
    return FeatureStore.open(
        path,
        backbone.name,
        backbone.identity,
        dim=backbone.dim,
        dtype=dtype,
        views=backbone.preprocess.stored,
        chunk_rows=chunk_rows,
        provenance=Provenance.here(device_name(backbone.device), LIBRARIES),
    )


def _batch_size(backbones: Sequence[Backbone], stores: Sequence[FeatureStore]) -> int:
    on_gpu = [pair for pair in zip(backbones, stores, strict=True) if pair[0].device != "cpu"]
    if not on_gpu:
        return ON_CPU
    before = [
        (store.provenance(number), device_name(backbone.device))
        for backbone, store in on_gpu
        for number in store.chunks()
    ]
    used = [chunk.batch_size for chunk, device in before if chunk.batch_size and chunk.device == device]
    return used[-1] if used else find_batch_size([backbone for backbone, _ in on_gpu])


class _Filling:
    """A store that is being filled: the chunks that it lacks, and the rows so far of the one in work."""

    def __init__(
        self, backbone: Backbone, writer: StoreWriter, asked: Sequence[bytes], retry_failed: bool, batch_size: int
    ) -> None:
        self.backbone = backbone
        self.writer = writer
        self.store = writer.store
        self.provenance = Provenance.here(device_name(backbone.device), LIBRARIES, batch_size)
        self.chunks = writer.plan(asked, batch_size=batch_size, retry_failed=retry_failed).chunks
        self.last = {chunk.digests[-1] for chunk in self.chunks}
        self._todo = iter(self.chunks)
        self._features: list[npt.NDArray[np.float32]] = []
        self._outcomes: list[RowOutcome] = []
        self._writer = ThreadPoolExecutor(1, "write")
        self._writing: Future[int] | None = None
        self._chunk = next(self._todo, Chunk(0, ()))

    def add(self, digests: Sequence[bytes], outcomes: Sequence[RowOutcome], features: npt.NDArray[np.float32]) -> int:
        """Take the rows of a batch, which lies within one chunk; commit a whole chunk while the next is computed.

        Returns how many features of the chunk before turned out not to fit the store's dtype.
        """
        at = len(self._outcomes)
        assert self._chunk.digests[at : at + len(digests)] == tuple(digests)
        self._features.append(features.reshape(len(digests), *self.store.row_shape))
        self._outcomes += outcomes
        if len(self._outcomes) < len(self._chunk.digests):
            return 0
        refused = self.finish()
        self._writing = self._writer.submit(self._commit, self._chunk, self._features, self._outcomes)
        self._features, self._outcomes = [], []
        self._chunk = next(self._todo, self._chunk)
        return refused

    def finish(self) -> int:
        """Wait for the chunk that is being written, and raise what went wrong with it."""
        writing, self._writing = self._writing, None
        return writing.result() if writing else 0

    def _commit(self, chunk: Chunk, features: Sequence[npt.NDArray[np.float32]], outcomes: Sequence[RowOutcome]) -> int:
        if _nothing_new(self.store, chunk, outcomes):
            return 0
        committed = self.writer.commit(chunk, np.concatenate(features), outcomes, self.provenance)
        return sum(a.status != b.status for a, b in zip(outcomes, committed, strict=True))


def _nothing_new(store: FeatureStore, chunk: Chunk, outcomes: Sequence[RowOutcome]) -> bool:
    """Whether every image of the chunk has a row already and gave no feature this time either."""
    return all(outcome.status != "ok" for outcome in outcomes) and not store.absent(chunk.digests)


def _wanted(asked: Sequence[bytes], filling: Sequence[_Filling]) -> dict[bytes, tuple[_Filling, ...]]:
    """The stores that lack each image, in the order of ``asked``; images that none lacks are left out."""
    lacking = [{digest for chunk in one.chunks for digest in chunk.digests} for one in filling]
    wanted = {
        digest: tuple(one for one, missing in zip(filling, lacking, strict=True) if digest in missing)
        for digest in asked
    }
    return {digest: stores for digest, stores in wanted.items() if stores}


def _batches(wanted: dict[bytes, tuple[_Filling, ...]], uris: dict[bytes, str], batch_size: int) -> Iterator[Batch]:
    """Batches that end where a chunk of any store ends, or where other stores want the images.

    Which images share a batch then depends on the chunks alone, so a resumed run computes what the first would have.
    (Where the stores of a pass lacked different images to begin with, it can share batches otherwise, and its numbers
    be rounded otherwise.)
    """
    piece: list[bytes] = []
    stores: tuple[_Filling, ...] = ()

    def batch() -> Batch:
        return Batch(piece, [parse_source(uris[digest]) for digest in piece], [one.backbone for one in stores])

    for digest, wanting in wanted.items():
        if piece and wanting != stores:
            yield batch()
            piece = []
        piece.append(digest)
        stores = wanting
        if len(piece) == batch_size or any(digest in one.last for one in wanting):
            yield batch()
            piece = []
    if piece:
        yield batch()
