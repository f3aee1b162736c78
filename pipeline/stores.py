"""The stores of a run file, or below a folder or an address, and what is wrong with them and what was made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cache import FeatureStore, Storage, verify
from cache.errors import ConfigError, PermafrostError, StoreError
from cache.sealed import read_sealed
from cache.storage import has, storage_of
from pipeline.config import read_config
from stages.retrieval.indexes.snapshots import read_snapshot
from stages.retrieval.query_values import read_query_values
from stages.training import Head

_IDENTITY = "identity.json"


def find_stores(where: str) -> list[Storage]:
    """The store at ``where``, or all stores below it, or all of the run file ``where``."""
    if is_run_file(where):
        artifacts = storage_of(read_config(where).artifacts)
        if stores := _below(artifacts):
            return stores
        raise StoreError(f"{artifacts.address()} holds no store yet. Run `permafrost extract {where}` first.")
    storage = storage_of(where)
    if has(storage, _IDENTITY):
        return [storage]
    if stores := _below(storage):
        return stores
    raise ConfigError(f"{storage.address()} is neither a run file nor the folder of a store")


def is_run_file(where: str) -> bool:
    """Whether ``where`` names a run file, and no store.

    >>> is_run_file("s3://bucket/run.toml"), is_run_file("artifacts/shop")
    (True, False)
    """
    return where.endswith(".toml")


def stores_below(folder: Path) -> list[FeatureStore]:
    """Every store in an artifacts folder, by path."""
    return [FeatureStore(storage) for storage in _below(storage_of(folder))]


def _below(storage: Storage) -> list[Storage]:
    folders = [key.removesuffix(f"/{_IDENTITY}") for key in storage.list() if key.endswith(f"/{_IDENTITY}")]
    return [storage.below(folder) for folder in folders]


class Verified(NamedTuple):
    """A store, or a file made of one, and what is wrong with it, a line each."""

    address: str
    problems: list[str]
    store: FeatureStore | None = None


def verify_stores(places: Sequence[Storage]) -> Iterator[Verified]:
    """The store at each of ``places``; one that cannot be opened is named, and the others are verified.

    Embeddings are compared with the features that they were made from, where these are among them.
    """
    stores: list[FeatureStore] = []
    for place in places:
        try:
            stores.append(FeatureStore(place))
        except StoreError as error:
            yield Verified(place.address(), [str(error)])
    by_fingerprint = {store.fingerprint: store for store in stores}
    for store in stores:
        fields = store.identity.fields
        fused = fields.get("fused")
        names = [str(name) for name in (fused if isinstance(fused, list) else [fields.get("features")])]
        made_from = [by_fingerprint[name] for name in names if name in by_fingerprint]
        yield Verified(store.address, verify(store, made_from if len(made_from) == len(names) else ()), store)


def verify_files(storage: Storage) -> Iterator[Verified]:
    """What is wrong among heads, indexes, searchers, notes, scores and thresholds of the artifacts in ``storage``."""
    for pattern, read in _READERS.items():
        for key in storage.list(pattern.partition("*")[0]):
            try:
                if PurePosixPath(key).match(pattern):
                    read(storage, key)
            except (PermafrostError, OSError) as error:
                yield Verified(storage.address(key), [str(error)])


def _folder(storage: Storage, key: str) -> Storage:
    return storage.below(key.rpartition("/")[0])


_read_sealed = partial(read_sealed, mend="Delete it: it is written anew.")
_READERS: dict[str, Callable[[Storage, str], object]] = {
    "heads/*/*/head.safetensors": lambda storage, key: Head.load(_folder(storage, key)),
    "indexes/*/*/gallery.json": lambda storage, key: read_snapshot(_folder(storage, key), {}),
    "searchers/*/*/searcher.json": _read_sealed,
    "features/known/*.json": _read_sealed,
    "thresholds/*/*.json": _read_sealed,
    "scores/*.parquet": read_query_values,
}
