"""Is there a match at all? Error rates of decisions by a similarity threshold, in the words of ISO/IEC 19795-1.

Of single comparisons, a query with a gallery row (*verification*):

==========  ==========================================================================================================
FMR         false match rate: the share of non-mated comparisons (another class) at or above the threshold
FNMR        false non-match rate: the share of mated comparisons (the same class) below it
==========  ==========================================================================================================

Of searches, a query with the whole gallery (*identification*, the first candidate alone, rank 1):

==========  ==========================================================================================================
FPIR        false-positive identification rate: the share of non-mated searches (nothing of its class is in the gallery)
            whose first candidate is at or above the threshold
FNIR        false-negative identification rate: the share of mated searches whose first candidate is not a mate, or is
            below the threshold
==========  ==========================================================================================================

A search of N rows makes N comparisons, so an FMR of 0.001 lets most non-mated searches of a large gallery through: to
say "no match" of a search, choose by FPIR. A non-mated search is made of a query by leaving every row of its class out
of the gallery.

Queries of one class err together, so intervals are over classes (:mod:`stages.ranking.intervals`). Where there was no
error at all, or nothing else, there are as many independent trials as classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from cache import Features
from cache.errors import NothingToScoreError, SettingsError
from stages.ranking.intervals import class_numbers, ratio, share_interval
from stages.ranking.metrics import Values
from stages.ranking.nearest import Rows
from stages.retrieval.query_set import QuerySet

Kind = Literal["fmr", "fpir"]
STEPS = 2**15
"""Thresholds are whole multiples of 1 / STEPS: finer than any error rate tells apart."""


class Rate(NamedTuple):
    """A share of ``trials``, between the ends of its interval."""

    value: float
    low: float
    high: float
    trials: int


class Rates(NamedTuple):
    """The error rates at one threshold; ``answered`` are mated searches with an answer, right or wrong."""

    threshold: float
    fmr: Rate
    fnmr: Rate
    fpir: Rate
    fnir: Rate
    answered: Rate
    queries: int
    classes: int
    gallery: int


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Every comparison of Q queries with their gallery, as counts by similarity; and the first candidates of searches.

    Bin b of ``mated`` and ``non_mated`` comparisons, (2 * STEPS + 2,), holds similarities from (b - STEPS) / STEPS.
    ``first_mate`` (Q,) is the similarity of the nearest mate, -inf where the gallery has none, and ``first_other`` that
    of the nearest row of another class, the first candidate of a non-mated search. ``mate_first`` (Q,) says whether
    the first candidate of the search is a mate, and ``group`` (Q,) numbers the classes.
    """

    vectors: Features
    searches: QuerySet
    mated: npt.NDArray[np.int64]
    non_mated: npt.NDArray[np.int64]
    first_mate: Values
    first_other: Values
    mate_first: npt.NDArray[np.bool_]

    @cached_property
    def group(self) -> Rows:
        """The class of each query, numbered from 0, (Q,)."""
        return class_numbers(self.searches.queries.classes)

    def roc(self, points: int = 200) -> list[tuple[float, float, float]]:
        """(threshold, FMR, FNMR) from the highest threshold down, at FMRs evenly spaced on a logarithmic scale."""
        above = [at_least(counts) / max(1, counts.sum()) for counts in (self.non_mated, self.mated)]
        wanted = np.geomspace(1 / max(1, self.non_mated.sum()), 1, points)
        # The lowest threshold of each wanted rate: the shares fall as the bin rises.
        bins = np.unique(len(above[0]) - np.searchsorted(above[0][::-1], wanted, side="right"))
        bins = bins[(bins < len(above[0]))][::-1]
        return [(edge_of(at), float(above[0][at]), float(1 - above[1][at])) for at in bins.tolist()]


def comparisons(vectors: Features, searches: QuerySet) -> Comparisons:
    """Compare every query with every gallery row, block by block; itself left out. Queries without a class are refused.

    A gallery row without a class is nobody's mate. Raises NothingToScoreError where a query has no row of another
    class to be compared with.

    >>> from stages.retrieval.example import IMAGES, VECTORS
    >>> compared = comparisons(VECTORS, QuerySet.of(IMAGES, IMAGES))
    >>> compared.first_other.round(2).tolist()[:3]
    [0.77, 0.71, 0.67]
    """
    if None in searches.queries.classes:
        raise SettingsError("a query without a label may have mates that are not known: leave it out")
    mated, non_mated = (np.zeros(2 * STEPS + 2, np.int64) for _ in range(2))
    first_mate, first_other = (np.full(len(searches), -np.inf) for _ in range(2))
    mate_first = np.zeros(len(searches), np.bool_)
    for block, similarity, relevant, others in searches.compared(vectors, 4):
        bins = bins_of(similarity)
        mated += np.bincount(bins[relevant], minlength=len(mated))
        non_mated += np.bincount(bins[others], minlength=len(non_mated))
        first_mate[block] = np.where(relevant, similarity, -np.inf).max(axis=1)
        first_other[block] = np.where(others, similarity, -np.inf).max(axis=1)
        ranked = np.where(relevant | others, similarity, -np.inf)
        mate_first[block] = relevant[np.arange(len(block)), ranked.argmax(axis=1)]
    if np.isneginf(first_other).any():
        raise NothingToScoreError("a query has no gallery row of another class to be compared with")
    return Comparisons(vectors, searches, mated, non_mated, first_mate, first_other, mate_first)


