"""An index whose inverted lists are built on disk and mapped: for galleries whose vectors do not fit in memory.

::

    <folder>/building-<fingerprint>/trained.faiss   the empty index, learned from a sample of the rows
    <folder>/building-<fingerprint>/<n>.faiss       the lists of the n-th million rows, written whole

    sample -> trained -> a shard for each million rows -> merged into one file -> snapshot (see snapshots.py)

Rows are read from the store a block at a time. The merged file is, byte for byte, what faiss writes of the index in
memory. Killed, the next build goes on with the shards that are there. Of several processes one builds, and the others
wait for it.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from cache import fingerprint
from cache.atomic import disk_errors
from cache.errors import DamagedStoreError, SettingsError, StaleStoreError
from cache.fingerprint import JSON
from cache.lock import writer_lock
from cache.settings import changed_settings
from cache.storage import LocalStorage, Where, is_url
from stages.retrieval.indexes import lazy_faiss as faiss
from stages.retrieval.indexes.faiss_search import VectorRows, append, in_blocks
from stages.retrieval.indexes.gallery_index import GalleryIndex
from stages.retrieval.indexes.kinds import IvfPqIndexConfig, check_rows
from stages.retrieval.indexes.snapshots import INDEX, KEPT, KEYS, check_keys, keys_file, sidecar_of, write_snapshot

SHARD_ROWS = 2**20


def build_on_disk(
    folder: Path | str, vectors: VectorRows, keys: Sequence[str], embeddings: str, config: IvfPqIndexConfig
) -> GalleryIndex:
    """The index of ``vectors`` (G, E) of unit length in ``folder``, whose lists are mapped from there.

    It finds what :meth:`GalleryIndex.build` does. Raises as that does, and UnwritableError where the disk is full.
    """
    vectors = check_rows(vectors)
    rows, dim = vectors.shape
    check_keys(keys, rows)
    storage, ids = LocalStorage(folder), np.arange(rows)
    made_from: list[JSON] = [embeddings, fingerprint(list(keys)), changed_settings(config), dim]
    building = LocalStorage(storage.path(f"building-{fingerprint(made_from)[:16]}"))
    with writer_lock(storage.path("building"), wait=True):
        with suppress(StaleStoreError, DamagedStoreError):  # no other process has built it meanwhile
            return GalleryIndex.load(folder, embeddings=embeddings, keys=keys, config=config, dim=dim)
        for other in storage.path().glob("building-*"):
            if other != building.path():
                shutil.rmtree(other)
        _merge(building, _shards(building, vectors, config))
        contents: dict[str, Any] = {INDEX: building.map(INDEX), KEYS: keys_file(ids, keys)}
        if config.refine is not None:
            _write_originals(building, vectors, config.refine.stored)
            contents[KEPT] = building.map(KEPT)
        write_snapshot(storage, contents, sidecar_of(embeddings, keys, dim, rows, config))
        shutil.rmtree(building.path())
    return GalleryIndex.load(folder, embeddings=embeddings, keys=keys, config=config, dim=dim)


def _shards(building: LocalStorage, vectors: VectorRows, config: IvfPqIndexConfig) -> list[Path]:
    """The files of the trained index and of a shard for each ``SHARD_ROWS`` rows: those that are missing are made."""

    def filled(low: int, high: int) -> faiss.Index:
        shard = faiss.read_index(str(trained))
        for block in in_blocks(low, high):
            append(shard, vectors[block], block)
        return shard

    trained = _made(building, "trained.faiss", lambda: config.trained(vectors))
    starts = range(0, len(vectors), SHARD_ROWS)
    ends = [*starts[1:], len(vectors)]
    files = [trained]
    for number, (low, high) in enumerate(zip(starts, ends, strict=True)):
        files.append(_made(building, f"{number}.faiss", lambda low=low, high=high: filled(low, high)))  # type: ignore[misc]
    return files


def _made(building: LocalStorage, key: str, index: Callable[[], faiss.Index]) -> Path:
    if not building.path(key).exists():
        building.put(key, faiss.serialize_index(index()).data)
    return building.path(key)


def _merge(building: LocalStorage, files: Sequence[Path]) -> None:
    """Write the trained index with the lists of all shards, one after the other, as faiss writes it."""
    trained, *shards = files
    index: Any = faiss.read_index(str(trained))
    mapped = [faiss.read_index(str(shard), faiss.IO_FLAG_MMAP) for shard in shards]
    parts: list[Any] = [faiss.extract_index_ivf(shard).invlists for shard in mapped]
    sizes = np.array([[part.list_size(number) for number in range(index.nlist)] for part in parts], np.uint64)
    index.ntotal = int(sizes.sum())
    record = b"ilar" + struct.pack("<QQ", index.nlist, index.code_size)
    head, empty = faiss.serialize_index(index).tobytes(), record + b"sprs" + struct.pack("<Q", 0)
    if not head.endswith(empty):
        raise DamagedStoreError(f"{trained} does not end in empty lists as this version of faiss is known to write")
    listed = sizes.sum(axis=0)
    if 2 * np.count_nonzero(listed) > index.nlist:
        described = b"full" + struct.pack("<Q", index.nlist) + listed.tobytes()
    else:  # of few lists the number and the size
        numbers = np.flatnonzero(listed).astype(np.uint64)
        described = b"sprs" + struct.pack("<Q", 2 * len(numbers)) + np.stack([numbers, listed[numbers]], 1).tobytes()
    with disk_errors(building.path(INDEX)), building.path(INDEX).open("wb") as file:
        file.write(head.removesuffix(empty) + record + described)
        for number in np.flatnonzero(listed).tolist():
            filled = [part for part, size in zip(parts, sizes[:, number].tolist(), strict=True) if size]
            for part in filled:
                file.write(_view(part.get_codes(number), part.list_size(number) * index.code_size))
            for part in filled:
                file.write(_view(part.get_ids(number), part.list_size(number)))


def _view(pointer: Any, size: int) -> memoryview:
    return faiss.rev_swig_ptr(pointer, size).data


def _write_originals(building: LocalStorage, vectors: VectorRows, dtype: str) -> None:
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": tuple(vectors.shape)}
    with disk_errors(building.path(KEPT)), building.path(KEPT).open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in in_blocks(0, len(vectors)):
            file.write(vectors[block].astype(dtype).data)


def check_folder(folder: Where | None) -> Path | str:
    """``folder``. Raises SettingsError where there is none, or none of a local disk."""
    if not isinstance(folder, (Path, str)) or is_url(str(folder)):
        raise SettingsError(
            "an index with on_disk = true is kept in a folder of a local disk that can be written: name one, or leave "
            "on_disk out"
        )
    return folder
