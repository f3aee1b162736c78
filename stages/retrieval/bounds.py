"""What bounds a score: a ranking by chance (the floor) and a perfect one (the ceiling), for these queries.

A score says little without them: with 40 relevant rows in a gallery of 80 a random order has precision@5 of 0.5, and
with 3 relevant rows no order has more than 0.6.

The floor is the mean over all orders of the gallery: in closed form where there is one, else over orders drawn from a
fixed seed. With R relevant of N searched rows, rank i is relevant with R / N, and then (i - 1)(R - 1)/(N - 1) of the
ranks before it are in the mean. The ceiling is the metric itself, of the order that has the R relevant rows first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from stages.records import Records
from stages.retrieval.metrics import Counts, Metric, Values, find_metric
from stages.retrieval.scores import ALL, MEAN, domain_names
from stages.retrieval.searches import Searches

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
    exact = _closed_form(metric.name)
    for at, (relevant, searched) in enumerate(pairs.tolist()):
        if relevant:
            perfect = np.ones((1, relevant), np.bool_)
            ceiling[at] = metric.function(perfect, np.array([relevant]))[0]
            floor[at] = _drawn(metric, relevant, searched, seed) if exact is None else exact(relevant, searched)
    return Bounds(floor[which.ravel()], ceiling[which.ravel()])


def score_bounds(
    queries: Records, gallery: Records, metrics: Sequence[str], seed: int = 0
) -> Mapping[tuple[str, str], tuple[float, float]]:
    """Floor and ceiling of each of ``metrics`` by (metric, domain): ``all``, each domain, and their ``mean``.

    They are means over the queries to which something is relevant, as scores are. ``queries`` and ``gallery`` are those
    that were scored: without the images that failed.
    """
    asked = Searches.of(queries, gallery).answerable()
    domains = np.array(asked.queries.domains, dtype=object)
    members = {name: np.flatnonzero(domains == name) for name in domain_names(queries.domains)}
    members = {name: rows for name, rows in members.items() if len(rows)}
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for name in metrics if len(asked.queries) else ():
        bounds = metric_bounds(name, asked.num_relevant, asked.num_searched, seed)
        found[name, ALL] = float(bounds.floor.mean()), float(bounds.ceiling.mean())
        for domain, rows in members.items():
            found[name, domain] = float(bounds.floor[rows].mean()), float(bounds.ceiling[rows].mean())
        if members:
            of_domains = np.array([found[name, domain] for domain in members])
            found[name, MEAN] = float(of_domains[:, 0].mean()), float(of_domains[:, 1].mean())
    return found


def _closed_form(name: str) -> Callable[[int, int], float] | None:
    """The floor by R and N of the metric ``name``, or None where none is known here."""
    stem, _, argument = name.partition("@")
    if name in _WHOLE:
        return _WHOLE[name]
    if stem in _AT_K and argument.isdecimal():
        at_k, k = _AT_K[stem], int(argument)
        return lambda relevant, searched: at_k(k, relevant, searched)
    return None


def _precision(k: int, relevant: int, searched: int) -> float:
    return relevant / searched * min(k, searched) / k


def _recall(k: int, relevant: int, searched: int) -> float:  # noqa: ARG001
    return min(k, searched) / searched


def _hit(k: int, relevant: int, searched: int) -> float:
    """1 - C(N - R, k) / C(N, k): hypergeometric."""
    others = searched - relevant
    if k > others:
        return 1.0
    logs = gammaln(others + 1) - gammaln(others - k + 1) - gammaln(searched + 1) + gammaln(searched - k + 1)
    return float(-np.expm1(logs))


def _share(relevant: int, searched: int) -> float:
    return relevant / searched


def _precisions(last: int, relevant: int, searched: int) -> float:
    """The mean over orders of the sum of precision@i over the relevant ranks i <= last."""
    before = (relevant - 1) / (searched - 1) if searched > 1 else 0.0
    harmonic = float((1 / np.arange(1, last + 1)).sum())
    return relevant / searched * (harmonic * (1 - before) + last * before)


_AT_K: dict[str, Callable[[int, int, int], float]] = {
    "precision": _precision,
    "recall": _recall,
    "hit": _hit,
    "mmp": lambda k, relevant, searched: _share(relevant, searched),  # noqa: ARG005
}
_WHOLE: dict[str, Callable[[int, int], float]] = {
    "r_precision": _share,
    "map@r": lambda relevant, searched: _precisions(relevant, relevant, searched) / relevant,
    "map": lambda relevant, searched: _precisions(searched, relevant, searched) / relevant,
}


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
