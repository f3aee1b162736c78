"""Looking after a store: check every byte and row, and drop the rows that no dataset lists."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from cache import layout
from cache.errors import DamagedStoreError
from cache.identity import Provenance
from cache.rows import RowOutcome
from cache.store import Chunk, FeatureStore


def verify(store: FeatureStore) -> list[str]:
    """Check the store against itself, every checksum and every row; return one line for each thing that is wrong.

    The array is read through Zarr, not by the memory maps that training uses: each checks the other.
    """
    return list(_problems(store))


def _problems(store: FeatureStore) -> Iterator[str]:
    import zarr

    if not store.path.name.endswith(f"-{store.identity.short}"):
        yield f"identity.json has the fingerprint {store.identity.short}..., the folder is called {store.path.name}"
    array = zarr.open_array(store.path / layout.ARRAY, mode="r")
    said = store.identity.fields["store"]
    assert isinstance(said, dict)
    wanted = (*([said["views"]] if "views" in said else []), said["dim"]), said["dtype"]
    if (array.shape[1:], str(array.dtype)) != wanted:
        yield f"the array has rows of {array.shape[1:]} {array.dtype}, the identity says {wanted[0]} {wanted[1]}"
    on_disk = layout.chunk_numbers(store.path)
    for number in on_disk:
        if number not in store.chunks():
            yield f"chunk {number} has data and no rows: it is not committed, and the next extraction clears it"
    for number, rows in store.chunks().items():
        if number not in on_disk:
            yield f"chunk {number} has rows and no data. {layout.mend(number)}"
            continue
        try:
            mapped = store.chunk(number)
        except DamagedStoreError as error:
            yield str(error)
            continue
        if not layout.checksum_holds(layout.chunk_path(store.path, number, store.row_shape)):
            yield f"chunk {number}: its bytes do not have the checksum written with them. {layout.mend(number)}"
            continue
        first = number * store.chunk_rows
        if first + rows.num_rows > array.shape[0]:
            yield f"chunk {number} ends at row {first + rows.num_rows}, the array at {array.shape[0]}"
            continue
        through_zarr = np.asarray(array[first : first + rows.num_rows])
        if not np.array_equal(through_zarr, mapped[: rows.num_rows], equal_nan=True):
            yield f"chunk {number}: Zarr reads other numbers than the memory map. {layout.mend(number)}"
        yield from _wrong_rows(number, np.asarray(pc.equal(rows["status"], "ok")), np.asarray(mapped))


def _wrong_rows(number: int, ok: npt.NDArray[np.bool_], block: npt.NDArray[np.generic]) -> Iterator[str]:
    values = block.reshape(len(block), -1).astype(np.float64)
    finite = np.asarray(np.isfinite(values).all(axis=1))
    empty = np.asarray(np.isnan(values).all(axis=1))
    for row in np.flatnonzero(ok & ~finite[: len(ok)]):
        yield f"chunk {number}, row {row}: said to be ok and not finite. {layout.mend(number)}"
    for row in np.flatnonzero(~ok & ~empty[: len(ok)]):
        yield f"chunk {number}, row {row}: said to have no feature and holds numbers. {layout.mend(number)}"
    if not empty[len(ok) :].all():
        yield f"chunk {number}: numbers past its last row. {layout.mend(number)}"


class Compaction(NamedTuple):
    """What :func:`compact` did: rows dropped, and chunks before and after."""

    dropped: int
    chunks_before: int
    chunks_after: int


def compact(store: FeatureStore, keep: Collection[bytes], provenance: Provenance) -> Compaction:
    """Drop the rows whose digest is not in ``keep``, and merge the chunks that this leaves short.

    Rows that stay are first written again as new chunks, then the old chunks are removed: killed at any instant,
    the store holds every row to keep at least once, and compacting again finishes the work.
    """
    kept = set(keep)
    with store.writing():
        before = store.chunks()
        stays = {number: _rows_that_stay(store, number, kept) for number in before}
        rewritten = [n for n, rows in before.items() if rows.num_rows < store.chunk_rows or not stays[n].all()]
        if len(rewritten) == 1 and stays[rewritten[0]].all():
            return Compaction(0, len(before), len(before))  # one short chunk, every row of it wanted
        dropped = {digest for rows in before.values() for digest in rows["digest"].to_pylist()} - kept
        stay: dict[bytes, tuple[npt.NDArray[np.generic], RowOutcome]] = {}
        for number in rewritten:
            block, lines = store.chunk(number), before[number].to_pylist()
            for position in np.flatnonzero(stays[number]):
                digest, *outcome = lines[position].values()
                stay[digest] = block[position], RowOutcome(*outcome)
        items = list(stay.items())
        number = 0
        for low in range(0, len(items), store.chunk_rows):
            while number in store.chunks():
                number += 1
            piece = items[low : low + store.chunk_rows]
            chunk = Chunk(number, tuple(digest for digest, _ in piece))
            block = np.stack([feature for _, (feature, _) in piece])
            store.write_chunk(chunk, block, [outcome for _, (_, outcome) in piece], provenance)
        for number in rewritten:
            store.remove_chunk(number)
        store.plan([])  # the array ends at its last row again
    return Compaction(len(dropped), len(before), len(store.chunks()))


def _rows_that_stay(store: FeatureStore, number: int, kept: Collection[bytes]) -> npt.NDArray[np.bool_]:
    """True for each row (n,) of the chunk that is to be kept, and is the one that counts for its image."""
    digests = store.chunks()[number]["digest"].to_pylist()
    counts = store.row_numbers(digests) == number * store.chunk_rows + np.arange(len(digests))
    wanted: npt.NDArray[np.bool_] = counts & np.array([digest in kept for digest in digests], dtype=np.bool_)
    return wanted
