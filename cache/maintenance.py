"""Looking after a store: check every byte and row, and drop the rows that no dataset lists."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import count
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from cache import layout
from cache.errors import DamagedStoreError
from cache.identity import Provenance
from cache.plan import Chunk
from cache.reader import FeatureStore
from cache.rows import RowOutcome
from cache.writer import StoreWriter


def verify(store: FeatureStore) -> list[str]:
    """Check the store against itself, every checksum and every row; return one line for each thing that is wrong.

    The array is read through Zarr, not by the memory maps that training uses: each checks the other.

    >>> import tempfile
    >>> from cache import FeatureStore, Identity, Provenance
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     verify(FeatureStore.open(folder, "toy", Identity({}), dim=3, provenance=Provenance("cpu", {})))
    []
    """
    return list(_problems(store))


def _problems(store: FeatureStore) -> Iterator[str]:
    import zarr

    if not store.path.name.endswith(f"-{store.identity.short}"):
        yield f"identity.json has the fingerprint {store.identity.short}..., the folder is called {store.path.name}"
    array = zarr.open_array(store.path / layout.ARRAY, mode="r")
    stated = store.identity.fields["store"]
    assert isinstance(stated, dict)
    wanted = (*([stated["views"]] if "views" in stated else []), stated["dim"]), stated["dtype"]
    if (array.shape[1:], str(array.dtype)) != wanted:
        yield f"the array has rows of {array.shape[1:]} {array.dtype}, the identity says {wanted[0]} {wanted[1]}"
    on_disk = layout.chunk_numbers(store.storage)
    for number in on_disk:
        if number not in store.chunks():
            yield f"chunk {number} has data and no rows: it is not committed, and the next extraction clears it"
    for number, rows in store.chunks().items():
        if number not in on_disk:
            yield f"chunk {number} has rows and no data. {layout.how_to_mend(number)}"
            continue
        try:
            mapped = store.chunk(number, verify_again=True)
        except DamagedStoreError as error:
            yield str(error)
            continue
        first = number * store.chunk_rows
        if first + rows.num_rows > array.shape[0]:
            yield f"chunk {number} ends at row {first + rows.num_rows}, the array at {array.shape[0]}"
            continue
        through_zarr = np.asarray(array[first : first + rows.num_rows])
        if not np.array_equal(through_zarr, mapped[: rows.num_rows], equal_nan=True):
            yield f"chunk {number}: Zarr reads other numbers than the memory map. {layout.how_to_mend(number)}"
        yield from _wrong_rows(number, np.asarray(pc.equal(rows["status"], "ok")), np.asarray(mapped))


def _wrong_rows(number: int, ok: npt.NDArray[np.bool_], block: npt.NDArray[np.generic]) -> Iterator[str]:
    values = block.reshape(len(block), -1).astype(np.float64)
    finite = np.asarray(np.isfinite(values).all(axis=1))
    empty = np.asarray(np.isnan(values).all(axis=1))
    for row in np.flatnonzero(ok & ~finite[: len(ok)]):
        yield f"chunk {number}, row {row}: recorded as ok and not finite. {layout.how_to_mend(number)}"
    for row in np.flatnonzero(~ok & ~empty[: len(ok)]):
        yield f"chunk {number}, row {row}: recorded without a feature and holds numbers. {layout.how_to_mend(number)}"
    if not empty[len(ok) :].all():
        yield f"chunk {number}: numbers past its last row. {layout.how_to_mend(number)}"


class Compaction(NamedTuple):
    """What :func:`compact` did: rows dropped, and chunks before and after."""

    dropped: int
    chunks_before: int
    chunks_after: int


def compact(store: FeatureStore, keep: Collection[bytes]) -> Compaction:
    """Drop the rows whose digest is not in ``keep``, and merge the chunks that this leaves short.

    Rows that stay are first written again as new chunks, with the provenance of the chunks that they come from, then
    the old chunks are removed: killed at any instant, the store holds every row to keep at least once, and compacting
    again finishes the work. A plan that is pending is dropped; the next extraction makes one for what is missing.

    >>> import tempfile
    >>> from cache import FeatureStore, Identity, Provenance
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = FeatureStore.open(folder, "toy", Identity({}), dim=3, provenance=Provenance("cpu", {}))
    ...     compact(store, keep=[])
    Compaction(dropped=0, chunks_before=0, chunks_after=0)
    """
    keep = set(keep)
    with StoreWriter(store) as writer:
        before = store.chunks()
        stays = {number: _rows_that_stay(store, number, keep) for number in before}
        rewritten = [n for n, rows in before.items() if rows.num_rows < store.chunk_rows or not stays[n].all()]
        if len(rewritten) == 1 and stays[rewritten[0]].all():
            return Compaction(0, len(before), len(before))  # one short chunk, every row of it wanted
        dropped = {digest for rows in before.values() for digest in rows["digest"].to_pylist()} - keep
        stay: list[_Row] = []
        for number in rewritten:
            block, lines = store.chunk(number), before[number].to_pylist()
            for position in np.flatnonzero(stays[number]):
                digest, *outcome = lines[position].values()
                stay.append(_Row(digest, block[position], RowOutcome(*outcome), number))
        free = (number for number in count() if number not in before)
        for low in range(0, len(stay), store.chunk_rows):
            piece = stay[low : low + store.chunk_rows]
            chunk = Chunk(next(free), tuple(row.digest for row in piece))
            origins = [store.provenance(number) for number in sorted({row.origin for row in piece})]
            features, outcomes = np.stack([row.feature for row in piece]), [row.outcome for row in piece]
            writer.commit(chunk, features, outcomes, Provenance.merged(origins))
        for number in rewritten:
            writer.remove(number)
    return Compaction(len(dropped), len(before), len(store.chunks()))


class _Row(NamedTuple):
    """A row that is written again, and the chunk that it comes from."""

    digest: bytes
    feature: npt.NDArray[np.generic]
    outcome: RowOutcome
    origin: int


def _rows_that_stay(store: FeatureStore, number: int, keep: Collection[bytes]) -> npt.NDArray[np.bool_]:
    """True for each row (n,) of the chunk that is to stay, and is the one that counts for its image."""
    digests = store.chunks()[number]["digest"].to_pylist()
    counts = store.row_numbers(digests) == number * store.chunk_rows + np.arange(len(digests))
    wanted: npt.NDArray[np.bool_] = counts & np.array([digest in keep for digest in digests], dtype=np.bool_)
    return wanted
