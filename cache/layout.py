"""The store's bytes: a plain Zarr v3 group with one array ``features``, (rows, D) or (rows, V, D), a chunk a file.

A chunk file is the little-endian array, uncompressed, with its crc32c at the end, as Zarr's codecs make it: so Zarr
reads it, and a memory map does. Files are written whole here, which Zarr's own writer does not promise.

Chunks that lie far away have local copies, known by their checksum: read once, then mapped. They lie in
``$PERMAFROST_CACHE/copies``, by default ``~/.cache/permafrost/copies``, and can be deleted at any moment. A copy is
verified when it is opened, so a damaged one is read again; one that would leave less than a gigabyte of the disk free
is not made. Those of bundles, which open by them alone, lie in ``bundles`` beside, and are made in any case.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cache.atomic import PARTIAL, disk_errors, replace_bytes
from cache.errors import DamagedStoreError, UnwritableError
from cache.fingerprint import JSON, digest_bytes
from cache.object_storage import ObjectStorage
from cache.rows import checksum_of, row_checksums
from cache.storage import Storage

ARRAY = "features"
_CHUNKS = f"{ARRAY}/c/"
_GROUP, _DESCRIPTION = "zarr.json", f"{ARRAY}/zarr.json"
MEND_METADATA = (
    "Delete every zarr.json and identity.json of the store, and extract again: they are written anew, and no row is "
    "computed."
)
_CONSOLIDATED = "consolidated_metadata"
_CHECKSUM_BYTES = 4
_LEAST_FREE_BYTES = 1_000_000_000
_PART_BYTES = 1 << 26
_verified: set[tuple[str, int]] = set()  # address and checksum of every chunk that this process has verified


def metadata_files(
    rows: int, row_shape: tuple[int, ...], dtype: np.dtype[np.generic], chunk_rows: int, attributes: dict[str, JSON]
) -> dict[str, bytes]:
    """The two ``zarr.json`` by key: ``rows`` rows, each of shape (D,), or (V, D) for V views."""
    import zarr
    from zarr.codecs import BytesCodec
    from zarr.core.buffer import Buffer
    from zarr.storage import MemoryStore

    written: dict[str, Buffer] = {}
    group = zarr.create_group(MemoryStore(written), attributes=attributes)
    group.create_array(
        ARRAY,
        shape=(rows, *row_shape),
        chunks=(chunk_rows, *row_shape),
        dtype=dtype,
        fill_value=np.nan,
        serializer=BytesCodec(endian="little"),
        compressors=zarr.codecs.Crc32cCodec(),
        filters=None,
        dimension_names=dimension_names(len(row_shape)),
    )
    described, array = (json.loads(written[key].to_bytes()) for key in (_GROUP, _DESCRIPTION))
    return {_DESCRIPTION: written[_DESCRIPTION].to_bytes(), _GROUP: _group_with(described, array)}


def dimension_names(row_axes: int) -> tuple[str, ...]:
    """What the axes of the array are called, where a row has ``row_axes`` of them."""
    return ("row", "feature") if row_axes == 1 else ("row", "view", "feature")


def read_shape(storage: Storage) -> tuple[int, tuple[int, ...], np.dtype[np.generic], int]:
    """Rows, the shape of a row, dtype and rows a chunk of the array, from its ``zarr.json``."""
    try:
        metadata = json.loads(storage.read(_DESCRIPTION))
        rows, *row_shape = metadata["shape"]
        chunk_rows = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        return rows, tuple(row_shape), np.dtype(metadata["data_type"]), chunk_rows
    except (OSError, ValueError, KeyError, TypeError) as error:
        address = storage.address(_DESCRIPTION)
        raise DamagedStoreError(f"{address} does not describe the array: {error}. {MEND_METADATA}") from error


def resize(storage: Storage, rows: int) -> None:
    """Make the array ``rows`` rows long; in the group first, as the array's own description is what counts."""
    if rows != read_shape(storage)[0]:
        metadata = json.loads(storage.read(_DESCRIPTION))
        metadata["shape"][0] = rows
        group = json.loads(storage.read(_GROUP))
        if _CONSOLIDATED in group:
            storage.put(_GROUP, _group_with(group, metadata))
        storage.put(_DESCRIPTION, json.dumps(metadata, indent=2).encode())


