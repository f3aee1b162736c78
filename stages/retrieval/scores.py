"""Scores: the mean of each metric over the queries, its interval over their classes, by domain; and the values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from cache.errors import MissingExtraError, NothingToScoreError, RecordsError, SettingsError
from stages.ranking.intervals import Estimate, class_numbers, estimate, mean_of, share_interval
from stages.ranking.metrics import Values
from stages.records import Records
from stages.retrieval.query_set import Sides

ALL, MEAN = "all", "mean"

UnanswerablePolicy: TypeAlias = Literal["leave_out", "zero", "error"]
"""Queries to which nothing is relevant: left out of every mean and counted, 0 in every mean, or refused."""


VERSION = 2
"""Of the code that scores: raised when it gives another value for the same vectors, records and settings."""


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
class QueryScores:
    """The values (Q,) of some metrics for some queries: what :func:`~stages.analysis.paired_difference` compares.

    Classes are labels, within their domain.
    """

    query_keys: tuple[str, ...]
    query_classes: tuple[str | None, ...]
    per_query: Mapping[str, Values]


@dataclass(frozen=True)
class Scores(QueryScores):
    """What :func:`stages.retrieval.evaluate` returns: a sequence of :class:`Score`, and what they come from.

    The order is: every metric for ``all``, then for each domain in sorted order, then for ``mean``; the last two only
    when the queries have more than one domain. The queries (Q,) that were scored have domains and so many ``classes``.
    Images without a feature, ``failed_``, are left out; so are ``unanswerable`` queries, to which nothing is relevant,
    unless they count 0. Of ``unscored_domains`` no query could be scored: they are not in ``mean``.
    """

    scores: tuple[Score, ...]
    query_domains: tuple[str | None, ...]
    failed_queries: int
    failed_gallery: int
    unanswerable: int
    classes: int
    unscored_domains: tuple[str, ...]

    def __iter__(self) -> Iterator[Score]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, position: int) -> Score:
        return self.scores[position]

    def to_pandas(self) -> Any:  # a pandas.DataFrame
        """The scores as a pandas DataFrame, a row each. MissingExtraError where pandas is not installed."""
        try:
            import pandas as pd
        except ImportError:
            raise MissingExtraError("pandas", "pandas") from None
        return pd.DataFrame(self.scores, columns=Score._fields)

    def value(self, metric: str, domain: str = ALL) -> float:
        """The value of one metric. Raises KeyError naming what was scored."""
        for score in self.scores:
            if (score.metric, score.domain) == (metric, domain):
                return score.value
        scored = ", ".join(f"{score.metric} ({score.domain})" for score in self.scores)
        raise KeyError(f"{metric} ({domain}) was not scored; there are {scored}")


EstimateOf: TypeAlias = Callable[[npt.NDArray[np.int64]], Estimate]
"""The means of all metrics for the queries at some positions, with their error."""


def domain_names(domains: Sequence[str | None]) -> list[str]:
    """The different domains in sorted order, none of fewer than two. RecordsError for ``all`` or ``mean``."""
    names = sorted({domain for domain in domains if domain is not None})
    if taken := {ALL, MEAN}.intersection(names):
        raise RecordsError(f"a domain cannot be called {min(taken)!r}: scores use that name. Rename the domain.")
    return names if len(names) > 1 else []


def rows_by_group(groups: Sequence[str | None], names: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """Where each of ``names`` is among ``groups`` (Q,); none that is not there."""
    own = np.array(groups, dtype=object)
    return {name: rows for name in names if len(rows := np.flatnonzero(own == name))}


def to_score(
    answerable: npt.NDArray[np.bool_], unanswerable: UnanswerablePolicy, searching: Records
) -> npt.NDArray[np.bool_]:
    """Which of the queries ``searching`` (Q,) have values. Raises NothingToScoreError where those left are an error."""
    check_choice("unanswerable", unanswerable, get_args(UnanswerablePolicy))
    if unanswerable == "error" and not answerable.all():
        key = searching.keys[int(np.argmin(answerable))]
        raise NothingToScoreError(
            f"{int((~answerable).sum()):,} of {len(searching):,} queries have nothing to find in the gallery, the "
            f'first {key!r}: drop them, or choose unanswerable = "leave_out" or "zero"'
        )
    return answerable if unanswerable == "leave_out" else np.ones(len(searching), np.bool_)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise SettingsError(f"{name} is one of {', '.join(map(repr, choices))}, got {value!r}")


def gather(
    per_query: Mapping[str, Values],
    sides: Sides,
    *,
    scored: npt.NDArray[np.bool_],
    unanswerable: npt.NDArray[np.bool_],
    groups: Callable[[Records], Sequence[str | None]] = lambda records: records.domains,
    sizes: Mapping[str, int] | None = None,
    estimate_of: EstimateOf | None = None,
) -> Scores:
    """The :class:`Scores` of ``per_query`` values (S,) of the queries that were scored.

    ``scored`` and ``unanswerable`` are True for the queries (Q,) that have values, and to which nothing is relevant.
    ``groups`` names the group of each record by which scores are reported beside those of all, and ``sizes`` how many
    gallery rows a group searches where that is not the whole gallery. Metrics that are no mean over queries come with
    their own ``estimate_of``; their values in ``per_query`` are shares of the whole.
    """
    part, searched = sides.searching.take(np.flatnonzero(scored)), len(sides.searched)
    names, of_part = domain_names(groups(sides.queries)), groups(part)
    there = rows_by_group(of_part, names)
    nothing = Counter(groups(sides.searching.take(np.flatnonzero(unanswerable))))
    left_out = {ALL: int(unanswerable.sum())} | {name: nothing[name] for name in names}
    galleries = dict.fromkeys((ALL, MEAN, *names), searched) | dict(sizes or {})
    return Scores(
        scores=summarise(per_query, part.classes, there, left_out, galleries, estimate_of),
        query_keys=tuple(part.keys),
        query_domains=tuple(of_part),
        query_classes=tuple(part.classes),
        per_query=per_query,
        failed_queries=len(sides.queries) - len(sides.searching),
        failed_gallery=len(sides.gallery) - searched,
        unanswerable=left_out[ALL],
        classes=len({name for name in part.classes if name is not None}),
        unscored_domains=tuple(name for name in names if name not in there),
    )


def summarise(
    per_query: Mapping[str, Values],
    classes: Sequence[str | None],
    members: Mapping[str, npt.NDArray[np.int64]],
    unanswerable: Mapping[str, int],
    gallery: Mapping[str, int],
    estimate_of: EstimateOf | None = None,
) -> tuple[Score, ...]:
    """The scores of ``per_query`` values (Q,) over all queries, over the ``members`` of each domain, and their mean.

    Intervals are over the ``classes`` (Q,) of the queries; domains are independent of each other. ``unanswerable``
    counts the queries to which nothing is relevant, and ``gallery`` what is searched, for ``all`` and for each domain;
    no domain's ``members`` are empty. Metrics that are no mean over queries come with their own ``estimate_of``.
    """
    values, units = np.stack(list(per_query.values())), class_numbers(classes)  # (M, Q) and (Q,)
    estimate_of = estimate_of or (lambda rows: estimate(values[:, rows], units[rows]))
    groups = {ALL: np.arange(values.shape[1]), **members}
    known = {name: estimate_of(rows) for name, rows in groups.items()}
    sizes = {name: len(queries) for name, queries in groups.items()}
    left_out = dict(unanswerable)
    if members:
        known[MEAN] = mean_of([known[name] for name in members])
        sizes[MEAN] = sum(sizes[name] for name in members)
        left_out[MEAN] = sum(left_out[name] for name in members)
    return tuple(
        Score(metric, name, float(value), float(low), float(high), sizes[name], gallery[name], left_out[name])
        for name, means in known.items()
        for metric, value, low, high in zip(per_query, means.mean, *share_interval(means), strict=True)
    )
