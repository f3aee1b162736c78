"""Looking after a store: check every byte and row, and drop the rows that no dataset lists."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cache import layout
from cache.errors import DamagedStoreError
from cache.features import fused_checksums
from cache.fingerprint import Provenance
from cache.object_storage import ObjectStorage
from cache.reader import FORMAT, FeatureStore
from cache.rows import RowOutcome
from cache.storage import Storage
from cache.writer import Chunk, StoreWriter


def verify(store: FeatureStore, made_from: Sequence[FeatureStore] = ()) -> list[str]:
    """Check the store against itself, every checksum and every row; return one line for each thing that is wrong.

    It is read through Zarr too, and embeddings are compared with the features that they are ``made_from``.

    >>> import tempfile
    >>> from cache import FeatureStore, Identity, Provenance
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     verify(FeatureStore.open(folder, "toy", Identity({}), dim=3, provenance=Provenance("cpu", {})))
    []
    """
    return [*_problems(store), *_outdated(store, made_from)]


def _problems(store: FeatureStore) -> Iterator[str]:
    if not store.folder.endswith(f"-{store.identity.short}"):
        yield f"identity.json has the fingerprint {store.identity.short}..., the folder is called {store.folder}"
    try:
        array = _described_array(store)
    except Exception as error:  # noqa: BLE001 (Zarr has many, for whatever it cannot read)
        yield f"{store.storage.address(layout.ARRAY)} is not as it was written: {error}. {layout.MEND_METADATA}"
        return
    on_disk = layout.chunk_numbers(store.storage)
    for number in on_disk:
        if number not in store.chunks():
            yield f"chunk {number} has data and no rows: it is not committed, and the next extraction clears it"
    for number, rows in store.chunks().items():
        if number not in on_disk:
            yield f"chunk {number} has rows and no data. {store.how_to_mend(number)}"
            continue
        try:
            if not store.fragment(number).equals(rows):
                yield f"chunk {number} has other rows than when the store was opened: verify it when nothing writes"
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
            yield f"chunk {number}: Zarr reads other numbers than the memory map. {store.how_to_mend(number)}"
        yield from _wrong_rows(store, number, np.asarray(pc.equal(rows["status"], "ok")), np.asarray(mapped))


def _for_zarr(storage: Storage) -> Any:
    if not isinstance(storage, ObjectStorage):
        return storage.address()
    from zarr.storage import ObjectStore

    return ObjectStore(storage.opened(), read_only=True)


def _described_array(store: FeatureStore) -> Any:
    """The Zarr array. Raises where ``zarr.json`` says other than the identity."""
    import zarr

    group = zarr.open_group(_for_zarr(store.storage), mode="r", use_consolidated=False)
    array, stated = group[layout.ARRAY], store.identity.fields["store"]
    assert isinstance(array, zarr.Array)
    assert isinstance(stated, dict)
    axes = getattr(array.metadata, "dimension_names", None)
    row_shape = (*([stated["views"]] if "views" in stated else []), stated["dim"])
    described = {
        "attributes": (
            {"name": store.folder.rpartition("-")[0], "fingerprint": store.fingerprint, "format": FORMAT},
            dict(group.attrs),
        ),
        "rows": ((row_shape, stated["dtype"]), (array.shape[1:], str(array.dtype))),
        "chunks": ((store.chunk_rows, *row_shape), array.chunks),
        "fill_value": (True, bool(np.isnan(array.fill_value))),
        "dimension_names": (layout.dimension_names(len(row_shape)), axes),
        "description in the group": (True, layout.group_is_right(store.storage)),
    }
    for what, (wanted, stored) in described.items():
        if stored != wanted:
            raise ValueError(f"{what}: stored {stored!r}, wanted {wanted!r}")
    return array


def _outdated(store: FeatureStore, made_from: Sequence[FeatureStore]) -> Iterator[str]:
    digests = store.digests()
    if made_from and digests:
        now = fused_checksums([features.checksums(digests) for features in made_from])
        there = np.all([features.usable(digests) for features in made_from], axis=0)
        if outdated := np.count_nonzero(there & (store.checksums(digests) != now)):
            yield (
                f"{outdated:,} rows are of features that have been computed anew since. `permafrost train-heads` "
                "computes those that a run file names again, and `permafrost compact` removes the others."
            )


def _wrong_rows(
    store: FeatureStore, number: int, ok: npt.NDArray[np.bool_], block: npt.NDArray[np.generic]
) -> Iterator[str]:
    mend = store.how_to_mend(number)
    values = block.reshape(len(block), -1).astype(np.float64)
    finite = np.asarray(np.isfinite(values).all(axis=1))
    empty = np.asarray(np.isnan(values).all(axis=1))
    for row in np.flatnonzero(ok & ~finite[: len(ok)]):
        yield f"chunk {number}, row {row}: recorded as ok and not finite. {mend}"
    for row in np.flatnonzero(~ok & ~empty[: len(ok)]):
        yield f"chunk {number}, row {row}: recorded without a feature and holds numbers. {mend}"
    if not empty[len(ok) :].all():
        yield (
            f"chunk {number}: numbers past its last row. They are not committed, and the next extraction writes over "
            f"them; or else: {mend}"
        )


class Compaction(NamedTuple):
    """What :func:`compact` did: rows dropped, and chunks before and after."""

    dropped: int
    chunks_before: int
    chunks_after: int


def compact(store: FeatureStore, keep: Collection[bytes]) -> Compaction:
    """Drop the rows whose digest is not in ``keep``, and merge the chunks that this leaves short.

    Rows that stay are first written as new chunks, then the old ones are removed: killed at any instant, the store
    holds every row to keep, and compacting again finishes. A plan that is pending is dropped.

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
        if len(rewritten) < 2 and all(stays[number].all() for number in rewritten):
            return Compaction(0, len(before), len(before))  # at most one short chunk, every row of it wanted
        dropped = {digest for rows in before.values() for digest in rows["digest"].to_pylist()} - keep
        lines = pa.concat_tables([before[number].filter(pa.array(stays[number])) for number in rewritten])
        digests, *columns = (lines[name].to_pylist() for name in ("digest", *RowOutcome._fields))
        outcomes = [RowOutcome(*values) for values in zip(*columns, strict=True)]
        origin = np.repeat(rewritten, [int(stays[number].sum()) for number in rewritten])
        features, high = np.empty((len(lines), *store.row_shape), store.dtype), 0
        for number in rewritten:
            low, high = high, high + int(stays[number].sum())
            features[low:high] = store.chunk(number)[: len(stays[number])][stays[number]]
        free = (number for number in count() if number not in before)
        for low in range(0, len(lines), store.chunk_rows):
            piece = slice(low, low + store.chunk_rows)
            origins = [store.provenance(number) for number in np.unique(origin[piece]).tolist()]
            chunk = Chunk(next(free), tuple(digests[piece]))
            writer.commit(chunk, features[piece], outcomes[piece], Provenance.merged(origins))
        for number in rewritten:
            writer.remove(number)
    return Compaction(len(dropped), len(before), len(store.chunks()))


def _rows_that_stay(store: FeatureStore, number: int, keep: Collection[bytes]) -> npt.NDArray[np.bool_]:
    """True for each row (n,) of the chunk that is to stay, and is the one that counts for its image."""
    digests = store.chunks()[number]["digest"].to_pylist()
    counts = store.row_numbers(digests) == number * store.chunk_rows + np.arange(len(digests))
    wanted: npt.NDArray[np.bool_] = counts & np.array([digest in keep for digest in digests], dtype=np.bool_)
    return wanted
