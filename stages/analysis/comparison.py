"""Is one better than the other? Differences query by query; which runs and heads can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from cache.errors import ConfigError, NothingToScoreError, SettingsError
from stages.ranking.intervals import class_numbers, difference_interval, estimate, mean_of
from stages.ranking.metrics import Values
from stages.ranking.relevance import Rows
from stages.records import Records
from stages.retrieval.query_values import TRUTH, QueryValues
from stages.retrieval.scores import ALL, MEAN, QueryScores, domain_names, rows_by_group


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


def paired_difference(first: QueryScores, second: QueryScores) -> tuple[Difference, ...]:
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
    first: QueryScores, second: QueryScores, one: str, other: str
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


_SAME = 1e-12  # values nearer than this differ by rounding


class Change(NamedTuple):
    """One metric from A to B over the queries of one domain that both scored.

    ``first`` and ``second`` are the means of A and B over these queries, ``value`` is B - A, between the ends of its
    interval. ``p_value`` is as in :class:`~stages.analysis.Difference`. Of the queries so many are ``better`` in B,
    ``worse``, and the ``same``.
    """

    metric: str
    domain: str
    first: float
    second: float
    value: float
    low: float
    high: float
    p_value: float
    queries: int
    better: int
    worse: int
    same: int


class Moved(NamedTuple):
    """A query that changed: its value of one metric in A and in B."""

    metric: str
    key: str
    domain: str | None
    first: float
    second: float

    @property
    def value(self) -> float:
        """B - A."""
        return self.second - self.first


@dataclass(frozen=True)
class Changes:
    """What :func:`changes` returns: the changes by metric and domain, and every query that both scored.

    ``values`` are those of each metric in A and in B, of the queries ``shared``, and ``domains`` those of the queries,
    by key. ``only_first`` and ``only_second`` are the queries that one of the two scored by a metric and the other did
    not: they are in no difference.
    """

    changes: tuple[Change, ...]
    shared: Mapping[str, tuple[str, ...]]
    domains: Mapping[str, str | None]
    values: Mapping[str, tuple[Values, Values]]
    only_first: Mapping[str, tuple[str, ...]]
    only_second: Mapping[str, tuple[str, ...]]

    def moved(self, metric: str, top: int, domain: str | None = None) -> list[Moved]:
        """The ``top`` queries (of ``domain``) that changed most by ``metric``, those first; the same ones are left out.

        Of equal changes the one that got worse is first, then goes the key: the list is always the same.
        """
        first, second = self.values[metric]
        keys = self.shared[metric]
        change = second - first
        moved = np.flatnonzero(np.abs(change) > _SAME).tolist()
        rows = [row for row in moved if domain is None or self.domains[keys[row]] == domain]
        rows.sort(key=lambda row: (-round(abs(float(change[row])), 12), float(change[row]), keys[row]))
        return [
            Moved(metric, keys[row], self.domains[keys[row]], float(first[row]), float(second[row]))
            for row in rows[:top]
        ]


def changes(first: Sequence[QueryScores], second: Sequence[QueryScores], domains: Mapping[str, str | None]) -> Changes:
    """From ``first`` (A) to ``second`` (B): every metric of both, over the queries that both scored by it.

    Values by label and values by attributes can be of different queries, so each side is a sequence of scores. By
    domain (``domains``, by key) and for the mean of the domains too, where the queries have more than one. Intervals
    are over the classes of A. Raises as :func:`~stages.analysis.paired_difference`.

    >>> first = QueryScores(("a", "b"), ("cup", "mug"), {"hit@1": np.array([0.0, 1.0])})
    >>> second = QueryScores(("a", "b"), ("cup", "mug"), {"hit@1": np.array([1.0, 1.0])})
    >>> compared = changes([first], [second], {"a": None, "b": None})
    >>> compared.changes[0].value, [query.key for query in compared.moved("hit@1", 10)]
    (0.5, ['a'])
    """
    one, other = ({name: scored for scored in side for name in scored.per_query} for side in (first, second))
    metrics = [name for name in one if name in other]
    if not metrics:
        raise SettingsError(f"A and B have no metric in common: {', '.join(one)} and {', '.join(other)}")
    all_changes: list[Change] = []
    shared, values, left, right = {}, {}, {}, {}
    for metric in metrics:
        keys, rows, (left[metric], right[metric]) = matched(one[metric], other[metric], "A", "B")
        pair = one[metric].per_query[metric][rows[0]], other[metric].per_query[metric][rows[1]]
        shared[metric], values[metric] = keys, pair
        classes = class_numbers(one[metric].query_classes)[rows[0]]
        all_changes += _by_domain(metric, pair, [domains[key] for key in keys], classes)
    return Changes(tuple(all_changes), shared, domains, values, left, right)


def _by_domain(
    metric: str, pair: tuple[Values, Values], domains: Sequence[str | None], classes: npt.NDArray[np.int64]
) -> list[Change]:
    groups = {ALL: np.arange(len(domains))} | rows_by_group(domains, domain_names(domains))
    difference = pair[1] - pair[0]
    known = {name: estimate(difference[None, rows], classes[rows]) for name, rows in groups.items()}
    means = {name: [values[rows].mean() for values in pair] for name, rows in groups.items()}
    if len(groups) > 1:
        own = list(groups)[1:]
        known[MEAN], means[MEAN] = mean_of([known[name] for name in own]), np.mean([means[name] for name in own], 0)
    by_group = []
    for name, of_group in known.items():
        first, second = map(float, means[name])
        low, high, p_value = (float(end[0]) for end in difference_interval(of_group))
        moved = difference[groups.get(name, groups[ALL])]
        better, worse = int((moved > _SAME).sum()), int((moved < -_SAME).sum())
        counts = len(moved), better, worse, len(moved) - better - worse
        by_group.append(Change(metric, name, first, second, second - first, low, high, p_value, *counts))
    return by_group


HeadName: TypeAlias = tuple[str, str]
"""A backbone and a head."""


class ScoredRun(NamedTuple):
    """A run with the values that it kept, and the head that was asked for (None: every one)."""

    name: str
    head: str | None
    records: Records
    values: QueryValues

    @property
    def domains(self) -> dict[str, str | None]:
        """The domain of each query, by key."""
        queries = self.records.split("query")
        return dict(zip(queries.keys, queries.domains, strict=True))


def outdated(values: QueryValues, data: Mapping[str, str], embeddings: Mapping[tuple[str, str], str]) -> list[str]:
    """How ``values`` differ from the ``data`` and the ``embeddings`` (by backbone and head) as they are now."""
    differences = [
        f"{key}: scored {_short(values.data.get(key))}, now {_short(data.get(key))}"
        for key in {**data, **values.data}
        if values.data.get(key) != data.get(key)
    ]
    for backbone, head in values.heads():
        scored, current = values.embeddings(backbone, head), embeddings.get((backbone, _embedded_by(head, embeddings)))
        if scored != current:
            differences.append(f"embeddings of {backbone} {head}: scored {_short(scored)}, now {_short(current)}")
    return differences


def _embedded_by(row: str, embeddings: Iterable[HeadName]) -> str:
    """The head whose embeddings a ``row`` scores: ``a (ivf_pq)``, ``a (text)`` and ``a + alpha_qe`` are those of a."""
    names = {head for _, head in embeddings}
    return max(
        (head for head in names if row == head or row.startswith((f"{head} (", f"{head} + "))), key=len, default=row
    )


def data_notes(one: ScoredRun, other: ScoredRun, *, other_gallery: bool) -> list[str]:
    """What a person should know of the two galleries. ConfigError where they differ and no ``other_gallery`` may be."""
    notes = []
    if one.values.data["gallery"] != other.values.data["gallery"]:
        summary = _difference(one.records.split("gallery"), other.records.split("gallery"))
        if not other_gallery:
            raise ConfigError(
                f"A and B searched different galleries: {summary}. A query is easier in a smaller one, so their "
                "difference would be of galleries too. Score both on the same, or say --other-gallery."
            )
        notes.append(f"A and B searched different galleries: {summary}. The difference is of galleries too")
    if one.values.data["retrieval"] != other.values.data["retrieval"]:
        first, second = one.values.data["retrieval"], other.values.data["retrieval"]
        notes.append(f"A and B were searched or scored in different ways ([retrieval]): {first} and {second}")
    truths = [side.values.data.get(TRUTH, "labels") for side in (one, other)]
    if truths[0] != truths[1]:
        notes.append(f"A and B are scored by different ground truths: {' and '.join(truths)}")
    if one.values.data["queries"] != other.values.data["queries"]:
        summary = _difference(one.records.split("query"), other.records.split("query"))
        notes.append(f"A and B have different queries: {summary}. Those of both are compared")
    return notes


def matching_heads(one: ScoredRun, other: ScoredRun, backbone: str | None) -> list[tuple[HeadName, HeadName]]:
    """Which backbone and head of A goes with which of B: of the same backbone and head, as far as none is named."""
    sides = [
        [(name, head) for name, head in side.values.heads() if side.head in (None, head) and backbone in (None, name)]
        for side in (one, other)
    ]
    for side, heads in zip((one, other), sides, strict=True):
        if not heads:
            there = ", ".join(f"{head} on {name}" for name, head in side.values.heads())
            wanted = side.head or "any head"
            raise ConfigError(f"{side.name} has no scores of {wanted} on {backbone or 'any backbone'}; it has {there}")
    every = list(product(sides[0], sides[1]))
    pairs = [
        (first, second)
        for first, second in every
        if (one.head or other.head or first[1] == second[1]) and first[0] == second[0]
    ]
    if all(len({name for name, _ in heads}) == 1 for heads in sides):
        pairs = pairs or every  # another backbone on each side
    if (one.name, one.head) == (other.name, other.head):
        raise ConfigError("A and B are the same scores; name a head of each: RUN.TOML:raw RUN.TOML:HEAD")
    if not pairs:
        stems = " and ".join(f"{run.name}:{run.head}" if run.head else run.name for run in (one, other))
        raise ConfigError(f"{stems} share no backbone and head; name a head of each: RUN.TOML:HEAD")
    return pairs


def _short(text: str | None) -> str:
    return "(absent)" if text is None else text[:8] if len(text) == 64 and " " not in text else text


def _difference(one: Records, other: Records) -> str:
    sides = ((side.keys, zip(side.digests, side.classes, strict=True)) for side in (one, other))
    first, second = (dict(zip(keys, images, strict=True)) for keys, images in sides)
    both = first.keys() & second.keys()
    counts = {
        "only in A": len(first) - len(both),
        "only in B": len(second) - len(both),
        "with other bytes": sum(first[key][0] != second[key][0] for key in both),
        "with another label": sum(first[key][1] != second[key][1] for key in both),
    }
    summary = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return f"{len(first):,} and {len(second):,} images, {summary}"
