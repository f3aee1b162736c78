"""Tables of text, csv and tsv: read strictly, so that no row is lost, and none taken for a part of another.

A quote that opens a cell and does not close as it should takes the rows behind it into that cell; here it is an error
that names its row. Which delimiter and encoding a file has is detected.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import Literal, NamedTuple, TextIO

import pyarrow as pa

from cache.errors import RecordsError

_DELIMITERS = (",", ";", "\t", "|")
_QUOTING: dict[bool, Literal[0, 3]] = {True: csv.QUOTE_MINIMAL, False: csv.QUOTE_NONE}
_BATCH = 1 << 16  # rows that are lists of Python texts at a time
_SAMPLE = 1 << 16  # characters that the delimiter is detected from
_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}  # fmt: skip


class EncodingError(RecordsError):
    """A file is not text in the encoding that it was read in."""


class Dialect(NamedTuple):
    """How a table of text is written; None: as is detected. ``quoted`` cells may hold delimiters and line breaks."""

    delimiter: str | None = None
    encoding: str | None = None
    quoted: bool = True


def read_delimited(path: Path, dialect: Dialect) -> tuple[pa.Table, tuple[str, ...]]:
    """The columns of a csv or tsv as text, and notes on what was detected. RecordsError names a row that is odd."""
    encoding = dialect.encoding or detect_encoding(path)
    notes = [f"{path} is read as {encoding}"] if dialect.encoding is None and encoding[:5] != "utf-8" else []
    try:
        with path.open(encoding=encoding, newline="") as file:
            delimiter = dialect.delimiter or _detect_delimiter(file, path, quoted=dialect.quoted)
            if dialect.delimiter is None and delimiter != _usual(path):
                notes.append(f"the cells of {path} are separated by {delimiter!r}")
            spanning: list[tuple[int, int, int]] = []
            rows = _rows(path, file, delimiter, spanning, quoted=dialect.quoted)
            header = next(rows, [])
            batches = []
            while batch := list(islice(rows, _BATCH)):
                columns = zip(*batch, strict=True)
                batches.append(pa.table([pa.array(column, pa.string()) for column in columns], names=header))
    except (UnicodeError, LookupError) as error:
        raise _not_text(path, encoding, error) from error
    if spanning:
        row, first, last = spanning[0]
        more = f"; so do {len(spanning) - 1:,} rows more" if len(spanning) > 1 else ""
        notes.append(
            f"{path}, row {row} spans lines {first} to {last}: a cell of it, in quotes, holds what could be rows. "
            f"Check that its quotes belong there{more}"
        )
    empty = pa.table([pa.array([], pa.string()) for _ in header], names=header)
    return pa.concat_tables(batches or [empty]), tuple(notes)


def _rows(
    path: Path, file: TextIO, delimiter: str, spanning: list[tuple[int, int, int]], *, quoted: bool
) -> Iterator[list[str]]:
    """The cells of the header and of each row below it, as many of each; empty lines are passed over.

    ``spanning`` collects row, first and last line of those with a cell that could be whole rows: two quotes, each
    without its partner, make one cell of all between them, with K line breaks K rows.
    """
    reader = csv.reader(file, delimiter=delimiter, quoting=_QUOTING[quoted], strict=True)
    wanted, row = 0, -1
    while True:
        line = reader.line_num
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise RecordsError(
                f"{path}, row {max(1, row + 1)} (line {line + 1}): a quote opens a cell there and does not close as it "
                f"should ({error}). Close it; within a cell in quotes write a quote twice; or, where quotes are "
                "letters like any other, set quoted = false"
            ) from None
        if cells is None:
            return
        if not cells:
            continue
        wanted, row = wanted or len(cells), row + 1
        if len(cells) != wanted:
            raise RecordsError(
                f"{path}, row {row} (line {line + 1}) has {len(cells)} cells; the first line names {wanted} columns, "
                f"separated by {delimiter!r}. Mend the row (a cell that holds the separator stands in quotes), or name "
                "the separator: delimiter = '...'"
            )
        if row and reader.line_num > line + 1:
            breaks = [(cell, len(re.findall(r"\r\n|\r|\n", cell))) for cell in cells]
            if any(count > 0 and cell.count(delimiter) == count * (wanted - 1) for cell, count in breaks):
                spanning.append((row, line + 1, reader.line_num))
        yield cells


def _usual(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _detect_delimiter(file: TextIO, path: Path, *, quoted: bool) -> str:
    """The one that makes the most columns of the header, and as many of each row; the usual one where it can."""
    text = file.read(_SAMPLE)
    file.seek(0)
    widths = {}
    for delimiter in _DELIMITERS:
        rows = list(filter(None, csv.reader(io.StringIO(text, ""), delimiter=delimiter, quoting=_QUOTING[quoted])))
        if len(text) == _SAMPLE:  # the last one goes on
            del rows[-1]
        if rows and all(len(row) == len(rows[0]) for row in rows):
            widths[delimiter] = len(rows[0])
    usual = _usual(path)
    return usual if widths.get(usual, 0) > 1 else max([usual, *widths], key=lambda delimiter: widths.get(delimiter, 1))


def detect_encoding(path: Path) -> str:
    """UTF-16 and UTF-32 by their mark, UTF-16 without one by its zeros; else UTF-8."""
    with path.open("rb") as file:
        head = file.read(1000)
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    zeros = [head[start::2].count(0) for start in (0, 1)]
    if max(zeros) > len(head) / 4 and min(zeros) == 0:
        return "utf-16-be" if zeros[0] else "utf-16-le"
    return "utf-8"


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _not_text(path: Path, encoding: str, error: Exception) -> EncodingError:
    """The error that names the first line which is not text; by bytes, as what is read ahead of a row fails with it."""
    line = None
    if encoding.startswith("utf-8"):
        with path.open("rb") as file:
            line = 1 + sum(1 for _ in takewhile(_is_utf8, file))
    where = f", row {max(1, line - 1)} (line {line})" if line is not None else ""
    return EncodingError(
        f"{path}{where} is not {encoding}: {error}. Save the table as UTF-8, or name its encoding: encoding = 'cp1252' "
        "(Windows, Western Europe), 'latin-1', 'utf-16', ..."
    )
