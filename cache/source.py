"""Where an image's bytes are: a file, a stretch of a file, a cell of a Parquet table; whole, or cropped to a box.

A URI is a path, or says where in a file the bytes are::

    photos/a.jpg
    bytes:512+18230:shards/00000.tar            18,230 bytes from the 512th on: a member of an uncompressed tar
    parquet:3/17:image.bytes:data/train.parquet row 17 of row group 3, the field ``bytes`` of the column ``image``
    box:10,20,110,220:photos/a.jpg              left, top, right, bottom, in pixels of the upright image

A box stands before any of the others. A relative path that itself begins like one of these is written with ``./``.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cache.fingerprint import digest_bytes

Box = tuple[int, int, int, int]

_PLACE = re.compile(
    r"(?:box:(?P<box>-?\d+,-?\d+,-?\d+,-?\d+):)?"
    r"(?:bytes:(?P<offset>\d+)\+(?P<size>\d+):|parquet:(?P<group>\d+)/(?P<row>\d+):(?P<column>[^:]+):)?"
    r"(?P<path>.+)",
    re.DOTALL,
)
_KINDS = ("box:", "bytes:", "parquet:")
_GROUPS_KEPT = 4


class ImageSource(NamedTuple):
    """A URI taken apart: the file, where in it the bytes are, and the box to cut out of the image."""

    path: str
    stretch: tuple[int, int] | None = None
    """Offset and size, in bytes."""
    cell: tuple[int, int, str] | None = None
    """Row group, row in it, and the column with the field in it, ``image.bytes``."""
    box: Box | None = None

    @property
    def uri(self) -> str:
        """The URI that :func:`parse_source` takes apart."""
        path = f"./{self.path}" if self.path.startswith(_KINDS) else self.path
        box = "" if self.box is None else f"box:{','.join(map(str, self.box))}:"
        if self.stretch is not None:
            return f"{box}bytes:{self.stretch[0]}+{self.stretch[1]}:{path}"
        if self.cell is not None:
            return f"{box}parquet:{self.cell[0]}/{self.cell[1]}:{self.cell[2]}:{path}"
        return box + path

    def read(self) -> bytes:
        """The bytes of the (whole) image. Raises OSError where they cannot be read."""
        if self.stretch is not None:
            return _read_stretch(self.path, *self.stretch)
        if self.cell is not None:
            return _cells.read(self.path, *self.cell)
        return Path(self.path).read_bytes()

    def digest(self, content: bytes) -> bytes:
        """What a row of the image is keyed by: the sha256 of its bytes, and of the box where there is one."""
        digest = digest_bytes(content)
        return digest if self.box is None else digest_bytes(digest + f"box {self.box}".encode())


def parse_source(uri: str) -> ImageSource:
    """Take a URI apart."""
    match = _PLACE.fullmatch(uri)
    if match is None:
        raise ValueError("a URI must not be empty")
    box: Box | None = None
    if match["box"]:
        left, top, right, bottom = map(int, match["box"].split(","))
        box = left, top, right, bottom
    stretch = (int(match["offset"]), int(match["size"])) if match["offset"] else None
    cell = (int(match["group"]), int(match["row"]), match["column"]) if match["group"] else None
    return ImageSource(match["path"], stretch, cell, box)


def _read_stretch(path: str, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise OSError(f"{path} ends {size - len(content):,} bytes too early: it is cut off, or was changed")
    return content


class _Cells:
    """The last few row groups that were read: rows are asked for mostly in their order, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[str, int, int, str], pa.ChunkedArray] = OrderedDict()

    def read(self, path: str, group: int, row: int, column: str) -> bytes:
        with self._lock:
            key = (path, Path(path).stat().st_mtime_ns, group, column)
            cells = self._groups.pop(key, None)
            if cells is None:
                cells = _row_group(path, group, column)
            self._groups[key] = cells
            while len(self._groups) > _GROUPS_KEPT:
                self._groups.popitem(last=False)
        if row >= len(cells):
            raise OSError(f"{path} has no row {row} in row group {group}: it was changed")
        content = cells[row].as_py()
        if content is None:
            raise OSError("the row has no bytes")
        return bytes(content)


def _row_group(path: str, group: int, column: str) -> pa.ChunkedArray:
    """The cells of one column, ``image`` or a field of it, ``image.bytes``, in one row group."""
    try:
        with pq.ParquetFile(path) as file:
            table = file.read_row_group(group, columns=[column])
    except (pa.ArrowException, IndexError) as error:
        raise OSError(f"{path} cannot be read as Parquet: {error}") from error
    while pa.types.is_struct(table.schema.field(0).type):
        table = pa.Table.from_batches(table.to_batches()).flatten()
    return table.column(0)


_cells = _Cells()
