"""The images of a folder as a Parquet table of vectors, written in parts so that a run that was killed goes on.

Beside the table lies, until it is whole, ``<table>.parts/<n>.parquet``; each part says what it was made from. It ends
where a batch ends, so the table has the bytes of an uninterrupted run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cache import ImageSource, fingerprint
from cache.atomic import disk_errors, replace_bytes, sync_folder, wait_for_tick
from cache.errors import DamagedStoreError, StoreError
from cache.fingerprint import JSON
from cache.lock import writer_lock
from cache.sealed import parquet_bytes, read_parquet
from pipeline.encoder import Encoder, folder_images

_BATCHES = 32  # of a part
_MADE_FROM = b"permafrost.encoded"


class Written(NamedTuple):
    """A table of vectors: images in it, those encoded now, and why others have no vector, by key."""

    images: int
    computed: int
    failed: dict[str, str]


def encode_folder(
    encoder: Encoder,
    embeddings: str,
    folder: Path,
    output: Path,
    *,
    on_note: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[int, int, str], None] = lambda *_: None,
) -> Written:
    """Write the vectors of all images below ``folder`` to ``output``: key, digest, vector of unit length, and error.

    What an earlier call for the same images has written is not computed again; where a file has changed since, all is,
    which ``on_note`` is told. ``embeddings`` is the fingerprint of what ``encoder`` computes. Raises StoreError where
    ``output`` is another file, StoreBusyError where another process writes it.
    """
    keys = folder_images(folder)
    made_from = fingerprint([embeddings, encoder.batch_size, [*_versions(folder, keys)]])
    parts = output.with_name(f"{output.name}.parts")
    if output.exists():
        if _made_from(output) != made_from:
            raise StoreError(
                f"{output} is there, and is not of these images as they are now and of this bundle. Delete it, or "
                "name another file."
            )
        shutil.rmtree(parts, ignore_errors=True)
        return Written(len(keys), 0, _failed(pq.read_table(output, columns=["key", "error"])))
    with writer_lock(parts / "encode"):
        if other := [part for part in parts.glob("*.parquet") if _made_from(part) not in ("", made_from)]:
            on_note(f"note: {folder} or the bundle has changed since {parts} was written: all is encoded anew")
            for part in other:
                part.unlink()
        size = _BATCHES * encoder.batch_size
        computed = 0
        for number, low in enumerate(range(0, len(keys), size)):
            wanted = keys[low : low + size]
            if _read(parts / f"{number}.parquet") is None:
                table = _encoded(encoder, folder, wanted, partial(_report, on_progress, low, len(keys)))
                replace_bytes(parts / f"{number}.parquet", parquet_bytes(table, {_MADE_FROM: made_from}))
                computed += len(wanted)
            on_progress(low + len(wanted), len(keys), "")
        tables = (parts / f"{number}.parquet" for number in range(-(-len(keys) // size)))
        failed = _join([*tables], output, made_from)
        shutil.rmtree(parts)
    return Written(len(keys), computed, failed)


def _report(on_progress: Callable[[int, int, str], None], before: int, total: int, done: int, *_: object) -> None:
    on_progress(before + done, total, "")


def _encoded(encoder: Encoder, folder: Path, keys: list[str], on_progress: Callable[[int, int, str], None]) -> pa.Table:
    sources = [ImageSource(str(folder / key)) for key in keys]
    vectors, failed, digests, _ = encoder.encode_sources(keys, sources, on_progress=on_progress)
    reasons = {failure.place: failure.reason for failure in failed}
    without = pa.array([place in reasons for place in range(len(keys))])
    return pa.table(
        {
            "key": pa.array(keys, pa.string()),
            "digest": pa.array([digest or None for digest in digests], pa.binary(32)),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1], mask=without),
            "error": pa.array([reasons.get(place) for place in range(len(keys))], pa.string()),
        }
    )


def _join(parts: list[Path], output: Path, made_from: str) -> dict[str, str]:
    """Write the ``parts`` to ``output``, and return why images have no vector."""
    failed: dict[str, str] = {}
    unnamed = parts[0].parent / output.name
    schema = pq.read_schema(parts[0]).with_metadata({_MADE_FROM: made_from})
    with disk_errors(output):
        with unnamed.open("wb") as file:
            with pq.ParquetWriter(file, schema) as writer:
                for part in parts:
                    table = _read(part)
                    if table is None:
                        raise DamagedStoreError(f"{part} was changed meanwhile. Start the same command again.")
                    writer.write_table(table.replace_schema_metadata(schema.metadata))
                    failed |= _failed(table)
            file.flush()
            os.fsync(file.fileno())
        unnamed.rename(output)
        sync_folder(output.parent)
    return failed


def _failed(table: pa.Table) -> dict[str, str]:
    rows = table.select(["key", "error"]).to_pylist()
    return {row["key"]: row["error"] for row in rows if row["error"] is not None}


def _versions(folder: Path, keys: Sequence[str]) -> list[list[JSON]]:
    """What differs, for each of ``keys``, when its file may have other bytes than are read from now on."""
    versions: list[list[JSON]] = []
    newest = 0
    for key in keys:
        try:
            version = ImageSource(str(folder / key)).version()
        except OSError as error:
            versions.append([key, str(error.strerror or error)])
        else:
            versions.append([key, version.text])
            newest = max(newest, version.changed_ns)
    wait_for_tick(newest)
    return versions


def _made_from(output: Path) -> str:
    """What ``output`` was made from; empty where this did not write it."""
    try:
        return str((pq.read_schema(output).metadata or {}).get(_MADE_FROM, b""), "utf-8")
    except (pa.ArrowException, OSError):
        return ""


def _read(path: Path) -> pa.Table | None:
    """The table in ``path`` as it was written, None where there is none."""
    try:
        return read_parquet(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
