"""The store as it is written: the plan of chunks, made by one driver, and the commit of a chunk, by anybody.

The chunks that a store still needs are fixed before any is computed, and persisted beside them: which images share a
chunk, and how many go through the network at once, must not change when a run is killed and started again. A chunk's
data are written first and its rows last, both with ``put_new``: of several committers the first one's bytes count, and
no lock is needed. Hence a killed run, started again, ends with the bytes of the uninterrupted one.

A chunk that is not full can grow: its data are replaced by data that begin with the same rows, then its rows. Between
the two the rows are right, each by its own checksum. One process at a time appends to a chunk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, count, pairwise
from types import TracebackType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cache import layout
from cache.atomic import clear_partials, unless_read_only
from cache.digest_list import DigestIndex, Digests, as_digests, joined_digests
from cache.errors import SettingsError, StoreBusyError, StoreError, UnwritableError
from cache.fingerprint import Provenance
from cache.folded_rows import Chunks, fold
from cache.lock import confirm_driver, driver_lease, writer_lock
from cache.object_storage import ObjectStorage
from cache.reader import FeatureStore
from cache.rows import (
    RowOutcome,
    as_stored,
    fragment_bytes,
    fragment_key,
    provenance_of,
    read_fragment,
    row_checksums,
    rows_table,
)
from cache.sealed import parquet_bytes, read_parquet
from cache.storage import LocalStorage, Storage, has

PLAN_KEY = "plan.parquet"
_SCHEMA = pa.schema([pa.field("chunk", pa.int64(), nullable=False), pa.field("digest", pa.binary(32), nullable=False)])
_SETTINGS = b"plan"


class Chunk(NamedTuple):
    """A unit of work: the chunk's number, the digests of rows in order, and how many rows it has before them."""

    number: int
    digests: Sequence[bytes]
    start: int = 0


class ChunkPlan(NamedTuple):
    """The chunks to compute, images in one forward (None: all), and the squares that the memory takes (None: all)."""

    chunks: tuple[Chunk, ...] = ()
    batch_size: int | None = None
    fits: int | None = None

    def is_committed(self, lengths: Mapping[int, int]) -> bool:
        """Whether a store whose chunks have so many rows has all that is planned."""
        return all(lengths.get(chunk.number, 0) >= chunk.start + len(chunk.digests) for chunk in self.chunks)


