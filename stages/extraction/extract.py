"""Images -> features: what is missing in the stores goes through the networks and is committed chunk by chunk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from cache import ChunkPlan, FeatureStore, Provenance, StoreWriter
from cache.digest_list import DigestIndex, joined_digests
from cache.reader import CHUNK_ROWS
from cache.storage import Where
from cache.writer import drop_committed_plan
from stages.device import device_name, keep_freed_memory, own_stream
from stages.extraction.backbones import Backbone
from stages.extraction.embedder import memory_limit
from stages.extraction.executor import LIBRARIES, Executor, Job, LocalExecutor, units_of
from stages.extraction.flow import Clock
from stages.extraction.known import check_sample
from stages.records import Records

ON_CPU = 32  # from 16 images on, a CPU's rate changes by a few percent only
_SIZES = (8, 16, 32, 64, 128, 256, 512)
_WORTH = 1.05  # twice the memory must give 5 % more images a second
_TRIAL_SECONDS = 10.0


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


class Uris:
    """The URIs of digests (n,) in ``records``, of equal images the last; looked up when they are wanted."""

    def __init__(self, records: Records) -> None:
        self._digests = records.digests
        self._uris = records.table["uri"]
        self._index = DigestIndex(self._digests.take(np.s_[::-1]))

    def __call__(self, digests: Sequence[bytes]) -> list[str]:
        """The URI of each of ``digests``, which are all there."""
        uris: list[str] = self._uris.take(len(self._digests) - 1 - self._index.find(digests)).to_pylist()
        return uris


def extract(
    records: Records,
    backbone: Backbone,
    path: Where,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    dtype: str = "float16",
    chunk_rows: int = CHUNK_ROWS,
    retry_failed: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    executor: Executor | None = None,
    wait: bool = False,
) -> FeatureStore:
    """:func:`extract_all` for one backbone.

    >>> import tempfile
    >>> from tests.toys.extraction import one_image, toy_backbone
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     records = one_image(folder)
    ...     extract(records, toy_backbone(), folder).read(records.digests)[0, :3].tolist()
    [1.0, 1.0, 1.0]
    """
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
        executor=executor,
        wait=wait,
    )
    return filled.store


def extract_all(
    records: Records,
    backbones: Sequence[Backbone],
    path: Where,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    dtype: str = "float16",
    chunk_rows: int = CHUNK_ROWS,
    retry_failed: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    executor: Executor | None = None,
    wait: bool = False,
) -> list[Filled]:
    """Fill the feature stores of ``backbones`` below ``path`` with the images of ``records`` that they lack.

    Each image is read and decoded once for all backbones that lack it; one that no store lacks is not opened. An
    image that gives no feature becomes a row with its reason and the run goes on. Each store commits on its own, and
    everything committed stays, whenever the run ends; the next one computes the rest.

    Args:
        records: the images. Those whose bytes could not be read are passed over.
        backbones: the frozen networks with their preprocessing.
        path: the folder of feature stores, a storage, or an address like ``s3://bucket/shop``.
        batch_size: images in one forward; halved where the memory does not suffice. Changes speed, and numbers only
            by rounding. By default 32 on a CPU; on another device what the store's chunks were computed with, or,
            where there are none yet, found by trial; what a killed run began is finished with its own.
        workers: threads that read and decode; by default one for each processor.
        dtype: the dtype features are stored in, ``float16`` or ``float32``.
        chunk_rows: images a chunk, for a store that is begun now. A kill costs at most a minute's work.
        retry_failed: compute failed images again too.
        on_progress: called after every batch.
        executor: computes the chunks; by default :class:`stages.extraction.LocalExecutor`, this machine.
        wait: for another process that is writing to one of the stores.

    Returns a :class:`Filled` for each of ``backbones``; ``store.failures(records.digests)`` lists what has no feature.
    Raises StoreBusyError where another process is writing to one of the stores, unless it is to ``wait``.

    >>> import tempfile
    >>> from tests.toys.extraction import one_image, toy_backbone
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (filled,) = extract_all(one_image(folder), [toy_backbone()], folder)
    ...     filled.store.name, filled.computed
    ('toy', 1)
    """
    stores = [open_store(backbone, path, dtype=dtype, chunk_rows=chunk_rows) for backbone in backbones]
    digests = records.digests.readable()
    once: dict[str, tuple[FeatureStore, Backbone]] = {}  # two backbones of one identity fill one store, once
    for store, backbone in zip(stores, backbones, strict=True):
        once.setdefault(store.address, (store, backbone))
    lacking = {  # in one order in every process: two that wait do not wait for each other
        address: pair for address, pair in sorted(once.items()) if pair[0].missing(digests, retry_failed=retry_failed)
    }
    for address in once.keys() - lacking.keys():
        drop_committed_plan(once[address][0])
    if not lacking:
        return [Filled(store, 0) for store in stores]
    with ExitStack() as drivers:
        filled, networks = zip(*lacking.values(), strict=True)
        writers = [drivers.enter_context(StoreWriter(store, wait=wait)) for store in filled]
        planned = [writer.pending().batch_size for writer in writers]
        size = batch_size or next(filter(None, planned), None) or _batch_size(networks, filled)
        plans = [writer.plan(digests, batch_size=size, retry_failed=retry_failed) for writer in writers]
        job = Job(filled, networks, size, [plan.fits for plan in plans], units_of(plans), Uris(records))
        total = _images(plans)
        # Only now: what planning needed and let go goes back to the system.
        keep_freed_memory(one_arena=all(backbone.device == "cpu" for backbone in networks))
        done = failed = 0
        clock = Clock()
        for advance in (executor or LocalExecutor(workers)).execute(job, clock):
            done, failed = done + advance.images, failed + advance.failed
            for writer, backbone in zip(writers, networks, strict=True):
                limit = memory_limit(backbone.forward)  # remembered: a run after a kill is rounded alike
                if limit is not None and writer.fits != limit:
                    writer.remember_fits(limit)
            if on_progress is not None:
                on_progress(Progress(done, total, failed, clock))
        for writer in writers:
            writer.store.reload()
            writer.finish()
    computed = {
        address: sum(len(chunk.digests) for chunk in plan.chunks) for address, plan in zip(lacking, plans, strict=True)
    }
    return [Filled(once[store.address][0], computed.get(store.address, 0)) for store in stores]


def open_store(
    backbone: Backbone, path: Where, *, dtype: str = "float16", chunk_rows: int = CHUNK_ROWS
) -> FeatureStore:
    """The feature store of ``backbone`` below ``path``, begun where there is none."""
    provenance = Provenance.here(device_name(backbone.device), LIBRARIES)
    return FeatureStore.open(path, provenance=provenance, chunk_rows=chunk_rows, **_what_it_holds(backbone, dtype))


def find_store(backbone: Backbone, path: Where, *, dtype: str, remedy: str) -> FeatureStore:
    """The feature store of ``backbone`` below ``path``. Raises as :meth:`cache.FeatureStore.find`, and WeightsError."""
    store = FeatureStore.find(path, remedy=remedy, **_what_it_holds(backbone, dtype))
    check_sample(store, backbone, backbone.sample)
    return store


def _what_it_holds(backbone: Backbone, dtype: str) -> dict[str, Any]:
    shape = {"dim": backbone.dim, "dtype": dtype, "views": backbone.preprocess.stored}
    return {"name": backbone.name, "identity": backbone.identity, **shape}


def _images(plans: Sequence[ChunkPlan]) -> int:
    """How many different images ``plans`` have; each plan has an image once."""
    if len(plans) == 1:
        return sum(len(chunk.digests) for chunk in plans[0].chunks)
    return len(joined_digests([chunk.digests for plan in plans for chunk in plan.chunks]).unique())


def _batch_size(backbones: Sequence[Backbone], stores: Sequence[FeatureStore]) -> int:
    """The size that the chunks of ``stores`` were computed with on these devices; where there is none, by trial."""
    on_card = [pair for pair in zip(backbones, stores, strict=True) if pair[0].device != "cpu"]
    if not on_card:
        return ON_CPU
    used = [
        origin.batch_size
        for backbone, store in on_card
        for origin in map(store.provenance, store.chunks())
        if origin.batch_size and origin.device in (backbone.device, device_name(backbone.device))
    ]
    return used[-1] if used else find_batch_size([backbone for backbone, _ in on_card])


def find_batch_size(backbones: Sequence[Backbone]) -> int:
    """The smallest size at which twice as many images would hardly be faster, or would not fit into memory.

    As in extraction two batches are in memory at once, each in a thread with a stream of its own.
    """
    forwards = {backbone.forward: backbone.preprocess for backbone in backbones}
    device = next((backbone.device for backbone in backbones if backbone.device != "cpu"), "cpu")

    def run(images: int) -> None:
        for forward, p in forwards.items():
            forward(np.zeros((images * p.count, 3, p.size, p.size), np.uint8))

    with ThreadPoolExecutor(2, "trial", initializer=own_stream, initargs=(device,)) as pool:

        def seconds(images: int) -> float:
            for _ in range(2):  # once to allocate and choose algorithms, once for the clock
                started = time.perf_counter()
                for trial in [pool.submit(run, images) for _ in range(2)]:
                    trial.result()
            return time.perf_counter() - started

        return settle(seconds, time.perf_counter)


def settle(seconds: Callable[[int], float], clock: Callable[[], float]) -> int:
    """Double the size while ``seconds`` (of a size) says that it pays, memory suffices and ``clock`` leaves time."""
    import torch

    began, best, best_rate = clock(), _SIZES[0], 0.0
    for size in _SIZES:
        try:
            rate = size / seconds(size)
        except (torch.OutOfMemoryError, MemoryError):
            torch.cuda.empty_cache()
            break
        if rate < best_rate * _WORTH:
            break
        best, best_rate = size, rate
        if clock() - began > _TRIAL_SECONDS:
            break
    return best
