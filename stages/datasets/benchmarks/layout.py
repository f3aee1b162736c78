"""Where the files of a benchmark are, and what to say when one is not there or not as it should be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.errors import RecordsError
from stages.datasets.config import DatasetConfig
from stages.datasets.table import read_columns


@dataclass(frozen=True)
class Layout:
    """The folder ``root`` of a benchmark, the benchmark's name, and who distributes it."""

    root: Path
    kind: str
    name: str
    distributor: str

    @classmethod
    def of(cls, config: DatasetConfig, name: str, distributor: str) -> Layout:
        """The layout below ``config.path``. Raises RecordsError where that is no folder."""
        layout = cls(Path(config.path), config.kind, name, distributor)
        if not layout.root.is_dir():
            what = "is not a folder" if layout.root.exists() else "does not exist"
            raise RecordsError(f"{layout.root} {what}, seen from {Path.cwd()}. {layout._expected()}")
        return layout

    def file(self, *places: str) -> Path:
        """The first of ``places`` below the root that is a file. Raises RecordsError that names them all."""
        return next((self.root / place for place in places if (self.root / place).is_file()), None) or self._miss(
            places
        )

    def folder(self, *places: str) -> Path:
        """The first of ``places`` below the root that is a folder. Raises RecordsError that names them all."""
        return next((self.root / place for place in places if (self.root / place).is_dir()), None) or self._miss(
            [f"{place}/" for place in places]
        )

    def has(self, *places: str) -> bool:
        """Whether any of ``places`` is there."""
        return any((self.root / place).exists() for place in places)

    def _miss(self, places: tuple[str, ...] | list[str]) -> Path:
        raise RecordsError(f"{self.root} has no {' and no '.join(places)}. {self._expected()}")

    def _expected(self) -> str:
        return (
            f"kind = {self.kind!r} reads {self.name} as {self.distributor} distributes it; "
            "path names the folder that the archives were unpacked in."
        )


def read_words(path: Path, count: int, *, skip: int = 0) -> Iterator[list[str]]:
    """The lines of a text file after the first ``skip``, each as its ``count`` words; empty lines are left out.

    The last word takes the rest of its line, spaces and all. Raises RecordsError naming a line with fewer words.
    """
    for number, line in enumerate(_text(path).splitlines(), 1):
        if number <= skip or not line.strip():
            continue
        words = line.split(maxsplit=count - 1)
        if len(words) < count:
            raise RecordsError(f"{path}, line {number}: expected {count} words, got {line!r}")
        yield [*words[:-1], words[-1].rstrip()]


def as_number(word: str, where: str) -> float:
    """The number that ``word`` is. Raises RecordsError at ``where`` it is none."""
    try:
        return float(word)
    except ValueError:
        raise RecordsError(f"{where}: expected a number, got {word!r}") from None


def read_named_columns(path: Path, *names: str) -> list[list[str | None]]:
    """The columns ``names`` of a csv, each as a list of text; empty cells are None."""
    table = read_columns(path)
    for name in names:
        if name not in table.column_names:
            raise RecordsError(f"{path} has no column {name!r}, which it must; it has {', '.join(table.column_names)}")
    return [table[name].to_pylist() for name in names]


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise RecordsError(f"{path} is not JSON: {error}") from error


def read_entries(path: Path, *needed: str) -> list[dict[str, Any]]:
    """A JSON list of objects that each have the keys ``needed``."""
    return checked_entries(read_json(path), str(path), *needed)


def checked_entries(value: Any, where: str, *needed: str) -> list[dict[str, Any]]:
    """``value``, if it is a list of objects that each have the keys ``needed``; else a RecordsError at ``where``."""
    if not isinstance(value, list):
        raise RecordsError(f"{where} must be a list of objects, got {type(value).__name__}")
    for number, entry in enumerate(value, 1):
        if not isinstance(entry, dict) or not all(name in entry for name in needed):
            raise RecordsError(
                f"{where}, entry {number}: expected an object with {', '.join(needed)}, got {entry!r:.200}"
            )
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordsError(f"{path} cannot be read as UTF-8 text: {error}") from error
