"""Metrics of retrieval, as pure functions of which ranks hold something relevant.

Every function takes ``relevant`` (Q, K) bool, in rank order, the query itself already taken out, and ``num_relevant``
(Q,), how many gallery rows are relevant to each query (R below); it returns one float64 value per query, (Q,), in
[0, 1]. A table narrower than K (a small gallery) counts as continued with nothing relevant.

One name, one definition:

===============  =====================================================================================================
``precision@k``  relevant among the first k, of k
``recall@k``     relevant among the first k, of R: the fraction that was found
``hit@k``        1 when at least one of the first k is relevant. Much of metric learning calls this recall@k
``mmp@k``        relevant among the first n = min(R, k), of n: the Google Universal Image Embedding Challenge
``map@r``        sum of precision@i over the relevant ranks i <= R, of R (Musgrave et al., A Metric Learning Reality
                 Check, 2020)
``map``          the same over the whole ranking: mean average precision as trec_eval and scikit-learn have it
``r_precision``  relevant among the first R, of R
===============  =====================================================================================================

A query to which nothing is relevant (R = 0) gets 0 from the functions here. Most of these metrics are 0/0 for it, so
:func:`stages.retrieval.evaluate` leaves such queries out of the mean of *every* metric and counts them as
``unanswerable``: all metrics are then means over the same queries.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Relevant: TypeAlias = npt.NDArray[np.bool_]
Counts: TypeAlias = npt.NDArray[np.int64]
Values: TypeAlias = npt.NDArray[np.float64]


def precision_at(k: int, relevant: Relevant, num_relevant: Counts) -> Values:  # noqa: ARG001
    """Relevant among the first k, of k."""
    return _found(relevant, k) / k


def recall_at(k: int, relevant: Relevant, num_relevant: Counts) -> Values:
    """Relevant among the first k, of all that are relevant."""
    return _found(relevant, k) / np.maximum(num_relevant, 1)


def hit_at(k: int, relevant: Relevant, num_relevant: Counts) -> Values:  # noqa: ARG001
    """1 when at least one of the first k is relevant, else 0."""
    return np.minimum(_found(relevant, k), 1.0)


def mmp_at(k: int, relevant: Relevant, num_relevant: Counts) -> Values:
    """Modified mean precision: relevant among the first n, of n = min(R, k)."""
    return _found_within(relevant, np.minimum(num_relevant, k))


def r_precision(relevant: Relevant, num_relevant: Counts) -> Values:
    """Relevant among the first R, of R."""
    return _found_within(relevant, num_relevant)


def map_at_r(relevant: Relevant, num_relevant: Counts) -> Values:
    """The sum of precision@i over the relevant ranks i <= R, of R."""
    return _average_precision(relevant, num_relevant, last_rank=num_relevant)


def average_precision(relevant: Relevant, num_relevant: Counts) -> Values:
    """The sum of precision@i over all relevant ranks i, of R. ``relevant`` must hold the full ranking."""
    return _average_precision(relevant, num_relevant, last_rank=np.full(len(relevant), relevant.shape[1]))


def _found(relevant: Relevant, k: int) -> Values:
    """How many of the first k are relevant."""
    counts: Values = relevant[:, :k].sum(axis=1, dtype=np.float64)
    return counts


def _found_within(relevant: Relevant, ranks: Counts) -> Values:
    """The fraction of the first ``ranks`` (Q,) that is relevant; 0 of 0 is 0."""
    inside = np.arange(relevant.shape[1]) < ranks[:, None]
    return _found(relevant & inside, relevant.shape[1]) / np.maximum(ranks, 1)


def _average_precision(relevant: Relevant, num_relevant: Counts, last_rank: Counts) -> Values:
    # Relevant ranks are few, so the sum runs over them and not over the table.
    query, column = np.nonzero(relevant)  # by query, then by rank
    before = np.append(0, np.cumsum(relevant.sum(axis=1)))  # (Q + 1,)
    found = np.arange(1, len(query) + 1) - before[query]  # 1, 2, 3 ... within each query
    precision = np.where(column < last_rank[query], found / (column + 1), 0.0)
    return np.bincount(query, precision, minlength=len(relevant)) / np.maximum(num_relevant, 1)


@dataclass(frozen=True)
class Metric:
    """A metric by name: its function, and how many ranks the function looks at (k, the largest R, or all)."""

    name: str
    function: Callable[[Relevant, Counts], Values]
    reach: int | Literal["relevant", "gallery"]

    def depth(self, most_relevant: int, gallery: int) -> int:
        """How many ranks the table needs when no R is above ``most_relevant`` in a gallery of ``gallery`` rows."""
        reach = {"relevant": most_relevant, "gallery": gallery}.get(str(self.reach), self.reach)
        return min(int(reach), gallery)


_AT_K = {"mmp": mmp_at, "hit": hit_at, "recall": recall_at, "precision": precision_at}
_WHOLE = {
    "map@r": Metric("map@r", map_at_r, "relevant"),
    "map": Metric("map", average_precision, "gallery"),
    "r_precision": Metric("r_precision", r_precision, "relevant"),
}


def metric_names() -> tuple[str, ...]:
    """The metrics there are; k stands for any whole number from 1."""
    return (*(f"{stem}@k" for stem in _AT_K), *_WHOLE)


def find_metric(name: str) -> Metric:
    """The metric called ``name``, such as ``"mmp@5"`` or ``"map@r"``. Raises ValueError with the nearest name."""
    if name in _WHOLE:
        return _WHOLE[name]
    stem, _, k = name.partition("@")
    if stem in _AT_K and re.fullmatch(r"[1-9][0-9]*", k):
        return Metric(name, partial(_AT_K[stem], int(k)), int(k))
    known = metric_names()
    spelt = re.sub(r"@[0-9]+$", "@k", name.lower())
    near = difflib.get_close_matches(spelt, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"metrics are {', '.join(known)} (k a whole number from 1), got {name!r}.{hint}")
