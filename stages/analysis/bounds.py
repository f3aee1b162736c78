"""What bounds a score: a ranking by chance (the floor) and a perfect one (the ceiling), for these queries.

A score says little without them: with 40 relevant rows in a gallery of 80 a random order has precision@5 of 0.5, and
with 3 relevant rows no order has more than 0.6.

The floor is the mean over all orders of the rows that a query searches: what :mod:`stages.ranking.tie_averaging` gives
for rows that are all equally similar, in closed form; for a metric that has none, over orders drawn from a fixed seed.
The ceiling is the metric itself, of the order that has the R relevant rows first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cache.errors import SettingsError
from stages.ranking.graded import Ties
from stages.ranking.metrics import Counts, Metric, Values, best_gain, find_metric
from stages.ranking.tie_averaging import Tied, averaged, check_averaged
from stages.records import Records
from stages.retrieval.protocols import ByLabelConfig, Rules
from stages.retrieval.query_set import QuerySet
from stages.retrieval.scores import ALL, MEAN, UnanswerablePolicy, domain_names

_CERTAIN = 45
DRAWS = 400  # orders, where there is no closed form: the mean over queries is then good to about 0.001


class Bounds(NamedTuple):
    """What a metric has at least and at most for each query, (Q,): by chance, and in a perfect ranking."""

    floor: Values
    ceiling: Values


def metric_bounds(metric: Metric | str, num_relevant: Counts, num_searched: Counts, seed: int = 0) -> Bounds:
    """The bounds of ``metric`` for queries with ``num_relevant`` of ``num_searched`` gallery rows relevant, (Q,) each.

    ``seed`` is of the orders that are drawn where there is no closed form. A query without anything relevant gets 0
    and 0. Raises ValueError for an unknown metric, and where more rows are relevant than are searched.

    >>> floor, ceiling = metric_bounds("precision@5", np.array([3]), np.array([10]))
    >>> floor.round(3).tolist(), ceiling.tolist()
    ([0.3], [0.6])
    """
    metric = find_metric(metric) if isinstance(metric, str) else metric
    if len(num_relevant) != len(num_searched) or (num_relevant > num_searched).any() or (num_relevant < 0).any():
        raise SettingsError(
            "each query searches at least as many rows as are relevant to it, and one count of each is needed"
        )
    pairs, which = np.unique(np.stack([num_relevant, num_searched], axis=1), axis=0, return_inverse=True)
    floor, ceiling = np.zeros(len(pairs)), np.zeros(len(pairs))
    for at, (relevant, searched) in enumerate(pairs.tolist()):
        if relevant:
            perfect = np.ones((1, relevant), np.bool_)
            ceiling[at] = metric.function(perfect, np.array([relevant]))[0]
            floor[at] = _floor(metric, relevant, searched, seed)
    return Bounds(floor[which.ravel()], ceiling[which.ravel()])


def score_bounds(
    queries: Records,
    gallery: Records,
    metrics: Sequence[str],
    rules: Rules = ByLabelConfig().rules(),
    *,
    unanswerable: UnanswerablePolicy = "leave_out",
    seed: int = 0,
) -> Mapping[tuple[str, str], tuple[float, float]]:
    """Floor and ceiling of each of ``metrics`` by (metric, domain): ``all``, each domain, and their ``mean``.

    They are means over the queries that scores are means of, by ``rules`` and the policy for ``unanswerable`` ones.
    ``queries`` and ``gallery`` are those that were scored: without the images that failed.

    >>> import pyarrow as pa
    >>> columns = {"key": ["a", "b", "c"], "label": ["x", "x", "y"], "domain": pa.nulls(3, pa.string())}
    >>> records = Records(pa.table(columns), {})
    >>> score_bounds(records, records, ["hit@1"])
    {('hit@1', 'all'): (0.5, 1.0)}
    """
    parts = QuerySet.by_rules(rules, queries, gallery)
    if unanswerable == "leave_out":
        parts = [part.answerable() for part in parts]
    relevant = np.concatenate([part.num_relevant for part in parts])
    searched = np.concatenate([part.num_searched for part in parts])
    ends_of: dict[tuple[str, str], tuple[float, float]] = {}
    for name in metrics if len(relevant) else ():
        groups = [group for part in parts for group in rules.groups(part.queries)]
        of_metric = told(metric_bounds(name, relevant, searched, seed), groups, domain_names(rules.groups(queries)))
        ends_of |= {(name, domain): ends for domain, ends in of_metric.items()}
    return ends_of


def told(bounds: Bounds, groups: Sequence[str | None], names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The mean floor and ceiling of all queries, of each group of ``names`` (that of each query in ``groups``, (Q,)).

    And the mean of the groups where there are any, every group the same weight.
    """
    own = np.array(groups, dtype=object)
    ends = {ALL: (float(bounds.floor.mean()), float(bounds.ceiling.mean()))}
    for name in names:
        if len(rows := np.flatnonzero(own == name)):
            ends[name] = float(bounds.floor[rows].mean()), float(bounds.ceiling[rows].mean())
    if len(ends) > 1:
        floor, ceiling = np.mean([ends[name] for name in ends if name != ALL], axis=0)
        ends[MEAN] = float(floor), float(ceiling)
    return ends


