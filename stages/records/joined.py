"""Several datasets joined into one: every name in it says which dataset it is from.

====================  ==========================================================================================
key, label, split     ``<dataset>/<what it was>``: so nothing of one dataset is mistaken for another's, and a split
                      that searches in one dataset can train in another
domain                the dataset's own where the row has one, else the dataset's name
attributes            the columns of all, null where a dataset has no such column; the values as they are, so keys in
                      them are the dataset's own
====================  ==========================================================================================

Two datasets may share a domain; their labels stay apart all the same, so an ``apple`` of one is no match for an
``apple`` of the other, unless both say ``classes_across_domains``: then their labels stay as they are. All galleries
are one gallery, which every query searches.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from cache.errors import SettingsError
from stages.datasets.config import Roles, SourceConfig
from stages.records.reading import Part
from stages.records.splits import DISTRACTORS, ROLES


def check_names(configs: Sequence[SourceConfig]) -> None:
    """Raise ValueError unless each of several datasets has a name of its own."""
    if not configs:
        raise SettingsError("a run needs a dataset: [dataset], or [[dataset]] where there are several")
    if len(configs) == 1:
        return
    places: dict[str, int] = {}
    for at, config in enumerate(configs):
        if config.name is None:
            raise SettingsError(f"dataset[{at}] ({config.path}) has no name; each of several needs one: name = '...'")
        if config.name in places:
            raise SettingsError(
                f"dataset[{places[config.name]}] and dataset[{at}] are both called {config.name!r}; "
                "every dataset needs a name of its own"
            )
        places[config.name] = at


def join(parts: Sequence[Part]) -> tuple[pa.Table, Roles]:
    """The ``parts`` one below the other in their order, and the splits that each role takes in all of them."""
    tables = [_renamed(part) for part in parts]
    roles = {
        role: tuple(f"{part.config.name}/{value}" for part in parts for value in part.roles.get(role, ()))
        for role in (*ROLES, *DISTRACTORS)
        if role in ROLES or any(role in part.roles for part in parts)
    }
    return pa.concat_tables(tables, promote_options="default"), roles


def _renamed(part: Part) -> pa.Table:
    name, table = str(part.config.name), part.table
    columns = {column: table[column] for column in table.column_names}
    for column in ("key", "split") if part.config.classes_across_domains else ("key", "label", "split"):
        columns[column] = pc.binary_join_element_wise(name, columns[column], "/", null_handling="emit_null")
    columns["domain"] = pc.fill_null(columns["domain"], name)
    return pa.table(columns)
