"""What bounds a score: a ranking by chance (the floor) and a perfect one (the ceiling), for these queries.

A score says little without them: with 40 relevant rows in a gallery of 80 a random order has precision@5 of 0.5, and
with 3 relevant rows no order has more than 0.6.

The floor is the mean over all orders of the rows that a query searches: what :mod:`stages.retrieval.expected` gives for
rows that are all equally similar, in closed form; for a metric that has none, over orders drawn from a fixed seed. The
ceiling is the metric itself, of the order that has the R relevant rows first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stages.records import Records
from stages.retrieval.expected import Tied, check_expected, expected
from stages.retrieval.graded import Ties
from stages.retrieval.metrics import Counts, Metric, Values, find_metric
from stages.retrieval.protocols import ByLabelConfig, Rules
from stages.retrieval.scores import ALL, MEAN, domain_names
from stages.retrieval.searches import Searches
from stages.retrieval.trial import UnanswerablePolicy

DRAWS = 400  # orders, where there is no closed form: the mean over queries is then good to about 0.001


class Bounds(NamedTuple):
    """What a metric has at least and at most for each query, (Q,): by chance, and in a perfect ranking."""

    floor: Values
    ceiling: Values


def metric_bounds(metric: Metric | str, num_relevant: Counts, num_searched: Counts, seed: int = 0) -> Bounds:
    """The bounds of ``metric`` for queries with ``num_relevant`` of ``num_searched`` gallery rows relevant, (Q,) each.

    ``seed`` is of the orders that are drawn where there is no closed form. A query without anything relevant gets 0
    and 0. Raises ValueError for an unknown metric, and where more rows are relevant than are searched.
    """
    metric = find_metric(metric) if isinstance(metric, str) else metric
    if len(num_relevant) != len(num_searched) or (num_relevant > num_searched).any() or (num_relevant < 0).any():
        raise ValueError(
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
    """
    parts = Searches.by_rules(rules, queries, gallery)
    if unanswerable == "leave_out":
        parts = [of.answerable() for of in parts]
    relevant = np.concatenate([of.num_relevant for of in parts])
    searched = np.concatenate([of.num_searched for of in parts])
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for name in metrics if len(relevant) else ():
        groups = [group for of in parts for group in rules.groups(of.queries)]
        of_metric = told(metric_bounds(name, relevant, searched, seed), groups, domain_names(rules.groups(queries)))
        found |= {(name, domain): ends for domain, ends in of_metric.items()}
    return found


def told(bounds: Bounds, groups: Sequence[str | None], names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The mean floor and ceiling of all queries, of each group of ``names`` (that of each query in ``groups``, (Q,)).

    And the mean of the groups where there are any, every group the same weight.
    """
    own = np.array(groups, dtype=object)
    found = {ALL: (float(bounds.floor.mean()), float(bounds.ceiling.mean()))}
    for name in names:
        if len(rows := np.flatnonzero(own == name)):
            found[name] = float(bounds.floor[rows].mean()), float(bounds.ceiling[rows].mean())
    if len(found) > 1:
        floor, ceiling = np.mean([found[name] for name in found if name != ALL], axis=0)
        found[MEAN] = float(floor), float(ceiling)
    return found


def _floor(metric: Metric, relevant: int, searched: int, seed: int) -> float:
    """The mean over all orders: that of rows which are all equally similar."""
    try:
        check_expected(metric)
    except ValueError:
        return _drawn(metric, relevant, searched, seed)
    table = np.zeros((1, searched), np.bool_)
    table[:, :relevant] = True
    ranks = np.arange(searched)[None]
    ties = Ties(ranks, np.zeros_like(ranks), np.full_like(ranks, searched))
    return float(expected(metric, Tied(table, np.array([relevant]), ties))[0])


def _drawn(metric: Metric, relevant: int, searched: int, seed: int) -> float:
    """The mean over drawn orders. The lot depends on the seed and the counts alone: not on what else is scored."""
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
