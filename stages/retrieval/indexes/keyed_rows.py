"""Rows that have a key and an id each, whatever searches them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from cache.errors import SettingsError
from stages.ranking.nearest import Rows


class KeyedRows:
    """The keys (G,) of rows, each once, and their ids (G,), ascending: by default from 0. No id is ever given again.

    Raises SettingsError for keys that are not one for each of so many ``rows``, or one twice.

    >>> rows = KeyedRows(["a", "b", "c"], 3, ids=np.array([0, 2, 5]))
    >>> rows.rows_of(["c"]).tolist(), rows.keys_of(np.array([2, 1])), rows.next_id
    ([2], ['b', None], 6)
    """

    def __init__(self, keys: Sequence[str], rows: int, *, ids: Rows | None = None, next_id: int | None = None) -> None:
        check_keys(keys, rows)
        self.keys = tuple(keys)
        self.ids = np.arange(len(self.keys)) if ids is None else ids
        self.next_id = int(self.ids[-1]) + 1 if next_id is None else next_id

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def _place(self) -> dict[str, int]:
        return {key: place for place, key in enumerate(self.keys)}

    def rows_of(self, keys: Sequence[str]) -> Rows:
        """Where ``keys`` (n,) are among the rows. Raises KeyError for one that is not there."""
        if unknown := [key for key in keys if key not in self._place]:
            raise KeyError(f"the index has no row of key {unknown[0]!r}")
        return np.array([self._place[key] for key in keys], np.int64)

    def places(self, ids: Rows) -> Rows:
        """Where ``ids`` are among the rows; -1 where they are not."""
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[at] == ids, at, -1)

    def keys_of(self, ids: Rows) -> list[str | None]:
        """The key of each of ``ids`` (n,); None for -1 and for a row that was removed."""
        return [self.keys[place] if place >= 0 else None for place in self.places(ids).tolist()]

    def staying(self, keys: Sequence[str]) -> Rows:
        """The places of the rows that are not those of ``keys``. Raises KeyError, and ValueError where none is."""
        staying = np.ones(len(self), np.bool_)
        staying[self.rows_of(keys)] = False
        if not staying.any():
            raise SettingsError("an index needs at least one row, and these are all it has")
        return np.flatnonzero(staying)


def check_keys(keys: Sequence[str], rows: int) -> None:
    """Raise SettingsError unless there is one of ``keys`` for each of so many ``rows``, and none twice."""
    if len(keys) != rows:
        raise SettingsError(f"an index takes one key per row: it has {rows} rows, got {len(keys)} keys")
    if len({*keys}) < len(keys):
        raise SettingsError(f"keys must differ, got {twice(keys)!r} twice")


def twice(keys: Sequence[str]) -> str:
    """The first of ``keys`` that was there before."""
    seen: set[str] = set()
    return next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
