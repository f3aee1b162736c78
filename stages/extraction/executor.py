"""Where the chunks of a plan are computed: an executor takes units of work, computes them, and commits their chunks.

A unit is the chunks, of one store or several, that share images: it is computed in one pass over them. Units share
nothing, so any process that reads the images can compute them in any order: all that an executor needs is in the
:class:`Job`, which can be pickled, and a commit needs no lock.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple, Protocol

import numpy as np

from cache import Chunk, ChunkPlan, FeatureStore, Provenance, RowOutcome, StoreWriter, parse_source
from cache.digest_list import DigestIndex, joined_digests
from stages.device import device_name
from stages.extraction.backbones import Backbone, place
from stages.extraction.embedder import Features, limit_memory
from stages.extraction.flow import Batch, Clock, Done, flow
from stages.extraction.known import remember_sample
from stages.processes import processors

LIBRARIES = ("numpy", "open_clip_torch", "pillow", "timm", "torch", "torchvision", "zarr")

Unit = tuple[tuple[int, Chunk], ...]  # chunks that share images, each with the number of its store in the job


class Job(NamedTuple):
    """What an executor computes; ``fits``: how many squares the memory takes at once, None where it takes a batch."""

    stores: Sequence[FeatureStore]
    backbones: Sequence[Backbone]
    uris: Mapping[bytes, str]
    units: Sequence[Unit]
    batch_size: int
    fits: Sequence[int | None]


class Advance(NamedTuple):
    """Images through, features that turned out to be none, and chunks, by store and number, that need no more work."""

    images: int
    failed: int
    committed: tuple[tuple[int, int], ...] = ()


class Executor(Protocol):
    """Computes the units of a job and commits their chunks."""

    def execute(self, job: Job, clock: Clock) -> Iterator[Advance]:
        """Compute all units; when the iterator ends, every chunk is committed (or has nothing new to say)."""


def units_of(plans: Sequence[ChunkPlan]) -> list[Unit]:
    """The chunks of ``plans``, one plan a store, in units that share no image, in the order of their first chunks."""
    chunks = [(store, chunk) for store, plan in enumerate(plans) for chunk in plan.chunks]
    if len(plans) == 1:
        return [(item,) for item in chunks]
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    digests = joined_digests([chunk.digests for _, chunk in chunks])
    owners = np.repeat(np.arange(len(chunks)), [len(chunk.digests) for _, chunk in chunks])
    first = owners[DigestIndex(digests).find(digests)]  # the chunk that has each image first
    sharing = coo_array((np.ones(len(owners), np.bool_), (first, owners)), shape=(len(chunks), len(chunks)))
    units: dict[int, list[tuple[int, Chunk]]] = {}
    for number, item in zip(connected_components(sharing, directed=False)[1].tolist(), chunks, strict=True):
        units.setdefault(number, []).append(item)
    return [tuple(unit) for unit in units.values()]


@dataclass(frozen=True)
class LocalExecutor:
    """This machine: threads that read and decode, and networks on a CPU or on one card or several.

    Args:
        workers: threads that read and decode, for all devices together; by default one for each processor.
        devices: where the networks run; each takes whole units. By default where the backbones are, and all cards of
            the machine for ``cuda`` without a number.
        commit_seconds: what is computed of a chunk is committed so often; a kill loses no more than that.

    >>> job = Job([], [], {}, units_of([]), 32, [])
    >>> list(LocalExecutor(workers=1).execute(job, Clock()))
    []
    """

    workers: int | None = None
    devices: tuple[str, ...] = ()
    commit_seconds: float = 60.0

    def execute(self, job: Job, clock: Clock) -> Iterator[Advance]:
        """See :class:`Executor`."""
        devices = self.devices or _devices(job.backbones)
        workers = max(1, (self.workers or processors()) // max(1, len(devices)))
        if len(devices) < 2:
            placed = job if not devices else job._replace(backbones=_placed(job.backbones, devices[0]))
            prepare_networks(placed)
            yield from compute_units(placed, iter(job.units), workers, clock, self.commit_seconds)
            return
        units, advances = deque(job.units), queue.SimpleQueue[Advance | BaseException | None]()

        def work(device: str) -> None:
            try:
                placed = job._replace(backbones=_placed(job.backbones, device))
                prepare_networks(placed)
                for advance in compute_units(placed, _taken(units), workers, clock, self.commit_seconds):
                    advances.put(advance)
                advances.put(None)
            except BaseException as error:  # noqa: BLE001 (raised where the job was asked for)
                units.clear()
                advances.put(error)

        threads = [threading.Thread(target=work, args=(device,), name=device) for device in devices]
        for thread in threads:
            thread.start()
        try:
            working = len(threads)
            while working:
                advance = advances.get()
                if isinstance(advance, BaseException):
                    raise advance
                if advance is None:
                    working -= 1
                else:
                    yield advance
        finally:
            units.clear()
            for thread in threads:
                thread.join()


def _taken(units: deque[Unit]) -> Iterator[Unit]:
    with suppress(IndexError):
        while True:
            yield units.popleft()


def _devices(backbones: Sequence[Backbone]) -> tuple[str, ...]:
    if not any(backbone.device == "cuda" for backbone in backbones):
        return ()
    import torch

    count = torch.cuda.device_count()
    return tuple(f"cuda:{number}" for number in range(count)) if count > 1 else ()


def _placed(backbones: Sequence[Backbone], device: str) -> list[Backbone]:
    """``backbones`` on ``device``; those that are on the CPU stay there if it is a card."""
    moving = [backbone for backbone in backbones if device == "cpu" or backbone.device != "cpu"]
    moved = dict(zip(map(id, moving), place(moving, device), strict=True))
    return [moved.get(id(backbone), backbone) for backbone in backbones]


_Piece = tuple[Chunk, Features, list[RowOutcome]]  # rows of a chunk to commit


class _Rows:
    """The rows of a chunk as they are computed, and how many are committed: from the first, without a gap."""

    def __init__(self, store: FeatureStore, chunk: Chunk) -> None:
        self.store, self.chunk = store, chunk
        self.features = np.full((len(chunk.digests), *store.row_shape), np.nan, np.float32)
        self.outcomes: dict[int, RowOutcome] = {}
        self.committed = 0

    @property
    def complete(self) -> bool:
        return len(self.outcomes) == len(self.chunk.digests)

    def piece(self) -> _Piece | None:
        """The rows to commit next; None where there are none, or none that says anything new."""
        low, (number, digests, start) = self.committed, self.chunk
        outcomes = [self.outcomes[row] for row in takewhile(self.outcomes.__contains__, range(low, len(digests)))]
        high = low + len(outcomes)
        failed_again = low == 0 and all(one.status != "ok" for one in outcomes)
        if not outcomes or (failed_again and not self.store.absent(digests[:high])):
            return None  # every image has a row already, and gave no feature this time either
        self.committed = high
        return Chunk(number, digests[low:high], start + low), self.features[low:high], outcomes


def prepare_networks(job: Job) -> None:
    """Check each network of ``job`` against what filled its store, and let it take what the memory took before."""
    for features, backbone, fits in zip(job.stores, job.backbones, job.fits, strict=True):
        remember_sample(features, backbone)
        if fits is not None:
            limit_memory(backbone.forward, fits)


def compute_units(
    job: Job, units: Iterator[Unit], workers: int, clock: Clock, commit_seconds: float
) -> Iterator[Advance]:
    """Compute ``units`` with the backbones of ``job`` and commit their chunks, each while the next is computed."""
    numbers = {id(backbone): number for number, backbone in enumerate(job.backbones)}
    places: list[dict[bytes, tuple[_Rows, int]]] = [{} for _ in job.stores]  # where a row belongs, of each open chunk
    opened: list[list[_Rows]] = [[] for _ in job.stores]
    writing: list[tuple[Future[int], tuple[tuple[int, int], ...]] | None] = [None] * len(job.stores)
    committed: list[tuple[int, int]] = []
    last_commit = time.perf_counter()

    def batches() -> Iterator[Batch]:
        for unit in units:
            for store, chunk in unit:
                rows = _Rows(job.stores[store], chunk)
                opened[store].append(rows)
                places[store].update((digest, (rows, row)) for row, digest in enumerate(chunk.digests))
            yield from _batches(job, unit)

    def settle(store: int) -> int:
        future, completed = writing[store] or (None, ())
        writing[store] = None
        refused = future.result() if future else 0
        committed.extend(completed)
        return refused

    def taken() -> tuple[tuple[int, int], ...]:
        settled = tuple(committed)
        committed.clear()
        return settled

    device = next((backbone.device for backbone in job.backbones if backbone.device != "cpu"), "cpu")
    writer = ThreadPoolExecutor(max(1, len(job.stores)), "write")
    try:
        for through in flow(batches(), workers=workers, clock=clock, device=device):
            began = time.perf_counter()
            failed = sum(outcome.status != "ok" for outcome in through.outcomes)
            _take(through, numbers, places)
            due = began - last_commit >= commit_seconds
            last_commit = began if due else last_commit
            failed += sum(settle(store) for store, commit in enumerate(writing) if commit and commit[0].done())
            for store, chunks in enumerate(opened):
                for rows in [rows for rows in chunks if rows.complete or (due and rows.outcomes)]:
                    completed = ((store, rows.chunk.number),) if rows.complete else ()
                    if rows.complete:
                        chunks.remove(rows)
                    if (piece := rows.piece()) is not None:
                        failed += settle(store)
                        where = job.stores[store], job.backbones[store], job.batch_size
                        writing[store] = writer.submit(_commit, *where, piece), completed
                    else:
                        committed.extend(completed)
            clock.writing += time.perf_counter() - began
            yield Advance(len(through.outcomes), failed, taken())
        refused = sum(settle(store) for store in range(len(job.stores)))
        if (last := Advance(0, refused, taken())) != Advance(0, 0):
            yield last
    finally:
        writer.shutdown()  # no store is let go while it is being written


def _take(through: Done, numbers: dict[int, int], places: list[dict[bytes, tuple[_Rows, int]]]) -> None:
    for backbone, features in zip(through.batch.backbones, through.features, strict=True):
        store = numbers[id(backbone)]
        for digest, outcome, feature in zip(through.batch.digests, through.outcomes, features, strict=True):
            rows, row = places[store].pop(digest)
            rows.features[row] = feature.reshape(rows.features.shape[1:])
            rows.outcomes[row] = outcome


def _commit(store: FeatureStore, backbone: Backbone, batch_size: int, piece: _Piece) -> int:
    """Commit rows of a chunk. How many of their features turned out not to fit the store's dtype."""
    provenance = Provenance.here(device_name(backbone.device), LIBRARIES, batch_size)
    chunk, features, outcomes = piece
    committed = StoreWriter(store).commit(chunk, features, outcomes, provenance)
    return sum(one.status == "ok" != other.status for one, other in zip(outcomes, committed, strict=True))


