"""The stores of a run file, or below a folder or an address."""

from __future__ import annotations

from pathlib import Path

from cache import FeatureStore, Storage
from cache.errors import ConfigError, StoreError
from cache.storage import Where, has, storage_of
from pipeline.config import read_config

_IDENTITY = "identity.json"


def find_stores(where: Where) -> list[Storage]:
    """The store at ``where``, or all stores below it, or all of the run file ``where``."""
    if isinstance(where, (str, Path)) and is_run_file(where):
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


def is_run_file(where: Path | str) -> bool:
    """Whether ``where`` names a run file, and no store.

    >>> is_run_file("s3://bucket/run.toml"), is_run_file(Path("artifacts/shop"))
    (True, False)
    """
    return str(where).endswith(".toml")


def stores_below(folder: Path) -> list[FeatureStore]:
    """Every store in an artifacts folder, by path."""
    return [FeatureStore(storage) for storage in _below(storage_of(folder))]


def _below(storage: Storage) -> list[Storage]:
    folders = [key.removesuffix(f"/{_IDENTITY}") for key in storage.list() if key.endswith(f"/{_IDENTITY}")]
    return [storage.below(folder) for folder in folders]
