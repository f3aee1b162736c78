"""Scores: the mean of each metric over the queries, with an interval, by domain; and the values it is the mean of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cache.errors import RecordsError
from stages.retrieval.metrics import Values

ALL, MEAN = "all", "mean"


class Score(NamedTuple):
    """One metric over the queries of one domain (``all``: every query; ``mean``: the mean of the domains)."""

    metric: str
    domain: str
    value: float
    low: float
    high: float
    queries: int
    gallery: int
    unanswerable: int


@dataclass(frozen=True)
class Scores:
    """What :func:`stages.retrieval.evaluate` returns: a sequence of :class:`Score`, and what they come from.

    The order is: every metric for ``all``, then for each domain in sorted order, then for ``mean``; the last two only
    when the queries have more than one domain.
    """

    scores: tuple[Score, ...]
    query_keys: tuple[str, ...]
    """The queries that were scored, (Q,)."""
    query_domains: tuple[str | None, ...]
    """The domain of each, (Q,)."""
    per_query: Mapping[str, Values]
    """The value of each metric for each of them, (Q,), for comparing two runs query by query."""
    failed_queries: int
    """Query images without a feature: left out."""
    failed_gallery: int
    """Gallery images without a feature: left out."""
    unanswerable: int
    """Queries to which no gallery row is relevant: left out of every mean."""
    classes: int
    """Different classes (labels, within their domain) among the queries that were scored."""
    unscored_domains: tuple[str, ...]
    """Domains of which no query could be scored: they have no score and are not in ``mean``."""

    def __iter__(self) -> Iterator[Score]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, position: int) -> Score:
        return self.scores[position]

    def value(self, metric: str, domain: str = ALL) -> float:
        """The value of one metric. Raises KeyError naming what was scored."""
        for score in self.scores:
            if (score.metric, score.domain) == (metric, domain):
                return score.value
        scored = ", ".join(f"{score.metric} ({score.domain})" for score in self.scores)
        raise KeyError(f"{metric} ({domain}) was not scored; there are {scored}")


@dataclass(frozen=True)
class Resampling:
    """How an interval is made: percentile bootstrap over queries, the same draws for every metric.

    ``confidence`` is the share of the resampled means inside the interval. Queries are drawn as if independent; where
    many are views of few objects the true interval is wider.
    """

    confidence: float = 0.95
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence is a share between 0 and 1, such as 0.95, got {self.confidence}")
        if self.resamples < 1:
            raise ValueError(f"resamples must be at least 1, got {self.resamples}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")

    def means(self, values: Values, stream: int) -> Values:
        """Means (M, resamples) of ``values`` (M, Q) over queries drawn with replacement."""
        rng = np.random.default_rng([self.seed, stream])
        num_queries = values.shape[1]
        means = np.empty((len(values), self.resamples))
        for draw in range(self.resamples):
            means[:, draw] = values[:, rng.integers(0, num_queries, num_queries)].mean(axis=1)
        return means

    def interval(self, means: Values) -> tuple[Values, Values]:
        """The ends (M,), (M,) of the interval of resampled ``means`` (M, resamples)."""
        outside = (1 - self.confidence) / 2
        low, high = np.quantile(means, [outside, 1 - outside], axis=1)
        return low, high


def domain_names(domains: Sequence[str | None]) -> list[str]:
    """The different domains in sorted order, or none when there are fewer than two.

    Raises :class:`RecordsError` for a domain whose name stands for something else in a table of scores.
    """
    names = sorted({domain for domain in domains if domain is not None})
    if taken := {ALL, MEAN}.intersection(names):
        raise RecordsError(f"a domain cannot be called {min(taken)!r}: scores use that name. Rename the domain.")
    return names if len(names) > 1 else []


def summarise(
    per_query: Mapping[str, Values],
    members: Mapping[str, npt.NDArray[np.int64]],
    unanswerable: Mapping[str, int],
    gallery: int,
    resampling: Resampling,
) -> tuple[Score, ...]:
    """The scores of ``per_query`` values (Q,) over all queries, over the ``members`` of each domain, and their mean.

    ``unanswerable`` counts the queries left out, for ``all`` and for each domain; no domain's ``members`` are empty.
    """
    values = np.stack(list(per_query.values()))  # (M, Q)
    groups = {ALL: np.arange(values.shape[1]), **members}
    centres = {name: values[:, queries].mean(axis=1) for name, queries in groups.items()}
    means = {n: resampling.means(values[:, queries], stream) for stream, (n, queries) in enumerate(groups.items())}
    sizes = {name: len(queries) for name, queries in groups.items()}
    left_out = dict(unanswerable)
    if members:
        centres[MEAN] = np.mean([centres[name] for name in members], axis=0)
        means[MEAN] = np.mean([means[name] for name in members], axis=0)
        sizes[MEAN] = sum(sizes[name] for name in members)
        left_out[MEAN] = sum(left_out[name] for name in members)
    return tuple(
        Score(metric, name, float(value), float(low), float(high), sizes[name], gallery, left_out[name])
        for name, centre in centres.items()
        for metric, value, low, high in zip(per_query, centre, *resampling.interval(means[name]), strict=True)
    )