@dataclass(frozen=True, eq=False)
class Decisions:
    """What a threshold does to each query: errors and trials (Q,) of each of the rates, by their names in Rates."""

    threshold: float
    compared: Comparisons
    errors: dict[str, Values]
    trials: dict[str, Values]

    def rates(self, rows: npt.NDArray[np.int64] | None = None) -> Rates:
        """The rates over all queries, or those at ``rows``; one of which there are no trials is NaN."""
        rows = np.arange(len(self.compared.group)) if rows is None else rows
        group = self.compared.group[rows]
        rates = {name: _rate(errors[rows], self.trials[name][rows], group) for name, errors in self.errors.items()}
        gallery = round(float(self.compared.searches.num_searched[rows].mean()))
        return Rates(self.threshold, **rates, queries=len(rows), classes=len(np.unique(group)), gallery=gallery)


def decide(threshold: float, compared: Comparisons) -> Decisions:
    """What ``threshold`` does to each query of ``compared``.

    >>> from stages.retrieval.example import IMAGES, VECTORS
    >>> compared = comparisons(VECTORS, QuerySet.of(IMAGES, IMAGES))
    >>> rates = decide(0.9, compared).rates()
    >>> rates.fmr.value, rates.fnmr.value, rates.fnir.value
    (0.0, 0.0, 0.0)
    """
    searches = compared.searches
    mates = searches.num_relevant.astype(np.float64)
    mated_above, others_above = _above(threshold, compared)
    mated, every = np.isfinite(compared.first_mate), np.ones(len(mates))
    answered = mated & (np.maximum(compared.first_mate, compared.first_other) >= threshold)
    errors = {
        "fmr": others_above,
        "fnmr": mates - mated_above,
        "fpir": compared.first_other >= threshold,
        "fnir": mated & ~(answered & compared.mate_first),
        "answered": answered,
    }
    trials = {"fmr": searches.num_searched - mates, "fnmr": mates, "fpir": every, "fnir": mated, "answered": mated}
    counts = ({name: np.asarray(count, np.float64) for name, count in part.items()} for part in (errors, trials))
    return Decisions(threshold, compared, *counts)


def _above(threshold: float, compared: Comparisons) -> tuple[Values, Values]:
    """How many mated and non-mated comparisons of each query (Q,) are at or above ``threshold``."""
    mated, others = np.zeros(len(compared.group)), np.zeros(len(compared.group))
    for block, similarity, relevant, other in compared.searches.compared(compared.vectors, 4):
        high = similarity >= threshold
        mated[block], others[block] = (high & relevant).sum(axis=1), (high & other).sum(axis=1)
    return mated, others


def _rate(errors: Values, trials: Values, classes: Rows) -> Rate:
    """Errors of trials, all queries together, and its interval over classes."""
    if not trials.any():
        return Rate(np.nan, np.nan, np.nan, 0)
    known = ratio(errors, trials, classes)
    low, high = (float(end[0]) for end in share_interval(known))
    return Rate(float(known.mean[0]), low, high, int(trials.sum()))


def bins_of(similarity: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """The bin of each similarity; exact, as STEPS is a power of two."""
    bins: npt.NDArray[np.int64] = np.floor(np.clip(similarity, -1, 1 + 1 / STEPS) * STEPS).astype(np.int64) + STEPS
    return bins


def edge_of(at: int) -> float:
    """The lowest similarity in bin ``at``."""
    return (at - STEPS) / STEPS


def at_least(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many are in each bin or above it."""
    return counts[::-1].cumsum()[::-1]


_LEAST = 30  # pairs of a step: a share of fewer says little


class PairShare(NamedTuple):
    """Of the ``pairs`` from this ``similarity`` up to the next step, ``matched`` show the same class."""

    similarity: float
    matched: int
    pairs: int

    @property
    def share(self) -> float:
        """Of the pairs that match."""
        return self.matched / self.pairs


def pair_shares(compared: Comparisons) -> list[PairShare]:
    """Steps of rising similarity whose share never falls, each of at least 30 pairs where there are as many.

    Isotonic regression of every comparison (Zadrozny and Elkan, 2002); steps of fewer pairs join the one below. The
    shares hold for pairs as they are compared there: a query with every row of its gallery.

    >>> from types import SimpleNamespace
    >>> from stages.analysis.open_set import bins_of
    >>> mated, non_mated = (np.bincount(bins_of(np.array([0.2] * low + [0.9] * high)), minlength=65538)
    ...     for low, high in ((10, 90), (190, 10)))
    >>> [(step.similarity, step.share) for step in pair_shares(SimpleNamespace(mated=mated, non_mated=non_mated))]
    [(0.199..., 0.05), (0.899..., 0.9)]
    """
    from sklearn.isotonic import isotonic_regression

    pairs = compared.mated + compared.non_mated
    bins = np.flatnonzero(pairs)
    fitted = isotonic_regression(compared.mated[bins] / pairs[bins], sample_weight=pairs[bins].astype(np.float64))
    starts = np.flatnonzero(np.diff(fitted, prepend=-1.0) > 0)
    steps = [
        PairShare(edge_of(int(bins[part[0]])), int(compared.mated[bins[part]].sum()), int(pairs[bins[part]].sum()))
        for part in np.split(np.arange(len(bins)), starts[1:])
    ]
    joined: list[PairShare] = []
    for step in reversed(steps):  # the highest first
        if joined and joined[-1].pairs < _LEAST:
            above = joined.pop()
            step = PairShare(step.similarity, step.matched + above.matched, step.pairs + above.pairs)
        joined.append(step)
    return joined[::-1]


def share_at(similarity: float, shares: Sequence[PairShare]) -> PairShare | None:
    """The step that ``similarity`` is in, the lowest where it is below all; None where there are no ``shares``.

    >>> share_at(0.7, [PairShare(-1.0, 1, 100), PairShare(0.5, 80, 100)]).share
    0.8
    """
    reached = [step for step in shares if step.similarity <= similarity] or shares[:1]
    return reached[-1] if reached else None
