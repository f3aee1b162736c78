"""The rows of a chunk as a Parquet fragment: what commits the chunk, and what the store knows without its array."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cache.atomic import replace_bytes

Status = Literal["ok", "failed", "unread"]

SCHEMA = pa.schema(
    [
        pa.field("digest", pa.binary(32), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
    ]
)


class RowOutcome(NamedTuple):
    """What became of one image.

    ``ok``: its feature is stored. ``failed``: these bytes give no feature, and will not next time (``error`` says
    why). ``unread``: the bytes could not be read this time (gone, or changed meanwhile), so the next run tries again.
    """

    status: Status = "ok"
    width: int = 0
    height: int = 0
    error: str = ""


def rows_table(digests: Sequence[bytes], outcomes: Sequence[RowOutcome]) -> pa.Table:
    """The rows (n) of a chunk as a table with the columns of ``SCHEMA``."""
    columns = [list(digests), *(list(column) for column in zip(*outcomes, strict=True))]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def write_fragment(path: Path, rows: pa.Table, provenance: str) -> None:
    """Commit a chunk: write its rows whole, by temporary file and rename."""
    buffer = io.BytesIO()
    table = rows.replace_schema_metadata({"provenance": provenance})
    pq.write_table(table, buffer, compression="none", use_dictionary=["status"])
    replace_bytes(path, buffer.getbuffer())


def read_fragment(path: Path) -> pa.Table:
    """The rows of one committed chunk. Raises ``pa.ArrowException`` or OSError on damaged bytes."""
    with pq.ParquetFile(path) as file:
        return file.read()


class RowIndex:
    """Where each digest's row is, over all committed chunks.

    A digest can have several rows (a failed one, then one that a later run got right): an ``ok`` row counts before a
    ``failed`` one, and that before an ``unread`` one; among equals the first, which holds the same numbers.
    """

    def __init__(self, chunks: Mapping[int, pa.Table], chunk_rows: int) -> None:
        numbers = sorted(chunks)
        table = pa.concat_tables([SCHEMA.empty_table(), *(chunks[n].select(SCHEMA.names) for n in numbers)])
        starts = [np.arange(chunks[n].num_rows, dtype=np.int64) + n * chunk_rows for n in numbers]
        rows = np.concatenate(starts) if starts else np.empty(0, np.int64)
        rank = np.asarray(pc.index_in(table["status"], pa.array(["ok", "failed", "unread"])))
        if rank.any():  # otherwise all rows are ok and stand in order
            order = np.argsort(rank, kind="stable")
            table, rows, rank = table.take(order), rows[order], rank[order]
        self.table = table
        self.rows: npt.NDArray[np.int64] = rows
        self.ok: npt.NDArray[np.bool_] = rank == 0
        self._settled: npt.NDArray[np.bool_] = np.append(rank < 2, False)  # place -1 is the one appended
        self._digests = table["digest"].combine_chunks()

    def find(self, digests: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """The place in :attr:`table` of each of ``digests`` (n,), -1 where there is none.

        ``b""`` stands for an image that could not be read, and is nowhere.
        """
        asked = pa.array([digest or None for digest in digests], pa.binary(32))
        if asked.equals(self._digests) and self.ok.all():  # a finished dataset, in the order in which it was extracted
            return np.arange(len(asked))
        found = pc.index_in(asked, self._digests, skip_nulls=True)
        return np.asarray(pc.fill_null(found, -1), dtype=np.int64)

    def good(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """True for each of ``places`` (n,) that has a stored feature."""
        with_absent = np.append(self.ok, False)  # place -1 is the one appended
        return with_absent[places]

    def settled(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """True for each of ``places`` (n,) that has a stored feature, or has failed for good."""
        return self._settled[places]

    def outcome(self, place: int) -> RowOutcome:
        """The outcome at ``place`` of :attr:`table`."""
        return RowOutcome(*(self.table[field][place].as_py() for field in RowOutcome._fields))
