"""What is known of each gallery image, in memory as Arrow columns: names, filters, and the lines of an answer."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cache.errors import SettingsError
from stages.ranking.nearest import Rows, Similarity

_PLAIN, _REPEATED, _ATTRIBUTE = ("key", "uri", "digest"), ("label", "domain"), "attributes."
_TYPE = pa.dictionary(pa.int32(), pa.string())
_COMPARED = 5_000  # values that a mistyped one is compared with


class Match(NamedTuple):
    """A gallery image, and its similarity to what was searched for: the cosine of their vectors."""

    key: str
    label: str | None
    uri: str
    similarity: float
    domain: str | None
    attributes: dict[str, str | None]


@dataclass(frozen=True)
class GalleryRows:
    """G rows; ``table`` has key, uri, digest, label, domain, and one ``attributes.<name>`` for each attribute.

    >>> table = pa.table({"key": ["a", "b"], "label": ["x", "y"], "uri": ["a.png", "b.png"], "digest": [b"", b""]})
    >>> GalleryRows.from_table(table).allowed({"label": ["y"]}).tolist()
    [False, True]
    """

    table: pa.Table

    @classmethod
    def from_table(cls, table: pa.Table) -> GalleryRows:
        """The rows of a ``table`` of records: its other columns are left out, and a domain may be absent."""
        columns = {name: table[name].combine_chunks() for name in _PLAIN}
        for name in (*_REPEATED, *(name for name in table.column_names if name.startswith(_ATTRIBUTE))):
            values = table[name].combine_chunks() if name in table.column_names else pa.nulls(len(table), pa.string())
            if not pa.types.is_dictionary(values.type):
                values = values.cast(pa.string()).dictionary_encode()
            columns[name] = values.cast(_TYPE)
        return cls(pa.table(columns))

    @property
    def keys(self) -> list[str]:
        """The key of each row, (G,)."""
        return list(self.table["key"].to_pylist())

    @cached_property
    def filters(self) -> dict[str, str]:
        """The column of each name that :meth:`allowed` takes: label, domain, and the attributes."""
        columns = [name for name in self.table.column_names if name not in _PLAIN]
        return {name.removeprefix(_ATTRIBUTE): name for name in (*columns[len(_REPEATED) :], *_REPEATED)}

    def values(self, name: str) -> list[str]:
        """The different values of the filter ``name``, in order."""
        return sorted(value for value in self.table[self.filters[name]].unique().to_pylist() if value is not None)

    def allowed(self, where: Mapping[str, Sequence[str | None]]) -> npt.NDArray[np.bool_]:
        """Which rows (G,) have, in every column that ``where`` names, one of its values. None is that of a row without.

        Raises SettingsError, naming the nearest, for a column that is not there and a value that no row has.
        """
        mask = np.ones(len(self.table), np.bool_)
        for name, values in where.items():
            if name not in self.filters:
                raise SettingsError(
                    f"the gallery has no column {name!r}{_nearest(name, list(self.filters))}; filter by "
                    f"{', '.join(self.filters)}"
                )
            if isinstance(values, str):
                raise SettingsError(f"the values of {name} to filter by are a list, got {values!r} alone")
            column = self.table[self.filters[name]].combine_chunks()
            numbers = pc.index_in(pa.array(values, pa.string()), column.dictionary).to_pylist()
            for value, number in zip(values, numbers, strict=True):
                if number is None and value is not None:
                    near = _nearest(value, column.dictionary.to_pylist())
                    raise SettingsError(f"no gallery image has the {name} {value!r}{near}")
            wanted = [-1 if number is None else number for number in numbers]
            mask &= np.isin(column.indices.fill_null(-1).to_numpy(zero_copy_only=False), wanted)
        return mask

    def matches(self, rows: Rows, similarity: Similarity) -> list[Match]:
        """What is known of the ``rows`` (n,) that were found with that ``similarity`` (n,)."""
        lines = self.table.take(pa.array(rows))
        key, uri, _, label, domain, *values = (lines[name].to_pylist() for name in lines.column_names)
        names = [name.removeprefix(_ATTRIBUTE) for name in lines.column_names[len(_PLAIN) + len(_REPEATED) :]]
        attributes = [dict(zip(names, each, strict=True)) for each in zip(*values, strict=True)] or [{} for _ in rows]
        return [
            Match(key[at], label[at], uri[at], score, domain[at], attributes[at])
            for at, score in enumerate(similarity.tolist())
        ]


def _nearest(wanted: str, names: Sequence[str]) -> str:
    """``; did you mean ...?`` where one of ``names`` is near: of many, of those that begin alike."""
    if len(names) > _COMPARED:
        names = [name for name in names if name[:1].lower() == wanted[:1].lower()][:_COMPARED]
    near = difflib.get_close_matches(wanted, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