def group_is_right(storage: Storage) -> bool:
    """Whether the group describes the array as the array does; a group of version 0.1.0 does not describe it."""
    consolidated = json.loads(storage.read(_GROUP)).get(_CONSOLIDATED)
    return consolidated is None or consolidated == _consolidated(json.loads(storage.read(_DESCRIPTION)))


def _consolidated(array: dict[str, JSON]) -> dict[str, JSON]:
    return {"kind": "inline", "must_understand": False, "metadata": {ARRAY: array}}


def _group_with(group: dict[str, JSON], array: dict[str, JSON]) -> bytes:
    """The group with the description of its ``array``: Zarr then lists no folder, where our files would be strange."""
    return json.dumps(group | {_CONSOLIDATED: _consolidated(array)}, indent=2).encode()


def chunk_key(number: int, row_shape: tuple[int, ...]) -> str:
    """The key of the data of chunk ``number``."""
    return "/".join([f"{_CHUNKS}{number}", *("0" for _ in row_shape)])


def chunk_numbers(storage: Storage) -> list[int]:
    """The numbers of all chunks with data, committed or not, ascending."""
    names = {key.removeprefix(_CHUNKS).partition("/")[0] for key in storage.list(_CHUNKS)}
    return sorted(int(name) for name in names if name.isdecimal())


def stored_checksum(storage: Storage, number: int, row_shape: tuple[int, ...]) -> int | None:
    """The crc32c at the end of the data of chunk ``number``, not verified; None where there are no data."""
    key = chunk_key(number, row_shape)
    try:
        return int.from_bytes(storage.read(key, max(0, storage.size(key) - _CHECKSUM_BYTES)), "little")
    except OSError:
        return None


def delete_chunk(storage: Storage, number: int) -> None:
    """Delete the data of chunk ``number``."""
    for key in storage.list(f"{_CHUNKS}{number}/"):
        storage.delete(key)


def chunk_bytes(block: npt.NDArray[Any]) -> tuple[bytes, int]:
    """The file of the chunk ``block`` (chunk rows, ...) in its own dtype, and the crc32c at its end."""
    raw = np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("<")).tobytes()
    checksum: int = google_crc32c.value(raw)
    return raw + checksum.to_bytes(_CHECKSUM_BYTES, "little"), checksum


def map_chunk(
    storage: Storage,
    number: int,
    shape: tuple[int, ...],
    dtype: np.dtype[np.generic],
    *,
    rows: pa.Table,
    mend: str,
    verify_again: bool = False,
) -> npt.NDArray[np.generic]:
    """The array of chunk ``number``, of ``shape`` (chunk rows, ...), read-only; a memory map where there is one.

    The first time (each time with ``verify_again``) its bytes must have the crc32c at their end, and that must be the
    one committed with the ``rows``; or each row must have its own, where the data hold more rows that are being
    committed. An error ends with ``mend``.
    """
    key = chunk_key(number, shape[1:])
    address, committed = storage.address(key), checksum_of(rows)
    try:
        if isinstance(storage, ObjectStorage):
            through = committed is not None and not verify_again
            content = read_through(storage, key, committed or 0) if through else memoryview(storage.read(key))
            verify_again = True  # bytes that were sent are other bytes each time
        else:
            content = storage.map(key) or memoryview(storage.read(key))
    except OSError as error:
        raise DamagedStoreError(f"{address} is committed but cannot be read: {error}. {mend}") from error
    wanted = math.prod(shape) * dtype.itemsize + _CHECKSUM_BYTES
    if len(content) != wanted:
        raise DamagedStoreError(f"{address} should have {wanted:,} bytes and has {len(content):,}. {mend}")
    block = np.frombuffer(content, dtype.newbyteorder("<"), count=math.prod(shape)).reshape(shape)
    written = int.from_bytes(content[-_CHECKSUM_BYTES:], "little")
    if verify_again or (address, written) not in _verified or committed not in (None, written):
        right = written == google_crc32c.value(np.frombuffer(content, np.uint8)[:-_CHECKSUM_BYTES])
        if right and committed not in (None, written):
            right = np.array_equal(row_checksums(block[: len(rows)]), rows["crc32c"])
        if not right:
            raise DamagedStoreError(f"{address} does not hold the bytes that were committed: wrong crc32c. {mend}")
        _verified.add((address, written))
    return block


