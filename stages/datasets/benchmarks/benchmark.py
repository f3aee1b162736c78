"""A benchmark in the files that its distributor gives: where they are, what is in them, and the rows it yields.

A RecordsError names the line or entry that is not as it must be. A pickle is a program: ``pickle.load`` calls whatever
it names. The few names that containers, numbers and numpy arrays need are given here; every other one is refused.
"""

from __future__ import annotations

import codecs
import json
import pickle
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from cache.errors import AbsentPathError, RecordsError
from stages.datasets.config import CLASS_DISJOINT, Roles, Source, SourceConfig, refuse_absent, text_table
from stages.datasets.table import read_columns

_CORES = ("numpy.core", "numpy._core")  # its name before numpy 2, and since
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,  # what bytes become in the older protocols
    **{(f"{core}.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0] for core in _CORES},
    **{(f"{core}.multiarray", "scalar"): np.float64(0).__reduce__()[0] for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): np.empty(1).__reduce_ex__(5)[0] for core in _CORES},
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (bytes, set, frozenset)},
}

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


def read_words(path: Path, count: int, *, skip: int = 0) -> Iterator[list[str]]:
    """The lines of a text file after the first ``skip``, each as its ``count`` words; empty lines are left out.

    Words are separated by spaces and tabs alone, and lines by line feeds: all else may stand in the name of a file. The
    last word takes the rest of its line. Raises RecordsError naming a line with fewer words.
    """
    words = re.compile("[ \t]+".join(["([^ \t]+)"] * (count - 1) + ["(.+)"]))
    for number, line in enumerate(_text(path).split("\n"), 1):
        line = line.strip(" \t\r")
        if number <= skip or not line:
            continue
        if (match := words.fullmatch(line)) is None:
            raise RecordsError(f"{path}, line {number}: expected {count} words, got {line!r}")
        yield list(match.groups())


def as_number(word: str, where: str) -> float:
    """``word`` as a number. Raises RecordsError that begins with ``where``."""
    try:
        return float(word)
    except ValueError:
        raise RecordsError(f"{where}: expected a number, got {word!r}") from None


def read_named_columns(path: Path, *names: str) -> list[list[str | None]]:
    """The columns ``names`` of a csv, each as a list of text; empty cells are None."""
    table = read_columns(path).table
    refuse_absent(path, names, table.column_names)
    return [table[name].to_pylist() for name in names]


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
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


def read_matlab(path: Path, *names: str) -> list[npt.NDArray[Any]]:
    """The variables ``names`` of a .mat file, each at least one-dimensional; cells are objects, structs have fields."""
    from scipy.io import loadmat

    try:
        variables = loadmat(path, squeeze_me=True, variable_names=names)
    except Exception as error:  # any kind: ValueError, TypeError, NotImplementedError
        raise RecordsError(f"{path} cannot be read as a MATLAB file: {error}") from error
    if absent := [name for name in names if name not in variables]:
        raise RecordsError(f"{path} has no variable {absent[0]!r}, which it must")
    return [np.atleast_1d(variables[name]) for name in names]


def read_fields(path: Path, structs: npt.NDArray[Any], *names: str) -> list[list[Any]]:
    """The fields ``names`` of an array of structs (N,), each as a list of N values."""
    has = structs.dtype.names or ()
    if absent := [name for name in names if name not in has]:
        raise RecordsError(f"{path}: the annotations have no field {absent[0]!r}; they have {', '.join(has) or 'none'}")
    return [[value.item() if isinstance(value, np.ndarray) else value for value in structs[name]] for name in names]


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # as text it would end lines with carriage returns too
    except (OSError, UnicodeDecodeError) as error:
        raise RecordsError(f"{path} cannot be read as UTF-8 text: {error}") from error


def read_plain_pickle(path: Path) -> Any:
    """The lists, dicts, texts, numbers and arrays in a pickle. RecordsError where it is anything else, or damaged."""
    try:
        with path.open("rb") as file:
            return _Plain(file, encoding="latin1").load()
    except Exception as error:  # damaged pickles fail in every way there is
        raise RecordsError(f"{path} cannot be read as a pickle of plain data: {error}") from error


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, and only numbers, text, containers and numpy arrays are read. "
                "It may be made to run a program: get the file from its distributor"
            ) from None
