"""Is one better than the other? Differences query by query, and the spread of a score over repeated runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cache.errors import NothingToScoreError
from stages.ranking.metrics import Values
from stages.retrieval.scores import Resampling


class Scored(Protocol):
    """What is compared: a value of each metric for each query. :class:`~stages.retrieval.Scores` is one."""

    @property
    def query_keys(self) -> Sequence[str]:
        """The queries, (Q,)."""

    @property
    def per_query(self) -> Mapping[str, Values]:
        """The values (Q,) of each metric."""


class Difference(NamedTuple):
    """The mean over the shared queries of first - second, in units of the metric.

    ``low`` and ``high`` bound its interval. ``p_value`` is two-sided: how often resampled queries give the other sign,
    twice. ``unmatched`` queries were scored in one of the two only, and are left out.
    """

    metric: str
    value: float
    low: float
    high: float
    p_value: float
    queries: int
    unmatched: int


def paired_difference(
    first: Scored, second: Scored, resamples: int = 1000, seed: int = 0, *, confidence: float = 0.95
) -> tuple[Difference, ...]:
    """``first`` less ``second`` for each metric that both have, by a paired bootstrap over queries.

    Queries are matched by key, so that what makes a query hard falls out of the difference: the interval is much
    narrower than those of the two scores suggest. Queries are drawn as if independent; where many are views of few
    objects the true interval is wider.

    Args:
        first: the one that gains where the difference is positive.
        second: the one it is compared with.
        resamples: how many times the shared queries are drawn anew, the same draws for every metric.
        seed: of those draws.
        confidence: the share of the resampled differences between ``low`` and ``high``.

    Raises:
        ValueError: a query twice in one of them, no metric in both, or a number out of range.
        NothingToScoreError: no query in both.
    """
    resampling = Resampling(confidence, resamples, seed)
    metrics = [name for name in first.per_query if name in second.per_query]
    if not metrics:
        raise ValueError(
            f"the two have no metric in common: {', '.join(first.per_query)} and {', '.join(second.per_query)}"
        )
    places = places_of(first.query_keys), places_of(second.query_keys)
    shared = [key for key in places[0] if key in places[1]]
    if not shared:
        raise NothingToScoreError(
            f"none of the {len(places[0]):,} queries of one is among the {len(places[1]):,} of the other: they were "
            "scored on different data, or their keys changed"
        )
    rows = [np.array([place[key] for key in shared]) for place in places]
    differences = np.stack(
        [first.per_query[name][rows[0]] - second.per_query[name][rows[1]] for name in metrics]
    )  # (M, Q)
    means = resampling.means(differences, 0)
    low, high = resampling.interval(means)
    unmatched = len(places[0]) + len(places[1]) - 2 * len(shared)
    return tuple(
        Difference(name, float(value), float(least), float(most), p_value(resampled), len(shared), unmatched)
        for name, value, least, most, resampled in zip(metrics, differences.mean(1), low, high, means, strict=True)
    )


def t_interval(values: npt.NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float, float]:
    """The mean of a score over runs (n,), and the ends of Student's t interval; both NaN for a single run.

    >>> mean, low, high = t_interval(np.array([0.5, 0.6, 0.7]))
    >>> round(mean, 3), round(low, 3), round(high, 3)
    (0.6, 0.352, 0.848)
    """
    if len(values) == 0:
        raise ValueError("an interval needs at least one run, got none")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is a share between 0 and 1, such as 0.95, got {confidence}")
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, float("nan"), float("nan")
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2) * np.std(values, ddof=1) / len(values) ** 0.5)
    return mean, mean - half, mean + half


def p_value(means: Values) -> float:
    """Of resampled ``means`` (n,), two-sided, never 0: with n draws nothing rarer than 1 in n + 1 can be told."""
    rarer = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(means) + 1))


def places_of(keys: Sequence[str]) -> dict[str, int]:
    """Where each of ``keys`` is. ValueError where one is there twice."""
    places = {key: place for place, key in enumerate(keys)}
    if len(places) < len(keys):
        twice = next(key for place, key in enumerate(keys) if places[key] != place)
        raise ValueError(f"the query {twice!r} is there twice; queries are matched by key, so keys must differ")
    return places
