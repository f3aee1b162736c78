"""Metrics of retrieval, as pure functions of which ranks hold something relevant.

Every function takes ``relevant`` (Q, K) bool, in rank order, the query itself and junk already taken out, and
``num_relevant`` (Q,), how many gallery rows are relevant to each query (R below); it returns one float64 value per
query, (Q,), in [0, 1]. A table narrower than K (a small gallery) counts as continued with nothing relevant.

One name, one definition. H(k) is how many of the first k are relevant, P(i) = H(i) / i, and S(k) the sum of P(i) over
the relevant ranks i <= k:

=================  ===================================================================================================
``precision@k``    H(k) / k
``recall@k``       H(k) / R: the fraction that was found
``hit@k``          1 when H(k) > 0. Much of metric learning calls this recall@k, re-identification ``cmc@k``: so may you
``mmp@k``          H(n) / n with n = min(R, k): the Google Universal Image Embedding Challenge
``mp@k``           H(n) / n with n = min(rank of the last relevant, k): Revisited Oxford and Paris
``r_precision``    H(R) / R
``map@r``          S(R) / R (Musgrave et al., A Metric Learning Reality Check, 2020)
``map``            S / R over the whole ranking: as trec_eval and scikit-learn have it
``map_trapezoid``  the same with (P(i) + (H(i) - 1) / (i - 1)) / 2 in place of P(i), 1 in place of 0/0: the area below
                   the curve of precision and recall by trapezoids, Oxford and Paris, old and revisited
``map@k/r``        S(k) / R: trec_eval's map_cut, ranx, PyTorch Metric Learning
``map@k/min``      S(k) / min(R, k): Google Landmarks v2, UnED, ILIAS
``map@k/hits``     S(k) / H(k), 0 where H(k) = 0: torchmetrics, Open Metric Learning
``map@k/k``        S(k) / k
``mrr``            1 / the first relevant rank
``mrr@k``          the same, 0 where that rank is above k
``ndcg``           the sum of 1 / log2(i + 1) over the relevant ranks, of that over the ranks up to R
``ndcg@k``         both sums up to k
=================  ===================================================================================================

``map@k`` alone is refused: four libraries divide it by four different things. With relevance yes or no the linear and
the exponential gain of nDCG are the same; :mod:`stages.ranking.ties` has both for grades.

A query to which nothing is relevant (R = 0) gets 0 from the functions here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from cache.errors import SettingsError, did_you_mean

Relevant: TypeAlias = npt.NDArray[np.bool_]
Counts: TypeAlias = npt.NDArray[np.int64]
Values: TypeAlias = npt.NDArray[np.float64]


Normaliser: TypeAlias = Literal["r", "min", "hits", "k"]
"""What AP@k is divided by: R, min(R, k), H(k), or k."""


def average_precision(relevant: Relevant, num_relevant: Counts) -> Values:
    """The sum of precision@i over all relevant ranks i, of R. ``relevant`` must hold the full ranking."""
    return _precision_sum(relevant) / np.maximum(num_relevant, 1)


def divisor(k: int, by: Normaliser, num_relevant: Counts) -> Values:
    """What AP@k is divided by (Q,), at least 1, where it follows from R and k."""
    size: Counts = {"r": num_relevant, "min": np.minimum(num_relevant, k), "k": np.full_like(num_relevant, k)}[by]
    return np.maximum(size, 1).astype(np.float64)


def best_gain(num_relevant: Counts, k: int | None) -> Values:
    """The discounted gain (Q,) of a ranking that begins with all R; 1 where R = 0."""
    counted = num_relevant if k is None else np.minimum(num_relevant, k)
    sums = np.append(1.0, np.cumsum(1 / np.log2(np.arange(counted.max(initial=0)) + 2.0)))
    best: Values = sums[counted]
    return best


def at_every_k(relevant: Relevant, num_relevant: Counts) -> dict[str, Values]:
    """``hit``, ``precision``, ``recall`` and ``mmp`` of each query at every k from 1 to K, (Q, K) each.

    Every query has something relevant.

    >>> at_every_k(np.array([[True, False, True]]), np.array([2]))["recall"]
    array([[0.5, 0.5, 1. ]])
    """
    hits = np.cumsum(relevant, axis=1, dtype=np.float64)  # relevant among the first k
    k, total = np.arange(1, relevant.shape[1] + 1), num_relevant[:, None]
    within = np.minimum(total, k)  # the first n = min(R, k)
    return {
        "hit": np.minimum(hits, 1.0),
        "precision": hits / k,
        "recall": hits / total,
        "mmp": np.take_along_axis(hits, within - 1, axis=1) / within,
    }


def _found(relevant: Relevant, k: int) -> Values:
    """How many of the first k are relevant."""
    counts: Values = relevant[:, :k].sum(axis=1, dtype=np.float64)
    return counts


def _found_within(relevant: Relevant, ranks: Counts) -> Values:
    """The fraction of the first ``ranks`` (Q,) that is relevant; 0 of 0 is 0."""
    inside = np.arange(relevant.shape[1]) < ranks[:, None]
    return _found(relevant & inside, relevant.shape[1]) / np.maximum(ranks, 1)


def _mp_at(k: int, relevant: Relevant, num_relevant: Counts) -> Values:
    first = relevant[:, :k]
    last = (first * np.arange(1, first.shape[1] + 1)).max(axis=1, initial=0)
    all_found = first.sum(axis=1) >= num_relevant  # else the last one is below k
    return _found(relevant, k) / np.where(all_found, np.maximum(last, 1), k)


def _reciprocal_rank(k: int | None, relevant: Relevant, num_relevant: Counts) -> Values:  # noqa: ARG001
    first = relevant[:, :k]
    if not first.shape[1]:
        return np.zeros(len(relevant))
    value: Values = first.any(axis=1) / (np.argmax(first, axis=1) + 1.0)
    return value


def _ndcg(k: int | None, relevant: Relevant, num_relevant: Counts) -> Values:
    query, column = np.nonzero(relevant[:, :k])
    value: Values = np.bincount(query, 1 / np.log2(column + 2.0), minlength=len(relevant)) / best_gain(num_relevant, k)
    return value


def _hits(relevant: Relevant) -> tuple[Counts, Counts, Counts]:
    """The relevant ranks: whose they are, their column, and how many are relevant up to there. All (hits,)."""
    query, column = np.nonzero(relevant)  # by query, then by rank
    before = np.append(0, np.cumsum(relevant.sum(axis=1)))  # (Q + 1,)
    return query, column, np.arange(1, len(query) + 1) - before[query]


def _precision_sum(relevant: Relevant, last_rank: Counts | None = None) -> Values:
    # Relevant ranks are few, so the sum runs over them and not over the table.
    query, column, hits = _hits(relevant)
    precision = hits / (column + 1)
    if last_rank is not None:
        precision = np.where(column < last_rank[query], precision, 0.0)
    total: Values = np.bincount(query, precision, minlength=len(relevant)).astype(np.float64)  # int64 for no hit
    return total


def _trapezoids(relevant: Relevant, num_relevant: Counts) -> Values:
    query, column, hits = _hits(relevant)
    before = np.where(column > 0, (hits - 1) / np.maximum(column, 1), 1.0)
    areas = (before + hits / (column + 1)) / 2
    value: Values = np.bincount(query, areas, minlength=len(relevant)) / np.maximum(num_relevant, 1)
    return value


def _map_at(k: int, by: Normaliser, relevant: Relevant, num_relevant: Counts) -> Values:
    size = np.maximum(_found(relevant, k), 1) if by == "hits" else divisor(k, by, num_relevant)
    return _precision_sum(relevant[:, :k]) / size


@dataclass(frozen=True)
class Metric:
    """A metric by name: its function, and how many ranks the function looks at (k, the largest R, or all)."""

    name: str
    function: Callable[[Relevant, Counts], Values]
    reach: int | Literal["relevant", "gallery"]

    @property
    def stem(self) -> str:
        """What comes before the ``@``."""
        return self.name.partition("@")[0]

    @property
    def k(self) -> int | None:
        """The number in the name."""
        return self.reach if isinstance(self.reach, int) else None

    @property
    def divided_by(self) -> Normaliser | None:
        """The normaliser of ``map@k/...``."""
        return next((by for by in _NORMALISERS if self.name.endswith(f"/{by}")), None)

    def depths(self, num_relevant: Counts, gallery: int) -> Counts:
        """How many ranks it looks at for queries of so many relevant rows (Q,) in a gallery of ``gallery`` rows."""
        if self.reach == "relevant":
            return np.minimum(num_relevant, gallery)
        return np.full_like(num_relevant, gallery if self.reach == "gallery" else min(self.reach, gallery))


_AT_K: dict[str, Callable[[int, Relevant, Counts], Values]] = {
    "mmp": lambda k, relevant, total: _found_within(relevant, np.minimum(total, k)),
    "hit": lambda k, relevant, _: np.minimum(_found(relevant, k), 1.0),
    "recall": lambda k, relevant, total: _found(relevant, k) / np.maximum(total, 1),
    "precision": lambda k, relevant, _: _found(relevant, k) / k,
    "mp": _mp_at,
    "mrr": _reciprocal_rank,
    "ndcg": _ndcg,
}
_WHOLE = {
    metric.name: metric
    for metric in (
        Metric("map@r", lambda relevant, total: _precision_sum(relevant, total) / np.maximum(total, 1), "relevant"),
        Metric("map", average_precision, "gallery"),
        Metric("r_precision", _found_within, "relevant"),
        Metric("map_trapezoid", _trapezoids, "gallery"),
        Metric("mrr", partial(_reciprocal_rank, None), "gallery"),
        Metric("ndcg", partial(_ndcg, None), "gallery"),
    )
}
_NORMALISERS: dict[Normaliser, str] = {"r": "R", "min": "min(R, k)", "hits": "what was found up to k", "k": "k"}


def metric_names() -> tuple[str, ...]:
    """The metrics there are; k stands for any whole number from 1.

    >>> metric_names()[:2]
    ('mmp@k', 'hit@k')
    """
    at_k = [f"{stem}@k" for stem in _AT_K]
    return (*at_k[:4], *_WHOLE, *at_k[4:], *(f"map@k/{by}" for by in _NORMALISERS))


def find_metric(name: str) -> Metric:
    """The metric called ``name``, such as ``"mmp@5"`` or ``"map@r"``. Raises ValueError with the nearest name.

    >>> find_metric("precision@2").function(np.array([[True, False, True]]), np.array([2]))
    array([0.5])
    """
    if name in _WHOLE:
        return _WHOLE[name]
    if (match := re.fullmatch(r"([a-z]+)@([1-9][0-9]*)(?:/([a-z]+))?", name)) is not None:
        stem, k, by = match[1], int(match[2]), match[3]
        for normaliser in _NORMALISERS:
            if (stem, by) == ("map", normaliser):
                return Metric(name, partial(_map_at, k, normaliser), k)
        function = _AT_K.get("hit" if stem == "cmc" else stem)
        if function is not None and by is None:
            return Metric(name, partial(function, k), k)
        if stem == "map":
            choices = ", ".join(f"map@{k}/{by} (by {what})" for by, what in _NORMALISERS.items())
            raise SettingsError(
                f"{name} does not say what it is divided by; choose {choices}. R is how many gallery images are "
                f"relevant. Google Landmarks v2, UnED and ILIAS mean map@{k}/min."
            )
    known = metric_names()
    spelt = re.sub(r"@[0-9]+", "@k", name.lower())
    hint = did_you_mean(spelt, [stem for stem in known if stem != "mp@k"])  # mmp@k is meant
    raise SettingsError(f"metrics are {', '.join(known)} (k a whole number from 1), got {name!r}.{hint}")
