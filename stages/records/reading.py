"""Datasets with their splits and roles, and several joined into one; rows with errors are refused by name.

In a joined one keys, labels and splits become ``<dataset>/<what it was>``, so that nothing of one dataset is mistaken
for another's; labels of datasets that say ``classes_across_domains`` stay as they are. The domain is the dataset's own
where the row has one, else its name; attributes have the columns of all. All galleries are one gallery, which every
query searches.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cache import DigestCache, parse_source
from cache.errors import RecordsError, SettingsError
from cache.storage import file_exists, is_url
from stages.datasets.config import Roles, Source, SourceConfig, label_notes, missing_notes
from stages.records.splits import DISTRACTORS, ROLES, class_disjoint_splits, describe_splits, named_roles


class Part(NamedTuple):
    """One dataset: its rows, each with a split, and the splits that each role takes."""

    config: SourceConfig
    table: pa.Table
    roles: Roles


def read_parts(configs: Sequence[SourceConfig], seed: int) -> tuple[list[Part], list[str]]:
    """Read datasets, and what there is to say about their splits; ``seed`` makes those of datasets that have none."""
    sources = []
    for config in configs:
        with _naming(config):
            sources.append(_read(config))
    apart = [place for place, source in enumerate(sources) if "split" not in source.table.column_names]
    together = [place for place in apart if configs[place].classes_across_domains]
    groups = [[place] for place in apart if place not in together] + [together] * bool(together)
    notes = [note for config, source in zip(configs, sources, strict=True) for note in _notes(config, source)]
    for group in sorted(groups):
        tables, note = _with_splits([configs[at] for at in group], [sources[at].table for at in group], seed)
        for at, table in zip(group, tables, strict=True):
            sources[at] = sources[at]._replace(table=table)
        named = ", ".join(repr(configs[at].name) for at in group if configs[at].name is not None)
        notes += [f"{named}: {note}" if named else note] * bool(note)
    separate = [group[0] for group in groups]
    datasets = Counter(label for at in separate for label in set(sources[at].table["label"].to_pylist()) - {None})
    if shared := sum(count > 1 for count in datasets.values()):
        notes.append(
            f"{shared:,} labels stand in several datasets, where they are classes apart: if a label is one class in "
            "all, say classes_across_domains = true in each"
        )
    return [_part(config, source) for config, source in zip(configs, sources, strict=True)], notes


def _read(config: SourceConfig) -> Source:
    """The rows of a dataset with columns ``domain`` and ``tags``, and ``split`` unless its splits are to be made."""
    source = config.read()
    table = source.table
    _refuse_bad_keys(config, table)
    if "split" not in table.column_names and config.query is not None:
        raise RecordsError(
            f"query and gallery name splits, but {config.path} has no split column; name it: split = '...' "
            "(of a folder: 'folder' for its first level; of shards: 'file' for the names of the files)"
        )
    for name in ("domain", "tags"):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
    return source._replace(table=table)


def _notes(config: SourceConfig, source: Source) -> list[str]:
    begin = "" if config.name is None else f"{config.name!r}: "
    names = [
        name for name in source.table.column_names if name in ("label", "domain") or name.startswith("attributes.")
    ]
    columns = {name.removeprefix("attributes."): source.table[name] for name in names}
    missing = [note for name, values in columns.items() for note in missing_notes(values, name)]
    return [f"{begin}{note}" for note in (*source.notes, *missing, *label_notes(source.table["label"]))]


def _with_splits(configs: Sequence[SourceConfig], tables: Sequence[pa.Table], seed: int) -> tuple[list[pa.Table], str]:
    """The tables with splits made as if they were one, and what was done; nothing where no image has a label."""
    settings = [(config.queries_per_class, config.validation_share, config.test_share) for config in configs]
    if differing := next((at for at, others in enumerate(settings) if others != settings[0]), None):
        raise SettingsError(
            f"datasets {configs[0].name!r} and {configs[differing].name!r} share their classes "
            "(classes_across_domains), so their splits are made together: give both the same queries_per_class, "
            "validation_share and test_share"
        )
    keys, labels, domains = (
        [value for table in tables for value in table[name].to_pylist()] for name in ("key", "label", "domain")
    )
    if len(tables) > 1:
        names = (name for config, table in zip(configs, tables, strict=True) for name in [config.name] * len(table))
        domains = [domain or name for domain, name in zip(domains, names, strict=True)]
    made = class_disjoint_splits(keys, labels, domains, configs[0], seed)
    column, first, split = pa.array(made, pa.string()), 0, []
    for table in tables:
        split.append(table.append_column("split", column.slice(first, len(table))))
        first += len(table)
    return split, describe_splits(labels, domains, made) if any(labels) else ""


def _part(config: SourceConfig, source: Source) -> Part:
    with _naming(config):
        try:
            roles = named_roles(config, source.table["split"], source.table["key"], source.roles)
            _refuse_missing_labels(source.table, roles)
        except RecordsError as error:
            raise RecordsError(f"{config.path}: {error}") from None
    return Part(config, source.table, roles)


def digest_part(
    part: Part, digests: DigestCache, on_progress: Callable[[int], None] | None
) -> tuple[Part, pa.ChunkedArray, pa.ChunkedArray]:
    """The digest of each image (N,), null where there is none, and the problem that the reader, or reading it, met.

    A path that names no file, while the same name in the other Unicode form does (NFC, NFD), is taken for that file; so
    the part comes back. A reader of records without images gives the digests itself.
    """
    table = part.table
    if "digest" in table.column_names:  # there are no images
        no_problem = pa.chunked_array([pa.array([""] * len(table), pa.string())])
        return part._replace(table=table.drop_columns("digest")), table["digest"], no_problem
    uris = table["uri"]
    if "problem" in table.column_names:
        listed = np.asarray(table["problem"].is_null())
        places = pa.array(np.cumsum(listed) - 1, mask=~listed)
        read, errors = (column.take(places) for column in digests.column(uris.filter(listed), on_progress=on_progress))
        errors = pc.coalesce(table["problem"], errors)
    else:
        listed = np.ones(len(table), np.bool_)
        read, errors = digests.column(uris, on_progress=on_progress)
    without = np.flatnonzero(read.is_null()).tolist()
    missing = [row for row in without if _is_missing(str(uris[row]), listed=bool(listed[row]))]
    if spelled := {row: other for row in missing if (other := _in_other_form(str(uris[row]))) is not None}:
        columns = [column.to_pylist() for column in (uris, read, errors)]
        for (row, other), outcome in zip(spelled.items(), digests.digests([*spelled.values()]), strict=True):
            for column, value in zip(columns, (other, *outcome), strict=True):
                column[row] = value
        missing = [row for row in missing if row not in spelled]
        kinds = (pa.string(), pa.binary(32), pa.string())
        uris, read, errors = (pa.chunked_array([c], kind) for c, kind in zip(columns, kinds, strict=True))
        part = part._replace(table=table.set_column(table.column_names.index("uri"), "uri", uris))
    if missing and part.config.missing_images == "refuse":
        with _naming(part.config):
            _refuse_missing_images(part, missing, str(errors[missing[0]]))
    return part, read, errors


def _in_other_form(uri: str) -> str | None:
    """``uri`` with its path in the Unicode form in which there is such a file; None where there is none."""
    source = parse_source(uri)
    if source.path.isascii() or file_exists(source.path) or is_url(source.path):
        return None
    forms = (unicodedata.normalize("NFC", source.path), unicodedata.normalize("NFD", source.path))
    return next((source._replace(path=form).uri for form in forms if os.path.lexists(form)), None)


@contextmanager
def _naming(config: SourceConfig) -> Iterator[None]:
    """Begin the message of a RecordsError with the name of the dataset, where it has one."""
    try:
        yield
    except RecordsError as error:
        if config.name is None:
            raise
        raise type(error)(f"dataset {config.name!r}: {error}") from None


def _place(table: pa.Table, row: int) -> str:
    return str(table["place"][row]) if "place" in table.column_names else f"row {row + 1}"


def _is_missing(uri: str, *, listed: bool) -> bool:
    """Whether an image without a digest is not there, rather than there in a file of its own and not readable."""
    source = parse_source(uri)
    within = source.stretch is not None or source.cell is not None
    return not listed or within or not file_exists(source.path)


def _refuse_bad_keys(config: SourceConfig, table: pa.Table) -> None:
    keys = table["key"]
    if keys.null_count:
        row = int(np.flatnonzero(keys.is_null())[0])
        raise RecordsError(f"{config.path}, {_place(table, row)}: the key is empty; every record needs its own")
    if pc.count_distinct(keys).as_py() == len(keys):
        return
    seen: dict[str, int] = {}
    for row, key in enumerate(keys.to_pylist()):
        if (first := seen.setdefault(key, row)) != row:
            raise RecordsError(
                f"{config.path}: {_place(table, first)} and {_place(table, row)} have the same key {key!r}. "
                "Keys must differ; name another column with key = '...' under [dataset] of the run file, or drop a row."
            )


def _refuse_missing_labels(table: pa.Table, roles: Roles) -> None:
    needing = {value: role for role in ("train", "query") for value in roles[role]}
    used = pc.is_in(table["split"], pa.array([*needing], pa.string()))
    for row in np.flatnonzero(pc.and_(used, table["label"].is_null()))[:1].tolist():
        split = str(table["split"][row])
        raise RecordsError(
            f"{_place(table, row)} (key {str(table['key'][row])!r}) is in {needing[split]} (split {split!r}) and has "
            "no label. Only gallery images may lack one: label it, or move it to a split of its own."
        )


def _refuse_missing_images(part: Part, missing: Sequence[int], error: str | None) -> None:
    first, more = missing[0], len(missing) - 1
    path, key = parse_source(str(part.table["uri"][first])).path, str(part.table["key"][first])
    if os.path.lexists(path):
        what = f"has no image: {error}" + (f"; nor have {more:,} rows more" if more else "")
        mend = "Mend or drop it"
    else:
        what = f"names {path}, which does not exist" + (f"; so do {more:,} rows more" if more else "")
        mend = "Correct the table (image paths are relative to root, by default the table's folder)"
    raise RecordsError(
        f"{_place(part.table, first)} (key {key!r}) {what}. {mend}, or set missing_images = 'record' under [dataset] "
        "of the run file to list such images as failed and go on."
    )


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
