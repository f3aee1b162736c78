"""Snapshots of a bundle: the images that are searched, written once and never changed.

::

    snapshots/<number>/snapshot.json   embeddings, rows, the next id, the snapshot before, checksums
    snapshots/<number>/rows.parquet    id, key, label, uri, digest, domain and attributes of each image
    snapshots/<number>/vectors.npy     their vectors (G, E), float32 of unit length, in the order of the rows
    snapshots/<number>/index/          the index, where it is not a flat one
    current.json                       {"snapshot": number}

A new one is written beside the others under another name, which one rename makes its own: killed at any instant, a
bundle has all of it or nothing. The newest is the one that the next is made from; the current one is searched. An id
is never given again: each snapshot holds the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cache.atomic import PARTIAL, disk_errors, replace_text, sync_folder
from cache.errors import DamagedStoreError, StaleStoreError
from cache.sealed import json_text
from pipeline.bundle.layout import Bundle, check_files, describe_files, read_sealed
from stages.retrieval import FlatIndexConfig, GalleryIndex

SNAPSHOTS, CURRENT = "snapshots", "current.json"
_FILE, ROWS, VECTORS, INDEX = "snapshot.json", "rows.parquet", "vectors.npy", "index"
_VERSION = 1
_MEND = "Copy the bundle again from where it was made, or export it again."


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The images (G) that a bundle holds at one time.

    ``rows`` has the columns id, key, label, uri, digest, domain and ``attributes.<name>``; ``vectors`` (G, E) are
    float32 of unit length; the ids of ``index`` are those of the rows, ascending.
    """

    number: int
    rows: pa.Table
    vectors: npt.NDArray[np.float32]
    index: GalleryIndex

    def read(self, digests: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """The vectors (n, E) of the images of ``digests`` (n,), as a store gives them."""
        vectors: npt.NDArray[np.float32] = self.vectors[[self._places[digest] for digest in digests]]
        return vectors

    @cached_property
    def _places(self) -> dict[bytes, int]:
        """The row of each digest, made once: a search with an index of codes reads at every query."""
        return {digest: row for row, digest in enumerate(self.rows["digest"].to_pylist())}


def numbers(bundle: Path) -> list[int]:
    """The numbers of the whole snapshots of ``bundle``, ascending."""
    folder = bundle / SNAPSHOTS
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal()) if folder.is_dir() else []


def current_number(bundle: Path) -> int:
    """The number of the snapshot that is searched."""
    path = bundle / CURRENT
    try:
        return int(read_sealed(path, path.read_bytes(), _VERSION)["snapshot"])
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise DamagedStoreError(f"{path} does not name a snapshot: {error}. {_MEND}") from error


def make_current(bundle: Path, number: int) -> None:
    """Search the snapshot ``number`` from now on."""
    replace_text(bundle / CURRENT, json_text({"version": _VERSION, "snapshot": number}))


def read_snapshot(bundle: Bundle, number: int | None = None) -> Snapshot:
    """The snapshot ``number``, by default the current one.

    Raises StaleStoreError where it is of other embeddings than the bundle, DamagedStoreError where a file is not what
    was written.
    """
    wanted = current_number(bundle.path) if number is None else number
    folder = bundle.path / SNAPSHOTS / str(wanted)
    try:
        described = read_sealed(folder / _FILE, (folder / _FILE).read_bytes(), _VERSION)
    except FileNotFoundError:
        if number is None and current_number(bundle.path) != wanted:
            return read_snapshot(bundle)  # another was published and this one deleted, meanwhile
        raise DamagedStoreError(f"{folder} is no snapshot: there is no {_FILE}. {_MEND}") from None
    if described["embeddings"] != bundle.embeddings:
        difference = f"embeddings: {described['embeddings'][:16]} here, {bundle.embeddings[:16]} of the bundle"
        raise StaleStoreError(folder, [difference], _MEND)
    check_files(folder, described["files"])
    rows = pq.read_table(folder / ROWS)
    vectors: npt.NDArray[np.float32] = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
    if vectors.shape != (len(rows), bundle.dim) or vectors.dtype != np.float32:
        raise DamagedStoreError(f"{folder / VECTORS} has the shape {vectors.shape}, not {(len(rows), bundle.dim)}")
    return Snapshot(wanted, rows, vectors, _index(folder, described, rows, vectors))


def write_snapshot(bundle: Path, snapshot: Snapshot, parent: int | None = None) -> None:
    """Write ``snapshot``, which is made from the one numbered ``parent``. The lock on the snapshots must be held."""
    folder = bundle / SNAPSHOTS / str(snapshot.number)
    partial = folder.with_name(f"{folder.name}{PARTIAL}")
    with disk_errors(folder):
        partial.mkdir(parents=True)
        names = [ROWS, VECTORS]
        _write(partial / ROWS, lambda file: pq.write_table(snapshot.rows, file))
        _write(partial / VECTORS, lambda file: np.save(file, snapshot.vectors, allow_pickle=False))
        index = snapshot.index
        if not isinstance(index.config, FlatIndexConfig):
            index.save(partial / INDEX)
            names += sorted(path.relative_to(partial).as_posix() for path in (partial / INDEX).rglob("*.*"))
        described: dict[str, Any] = {
            "version": _VERSION,
            "embeddings": index.embeddings,
            "rows": len(index),
            "next_id": index.next_id,
            "parent": parent,
            "files": describe_files(partial, names),
        }
        replace_text(partial / _FILE, json_text(described))
        partial.rename(folder)
        sync_folder(folder.parent)


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    with path.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def _index(folder: Path, described: dict[str, Any], rows: pa.Table, vectors: npt.NDArray[np.float32]) -> GalleryIndex:
    keys, embeddings = rows["key"].to_pylist(), described["embeddings"]
    if (folder / INDEX).is_dir():
        return GalleryIndex.load(folder / INDEX, embeddings=embeddings, keys=keys, dim=vectors.shape[1])
    flat = GalleryIndex.build(vectors, keys, embeddings)
    return GalleryIndex(
        flat.index, keys, embeddings, flat.config, ids=rows["id"].to_numpy(), next_id=described["next_id"]
    )