class StoreWriter:
    """Writes to a store: ``with StoreWriter(store) as writer`` is its driver, which plans; anybody may :meth:`commit`.

    Entering takes the driver's lock, or raises :class:`StoreBusyError`; with ``wait`` it waits for the other driver. It
    clears what a killed one left. Leaving removes the plan if all of it is committed, and reloads ``store``.

    >>> import tempfile
    >>> from cache import FeatureStore, Identity, Provenance, RowOutcome, digest_bytes
    >>> here, digests = Provenance("cpu", {}), [digest_bytes(b"one"), digest_bytes(b"two")]
    >>> folder = tempfile.TemporaryDirectory()
    >>> store = FeatureStore.open(folder.name, "toy", Identity({"toy": 1}), dim=3, provenance=here)
    >>> with StoreWriter(store) as writer:
    ...     for chunk in writer.plan(digests).chunks:
    ...         features = np.ones((len(chunk.digests), 3), np.float32)
    ...         outcomes = writer.commit(chunk, features, [RowOutcome()] * len(chunk.digests), here)
    >>> store.read(digests).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    >>> folder.cleanup()
    """

    def __init__(self, store: FeatureStore, *, wait: bool = False) -> None:
        self.store = store
        self._storage = store.storage
        self._wait = wait
        self._driving = ExitStack()
        self._plan = ChunkPlan()

    def __enter__(self) -> StoreWriter:
        with ExitStack() as driving:
            driving.enter_context(_driving(self._storage, self._wait))
            self.store.reload()
            committed = self.store.chunks()
            for number in layout.chunk_numbers(self._storage):
                if number not in committed and not has(self._storage, fragment_key(number)):
                    layout.delete_chunk(self._storage, number)
            self._driving = driving.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._driving:
            if error is not None:
                with suppress(StoreError):
                    self.store.reload()
                return
            self.store.reload()
            if self._plan.is_committed(self.store.chunks().lengths):
                self.finish()
                with unless_read_only():
                    fold(self._storage, self.store.chunks())

    def pending(self) -> ChunkPlan:
        """The plan that the store still has from an earlier run, as it was made; empty where there is none."""
        return read_plan(self._storage)

    def plan(self, digests: Sequence[bytes], *, batch_size: int | None = None, retry_failed: bool = False) -> ChunkPlan:
        """Fix and persist the chunks that computing the missing of ``digests`` takes (:func:`make_plan`).

        What is pending from an earlier plan stays as it was, with its batch size unless ``batch_size`` is given. Then
        chunks can be computed and committed in any order, by any process. Raises :class:`UnwritableError`.
        """
        missing = self.store.missing(digests, retry_failed=retry_failed)
        rows = self.store.chunks().lengths
        old = self.pending()
        plan = make_plan(old, missing, rows=rows, chunk_rows=self.store.chunk_rows, batch_size=batch_size)
        if plan.chunks and plan != old:
            write_plan(self._storage, plan)
        self._plan = plan
        lengths = {chunk.number: chunk.start + len(chunk.digests) for chunk in plan.chunks}
        layout.resize(self._storage, self.store.array_rows(lengths))
        return plan

    @property
    def fits(self) -> int | None:
        """What :meth:`remember_fits` recorded in the plan."""
        return self._plan.fits

    def remember_fits(self, size: int) -> None:
        """Record in the plan that a network's memory takes ``size`` squares at once, and not a whole batch."""
        self._plan = self._plan._replace(fits=size)
        write_plan(self._storage, self._plan)

    def commit(
        self, chunk: Chunk, features: npt.NDArray[np.generic], outcomes: Sequence[RowOutcome], provenance: Provenance
    ) -> list[RowOutcome]:
        """Commit ``chunk``: its features (n, D), or (n, V, D), first, then the rows that say it is there.

        What is planned can be committed in pieces, from its beginning: a piece is a chunk with a later ``start``.
        A feature that the stored dtype cannot hold (:func:`cache.rows.as_stored`) becomes ``failed`` with the reason.
        Returns the outcomes as committed: those of another process where that was first.

        Raises UnwritableError, as on a full disk: then nothing of the chunk is there; and StoreBusyError where another
        process has written other data of this chunk and not yet its rows. If it is dead, the next driver clears them.
        """
        store, number = self.store, chunk.number
        if features.shape != (len(chunk.digests), *store.row_shape) or len(outcomes) != len(chunk.digests):
            raise SettingsError(
                f"chunk {number} has {len(chunk.digests)} rows of shape {store.row_shape}; "
                f"got features {features.shape} and {len(outcomes)} outcomes"
            )
        stored, outcomes = as_stored(features, store.dtype, outcomes, store.name)
        block = np.full((store.chunk_rows, *store.row_shape), np.nan, store.dtype)
        block[chunk.start : chunk.start + len(stored)] = stored
        rows = rows_table(chunk.digests, outcomes, row_checksums(stored))
        key, key_of_rows = layout.chunk_key(number, store.row_shape), fragment_key(number)
        confirm_driver(self._storage)
        if chunk.start:
            before = read_fragment(self._storage, number, store.how_to_mend(number))
            if len(before) != chunk.start:
                return self._committed(chunk)
            block[: chunk.start] = store.chunk(number, before)[: chunk.start]
            content, checksum = layout.chunk_bytes(block)
            self._storage.put(key, content)
            origin = Provenance.merged([provenance_of(before), provenance])
            place, own = before.schema.get_field_index("crc32c"), row_checksums(block[: chunk.start])
            before = before.set_column(place, rows.schema.field("crc32c"), pa.array(own))  # 0.1.0 has none
            grown = pa.concat_tables([before, rows])
            confirm_driver(self._storage)
            self._storage.put(key_of_rows, fragment_bytes(grown, origin, checksum))
            return list(outcomes)
        content, checksum = layout.chunk_bytes(block)
        first = self._storage.put_new(key, content)
        if not first and self._storage.read(key) != content:
            if has(self._storage, key_of_rows):
                return self._committed(chunk)
            raise StoreBusyError(
                f"{self._storage.address(key)} is being written by another process. If that is dead, the next "
                "extraction clears it and goes on."
            )
        try:
            confirm_driver(self._storage)
            committed = self._storage.put_new(key_of_rows, fragment_bytes(rows, provenance, checksum))
        except UnwritableError:  # no data without its rows, as a kill may leave it: on a full disk it takes room
            if first:
                layout.delete_chunk(self._storage, number)
            raise
        if not has(self._storage, key):  # cleared by a driver that took this process for dead
            self._storage.put_new(key, content)
        return list(outcomes) if committed else self._committed(chunk)

    def remove(self, number: int) -> None:
        """Take chunk ``number`` out: its rows first, then its data."""
        self._storage.delete(fragment_key(number))
        layout.delete_chunk(self._storage, number)

    def finish(self) -> None:
        """Drop the plan, and let the array end at its last row in the snapshot of ``store``."""
        self._storage.delete(PLAN_KEY)
        self._plan = ChunkPlan()
        layout.resize(self._storage, self.store.array_rows({}))

    def _committed(self, chunk: Chunk) -> list[RowOutcome]:
        """The outcomes of ``chunk`` that another process has committed."""
        rows = read_fragment(self._storage, chunk.number, self.store.how_to_mend(chunk.number))
        rows = rows.slice(chunk.start, len(chunk.digests))
        digests, *columns = (rows[name].to_pylist() for name in ("digest", *RowOutcome._fields))
        if digests != list(chunk.digests):
            raise StoreBusyError(
                f"chunk {chunk.number} of {self.store.address} holds other images than this plan says: another run has "
                "made a new plan. Start again, to compute what is still missing."
            )
        return [RowOutcome(*values) for values in zip(*columns, strict=True)]


