"""What is wrong below a folder: stores, and what was made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cache import FeatureStore, verify
from cache.errors import DamagedStoreError, PermafrostError, StoreError


class Verified(NamedTuple):
    """A store, or a file made of one, and what is wrong with it, a line each."""

    path: Path
    problems: list[str]
    store: FeatureStore | None = None


def verify_stores(folders: Sequence[Path]) -> Iterator[Verified]:
    """The store in each of ``folders``; one that cannot be opened is named, and the others are verified.

    Embeddings are compared with the features that they were made from, where these are among them.
    """
    stores: list[FeatureStore] = []
    for folder in folders:
        try:
            stores.append(FeatureStore.at(folder))
        except StoreError as error:
            yield Verified(folder, [str(error)])
    by_fingerprint = {store.fingerprint: store for store in stores}
    for store in stores:
        fields = store.identity.fields
        fused = fields.get("fused")
        names = [str(name) for name in (fused if isinstance(fused, list) else [fields.get("features")])]
        made_from = [by_fingerprint[name] for name in names if name in by_fingerprint]
        yield Verified(store.path, verify(store, made_from if len(made_from) == len(names) else ()), store)


def verify_files(folder: Path) -> Iterator[Verified]:
    """Every head, index, searcher, note, and file of scores and thresholds below an artifacts ``folder``."""
    for pattern, read in _READERS.items():
        for path in sorted(folder.glob(pattern)):
            problems = []
            try:
                read(path)
            except (PermafrostError, OSError) as error:
                problems.append(str(error))
            yield Verified(path, problems)


def _read_head(path: Path) -> object:
    from stages.training import Head

    return Head.load(path.parent)


def _read_index(path: Path) -> object:
    from stages.retrieval.indexes.snapshots import read_snapshot, storage_of

    return read_snapshot(storage_of(path.parent), {})


def _read_scores(path: Path) -> object:
    from stages.retrieval.query_values import read_query_values

    return read_query_values(path)


def _read_sealed(path: Path) -> object:
    from cache.sealed import read_json

    try:
        return read_json(path.read_bytes())
    except ValueError as error:
        raise DamagedStoreError(f"{path} is not as it was written: {error}. Delete it: it is written anew.") from error


_READERS: dict[str, Callable[[Path], object]] = {
    "heads/*/*/head.safetensors": _read_head,
    "indexes/*/*/gallery.json": _read_index,
    "searchers/*/*/searcher.json": _read_sealed,
    "features/known/*.json": _read_sealed,
    "thresholds/*/*.json": _read_sealed,
    "scores/*.parquet": _read_scores,
}
