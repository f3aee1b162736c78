"""The stores of a run file, or below a folder."""

from __future__ import annotations

from pathlib import Path

from cache import FeatureStore
from cache.errors import StoreError
from pipeline.config import read_config


def find_stores(path: Path) -> list[FeatureStore]:
    """The store in the folder ``path``, all stores below it, or all stores of the run file ``path``."""
    if path.is_dir() and (path / "identity.json").exists():
        return [FeatureStore.at(path)]
    if path.suffix == ".toml":
        artifacts = Path(read_config(path).artifacts)
        if stores := stores_below(artifacts):
            return stores
        raise StoreError(f"{artifacts} holds no store yet. Run `permafrost extract {path}` first.")
    if stores := stores_below(path):
        return stores
    raise StoreError(f"{path} is neither a run file nor the folder of a store")


def stores_below(folder: Path) -> list[FeatureStore]:
    """Every store in an artifacts folder, by path."""
    return [FeatureStore.at(path.parent) for path in sorted(folder.rglob("identity.json"))]
