"""A table with a row for each image, csv, tsv, parquet or jsonl: read, every value as text, and written."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cache import digest_bytes, parse_source
from cache.atomic import replace_bytes
from cache.errors import AbsentPathError, RecordsError, SettingsError
from cache.storage import is_url
from stages.datasets.config import (
    ColumnsConfig,
    Nested,
    Source,
    as_names,
    as_text,
    first_nested,
    nested_in,
    refuse_absent,
    refuse_nested,
    scalar,
    text_table,
)
from stages.datasets.delimited import Dialect, detect_encoding, read_delimited

_DETECTED = Dialect()
_NUMBER, _NAME = "(?:0|[1-9][0-9]{0,17})", "[^/:.][^/:]*"
_PLAIN = rf"\A(?P<place>(?:bytes:{_NUMBER}\+{_NUMBER}:)?)(?P<path>{_NAME}(?:/{_NAME})*)\z"  # and no "." or ".." in it
_KEY = b"a record without an image, of the key "


@dataclass(frozen=True, kw_only=True)
class TableConfig(ColumnsConfig):
    """``kind = "table"``: a csv, tsv, parquet or jsonl file with a row for each image.

    Attributes:
        image: the column with the image's path, relative to ``root``, or another URI of :mod:`cache.source`.
        root: what image paths are relative to; by default the table's folder.
        key: by default ``key`` where there is such a column, else the image's path.
        delimiter: what separates the cells of a csv or tsv; detected where it is left out.
        encoding: of a csv, tsv or jsonl; UTF-16 is detected, all else taken for UTF-8.
        quoted: false where quotes in a csv or tsv are letters like any other.
        images: false where there are no images, but features of every key (``kind = "precomputed"``).
    """

    kind: Literal["table"] = "table"
    image: str = "path"
    root: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    quoted: bool = True
    images: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise SettingsError(f"delimiter is one character, and no quote or line break; got {self.delimiter!r}")
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except LookupError:
                raise SettingsError(
                    f"encoding names an encoding of Python, as 'utf-8', 'utf-16', 'cp1252'; got {self.encoding!r}"
                ) from None

    def read(self) -> Source:
        """Read the named columns; which files exist is not looked at."""
        path = Path(self.path)
        read = read_columns(path, Dialect(self.delimiter, self.encoding, self.quoted))
        table, notes = read.table, read.notes
        root = self.root if self.root is not None else str(path.parent)
        names = table.column_names
        if not self.images:
            return self._without_images(path, read)
        named = {"key": "key" if "key" in names else self.image} | self.named(names)
        self._check(path, read, (self.image, *named.values()))
        images = table[self.image]
        if images.null_count:
            row = int(np.flatnonzero(images.is_null())[0]) + 1
            raise RecordsError(f"{path}, row {row}: the column {self.image!r}, which names the image, is empty")
        source = self.source(table, named, {"uri": _all_below(root, images)})
        return source._replace(notes=(*notes, *source.notes))

    def _check(self, path: Path, read: Columns, named: Iterable[str]) -> None:
        """Raise RecordsError for a column that is used and not there, or has cells that are no value."""
        used = (*named, *as_names(self.label), *self.attributes)
        refuse_absent(path, used, read.table.column_names)
        for name in used:
            refuse_nested(lambda row: f"{path}, row {row + 1}", name, read.nested(name), self.several)

    def _without_images(self, path: Path, read: Columns) -> Source:
        """The rows by their keys alone, each with a digest that follows from the key."""
        table, notes = read.table, read.notes
        named = {"key": "key"} | self.named(table.column_names)
        self._check(path, read, named.values())
        source = self.source(table, named, {"uri": [""] * len(table)})
        keys = table[named["key"]].to_pylist()
        digests = pa.array([key and digest_bytes(_KEY + key.encode()) for key in keys], pa.binary(32))
        return Source(source.table.append_column("digest", digests), notes=(*notes, *source.notes))


def _all_below(root: str, images: pa.ChunkedArray) -> pa.ChunkedArray:
    """:func:`_below` of all ``images`` (N,); most are a path that needs nothing but the root before it."""
    folder = root.rstrip("/") if is_url(root) else os.path.normpath(root)
    parts = pc.extract_regex(images, _PLAIN)
    plain = parts.is_valid() if ":" not in folder or is_url(root) else pc.equal(images, "")  # of none
    place, path = (pc.struct_field(parts, name) for name in ("place", "path"))
    before = "" if folder == "." else folder if folder.endswith("/") else f"{folder}/"
    uris = pc.binary_join_element_wise(place, before, path, "")
    others = np.flatnonzero(pc.invert(plain))
    if len(others):
        texts = pa.array([_below(root, image) for image in images.take(pa.array(others)).to_pylist()], pa.string())
        places = np.zeros(len(images), np.int64)
        places[others] = np.arange(len(others))
        uris = pc.if_else(plain, uris, texts.take(pa.array(places)))
    return uris


def _below(root: str, image: str) -> str:
    """The URI ``image`` with its path seen from ``root``."""
    source = parse_source(image)
    if is_url(source.path):
        return image
    path = posixpath.normpath(source.path) if is_url(root) else os.path.normpath(Path(root, source.path))
    if is_url(root) and path.startswith(("/", "../")):
        raise RecordsError(f"the image {image!r} would lie outside of root = {root!r}")
    return source._replace(path=f"{root.rstrip('/')}/{path}" if is_url(root) else path).uri


class Columns(NamedTuple):
    """The columns of a file as text, empty cells null, and notes on how it was read."""

    table: pa.Table
    notes: tuple[str, ...]
    nested: Callable[[str], list[Nested]]
    """What cells of a column are nested (:func:`first_nested`)."""


def read_columns(path: Path, dialect: Dialect = _DETECTED) -> Columns:
    """All columns of a csv, tsv, parquet or jsonl file."""
    readers = {".csv": _read_cells, ".tsv": _read_cells, ".parquet": _read_parquet, ".jsonl": _read_jsonl}
    reader = readers.get(path.suffix.lower())
    if reader is None and not path.exists():
        raise AbsentPathError(f"{path} does not exist")
    if reader is None:
        raise RecordsError(
            f"{path} is not a table that can be read: its name must end in {', '.join(readers)}. Or name a folder."
        )
    try:
        table, notes, nested = reader(path, dialect)
    except FileNotFoundError:
        raise AbsentPathError(f"{path} does not exist") from None
    except (pa.ArrowException, ValueError, OSError) as error:
        raise RecordsError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from error
    names = table.column_names
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise RecordsError(f"{path} has the column {repeated[0]!r} more than once")
    if table.num_rows == 0:
        raise RecordsError(f"{path} has no rows")
    return Columns(pa.table({name: as_text(table[name]) for name in names}), notes, nested)


def _read_cells(path: Path, dialect: Dialect) -> Columns:
    return Columns(*read_delimited(path, dialect), lambda _: [])


def _read_parquet(path: Path, _: Dialect) -> Columns:
    with pq.ParquetFile(path) as file:
        table = file.read()
    return Columns(table, (), lambda name: nested_in(table[name]))


def _read_jsonl(path: Path, dialect: Dialect) -> Columns:
    """A line ends with a line feed; within a text JSON allows every other character that Unicode ends lines with."""
    text = path.read_bytes().decode(dialect.encoding or detect_encoding(path)).removeprefix("\ufeff")
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line, object_pairs_hook=_object))
        except ValueError as error:
            raise SettingsError(f"line {number}: {error}") from None
        if not isinstance(rows[-1], dict):
            raise SettingsError(f"line {number}: every line must be an object, got {line:.50}")
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = text_table({name: [scalar(row.get(name)) for row in rows] for name in names})
    return Columns(table, (), lambda name: first_nested(row.get(name) for row in rows))


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        raise SettingsError(f"it names {next(name for name in names if names.count(name) > 1)!r} more than once")
    return entries


def write_table(path: Path, table: pa.Table) -> None:
    """Write the columns of ``table`` to ``path``, in the format that its name ends in; nulls are empty cells."""
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise RecordsError(f"{path} names no kind of table: the name must end in {', '.join(WRITERS)}")
    replace_bytes(path, writer(table))


def _csv(table: pa.Table, delimiter: str = ",") -> bytes:
    rows = [table.column_names, *zip(*(column.to_pylist() for column in table.columns), strict=True)]
    # Python's writer quotes a cell with a line feed, and not one with a carriage return, which ends a line as well.
    returns = any("\r" in str(cell) for row in rows for cell in row)
    text = io.StringIO(newline="")
    quoting: Literal[0, 1] = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
    csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=quoting).writerows(rows)
    return text.getvalue().encode("utf-8")


def _parquet(table: pa.Table) -> bytes:
    content = io.BytesIO()
    pq.write_table(table, content)
    return content.getvalue()


def _jsonl(table: pa.Table) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode("ascii")


# By the end of the name.
WRITERS: Mapping[str, Callable[[pa.Table], bytes]] = {
    ".csv": _csv,
    ".tsv": partial(_csv, delimiter="\t"),
    ".parquet": _parquet,
    ".jsonl": _jsonl,
}
