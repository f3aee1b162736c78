"""Columns of a dataset as text: every value stays as it is written in the file, so 007 stays 007."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cache.errors import RecordsError


def refuse_absent(path: Path | str, wanted: Iterable[str], names: Sequence[str], what: str = "column") -> None:
    """Raise :class:`RecordsError` for the first of ``wanted`` that is not among ``names``, with the nearest one."""
    for column in wanted:
        if column not in names:
            close = difflib.get_close_matches(column, names, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise RecordsError(f"{path} has no {what} {column!r}.{hint} It has: {', '.join(names) or 'none'}.")


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of an Arrow table as text, empty cells and NaN null; all null where its type has no text."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        if pa.types.is_floating(column.type):  # pandas writes missing values of numbers as NaN
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        text = column.cast(pa.string())
    except pa.ArrowException:  # lists, structs, bytes: no key, label or split
        return pa.chunked_array([pa.nulls(len(column), pa.string())])
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def scalar(value: object) -> str | None:
    """A value of a JSON object as text, as :func:`as_text` has it: 1.0 is 1, and NaN is None.

    Lists and objects, which are no key, label or split, are None too.

    >>> scalar("007"), scalar(7), scalar(7.0), scalar(True), scalar([7])
    ('007', '7', '7', 'true', None)
    """
    if value is None or isinstance(value, (list, dict)):
        return None
    if isinstance(value, float):
        text = as_text(pa.chunked_array([[value]]))[0].as_py()
        return None if text is None else str(text)
    return value if isinstance(value, str) else json.dumps(value)


def text_table(columns: Mapping[str, Iterable[str | None]]) -> pa.Table:
    """The columns, all of text.

    >>> text_table({"label": [None]}).schema.types
    [DataType(string)]
    """
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def counted(values: Iterable[str | None] | pa.ChunkedArray) -> Counter[str]:
    """How often each of ``values`` (N,) is there, but null; of a column no Python object for each is made.

    >>> counted(["a", "b", None, "a"]) == counted(pa.chunked_array([["a", "b", None, "a"]])) == {"a": 2, "b": 1}
    True
    """
    if not isinstance(values, pa.ChunkedArray):
        return Counter(value for value in values if value is not None)
    counts = pc.value_counts(values)
    pairs = zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)
    return Counter({value: count for value, count in pairs if value is not None})


def joined(table: pa.Table, columns: Sequence[str]) -> pa.ChunkedArray:
    """The label: the columns joined by ``/``; null where one of them is.

    >>> table = pa.table({"make": ["Audi", "BMW"], "model": ["A4", None]})
    >>> joined(table, ["make", "model"]).to_pylist()
    ['Audi/A4', None]
    """
    return pc.binary_join_element_wise(*(table[column] for column in columns), "/", null_handling="emit_null")
