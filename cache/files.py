"""Files to read by their paths, where a path may be the address of an object: whole, by range, and as a file object."""

from __future__ import annotations

import io
import os
from typing import BinaryIO

from cache.object_storage import ObjectStorage
from cache.storage import is_url

_AT_ONCE = 1 << 20


def object_at(url: str) -> tuple[ObjectStorage, str]:
    """The storage and the key of the object at ``url``.

    >>> object_at("s3://bucket/photos/a.jpg")
    (ObjectStorage(url='s3://bucket'), 'photos/a.jpg')
    """
    scheme, _, place = url.partition("://")
    bucket, _, key = place.partition("/")
    return ObjectStorage(f"{scheme}://{bucket}"), key


def open_file(path: str) -> BinaryIO:
    """The file or the object at ``path``, to read from: of an object only what is read is sent. Raises OSError."""
    return io.BufferedReader(_ObjectFile(path), _AT_ONCE) if is_url(path) else open(path, "rb")


def file_exists(path: str) -> bool:
    """Whether there is something at ``path``, if only a link that leads nowhere.

    >>> file_exists("no such file")
    False
    """
    if not is_url(path):
        return os.path.lexists(path)
    storage, key = object_at(path)
    try:
        storage.size(key)
    except FileNotFoundError:
        return False
    except PermissionError:
        pass  # that is another problem
    return True


def absolute(path: str) -> str:
    """``path`` as it is from any folder.

    >>> absolute("gs://bucket/a.jpg")
    'gs://bucket/a.jpg'
    """
    return path if is_url(path) else os.path.abspath(path)  # noqa: PTH100 (links stay)


class _ObjectFile(io.RawIOBase):
    """The object at ``url`` as a file; each read is a request."""

    def __init__(self, url: str) -> None:
        self._storage, self._key = object_at(url)
        self._size, self._at = self._storage.size(self._key), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._storage.read(self._key, self._at, min(self._size, self._at + len(buffer)))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
