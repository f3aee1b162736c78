"""What bounds a score: a ranking by chance (the floor) and a perfect one (the ceiling), for these queries.

A score says little without them: with 40 relevant rows in a gallery of 80 a random order has precision@5 of 0.5, and
with 3 relevant rows no order has more than 0.6.

The floor is the mean over all orders of the rows that a query searches: what :mod:`stages.ranking.ties` gives
for rows that are all equally similar, or a closed form of its own where what a metric divides by depends on the order.
The ceiling is the metric itself, of the order that has the R relevant rows first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from cache import Features
from cache.errors import SettingsError
from stages.ranking.metrics import Counts, Metric, Values, best_gain, find_metric
from stages.ranking.ties import Tied, Ties, averaged
from stages.records import Records
from stages.retrieval.attributes import Mixtures, graded_blocks, metric_of
from stages.retrieval.evaluate import ScoringConfig
from stages.retrieval.protocols import ByLabelConfig, MetConfig, RankedProtocol
from stages.retrieval.scores import ALL, MEAN, UnanswerablePolicy, domain_names, rows_by_group

_CERTAIN = 45


class Bounds(NamedTuple):
    """What a metric has at least and at most for each query, (Q,): by chance, and in a perfect ranking."""

    floor: Values
    ceiling: Values


def metric_bounds(metric: Metric | str, num_relevant: Counts, num_searched: Counts) -> Bounds:
    """The bounds of ``metric`` for queries with ``num_relevant`` of ``num_searched`` gallery rows relevant, (Q,) each.

    A query without anything relevant gets 0 and 0. Raises ValueError for an unknown metric, and where more rows are
    relevant than are searched.

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
            floor[at] = _floor(metric, relevant, searched)
    return Bounds(floor[which.ravel()], ceiling[which.ravel()])


def score_bounds(
    queries: Records,
    gallery: Records,
    metrics: Sequence[str],
    protocol: RankedProtocol = ByLabelConfig(),
    *,
    unanswerable: UnanswerablePolicy = "leave_out",
) -> Mapping[tuple[str, str], tuple[float, float]]:
    """Floor and ceiling of each of ``metrics`` by (metric, domain): ``all``, each domain, and their ``mean``.

    They are means over the queries that scores are means of, by ``protocol`` and the policy for ``unanswerable`` ones.
    ``queries`` and ``gallery`` are those that were scored: without the images that failed.

    >>> from stages.retrieval.example import IMAGES
    >>> floor, ceiling = score_bounds(IMAGES, IMAGES, ["hit@1"])["hit@1", "all"]
    >>> round(floor, 2), ceiling
    (0.13, 1.0)
    """
    leave_out, parts = unanswerable == "leave_out", protocol.query_sets(queries, gallery)
    parts = [part.answerable() if leave_out else part for part in parts]
    relevant = np.concatenate([part.num_relevant for part in parts])
    searched = np.concatenate([part.num_searched for part in parts])
    groups = [group for part in parts for group in protocol.groups(part.queries)]
    names = domain_names(protocol.groups(queries))
    return {
        (metric, domain): ends
        for metric in (metrics if len(relevant) else ())
        for domain, ends in mean_bounds(metric_bounds(metric, relevant, searched), groups, names).items()
    }


