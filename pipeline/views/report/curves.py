"""Metrics against k, from one ranking: what the second, tenth and hundredth result are worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from pipeline.views.charts import Line, line_chart, look
from pipeline.views.report.measured import DEPTH, Measured
from stages.ranking.metrics import Values, at_every_k
from stages.ranking.nearest import Rows
from stages.retrieval.scores import MEAN, Resampling, domain_names

STEMS = {
    "hit": "hit@k: is one of the first k right?",
    "precision": "precision@k: how many of the first k are right?",
    "recall": "recall@k: how many of all that are right are among the first k?",
    "mmp": "mmp@k: how many of the first k are right, of those that could be?",
}
TICKS = (1, 2, 5, 10, 20, 50, 100)
_DRAWN = 8  # curves in one chart


def k_charts(shown: Sequence[Measured], domain: str, resampling: Resampling) -> list[tuple[str, Markup]]:
    """What each metric asks, and its chart; the first of ``shown`` and raw features get the band of their interval.

    Drawn are the first few, and every raw feature: means over all queries, or with ``domain`` the mean of the domains.
    """
    drawn = chosen(shown)
    groups = {of.name: _groups(of, domain) for of in drawn}
    ranked = [(one.name, one.ranking) for one in drawn if one.ranking is not None]
    values = {name: at_every_k(ranking.relevant, ranking.num_relevant) for name, ranking in ranked}
    if not values:
        return []
    charts = []
    for stem, title in STEMS.items():
        lines = []
        for at, of in enumerate(drawn):
            if of.name not in values:
                continue
            table = values[of.name][stem]
            band = _band(table, groups[of.name], resampling) if at == 0 or of.raw else []
            points = list(enumerate(_mean(table, groups[of.name]).tolist(), 1))
            lines.append(Line(of.name, looks(drawn)[of.name], points, band))
        said = "; ".join(f"{line.name} {line.points[0][1]:.3f} to {line.points[-1][1]:.3f}" for line in lines)
        label = f"{stem}@k from k = 1 to {DEPTH}: {said}"
        chart = line_chart(lines[::-1], label=label, across="k", ticks_at=TICKS, log=True)
        charts.append((title, chart))
    return charts


def k_table(shown: Sequence[Measured], stem: str, domain: str) -> list[tuple[str, list[float]]]:
    """The means of one metric at the ``TICKS``, by name: the chart in numbers."""
    rows = []
    for of in shown:
        if of.ranking is not None:
            means = _mean(at_every_k(of.ranking.relevant, of.ranking.num_relevant)[stem], _groups(of, domain))
            rows.append((of.name, [float(means[k - 1]) for k in TICKS]))
    return rows


def chosen(shown: Sequence[Measured]) -> list[Measured]:
    """Those with a curve of their own: the first few, and the raw features among the others."""
    first = [of for of in shown if not of.raw][: _DRAWN - 1]
    raws = [of for of in shown if of.raw][: max(1, _DRAWN - len(first))]
    return [of for of in shown if of in first or of in raws]


def looks(shown: Sequence[Measured]) -> dict[str, str]:
    """The class that colours each on the whole page: heads by their place, raw features as such."""
    heads = [of for of in shown if not of.raw]
    return {of.name: "raw" for of in shown if of.raw} | {of.name: look(at) for at, of in enumerate(heads)}


def _groups(of: Measured, domain: str) -> list[Rows]:
    """The queries whose means are averaged: those of each domain, or all."""
    assert of.ranking is not None
    domains = np.array(of.ranking.groups, dtype=object)
    names = domain_names(domains.tolist()) if domain == MEAN else []
    return [np.flatnonzero(domains == name) for name in names] or [np.arange(len(domains))]


def _mean(table: Values, groups: Sequence[Rows]) -> Values:
    mean: Values = np.mean([table[rows].mean(axis=0) for rows in groups], axis=0)
    return mean


def _band(table: Values, groups: Sequence[Rows], resampling: Resampling) -> list[tuple[float, float, float]]:
    """The interval of the mean at each k: queries drawn with replacement, the same draws for every k."""
    means = np.zeros((resampling.resamples, table.shape[1]))
    for stream, rows in enumerate(groups):
        rng = np.random.default_rng([resampling.seed, stream])
        draws = (rng.integers(0, len(rows), len(rows)) for _ in range(resampling.resamples))
        counts = np.stack([np.bincount(draw, minlength=len(rows)).astype(np.float32) for draw in draws])
        means += counts @ table[rows].astype(np.float32) / len(rows) / len(groups)
    low, high = resampling.interval(means.T)
    return [(k, float(least), float(most)) for k, (least, most) in enumerate(zip(low, high, strict=True), 1)]
