"""Measures and losses by attributes written again as loops, from their definitions: what the tests compare with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np


def graded_ap(grades: Sequence[float]) -> float:
    """Graded average precision of one ranking: thresholds of the grade are equally likely."""
    total = 0.0
    for n in range(1, len(grades) + 1):
        total += sum(min(grades[m], grades[n - 1]) for m in range(n)) / n
    return total / sum(grades)


def ndcg(grades: Sequence[float], k: int | None = None) -> float:
    def dcg(order: Sequence[float]) -> float:
        return sum(grade / math.log2(rank + 2) for rank, grade in enumerate(order[:k]))

    return dcg(grades) / dcg(sorted(grades, reverse=True))


def over_all_orders(
    similarity: Sequence[float], grades: Sequence[float], value: Callable[[Sequence[float]], float]
) -> float:
    """The mean of ``value`` over every order of the rows that has no lower similarity before a higher one."""
    values = [
        value([grades[row] for row in order])
        for order in itertools.permutations(range(len(grades)))
        if all(similarity[a] >= similarity[b] for a, b in itertools.pairwise(order))
    ]
    return sum(values) / len(values)


def share_of_equal(
    query: Mapping[str, str | None], row: Mapping[str, str | None], weights: Mapping[str, float]
) -> float:
    """The grade of a gallery row, by weight, of the attributes that the query has."""
    equal = query_attributes = 0.0
    for name, weight in weights.items():
        mine, theirs = query[name], row[name]
        if mine is None:
            continue
        query_attributes += weight
        if theirs is not None:
            one, other = set(mine.split("|")), set(theirs.split("|"))
            equal += weight * len(one & other) / len(one | other)
    return equal / query_attributes


def paper_similarity(
    properties: Sequence[Sequence[str]], names: Sequence[str]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """How similar the labels of row a are to those of column b, a pair at a time."""
    tags = [name.lower().strip().replace(" & ", "-").split(" ") for name in names]
    table = np.zeros((len(names), len(names)))
    for a in range(len(names)):
        for b in range(len(names)):
            same = [p.lower() for p in properties[a]] == [p.lower() for p in properties[b]]
            shared = 0
            for word in tags[a]:
                if word in tags[b]:
                    shared += 1
            table[a, b] = int(same) * shared / len(tags[a])
    return table


def paper_first(table: np.ndarray[tuple[int, int], np.dtype[np.floating]], query: int) -> list[int]:
    order = sorted(range(len(table)), key=lambda row: (table[row, query], row))
    order.reverse()
    return order[:11][1:]


def paper_ap(truth: Sequence[int], results: Sequence[int]) -> float:
    hits, total = 0, 0.0
    for place, row in enumerate(results):
        if row in truth:
            hits += 1
            total += hits / (place + 1)
    return total / 10
