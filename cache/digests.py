"""The digests of images, remembered by URI and version of the file, so that unchanged files are not read again."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from cache.atomic import disk_errors
from cache.fingerprint import digest_file
from cache.source import ImageSource, Version, parse_source

_AT_ONCE = 4096  # URIs in work at a time, and digests in one commit: memory does not grow with the images
# A file written again within one tick of its file system's clock keeps its mtime: so young a file is not remembered.
_TICK_NS = 20_000_000
_COARSE_TICK_NS = 2_000_000_000


class FileDigest(NamedTuple):
    """What an image is keyed by (:meth:`ImageSource.digest`), or why it could not be read (then ``digest`` is None)."""

    digest: bytes | None
    error: str = ""


class DigestCache:
    """The digests of images, remembered in one SQLite file (or in memory only, with no ``path``).

    What is remembered only saves time: it can be deleted at any moment, and several processes can share it.

    >>> DigestCache().digests(["no such image.jpg"])
    [FileDigest(digest=None, error='cannot be read: No such file or directory')]
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self.files_read = 0
        if self.path is not None:
            with disk_errors(self.path.parent):
                self.path.parent.mkdir(parents=True, exist_ok=True)

    def digests(
        self, uris: Sequence[str], *, workers: int = 2, on_progress: Callable[[int], None] | None = None
    ) -> list[FileDigest]:
        """The digest of each of ``uris`` (n,), in their order; ``on_progress`` is called with how many are done."""
        digests: list[FileDigest] = []
        holders: dict[str, Version] = {}
        with closing(self._connect()) as connection, ThreadPoolExecutor(workers) as pool:
            for low in range(0, len(uris), _AT_ONCE):
                sources = [parse_source(uri) for uri in uris[low : low + _AT_ONCE]]
                names = [_name(source) for source in sources]
                known = _known(connection, names)
                fresh: list[_Entry] = []
                try:
                    old = map(known.get, names)
                    for digest, entry in pool.map(_digest, sources, names, old, repeat(holders)):
                        digests.append(digest)
                        if entry is not None:
                            self.files_read += 1
                            fresh.append(entry)
                        if on_progress is not None:
                            on_progress(len(digests))
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
                finally:  # also when interrupted: what was read need not be read again
                    _remember(connection, fresh)
        return digests

    def _connect(self) -> sqlite3.Connection:
        """The file of digests. It is only a saving of time: where it cannot be had, one in memory stands in."""
        if self.path is None:
            return _opened(":memory:")
        try:
            return _opened(self.path)
        except sqlite3.OperationalError:  # a full disk, or one that cannot be written
            return _opened(":memory:")
        except sqlite3.DatabaseError:  # not a database
            self.path.unlink()
            return _opened(self.path)


def _opened(path: Path | str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60)
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, status TEXT, changed_ns INTEGER, digest BLOB)"
        )
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


class _Entry(NamedTuple):
    path: bytes
    version: str
    changed_ns: int
    digest: bytes


def _name(source: ImageSource) -> bytes:
    """What an image is remembered by: its URI, with an absolute path."""
    return os.fsencode(source._replace(path=os.path.abspath(source.path)).uri)


def _known(connection: sqlite3.Connection, names: Sequence[bytes]) -> dict[bytes, _Entry]:
    """What is remembered of the images ``names``."""
    places = ", ".join("?" * len(names))
    rows = connection.execute(f"SELECT * FROM files WHERE path IN ({places})", names)  # noqa: S608 (only ? in it)
    return {row[0]: _Entry(*row) for row in rows}


def _digest(
    source: ImageSource, name: bytes, old: _Entry | None, holders: dict[str, Version]
) -> tuple[FileDigest, _Entry | None]:
    """The digest, and what to remember where the file had to be read.

    ``holders`` has the version of each file of many images as it was before any image in it was read.
    """
    whole = source == ImageSource(source.path)
    try:
        version = holders.get(source.path) or source.version()
        if not whole:
            version = holders.setdefault(source.path, version)
        if old and old.version == version.text:
            return FileDigest(old.digest), None
        digest = digest_file(source.path) if whole else source.digest(source.read())
    except OSError as error:
        return FileDigest(None, f"cannot be read: {error.strerror or error}"), None
    return FileDigest(digest), _Entry(name, *version, digest)


def _remember(connection: sqlite3.Connection, entries: Sequence[_Entry]) -> None:
    now = time.time_ns()
    settled = [entry for entry in entries if now - entry.changed_ns > _tick(entry.changed_ns)]
    with suppress(sqlite3.OperationalError), connection:  # on a full disk nothing is remembered
        connection.executemany("REPLACE INTO files VALUES (?, ?, ?, ?)", settled)


def _tick(changed_ns: int) -> int:
    return _TICK_NS if changed_ns % 1_000_000_000 else _COARSE_TICK_NS
