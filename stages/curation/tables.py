"""A curated training set as tables: what to train on, what was dropped, and how many of which domain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from cache import parse_source
from cache.storage import absolute
from stages.curation.curate import REASONS, Curated, Dropped
from stages.datasets.config import text_table
from stages.records import Records


class Tally(NamedTuple):
    """Images and classes of a domain, before and after, and how many images were dropped for each reason."""

    images: int
    images_kept: int
    classes: int
    classes_kept: int
    dropped: dict[str, int]


def tally(curated: Curated) -> tuple[dict[str | None, Tally], Tally]:
    """The counts by domain, by name, and of all."""
    retained = list(zip(curated.retained.domains, curated.retained.labels, strict=True))
    domains = {domain for domain, _ in retained} | {dropped.domain for dropped in curated.dropped}
    by_domain = {
        domain: _tally(
            [pair for pair in retained if pair[0] == domain],
            [drop for drop in curated.dropped if drop.domain == domain],
        )
        for domain in sorted(domains, key=lambda domain: domain or "")
    }
    return by_domain, _tally(retained, curated.dropped)


def _tally(retained: Sequence[tuple[str | None, str | None]], dropped: Sequence[Dropped]) -> Tally:
    counts = Counter(drop.reason for drop in dropped)
    before = {*retained, *((drop.domain, drop.label) for drop in dropped)}
    by_reason = {reason: counts[reason] for reason in REASONS if counts[reason]}
    return Tally(len(retained) + len(dropped), len(retained), len(before), len(set(retained)), by_reason)


def training_table(records: Records) -> pa.Table:
    """The records as a table to train on: ``path`` is absolute, or a URI with an absolute path in it.

    Attributes are columns of their names, and so are tags where there are any. An attribute that is called as another
    of the columns is ``attributes.NAME``, unless it has the same values.
    """
    sources = [parse_source(uri) for uri in records.uris]
    columns: dict[str, Sequence[str | None]] = {
        "key": records.keys,
        "path": [source._replace(path=absolute(source.path)).uri for source in sources],
        "label": records.labels,
        "domain": records.domains,
        "split": ["train"] * len(records),
    }
    if any(tags := records.table["tags"].to_pylist()):
        columns["tags"] = tags
    attributes = [column for column in records.table.column_names if column.startswith("attributes.")]
    for name in (column.removeprefix("attributes.") for column in attributes):
        values = records.attribute(name)
        if columns.get(name) != values:
            columns[f"attributes.{name}" if name in columns else name] = values
    return text_table(columns)


def dropped_table(dropped: Sequence[Dropped]) -> pa.Table:
    """The dropped records: why, and what each collided with.

    >>> dropped_table([Dropped("a.jpg", None, "cup", "byte-identical copy", "b.jpg", 1.0)])["similarity"].to_pylist()
    ['1.0000']
    """
    columns = {name: [getattr(drop, name) for drop in dropped] for name in Dropped._fields}
    columns["similarity"] = [None if drop.similarity is None else f"{drop.similarity:.4f}" for drop in dropped]
    return text_table(columns)
