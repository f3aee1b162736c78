"""The commands of what is stored: ``inspect``, ``verify``, ``compact``, and ``features`` for other programs."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from cache import Features, FeatureStore, Provenance
from cache import compact as compact_store
from cache.atomic import disk_errors
from cache.errors import ConfigError, StoreError
from cache.storage import storage_of
from pipeline import stores
from pipeline.commands.options import Head, Json, OneBackbone, Quiet, RunFile, RunFileOrStore, RunFiles, emit
from pipeline.config import read_config
from pipeline.dataset import Run, open_run, read_dataset, recalled
from pipeline.progress import Display
from pipeline.score_rows import RAW
from pipeline.vectors import find_chosen
from stages.records import Records


def inspect(path: RunFileOrStore, json: Json = False) -> None:
    """Print what a store holds: identity, provenance, rows, failures, bytes."""
    uris: dict[bytes, str] = {}  # with a run file, failures are named by their images
    if stores.is_run_file(path):
        records = read_dataset(read_config(path), Display(quiet=True, warnings=False))
        uris = dict(zip(records.digests, records.uris, strict=True))
    for storage in stores.find_stores(path):
        facts = _facts(FeatureStore(storage), uris)
        emit(json, _text(facts), facts)


def _facts(store: FeatureStore, uris: dict[bytes, str]) -> dict[str, Any]:
    return {
        "store": store.address,
        "fingerprint": store.fingerprint,
        "rows": dict(sorted(store.counts().items())),
        "chunks": len(store.chunks()),
        "dim": store.dim,
        "dtype": str(store.dtype),
        "bytes": store.size_bytes(),
        "identity": dict(store.identity.fields),
        "provenance": json_module.loads(Provenance.merged([*map(store.provenance, store.chunks())]).to_json()),
        "failures": [
            {"digest": digest.hex(), "image": uris.get(digest), "status": outcome.status, "reason": outcome.error}
            for digest, outcome in store.failures()
        ],
    }


def _text(facts: dict[str, Any]) -> str:
    lines = [str(facts["store"])]
    for key, value in list(facts.items())[1:]:
        if isinstance(value, dict):
            text = json_module.dumps(value, indent=2, sort_keys=True) if key == "identity" else json_module.dumps(value)
            lines.append(f"  {key}: " + text.replace("\n", "\n  "))
        elif isinstance(value, list):
            lines.append(f"  {key}: {len(value):,}")
            lines += [f"    {entry['image'] or entry['digest'][:16] + '...'}: {entry['reason']}" for entry in value]
        else:
            lines.append(f"  {key}: {value:,}" if isinstance(value, int) else f"  {key}: {value}")
    return "\n".join(lines)


def verify(path: RunFileOrStore, json: Json = False) -> None:
    """Check every checksum and every row of the stores, and with a run file every head, index and score too."""
    sound = True
    files = stores.verify_files(storage_of(read_config(path).artifacts)) if stores.is_run_file(path) else ()
    for verified in chain(stores.verify_stores(stores.find_stores(path)), files):
        problems, store = verified.problems, verified.store
        sound &= not problems
        if store is not None:
            chunks, images = len(store.chunks()), len(store)
            verdict = f"{len(problems):,} problems" if problems else "every checksum and row is right"
            text = [f"{store.address}: {chunks:,} chunks, {images:,} images: {verdict}", *problems]
            line = {"store": store.address, "chunks": chunks, "images": images, "problems": problems}
            emit(json, "\n  ".join(text), line)
        else:
            emit(json, problems[0], {"file": verified.address, "problems": problems})
    if not sound:
        raise typer.Exit(1)


def compact(
    run_files: RunFiles,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be dropped.")] = False,
) -> None:
    """Drop the rows that none of the run files lists, and heads, embeddings, indexes and scores that none names."""
    runs: dict[Path, list[Run]] = {}
    for run_file in run_files:
        run = open_run(run_file, quiet=True)
        unread, as_it_was = run.records.unreadable().uris, recalled(run.config, run.records)
        _say_unread(run_file, unread, as_it_was.unreadable().uris)
        runs.setdefault(run.artifacts, []).extend([run, *([replace(run, records=as_it_was)] if unread else [])])
    listed = {digest for named in runs.values() for run in named for digest in run.records.digests}
    for folder, named in sorted(runs.items()):
        gone = stores.unnamed(folder, named)
        for path in gone:
            megabytes = f"{stores.size_of(path) / 1e6:,.1f} MB"
            if yes:
                stores.remove(path)
            typer.echo(f"{path}: {megabytes} {'removed' if yes else 'would be removed'}, as no run file names it")
        for store in stores.stores_below(folder):
            if any(store.path.is_relative_to(path) for path in gone):
                continue
            if yes:
                done = compact_store(store, listed)
                chunks = f"{done.chunks_before} -> {done.chunks_after} chunks"
                typer.echo(f"{store.address}: {done.dropped:,} rows dropped, {chunks}")
            else:
                digests = (digest for rows in store.chunks().values() for digest in rows["digest"].to_pylist())
                unlisted = sum(digest not in listed for digest in digests)
                typer.echo(f"{store.address}: {unlisted:,} rows would be dropped")
    if not yes:
        typer.echo("Nothing was changed. Other run files may share these folders: name them all, then add --yes.")


def _say_unread(run_file: str, uris: list[str], unknown: list[str]) -> None:
    """Name what cannot be read. StoreError where an image may have a row that is not known to be its own."""
    if not uris:
        return
    if lost := [uri for uri in unknown if not Path(uri).is_symlink()]:
        raise StoreError(
            f"{len(lost):,} images of {run_file} cannot be read now, the first of them {lost[0]}, so their rows cannot "
            "be told from those that no dataset lists. Bring them back (is a disk missing?), or drop them from the "
            "table."
        )
    typer.echo(
        f"{len(uris):,} images of {run_file} cannot be read now, the first of them {uris[0]}: "
        "rows of what they were when they were read last stay"
    )


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
