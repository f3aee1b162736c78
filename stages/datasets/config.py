"""What every kind of dataset shares: its settings, what reading it gives, and columns as text, so 007 stays 007.

Labels that differ only in spaces around them or in Unicode form are one class.
"""

from __future__ import annotations

import json
import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from cache.errors import RecordsError, SettingsError, did_you_mean
from cache.settings import Settings

Names = str | tuple[str, ...]
Roles = Mapping[str, tuple[str, ...]]  # the values of the split column that each role takes

CLASS_DISJOINT = "class-disjoint"
BY_FILE = "file"


class Source(NamedTuple):
    """A dataset as its reader returns it."""

    table: pa.Table
    """Text columns ``key``, ``uri`` and ``label``; where there are any, ``domain``, ``split``, ``tags``,
    ``attributes.<name>``, ``problem`` (why the image of a row is missing) and ``place`` (what messages call a row
    instead of its number). Empty cells are null. A column ``digest`` of 32 bytes where there are no images."""
    roles: Roles | None = None  # the roles of the splits in a benchmark's protocol, for a run file that names none
    notes: tuple[str, ...] = ()  # what a person should know: files that were left out, labels that became one


@dataclass(frozen=True, kw_only=True)
class SourceConfig(Settings, ABC):
    """The keys of ``[dataset]`` that every kind takes.

    Attributes:
        kind: the kind of dataset.
        path: where it is; each kind says what this names.
        name: what this dataset is called where several are joined; there every dataset needs one.
        split: where the splits are from. ``class-disjoint`` makes them from the seed.
        train: a value of the split column, or several; likewise the next three.
        validation: the images that the epoch is chosen on, by leave-one-out.
        query: the images that search. Left out together with ``gallery``: the splits are made from the seed, or are
            those of the benchmark. An empty list: no image of this dataset searches.
        gallery: the images that are searched. The same as ``query``: leave-one-out.
        queries_per_class: images of a class that search, where splits are made from the seed; the rest is gallery.
        validation_share: the share of classes for validation, where splits are made from the seed.
        test_share: the share of classes to test on, where splits are made from the seed.
        classes_across_domains: where several datasets are joined, a label of this one is the same class in every other
            that says so. Within one dataset a label is one class in all its domains.
        missing_images: ``refuse`` a dataset that lists images that do not exist, or ``record`` them as failed.
    """

    kind: str
    path: str
    name: str | None = None
    split: str | None = None
    train: Names | None = None
    validation: Names | None = None
    query: Names | None = None
    gallery: Names | None = None
    queries_per_class: int = 1
    validation_share: float = 0.1
    test_share: float = 0.4
    classes_across_domains: bool = False
    missing_images: Literal["refuse", "record"] = "refuse"

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9._-]+", self.name):
            raise SettingsError(f"a dataset's name is made of letters, digits and . _ -, got {self.name!r}")
        if (self.query is None) != (self.gallery is None):
            raise SettingsError(
                "query and gallery are named together, or both left out (splits are made from the seed)"
            )
        if self.query is None and (self.train is not None or self.validation is not None):
            raise SettingsError("train and validation name values of the split column: query and gallery must too")
        if self.query is not None and self.split == CLASS_DISJOINT:
            raise SettingsError(
                f"split = {CLASS_DISJOINT!r} makes the splits itself: leave out train, query and gallery"
            )
        if self.queries_per_class < 1:
            raise SettingsError(f"queries_per_class must be at least 1, got {self.queries_per_class}")
        if self.validation_share < 0 or self.test_share <= 0 or self.validation_share + self.test_share > 1:
            raise SettingsError(
                "validation_share and test_share are shares of the classes, together at most 1, test_share above 0; "
                f"got {self.validation_share} and {self.test_share}"
            )

    @abstractmethod
    def read(self) -> Source:
        """List the images with their labels and splits; no image is read. Raises RecordsError."""


