"""From the rows that a benchmark's reader yields to the columns of a Source."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import pyarrow as pa

from cache.errors import RecordsError
from stages.datasets.config import CLASS_DISJOINT, DatasetConfig, Source

Roles = Mapping[str, tuple[str, ...]]

LEAVE_ONE_OUT: Roles = {"train": ("train",), "query": ("test",), "gallery": ("test",)}
"""Heads learn from ``train``; every image of ``test`` is searched for among the others of ``test``."""

_NONE: Mapping[str, str | None] = MappingProxyType({})


class Row(NamedTuple):
    """One image of a benchmark."""

    key: str
    uri: str
    label: str | None
    split: str
    domain: str | None = None
    attributes: Mapping[str, str | None] = _NONE
    """By name; a row that leaves one out has null there."""


def as_source(config: DatasetConfig, rows: Iterable[Row], roles: Roles) -> Source:
    """The columns of ``rows``, in their order, with the benchmark's ``roles`` of its splits.

    With ``split = "class-disjoint"`` the benchmark's own splits are dropped. Raises RecordsError where there is no
    row, and for an attribute in ``config`` that the benchmark has not.
    """
    columns: dict[str, list[str | None]] = {name: [] for name in ("key", "uri", "label", "split", "domain")}
    attributes: dict[str, list[str | None]] = {}
    count = 0
    for *cells, told in rows:
        for values, cell in zip(columns.values(), cells, strict=True):
            values.append(cell)
        for name in told:
            if name not in attributes:
                attributes[name] = [None] * count
        for name, values in attributes.items():
            values.append(told.get(name))
        count += 1
    if not count:
        raise RecordsError(f"{config.path} lists no image; the files of {config.kind!r} there are empty")
    if unknown := [name for name in config.attributes if name not in attributes]:
        has = f"has {', '.join(sorted(attributes))}" if attributes else "has none"
        raise RecordsError(f"kind = {config.kind!r} has no attribute {unknown[0]!r}; it {has}")
    own = config.split != CLASS_DISJOINT
    if not own:
        columns["split"] = [None] * count
    columns["tags"] = [None] * count
    columns |= {f"attributes.{name}": values for name, values in attributes.items()}
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    return Source(table, own, roles if own else None)


def as_list(names: Iterable[str]) -> str:
    """Several keys or labels in one cell: a JSON list, in their order."""
    return json.dumps(list(names), ensure_ascii=False)
