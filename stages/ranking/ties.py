"""Metrics where similarities tie: the mean over all orders of what ties, in closed form.

Rows of one similarity have no order, and an order by gallery row, file name or chance is one of many (McSherry and
Najork, ECIR 2008). Rank n lies in a group of t rows, r of them relevant, that begins after rank f:

- it is relevant with r / t: so every metric that adds up relevant ranks follows from these shares;
- the mean of "relevant, times the precision up to here" is in :func:`averaged_precision`: so
  every average precision of a fixed divisor follows;
- none of m rows drawn from the group is relevant with the product of (t - r - j) / (t - j) over j < m: ``hit@k``;
- the first relevant row of the group is its row j with C(t - j - 1, r - 1) / C(t, r): ``mrr``.

``mp@k`` and ``map@k/hits`` divide by what itself depends on the order: for them there is no such form, and none is made
up.

Metrics of a ranking whose rows are relevant by grades in [0, 1] are here too, as the same mean over orders:

===================  =================================================================================================
``graded_map``       graded average precision (Robertson, Kanoulas and Yilmaz, SIGIR 2010), every threshold of the grade
                     equally likely: the sum over the ranks n of sum(min(g_m, g_n) for m <= n) / n, of the sum of all
                     grades. With grades 0 and 1 it is ``map``.
``graded_ndcg``      the sum of g_n / log2(n + 1) over the ranks n, of what the best ranking has (Jarvelin and
                     Kekalainen, 2002): linear gain. ``graded_ndcg@k`` looks at the first k.
``graded_ndcg_exp``  the same with the exponential gain 2^g_n - 1 (Burges et al., 2005); and ``graded_ndcg_exp@k``
===================  =================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cache.errors import SettingsError
from stages.ranking.metrics import Counts, Metric, Relevant, Values, best_gain, divisor

_SAME = 1e-9  # grades nearer than this differ by rounding


class Ties(NamedTuple):
    """The ranks of Q rankings of G rows, in groups of one similarity; all (Q, G), by rank.

    ``first`` is the rank, from 0, at which a rank's group begins, and ``size`` how many rows the group has.
    """

    order: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]

    @classmethod
    def of(cls, similarity: npt.NDArray[np.floating]) -> Ties:
        """The groups of ``similarity`` (Q, G), the highest first."""
        order = np.argsort(-similarity, axis=1, kind="stable")
        ranked = np.take_along_axis(similarity, order, axis=1)
        starts = np.ones(ranked.shape, np.bool_)
        starts[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
        ranks = np.broadcast_to(np.arange(ranked.shape[1]), ranked.shape)
        first = np.maximum.accumulate(np.where(starts, ranks, 0), axis=1)
        ends = np.ones(ranked.shape, np.bool_)
        ends[:, :-1] = starts[:, 1:]
        last = np.minimum.accumulate(np.where(ends, ranks, ranked.shape[1])[:, ::-1], axis=1)[:, ::-1]
        return cls(order, first, last - first + 1)

    def sums(self, ranked: npt.NDArray[np.generic]) -> tuple[Values, Values]:
        """Of values ``ranked`` (Q, G) the sums before the group of each rank, and within it, both (Q, G)."""
        totals = np.zeros((len(ranked), ranked.shape[1] + 1))
        totals[:, 1:] = np.cumsum(ranked, axis=1)
        before = np.take_along_axis(totals, self.first, axis=1)
        return before, np.take_along_axis(totals, self.first + self.size, axis=1) - before


def averaged_precision(relevant: npt.NDArray[np.bool_], ties: Ties) -> Values:
    """At each rank (Q, G), the mean of "relevant, times the precision up to here" over the orders of what ties.

    ``relevant`` (Q, G) is by rank, in any order within a group. A rank at place k of a group of t rows, r of them
    relevant, is relevant with r/t, and then (k - 1)(r - 1)/(t - 1) of the k - 1 before it in the group are.
    """
    before, within = ties.sums(relevant)
    place = np.arange(relevant.shape[1]) - ties.first  # k - 1
    earlier = place * (within - 1) / np.maximum(ties.size - 1, 1)
    precision: Values = within / ties.size * (before + 1 + earlier) / (np.arange(relevant.shape[1]) + 1)
    return precision


def graded_average_precision(grades: Values, ties: Ties) -> Values:
    """``graded_map`` of each query (Q,), NaN where all ``grades`` (Q, G), by gallery row, are 0."""
    ranked = np.take_along_axis(grades, ties.order, axis=1)
    levels = np.unique(np.round(ranked / _SAME)) * _SAME
    levels = levels[levels > _SAME / 2]
    gained, possible = np.zeros(len(ranked)), np.zeros(len(ranked))
    below = 0.0
    for level in levels:  # min(a, b) is the measure of the thresholds that both reach
        relevant = ranked > level - _SAME
        gained += (level - below) * averaged_precision(relevant, ties).sum(1)
        possible += (level - below) * relevant.sum(1)
        below = level
    value: Values = np.divide(gained, possible, out=np.full(len(ranked), np.nan), where=possible > 0)
    return value


def graded_ndcg(grades: Values, ties: Ties, k: int | None = None, *, exponential: bool = False) -> Values:
    """``graded_ndcg`` of each query (Q,), of the first ``k`` ranks or all; NaN where all ``grades`` (Q, G) are 0.

    A grade g gains g, or 2^g - 1 where that is to be ``exponential``.
    """
    if exponential:
        grades = np.exp2(grades) - 1
    width = grades.shape[1]
    discounts = 1 / np.log2(np.arange(width) + 2.0)
    discounts[width if k is None else k :] = 0
    _, of_group = ties.sums(np.take_along_axis(grades, ties.order, axis=1))
    gained = (of_group / ties.size * discounts).sum(1)
    best = (np.sort(grades, axis=1)[:, ::-1] * discounts).sum(1)
    value: Values = np.divide(gained, best, out=np.full(len(grades), np.nan), where=best > 0)
    return value


AVERAGED = "expected"


@dataclass(frozen=True)
class Tied:
    """Q whole rankings (Q, G): what is relevant by rank, in any order within a group of ``ties``, and how many are."""

    relevant: Relevant
    num_relevant: Counts
    ties: Ties

    @cached_property
    def precision(self) -> Values:
        """The mean of "relevant, times the precision up to here", at each rank (Q, G)."""
        return averaged_precision(self.relevant, self.ties)

    @cached_property
    def share(self) -> Values:
        """How likely each rank (Q, G) is relevant."""
        share: Values = self.hits[1] / self.ties.size
        return share

    @cached_property
    def hits(self) -> tuple[Values, Values]:
        """How many relevant rows come before the group of each rank, and how many are in it, both (Q, G)."""
        return self.ties.sums(self.relevant)


def averaged(metric: Metric, table: Tied) -> Values:
    """The mean (Q,) of ``metric`` over the orders of what ties. Raises ValueError for one that has no closed form."""
    check_averaged(metric)
    value = _FORMS[metric.stem](table, metric)
    return np.where(table.num_relevant > 0, value, 0.0)


def check_averaged(metric: Metric) -> None:
    """Raise ValueError unless the mean of ``metric`` over the orders of what ties has a closed form."""
    if metric.stem not in _FORMS or metric.divided_by == "hits":
        raise SettingsError(
            f"{metric.name} divides by what depends on the order of what ties, so its mean over the orders has no "
            'closed form: score it with ties = "row"'
        )


def _up_to(values: Values, ranks: Counts) -> Values:
    """The sum of ``values`` (Q, G) over the first ``ranks`` (Q,)."""
    inside = np.arange(values.shape[1]) < ranks[:, None]
    total: Values = (values * inside).sum(axis=1)
    return total


def _share_of(ranks: Callable[[Counts, int], Counts]) -> Callable[[Tied, Metric], Values]:
    def value(table: Tied, metric: Metric) -> Values:
        upto = ranks(table.num_relevant, metric.k or 0)
        return _up_to(table.share, upto) / np.maximum(upto, 1)

    return value


def _recall(table: Tied, metric: Metric) -> Values:
    total: Values = table.share[:, : metric.k].sum(axis=1) / np.maximum(table.num_relevant, 1)
    return total


def _average_precision(table: Tied, metric: Metric) -> Values:
    if metric.name == "map@r":
        return _up_to(table.precision, table.num_relevant) / np.maximum(table.num_relevant, 1)
    k, by = metric.k or 1, metric.divided_by or "r"
    total: Values = table.precision[:, : metric.k].sum(axis=1) / divisor(k, by, table.num_relevant)
    return total


def _trapezoid(table: Tied, metric: Metric) -> Values:  # noqa: ARG001
    ranks = np.arange(table.relevant.shape[1])  # from 0
    # Relevant at rank n, with n - 1 before it of which H - 1 are relevant: the mean of H is n times the precision.
    before = (table.precision * (ranks + 1) - table.share) / np.maximum(ranks, 1)
    before[:, :1] = table.share[:, :1]
    total: Values = ((table.precision + before) / 2).sum(axis=1) / np.maximum(table.num_relevant, 1)
    return total


def _ndcg(table: Tied, metric: Metric) -> Values:
    shares = table.share[:, : metric.k]
    gained: Values = shares @ (1 / np.log2(np.arange(shares.shape[1]) + 2.0))
    return gained / best_gain(table.num_relevant, metric.k)


def _hit(table: Tied, metric: Metric) -> Values:
    last = min(int(metric.k or 0), table.relevant.shape[1]) - 1
    size, (before, relevant) = table.ties.size[:, last], (counts[:, last] for counts in table.hits)
    drawn = last + 1 - table.ties.first[:, last]
    none = (before == 0).astype(np.float64)
    for place in range(int(drawn.max(initial=0))):
        left = np.maximum(size - relevant - place, 0) / np.maximum(size - place, 1)
        none *= np.where(place < drawn, left, 1.0)
    hit: Values = 1 - none
    return hit


def _reciprocal_rank(table: Tied, metric: Metric) -> Values:
    queries = np.arange(len(table.relevant))
    _, within = table.hits
    at = np.argmax(within > 0, axis=1)  # the first rank of the first group with something relevant
    size, relevant = table.ties.size[queries, at], np.maximum(within[queries, at], 1)
    chance, total = relevant / size, np.zeros(len(queries))
    for place in range(int((size - relevant).max(initial=-1)) + 1):
        rank = at + place + 1
        total += np.where(rank <= (metric.k or rank), chance / rank, 0.0)
        chance = chance * np.maximum(size - relevant - place, 0) / np.maximum(size - place - 1, 1)
    return total


_FORMS: dict[str, Callable[[Tied, Metric], Values]] = {
    "precision": lambda table, metric: table.share[:, : metric.k].sum(axis=1) / (metric.k or 1),
    "recall": _recall,
    "mmp": _share_of(lambda num_relevant, k: np.minimum(num_relevant, k)),
    "r_precision": _share_of(lambda num_relevant, _: num_relevant),
    "map": _average_precision,
    "map_trapezoid": _trapezoid,
    "ndcg": _ndcg,
    "hit": _hit,
    "cmc": _hit,
    "mrr": _reciprocal_rank,
}


def tied_order(similarity: npt.NDArray[np.floating], relevant: Relevant, num_relevant: Counts) -> Tied:
    """The table of whole rankings by ``similarity`` (Q, G), where ``relevant`` (Q, G) is by column."""
    ties = Ties.of(similarity)
    return Tied(np.take_along_axis(relevant, ties.order, axis=1), num_relevant, ties)