def read_few(
    storage: ObjectStorage,
    number: int,
    positions: npt.NDArray[np.int64],
    row_shape: tuple[int, ...],
    dtype: np.dtype[np.generic],
    rows: pa.Table,
) -> npt.NDArray[np.generic] | None:
    """The rows (n, ...) at ``positions`` of chunk ``number``, by range, each verified.

    None where that cannot be done, or there is a copy of the chunk, which is read faster.
    """
    key, committed = chunk_key(number, row_shape), checksum_of(rows)
    if committed is None or copy_path(storage, key, committed).exists():
        return None
    row_bytes = math.prod(row_shape) * dtype.itemsize
    content = b"".join(storage.read_ranges(key, (positions * row_bytes).tolist(), row_bytes))
    if len(content) != len(positions) * row_bytes:
        return None
    block = np.frombuffer(content, dtype.newbyteorder("<")).reshape(len(positions), *row_shape)
    return block if np.array_equal(row_checksums(block), rows["crc32c"].take(pa.array(positions))) else None


def cache_folder() -> Path:
    """Where this machine keeps what only saves time: ``$PERMAFROST_CACHE``, or ``~/.cache/permafrost``."""
    folder = os.environ.get("PERMAFROST_CACHE")
    return Path(folder) if folder else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "permafrost"


def copy_path(storage: Storage, key: str, checksum: int) -> Path:
    """Where the copy of the object at ``key`` is whose bytes before the last four have the crc32c ``checksum``."""
    return cache_folder() / "copies" / f"{digest_bytes(storage.address(key).encode()).hex()[:32]}-{checksum:08x}"


def read_through(storage: Storage, key: str, checksum: int) -> memoryview:
    """The bytes at ``key``, which end with their crc32c: from the copy, which is made where there is none.

    What does not have the ``checksum`` is returned as it was read, without a copy: who asked finds what is wrong.
    """
    path = copy_path(storage, key, checksum)
    with suppress(OSError, ValueError):
        with path.open("rb") as file:
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if _is_right(mapped, checksum):
            return mapped
    content = memoryview(storage.read(key))
    if _is_right(content, checksum):
        with suppress(OSError, UnwritableError):  # it only saves time
            path.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(path.parent).free - len(content) > _LEAST_FREE_BYTES:
                replace_bytes(path, content)
    return content


def copy_object(storage: Storage, key: str, path: Path) -> None:
    """Make the file ``path`` a copy of the object at ``key``, whole or not at all; a part at a time is in memory."""
    size = storage.size(key)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}{PARTIAL}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = partial.open("wb")
    try:
        with file:
            for start in range(0, size, _PART_BYTES):
                content = storage.read(key, start, min(size, start + _PART_BYTES))
                with disk_errors(path):
                    file.write(content)
        with disk_errors(path):
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _is_right(content: memoryview, checksum: int) -> bool:
    whole = np.frombuffer(content, np.uint8)
    return content[-4:] == checksum.to_bytes(4, "little") and google_crc32c.value(whole[:-4]) == checksum
