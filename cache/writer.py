"""The store as it is written: the plan of chunks, made by one driver, and the commit of a chunk, by anybody.

A chunk's data are written first and its rows last, both with ``put_new``: of several committers the first one's bytes
count, and no lock is needed. Hence a killed run, started again, ends with the bytes of the uninterrupted one.

A chunk that is not full can grow: its data are replaced by data that begin with the same rows, then its rows. Between
the two the rows are right, each by its own checksum. One process at a time appends to a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cache import layout
from cache.atomic import clear_partials, unless_read_only
from cache.errors import SettingsError, StoreBusyError, StoreError, UnwritableError
from cache.fingerprint import Provenance
from cache.folded_rows import Chunks, fold
from cache.lock import confirm_driver, driver_lease, writer_lock
from cache.object_storage import ObjectStorage
from cache.plan import PLAN_KEY, Chunk, ChunkPlan, make_plan, read_plan, write_plan
from cache.reader import FeatureStore
from cache.rows import RowOutcome, fragment_bytes, fragment_key, provenance_of, read_fragment, row_checksums, rows_table
from cache.storage import LocalStorage, Storage, has


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
        """Fix and persist the chunks that computing the missing of ``digests`` takes (:func:`cache.plan.make_plan`).

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
        A feature that is not finite in the stored dtype is not stored: its row becomes ``failed`` with the reason.
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
        stored, outcomes = _as_stored(store, features, outcomes)
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
    return _ForCommits(store.storage, {number: rows for number, rows in failed.items() if rows.num_rows})


class _ForCommits(FeatureStore):
    """A store that knows the rows that it is given, and reads none: they are sent with it."""

    def __init__(self, storage: Storage, rows: dict[int, pa.Table]) -> None:
        self._given = Chunks(dict.fromkeys(rows), None, rows)
        super().__init__(storage)

    def __reduce__(self) -> tuple[Any, ...]:
        return _ForCommits, (self.storage, self._given.read)

    def _committed(self) -> Chunks:
        return self._given


def _as_stored(
    store: FeatureStore, features: npt.NDArray[np.generic], outcomes: Sequence[RowOutcome]
) -> tuple[npt.NDArray[np.generic], list[RowOutcome]]:
    """``features`` (n, ...) as they are stored, and the outcomes that are true of them."""
    with np.errstate(over="ignore"):  # an overflow is named and refused just below
        block = features.astype(store.dtype)
    finite = np.asarray(np.isfinite(block).all(axis=tuple(range(1, block.ndim))))
    stored = [
        outcome._replace(status="failed", error=_why_not_finite(store, features[row]))
        if outcome.status == "ok" and not finite[row]
        else outcome
        for row, outcome in enumerate(outcomes)
    ]
    block[[row for row, outcome in enumerate(stored) if outcome.status != "ok"]] = np.nan
    return block, stored


def _why_not_finite(store: FeatureStore, feature: npt.NDArray[np.generic]) -> str:
    values = feature.astype(np.float64)
    if not np.isfinite(values).all():
        return f"{store.name} gave NaN or infinity"
    return f"{store.name} gave {np.abs(values).max():.4g}, past the largest {store.dtype}"


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
