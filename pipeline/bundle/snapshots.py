"""Snapshots of a bundle: the images that are searched, written once and never changed.

``snapshots/<number>/snapshot.json`` has embeddings, rows, next id, the snapshot before and checksums; the rest is in
docs/bundles.md. A new one is written under another name, which one rename makes its own: killed at any instant, a
bundle has all of it or nothing. The next is made from the newest; the current one is searched. An id is never given
again.

In object storage nothing is renamed and no key is put twice: ``snapshot.json`` is put last, and the highest
``current/<number>.json`` says which snapshot is searched. Where a number has files of a writer that was killed, its
``snapshot.json`` becomes a mark that it is void, so that such a writer, should it live on, cannot end it.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cache import LocalStorage, ObjectStorage, Storage
from cache.atomic import PARTIAL, disk_errors, replace_text, sync_folder
from cache.errors import DamagedStoreError, StaleStoreError, StoreBusyError
from cache.lock import confirm_driver
from cache.sealed import json_text, read_sealed
from cache.storage import Where, has, storage_of
from pipeline.bundle.layout import MEND, Bundle, check_files, describe_files
from stages.retrieval import FlatIndexConfig, GalleryIndex, build_index

SNAPSHOTS, CURRENT = "snapshots", "current.json"
_FILE, ROWS, VECTORS, INDEX = "snapshot.json", "rows.parquet", "vectors.npy", "index"
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The images (G) that a bundle holds at one time; ``vectors`` (G, E) have unit length, and ids ascend."""

    number: int
    rows: pa.Table
    vectors: npt.NDArray[np.float32]
    index: GalleryIndex


def numbers(bundle: Where) -> list[int]:
    """The numbers of the whole snapshots of ``bundle``, and of those that are void, ascending."""
    storage = storage_of(bundle)
    listed = _numbered(storage, f"{SNAPSHOTS}/", rf"{SNAPSHOTS}/(\d+)/{_FILE}") or {current_number(storage)}
    while has(storage, _key(max(listed) + 1)):  # the listing may lag
        listed.add(max(listed) + 1)
    return sorted(listed)


def newest_number(bundle: Where) -> int:
    """The number of the snapshot that the next is made from."""
    storage = storage_of(bundle)
    return next(number for number in reversed(numbers(storage)) if not _is_void(storage, number))


def current_number(bundle: Where) -> int:
    """The number of the snapshot that is searched: the highest that was ever published."""
    storage = storage_of(bundle)
    last = _last_pointer(storage)
    keys = [CURRENT, *([_pointer(last)] if last else [])]
    try:
        return max(int(read_sealed(storage, key, MEND, _VERSION)["snapshot"]) for key in keys)
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise DamagedStoreError(f"{storage.address(CURRENT)} does not name a snapshot: {error}. {MEND}") from error


def make_current(bundle: Where, number: int) -> None:
    """Search the snapshot ``number`` from now on."""
    storage, content = storage_of(bundle), json_text({"version": _VERSION, "snapshot": number}).encode()
    if not isinstance(storage, ObjectStorage):
        storage.put(CURRENT, content)
    else:
        last = _last_pointer(storage)  # before the number is read: who publishes in between takes the next pointer
        if current_number(storage) < number and not storage.put_new(_pointer(last + 1), content):
            raise _taken_over(storage)


def read_snapshot(bundle: Bundle, number: int | None = None) -> Snapshot:
    """The snapshot ``number``, by default the current one; StoreError where it is of other embeddings, or damaged."""
    storage = bundle.storage
    wanted = current_number(storage) if number is None else number
    own, folder = storage.below(f"{SNAPSHOTS}/{wanted}"), bundle.path / SNAPSHOTS / str(wanted)
    try:
        described = _described(storage, wanted)
        if described["embeddings"] != bundle.embeddings:
            difference = f"embeddings: {described['embeddings'][:16]} here, {bundle.embeddings[:16]} of the bundle"
            raise StaleStoreError(own.address(), [difference], MEND)
        check_files(own, described["files"], folder)
    except DamagedStoreError:
        if number is None and current_number(storage) != wanted:
            return read_snapshot(bundle)  # another was published and this one deleted, meanwhile
        raise
    rows = pq.read_table(folder / ROWS)
    vectors: npt.NDArray[np.float32] = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
    if vectors.shape != (len(rows), bundle.dim) or vectors.dtype != np.float32:
        raise DamagedStoreError(f"{own.address(VECTORS)} has the shape {vectors.shape}, not {(len(rows), bundle.dim)}")
    return Snapshot(wanted, rows, vectors, _index(folder, described, rows, vectors))


