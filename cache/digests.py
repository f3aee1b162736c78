"""The digests of images, remembered by URI and version of the file, so that unchanged files are not read again."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import chain, repeat
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cache.atomic import PARTIAL, disk_errors, tick_of
from cache.fingerprint import digest_bytes, digest_file
from cache.source import ImageSource, Version, parse_source
from cache.storage import absolute, is_url

_MANY = 100_000
_WORKERS = 2
_REQUESTS = 32  # to object storage, at once
_A_TASK = 8  # files that a thread looks at before it takes others: to hand one over costs more than to look at it
_AT_ONCE = 4096  # URIs in work at a time, and digests in one commit: memory does not grow with the images


class FileDigest(NamedTuple):
    """What an image is keyed by (:meth:`ImageSource.digest`), or why it could not be read (then ``digest`` is None)."""

    digest: bytes | None
    error: str = ""


class DigestCache:
    """The digests of images, remembered in one SQLite file (or in memory only, with no ``path``).

    What is remembered only saves time: it can be deleted at any moment, and several processes can share it. Files are
    read by so many ``workers``, threads; objects by 32 at least, since they keep one waiting, and not busy.

    >>> DigestCache().digests(["no such image.jpg"])
    [FileDigest(digest=None, error='cannot be read: No such file or directory')]
    """

    def __init__(self, path: Path | str | None = None, *, workers: int | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self._workers = workers or _WORKERS
        self.files_read = 0
        self.notes: list[str] = []  # what a person should know: that the file was damaged and was begun anew
        if self.path is not None:
            with disk_errors(self.path.parent):
                self.path.parent.mkdir(parents=True, exist_ok=True)

    def digests(self, uris: Sequence[str], *, on_progress: Callable[[int], None] | None = None) -> list[FileDigest]:
        """The digest of each of ``uris`` (n,), in their order; ``on_progress`` is called with how many are done."""
        digests: list[FileDigest] = []
        holders: dict[str, Version] = {}
        with closing(_Memory(self.path, self.notes)) as memory, self._readers(uris) as pool:
            for low in range(0, len(uris), _AT_ONCE):
                for digest, _ in self._looked_up(uris[low : low + _AT_ONCE], memory, pool, holders):
                    digests.append(digest)
                    if on_progress is not None:
                        on_progress(len(digests))
        return digests

    def column(
        self, uris: pa.ChunkedArray, *, on_progress: Callable[[int], None] | None = None
    ) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        """:meth:`digests` of a column (N,) as two: 32 bytes, or null where an image cannot be read, and why, or ""."""
        if self.path is None or len(uris) < _MANY:
            read = self.digests(uris.to_pylist(), on_progress=on_progress)
            digests = pa.array([one.digest for one in read], pa.binary(32))
            return pa.chunked_array([digests]), pa.chunked_array([pa.array([one.error for one in read], pa.string())])
        path = self.path.with_name(f"{self.path.stem}-{digest_bytes(str(uris[0]).encode()).hex()[:8]}.parquet")
        versions: dict[str, str] = {}
        holders: dict[str, Version] = {}
        columns: list[tuple[pa.Array, pa.Array]] = []
        with DigestFile(path) as file, closing(_Memory(self.path, self.notes)) as memory, self._readers(uris) as pool:
            for group, low in enumerate(range(0, len(uris), GROUP_ROWS)):
                rows = file.known(group, pa.concat_arrays(uris.slice(low, GROUP_ROWS).chunks), versions)
                unknown = np.flatnonzero(rows["digest"].is_null()).tolist()
                errors = [""] * len(rows)
                learned: dict[int, tuple[str, bytes | None]] = {}
                for first in range(0, len(unknown), _AT_ONCE):
                    places = unknown[first : first + _AT_ONCE]
                    unread = rows["uri"].take(pa.array(places)).to_pylist()
                    for row, (one, version) in zip(places, self._looked_up(unread, memory, pool, holders), strict=True):
                        learned[row], errors[row] = (version, one.digest), one.error
                        if on_progress is not None:
                            on_progress(low + row + 1)
                rows = with_digests(rows, learned) if learned else rows
                file.write(group, rows, learned=any(digest for _, digest in learned.values()))
                columns.append((rows["digest"].combine_chunks(), pa.array(errors, pa.string())))
                if on_progress is not None:
                    on_progress(low + len(rows))
        return pa.chunked_array([digest for digest, _ in columns]), pa.chunked_array([error for _, error in columns])

    def _looked_up(
        self, uris: Sequence[str], memory: _Memory, pool: ThreadPoolExecutor, holders: dict[str, Version]
    ) -> Iterator[tuple[FileDigest, str]]:
        """The digest of each of ``uris``, read where it is not remembered, and the version that it holds for."""
        sources = [parse_source(uri) for uri in uris]
        names = [_name(source) for source in sources]
        known = memory.known(names)
        fresh: list[_Entry] = []
        try:
            entries = list(map(known.get, names))
            step = 1 if sources and is_url(sources[0].path) else _A_TASK
            parts = [slice(low, low + step) for low in range(0, len(names), step)]
            work = ([*zip(sources[part], names[part], entries[part], strict=True)] for part in parts)
            for digest, version, entry in chain.from_iterable(pool.map(_digests, work, repeat(holders))):
                if entry is not None:
                    self.files_read += 1
                    fresh.append(entry)
                yield digest, version
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:  # also when interrupted: what was read need not be read again
            memory.remember(fresh)

    def _readers(self, uris: Sequence[str] | pa.ChunkedArray) -> ThreadPoolExecutor:
        far = len(uris) > 0 and is_url(parse_source(str(uris[0])).path)
        return ThreadPoolExecutor(max(self._workers, _REQUESTS) if far else self._workers)

    def remembered(self, uris: Sequence[str]) -> list[bytes | None]:
        """The digest that each of ``uris`` (n,) had when it was read last, None where that is not known."""
        names = [_name(parse_source(uri)) for uri in uris]
        with closing(_Memory(self.path, self.notes)) as memory:
            known = {
                name: entry
                for low in range(0, len(names), _AT_ONCE)
                for name, entry in memory.known(names[low : low + _AT_ONCE]).items()
            }
        return [entry.digest if (entry := known.get(name)) else None for name in names]


class _Memory:
    """The file of digests; where it cannot be had, one in memory stands in."""

    def __init__(self, path: Path | None, notes: list[str]) -> None:
        self._path, self._notes = path, notes
        try:
            self._connection = _opened(path or ":memory:")
        except sqlite3.DatabaseError as error:
            self._begin_anew(error)

    def close(self) -> None:
        """Let the file go."""
        self._connection.close()

    def known(self, names: Sequence[bytes]) -> dict[bytes, _Entry]:
        """What is remembered of the images ``names``."""
        places = ", ".join("?" * len(names))
        try:
            rows = self._connection.execute(f"SELECT * FROM files WHERE path IN ({places})", names)  # noqa: S608 (only ? in it)
            entries = [_Entry(*row) for row in rows]
        except sqlite3.DatabaseError as error:
            self._connection.close()
            self._begin_anew(error)
            return {}
        return {entry.path: whole for entry in entries if (whole := _opened_entry(entry)) is not None}

    def remember(self, entries: Sequence[_Entry]) -> None:
        """Keep ``entries`` whose file is old enough; on a full disk nothing is."""
        settled = [entry for entry in entries if _settled(entry.changed_ns)]
        with suppress(sqlite3.DatabaseError), self._connection as connection:
            sealed = [entry._replace(digest=entry.digest + _checksum(entry)) for entry in settled]
            connection.executemany("REPLACE INTO files VALUES (?, ?, ?, ?)", sealed)

    def _begin_anew(self, error: sqlite3.DatabaseError) -> None:
        """Replace a file that is damaged or not ours, with a note; one that cannot be had is left alone."""
        place: Path | str = ":memory:"
        if self._path is not None and not isinstance(error, sqlite3.OperationalError):
            with suppress(OSError):
                self._path.unlink()
                place = self._path
            self._notes.append(f"note: {self._path} is damaged or not a file of digests ({error}): begun anew")
        try:
            self._connection = _opened(place)
        except sqlite3.DatabaseError:
            self._connection = _opened(":memory:")


def _opened(path: Path | str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60)
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, status TEXT, changed_ns INTEGER, digest BLOB)"
        )
        columns = [row[1] for row in connection.execute("PRAGMA table_info(files)")]
        if columns != ["path", "status", "changed_ns", "digest"]:
            raise sqlite3.DatabaseError(f"its table has the columns {', '.join(columns)}")
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


class _Entry(NamedTuple):
    path: bytes
    version: str
    changed_ns: int
    digest: bytes


def _checksum(entry: _Entry) -> bytes:
    """Of everything in ``entry``: four bytes that are stored behind its digest."""
    checksum: int = google_crc32c.value(repr(entry).encode())
    return checksum.to_bytes(4, "little")


def _opened_entry(entry: _Entry) -> _Entry | None:
    """An entry as it was before it was stored, None where its bytes are not those; 0.1.0 wrote no checksum."""
    digest = bytes(entry.digest or b"")
    whole = entry._replace(digest=digest[:32])
    return whole if len(digest) == 32 or digest[32:] == _checksum(whole) else None


def _name(source: ImageSource) -> bytes:
    """What an image is remembered by: its URI, with an absolute path."""
    return os.fsencode(source._replace(path=absolute(source.path)).uri)


def _digest(
    source: ImageSource, name: bytes, old: _Entry | None, holders: dict[str, Version]
) -> tuple[FileDigest, str, _Entry | None]:
    """The digest, the version that it holds for ("" for none), and what to remember where the file had to be read.

    ``holders`` has the version of each file of many images as it was before any image in it was read.
    """
    whole = source == ImageSource(source.path)
    try:
        version = holders.get(source.path) or source.version()
        if not whole:
            version = holders.setdefault(source.path, version)
        if old and old.version == version.text:
            return FileDigest(old.digest), version.text, None
        digest = digest_file(source.path) if whole and not is_url(source.path) else source.digest(source.read())
    except OSError as error:
        return FileDigest(None, f"cannot be read: {error.strerror or error}"), "", None
    text = version.text if _settled(version.changed_ns) else ""
    return FileDigest(digest), text, _Entry(name, *version, digest)


def _digests(
    work: Sequence[tuple[ImageSource, bytes, _Entry | None]], holders: dict[str, Version]
) -> list[tuple[FileDigest, str, _Entry | None]]:
    return [_digest(*one, holders) for one in work]


def _settled(changed_ns: int) -> bool:
    """Whether a file that is written again cannot keep these times: a younger one is not remembered."""
    return time.time_ns() - changed_ns > tick_of(changed_ns)


GROUP_ROWS = 65_536
_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("digest", pa.binary(32)),
    ]
)
_FOLDER = b"relative to"
_BOX, _NUMBER = r"box:-?[0-9]+,-?[0-9]+,-?[0-9]+,-?[0-9]+:", "[0-9]{1,18}"
_PLACE = rf"^(?:{_BOX})?(?:bytes:{_NUMBER}\+{_NUMBER}:|parquet:{_NUMBER}/{_NUMBER}:[^:]+:)?"  # as in cache.source


class DigestFile:
    """The file at ``path``, read a group of rows at a time, and written anew where one has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
        self._writer: pq.ParquetWriter | None = None
        self._file: pq.ParquetFile | None = None
        with suppress(OSError, pa.ArrowException):
            file = pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=["version"])
            metadata = file.schema_arrow.metadata or {}
            if file.schema_arrow.names == _SCHEMA.names and metadata.get(_FOLDER) == os.fsencode(Path.cwd()):
                self._file = file

    def __enter__(self) -> DigestFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            with suppress(OSError, pa.ArrowException):
                self._writer.close()
                if error is None:
                    self._partial.replace(self._path)
        with suppress(OSError):
            self._partial.unlink(missing_ok=True)

    def known(self, group: int, uris: pa.StringArray, versions: dict[str, str]) -> pa.Table:
        """The rows of ``uris`` (n,), the group of that number; the digest is null where it does not hold.

        ``versions`` remembers those of the files that have been looked at.
        """
        rows = self._read(group)
        if rows is None or not rows["uri"].combine_chunks().equals(uris):
            empty = pa.array([""] * len(uris), pa.string())
            return pa.table([uris, empty, pa.nulls(len(uris), pa.binary(32))], schema=_SCHEMA)
        paths = pc.replace_substring_regex(uris, _PLACE, "").dictionary_encode()
        objects = [path for path in paths.dictionary.to_pylist() if is_url(path) and path not in versions]
        if objects:
            with ThreadPoolExecutor(_REQUESTS) as pool:
                for _ in pool.map(_version, objects, repeat(versions)):
                    pass
        now = pa.array([_version(path, versions) for path in paths.dictionary.to_pylist()], pa.string())
        version = rows["version"].cast(pa.string())
        same = pc.and_(pc.equal(now.take(paths.indices), version), pc.not_equal(version, ""))
        digest = pc.if_else(same, rows["digest"], pa.scalar(None, pa.binary(32)))
        return pa.table([uris, version, digest], schema=_SCHEMA)

    def write(self, group: int, rows: pa.Table, *, learned: bool) -> None:
        """Have ``rows`` as the next group: where something was ``learned`` the file is written anew from there on."""
        if self._writer is None:
            if not learned:
                return
            with suppress(OSError, pa.ArrowException):  # where it cannot be written, the next run reads again
                self._path.parent.mkdir(parents=True, exist_ok=True)
                schema = _SCHEMA.with_metadata({_FOLDER: os.fsencode(Path.cwd())})
                self._writer = pq.ParquetWriter(
                    self._partial, schema, compression="zstd", use_dictionary=["version"], write_page_checksum=True
                )
                for earlier in range(group):
                    if (before := self._read(earlier)) is not None:
                        self._writer.write_table(before.cast(_SCHEMA))
        if self._writer is not None:
            with suppress(OSError, pa.ArrowException):
                self._writer.write_table(rows.cast(_SCHEMA), row_group_size=GROUP_ROWS)

    def _read(self, group: int) -> pa.Table | None:
        if self._file is None or group >= self._file.num_row_groups:
            return None
        try:
            return self._file.read_row_group(group)
        except (OSError, pa.ArrowException):  # damaged: as if it were not there
            self._file.close()
            self._file = None
            return None


def _version(path: str, versions: dict[str, str]) -> str | None:
    if path not in versions:
        try:
            versions[path] = parse_source(path).version().text
        except OSError:
            return None
    return versions[path]


def with_digests(rows: pa.Table, read: Mapping[int, tuple[str, bytes | None]]) -> pa.Table:
    """``rows`` with the version and the digest of those that were ``read``, by their number."""
    version, digest = rows["version"].to_pylist(), rows["digest"].to_pylist()
    for row, (text, value) in read.items():
        version[row], digest[row] = text, value
    return pa.table([rows["uri"], pa.array(version, pa.string()), pa.array(digest, pa.binary(32))], schema=_SCHEMA)
