"""``permafrost verify``: check every checksum and every row of the stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import PurePosixPath

import typer

from cache import FeatureStore, Storage
from cache import verify as verify_store
from cache.errors import PermafrostError, StoreError
from cache.sealed import read_sealed
from cache.storage import storage_of
from pipeline.commands.options import Json, RunFileOrStore, emit, find_stores, is_run_file
from pipeline.config import read_config
from stages.retrieval.indexes.snapshots import read_snapshot
from stages.retrieval.query_values import read_query_values
from stages.training import Head


def verify(path: RunFileOrStore, json: Json = False) -> None:
    """Check every checksum and every row of the stores, and with a run file every head, index and score too."""
    sound = True
    for store, problems in _stores(find_stores(path)):
        sound &= not problems
        if isinstance(store, str):
            emit(json, problems[0], {"file": store, "problems": problems})
            continue
        chunks, images = len(store.chunks()), len(store)
        verdict = f"{len(problems):,} problems" if problems else "every checksum and row is right"
        text = [f"{store.address}: {chunks:,} chunks, {images:,} images: {verdict}", *problems]
        line = {"store": store.address, "chunks": chunks, "images": images, "problems": problems}
        emit(json, "\n  ".join(text), line)
    for address, problem in _files(storage_of(read_config(path).artifacts)) if is_run_file(path) else ():
        sound = False
        emit(json, problem, {"file": address, "problems": [problem]})
    if not sound:
        raise typer.Exit(1)


def _stores(places: Sequence[Storage]) -> Iterator[tuple[FeatureStore | str, list[str]]]:
    """The store at each of ``places``, or the address of one that cannot be opened, and what is wrong with it.

    Embeddings are compared with the features that they were made from, where these are among them.
    """
    stores: list[FeatureStore] = []
    for place in places:
        try:
            stores.append(FeatureStore(place))
        except StoreError as error:
            yield place.address(), [str(error)]
    by_fingerprint = {store.fingerprint: store for store in stores}
    for store in stores:
        fields = store.identity.fields
        fused = fields.get("fused")
        names = [str(name) for name in (fused if isinstance(fused, list) else [fields.get("features")])]
        made_from = [by_fingerprint[name] for name in names if name in by_fingerprint]
        yield store, verify_store(store, made_from if len(made_from) == len(names) else ())


def _files(storage: Storage) -> Iterator[tuple[str, str]]:
    """What is wrong among heads, indexes, notes, scores and thresholds of the artifacts in ``storage``."""
    for pattern, read in _READERS.items():
        for key in storage.list(pattern.partition("*")[0]):
            try:
                if PurePosixPath(key).match(pattern):
                    read(storage, key)
            except (PermafrostError, OSError) as error:
                yield storage.address(key), str(error)


def _folder(storage: Storage, key: str) -> Storage:
    return storage.below(key.rpartition("/")[0])


_read_sealed = partial(read_sealed, mend="Delete it: it is written anew.")
_READERS: dict[str, Callable[[Storage, str], object]] = {
    "heads/*/*/head.safetensors": lambda storage, key: Head.load(_folder(storage, key)),
    "indexes/*/*/gallery.json": lambda storage, key: read_snapshot(_folder(storage, key), {}),
    "features/known/*.json": _read_sealed,
    "thresholds/*/*.json": _read_sealed,
    "scores/*.parquet": read_query_values,
}
