"""The store's bytes: a plain Zarr v3 group with one array ``features``, (rows, D) or (rows, V, D), a chunk a file.

A chunk file is the little-endian array, uncompressed, with a crc32c of four bytes at its end: what Zarr's ``bytes``
and ``crc32c`` codecs make of a chunk. So ``zarr.open`` and xarray read it, and a memory map does at memory speed.
Files are written whole here (beside, flush, rename), which Zarr's own writer does not promise.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import google_crc32c
import numpy as np
import numpy.typing as npt

from cache.atomic import replace_bytes
from cache.errors import DamagedStoreError
from cache.fingerprint import JSON

ARRAY = "features"
_CHECKSUM_BYTES = 4


def write_metadata(
    store: Path,
    rows: int,
    row_shape: tuple[int, ...],
    dtype: np.dtype[np.generic],
    chunk_rows: int,
    attributes: dict[str, JSON],
) -> None:
    """Write ``zarr.json`` of the group and of its array: ``rows`` rows, each of shape (D,), or (V, D) for V views."""
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
        dimension_names=("row", "feature") if len(row_shape) == 1 else ("row", "view", "feature"),
    )
    for key in (f"{ARRAY}/zarr.json", "zarr.json"):
        (store / key).parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(store / key, written[key].to_bytes())


def read_shape(store: Path) -> tuple[int, tuple[int, ...], np.dtype[np.generic], int]:
    """Rows, the shape of a row, dtype and rows a chunk of the array, from its ``zarr.json``."""
    path = store / ARRAY / "zarr.json"
    try:
        metadata = json.loads(path.read_bytes())
        rows, *row_shape = metadata["shape"]
        chunk_rows = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        return rows, tuple(row_shape), np.dtype(metadata["data_type"]), chunk_rows
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedStoreError(f"{path} should describe the array of the store, but: {error}") from error


def chunk_path(store: Path, number: int, row_shape: tuple[int, ...]) -> Path:
    """Where the bytes of chunk ``number`` are."""
    return chunk_folder(store, number).joinpath(*("0" for _ in row_shape))


def chunk_folder(store: Path, number: int) -> Path:
    """The folder of chunk ``number``, which holds its file and nothing else."""
    return store / ARRAY / "c" / str(number)


def chunk_numbers(store: Path) -> list[int]:
    """The numbers of all chunk files present, committed or not, ascending."""
    folders = [folder for folder in (store / ARRAY / "c").glob("*/") if folder.name.isdecimal()]
    return sorted(int(folder.name) for folder in folders if any(path.is_file() for path in folder.rglob("*")))


def write_chunk_file(path: Path, block: npt.NDArray[np.floating]) -> None:
    """Write ``block`` (chunk rows, ...) in its own dtype, with its checksum, whole."""
    raw = np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("<")).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, raw + google_crc32c.value(raw).to_bytes(_CHECKSUM_BYTES, "little"))


def map_chunk(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic]
) -> np.memmap[tuple[int, ...], np.dtype[np.generic]]:
    """The chunk's array of ``shape`` (chunk rows, ...) as a read-only memory map. The checksum is not read."""
    number = path.relative_to(path.parents[len(shape) - 1]).parts[0]
    wanted = math.prod(shape) * dtype.itemsize + _CHECKSUM_BYTES
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DamagedStoreError(f"{path} is committed but cannot be read: {error}. {mend(number)}") from error
    if size != wanted:
        raise DamagedStoreError(f"{path} should have {wanted:,} bytes and has {size:,}. {mend(number)}")
    return np.memmap(path, dtype=dtype.newbyteorder("<"), mode="r", shape=shape)


def checksum_holds(path: Path) -> bool:
    """True when the four bytes at the end are the crc32c of all bytes before them."""
    content = memoryview(path.read_bytes())
    expected = int.from_bytes(content[-_CHECKSUM_BYTES:], "little")
    return bool(google_crc32c.value(bytes(content[:-_CHECKSUM_BYTES])) == expected)


def mend(number: int | str) -> str:
    """What to do about a damaged chunk."""
    return f"Delete rows/{number}.parquet in the store, and extract again: only this chunk is computed anew."
