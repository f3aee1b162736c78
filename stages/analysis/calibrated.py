"""A threshold of a wanted error rate, which fresh classes keep.

Above the (k + 1)-th highest of n similarities are k, but a fresh one is with probability (k + 1) / (n + 1), more than
k / n. And queries of one class err together, so with few classes the highest similarities are those of few of them.
So classes are left out one after another: with errors e_c(t) of m_c trials at threshold t and a level l,

    t_c(l) = the lowest t with sum_{d != c} e_d(t) <= l sum_{d != c} m_d
    fresh(l) = sum_c e_c(t_c(l)) / sum_c m_c

is the rate of classes that had no part in their threshold. It rises with l, and the threshold is that of the highest l
up to the wanted rate with fresh(l) at most the wanted rate; it counts all C classes, and allows the errors of C - 1.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cache.errors import SettingsError
from stages.analysis.open_set import STEPS, Comparisons, Kind, at_least, bins_of, edge_of
from stages.ranking.metrics import Values

_LEAST = 10  # errors that a wanted rate must allow among the trials, or there is too little to calibrate by
_CANDIDATES = 512  # thresholds to choose from
_IMAGES = "more images that search and validate (dataset.validation_share, dataset.queries_per_class)"


def threshold_at(kind: Kind, wanted: float, calibration: Comparisons) -> float:
    """The lowest threshold at which the expected rate of ``kind`` is at most ``wanted`` for classes not seen.

    Raises ValueError where ``wanted`` is no rate, or so small that fewer than ten errors would calibrate it, or that
    classes left out exceed it whatever the threshold: the message says what there is.

    >>> from types import SimpleNamespace
    >>> searches = SimpleNamespace(num_searched=np.ones(200), num_relevant=np.zeros(200))
    >>> first_other = np.linspace(0, 0.5, 200)
    >>> threshold_at("fpir", 0.1, SimpleNamespace(searches=searches, first_other=first_other, group=np.arange(200)))
    0.45...
    """
    if not 0 < wanted < 1:
        raise SettingsError(f"{kind} is a rate between 0 and 1, such as 0.01, got {wanted:g}")
    searches = calibration.searches
    if kind == "fmr":
        counts, what = calibration.non_mated, "non-mated comparisons"
        by_query = (searches.num_searched - searches.num_relevant).astype(np.float64)
    else:
        counts, what = np.bincount(bins_of(calibration.first_other), minlength=2 * STEPS + 2), "non-mated searches"
        by_query = np.ones(len(calibration.group))
    total = int(counts.sum())
    if total * wanted < _LEAST:
        raise SettingsError(
            f"{kind} = {wanted:g} cannot be calibrated on {total:,} {what}: {_LEAST} errors need at least "
            f"{_LEAST / wanted:,.0f}. {_way_on(_LEAST / max(1, total), _IMAGES)}"
        )
    trials: Values = np.bincount(calibration.group, by_query).astype(np.float64)
    # Below the first bin even the errors without one class are too many, whichever it is.
    first = int(np.argmax(at_least(counts) <= wanted * total + (1 - wanted) * trials.max()))
    bins = np.unique([first, *(first + 1 + np.flatnonzero(counts[first:]))])
    every = len(bins)
    bins = bins[np.unique(np.linspace(0, every - 1, _CANDIDATES).round().astype(np.int64))]
    errors = _errors(kind, calibration, bins)
    level = _level(errors, trials, wanted)
    if level is None:
        enough = _enough(errors, trials, thinned=every > len(bins))
        raise SettingsError(
            f"{kind} = {wanted:g} cannot be calibrated on {len(trials):,} classes: above whatever the others have lies "
            f"more than that of each. {_way_on(enough, 'more validation classes')}"
        )
    allowed = level * total * (1 - 1 / len(trials))
    return edge_of(int(bins[(errors.sum(axis=0) > allowed).sum()]))


def _errors(kind: Kind, calibration: Comparisons, bins: npt.NDArray[np.int64]) -> Values:
    """The errors (C, K) of each class at thresholds that are the lower ends of ``bins`` (K,)."""
    group, width = calibration.group, len(bins) + 1
    counts = np.zeros((int(group.max()) + 1, width))  # by how many of the thresholds a similarity reaches
    if kind == "fpir":
        np.add.at(counts, (group, np.searchsorted(bins, bins_of(calibration.first_other), side="right")), 1)
    else:
        for block, similarity, _, others in calibration.searches.compared(calibration.vectors, 6):
            reached = np.searchsorted(bins, bins_of(similarity), side="right")
            for row, query in enumerate(block):
                counts[group[query]] += np.bincount(reached[row][others[row]], minlength=width)
    above: Values = counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
    return above


def _level(errors: Values, trials: Values, wanted: float) -> float | None:
    """The highest level up to ``wanted`` at which classes that are left out keep ``wanted``; None where none does."""
    others = errors.sum(axis=0) - errors

    def fresh(level: float) -> float:
        place = (others > (level * (trials.sum() - trials))[:, None]).sum(axis=1)  # the lowest threshold without c
        return float(errors[np.arange(len(errors)), place].sum() / trials.sum())

    if fresh(wanted) <= wanted:
        return wanted
    low, high = 0.0, wanted
    if fresh(low) > wanted:
        return None
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if fresh(middle) <= wanted else (low, middle)
    return low


def _enough(errors: Values, trials: Values, *, thinned: bool) -> float:
    """A rate that classes that are left out keep above whatever the others have.

    Of thresholds that were ``thinned`` the one below counts: another rate has others, but none that is lower.
    """
    place = (errors.sum(axis=0) - errors > 0).sum(axis=1)
    return float(errors[np.arange(len(errors)), np.maximum(place - thinned, 0)].sum() / trials.sum())


def _way_on(least: float, add: str) -> str:
    step = 10.0 ** (math.floor(math.log10(least)) - 1)  # two digits, rounded up, so that what is advised can be had
    least = math.ceil(least / step - 1e-9) * step
    return f"Ask for {least:.2g} or more, or add {add}." if least < 1 else f"No rate can be: it takes {add}."
