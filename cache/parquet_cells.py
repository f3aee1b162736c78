"""Single cells of Parquet files, read in pieces: a row group of thousands of photographs never lies in memory whole.

A piece is some consecutive rows of one column in one row group, about ``_PIECE_BYTES`` of them. The last pieces read
are kept: cells are asked for mostly in their order, from several threads, and then every page is read once. A cell
asked for out of order costs reading its row group from the start. Less than one page of the file cannot be read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cache.files import open_file
from cache.storage import is_url

_PIECE_BYTES = 8 << 20
_PIECE_ROWS = (4, 256)  # at least and at most, whatever they weigh
_KEPT_BYTES = 64 << 20
_KEPT_PIECES = 4  # at least, whatever they weigh
_KEPT_FILES = 4
_BUFFER_BYTES = 1 << 20


def read_cell(path: str, group: int, row: int, column: str, *, version: str | None = None) -> bytes:
    """The bytes in ``row`` of row group ``group``, in ``column``: a column, or a field of one, ``image.bytes``.

    ``version`` is that of an object, which has no times. Raises OSError where the file is no Parquet or has no such
    cell, and where the cell is empty.
    """
    content = _cells.read(path, group, row, column, version)
    if content is None:
        raise OSError(f"the cell is empty: column {column} has no bytes in this row")
    if not isinstance(content, bytes):
        raise OSError(f"column {column} holds {type(content).__name__}, not bytes")
    return content


_File = tuple[str, str, str]
"""Path, column and version."""


def _version(path: str) -> str:
    now = Path(path).stat()
    return f"{now.st_dev} {now.st_ino} {now.st_size} {now.st_mtime_ns}"


class _Piece(NamedTuple):
    """Which piece of which column of which file, as the file was when it was opened."""

    file: _File
    group: int
    number: int


class _Cells:
    """The columns that are open and the pieces that are kept, for all threads.

    A column is read by one thread at a time, under its own lock; the dictionaries have another, never held while
    a file is read.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._columns: OrderedDict[_File, _Column] = OrderedDict()
        self._pieces: OrderedDict[_Piece, pa.Array] = OrderedDict()
        self._bytes = 0

    def read(self, path: str, group: int, row: int, column: str, version: str | None) -> object:
        file = path, column, version or _version(path)
        try:
            opened = self._open(file)
            with opened.lock:
                rows, length = opened.piece_rows(group)
                if row < length:
                    cells = self._piece(opened, _Piece(file, group, row // rows))
        except (pa.ArrowException, OSError) as error:
            with self._lock:
                self._columns.pop(file, None)
            raise OSError(f"{path} cannot be read as Parquet: {error}") from error
        if row >= length:
            raise OSError(f"{path} has {length:,} rows in row group {group}, and none numbered {row}: it was changed")
        return cells[row % rows].as_py()

    def _open(self, file: _File) -> _Column:
        with self._lock:
            if file not in self._columns:
                self._columns[file] = _Column(*file[:2])
                if len(self._columns) > _KEPT_FILES:
                    self._columns.popitem(last=False)  # closed when the last thread that reads it lets it go
            self._columns.move_to_end(file)
            return self._columns[file]

    def _piece(self, column: _Column, wanted: _Piece) -> pa.Array:
        with self._lock:
            if wanted in self._pieces:
                self._pieces.move_to_end(wanted)
                return self._pieces[wanted]
        for number, cells in column.pieces(wanted.group, wanted.number):
            self._keep(wanted._replace(number=number), cells)
        return cells

    def _keep(self, piece: _Piece, cells: pa.Array) -> None:
        with self._lock:
            if (old := self._pieces.pop(piece, None)) is not None:
                self._bytes -= old.nbytes
            self._pieces[piece] = cells
            self._bytes += cells.nbytes
            while self._bytes > _KEPT_BYTES and len(self._pieces) > _KEPT_PIECES:
                self._bytes -= self._pieces.popitem(last=False)[1].nbytes


class _Column:
    """One column of an open Parquet file, which is read forwards, by the thread that holds ``lock``."""

    def __init__(self, path: str, column: str) -> None:
        self.lock = threading.Lock()
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
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._next: tuple[int, int] | None = None  # the row group and the piece that _batches gives next

    def piece_rows(self, group: int) -> tuple[int, int]:
        """Rows a piece, and rows in all, of a row group."""
        if group >= self._file.num_row_groups:
            raise OSError(f"it has {self._file.num_row_groups:,} row groups, and none numbered {group}")
        described = self._file.metadata.row_group(group)
        weight = described.column(self._place).total_uncompressed_size / max(1, described.num_rows)
        least, most = _PIECE_ROWS
        return int(min(most, max(least, _PIECE_BYTES // max(1, weight)))), int(described.num_rows)

    def pieces(self, group: int, last: int) -> Iterator[tuple[int, pa.Array]]:
        """The pieces of a row group up to the one numbered ``last``, from where reading stands or from the first."""
        rows, length = self.piece_rows(group)
        if self._next is None or self._next[0] != group or self._next[1] > last:
            self._next = group, 0
            self._batches = self._file.iter_batches(rows, row_groups=[group], columns=[self._column], use_threads=False)
        for number in range(self._next[1], last + 1):
            batch = next(self._batches, None)
            if batch is None or len(batch) != min(rows, length - number * rows):
                raise OSError(f"row group {group} does not hold the {length:,} rows that the file says it does")
            self._next = group, number + 1
            yield number, _leaf(batch.column(0))


def _leaf(cells: pa.Array) -> pa.Array:
    """The one field inside a column of structs of structs; where a struct is null, so is its field."""
    while pa.types.is_struct(cells.type):
        cells = pc.struct_field(cells, [0])
    return cells


_cells = _Cells()
