"""What is wrong below a folder: stores, and what was made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import NamedTuple

from cache import FeatureStore, Storage, verify
from cache.errors import PermafrostError, StoreError
from cache.sealed import read_sealed


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
    """Every head, index, searcher, note, and file of scores and thresholds among the artifacts in ``storage``."""
    for pattern, read in _READERS.items():
        for key in storage.list(pattern.partition("*")[0]):
            if not PurePosixPath(key).match(pattern):
                continue
            problems = []
            try:
                read(storage, key)
            except (PermafrostError, OSError) as error:
                problems.append(str(error))
            yield Verified(storage.address(key), problems)


def _read_head(storage: Storage, key: str) -> object:
    from stages.training import Head

    return Head.load(storage.below(key.rpartition("/")[0]))


def _read_index(storage: Storage, key: str) -> object:
    from stages.retrieval.indexes.snapshots import read_snapshot

    return read_snapshot(storage.below(key.rpartition("/")[0]), {})


def _read_scores(storage: Storage, key: str) -> object:
    from stages.retrieval.query_values import read_query_values

    return read_query_values(storage, key)


_read_sealed = partial(read_sealed, mend="Delete it: it is written anew.")
_READERS: dict[str, Callable[[Storage, str], object]] = {
    "heads/*/*/head.safetensors": _read_head,
    "indexes/*/*/gallery.json": _read_index,
    "searchers/*/*/searcher.json": _read_sealed,
    "features/known/*.json": _read_sealed,
    "thresholds/*/*.json": _read_sealed,
    "scores/*.parquet": _read_scores,
}