def drop_committed_plan(store: FeatureStore) -> None:
    """Do what a driver that was killed after its last commit left to do, unless another one is writing."""
    plan = read_plan(store.storage)
    if plan.chunks and plan.is_committed(store.chunks().lengths):
        with suppress(StoreBusyError), unless_read_only(), StoreWriter(store):
            pass


def for_commits(store: FeatureStore) -> FeatureStore:
    """``store`` with only the rows without a feature: all that computing its chunks takes, and small to pickle."""
    failed = {number: rows.filter(pc.not_equal(rows["status"], "ok")) for number, rows in store.chunks().items()}
    rows = {number: rows for number, rows in failed.items() if rows.num_rows}
    return FeatureStore(store.storage, Chunks(dict.fromkeys(rows), None, rows))


@contextmanager
def _driving(storage: Storage, wait: bool) -> Iterator[None]:
    """Be the one driver, by a lock on the folder or a lease on the place; other storages have neither."""
    if isinstance(storage, LocalStorage):
        with writer_lock(storage.path(), wait=wait):
            clear_partials(storage.path())
            yield
            clear_partials(storage.path())  # a worker of a killed driver may have lived on for a moment
    elif isinstance(storage, ObjectStorage):
        with driver_lease(storage, wait=wait):
            yield
    else:
        yield


def make_plan(
    old: ChunkPlan, missing: Sequence[bytes], *, rows: Mapping[int, int], chunk_rows: int, batch_size: int | None
) -> ChunkPlan:
    """The plan for the digests ``missing`` (each once), with as many chunks of the plan ``old`` as can stay.

    What is left of a chunk of ``old`` stays if all of its images are missing. The rest fills the chunks that are not
    full (``rows`` is how many each has), then new ones, which take the lowest numbers that are free.
    """
    missing, chunks = as_digests(missing), list[Chunk]()
    left = [
        Chunk(number, digests[there - start :], there)
        for number, digests, start in old.chunks
        if start <= (there := rows.get(number, 0)) < start + len(digests)
    ]
    rest = missing
    if left:
        at = DigestIndex(missing).find(joined_digests([chunk.digests for chunk in left]))
        lengths = [len(chunk.digests) for chunk in left]
        stay = [bool((part >= 0).all()) for part in np.split(at, np.cumsum(lengths)[:-1])]
        chunks = [chunk for chunk, whole in zip(left, stay, strict=True) if whole]
        planned = np.zeros(len(missing), np.bool_)
        planned[at[np.repeat(stay, lengths)]] = True
        rest = missing.take(~planned)
    pending = {chunk.number for chunk in chunks}
    used = {*rows, *pending}
    short = [number for number in sorted(rows) if rows[number] < chunk_rows and number not in pending]
    places = chain(short, (number for number in count() if number not in used))
    low = 0
    while low < len(rest):
        number = next(places)
        start = rows.get(number, 0)
        chunks.append(Chunk(number, rest[low : low + chunk_rows - start], start))
        low += chunk_rows - start
    size = batch_size or old.batch_size
    return ChunkPlan(
        tuple(sorted(chunks, key=lambda chunk: chunk.number)), size, old.fits if size == old.batch_size else None
    )


def read_plan(storage: Storage) -> ChunkPlan:
    """The plan that is pending in a store; an empty one where there is none, or where it cannot be read."""
    try:
        table = read_parquet(storage.read(PLAN_KEY))
        settings = json.loads(table.schema.metadata[_SETTINGS])
        numbers, digests = table["chunk"].to_numpy(), Digests.from_column(table["digest"])
        bounds = [*np.flatnonzero(np.diff(numbers, prepend=-1)).tolist(), len(numbers)]
        starts = settings.get("starts", {})
        planned = tuple(
            Chunk(number := int(numbers[low]), digests[low:high], starts.get(str(number), 0))
            for low, high in pairwise(bounds)
        )
        return ChunkPlan(planned, settings["batch_size"], settings["fits"])
    except (FileNotFoundError, pa.ArrowException, ValueError, KeyError, TypeError):
        return ChunkPlan()


def write_plan(storage: Storage, plan: ChunkPlan) -> None:
    """Persist ``plan``."""
    each = np.array([(chunk.number, len(chunk.digests)) for chunk in plan.chunks], np.int64).reshape(-1, 2)
    numbers = np.repeat(each[:, 0], each[:, 1])
    digests = joined_digests([chunk.digests for chunk in plan.chunks])
    starts = {str(chunk.number): chunk.start for chunk in plan.chunks if chunk.start}
    settings = json.dumps({"batch_size": plan.batch_size, "fits": plan.fits, "starts": starts})
    table = pa.table([pa.array(numbers, pa.int64()), digests.column()], schema=_SCHEMA)
    content = parquet_bytes(table, {_SETTINGS: settings}, compression="none", use_dictionary=["chunk"])
    storage.put(PLAN_KEY, content)
