"""The settings that every kind of dataset has, and what reading a dataset gives."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import pyarrow as pa

from cache.errors import SettingsError
from cache.settings import Settings
from stages.datasets.columns import empty_notes, label_column, trimmed

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