@dataclass(frozen=True)
class _AnyOrder(Tied):
    """The first K ranks of ``searched`` rows that are all equally similar: nothing of the size of a gallery is made."""

    searched: int

    @classmethod
    def of(cls, relevant: int, searched: int, depth: int) -> _AnyOrder:
        ranks = np.arange(depth)[None]
        ties = Ties(ranks, np.zeros_like(ranks), np.full_like(ranks, searched))
        return cls(ranks < relevant, np.array([relevant]), ties, searched)

    @cached_property
    def precision(self) -> Values:
        ranks = np.arange(1, self.relevant.shape[1] + 1)
        earlier = (ranks - 1) * (self.num_relevant[:, None] - 1) / max(self.searched - 1, 1)
        precision: Values = self.share * (1 + earlier) / ranks
        return precision

    @cached_property
    def before(self) -> Counts:
        return np.zeros(self.relevant.shape, np.int64)

    @cached_property
    def within(self) -> Counts:
        return np.broadcast_to(self.num_relevant[:, None], self.relevant.shape)


def _floor(metric: Metric, relevant: int, searched: int, seed: int) -> float:
    """The mean over all orders: that of rows which are all equally similar."""
    depth = metric.depth(relevant, searched)
    if metric.name in _WHOLE:  # of every rank: in a large gallery too many to go through for each R
        return _WHOLE[metric.name](relevant, searched)
    if metric.stem == "mrr":
        return _reciprocal_rank(relevant, searched, depth)
    try:
        check_averaged(metric)
    except ValueError:
        return _drawn(metric, relevant, searched, seed)
    return float(averaged(metric, _AnyOrder.of(relevant, searched, depth))[0])


def _reciprocal_rank(relevant: int, searched: int, depth: int) -> float:
    """The first relevant rank is 1 with R / N, and else the same of one row less."""
    most = _CERTAIN * searched // relevant + 1  # that nothing relevant comes up to here is below 1e-19
    ranks = np.arange(1, min(depth, searched - relevant + 1, most) + 1)
    left = searched - ranks  # behind each rank
    none_yet = np.append(1.0, np.cumprod((left - relevant + 1)[:-1] / (left + 1)[:-1]))
    return float((none_yet * relevant / (left + 1) / ranks).sum())


def _average_precision(relevant: int, searched: int) -> float:
    """The sum over ranks i of (1 + (i - 1) b) / i, of N, where b of the ranks before a relevant one are."""
    before = (relevant - 1) / max(searched - 1, 1)
    from scipy.special import digamma  # takes a third of a second to import

    harmonic = float(digamma(searched + 1) + np.euler_gamma)
    return (harmonic * (1 - before) + searched * before) / searched


def _discounted_gain(relevant: int, searched: int) -> float:
    return relevant / searched * _discounts(searched) / float(best_gain(np.array([relevant]), None)[0])


@lru_cache(maxsize=8)
def _discounts(ranks: int) -> float:
    return float((1 / np.log2(np.arange(ranks) + 2.0)).sum())


_WHOLE: dict[str, Callable[[int, int], float]] = {"map": _average_precision, "ndcg": _discounted_gain}


def _drawn(metric: Metric, relevant: int, searched: int, seed: int) -> float:
    """The mean over sampled orders, which depend on the seed and the counts alone: not on what else is scored."""
    rng = np.random.default_rng([seed, relevant, searched])
    depth = metric.depth(relevant, searched)
    rows = max(1, 2**22 // depth)
    total = 0.0
    for low in range(0, DRAWS, rows):
        table: npt.NDArray[np.bool_] = np.zeros((min(rows, DRAWS - low), depth), np.bool_)
        for order in table:
            ranks = rng.choice(searched, relevant, replace=False, shuffle=False)
            order[ranks[ranks < depth]] = True
        total += float(metric.function(table, np.full(len(table), relevant)).sum())
    return total / DRAWS
