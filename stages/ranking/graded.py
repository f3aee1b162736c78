"""Metrics of a ranking whose rows are relevant by grades in [0, 1]; where similarities tie, what a random order gives.

===================  =================================================================================================
``graded_map``       graded average precision (Robertson, Kanoulas and Yilmaz, SIGIR 2010), every threshold of the grade
                     equally likely: the sum over the ranks n of sum(min(g_m, g_n) for m <= n) / n, of the sum of all
                     grades. With grades 0 and 1 it is ``map``.
``graded_ndcg``      the sum of g_n / log2(n + 1) over the ranks n, of what the best ranking has (Jarvelin and
                     Kekalainen, 2002): linear gain. ``graded_ndcg@k`` looks at the first k.
``graded_ndcg_exp``  the same with the exponential gain 2^g_n - 1 (Burges et al., 2005); and ``graded_ndcg_exp@k``
===================  =================================================================================================

Rows of one similarity have no order. Each value here is the mean over all of their orders, in closed form (McSherry and
Najork, ECIR 2008), so that it depends neither on the order of the gallery nor on chance.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
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


def averaged_precision(relevant: npt.NDArray[np.bool_], ties: Ties) -> Values:
    """At each rank (Q, G), the mean of "relevant, times the precision up to here" over the orders of what ties.

    ``relevant`` (Q, G) is by rank, in any order within a group. A rank at place k of a group of t rows, r of them
    relevant, is relevant with r/t, and then (k - 1)(r - 1)/(t - 1) of the k - 1 before it in the group are.
    """
    hits = np.zeros((len(relevant), relevant.shape[1] + 1))
    hits[:, 1:] = np.cumsum(relevant, axis=1)
    before = np.take_along_axis(hits, ties.first, axis=1)
    within = np.take_along_axis(hits, ties.first + ties.size, axis=1) - before
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
    gains = np.zeros((len(grades), width + 1))
    gains[:, 1:] = np.cumsum(np.take_along_axis(grades, ties.order, axis=1), axis=1)
    of_group = np.take_along_axis(gains, ties.first + ties.size, axis=1) - np.take_along_axis(gains, ties.first, axis=1)
    gained = (of_group / ties.size * discounts).sum(1)
    best = (np.sort(grades, axis=1)[:, ::-1] * discounts).sum(1)
    value: Values = np.divide(gained, best, out=np.full(len(grades), np.nan), where=best > 0)
    return value