def write_snapshot(bundle: Where, snapshot: Snapshot, parent: int | None = None) -> int:
    """Write ``snapshot``, made from the one numbered ``parent``, and return its number. The bundle must be held."""
    storage = storage_of(bundle)
    if isinstance(storage, LocalStorage):
        folder = storage.path(f"{SNAPSHOTS}/{snapshot.number}")
        partial = folder.with_name(f"{folder.name}{PARTIAL}")
        with disk_errors(folder):
            _write_files(partial, snapshot, parent)
            partial.rename(folder)
            sync_folder(folder.parent)
        return snapshot.number
    assert isinstance(storage, ObjectStorage)
    with tempfile.TemporaryDirectory() as near:
        folder = Path(near, "snapshot")
        with disk_errors(folder):
            _write_files(folder, snapshot, parent)
        return _put(storage, LocalStorage(folder), snapshot.number)


def _write_files(folder: Path, snapshot: Snapshot, parent: int | None) -> None:
    """The files of ``snapshot``, its description last."""
    folder.mkdir(parents=True)
    names, index = [ROWS, VECTORS], snapshot.index
    pq.write_table(snapshot.rows, folder / ROWS)
    np.save(folder / VECTORS, snapshot.vectors, allow_pickle=False)
    for name in names:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    if not isinstance(index.config, FlatIndexConfig):
        index.save(folder / INDEX)
        names += sorted(path.relative_to(folder).as_posix() for path in (folder / INDEX).rglob("*.*"))
    described: dict[str, Any] = {
        "version": _VERSION,
        "embeddings": index.embeddings,
        "rows": len(index),
        "next_id": index.next_id,
        "parent": parent,
        "files": describe_files(folder, names),
    }
    replace_text(folder / _FILE, json_text(described))


def _put(storage: ObjectStorage, files: LocalStorage, number: int) -> int:
    """Put the ``files`` of a snapshot under ``number``, or the next of which nothing is there, and return it."""
    names = [name for name in files.list() if name != _FILE]
    while True:
        own = storage.below(f"{SNAPSHOTS}/{number}")
        free = all(own.put_new(name, files.map(name) or b"") for name in names)
        confirm_driver(storage)
        if own.put_new(_FILE, files.read(_FILE) if free else json_text({"version": _VERSION, "void": True}).encode()):
            if free:
                return number
        elif not _is_void(storage, number):
            raise _taken_over(storage)
        number += 1


def _taken_over(storage: ObjectStorage) -> StoreBusyError:
    return StoreBusyError(
        f"{storage.url} was changed by another process in between, and nothing of this one is searched. Run the "
        "command again."
    )


def _key(number: int) -> str:
    return f"{SNAPSHOTS}/{number}/{_FILE}"


def _pointer(number: int) -> str:
    return f"current/{number:08d}.json"


def _last_pointer(storage: Storage) -> int:
    """The number of the last pointer beside ``current.json``, 0 where there is none."""
    last = max(_numbered(storage, "current/", r"current/(\d{8})\.json"), default=0)
    while has(storage, _pointer(last + 1)):  # the listing may lag
        last += 1
    return last


def _numbered(storage: Storage, prefix: str, pattern: str) -> set[int]:
    return {int(match[1]) for key in storage.list(prefix) if (match := re.fullmatch(pattern, key))}


def _described(storage: Storage, number: int) -> dict[str, Any]:
    """What ``snapshot.json`` says. Raises DamagedStoreError where there is none, or the snapshot is void."""
    address = storage.address(f"{SNAPSHOTS}/{number}")
    try:
        described = read_sealed(storage, _key(number), MEND, _VERSION)
    except FileNotFoundError:
        raise DamagedStoreError(f"{address} is no snapshot: there is no {_FILE}. {MEND}") from None
    if "void" in described:
        raise DamagedStoreError(f"{address} is no snapshot: its writer was killed. {MEND}")
    return described


def _is_void(storage: Storage, number: int) -> bool:
    return "void" in read_sealed(storage, _key(number), MEND, _VERSION)


def _index(folder: Path, described: dict[str, Any], rows: pa.Table, vectors: npt.NDArray[np.float32]) -> GalleryIndex:
    keys, embeddings = rows["key"].to_pylist(), described["embeddings"]
    if (folder / INDEX).is_dir():
        return GalleryIndex.load(folder / INDEX, embeddings=embeddings, keys=keys, dim=vectors.shape[1])
    ids, next_id = rows["id"].to_numpy(), described["next_id"]
    return GalleryIndex(build_index(vectors), keys, embeddings, ids=ids, next_id=next_id)
