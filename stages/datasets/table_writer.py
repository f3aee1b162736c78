"""Writing a table that :mod:`stages.datasets.table` reads: csv, tsv, parquet or jsonl, whole or not at all."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from cache.atomic import replace_bytes
from cache.errors import RecordsError


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
