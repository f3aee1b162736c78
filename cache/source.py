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
from pathlib import Path
from typing import NamedTuple

from cache.errors import SettingsError
from cache.fingerprint import digest_bytes
from cache.parquet_cells import read_cell
from cache.storage import is_url, object_at

Box = tuple[int, int, int, int]

_PLACE = re.compile(
    r"(?:box:(?P<box>-?[0-9]{1,18},-?[0-9]{1,18},-?[0-9]{1,18},-?[0-9]{1,18}):)?"
    r"(?:bytes:(?P<offset>[0-9]{1,18})\+(?P<size>[0-9]{1,18}):|parquet:(?P<group>[0-9]{1,18})/(?P<row>[0-9]{1,18}):(?P<column>[^:]+):)?"
    r"(?P<path>.+)",
    re.DOTALL,
)
_OTHER_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
_LIKE_A_KIND = re.compile(r"(?:\./)*(?:box|bytes|parquet):")


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
        if is_url(self.path):
            return self._read_object()
        _regular(self.path)
        if self.stretch is not None:
            return _read_stretch(self.path, *self.stretch)
        if self.cell is not None:
            return read_cell(self.path, *self.cell)
        return Path(self.path).read_bytes()

    def _read_object(self) -> bytes:
        storage, key = object_at(self.path)
        if self.cell is not None:
            return read_cell(self.path, *self.cell, version=storage.version(key))
        if self.stretch is None:
            return storage.read(key)
        offset, size = self.stretch
        return _whole(self.path, storage.read(key, offset, offset + size), size)

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


def _read_stretch(path: str, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return _whole(path, file.read(size), size)


def _whole(path: str, content: bytes, size: int) -> bytes:
    if len(content) < size:
        raise OSError(f"{path} ends {size - len(content):,} bytes too early: it is cut off, or was changed")
    return content