@dataclass(frozen=True, kw_only=True)
class ColumnsConfig(SourceConfig):
    """The keys of a dataset whose labels are columns with names (of a ``webdataset``: fields of a sample's json).

    Attributes:
        label: the column that names the instance or class, or several, joined by ``/``; ``[]`` where images have none.
        key: the column with each row's stable name.
        domain: the column with the domain; by default ``domain`` where there is one.
        attributes: columns for the multi-label method.
        tags: a column of text for the multi-label method.
        split: the column with the split; by default ``split`` where there is one.
        strip: take labels, domains, splits and attributes without spaces around them, and in one Unicode form.
    """

    label: Names | None = None
    key: str | None = None
    domain: str | None = None
    attributes: tuple[str, ...] = ()
    tags: str | None = None
    strip: bool = True

    _label_is: ClassVar[str] = "column"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label is None:
            raise SettingsError(
                f"a {self.kind} needs label: the {self._label_is} that names the instance or class, or a list "
                "([] where images have no label)"
            )

    @property
    def several(self) -> set[str]:
        """The columns that may list several values of an image: attributes and tags."""
        single = {*as_names(self.label), self.key, self.domain, self.split}
        return {name for name in (*self.attributes, self.tags) if name is not None and name not in single}

    def named(self, names: Collection[str]) -> dict[str, str]:
        """The columns of ``key``, ``domain``, ``split`` and ``tags`` where there are any, of a file with ``names``."""
        split = None if self.split == CLASS_DISJOINT else self.split or ("split" if "split" in names else None)
        domain = self.domain or ("domain" if "domain" in names else None)
        columns = {"key": self.key, "domain": domain, "split": split, "tags": self.tags}
        return {role: column for role, column in columns.items() if column}

    def source(
        self, texts: pa.Table, named: Mapping[str, str], made: Mapping[str, Iterable[str | None] | pa.ChunkedArray]
    ) -> Source:
        """The source of N rows: their ``named`` columns in ``texts``, and the columns (N,) ``made`` by the reader."""
        label, notes = label_column(texts, as_names(self.label), strip=self.strip)
        columns = {role: texts[column] for role, column in named.items()}
        columns |= {f"attributes.{name}": texts[name] for name in self.attributes}
        if self.strip:
            columns |= {name: trimmed(column) for name, column in columns.items() if name not in ("key", "tags")}
        empty = [name for name in columns if name == "tags" or name.startswith("attributes.")]
        notes = (*notes, *(note for name in empty for note in empty_notes(columns[name], name)))
        for name, values in made.items():
            columns[name] = values if isinstance(values, pa.ChunkedArray) else pa.array(values, pa.string())
        return Source(pa.table({"label": label, **columns}), notes=notes)


def as_names(value: Names | None) -> tuple[str, ...]:
    """One name or several, as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


_LIKE_NOTHING = frozenset({"nan", "null", "none", "na", "n/a", "<na>", "nat", "nil"})
_EXAMPLES = 3


def refuse_absent(path: Path | str, wanted: Iterable[str], names: Sequence[str], what: str = "column") -> None:
    """Raise :class:`RecordsError` for the first of ``wanted`` that is not among ``names``, with the nearest one."""
    for column in wanted:
        if column not in names:
            hint = did_you_mean(column, names)
            raise RecordsError(f"{path} has no {what} {column!r}.{hint} It has: {', '.join(names) or 'none'}.")


class Nested(NamedTuple):
    """A cell whose value has values in it, or is no text: its row, from 0, and the value."""

    row: int
    value: object

    @property
    def listed(self) -> bool:
        """Whether it is a list of text, which attributes and tags may be."""
        return isinstance(self.value, list) and all(isinstance(name, str) for name in self.value)


def first_nested(values: Iterable[object]) -> list[Nested]:
    """The first list of text among the values of a column, and the first of what else is nested."""
    first: dict[bool, Nested] = {}
    for row, value in enumerate(values):
        if isinstance(value, (list, dict)):
            cell = Nested(row, value)
            first.setdefault(cell.listed, cell)
    return [*first.values()]


def nested_in(column: pa.ChunkedArray) -> list[Nested]:
    """:func:`first_nested` of a column of an Arrow table, or its first value where its type has no text."""
    if _lists_text(column.type):
        return first_nested(column.to_pylist())
    if not pa.types.is_nested(column.type) and _cast(column) is not None:
        return []
    cells = (Nested(row, value.as_py()) for row, value in enumerate(column) if value.is_valid)
    return [*islice((cell for cell in cells if not cell.listed), 1)]


def refuse_nested(place: Callable[[int], str], column: str, cells: Iterable[Nested], several: Collection[str]) -> None:
    """Raise :class:`RecordsError` for the ``cells`` of ``column`` that are no value; ``several`` columns may list text.

    ``place`` is what a message calls a row.
    """
    for cell in cells:
        if cell.listed and column in several:
            continue
        must = "text, a number or a list of text" if column in several else "text or a number"
        mend = ". Several values of an image are for attributes and tags" if cell.listed else ""
        raise RecordsError(
            f"{place(cell.row)}: the column {column!r} holds {cell.value!s:.100}; a value must be {must}{mend}"
        )


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of an Arrow table as text, empty cells and NaN null, lists of text JSON; all null where it has no text.

    >>> as_text(pa.chunked_array([[["red", "mug"], None]])).to_pylist()
    ['["red", "mug"]', None]
    """
    if pa.types.is_nested(column.type):
        values = column.to_pylist() if _lists_text(column.type) else [None] * len(column)
        return pa.chunked_array([pa.array([scalar(value) for value in values], pa.string())])
    if (text := _cast(column)) is None:
        return pa.chunked_array([pa.nulls(len(column), pa.string())])
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _lists_text(kind: pa.DataType) -> bool:
    return pa.types.is_nested(kind) and str(getattr(kind, "value_type", "")).removeprefix("large_") == "string"


