"""The rows of all committed chunks, where each digest is among them, and the file that spares reading them one by one.

With ``<store>.rows`` ten million rows open without ten thousand small files. It can be deleted at any moment: an Arrow
file with the rows of the chunks in their order and the sorted index of the digests, and its crc32c at the end. What
commits a chunk is its fragment: each is in the file with its version, and one that has another version now is read
itself. Only a local folder has such a file.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cache.atomic import PARTIAL, disk_errors, wait_for_tick
from cache.digest_list import DigestIndex, Digests, Places, as_digests
from cache.rows import SCHEMA, STATUSES, Checksums, RowOutcome, Stamp, fragment_stamps
from cache.storage import LocalStorage, Storage

_AT_ONCE = 16
_LEAST_CHUNKS = 64  # fewer are opened as fast one by one
_CRC_BYTES = 4
_CHUNKS = b"chunks"
_STATUS = SCHEMA.get_field_index("status")
_FOLDED = SCHEMA.set(_STATUS, pa.field("status", pa.dictionary(pa.int8(), pa.string()), nullable=False))
_FIELDS = [*_FOLDED, pa.field("place", pa.int64(), nullable=False), pa.field("word", pa.uint64(), nullable=False)]


class FoldedRows:
    """The file, mapped: the rows of each chunk by number, as its fragment has them."""

    def __init__(self, content: memoryview, version: Stamp) -> None:
        if int.from_bytes(content[-_CRC_BYTES:], "little") != google_crc32c.value(
            np.frombuffer(content, np.uint8)[:-_CRC_BYTES]
        ):
            raise ValueError("wrong crc32c")
        self.version = version
        with pa.ipc.open_file(pa.py_buffer(content[:-_CRC_BYTES])) as file:
            self._rows = file.read_all()  # one batch: each column is in one piece, and nothing is copied
        described = json.loads(self._rows.schema.metadata[_CHUNKS])
        self.stamps: dict[int, Stamp] = {number: tuple(stamp) for number, stamp in described["stamps"]}
        self._metadata = [
            {key.encode(): value.encode() for key, value in pairs.items()} for pairs in described["metadata"]
        ]
        self._metadata_of: dict[int, int] = dict(zip(self.stamps, described["metadata_of"], strict=True))
        self._starts: dict[int, int] = dict(zip(self.stamps, described["starts"], strict=True))
        self.lengths: dict[int, int] = dict(zip(self.stamps, described["lengths"], strict=True))

    def __getitem__(self, number: int) -> pa.Table:
        rows = self._rows.slice(self._starts[number], self.lengths[number]).select(SCHEMA.names)
        rows = rows.set_column(_STATUS, SCHEMA[_STATUS], rows["status"].cast(pa.string()))
        return rows.replace_schema_metadata(self._metadata[self._metadata_of[number]])

    def indexed(self) -> _Indexed:
        """All rows with their index, which is mapped too."""
        digests = Digests.from_column(self._rows["digest"])
        index = DigestIndex.made(digests, self._rows["place"].to_numpy(), self._rows["word"].to_numpy())
        return _Indexed(self._rows, self._rows["status"].chunk(0).indices.to_numpy(), index)


class _Indexed(NamedTuple):
    """The rows (N) of all chunks, the place of each one's status in ``STATUSES``, and where each digest is."""

    table: pa.Table
    rank: npt.NDArray[np.int8]
    places: DigestIndex

    @classmethod
    def of(cls, tables: Iterable[pa.Table]) -> _Indexed:
        table = pa.concat_tables([SCHEMA.empty_table(), *(rows.select(SCHEMA.names) for rows in tables)])
        rank = np.asarray(pc.index_in(table["status"], pa.array(STATUSES))).astype(np.int8)
        return cls(table, rank, DigestIndex(Digests.from_column(table["digest"]), rank))


