"""A threshold of a wanted error rate, which fresh classes keep, from validation queries; its rates on test queries.

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
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cache import Features
from cache.errors import RecordsError, SettingsError
from stages.analysis.open_set import STEPS, Comparisons, Kind, Rates, at_least, bins_of, comparisons, decide, edge_of
from stages.ranking.metrics import Values
from stages.records import Records
from stages.records.splits import seeded_order
from stages.retrieval.query_set import QuerySet
from stages.retrieval.scores import domain_names, rows_by_group

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


LEAST_CLASSES = 5
"""Classes that validation queries need to calibrate a threshold."""
ENOUGH_CLASSES = f"{LEAST_CLASSES} classes that validate, or {2 * LEAST_CLASSES} that search"
"""What a threshold takes at least, in words."""


class Ground(NamedTuple):
    """Calibrated on ``pairs`` (comparisons) and ``searches``, reported on ``test``; ``summary`` is what they are."""

    pairs: Comparisons
    searches: Comparisons
    test: Comparisons
    summary: str


class Decision(NamedTuple):
    """A threshold, what it was chosen by, and its error rates on test queries: of ``all`` and of each domain."""

    kind: Kind
    wanted: float
    calibration: Rates
    test: dict[str, Rates]


class Chosen(NamedTuple):
    """Thresholds, why others could not be chosen, and what all of them were chosen on."""

    decisions: list[Decision]
    refused: list[str]
    on: Ground


def choose_thresholds(store: Features, records: Records, seed: int, wanted: Sequence[tuple[Kind, float]]) -> Chosen:
    """Thresholds for the ``wanted`` rates, and their error rates.

    Validation queries calibrate: a wanted FMR in the validation gallery, a wanted FPIR in the gallery of the run, which
    has the size that will be searched. Where too few classes validate, or too few queries for a wanted rate, half the
    classes that search (sampled in each domain) calibrate and the other half is reported, where more can be had so.
    """
    classes = len({*records.split("validation_query").classes})
    if classes < LEAST_CLASSES:
        few = f"{classes} classes validate, and {LEAST_CLASSES} are needed" if classes else "nothing validates"
        return _chosen(wanted, _half_of_the_test(store, records, seed, few))
    chosen = _chosen(wanted, _validation(store, records))
    if chosen.refused:
        few = f"{len(chosen.on.pairs.group):,} validation queries of {_classes(chosen.on.pairs)} classes are too few"
        with suppress(RecordsError):  # fewer classes search than two halves take
            halves = _chosen(wanted, _half_of_the_test(store, records, seed, few))
            return max(chosen, halves, key=lambda each: (len(each.decisions), len(each.on.searches.group)))
    return chosen


def _chosen(wanted: Sequence[tuple[Kind, float]], on: Ground) -> Chosen:
    decisions, refused = [], []
    for kind, rate in wanted:
        try:
            decisions.append(decision_at(kind, rate, on))
        except SettingsError as error:  # the others are chosen all the same
            refused.append(str(error))
    return Chosen(decisions, refused, on)


def _validation(store: Features, records: Records) -> Ground:
    queries, gallery = records.split("query"), records.split("gallery")
    searching, inside = records.split("validation_query"), records.split("validation_gallery")
    pairs = comparisons(store, _labelled(QuerySet.in_store(store, searching, inside)))
    validating = {*inside.keys}
    own = gallery.take([row for row, key in enumerate(gallery.keys) if key not in validating])
    searches = comparisons(store, _labelled(QuerySet.in_store(store, searching, own)))
    test = comparisons(store, _labelled(QuerySet.in_store(store, queries, gallery)))
    summary = f"calibrated on {len(pairs.group):,} validation queries of {_classes(pairs)} classes"
    return Ground(pairs, searches, test, summary)


def _half_of_the_test(store: Features, records: Records, seed: int, why: str) -> Ground:
    """Half of the classes that search calibrate, the others are reported; ``why`` begins the summary."""
    gallery = records.split("gallery")
    searched = _labelled(QuerySet.in_store(store, records.split("query"), gallery))
    names = searched.queries.classes
    drawn = sorted({name for name in names if name is not None}, key=lambda name: seeded_order(seed, "threshold", name))
    domains = dict(zip(names, searched.queries.domains, strict=True))
    if len(drawn) < 2 * LEAST_CLASSES:
        raise RecordsError(_shortage_text(records, len(drawn)))
    of_domain = [[name for name in drawn if domains[name] == domain] for domain in sorted({*domains.values()}, key=str)]
    first = {name for part in of_domain for name in part[: (len(part) + 1) // 2]}
    mask = np.array([name in first for name in names])
    calibrating, reported = (searched.take(np.flatnonzero(half)) for half in (mask, ~mask))
    others = {name for name in drawn if name not in first}
    own = gallery.take([row for row, name in enumerate(gallery.classes) if name not in others])
    # With leave-one-out the comparison of a with b is that of b with a: none may be on both sides.
    pairs = comparisons(store, QuerySet.in_store(store, calibrating.queries, own))
    summary = f"{why}: {len(pairs.group):,} queries of {_classes(pairs)} test classes, sampled, calibrate"
    return Ground(pairs, comparisons(store, calibrating), comparisons(store, reported), summary)


def class_shortage(records: Records) -> str | None:
    """Why no threshold can be chosen on ``records`` whatever the rate, and what helps; None where one may be."""
    validating, searching = (len({*records.split(role).classes} - {None}) for role in ("validation_query", "query"))
    enough = validating >= LEAST_CLASSES or searching >= 2 * LEAST_CLASSES
    return None if enough else _shortage_text(records, searching)


def _shortage_text(records: Records, searching: int) -> str:
    every, validating = (len({*part.classes} - {None}) for part in (records, records.split("validation_query")))
    more = [least / count for least, count in ((LEAST_CLASSES, validating), (2 * LEAST_CLASSES, searching)) if count]
    about = f" (about {math.ceil(every * min(more)):,} in all, split as these are)" if more else ""
    return (
        f"whatever the rate, a threshold takes {ENOUGH_CLASSES}, half of them to calibrate on; "
        f"of {every:,} classes {validating:,} validate and {searching:,} search. "
        f"Add classes{about}, or give more of them to validation (validation_share in [dataset]). Until then "
        "`permafrost search --threshold SIMILARITY` takes one that you choose"
    )


def _labelled(searches: QuerySet) -> QuerySet:
    return searches.take(np.flatnonzero([name is not None for name in searches.queries.classes]))


def _classes(compared: Comparisons) -> int:
    return len(np.unique(compared.group))


def decision_at(kind: Kind, wanted: float, on: Ground) -> Decision:
    """The threshold for a ``wanted`` rate of ``kind``, and its error rates; raises as :func:`threshold_at`."""
    calibration = on.pairs if kind == "fmr" else on.searches
    similarity = threshold_at(kind, wanted, calibration)
    test = decide(similarity, on.test)
    rates = {"all": test.rates()}
    domains = on.test.searches.queries.domains
    rates |= {name: test.rates(rows) for name, rows in rows_by_group(domains, domain_names(domains)).items()}
    return Decision(kind, wanted, decide(similarity, calibration).rates(), rates)
