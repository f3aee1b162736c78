"""Is one better than the other? Differences query by query, and the spread of a score over repeated runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from cache.errors import NothingToScoreError, SettingsError
from stages.ranking.intervals import class_numbers, difference_interval, estimate
from stages.ranking.relevance import Rows
from stages.retrieval.query_values import QueryScores
from stages.retrieval.scores import Scores

Scored: TypeAlias = QueryScores | Scores
"""What is compared: a value of each metric for each query."""


class Difference(NamedTuple):
    """The mean over the shared queries of first - second, in units of the metric.

    ``low`` and ``high`` bound its interval over classes, and ``p_value`` is the two-sided one of no difference.
    ``unmatched`` queries were scored in one of the two only, and are left out.
    """

    metric: str
    value: float
    low: float
    high: float
    p_value: float
    queries: int
    unmatched: int


def paired_difference(first: Scored, second: Scored) -> tuple[Difference, ...]:
    """``first`` less ``second`` for each metric that both have, over the queries that both scored.

    Queries are matched by key, so that what makes a query hard falls out of the difference: the interval is much
    narrower than those of the two scores suggest. It is over the classes of ``first``, as queries of one err together.
    Raises ValueError for a query twice in one of them, or no metric in both, and NothingToScoreError for no query.

    >>> keys, classes = ("a", "b", "c"), ("cup", "mug", "jug")
    >>> better = QueryScores(keys, classes, {"hit@1": np.array([1.0, 1.0, 0.0])})
    >>> worse = QueryScores(keys, classes, {"hit@1": np.array([1.0, 0.0, 0.0])})
    >>> (difference,) = paired_difference(better, worse)
    >>> round(difference.value, 3), difference.low < 0 < difference.high
    (0.333, True)
    """
    metrics = [name for name in first.per_query if name in second.per_query]
    if not metrics:
        raise SettingsError(
            f"the two have no metric in common: {', '.join(first.per_query)} and {', '.join(second.per_query)}"
        )
    keys, rows, only = matched(first, second, "one", "the other")
    differences = np.stack(
        [first.per_query[name][rows[0]] - second.per_query[name][rows[1]] for name in metrics]
    )  # (M, Q)
    known = estimate(differences, class_numbers(first.query_classes)[rows[0]])
    unmatched = sum(map(len, only))
    columns = known.mean, *difference_interval(known)
    return tuple(
        Difference(name, float(value), float(low), float(high), float(p_value), len(keys), unmatched)
        for name, value, low, high, p_value in zip(metrics, *columns, strict=True)
    )


def t_interval(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """The mean of a score over runs (n,), and the ends of Student's 95 % t interval; both NaN for a single run.

    >>> mean, low, high = t_interval(np.array([0.5, 0.6, 0.7]))
    >>> round(mean, 3), round(low, 3), round(high, 3)
    (0.6, 0.352, 0.848)
    """
    if len(values) == 0:
        raise SettingsError("an interval needs at least one run, got none")
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, float("nan"), float("nan")
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / len(values) ** 0.5)
    return mean, mean - half, mean + half


def matched(
    first: Scored, second: Scored, one: str, other: str
) -> tuple[tuple[str, ...], tuple[Rows, Rows], tuple[tuple[str, ...], tuple[str, ...]]]:
    """The queries of both by key, where each is in the two of them, and those that only one has.

    Raises ValueError for a query that is in ``one`` or the ``other`` twice, and NothingToScoreError where none is in
    both.
    """
    places = _places(first.query_keys), _places(second.query_keys)
    keys = tuple(key for key in places[0] if key in places[1])
    if not keys:
        raise NothingToScoreError(
            f"none of the {len(places[0]):,} queries of {one} is among the {len(places[1]):,} of {other}: they were "
            "scored on different data, or their keys changed"
        )
    rows = np.array([places[0][key] for key in keys]), np.array([places[1][key] for key in keys])
    only = (
        tuple(key for key in places[0] if key not in places[1]),
        tuple(key for key in places[1] if key not in places[0]),
    )
    return keys, rows, only


def _places(keys: Sequence[str]) -> dict[str, int]:
    """Where each of ``keys`` is. ValueError where one is there twice."""
    places = {key: place for place, key in enumerate(keys)}
    if len(places) < len(keys):
        twice = next(key for place, key in enumerate(keys) if places[key] != place)
        raise SettingsError(f"the query {twice!r} is there twice; queries are matched by key, so keys must differ")
    return places
