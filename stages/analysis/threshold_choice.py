"""From validation queries to a threshold, and its error rates on test queries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from cache import Features
from cache.errors import RecordsError, SettingsError
from stages.analysis.calibrated import threshold_at
from stages.analysis.open_set import Comparisons, Kind, Rates, comparisons, decide
from stages.records import Records
from stages.records.splits import seeded_order
from stages.retrieval.query_set import QuerySet
from stages.retrieval.scores import domain_names

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
        return _chosen(wanted, _half_of_the_test(store, records, seed, "nothing validates"))
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
    more = [LEAST_CLASSES / validating] if validating else []
    more += [2 * LEAST_CLASSES / searching] if searching else []
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
    for name in domain_names(on.test.searches.queries.domains):
        rates[name] = test.rates(on.test.of_domain(name))
    return Decision(kind, wanted, decide(similarity, calibration).rates(), rates)
