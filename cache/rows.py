"""The rows of a chunk as a Parquet fragment: what commits the chunk, and what is known without its array."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, NamedTuple, get_args

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cache.errors import DamagedStoreError
from cache.fingerprint import Provenance
from cache.sealed import parquet_bytes, read_parquet
from cache.storage import LocalStorage, Storage

Status = Literal["ok", "failed", "unread"]
STATUSES = get_args(Status)  # by rank: of several rows of a digest the first of the lowest rank counts

SCHEMA = pa.schema(
    [
        pa.field("digest", pa.binary(32), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("made_from", pa.uint32()),
        pa.field("crc32c", pa.uint32()),
    ]
)
Checksums = npt.NDArray[np.uint32]
Stamp = tuple[int, int, int, int]  # the version of a local file: inode, size, mtime and ctime in ns
_FOLDER = "rows/"
_SUFFIX = ".parquet"
_PROVENANCE = b"provenance"
_CHECKSUM = b"features_crc32c"
_MOVED = 0.01  # of its length: how far rounding may move a row


class RowOutcome(NamedTuple):
    """What became of one image.

    ``ok``: its feature is stored. ``failed``: these bytes give no feature, for ``error``. ``unread``: the bytes could
    not be read this time, so the next run tries again. ``made_from`` is the checksum of the feature that an embedding
    is of.
    """

    status: Status = "ok"
    width: int = 0
    height: int = 0
    error: str = ""
    made_from: int | None = None


def rows_table(digests: Sequence[bytes], outcomes: Sequence[RowOutcome], checksums: Checksums) -> pa.Table:
    """The rows (n) of a chunk as a table with the columns of ``SCHEMA``."""
    columns = [list(digests), *(list(column) for column in zip(*outcomes, strict=True)), checksums]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def fragment_key(number: int) -> str:
    """The key of the rows of chunk ``number``."""
    return f"{_FOLDER}{number}{_SUFFIX}"


def fragment_stamps(storage: Storage) -> dict[int, Stamp | None]:
    """The version of the rows of each committed chunk, by ascending number; None where the storage has none."""
    if not isinstance(storage, LocalStorage):
        keys = (key for key in storage.list(_FOLDER) if key.endswith(_SUFFIX))
        names = (key.removeprefix(_FOLDER).removesuffix(_SUFFIX) for key in keys)
        return dict.fromkeys(sorted(int(name) for name in names if name.isdecimal()))
    try:
        with os.scandir(storage.path(_FOLDER.rstrip("/"))) as entries:
            listed = [*entries]
    except FileNotFoundError:
        return {}
    stamps: dict[int, Stamp | None] = {}
    for entry in listed:
        name = entry.name.removesuffix(_SUFFIX)
        if name != entry.name and name.isdecimal():
            with suppress(FileNotFoundError):  # removed meanwhile
                now = entry.stat()
                stamps[int(name)] = now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns
    return dict(sorted(stamps.items()))


def row_checksums(block: npt.NDArray[np.generic]) -> Checksums:
    """The crc32c (n,) of the bytes of each row of ``block`` (n, ...), little-endian."""
    rows = np.ascontiguousarray(block, block.dtype.newbyteorder("<")).reshape(len(block), -1).view(np.uint8)
    return np.fromiter(map(google_crc32c.value, rows), np.uint32, len(rows))


def fragment_bytes(rows: pa.Table, provenance: Provenance, checksum: int) -> bytes:
    """The Parquet file that commits a chunk whose data have the crc32c ``checksum``."""
    metadata = {_PROVENANCE: provenance.to_json(), _CHECKSUM: str(checksum)}
    return parquet_bytes(rows, metadata, compression="none", use_dictionary=["status"], write_page_checksum=True)


def read_fragment(storage: Storage, number: int, mend: str) -> pa.Table:
    """The rows of one committed chunk. Raises :class:`DamagedStoreError` with the sentence ``mend``."""
    key = fragment_key(number)
    try:
        table = read_parquet(storage.read(key))
        for field in [field for field in SCHEMA if field.name not in table.column_names and field.nullable]:
            table = table.append_column(field, pa.nulls(len(table), field.type))  # of version 0.1.0
        if not table.schema.equals(SCHEMA) or set(table["status"].unique().to_pylist()) - {*STATUSES}:
            raise DamagedStoreError("it does not have the columns of a store's rows")
        checksum_of(table)
    except (pa.ArrowException, OSError, ValueError, DamagedStoreError) as error:
        raise DamagedStoreError(f"{storage.address(key)} cannot be read: {error}. {mend}") from error
    return table


def provenance_of(rows: pa.Table) -> Provenance:
    """Where the chunk of ``rows`` was computed."""
    return Provenance.from_json(rows.schema.metadata[_PROVENANCE])


def checksum_of(rows: pa.Table) -> int | None:
    """The crc32c of the data that ``rows`` were committed with; None in a store of version 0.1.0."""
    written = rows.schema.metadata.get(_CHECKSUM)
    return None if written is None else int(written)


def as_stored(
    features: npt.NDArray[np.generic], dtype: np.dtype[np.generic], outcomes: Sequence[RowOutcome], name: str
) -> tuple[npt.NDArray[np.generic], list[RowOutcome]]:
    """The ``features`` (n, ...) of ``name`` in the ``dtype`` of a store, and the outcomes (n,) that are true of them.

    A row has failed, and is NaN, that is not finite in ``dtype``, or so small that rounding moves it by more than a
    hundredth of its length. A row of zeros stays.

    >>> given = np.float32([[3, 4], [3e-8, 4e-8], [0, 0]])
    >>> rows, outcomes = as_stored(given, np.dtype("float16"), [RowOutcome()] * 3, "net")
    >>> [outcome.status for outcome in outcomes]
    ['ok', 'failed', 'ok']
    """
    with np.errstate(over="ignore"):  # an overflow is named and refused just below
        block = features.astype(dtype)
    within = tuple(range(1, block.ndim))
    wrong = ~np.asarray(np.isfinite(block).all(axis=within))
    if features.dtype != block.dtype:
        wrong |= _lost(features, block)
    stored = [
        outcome._replace(status="failed", error=_why_not_stored(features[row], dtype, name))
        if outcome.status == "ok" and wrong[row]
        else outcome
        for row, outcome in enumerate(outcomes)
    ]
    block[[row for row, outcome in enumerate(stored) if outcome.status != "ok"]] = np.nan
    return block, stored


def _lost(features: npt.NDArray[np.generic], block: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Which rows (n,) of ``features`` (n, ..., D) are moved too far by being rounded to ``block``."""
    lost = np.zeros(len(block), np.bool_)
    if not block.size:
        return lost
    # Rounding moves each number by half the smallest step at most, or by as good as nothing where it is larger.
    suspect = math.sqrt(block.shape[-1]) * float(np.finfo(str(block.dtype)).smallest_subnormal) / _MOVED
    largest = np.maximum(features.max(axis=-1), -features.min(axis=-1)).reshape(len(block), -1).min(axis=1)
    for row in np.flatnonzero(largest < suspect):
        exact = features[row].astype(np.float64)
        unit = np.abs(exact).max(axis=-1, keepdims=True)
        exact, rounded = (values / np.where(unit > 0, unit, 1) for values in (exact, block[row].astype(np.float64)))
        moved, length = (np.linalg.norm(values, axis=-1) for values in (rounded - exact, exact))
        lost[row] = (moved > _MOVED * length).any()
    return lost


def _why_not_stored(feature: npt.NDArray[np.generic], dtype: np.dtype[np.generic], name: str) -> str:
    values = feature.astype(np.float64)
    largest = np.abs(values).max()
    if not np.isfinite(values).all():
        return f"{name} gave NaN or infinity"
    if largest > np.finfo(str(dtype)).max:
        return f"{name} gave {largest:.4g}, past the largest {dtype}"
    return f"{name} gave numbers of at most {largest:.4g}, too small for {dtype}: scale them, or store another dtype"
