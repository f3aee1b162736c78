"""Miniatures of the layouts that benchmarks are distributed in."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from stages.datasets import DatasetConfig, SourceConfig
from stages.records import Records, read_records

_CONFIGS = TypeAdapter[SourceConfig](DatasetConfig)


def put(root: Path, *names: str) -> None:
    """A file at each of ``names`` below ``root``, with bytes of its own: nothing here is decoded."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def tell(path: Path, text: str) -> None:
    """A text file; ``text`` may be indented."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line.strip() + "\n" for line in text.strip().splitlines()), encoding="utf-8")


def read(kind: str, root: Path, **more: object) -> Records:
    """The records of the benchmark at ``root``."""
    return read_records(_CONFIGS.validate_python({"kind": kind, "path": str(root)} | more))


def rows(records: Records, root: Path) -> list[tuple[str, str | None, str | None, str]]:
    """The key, label, split and URI of each record; the URI relative to ``root``."""
    uris = [uri.replace(f"{root}/", "") for uri in records.uris]
    return list(zip(records.keys, records.labels, records.splits, uris, strict=True))


def parts(records: Records) -> dict[str, list[str]]:
    """The keys of each role that has any."""
    roles = ("train", "validation_query", "validation_gallery", "query", "gallery")
    return {role: keys for role in roles if (keys := records.split(role).keys)}
