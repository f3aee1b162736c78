"""Scores by the size of the query's class: many classes are small, and a mean over queries hides how they fare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from cache.errors import SettingsError
from stages.analysis.comparison import Scored
from stages.ranking.intervals import class_numbers, estimate, share_interval
from stages.records import Records
from stages.retrieval.query_values import QueryValues

ClassSize: TypeAlias = Literal["class_size", "training_class_size"]
"""Images of the query's class in the gallery, or among those that heads were trained on."""
EDGES = (0, 1, 2, 5, 10, 20, 50, 100, 1000)
"""The first size of each bin."""


class GroupScore(NamedTuple):
    """One metric over the queries of one group, with its interval over classes. ``group`` is such as ``5-9``."""

    group: str
    metric: str
    value: float
    low: float
    high: float
    queries: int
    classes: int


def by_class_size(scored: Scored, sizes: Mapping[str, int]) -> tuple[GroupScore, ...]:
    """The mean of each metric over the queries whose class has a size in one of the bins, small classes first.

    ``sizes`` are by the query's key: see :func:`gallery_sizes`, :func:`training_sizes`. Raises ValueError
    where one is missing.

    >>> from stages.retrieval.query_values import QueryScores
    >>> scored = QueryScores(("a", "b", "c"), ("cup", "cup", "mug"), {"hit@1": np.array([1.0, 0.0, 1.0])})
    >>> [(group.group, group.value) for group in by_class_size(scored, {"a": 7, "b": 7, "c": 1})]
    [('1', 1.0), ('5-9', 0.5)]
    """
    if missing := [key for key in scored.query_keys if key not in sizes]:
        raise SettingsError(f"{len(missing):,} queries have no class size, the first is {missing[0]!r}")
    of_query = np.array([sizes[key] for key in scored.query_keys])
    units = class_numbers(scored.query_classes)
    groups = []
    bins = np.searchsorted(EDGES, of_query, side="right") - 1
    for number in np.unique(bins).tolist():
        rows = np.flatnonzero(bins == number)
        known = estimate(np.stack([row[rows] for row in scored.per_query.values()]), units[rows])
        columns = (column.tolist() for column in (known.mean, *share_interval(known)))
        groups += [
            GroupScore(_name(number), metric, mean, low, high, len(rows), known.units)
            for metric, mean, low, high in zip(scored.per_query, *columns, strict=True)
        ]
    return tuple(groups)


def stored_by_class_size(values: QueryValues, records: Records, by: ClassSize) -> list[dict[str, Any]]:
    """The stored scores of every head by the size of the query's class: an object for each group and metric."""
    in_gallery, queries = by == "class_size", records.split("query")
    count = gallery_sizes if in_gallery else training_sizes
    sizes = count(queries, records.split("gallery" if in_gallery else "train"))
    return [
        {"backbone": backbone, "head": head, "by": by} | group._asdict()
        for backbone, head in values.heads()
        for metric in values.of(backbone, head)
        for group in by_class_size(metric, sizes)
    ]


def gallery_sizes(queries: Records, gallery: Records) -> dict[str, int]:
    """How many images of its class each query can find in the gallery, by key: itself not counted."""
    counts, keys = Counter(gallery.classes), set(gallery.keys)
    pairs = zip(queries.keys, queries.classes, strict=True)
    return {key: 0 if name is None else counts[name] - (key in keys) for key, name in pairs}


def training_sizes(queries: Records, train: Records) -> dict[str, int]:
    """How many images of its class each query's head was trained on, by key; 0 is a class never seen."""
    counts = Counter(train.classes)
    return {key: 0 if name is None else counts[name] for key, name in zip(queries.keys, queries.classes, strict=True)}


def _name(number: int) -> str:
    first, *ends = EDGES[number : number + 2]
    if not ends:
        return f"{first}+"
    return str(first) if ends[0] - 1 == first else f"{first}-{ends[0] - 1}"
