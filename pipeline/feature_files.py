"""Features and embeddings as one file, for programs that know nothing of stores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cache import Features
from cache.atomic import disk_errors
from cache.errors import ConfigError
from stages.records import Records

_AT_ONCE = 8192
_COLUMNS = ("key", "digest", "label", "split")


def write_features(records: Records, store: Features, path: Path | str) -> int:
    """Write the vectors of ``records`` in ``store`` to ``path``; how many there were.

    ``.parquet`` gets the columns key, digest, label, split and vector; ``.npy`` the vectors (n, D) alone, and their
    keys, one a line, go to the same name with ``.keys.txt``. ``kind = "precomputed"`` reads both. Records without a
    feature are left out. Raises ConfigError for another ending, and for keys with line breaks in an ``.npy``.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".npy"):
        raise ConfigError(f"features are written to .parquet or .npy, got {path}")
    part = records.take(records.rows_in(store))
    (_write_npy if path.suffix == ".npy" else _write_parquet)(part, store, path)
    return len(part)


def _write_npy(part: Records, store: Features, path: Path) -> None:
    if broken := [key for key in part.keys if "\n" in key]:
        raise ConfigError(f"the key {broken[0]!r} holds a line break, which a list of keys cannot; write .parquet")
    path.unlink(missing_ok=True)  # killed between the two files, no vectors stand beside other keys
    with _whole(path.with_suffix(".keys.txt")) as partial:
        partial.write_text("".join(f"{key}\n" for key in part.keys), encoding="utf-8")
    with _whole(path) as partial:
        vectors = np.lib.format.open_memmap(partial, "w+", store.dtype, (len(part), store.dim))
        for low in range(0, len(part), _AT_ONCE):
            vectors[low : low + _AT_ONCE] = store.read(part.digests[low : low + _AT_ONCE])
        vectors.flush()


def _write_parquet(part: Records, store: Features, path: Path) -> None:
    table = part.table.select(_COLUMNS)
    vector = pa.field("vector", pa.list_(pa.from_numpy_dtype(store.dtype), store.dim))
    with _whole(path) as partial, pq.ParquetWriter(partial, table.schema.append(vector)) as writer:
        for low in range(0, len(part), _AT_ONCE):
            rows = store.read(part.digests[low : low + _AT_ONCE])
            lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), store.dim)
            writer.write_table(table.slice(low, _AT_ONCE).append_column(vector, lists))


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A path to write to; it becomes ``path`` once all is written."""
    partial = path.with_name(f".{path.name}.partial")
    with disk_errors(path):
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