def images_in_order(job: Job, unit: Unit) -> list[bytes]:
    """The images of ``unit`` in the order in which they are computed."""
    return [digest for batch in _batches(job, unit) for digest in batch.digests]


def _batches(job: Job, unit: Unit) -> Iterator[Batch]:
    """Batches that end where a chunk of any store ends, or where other stores want the images.

    Which images share a batch then depends on the chunks alone, so a resumed run computes what the first would have.
    (Where the stores of a pass lacked different images to begin with, numbers can be rounded otherwise.)
    """
    wanting: dict[bytes, tuple[int, ...]] = {}
    last = {chunk.digests[-1] for _, chunk in unit}
    for store, chunk in sorted(unit, key=lambda item: -len(item[1].digests)):  # a kill can leave them unequally far
        for digest in chunk.digests:
            wanting[digest] = (*wanting.get(digest, ()), store)
    piece: list[bytes] = []
    stores: tuple[int, ...] = ()

    def batch() -> Batch:
        sources = [parse_source(job.uris[digest]) for digest in piece]
        return Batch(piece, sources, [job.backbones[store] for store in stores])

    for digest, wanted in wanting.items():
        if piece and wanted != stores:
            yield batch()
            piece = []
        piece.append(digest)
        stores = wanted
        if len(piece) == job.batch_size or digest in last:
            yield batch()
            piece = []
    if piece:
        yield batch()
