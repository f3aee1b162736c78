"""Snapshots of an index: written once under a name of their contents, and swapped by the one file that names them.

::

    <snapshot>/gallery.faiss   the faiss index, readable by faiss alone
    <snapshot>/gallery.npy     the vectors for exact refinement, where there is one
    <snapshot>/keys.parquet    id and key of each row, in the order of the rows
    gallery.json               what the index was made from, and the snapshot to read; written last

Nothing that a reader may have open is ever changed: another index is another snapshot, and the old one is deleted when
``gallery.json`` names the new. A reader that meets a deleted snapshot reads ``gallery.json`` again. Killed at any
instant, a save leaves the index that was there before.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cache import digest_bytes, fingerprint
from cache.errors import DamagedStoreError, SettingsError, StaleStoreError
from cache.fingerprint import JSON
from cache.sealed import json_text, read_sealed
from cache.settings import Settings, changed_settings
from cache.storage import Storage
from stages.ranking.nearest import Rows

INDEX, KEPT, KEYS, SIDECAR = "gallery.faiss", "gallery.npy", "keys.parquet", "gallery.json"
_VERSION = 3
_MEND = "Build the index again: `permafrost score` or `search` does."
_FOLDER = re.compile(r"([0-9a-f]{16})?")  # of a snapshot, or of the layout before there were any


def sidecar_of(
    embeddings: str, keys: Sequence[str], dim: int, next_id: int, config: Settings, choice: JSON = None
) -> dict[str, JSON]:
    """What is recorded beside an index."""
    return {
        "embeddings": embeddings,
        "keys": fingerprint(list(keys)),
        "rows": len(keys),
        "dim": dim,
        "next": next_id,
        "index": changed_settings(config),
        "choice": choice,
    }


def keys_file(ids: Rows, keys: Sequence[str]) -> memoryview:
    """The id and the key of each row, as Parquet."""
    file = io.BytesIO()
    pq.write_table(pa.table({"id": ids, "key": pa.array(keys, pa.string())}), file)
    return file.getbuffer()


def write_snapshot(storage: Storage, contents: Mapping[str, memoryview], made_from: Mapping[str, JSON]) -> None:
    """Store ``contents`` by name as a new snapshot, then name it, then delete the snapshot that was named before."""
    digests: dict[str, JSON] = {name: digest_bytes(content).hex() for name, content in contents.items()}
    snapshot = fingerprint(digests)[:16]
    for name, content in contents.items():
        storage.put(f"{snapshot}/{name}", content)
    sidecar = dict(made_from) | {"version": _VERSION, "snapshot": snapshot, "sha256": digests}
    storage.put(SIDECAR, json_text(sidecar).encode())
    for key in storage.list():
        folder, _, name = key.rpartition("/")
        if name in (INDEX, KEPT, KEYS) and folder != snapshot and _FOLDER.fullmatch(folder):
            storage.delete(key)


def read_sidecar(storage: Storage) -> dict[str, JSON]:
    """What ``gallery.json`` holds. Raises DamagedStoreError where there is none of this version."""
    try:
        sidecar = read_sealed(storage, SIDECAR, _MEND)
    except FileNotFoundError as error:
        text = f"{storage.address()} holds no finished index: there is no {SIDECAR}. Build it."
        raise DamagedStoreError(text) from error
    if sidecar.get("version") != _VERSION or not isinstance(sidecar.get("sha256"), dict):
        raise DamagedStoreError(f"{storage.address(SIDECAR)} is not what save() of this version writes. {_MEND}")
    return sidecar


def read_snapshot(storage: Storage, wanted: Mapping[str, JSON]) -> tuple[dict[str, JSON], dict[str, memoryview]]:
    """What ``gallery.json`` holds, and the contents of the snapshot by name, mapped where the storage can.

    Raises StaleStoreError, which lists each difference, where it was not made from what is ``wanted``, and
    DamagedStoreError where a file is missing or is not what was written.
    """
    sidecar = read_sidecar(storage)
    differences = [f"{k}: stored {sidecar.get(k)!r}, wanted {v!r}" for k, v in wanted.items() if sidecar.get(k) != v]
    if differences:
        mend = "Build the index again, or load it with what it was made from."
        raise StaleStoreError(Path(storage.address()), differences, mend)
    contents: dict[str, memoryview] = {}
    for name, digest in dict(sidecar["sha256"]).items():  # type: ignore[arg-type]  # read_sidecar has looked
        key = f"{sidecar['snapshot']}/{name}"
        try:
            content = storage.map(key)
            contents[name] = memoryview(storage.read(key)) if content is None else content
        except FileNotFoundError:
            if read_sidecar(storage)["snapshot"] != sidecar["snapshot"]:
                return read_snapshot(storage, wanted)  # it was swapped while it was read
            contents[name] = memoryview(b"")
        if digest_bytes(contents[name]).hex() != digest:
            raise DamagedStoreError(f"{storage.address(key)} is not the file that {SIDECAR} describes. {_MEND}")
    return sidecar, contents


class KeyedRows:
    """The keys (G,) of rows, each once, and their ids (G,), ascending: by default from 0. No id is ever given again.

    Raises SettingsError for keys that are not one for each of so many ``rows``, or one twice.

    >>> rows = KeyedRows(["a", "b", "c"], 3, ids=np.array([0, 2, 5]))
    >>> rows.rows_of(["c"]).tolist(), rows.keys_of(np.array([2, 1])), rows.next_id
    ([2], ['b', None], 6)
    """

    def __init__(self, keys: Sequence[str], rows: int, *, ids: Rows | None = None, next_id: int | None = None) -> None:
        check_keys(keys, rows)
        self.keys = tuple(keys)
        self.ids = np.arange(len(self.keys)) if ids is None else ids
        self.next_id = int(self.ids[-1]) + 1 if next_id is None else next_id

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def most(self) -> int:
        """How many rows one search can give."""
        return len(self)

    @cached_property
    def _place(self) -> dict[str, int]:
        return {key: place for place, key in enumerate(self.keys)}

    def rows_of(self, keys: Sequence[str]) -> Rows:
        """Where ``keys`` (n,) are among the rows. Raises KeyError for one that is not there."""
        if unknown := [key for key in keys if key not in self._place]:
            raise KeyError(f"the index has no row of key {unknown[0]!r}")
        return np.array([self._place[key] for key in keys], np.int64)

    def places(self, ids: Rows) -> Rows:
        """Where ``ids`` are among the rows; -1 where they are not."""
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[at] == ids, at, -1)

    def check_allowed(self, allowed: npt.NDArray[np.bool_] | None) -> None:
        """Raise SettingsError unless ``allowed`` (G,) says of each row whether it may be found."""
        if allowed is not None and (allowed.shape != (len(self),) or allowed.dtype != np.bool_):
            raise SettingsError(
                f"allowed must be true or false for each of the {len(self)} rows, got {allowed.dtype} of shape "
                f"{allowed.shape}"
            )

    def keys_of(self, ids: Rows) -> list[str | None]:
        """The key of each of ``ids`` (n,); None for -1 and for a row that was removed."""
        return [self.keys[place] if place >= 0 else None for place in self.places(ids).tolist()]

    def staying(self, keys: Sequence[str]) -> Rows:
        """The places of the rows that are not those of ``keys``. Raises KeyError, and ValueError where none is."""
        staying = np.ones(len(self), np.bool_)
        staying[self.rows_of(keys)] = False
        if not staying.any():
            raise SettingsError("an index needs at least one row, and these are all it has")
        return np.flatnonzero(staying)


def check_keys(keys: Sequence[str], rows: int) -> None:
    """Raise SettingsError unless there is one of ``keys`` for each of so many ``rows``, and none twice."""
    if len(keys) != rows:
        raise SettingsError(f"an index takes one key per row: it has {rows} rows, got {len(keys)} keys")
    if len({*keys}) < len(keys):
        raise SettingsError(f"keys must differ, got {twice(keys)!r} twice")


def twice(keys: Sequence[str]) -> str:
    """The first of ``keys`` that was there before."""
    seen: set[str] = set()
    return next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
