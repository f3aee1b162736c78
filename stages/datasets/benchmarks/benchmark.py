"""A benchmark in the files that its distributor gives: where they are, and the rows that its reader yields."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple

from cache.errors import AbsentPathError, RecordsError
from stages.datasets.columns import text_table
from stages.datasets.config import CLASS_DISJOINT, Roles, Source, SourceConfig

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
    attributes: Mapping[str, str | None] = _NONE  # by name; a row that leaves one out has null there


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(SourceConfig):
    """A named benchmark, which brings its labels, splits and roles: ``path`` is the folder that it was unpacked in.

    Attributes:
        split: ``class-disjoint`` replaces the benchmark's splits with splits made from the seed.
        attributes: columns that the benchmark must have; all that it has are read.
    """

    split: Literal["class-disjoint"] | None = None
    attributes: tuple[str, ...] = ()

    origin: ClassVar[str]  # what it is called, and whose files are read
    roles: ClassVar[Roles] = LEAVE_ONE_OUT

    @abstractmethod
    def _rows(self) -> Iterator[Row]:
        """Every image of the benchmark. Raises RecordsError for a file that is missing or not as it must be."""

    def read(self) -> Source:
        """Every image, and the roles that the benchmark's protocol gives its splits."""
        if not self.root.is_dir():
            problem = "is not a folder" if self.root.exists() else "does not exist"
            raise AbsentPathError(f"{self.root} {problem}, seen from {Path.cwd()}. {self._expected()}")
        rows = list(self._rows())
        if not rows:
            raise RecordsError(f"{self.path} lists no image; the files of {self.kind!r} there are empty")
        attributes = dict.fromkeys(name for row in rows for name in row.attributes)
        if unknown := [name for name in self.attributes if name not in attributes]:
            has = f"has {', '.join(sorted(attributes))}" if attributes else "has none"
            raise RecordsError(f"kind = {self.kind!r} has no attribute {unknown[0]!r}; it {has}")
        columns = {name: [getattr(row, name) for row in rows] for name in ("key", "uri", "label", "domain", "split")}
        columns |= {f"attributes.{name}": [row.attributes.get(name) for row in rows] for name in attributes}
        if self.split == CLASS_DISJOINT:
            del columns["split"]
            return Source(text_table(columns))
        return Source(text_table(columns), self.roles)

    @property
    def root(self) -> Path:
        """The folder of the benchmark."""
        return Path(self.path)

    def file(self, *places: str) -> Path:
        """The first of ``places`` below the root that is a file. Raises RecordsError that names them all."""
        files = [self.root / place for place in places if (self.root / place).is_file()]
        return files[0] if files else self._refuse(places)

    def folder(self, *places: str) -> Path:
        """The first of ``places`` below the root that is a folder. Raises RecordsError that names them all."""
        folders = [self.root / place for place in places if (self.root / place).is_dir()]
        return folders[0] if folders else self._refuse([f"{place}/" for place in places])

    def has(self, *places: str) -> bool:
        """Whether any of ``places`` is below the root."""
        return any((self.root / place).exists() for place in places)

    def _refuse(self, places: Sequence[str]) -> Path:
        raise RecordsError(f"{self.root} has no {' and no '.join(places)}. {self._expected()}")

    def _expected(self) -> str:
        return (
            f"kind = {self.kind!r} reads the files of {self.origin}; "
            "path names the folder that the archives were unpacked in."
        )


def as_list(names: Iterable[str]) -> str:
    """Several keys or labels in one cell: a JSON list, in their order."""
    return json.dumps(list(names), ensure_ascii=False)