def mean_bounds(bounds: Bounds, groups: Sequence[str | None], names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The mean floor and ceiling of all queries, of each group of ``names``, and of these groups alike."""
    ends = {ALL: (float(bounds.floor.mean()), float(bounds.ceiling.mean()))}
    for name, rows in rows_by_group(groups, names).items():
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
    def hits(self) -> tuple[Values, Values]:
        shape = self.relevant.shape
        return np.zeros(shape), np.broadcast_to(self.num_relevant[:, None].astype(np.float64), shape)


def _floor(metric: Metric, relevant: int, searched: int) -> float:
    """The mean over all orders: that of rows which are all equally similar."""
    depth = int(metric.depths(np.array([relevant]), searched)[0])
    if metric.name in _WHOLE:  # of every rank: in a large gallery too many to go through for each R
        return _WHOLE[metric.name](relevant, searched)
    if metric.stem == "mrr":
        return _reciprocal_rank(relevant, searched, depth)
    if metric.stem == "mp":
        return _mean_precision(relevant, searched, metric.k or 1)
    if metric.divided_by == "hits":
        return _precision_of_hits(relevant, searched, depth)
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


def _precision_of_hits(relevant: int, searched: int, depth: int) -> float:
    """Of ``map@k/hits``, k = ``depth``: where h of the first k are relevant, any h are, as in a ranking of k rows."""
    # P(h + 1) / P(h) = (k - h) (R - h) / ((h + 1) (N - k - R + h + 1)), hypergeometric
    hits = np.arange(max(0, depth + relevant - searched), min(depth, relevant) + 1)
    low = hits[:-1]
    ratios = (depth - low) * (relevant - low) / ((low + 1.0) * (searched - depth - relevant + low + 1))
    logarithms = np.append(0.0, np.cumsum(np.log(ratios)))
    chances = np.exp(logarithms - logarithms.max())
    values = [_average_precision(count, depth) if count else 0.0 for count in hits.tolist()]
    return float(chances @ values / chances.sum())


def _mean_precision(relevant: int, searched: int, k: int) -> float:
    """Of ``mp@k``: R / l where the last relevant rank l is at most k, and else what the first k have, of k."""
    # All R are among the first l with F(l) = l (l - 1) ... / (N (N - 1) ...), R factors each; l is the last with
    # F(l) - F(l - 1) = F(l) R / l.
    depth, factors = min(k, searched), np.arange(relevant)
    if depth < relevant:
        return relevant / searched
    all_found = float(np.prod((depth - factors) / (searched - factors)))
    ranks = np.arange(depth, relevant - 1, -1)  # downwards: F(l - 1) = F(l) (l - R) / l
    within = all_found * np.append(1.0, np.cumprod((ranks[:-1] - relevant) / ranks[:-1]))
    rest = relevant * depth / searched - relevant * all_found
    return float((within * (relevant / ranks) ** 2).sum() + rest / k)


def _discounted_gain(relevant: int, searched: int) -> float:
    return relevant / searched * _discounts(searched) / float(best_gain(np.array([relevant]), None)[0])


@lru_cache(maxsize=8)
def _discounts(ranks: int) -> float:
    return float((1 / np.log2(np.arange(ranks) + 2.0)).sum())


_WHOLE: dict[str, Callable[[int, int], float]] = {"map": _average_precision, "ndcg": _discounted_gain}


def attribute_bounds(
    queries: Records,
    gallery: Records,
    metrics: Sequence[str],
    similar: Mixtures | None = None,
    *,
    unanswerable: UnanswerablePolicy = "leave_out",
) -> Mapping[tuple[str, str], tuple[float, float]]:
    """Floor and ceiling of each of ``metrics`` by (metric, domain), as :func:`score_bounds` has them.

    Both are means over the orders of what ties: for the floor everything does, for the ceiling what is equally alike.
    ``queries`` and ``gallery`` are those that were scored; raises as :func:`stages.retrieval.evaluate_attributes`.

    >>> from stages.retrieval.example import IMAGES
    >>> ((floor, ceiling),) = attribute_bounds(IMAGES, IMAGES, ["graded_map"]).values()
    >>> round(floor, 3), ceiling
    (0.239, 1.0)
    """
    wanted = [metric_of(name, similar or {}) for name in dict.fromkeys(metrics)]
    bounds = {metric.name: Bounds(*(np.full(len(queries), np.nan) for _ in range(2))) for metric in wanted}
    for rows, itself, grades in graded_blocks(queries, gallery, wanted, similar or {}):
        (place,) = np.nonzero(itself >= 0)
        for metric in wanted:
            worth = grades[metric.mixture]
            for end, ranking in zip(bounds[metric.name], (np.zeros_like(worth), worth.copy()), strict=True):
                ranking[place, itself[place]] = -1  # the query itself is last
                end[rows] = metric.value(worth, Ties.of(ranking))
    nothing = np.any([np.isnan(each.floor) for each in bounds.values()], axis=0)
    for end in (end for each in bounds.values() for end in each):
        end[nothing] = 0
    scored = np.flatnonzero(~nothing) if unanswerable == "leave_out" else np.arange(len(queries))
    domains = queries.take(scored).domains
    names = domain_names(queries.domains)
    return {
        (name, domain): both
        for name, each in (bounds.items() if len(scored) else ())
        for domain, both in mean_bounds(Bounds(each.floor[scored], each.ceiling[scored]), domains, names).items()
    }


def run_bounds(
    vectors: Features, records: Records, config: ScoringConfig
) -> Mapping[tuple[str, str], tuple[float, float]]:
    """Floor and ceiling by metric and domain, for the images that have a row in ``vectors``.

    None with ``met``, which scores all queries together, by confidence; the legacy measure brings its own as scores.
    """
    if isinstance(config.protocol, MetConfig):
        return {}
    sides = (records.split(role) for role in ("query", "gallery"))
    queries, gallery = (side.take(side.rows_in(vectors)) for side in sides)
    policy = config.unanswerable
    by_label = score_bounds(queries, gallery, config.by_label, config.ranked, unanswerable=policy)
    if not config.graded:
        return by_label
    return dict(attribute_bounds(queries, gallery, config.graded, config.similar, unanswerable=policy)) | dict(by_label)