def _cast(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """A column whose type is not nested as text; None where it has none, as bytes that are not UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        if pa.types.is_floating(column.type):  # pandas writes missing values of numbers as NaN
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        return column.cast(pa.string())
    except pa.ArrowException:
        return None


def scalar(value: object) -> str | None:
    """A value of a JSON object as text, as :func:`as_text` has it: a list of text as JSON, None for what else nests."""
    if isinstance(value, list) and Nested(0, value).listed:
        return json.dumps(value, ensure_ascii=False)
    if value is None or isinstance(value, (list, dict)):
        return None
    if isinstance(value, float):
        text = as_text(pa.chunked_array([[value]]))[0].as_py()
        return None if text is None else str(text)
    return value if isinstance(value, str) else json.dumps(value)


def text_table(columns: Mapping[str, Iterable[str | None]]) -> pa.Table:
    """The columns, all of text."""
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def counted(values: pa.ChunkedArray) -> Counter[str]:
    """How often each of ``values`` (N,) is there, but null; no Python object for each is made."""
    counts = pc.value_counts(values)
    pairs = zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)
    return Counter({value: count for value, count in pairs if value is not None})


def joined(table: pa.Table, columns: Sequence[str]) -> pa.ChunkedArray:
    """The label: the columns joined by ``/``; null where one of them is."""
    return pc.binary_join_element_wise(*(table[column] for column in columns), "/", null_handling="emit_null")


def trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of text without spaces around its values, in Unicode's composed form (NFC); null where nothing is left.

    >>> trimmed(pa.chunked_array([["cat ", "cafe\u0301", " "]])).to_pylist()
    ['cat', 'café', None]
    """
    text = pc.utf8_normalize(pc.utf8_trim_whitespace(column), form="NFC")
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def label_column(table: pa.Table, columns: Sequence[str], *, strip: bool) -> tuple[pa.ChunkedArray, tuple[str, ...]]:
    """The label of each row, its ``columns`` joined by ``/``, and notes on labels that became one by being stripped.

    Raises :class:`RecordsError` where the values of two different classes join to one label.
    """
    if not columns:
        return pa.chunked_array([pa.nulls(len(table), pa.string())]), ()
    raw = table.select(columns)
    parts = pa.table([trimmed(raw[name]) if strip else raw[name] for name in columns], names=list(columns))
    label = joined(parts, columns)
    if len(columns) > 1:
        _refuse_merged(parts.filter(pc.is_valid(label)), columns)
    merged = [spellings for name in columns if strip for spellings in _merged(raw[name])]
    if not merged:
        return label, ()
    examples = _listed([" and ".join(_shown(spelling) for spelling in spellings) for spellings in merged])
    note = f"labels that differ only in spaces around them or in Unicode form are one class: {examples}"
    return label, (f"{note}. strip = false keeps them apart",)


def _shown(text: str) -> str:
    """With escapes where its Unicode form differs from the usual one, which looks the same."""
    return repr(text) if unicodedata.is_normalized("NFC", text) else ascii(text)


def _merged(column: pa.ChunkedArray) -> list[list[str]]:
    raw = pc.unique(column)
    return _groups(zip(trimmed(pa.chunked_array([raw])).to_pylist(), raw.to_pylist(), strict=True))


def _groups(pairs: Iterable[tuple[str | None, str | None]]) -> list[list[str]]:
    spellings: dict[Hashable, list[str]] = defaultdict(list)
    for form, text in pairs:
        if form is not None and text is not None:
            spellings[form].append(text)
    return [sorted(group) for group in spellings.values() if len(group) > 1]


def _refuse_merged(parts: pa.Table, columns: Sequence[str]) -> None:
    classes: dict[str, tuple[str, ...]] = {}
    for values in zip(*parts.group_by(list(columns)).aggregate([]).to_pydict().values(), strict=True):
        if (first := classes.setdefault("/".join(values), values)) != values:
            raise RecordsError(
                f"two classes have the label {'/'.join(values)!r}: {first} and {values} of the columns "
                f"{', '.join(columns)}, joined by '/'. Make one column of them that tells them apart."
            )


def empty_notes(values: pa.ChunkedArray, what: str) -> list[str]:
    """A note where each of ``values`` (N,) of ``what`` is empty."""
    return [f"{what} is empty in all {len(values):,} rows"] * (values.null_count == len(values))


def label_notes(labels: pa.ChunkedArray) -> list[str]:
    """Notes on labels (N,) that stand for classes whose names are nearly the same."""
    counts = counted(labels)
    alike = _groups((_nearly(label), label) for label in counts)
    if not alike:
        return []
    examples = _listed([" and ".join(f"{label!r} ({counts[label]:,})" for label in group) for group in alike])
    return [f"labels that differ only in case, spaces or the form of a number are classes apart: {examples}"]


def missing_notes(values: pa.ChunkedArray, what: str) -> list[str]:
    """Notes on ``values`` (N,) of ``what``, a column, that look like missing ones."""
    return [
        f"{count:,} images have the {what} {value!r}, which looks like a missing value, and is one like any other: "
        "leave the cell empty where an image has none"
        for value, count in sorted(counted(values).items())
        if not _LIKE_NOTHING.isdisjoint({value.casefold(), *value.casefold().split("/")})
    ]


def _listed(examples: Sequence[str]) -> str:
    more = len(examples) - _EXAMPLES
    return "; ".join(examples[:_EXAMPLES]) + (f"; and {more:,} more" if more > 0 else "")


def _nearly(label: str) -> str:
    text = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
    return re.sub(r"(?<![.\d])(\d+)\.0+(?!\d)", r"\1", text)