class Chunks(Mapping[int, pa.Table]):
    """The rows of each committed chunk, by ascending number: from the file where they are in it as they are now.

    A digest can have several rows (a failed one, then one that a later run got right): an ``ok`` row counts before a
    ``failed`` one, and that before an ``unread`` one; among equals the first, which holds the same numbers. A *place*
    is a position among the rows of all chunks, one after the other; -1 stands for no row.
    """

    def __init__(
        self, stamps: Mapping[int, Stamp | None], folded: FoldedRows | None, read: Mapping[int, pa.Table]
    ) -> None:
        self.stamps, self.folded, self.read = stamps, folded, read
        self.lengths = {n: read[n].num_rows if n in read else folded.lengths[n] for n in stamps}  # type: ignore[union-attr]

    def __getitem__(self, number: int) -> pa.Table:
        if number not in self.stamps:
            raise KeyError(number)
        return self.read[number] if number in self.read else self.folded[number]  # type: ignore[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self.stamps)

    def __len__(self) -> int:
        return len(self.stamps)

    @property
    def whole(self) -> bool:
        """Whether the file has all rows, and no others."""
        return self.folded is not None and self.folded.stamps == self.stamps

    @cached_property
    def _all(self) -> _Indexed:
        return self.folded.indexed() if self.whole and self.folded else _Indexed.of(self.values())

    @cached_property
    def _unique(self) -> bool:
        return self._all.places.unique

    @property
    def digests(self) -> Digests:
        """The digest of each row (N,)."""
        return self._all.places.digests

    def find(self, digests: Sequence[bytes]) -> Places:
        """The place of each of ``digests`` (n,), -1 where there is none, as of ``b""``, an unreadable image."""
        wanted = as_digests(digests)
        if self._unique and wanted.known is None and np.array_equal(wanted.words, self.digests.words):
            return np.arange(len(wanted))  # a finished dataset, in the order in which it was extracted
        return self._all.places.find(wanted)

    def where(self, places: Places) -> tuple[Places, Places]:
        """The number of the chunk, and the row in it, of each of ``places`` (n,), which are rows."""
        starts = np.cumsum([0, *self.lengths.values()])
        chunk = np.searchsorted(starts, places, side="right") - 1
        return np.array([*self.lengths], np.int64)[chunk], places - starts[chunk]

    def good(self, places: Places, *, or_failed: bool = False) -> npt.NDArray[np.bool_]:
        """True for each of ``places`` (n,) that has a stored feature, ``or_failed`` for good."""
        there: npt.NDArray[np.bool_] = places >= 0
        there[there] = self._all.rank[places[there]] < (2 if or_failed else 1)
        return there

    def places(self, *ranks: int) -> Places:
        """Those of all places whose status is of ``ranks``, and whose row is the one that counts for its digest."""
        places = np.concatenate([np.flatnonzero(self._all.rank == rank) for rank in ranks])
        return places if self._unique else places[self._all.places.find(self.digests.take(places)) == places]

    @cached_property
    def checksums(self) -> Checksums:
        """What each row (N,) was made from, or where that is not recorded its own checksum; 0 for place -1."""
        table = self._all.table
        checksums = pc.fill_null(pc.coalesce(table["made_from"], table["crc32c"]), 0)
        return np.append(checksums.to_numpy(), np.uint32(0))

    def outcome(self, place: int) -> RowOutcome:
        """The outcome at ``place``."""
        return RowOutcome(*(self._all.table[field][place].as_py() for field in RowOutcome._fields))


def read_chunks(storage: Storage, before: Chunks, read: Callable[[int], pa.Table]) -> Chunks:
    """The chunks that are committed now: ``read``, unless unchanged since ``before``, or since the file was made."""
    stamps, folded = fragment_stamps(storage), _opened(storage, before.folded)
    fresh = [number for number, stamp in stamps.items() if not folded or folded.stamps.get(number) != stamp]
    known = {n: before.read[n] for n in fresh if stamps[n] and n in before.read and before.stamps[n] == stamps[n]}
    unread = [number for number in fresh if number not in known]
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # a million rows: a thousand small files
        return Chunks(stamps, folded, known | dict(zip(unread, pool.map(read, unread), strict=True)))


def _path(storage: Storage) -> Path | None:
    if not isinstance(storage, LocalStorage):
        return None
    path = storage.path()
    return path.with_name(f"{path.name}.rows")


def _opened(storage: Storage, before: FoldedRows | None) -> FoldedRows | None:
    """The file of a store; ``before`` where it is still that; None where there is none, or it is damaged."""
    path = _path(storage)
    try:
        if path is None:
            return None
        with path.open("rb") as file:
            now = os.fstat(file.fileno())
            version = now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns
            if before is not None and before.version == version:
                return before
            return FoldedRows(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), version)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def fold(storage: Storage, chunks: Chunks) -> None:
    """Write the file where the store is large and the file does not have all of ``chunks``. Raises UnwritableError."""
    path = _path(storage)
    if path is None or chunks.whole or len(chunks) < _LEAST_CHUNKS:
        return
    wait_for_tick(max((max(stamp[2:]) for stamp in chunks.stamps.values() if stamp), default=0))
    batches = _folded(chunks).to_batches()
    if len(batches) > 1:  # more than two gigabytes of errors
        return
    partial = path.with_name(f"{path.name}{PARTIAL}")  # of the driver, so there is one writer
    with disk_errors(path):
        try:
            with partial.open("w+b") as file:
                with pa.ipc.new_file(file, batches[0].schema) as writer:
                    writer.write_batch(batches[0])
                file.flush()
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    checksum: int = google_crc32c.value(np.frombuffer(content, np.uint8))
                file.seek(0, os.SEEK_END)
                file.write(checksum.to_bytes(_CRC_BYTES, "little"))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _folded(chunks: Chunks) -> pa.Table:
    tables = [*chunks.values()]
    metadata: dict[str, int] = {}
    described = {
        "metadata_of": [metadata.setdefault(_metadata_text(table), len(metadata)) for table in tables],
        "metadata": [json.loads(text) for text in metadata],
        "stamps": [*chunks.stamps.items()],
        "lengths": [*chunks.lengths.values()],
        "starts": np.cumsum([0, *chunks.lengths.values()])[:-1].tolist(),
    }
    every, rank, index = _Indexed.of(tables)
    status = pa.DictionaryArray.from_arrays(pa.array(rank, pa.int8()), pa.array(STATUSES))
    rows = every.replace_schema_metadata(None).set_column(_STATUS, _FOLDED[_STATUS], status)
    schema = pa.schema(_FIELDS, {_CHUNKS: json.dumps(described)})
    return pa.table([*rows.columns, pa.array(index.order), pa.array(index.words)], schema=schema).combine_chunks()


def _metadata_text(rows: pa.Table) -> str:
    return json.dumps({key.decode(): value.decode() for key, value in (rows.schema.metadata or {}).items()})
