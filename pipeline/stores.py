"""The stores of a run file, or below a folder."""

from __future__ import annotations

from pathlib import Path

from cache import FeatureStore
from cache.errors import StoreError
from pipeline.config import read_config


def find_folders(path: Path) -> list[Path]:
    """The folder ``path`` of a store, those of all stores below it, or of all stores of the run file ``path``."""
    if path.is_dir() and (path / "identity.json").exists():
        return [path]
    if path.suffix == ".toml":
        artifacts = Path(read_config(path).artifacts)
        if folders := _folders_below(artifacts):
            return folders
        raise StoreError(f"{artifacts} holds no store yet. Run `permafrost extract {path}` first.")
    if folders := _folders_below(path):
        return folders
    raise StoreError(f"{path} is neither a run file nor the folder of a store")


def stores_below(folder: Path) -> list[FeatureStore]:
    """Every store in an artifacts folder, by path."""
    return [FeatureStore.at(path) for path in _folders_below(folder)]


def _folders_below(folder: Path) -> list[Path]:
    return [path.parent for path in sorted(folder.rglob("identity.json"))]
