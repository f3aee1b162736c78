"""The digests of a large dataset in a Parquet file beside it, in its order, which are checked by the million.

A row counts while the dataset has its URI in that place and the file has its version; of many images in one file it is
looked at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cache.atomic import PARTIAL
from cache.source import parse_source
from cache.storage import is_url

GROUP_ROWS = 65_536
_REQUESTS = 32  # to object storage, at once
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
