"""The digests of files, remembered by path and status, so that unchanged files are not read again.

The status is the file's number, size, mtime and ctime: files of equal size and mtime that are swapped, or unpacked over
one another with their old times, are told apart by the other two.
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

_COMMIT_EVERY = 4096
# A file written again within one tick of its file system's clock keeps its mtime: so young a file is not remembered.
_TICK_NS = 20_000_000
_COARSE_TICK_NS = 2_000_000_000


class FileDigest(NamedTuple):
    """The sha256 of a file's bytes, or why it could not be read (then ``digest`` is None)."""

    digest: bytes | None
    error: str = ""


class DigestCache:
    """The digests of files, kept in one SQLite file (or in memory only, with no ``path``).

    What is kept is only a saving of time: it can be deleted at any moment, and several processes can share it.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self.files_read = 0
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def digests(
        self, paths: Sequence[str], *, workers: int = 2, on_progress: Callable[[int], None] | None = None
    ) -> list[FileDigest]:
        """The digest of each of ``paths`` (n,), in their order; ``on_progress`` hears how many are done."""
        found: list[FileDigest] = []
        fresh: list[_Entry] = []
        with closing(self._connect()) as connection, ThreadPoolExecutor(workers) as pool:
            known = {row[0]: _Entry(*row) for row in connection.execute("SELECT * FROM files")}
            try:
                for digest, entry in pool.map(lambda path: _digest(path, known), paths):
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


def _digest(path: str, known: dict[bytes, _Entry]) -> tuple[FileDigest, _Entry | None]:
    """The digest, and what to remember where the file had to be read."""
    name = os.fsencode(os.path.abspath(path))
    try:
        before = os.stat(path)
        status = f"{before.st_dev} {before.st_ino} {before.st_size} {before.st_mtime_ns} {before.st_ctime_ns}"
        old = known.get(name)
        if old and old.status == status:
            return FileDigest(old.digest), None
        digest = digest_file(path)
    except OSError as error:
        return FileDigest(None, f"cannot be read: {error.strerror or error}"), None
    return FileDigest(digest), _Entry(name, status, max(before.st_mtime_ns, before.st_ctime_ns), digest)


def _remember(connection: sqlite3.Connection, entries: Sequence[_Entry]) -> None:
    now = time.time_ns()
    settled = [entry for entry in entries if now - entry.changed_ns > _tick(entry.changed_ns)]
    with connection:
        connection.executemany("REPLACE INTO files VALUES (?, ?, ?, ?)", settled)


def _tick(changed_ns: int) -> int:
    return _TICK_NS if changed_ns % 1_000_000_000 else _COARSE_TICK_NS
