"""``permafrost features``: write features or embeddings to one file, for other programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from cache import Features
from cache.atomic import disk_errors
from cache.errors import ConfigError
from pipeline.commands.options import Head, OneBackbone, Quiet, RunFile
from pipeline.config import RAW
from pipeline.dataset import open_run
from pipeline.vectors import find_chosen
from stages.records import Records


def features(
    run_file: RunFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .parquet or .npy file.")],
    head: Head = RAW,
    backbone: OneBackbone = None,
    quiet: Quiet = False,
) -> None:
    """Write the features of a run, or the embeddings of a head, to one file for other programs.

    A .parquet has the columns key, digest, label, split and vector; an .npy the vectors alone, and their keys, one a
    line, are in the file of that name that ends in .keys.txt. Backbones of kind precomputed read both.
    """
    run = open_run(run_file, quiet=quiet)
    if output.suffix not in (".parquet", ".npy"):
        raise ConfigError(f"features are written to .parquet or .npy, got {output}")
    vectors = find_chosen(run, head, backbone)
    part = run.records.take(run.records.rows_in(vectors.store))
    (_write_npy if output.suffix == ".npy" else _write_parquet)(part, vectors.store, output)
    dim = vectors.store.dim
    typer.echo(f"{output}: {len(part):,} vectors of {vectors.backbone} {vectors.head}, {dim:,} numbers each")
    if left_out := len(run.records) - len(part):
        run.display.warn(f"note: {left_out:,} records have no feature and are left out; `permafrost extract` says why")


_AT_ONCE = 8192


_COLUMNS = ("key", "digest", "label", "split")


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
