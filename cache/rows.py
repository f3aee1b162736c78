"""The rows of a chunk as a Parquet fragment: what commits the chunk, and what is known without its array."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cache.digest_list import DigestIndex, Digests, Places, as_digests
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


class RowIndex:
    """Where each digest's row is, over all committed chunks (N rows) in the order of their numbers.

    A digest can have several rows (a failed one, then one that a later run got right): an ``ok`` row counts before a
    ``failed`` one, and that before an ``unread`` one (``rank`` (N,), in ``STATUSES``); among equals the first, which
    holds the same numbers. A *place* is a position in :attr:`table`; -1 stands for no row. ``lengths`` has the rows of
    each chunk by number, ``chunk_rows`` is what a chunk has room for.
    """

    def __init__(
        self,
        table: pa.Table,
        rank: npt.NDArray[np.int8],
        index: DigestIndex,
        lengths: Mapping[int, int],
        chunk_rows: int,
    ) -> None:
        self.table = table
        self._rank = rank
        self._index = index
        self.digests = index.digests
        self._unique = index.unique
        self._chunk_rows = chunk_rows
        # Each has one more entry, for place -1.
        self._starts = np.cumsum([0, *lengths.values()])
        self._numbers = np.array([*lengths, 0], np.int64)

    @classmethod
    def of_chunks(cls, chunks: Mapping[int, pa.Table], chunk_rows: int) -> RowIndex:
        """The index of ``chunks``, by ascending number."""
        table = pa.concat_tables([SCHEMA.empty_table(), *(rows.select(SCHEMA.names) for rows in chunks.values())])
        rank = cls.ranks(table["status"])
        index = DigestIndex(Digests.from_column(table["digest"]), rank)
        return cls(table, rank, index, {number: len(rows) for number, rows in chunks.items()}, chunk_rows)

    @staticmethod
    def ranks(status: pa.ChunkedArray) -> npt.NDArray[np.int8]:
        """The place of each status (N,) in ``STATUSES``."""
        return np.asarray(pc.index_in(status, pa.array(STATUSES))).astype(np.int8)

    def find(self, digests: Sequence[bytes]) -> Places:
        """The place of each of ``digests`` (n,), -1 where there is none, as of ``b""``, an unreadable image."""
        wanted = as_digests(digests)
        if self._unique and wanted.known is None and np.array_equal(wanted.words, self.digests.words):
            return np.arange(len(wanted))  # a finished dataset, in the order in which it was extracted
        return self._index.find(wanted)

    def rows(self, places: Places) -> npt.NDArray[np.int64]:
        """The row number (n,) at each of ``places`` (n,), -1 where there is none."""
        chunk = np.searchsorted(self._starts, places, side="right") - 1
        return np.where(places < 0, -1, self._numbers[chunk] * self._chunk_rows + places - self._starts[chunk])

    def good(self, places: Places, *, or_failed: bool = False) -> npt.NDArray[np.bool_]:
        """True for each of ``places`` (n,) that has a stored feature, ``or_failed`` for good."""
        there: npt.NDArray[np.bool_] = places >= 0
        there[there] = self._rank[places[there]] < (2 if or_failed else 1)
        return there

    def good_places(self) -> Places:
        """The place of every digest with a stored feature, each once, in row order."""
        return self._counting(np.flatnonzero(self._rank == 0))

    def bad_places(self) -> Places:
        """The place of every digest without a stored feature, each once: failed ones, then unread ones."""
        return self._counting(np.concatenate([np.flatnonzero(self._rank == rank) for rank in (1, 2)]))

    def _counting(self, places: Places) -> Places:
        """Those of ``places`` whose row is the one that counts for its digest."""
        return places if self._unique else places[self._index.find(self.digests.take(places)) == places]

    @cached_property
    def checksums(self) -> Checksums:
        """What each row (N,) was made from, or where that is not recorded its own checksum; 0 for place -1."""
        checksums = pc.fill_null(pc.coalesce(self.table["made_from"], self.table["crc32c"]), 0)
        return np.append(checksums.to_numpy(), np.uint32(0))

    def outcome(self, place: int) -> RowOutcome:
        """The outcome at ``place`` of :attr:`table`."""
        return RowOutcome(*(self.table[field][place].as_py() for field in RowOutcome._fields))
