"""Toy records with attributes and tags, and features that tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from cache import FeatureStore
from stages.records import Records
from tests.toy_training import make_records, make_store

COLOURS, KINDS = ("blue", "green", "red"), ("shirt", "shoe")
WORDS = {"blue": "sea", "green": "leaf", "red": "fire", "shirt": "cotton top", "shoe": "leather sole"}


def with_columns(records: Records, columns: Mapping[str, Sequence[str | None]]) -> Records:
    """``records`` with these columns, in the place of those of the same name."""
    table = records.table
    for name, values in columns.items():
        column = pa.array(values, pa.string())
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    return Records(table, {})


def toy_attributes(folder: Path, each: int = 10, *, seed: int = 0) -> tuple[FeatureStore, Records]:
    """A store and records of ``each`` image of every colour and kind; the label is both, the tags are their words."""
    rng = np.random.default_rng(seed)
    rows = [(colour, kind) for colour in COLOURS for kind in KINDS for _ in range(each)]
    labels: dict[str, str | None] = {f"{at}": f"{colour} {kind}" for at, (colour, kind) in enumerate(rows)}
    features = rng.normal(size=(len(rows), 12)) * 0.4
    for at, (colour, kind) in enumerate(rows):
        features[at, COLOURS.index(colour)] += 1.5
        features[at, 3 + KINDS.index(kind)] += 1.5
    columns = {
        "attributes.colour": [colour for colour, _ in rows],
        "attributes.kind": [kind for _, kind in rows],
        "tags": [f"{WORDS[kind]} of {WORDS[colour]}" for colour, kind in rows],
    }
    store = make_store(folder, dict(zip(labels, features.astype(np.float16), strict=True)))
    return store, with_columns(make_records(labels), columns)
