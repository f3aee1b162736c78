"""Scores by the size of the query's class: many classes are small, and a mean over queries hides how they fare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stages.analysis.comparison import Scored
from stages.records import Records
from stages.retrieval.scores import Resampling

EDGES = (0, 1, 2, 5, 10, 20, 50, 100, 1000)
"""The first size of each bin."""


class GroupScore(NamedTuple):
    """One metric over the queries of one group, with the interval over them. ``group`` is such as ``5-9``."""

    group: str
    metric: str
    value: float
    low: float
    high: float
    queries: int
    classes: int


def by_class_size(
    scored: Scored,
    sizes: Mapping[str, int],
    classes: Mapping[str, str],
    resampling: Resampling = Resampling(),
    edges: Sequence[int] = EDGES,
) -> tuple[GroupScore, ...]:
    """The mean of each metric over the queries whose class has a size between two of ``edges``, small classes first.

    Args:
        scored: the value of each metric for each query.
        sizes: the size of each query's class, by the query's key: see :func:`gallery_sizes`, :func:`training_sizes`.
        classes: the class of each query, by key, to count them.
        resampling: how intervals are made. Every group draws by itself.
        edges: the first size of each bin, ascending; sizes below the first are in no group.

    Raises:
        ValueError: edges that do not ascend, or a query without a size.
    """
    if list(edges) != sorted({*edges}) or not edges:
        raise ValueError(f"edges are different whole numbers, ascending, at least one; got {list(edges)}")
    if missing := [key for key in scored.query_keys if key not in sizes]:
        raise ValueError(f"{len(missing):,} queries have no class size, the first is {missing[0]!r}")
    of_query = np.array([sizes[key] for key in scored.query_keys])
    named = np.array([classes[key] for key in scored.query_keys], dtype=object)
    groups = []
    bins = np.searchsorted(edges, of_query, side="right") - 1
    for number, (first, end) in enumerate(zip(edges, [*edges[1:], None], strict=True)):
        rows = np.flatnonzero(bins == number)
        if not len(rows):
            continue
        values = np.stack([row[rows] for row in scored.per_query.values()])
        low, high = resampling.interval(resampling.means(values, number))
        groups += [
            GroupScore(
                _name(first, end), metric, float(mean), float(least), float(most), len(rows), len({*named[rows]})
            )
            for metric, mean, least, most in zip(scored.per_query, values.mean(1), low, high, strict=True)
        ]
    return tuple(groups)


def gallery_sizes(queries: Records, gallery: Records) -> dict[str, int]:
    """How many images of its class each query can find in the gallery, by key: itself not counted."""
    counts, keys = Counter(gallery.classes), set(gallery.keys)
    pairs = zip(queries.keys, queries.classes, strict=True)
    return {key: 0 if name is None else counts[name] - (key in keys) for key, name in pairs}


def training_sizes(queries: Records, train: Records) -> dict[str, int]:
    """How many images of its class each query's head was trained on, by key; 0 is a class never seen."""
    counts = Counter(train.classes)
    return {key: 0 if name is None else counts[name] for key, name in zip(queries.keys, queries.classes, strict=True)}


def _name(first: int, end: int | None) -> str:
    if end is None:
        return f"{first}+"
    return str(first) if end - 1 == first else f"{first}-{end - 1}"


def class_of(queries: Records) -> dict[str, str]:
    """The class of each query, by key."""
    return {key: name or "" for key, name in zip(queries.keys, queries.classes, strict=True)}
