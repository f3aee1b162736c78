"""What lies among the artifacts: stores of a run file or below a folder, what is wrong with them, what nobody names."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cache import FeatureStore, Storage, verify
from cache.errors import ConfigError, PermafrostError, RecordsError, StoreError
from cache.lock import writer_lock
from cache.sealed import read_sealed
from cache.storage import has, storage_of
from pipeline.config import RAW, read_config
from pipeline.dataset import Run
from pipeline.features import feature_sets
from pipeline.scores import index_key
from pipeline.vectors import Vectors, head_key, training_arguments
from stages.retrieval.indexes.snapshots import read_snapshot
from stages.retrieval.query_values import read_query_values
from stages.training import Head, head_identity

_IDENTITY = "identity.json"


def find_stores(where: str) -> list[Storage]:
    """The store at ``where``, or all stores below it, or all of the run file ``where``."""
    run_file = is_run_file(where)
    storage = storage_of(read_config(where).artifacts if run_file else where)
    if stores := [storage] if has(storage, _IDENTITY) else _below(storage):
        return stores
    if run_file:
        raise StoreError(f"{storage.address()} holds no store yet. Run `permafrost extract {where}` first.")
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
    """What is wrong among heads, indexes, notes, scores and thresholds of the artifacts in ``storage``."""
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
    "features/known/*.json": _read_sealed,
    "thresholds/*/*.json": _read_sealed,
    "scores/*.parquet": read_query_values,
}

_GONE = ".removed"
_MADE = ("heads/*/*", "embeddings/*/*", "indexes/*/*", "searchers/*/*")  # the last by earlier versions alone


def unnamed(folder: Path, runs: Sequence[Run]) -> list[Path]:
    """The files and folders below the artifacts ``folder`` that none of ``runs`` would use, by path.

    Raises MissingRowsError where the features of a run are not extracted, as its heads cannot be told then.
    """
    embeddings, names = stores_below(folder / "embeddings"), {run.name for run in runs}
    named = {path for run in runs for path in _named(run, embeddings)}
    made = (path for pattern in _MADE for path in folder.glob(pattern))
    own = (path for path in made if not {path, path.with_suffix("")} & named)  # a head's checkpoint is beside it
    gone = [path for path in own if path.suffix != ".lock"]
    of_runs = (path for pattern in ("scores/*", "thresholds/*", "reports/*") for path in folder.glob(pattern))
    gone += [path for path in of_runs if not any(f"{path.name}.".startswith(f"{name}.") for name in names)]
    return sorted(gone)


def _named(run: Run, embeddings: Sequence[FeatureStore]) -> Iterator[Path]:
    parts = [run.records.split("gallery"), run.records]
    for backbone, features, heads, _ in feature_sets(run):
        for part in parts:
            yield run.artifacts / index_key(run, part, Vectors(backbone, RAW, features, features))
        for head in heads:
            try:
                identity = head_identity(**training_arguments(run, head, features))
            except RecordsError:  # it cannot be trained on these records, so it was not
                continue
            yield run.artifacts / head_key(head.name, features, identity)
            for store in embeddings:
                if store.identity.fields.get("head") == identity.fingerprint:
                    yield store.path
                    for part in parts:
                        yield run.artifacts / index_key(run, part, Vectors(backbone, head.name, store, features))


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    return sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())


def remove(path: Path) -> None:
    """Remove a file, or a folder at once: under a name that nothing reads its files go one by one."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    with writer_lock(path) if (path / "identity.json").exists() else nullcontext():
        gone = path if path.suffix == _GONE else path.rename(path.with_name(path.name + _GONE))
        shutil.rmtree(gone)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
