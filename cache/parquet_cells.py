"""Single cells of Parquet files, read in pieces: a row group of thousands of photographs never lies in memory whole.

A piece is some consecutive rows of one column in one row group. The last ones are kept: cells are asked for mostly in
their order, from several threads, and then every page is read once. A cell out of order costs reading its row group
from the start.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cache.storage import is_url, open_file

_PIECE_BYTES = 8 << 20
_PIECE_ROWS = (4, 256)  # at least and at most, whatever they weigh
_KEPT_BYTES = 16 << 20  # of a file
_KEPT_PIECES = 4  # at least, whatever they weigh
_KEPT_FILES = 4
_BUFFER_BYTES = 1 << 20


def read_cell(path: str, group: int, row: int, column: str, *, version: str | None = None) -> bytes:
    """The bytes in ``row`` of row group ``group``, in ``column``: a column, or a field of one, ``image.bytes``.

    ``version`` is that of an object, which has no times. Raises OSError where the file is no Parquet or has no such
    cell, and where the cell is empty.
    """
    version = version or _version(path)
    try:
        content = _column(path, column, version).cell(group, row)
    except (pa.ArrowException, OSError) as error:
        raise OSError(f"{path} cannot be read as Parquet: {error}") from error
    if content is None:
        raise OSError(f"the cell is empty: column {column} has no bytes in this row")
    if not isinstance(content, bytes):
        raise OSError(f"column {column} holds {type(content).__name__}, not bytes")
    return content


def _version(path: str) -> str:
    now = Path(path).stat()
    return f"{now.st_dev} {now.st_ino} {now.st_size} {now.st_mtime_ns}"


class _Column:
    """One column of an open Parquet file, read forwards by one thread at a time, and its last pieces."""

    def __init__(self, path: str, column: str) -> None:
        self._lock = threading.Lock()
        # Without the pre-buffer and with a buffer, a row group is read page by page and not at once.
        self._file = pq.ParquetFile(
            open_file(path) if is_url(path) else path, pre_buffer=False, buffer_size=_BUFFER_BYTES
        )
        self._column = column
        paths = [self._file.schema.column(at).path for at in range(len(self._file.schema))]
        if column not in paths:
            self._file.close()
            raise OSError(f"it has no column {column}, only {', '.join(paths)}")
        self._place = paths.index(column)
        self._pieces: OrderedDict[tuple[int, int], pa.Array] = OrderedDict()  # by row group and number
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._next: tuple[int, int] | None = None  # the piece that _batches gives next

    def cell(self, group: int, row: int) -> object:
        with self._lock:
            if group >= self._file.num_row_groups:
                raise OSError(f"it has {self._file.num_row_groups:,} row groups, and none numbered {group}")
            described = self._file.metadata.row_group(group)
            if row >= described.num_rows:
                has = f"it has {described.num_rows:,} rows in row group {group}"
                raise OSError(f"{has}, and none numbered {row}: it was changed")
            weight = described.column(self._place).total_uncompressed_size / described.num_rows
            least, most = _PIECE_ROWS
            rows = int(min(most, max(least, _PIECE_BYTES // max(1, weight))))
            piece = group, row // rows
            if piece not in self._pieces:
                self._read_to(piece, rows, int(described.num_rows))
            self._pieces.move_to_end(piece)
            return self._pieces[piece][row % rows].as_py()

    def _read_to(self, wanted: tuple[int, int], rows: int, length: int) -> None:
        """Read the pieces of ``rows`` rows up to ``wanted``, on from the last or from the first of its group."""
        group, last = wanted
        if self._next is None or self._next[0] != group or self._next[1] > last:
            self._next = group, 0
            self._batches = self._file.iter_batches(rows, row_groups=[group], columns=[self._column], use_threads=False)
        for number in range(self._next[1], last + 1):
            self._next = None
            batch = next(self._batches, None)
            if batch is None or len(batch) != min(rows, length - number * rows):
                raise OSError(f"row group {group} does not hold the {length:,} rows that the file says it does")
            cells = batch.column(0)
            while pa.types.is_struct(cells.type):  # the one field; where a struct is null, so is its field
                cells = pc.struct_field(cells, [0])
            self._next = group, number + 1
            self._pieces[group, number] = cells
            while sum(one.nbytes for one in self._pieces.values()) > _KEPT_BYTES and len(self._pieces) > _KEPT_PIECES:
                self._pieces.popitem(last=False)


@lru_cache(_KEPT_FILES)
def _column(path: str, column: str, version: str) -> _Column:  # noqa: ARG001 (another version is another file)
    return _Column(path, column)
