"""Files that hold a checksum of themselves, so that a flipped bit is noticed when they are read.

A sealed Parquet file ends with the crc32c of the whole file, as it is with zeros in that place; a sealed JSON object
has the crc32c of its other members beside them. What was written without is read as it is.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq

from cache.errors import DamagedStoreError, StoreError
from cache.storage import Storage

_SEAL = b"crc32c:"
_BLANK = b"0" * 8
_MEMBER = "crc32c"


def parquet_bytes(table: pa.Table, metadata: Mapping[bytes, str], **options: Any) -> bytes:
    """The sealed Parquet file of ``table`` with ``metadata`` beside it; ``options`` are those of ``write_table``."""
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({**metadata, b"seal": _SEAL + _BLANK}), buffer, **options)
    content = bytearray(buffer.getbuffer())
    place = content.rindex(_SEAL) + len(_SEAL)
    content[place : place + len(_BLANK)] = b"%08x" % google_crc32c.value(bytes(content))
    return bytes(content)


def read_parquet(content: bytes) -> pa.Table:
    """The table of a Parquet file. Raises ValueError (as Arrow's errors are) where its bytes are not those written."""
    place = content.rfind(_SEAL) + len(_SEAL)
    if place >= len(_SEAL):
        end = place + len(_BLANK)
        if content[place:end] != b"%08x" % google_crc32c.value(content[:place] + _BLANK + content[end:]):
            raise ValueError("wrong crc32c")
    with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
        table = file.read()
    table.validate(full=True)
    return table


def json_text(value: Mapping[str, Any]) -> str:
    """The sealed JSON of the object ``value``, indented.

    >>> read_json(json_text({"a": 1}))
    {'a': 1}
    >>> read_json(json_text({"a": 1}).replace("1", "3", 1))
    Traceback (most recent call last):
    ValueError: wrong crc32c
    """
    return json.dumps({**value, _MEMBER: _checksum(value)}, indent=1) + "\n"


def read_json(content: str | bytes) -> dict[str, Any]:
    """The object that :func:`json_text` wrote. Raises ValueError where it is none, or not the one written."""
    value = json.loads(content)
    if not isinstance(value, dict):
        raise ValueError(f"it must hold an object, got {type(value).__name__}")
    if value.pop(_MEMBER, None) not in (None, _checksum(value)):
        raise ValueError("wrong crc32c")
    return value


def read_sealed(storage: Storage, key: str, mend: str, version: int | None = None) -> dict[str, Any]:
    """The object at ``key`` that :func:`json_text` wrote, of the ``version`` of its format where given.

    Raises FileNotFoundError, DamagedStoreError, which says how to ``mend`` it, and StoreError for a newer version.
    """
    content = storage.read(key)
    try:
        written = json.loads(content)
        own = written.get("version") if isinstance(written, dict) else None
        if version is not None and isinstance(own, int) and own > version:
            raise StoreError(
                f"{storage.address(key)} is of format {own}, and this Permafrost reads up to {version}. "
                "Install a newer one: pip install -U permafrost-retrieval."
            )
        value = read_json(content)
        if version is not None and own != version:
            raise ValueError(f"it is of version {own!r}, and this reads version {version}")
    except ValueError as error:
        raise DamagedStoreError(f"{storage.address(key)} is not as it was written: {error}. {mend}") from error
    return value


def _checksum(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True)  # a tuple is written, and read again, as a list
    return f"{google_crc32c.value(text.encode()):08x}"
