"""The digests of images, remembered by URI and status of the file, so that unchanged files are not read again.

The status is the file's number, size, mtime and ctime: files of equal size and mtime that are swapped, or unpacked over
one another with their old times, are told apart by the other two. A file that holds many images (a tar, a Parquet
table) is asked for its status once.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from cache.fingerprint import digest_file
from cache.source import ImageSource, parse_source

_COMMIT_EVERY = 4096
# A file written again within one tick of its file system's clock keeps its mtime: so young a file is not remembered.
_TICK_NS = 20_000_000
_COARSE_TICK_NS = 2_000_000_000


class FileDigest(NamedTuple):
    """What an image is keyed by (:meth:`ImageSource.digest`), or why it could not be read (then ``digest`` is None)."""

    digest: bytes | None
    error: str = ""


class DigestCache:
    """The digests of images, kept in one SQLite file (or in memory only, with no ``path``).

    What is kept is only a saving of time: it can be deleted at any moment, and several processes can share it.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self.files_read = 0
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def digests(
        self, uris: Sequence[str], *, workers: int = 2, on_progress: Callable[[int], None] | None = None
    ) -> list[FileDigest]:
        """The digest of each of ``uris`` (n,), in their order; ``on_progress`` hears how many are done."""
        found: list[FileDigest] = []
        holders = _Holders()
        fresh: list[_Entry] = []
        with closing(self._connect()) as connection, ThreadPoolExecutor(workers) as pool:
            known = {row[0]: _Entry(*row) for row in connection.execute("SELECT * FROM files")}
            try:
                for digest, entry in pool.map(lambda uri: _digest(uri, known, holders), uris):
                    found.append(digest)
                    if entry is not None:
                        self.files_read += 1
                        fresh.append(entry)
                    if len(fresh) == _COMMIT_EVERY:
                        _remember(connection, fresh)
                        fresh = []
                    if on_progress is not None:
                        on_progress(len(found))
            finally:  # also when interrupted: what was read need not be read again
                pool.shutdown(wait=False, cancel_futures=True)
                _remember(connection, fresh)
        return found

    def _connect(self) -> sqlite3.Connection:
        try:
            return self._opened()
        except sqlite3.DatabaseError:  # not a database: it is only a saving of time, so it is begun anew
            assert self.path is not None
            self.path.unlink()
            return self._opened()

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path or ":memory:", timeout=60)
        connection.execute(
            "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, status TEXT, changed_ns INTEGER, digest BLOB)"
        )
        return connection


class _Entry(NamedTuple):
    path: bytes
    status: str
    changed_ns: int
    digest: bytes


class _Holders:
    """The files that hold the images: where each is, and its status before any image in it was read."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, str, int]] = {}

    def look(self, source: ImageSource) -> tuple[str, str, int]:
        """The absolute path of the file, its status, and when it changed last. Raises OSError as ``stat`` does."""
        if found := self._known.get(source.path):
            return found
        of = os.stat(source.path)
        status = f"{of.st_dev} {of.st_ino} {of.st_size} {of.st_mtime_ns} {of.st_ctime_ns}"
        found = os.path.abspath(source.path), status, max(of.st_mtime_ns, of.st_ctime_ns)
        if source.stretch is not None or source.cell is not None or source.box is not None:
            self._known[source.path] = found
        return found


def _digest(uri: str, known: dict[bytes, _Entry], holders: _Holders) -> tuple[FileDigest, _Entry | None]:
    """The digest, and what to remember where the file had to be read."""
    source = parse_source(uri)
    try:
        path, status, changed_ns = holders.look(source)
        absolute = source._replace(path=path)
        name = os.fsencode(absolute.uri)
        old = known.get(name)
        if old and old.status == status:
            return FileDigest(old.digest), None
        whole = source == ImageSource(source.path)
        digest = digest_file(source.path) if whole else source.digest(source.read())
    except OSError as error:
        return FileDigest(None, f"cannot be read: {error.strerror or error}"), None
    return FileDigest(digest), _Entry(name, status, changed_ns, digest)


def _remember(connection: sqlite3.Connection, entries: Sequence[_Entry]) -> None:
    now = time.time_ns()
    settled = [entry for entry in entries if now - entry.changed_ns > _tick(entry.changed_ns)]
    with connection:
        connection.executemany("REPLACE INTO files VALUES (?, ?, ?, ?)", settled)


def _tick(changed_ns: int) -> int:
    return _TICK_NS if changed_ns % 1_000_000_000 else _COARSE_TICK_NS
