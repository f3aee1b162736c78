"""A table with a row for each image: csv, parquet or jsonl. Every value is read as text, so 007 stays 007."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from cache import parse_source
from cache.errors import RecordsError, SettingsError
from stages.datasets.columns import as_text, refuse_absent, scalar, text_table
from stages.datasets.config import ColumnsConfig, Source, as_names


@dataclass(frozen=True, kw_only=True)
class TableConfig(ColumnsConfig):
    """``kind = "table"``: a csv, tsv, parquet or jsonl file with a row for each image.

    Attributes:
        image: the column with the image's path, relative to ``root``, or another URI of :mod:`cache.source`.
        root: what image paths are relative to; by default the table's folder.
        key: by default ``key`` where there is such a column, else the image's path.
    """

    kind: Literal["table"] = "table"
    image: str = "path"
    root: str | None = None

    def read(self) -> Source:
        """Read the named columns; which files exist is not looked at."""
        path = Path(self.path)
        table = read_columns(path)
        root = Path(self.root) if self.root is not None else path.parent
        names = table.column_names
        named = {"key": "key" if "key" in names else self.image} | self.named(names)
        refuse_absent(path, (self.image, *named.values(), *as_names(self.label), *self.attributes), names)
        images = table[self.image].to_pylist()
        for row, image in enumerate(images, 1):
            if image is None:
                raise RecordsError(f"{path}, row {row}: the column {self.image!r}, which names the image, is empty")
        return self.source(table, named, {"uri": [_below(root, image) for image in images]})


def _below(root: Path, image: str) -> str:
    """The URI ``image`` with its path seen from ``root``."""
    source = parse_source(image)
    return source._replace(path=os.path.normpath(root / source.path)).uri


def read_columns(path: Path) -> pa.Table:
    """All columns of a csv, parquet or jsonl file as text, empty cells null."""
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".parquet": pq.read_table, ".jsonl": _read_jsonl}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise RecordsError(
            f"{path} is not a table that can be read: its name must end in {', '.join(readers)}. Or name a folder."
        )
    try:
        table = reader(path)
    except FileNotFoundError:
        raise RecordsError(f"{path} does not exist") from None
    except (pa.ArrowException, ValueError, OSError) as error:
        raise RecordsError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from error
    if table.num_rows == 0:
        raise RecordsError(f"{path} has no rows")
    return pa.table({name: as_text(table[name]) for name in table.column_names})


def _read_csv(path: Path) -> pa.Table:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file, delimiter=delimiter), [])
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise RecordsError(f"{path} has the column {repeated[0]!r} more than once")
    return pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=True, null_values=[""]
        ),
    )


def _read_jsonl(path: Path) -> pa.Table:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise SettingsError("every line must be an object")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return text_table({name: [scalar(row.get(name)) for row in rows] for name in names})
