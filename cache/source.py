"""Where an image's bytes are: a file, a stretch of a file, a cell of a Parquet table; whole, or cropped to a box.

A URI is a path or the address of an object, or says where in it the bytes are::

    photos/a.jpg
    s3://bucket/photos/a.jpg
    bytes:512+18230:shards/00000.tar            18,230 bytes from the 512th on: a member of an uncompressed tar
    parquet:3/17:image.bytes:data/train.parquet row 17 of row group 3, the field ``bytes`` of the column ``image``
    box:10,20,110,220:photos/a.jpg              left, top, right, bottom, in pixels of the upright image

A box stands before any of the others. A relative path that itself begins like one of these is written with one more
``./`` before it, and a ``:`` or ``%`` in a column's name as ``%3A`` or ``%25``.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cache.errors import SettingsError
from cache.fingerprint import digest_bytes
from cache.storage import is_url, object_at, open_file

Box = tuple[int, int, int, int]

_PLACE = re.compile(
    r"(?:box:(?P<box>-?[0-9]{1,18},-?[0-9]{1,18},-?[0-9]{1,18},-?[0-9]{1,18}):)?"
    r"(?:bytes:(?P<offset>[0-9]{1,18})\+(?P<size>[0-9]{1,18}):|parquet:(?P<group>[0-9]{1,18})/(?P<row>[0-9]{1,18}):(?P<column>[^:]+):)?"
    r"(?P<path>.+)",
    re.DOTALL,
)
_OTHER_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
_LIKE_A_KIND = re.compile(r"(?:\./)*(?:box|bytes|parquet):")
_PIECE_BYTES = 8 << 20
_PIECE_ROWS = (4, 256)  # at least and at most, whatever they weigh
_KEPT_BYTES = 16 << 20  # of a file
_KEPT_PIECES = 4  # at least, whatever they weigh
_KEPT_FILES = 4
_BUFFER_BYTES = 1 << 20


class Version(NamedTuple):
    """What differs when a file's bytes may have changed, as text, and when they changed last."""

    text: str
    changed_ns: int


class ImageSource(NamedTuple):
    """A URI taken apart: the file, where in it the bytes are, and the box to cut out of the image.

    The one reader of images: :meth:`read` gives the bytes, :meth:`version` says whether they may have changed.

    >>> source = ImageSource("shards/00000.tar", stretch=(512, 18230))
    >>> source.uri
    'bytes:512+18230:shards/00000.tar'
    >>> parse_source(source.uri) == source
    True
    """

    path: str
    stretch: tuple[int, int] | None = None  # offset and size, in bytes
    cell: tuple[int, int, str] | None = None
    """Row group, row in it, and the column with the field in it, ``image.bytes``."""
    box: Box | None = None

    @property
    def uri(self) -> str:
        """The URI that :func:`parse_source` takes apart."""
        path = f"./{self.path}" if _LIKE_A_KIND.match(self.path) else self.path
        box = "" if self.box is None else f"box:{','.join(map(str, self.box))}:"
        if self.stretch is not None:
            return f"{box}bytes:{self.stretch[0]}+{self.stretch[1]}:{path}"
        if self.cell is not None:
            group, row, column = self.cell
            return f"{box}parquet:{group}/{row}:{column.replace('%', '%25').replace(':', '%3A')}:{path}"
        return box + path

    def read(self) -> bytes:
        """The bytes of the (whole) image. Raises OSError where they cannot be read: a pipe is not waited for."""
        if self.cell is not None:
            return _read_cell(self.path, *self.cell, self.version().text)
        offset, size = self.stretch or (0, None)
        if is_url(self.path):
            storage, key = object_at(self.path)
            content = storage.read(key, offset, None if size is None else offset + size)
        else:
            _regular(self.path)
            with open(self.path, "rb") as file:
                file.seek(offset)
                content = file.read(size)
        if size is not None and len(content) < size:
            short = f"{self.path} ends {size - len(content):,} bytes too early"
            raise OSError(f"{short}: it is cut off, or was changed")
        return content

    def version(self) -> Version:
        """The version of the file: inode, size, mtime and ctime; of an object its ETag. OSError if there is none."""
        if is_url(self.path):
            storage, key = object_at(self.path)
            return Version(storage.version(key), 0)
        now = _regular(self.path)
        text = f"{now.st_dev} {now.st_ino} {now.st_size} {now.st_mtime_ns} {now.st_ctime_ns}"
        return Version(text, max(now.st_mtime_ns, now.st_ctime_ns))

    def digest(self, content: bytes) -> bytes:
        """What a row of the image is keyed by: the sha256 of its bytes, and of the box where there is one."""
        digest = digest_bytes(content)
        return digest if self.box is None else digest_bytes(digest + f"box {self.box}".encode())


def parse_source(uri: str) -> ImageSource:
    """Take a URI apart.

    >>> parse_source("box:10,20,110,220:photos/a.jpg")
    ImageSource(path='photos/a.jpg', stretch=None, cell=None, box=(10, 20, 110, 220))
    """
    match = _PLACE.fullmatch(uri)
    if match is None:
        raise SettingsError("a URI must not be empty")
    box: Box | None = None
    if match["box"]:
        left, top, right, bottom = map(int, match["box"].split(","))
        box = left, top, right, bottom
    stretch = (int(match["offset"]), int(match["size"])) if match["offset"] else None
    cell: tuple[int, int, str] | None = None
    if match["group"]:
        cell = int(match["group"]), int(match["row"]), match["column"].replace("%3A", ":").replace("%25", "%")
    path = match["path"]
    if path.startswith("./") and _LIKE_A_KIND.match(path):
        path = path[2:]
    return ImageSource(path, stretch, cell, box)


def _regular(path: str) -> os.stat_result:
    """What the system says of the file ``path``; OSError where opening it could wait for somebody, or never end."""
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        kind = next((kind for is_kind, kind in _OTHER_KINDS if is_kind(status.st_mode)), "a device")
        raise OSError(f"it is {kind}, not a file")
    return status


def _read_cell(path: str, group: int, row: int, column: str, version: str) -> bytes:
    """The bytes in ``row`` of row group ``group``, in ``column``: a column, or a field of one, ``image.bytes``.

    Raises OSError where the file is no Parquet or has no such cell, and where the cell is empty.
    """
    try:
        content = _column(path, column, version).cell(group, row)
    except (pa.ArrowException, OSError) as error:
        raise OSError(f"{path} cannot be read as Parquet: {error}") from error
    if content is None:
        raise OSError(f"the cell is empty: column {column} has no bytes in this row")
    if not isinstance(content, bytes):
        raise OSError(f"column {column} holds {type(content).__name__}, not bytes")
    return content


class _Column:
    """One column of an open Parquet file, read forwards by one thread at a time, and its last pieces.

    A piece is some consecutive rows of one row group, so that one of thousands of photographs never lies in memory
    whole. Cells are asked for mostly in their order, from several threads, and then every page is read once. A cell out
    of order costs reading its row group from the start.
    """

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
