"""How a run file describes a dataset."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import pyarrow as pa

Names = str | tuple[str, ...]


@dataclass(frozen=True)
class DatasetConfig:
    """The ``[dataset]`` of a run file: where the images are, what they are, who searches whom.

    Attributes:
        path: a folder, or a table (csv, parquet, jsonl) with a row for each image.
        kind: ``folder`` (a folder a class), ``table``, or ``drawn`` (the demo's catalogue, drawn if need be).
        label: the column that names the instance or class, or several, joined by ``/``. A folder's label is its
            path below ``path``.
        name: what this dataset is called where several are joined; there every dataset needs one.
        image: the column with the image's path, relative to ``root``, or another URI of :mod:`cache.source`.
        root: what image paths are relative to; by default the table's folder.
        key: the column with each row's stable name; by default ``key`` where there is one, else the image's path.
        domain: the column with the domain; by default ``domain`` where there is one.
        attributes: columns for the multi-label method.
        tags: a column of text for the multi-label method.
        split: the column with the split; by default ``split`` where there is one. ``class-disjoint`` makes splits
            from the seed whatever columns there are. For folders: ``folder`` takes the first level of folders.
        train: a value of the split column, or several; likewise the next three.
        validation: what the epoch is chosen on, by leave-one-out.
        query: what searches. Left out together with ``gallery``: splits are made from the seed. An empty list:
            nothing of this dataset does, which only trains, or is only searched.
        gallery: what is searched. The same as ``query``: leave-one-out.
        queries_per_class: for splits made from the seed, images of a class that search; the rest is gallery.
        validation_share: for splits made from the seed, the share of classes for validation.
        test_share: for splits made from the seed, the share of classes to test on.
        missing_images: ``refuse`` a table that lists files that do not exist, or ``record`` them as failed.
    """

    path: str
    kind: Literal["drawn", "folder", "table"] = "table"
    label: Names | None = None
    name: str | None = None
    image: str = "path"
    root: str | None = None
    key: str | None = None
    domain: str | None = None
    attributes: tuple[str, ...] = ()
    tags: str | None = None
    split: str | None = None
    train: Names | None = None
    validation: Names | None = None
    query: Names | None = None
    gallery: Names | None = None
    queries_per_class: int = 1
    validation_share: float = 0.1
    test_share: float = 0.4
    missing_images: Literal["refuse", "record"] = "refuse"

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9._-]+", self.name):
            raise ValueError(f"a dataset's name is made of letters, digits and . _ -, got {self.name!r}")
        if (self.query is None) != (self.gallery is None):
            raise ValueError("query and gallery are named together, or both left out (splits are made from the seed)")
        if self.query is None and (self.train is not None or self.validation is not None):
            raise ValueError("train and validation name values of the split column: query and gallery must too")
        if self.query is not None and self.split == CLASS_DISJOINT:
            raise ValueError(f"split = {CLASS_DISJOINT!r} makes the splits itself: leave out train, query and gallery")
        if self.kind == "table" and not self.label:
            raise ValueError("a table needs label: the column that names the instance or class, or a list of columns")
        if self.queries_per_class < 1:
            raise ValueError(f"queries_per_class must be at least 1, got {self.queries_per_class}")
        if self.validation_share < 0 or self.test_share <= 0 or self.validation_share + self.test_share > 1:
            raise ValueError(
                "validation_share and test_share are shares of the classes, together at most 1, test_share above 0; "
                f"got {self.validation_share} and {self.test_share}"
            )


CLASS_DISJOINT = "class-disjoint"


class Source(NamedTuple):
    """What a reader found, and whether it said the split of its rows.

    The table has text columns ``key``, ``uri``, ``label``, ``domain``, ``split``, ``tags`` and ``attributes.<name>``
    for each attribute; empty cells are null.
    """

    table: pa.Table
    has_split: bool


def as_names(value: Names | None) -> tuple[str, ...]:
    """One name or several, as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
