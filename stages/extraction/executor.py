"""Where the chunks of a plan are computed: an executor takes units of work, computes them, and commits their chunks.

A unit is the chunks, of one store or several, that share images: it is computed in one pass over them. Units share
nothing, so any process that reads the images can compute them in any order: all that an executor needs is in the
:class:`Job`, which can be pickled, and a commit needs no lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple, Protocol

import numpy as np

from cache import Chunk, ChunkPlan, FeatureStore, Provenance, RowOutcome, StoreWriter, parse_source
from cache.digest_list import DigestIndex, joined_digests
from stages.device import device_name
from stages.extraction.backbones import Backbone
from stages.extraction.embedder import limit_memory
from stages.extraction.flow import Batch, Clock, flow
from stages.extraction.known import remember_sample
from stages.processes import processors

LIBRARIES = ("numpy", "open_clip_torch", "pillow", "timm", "torch", "torchvision", "zarr")

Unit = tuple[tuple[int, Chunk], ...]  # chunks that share images, each with the number of its store in the job


def _nowhere(digests: Sequence[bytes]) -> Sequence[str]:
    raise KeyError(digests[0])


class Job(NamedTuple):
    """What an executor computes; ``fits``: how many squares the memory takes at once, None where it takes a batch.

    ``uris`` says where the images of digests (n,) are.
    """

    stores: Sequence[FeatureStore]
    backbones: Sequence[Backbone]
    batch_size: int
    fits: Sequence[int | None]
    units: Sequence[Unit] = ()
    uris: Callable[[Sequence[bytes]], Sequence[str]] = _nowhere


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
    """This machine: threads that read and decode, and networks on a CPU or a card.

    Args:
        workers: threads that read and decode; by default one for each processor.
        commit_seconds: what is computed of a chunk is committed so often; a kill loses no more than that.

    >>> list(LocalExecutor(workers=1).execute(Job([], [], 32, []), Clock()))
    []
    """

    workers: int | None = None
    commit_seconds: float = 60.0

    def execute(self, job: Job, clock: Clock) -> Iterator[Advance]:
        """See :class:`Executor`."""
        prepare_networks(job)
        yield from compute_units(job, iter(job.units), self.workers or processors(), clock, self.commit_seconds)


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

    def commit(self, provenance: Provenance) -> int:
        """Commit what can be. How many of the features turned out not to fit the store's dtype."""
        low, (number, digests, start) = self.committed, self.chunk
        outcomes = [self.outcomes[row] for row in takewhile(self.outcomes.__contains__, range(low, len(digests)))]
        high = low + len(outcomes)
        failed_again = low == 0 and all(one.status != "ok" for one in outcomes)
        if not outcomes or (failed_again and not self.store.absent(digests[:high])):
            return 0  # every image has a row already, and gave no feature this time either
        self.committed = high
        piece = Chunk(number, digests[low:high], start + low)
        committed = StoreWriter(self.store).commit(piece, self.features[low:high], outcomes, provenance)
        return sum(one.status == "ok" != other.status for one, other in zip(outcomes, committed, strict=True))


def prepare_networks(job: Job) -> None:
    """Check each network of ``job`` against what filled its store, and let it take what the memory took before."""
    for features, backbone, fits in zip(job.stores, job.backbones, job.fits, strict=True):
        remember_sample(features, backbone)
        if fits is not None:
            limit_memory(backbone.forward, fits)


def compute_units(
    job: Job, units: Iterator[Unit], workers: int, clock: Clock, commit_seconds: float
) -> Iterator[Advance]:
    """Compute ``units`` with the backbones of ``job`` and commit their chunks, while the next images are read."""
    numbers = {id(backbone): number for number, backbone in enumerate(job.backbones)}
    places: list[dict[bytes, tuple[_Rows, int]]] = [{} for _ in job.stores]  # where a row belongs, of each open chunk
    opened: list[list[_Rows]] = [[] for _ in job.stores]
    last_commit = time.perf_counter()

    def batches() -> Iterator[Batch]:
        for unit in units:
            for store, chunk in unit:
                rows = _Rows(job.stores[store], chunk)
                opened[store].append(rows)
                places[store].update((digest, (rows, row)) for row, digest in enumerate(chunk.digests))
            for images, stores in _together(unit, job.batch_size):
                sources = [parse_source(uri) for uri in job.uris(images)]
                yield Batch(images, sources, [job.backbones[store] for store in stores])

    device = next((backbone.device for backbone in job.backbones if backbone.device != "cpu"), "cpu")
    origins = [Provenance.here(device_name(one.device), LIBRARIES, job.batch_size) for one in job.backbones]
    for through in flow(batches(), workers=workers, clock=clock, device=device):
        began = time.perf_counter()
        failed = sum(outcome.status != "ok" for outcome in through.outcomes)
        for backbone, features in zip(through.batch.backbones, through.features, strict=True):
            for digest, outcome, feature in zip(through.batch.digests, through.outcomes, features, strict=True):
                rows, row = places[numbers[id(backbone)]].pop(digest)
                rows.features[row] = feature.reshape(rows.features.shape[1:])
                rows.outcomes[row] = outcome
        due = began - last_commit >= commit_seconds
        last_commit = began if due else last_commit
        committed: list[tuple[int, int]] = []
        for store, chunks in enumerate(opened):
            for rows in [rows for rows in chunks if rows.complete or (due and rows.outcomes)]:
                failed += rows.commit(origins[store])
                if rows.complete:
                    chunks.remove(rows)
                    committed.append((store, rows.chunk.number))
        clock.writing += time.perf_counter() - began
        yield Advance(len(through.outcomes), failed, tuple(committed))


def images_in_order(unit: Unit, batch_size: int) -> list[bytes]:
    """The images of ``unit`` in the order in which they are computed."""
    return [digest for images, _ in _together(unit, batch_size) for digest in images]


def _together(unit: Unit, batch_size: int) -> Iterator[tuple[list[bytes], tuple[int, ...]]]:
    """The images of each batch and the stores that want them; it ends where a chunk does, or where others want them.

    Which images share a batch then depends on the chunks alone, so a resumed run computes what the first would have.
    (Where the stores of a pass lacked different images to begin with, numbers can be rounded otherwise.)
    """
    wanting: dict[bytes, tuple[int, ...]] = {}
    last = {chunk.digests[-1] for _, chunk in unit}
    for store, chunk in sorted(unit, key=lambda item: -len(item[1].digests)):  # a kill can leave them unequally far
        for digest in chunk.digests:
            wanting[digest] = (*wanting.get(digest, ()), store)
    images: list[bytes] = []
    stores: tuple[int, ...] = ()
    for digest, wanted in wanting.items():
        if images and (wanted != stores or len(images) == batch_size or images[-1] in last):
            yield images, stores
            images = []
        images.append(digest)
        stores = wanted
    if images:
        yield images, stores
