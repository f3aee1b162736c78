"""The rows of a chunk as a Parquet fragment: what commits the chunk, and what the store knows without its array."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from cache.errors import DamagedStoreError
from cache.identity import Provenance
from cache.storage import Storage

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
_FOLDER = "rows/"
_SUFFIX = ".parquet"
_PROVENANCE = b"provenance"
_CHECKSUM = b"features_crc32c"


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


def fragment_key(number: int) -> str:
    """The key of the rows of chunk ``number``."""
    return f"{_FOLDER}{number}{_SUFFIX}"


def fragment_numbers(storage: Storage) -> list[int]:
    """The numbers of all committed chunks, ascending."""
    names = (key.removeprefix(_FOLDER).removesuffix(_SUFFIX) for key in storage.list(_FOLDER) if key.endswith(_SUFFIX))
    return sorted(int(name) for name in names if name.isdecimal())


def fragment_bytes(rows: pa.Table, provenance: Provenance, checksum: int) -> memoryview:
    """The Parquet file that commits a chunk whose data have the crc32c ``checksum``."""
    buffer = io.BytesIO()
    table = rows.replace_schema_metadata({_PROVENANCE: provenance.to_json(), _CHECKSUM: str(checksum)})
    pq.write_table(table, buffer, compression="none", use_dictionary=["status"], write_page_checksum=True)
    return buffer.getbuffer()


def read_fragment(storage: Storage, number: int, mend: str) -> pa.Table:
    """The rows of one committed chunk. Raises :class:`DamagedStoreError` with the sentence ``mend``."""
    key = fragment_key(number)
    try:
        content = pa.BufferReader(storage.read(key))
        with pq.ParquetFile(content, page_checksum_verification=True) as file:
            table = file.read()
        table.validate(full=True)
        if not table.schema.equals(SCHEMA) or set(table["status"].unique().to_pylist()) - set(get_args(Status)):
            raise DamagedStoreError("it does not have the columns of a store's rows")
        checksum_of(table)
    except (pa.ArrowException, OSError, ValueError, DamagedStoreError) as error:
        raise DamagedStoreError(f"{storage.address(key)} cannot be read: {error}. {mend}") from error
    return table


def provenance_of(rows: pa.Table) -> Provenance:
    """Where the chunk of ``rows`` was computed."""
    return Provenance.from_json(rows.schema.metadata[_PROVENANCE])


def checksum_of(rows: pa.Table) -> int | None:
    """The crc32c of the data that ``rows`` were committed with; None in a store of version 0.1.0."""
    written = rows.schema.metadata.get(_CHECKSUM)
    return None if written is None else int(written)
