"""Toy records with attributes and tags, and features that tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from cache import FeatureStore
from stages.records import Records
from tests.toys.training import make_records, make_store

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


def toy_records(each: int = 10) -> Records:
    """Records of ``each`` image of every colour and kind; the label is both, the tags are their words."""
    rows = [(colour, kind) for colour in COLOURS for kind in KINDS for _ in range(each)]
    columns = {
        "attributes.colour": [colour for colour, _ in rows],
        "attributes.kind": [kind for _, kind in rows],
        "tags": [f"{WORDS[kind]} of {WORDS[colour]}" for colour, kind in rows],
    }
    return with_columns(make_records({f"{at}": f"{colour} {kind}" for at, (colour, kind) in enumerate(rows)}), columns)


def toy_attributes(folder: Path, each: int = 10, *, seed: int = 0) -> tuple[FeatureStore, Records]:
    """A store of features that tell the attributes of :func:`toy_records`, and these."""
    records = toy_records(each)
    features = np.random.default_rng(seed).normal(size=(len(records), 12)) * 0.4
    colours, kinds = records.attribute("colour"), records.attribute("kind")
    for at, (colour, kind) in enumerate(zip(colours, kinds, strict=True)):
        features[at, COLOURS.index(str(colour))] += 1.5
        features[at, 3 + KINDS.index(str(kind))] += 1.5
    return make_store(folder, dict(zip(records.keys, features.astype(np.float16), strict=True))), records
