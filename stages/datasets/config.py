"""How a run file describes a dataset."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, NamedTuple, get_args

import pyarrow as pa

Names = str | tuple[str, ...]
Benchmark = Literal[
    "cars196", "cub200", "food2k", "gldv2", "inat2018", "inshop", "instre", "m4d35k", "met", "products10k",
    "roxford5k", "rp2k", "rparis6k", "sop", "uned",
]  # fmt: skip
_BOXED = ("cars196", "cub200")


@dataclass(frozen=True)
class DatasetConfig:
    """The ``[dataset]`` of a run file: where the images are, what they are, who searches whom.

    Attributes:
        path: a folder, or a table (csv, parquet, jsonl) with a row for each image. Of ``webdataset`` and ``parquet``:
            a folder with shards in it or below, a pattern such as ``shards/train-*.tar``, or one file. Of a named
            benchmark: the folder that holds it, as it is distributed.
        kind: ``folder`` (a folder a class), ``table``, ``webdataset`` (images in tar shards), ``parquet`` (images in
            a column, as Hugging Face has them), ``drawn`` (the demo's catalogue, drawn if need be), or one of the
            named benchmarks, which bring their labels, splits and roles (``stages.datasets.benchmarks``).
        label: the column that names the instance or class, or several, joined by ``/``. A folder's label is its
            path below ``path``. What is a column in a table is a field of a sample's json in a ``webdataset``, where
            ``cls`` and ``txt`` are the text of the member with that extension.
        name: what this dataset is called where several are joined; there every dataset needs one.
        image: the column with the image's path, relative to ``root``, or another URI of :mod:`cache.source`; by
            default ``path``. Of ``parquet``: the column with its bytes, by default ``image``. Of ``webdataset``: its
            extension, by default any image's.
        root: what image paths are relative to; by default the table's folder.
        key: the column with each row's stable name; by default ``key`` where there is one, else the image's path. By
            default ``SHARD/SAMPLE`` of a ``webdataset``; of ``parquet`` the path kept with the image where these
            differ, else ``FILE/ROW``, rows counted from 0.
        domain: the column with the domain; by default ``domain`` where there is one.
        attributes: columns for the multi-label method.
        tags: a column of text for the multi-label method.
        split: the column with the split; by default ``split`` where there is one. ``class-disjoint`` makes splits
            from the seed whatever columns there are. For folders: ``folder`` takes the first level of folders. For
            shards: ``file`` takes the name of the file up to its number (``train-00000-of-00005.parquet``), or of its
            folder where the name is a number (``train/00000.tar``).
        train: a value of the split column, or several; likewise the next three.
        validation: what the epoch is chosen on, by leave-one-out.
        query: what searches. Left out together with ``gallery``: splits are made from the seed, or are a benchmark's.
            An empty list: nothing of this dataset does, which only trains, or is only searched.
        gallery: what is searched. The same as ``query``: leave-one-out.
        queries_per_class: for splits made from the seed, images of a class that search; the rest is gallery.
        validation_share: for splits made from the seed, the share of classes for validation.
        test_share: for splits made from the seed, the share of classes to test on.
        crop: cut every image to the box that the benchmark has for it (cars196, cub200).
        missing_images: ``refuse`` a table that lists files that do not exist, a sample or row without an image, or
            ``record`` them as failed.
    """

    path: str
    kind: Literal["drawn", "folder", "parquet", "table", "webdataset", Benchmark] = "table"
    label: Names | None = None
    name: str | None = None
    image: str | None = None
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
    crop: bool = False
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
        if self.kind in ("parquet", "table", "webdataset") and not self.label:
            what = {"webdataset": "field of each sample's json, or the extension (cls, txt)"}.get(self.kind, "column")
            raise ValueError(f"a {self.kind} needs label: the {what} that names the instance or class, or a list")
        if self.crop and self.kind not in _BOXED:
            raise ValueError(
                f"crop = true needs boxes, which {' and '.join(_BOXED)} have; kind = {self.kind!r} has none"
            )
        if self.kind in get_args(Benchmark):
            self._refuse_columns()
        if self.queries_per_class < 1:
            raise ValueError(f"queries_per_class must be at least 1, got {self.queries_per_class}")
        if self.validation_share < 0 or self.test_share <= 0 or self.validation_share + self.test_share > 1:
            raise ValueError(
                "validation_share and test_share are shares of the classes, together at most 1, test_share above 0; "
                f"got {self.validation_share} and {self.test_share}"
            )

    def _refuse_columns(self) -> None:
        """A benchmark has columns of its own: to name others would change nothing."""
        default = {field.name: field.default for field in fields(self)}
        told = [
            name for name in ("label", "image", "root", "key", "domain", "tags") if getattr(self, name) != default[name]
        ]
        if told:
            raise ValueError(f"kind = {self.kind!r} knows its own columns: leave out {', '.join(told)}")
        if self.split not in (None, CLASS_DISJOINT):
            raise ValueError(
                f"kind = {self.kind!r} knows its own splits: leave out split, or set split = {CLASS_DISJOINT!r} to "
                f"have splits made from the seed; got {self.split!r}"
            )


CLASS_DISJOINT = "class-disjoint"
BY_FILE = "file"


class Source(NamedTuple):
    """What a reader found, whether it said the split of its rows, and what the splits are for where that is settled.

    The table has text columns ``key``, ``uri``, ``label``, ``domain``, ``split``, ``tags`` and ``attributes.<name>``
    for each attribute; empty cells are null. Where there is a column ``problem``, it says of a row why its image
    cannot be had; where there is a column ``place``, it is what messages call the row instead of its number.
    """

    table: pa.Table
    has_split: bool
    roles: Mapping[str, tuple[str, ...]] | None = None
    """The split values of each role, as a benchmark's protocol has them: for a run file that names none."""


def as_names(value: Names | None) -> tuple[str, ...]:
    """One name or several, as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
