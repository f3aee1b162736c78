"""Images in a column of Parquet files, as Hugging Face's ``datasets`` writes them, or as plain bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cache.errors import RecordsError
from cache.source import ImageSource
from cache.storage import open_file
from stages.datasets.config import (
    BY_FILE,
    ColumnsConfig,
    Source,
    as_names,
    as_text,
    nested_in,
    refuse_absent,
    refuse_nested,
)
from stages.datasets.shards import Shard, find_shards


@dataclass(frozen=True, kw_only=True)
class ParquetConfig(ColumnsConfig):
    """``kind = "parquet"``: ``path`` is a folder with ``.parquet`` files in it or below, a pattern, or one file.

    Whole numbers that Hugging Face's metadata of the file calls a ``ClassLabel`` become the names of their classes.

    Attributes:
        image: the column with the bytes of the image, or with ``{bytes, path}``.
        key: by default the path kept with each image where these differ, else ``FILE/ROW``, rows counted from 0.
        split: ``file`` takes the name of the file up to its number (``train-00000-of-00005.parquet``), or of its
            folder where the name is a number (``train/00000.parquet``).
    """

    kind: Literal["parquet"] = "parquet"
    image: str = "image"

    def read(self) -> Source:
        """List the rows; the bytes of the images are not read, so a row without them is found with its digest."""
        files = [_described(shard, self.image) for shard in find_shards(self.path, ".parquet")]
        names = files[0].columns
        named = self.named(names)
        if self.split == BY_FILE:
            del named["split"]
        wanted = (*named.values(), *as_names(self.label), *self.attributes)
        texts = pa.concat_tables([_texts(file, wanted, self.several) for file in files])
        if texts.num_rows == 0:
            raise RecordsError(f"{self.path} has no rows")
        made = {
            "uri": pa.chunked_array([_uris(file, group) for file in files for group in range(len(file.groups))]),
            "place": _numbered(files, lambda file: f"{file.shard.path}, row "),
        }
        if not self.key:
            made["key"] = _keys(files)
        if self.split == BY_FILE:
            made["split"] = pa.chunked_array([pa.repeat(pa.scalar(f.shard.split, pa.string()), f.rows) for f in files])
        return self.source(texts, named, made)


class _File(NamedTuple):
    """The footer of one file."""

    shard: Shard
    columns: list[str]
    groups: list[int]  # rows of each row group
    image: str  # path of the column with the bytes, ``image.bytes``
    path: str | None  # path of the column with the image's name, ``image.path``, where there is one
    classes: dict[str, list[str]]  # the names of the classes of each ClassLabel column

    @property
    def rows(self) -> int:
        return sum(self.groups)


def _described(shard: Shard, image: str) -> _File:
    with _opened(shard) as file:
        schema, metadata = file.schema_arrow, file.metadata
    refuse_absent(shard.path, [image], schema.names)
    column, path = image, None
    kind = schema.field(image).type
    if pa.types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        column = f"{image}.bytes"
        path = f"{image}.path" if fields.get("path") in (pa.string(), pa.large_string()) else None
        if "bytes" not in fields or not _is_bytes(fields["bytes"]):
            raise RecordsError(
                f"{shard.path}: the column {image!r} is {kind}, without a field 'bytes' of bytes. {_OTHER}"
            )
    elif not _is_bytes(kind):
        raise RecordsError(f"{shard.path}: the column {image!r} holds {kind}, not the bytes of images. {_OTHER}")
    groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    return _File(shard, schema.names, groups, column, path, _class_names(schema.metadata or {}))


_OTHER = "Name another with image = '...'; a table of the paths of images is kind = 'table'."


def _is_bytes(kind: pa.DataType) -> bool:
    return kind in (pa.binary(), pa.large_binary(), pa.binary_view())


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """The names of classes of each column that Hugging Face's ``datasets`` calls a ClassLabel."""
    try:
        features: dict[str, Any] = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {
            name: list(map(str, feature["names"]))
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):  # none, or not as they write it
        return {}


def _texts(file: _File, wanted: Sequence[str], several: Collection[str]) -> pa.Table:
    refuse_absent(file.shard.path, wanted, file.columns)
    table = _read(file, list(dict.fromkeys(wanted)))
    columns = {}
    for name in table.column_names:
        kind = table[name].type
        refuse_nested(lambda row: f"{file.shard.path}, row {row}", name, nested_in(table[name]), several)
        if _is_bytes(kind):
            raise RecordsError(f"{file.shard.path}: the column {name!r} holds {kind}; a value must be text or a number")
        named = name in file.classes and pa.types.is_integer(kind)
        columns[name] = _named(file, name, table[name]) if named else as_text(table[name])
    return pa.table(columns)


def _named(file: _File, column: str, numbers: pa.ChunkedArray) -> pa.ChunkedArray:
    """The names of classes for their numbers; -1, which stands for unknown, is null."""
    names = pa.array(file.classes[column], pa.string())
    wrong = np.flatnonzero(pc.fill_null(pc.or_(pc.less(numbers, -1), pc.greater_equal(numbers, len(names))), False))
    if len(wrong):
        row = int(wrong[0])
        raise RecordsError(
            f"{file.shard.path}, row {row}: the column {column!r} has class {numbers[row]}, "
            f"but its metadata names {len(names):,} classes, from 0"
        )
    known = pc.if_else(pc.equal(numbers, -1), pa.scalar(None, numbers.type), numbers)
    return pc.take(names, known)


def _uris(file: _File, group: int) -> pa.Array:
    before, after = ImageSource(file.shard.path, cell=(group, 0, file.image)).uri.split("/0:", 1)
    return pc.binary_join_element_wise(f"{before}/", _numbers(file.groups[group]), f":{after}", "")


def _numbered(files: Sequence[_File], before: Callable[[_File], str]) -> pa.ChunkedArray:
    """The number of each row in its file, with what is ``before`` it in that file."""
    return pa.chunked_array([pc.binary_join_element_wise(before(file), _numbers(file.rows), "") for file in files])


def _numbers(count: int) -> pa.StringArray:
    return pa.array(np.arange(count)).cast(pa.string())


def _keys(files: Sequence[_File]) -> pa.ChunkedArray:
    """The path that is kept with each image, where every image has one of its own; else file and row."""
    if all(file.path is not None for file in files):
        structs = [_read(file, [str(file.path)]).column(0) for file in files]
        paths = pa.chunked_array([c for s in structs for c in pc.struct_field(s, "path").chunks]).cast(pa.string())
        named = not paths.null_count and not pc.any(pc.equal(paths, "")).as_py()
        if named and pc.count_distinct(paths).as_py() == len(paths):
            return paths
    return _numbered(files, lambda file: f"{file.shard.name}/")


def _read(file: _File, columns: list[str]) -> pa.Table:
    with _opened(file.shard) as opened:
        return opened.read(columns=columns)


@contextmanager
def _opened(shard: Shard) -> Iterator[pq.ParquetFile]:
    try:
        with open_file(shard.path) as content, pq.ParquetFile(content) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise RecordsError(f"{shard.path} cannot be read as Parquet (is it cut off?): {error}") from error
