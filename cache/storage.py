"""Where bytes lie: a handful of verbs on keys, and the local folder as their first implementation.

A key is a relative path with ``/`` between its parts. What is written is written whole: a reader sees the old bytes or
the new. A missing key is a ``FileNotFoundError``. There are no locks; what must happen once relies on
:meth:`Storage.put_new`. ``tests/cache/storage_contract.py`` tests all of this for any implementation.
"""

from __future__ import annotations

import io
import mmap
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from cache.atomic import PARTIAL, create_bytes, disk_errors, replace_bytes
from cache.errors import SettingsError
from cache.object_storage import SCHEMES, ObjectStorage

_LIKE_A_URL = re.compile(rf"[a-z][a-z0-9+.-]+://|(?:{'|'.join(SCHEMES)}):/")  # a Path has one slash left of the two
_AT_ONCE = 1 << 20


class Storage(Protocol):
    """Bytes by key. An implementation can be pickled: a worker process opens the same bytes."""

    def list(self, prefix: str = "") -> list[str]:
        """All keys that start with ``prefix``, sorted."""

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes from ``start`` up to ``stop``, or to the end; fewer where there are fewer, as with a slice."""

    def size(self, key: str) -> int:
        """The number of bytes."""

    def put(self, key: str, content: bytes | memoryview) -> None:
        """Store ``content``, instead of what was there. Raises :class:`cache.errors.UnwritableError`."""

    def put_new(self, key: str, content: bytes | memoryview) -> bool:
        """Store ``content`` if there is nothing yet: of several writers exactly one gets True."""

    def delete(self, key: str) -> None:
        """Delete the key; nothing happens where there is none."""

    def map(self, key: str) -> memoryview | None:
        """The bytes as a read-only memory map, or None where the storage has no memory maps."""

    def below(self, prefix: str) -> Storage:
        """The keys that start with ``prefix/``, without it, as a storage."""

    def address(self, key: str = "") -> str:
        """Where ``key`` is, for messages: a path or a URL."""


@dataclass(frozen=True)
class LocalStorage:
    """A folder: a key is a path below it. The folder is created with the first key.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     storage = LocalStorage(folder)
    ...     storage.put("a/b", b"hello")
    ...     print(storage.put_new("a/b", b"other"), storage.read("a/b", 1, 3), storage.list("a/"))
    False b'el' ['a/b']
    """

    root: Path | str

    def __post_init__(self) -> None:
        if _LIKE_A_URL.match(str(self.root)):
            known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise SettingsError(f"a folder must be a local path, or text that begins with {known}; got {self.root}")

    def path(self, key: str = "") -> Path:
        """The path of ``key``. Raises ValueError if it is not a key."""
        parts = key.split("/")
        if key and (any(part in ("", ".", "..") for part in parts) or key.endswith(PARTIAL)):
            raise SettingsError(f"a key is a relative path like rows/3.parquet, not ending in {PARTIAL}; got {key!r}")
        return Path(self.root, key)

    def list(self, prefix: str = "") -> list[str]:  # noqa: D102
        root = self.path()
        folder = self.path(prefix.rpartition("/")[0])
        paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != PARTIAL)
        return sorted(key for path in paths if (key := path.relative_to(root).as_posix()).startswith(prefix))

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:  # noqa: D102
        with self.path(key).open("rb") as file:
            file.seek(start)
            return file.read() if stop is None else file.read(max(0, stop - start))

    def size(self, key: str) -> int:  # noqa: D102
        return self.path(key).stat().st_size

    def put(self, key: str, content: bytes | memoryview) -> None:  # noqa: D102
        replace_bytes(self.path(key), content)

    def put_new(self, key: str, content: bytes | memoryview) -> bool:  # noqa: D102
        return create_bytes(self.path(key), content)

    def delete(self, key: str) -> None:  # noqa: D102
        path = self.path(key)
        with disk_errors(path):
            path.unlink(missing_ok=True)
        for folder in path.parents[: key.count("/")]:
            try:
                folder.rmdir()
            except OSError:  # not empty
                break

    def map(self, key: str) -> memoryview | None:  # noqa: D102
        with self.path(key).open("rb") as file:
            empty = not file.seek(0, 2)
            return memoryview(b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def below(self, prefix: str) -> LocalStorage:  # noqa: D102
        return LocalStorage(self.path(prefix))

    def address(self, key: str = "") -> str:  # noqa: D102
        return str(self.path(key))


Where = Storage | Path | str
"""A storage, a folder, or the text of an address in object storage: what :func:`storage_of` takes."""


def storage_of(where: Where) -> Storage:
    """``where`` itself, or the folder or the place in object storage that it names."""
    if isinstance(where, str) and is_url(where):
        return ObjectStorage(where)
    return LocalStorage(where) if isinstance(where, (str, Path)) else where


def is_url(where: str) -> bool:
    """Whether ``where`` is in object storage, and no local path."""
    return where.startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def has(storage: Storage, key: str) -> bool:
    """Whether there is something at ``key``: asked of the key itself, and not of a listing, which can lag."""
    try:
        storage.size(key)
    except FileNotFoundError:
        return False
    return True


def object_at(url: str) -> tuple[ObjectStorage, str]:
    """The storage and the key of the object at ``url``."""
    scheme, _, place = url.partition("://")
    bucket, _, key = place.partition("/")
    return ObjectStorage(f"{scheme}://{bucket}"), key


def open_file(path: str) -> BinaryIO:
    """The file or the object at ``path``, to read from: of an object only what is read is sent. Raises OSError."""
    return io.BufferedReader(_ObjectFile(path), _AT_ONCE) if is_url(path) else open(path, "rb")


def file_exists(path: str) -> bool:
    """Whether there is something at ``path``, if only a link that leads nowhere."""
    if not is_url(path):
        return os.path.lexists(path)
    with suppress(PermissionError):  # that is another problem
        return has(*object_at(path))
    return True


def absolute(path: str) -> str:
    """``path`` as it is from any folder."""
    return path if is_url(path) else os.path.abspath(path)  # noqa: PTH100 (links stay)


class _ObjectFile(io.RawIOBase):
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
