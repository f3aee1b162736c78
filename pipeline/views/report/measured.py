"""What the report is about: each backbone and head with its scores, query by query, its first ranks, and its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from cache.errors import MissingRowsError
from pipeline.config import RAW
from pipeline.dataset import Run
from pipeline.scores import ScoreRow, score_run, scored_data, stored_rows, values_key
from pipeline.vectors import Vectors
from pipeline.views.charts import Bar, interval_chart
from pipeline.views.leaderboard import Bounded, Leaderboard, Row
from stages.analysis import Change, changes
from stages.analysis.first_ranks import FirstRanks, first_ranks
from stages.ranking.metrics import Values
from stages.records import Records
from stages.retrieval.query_values import QueryValues, read_query_values, scored_numbers
from stages.retrieval.scores import ALL, MEAN, QueryScores

_SEARCHED = " + "  # between a head and how it was searched


@dataclass(frozen=True, eq=False)
class Measured:
    """A raw feature, a head, or one of them as it was searched otherwise: its scores, and what they are means of.

    Scores call it ``head``, with how it was searched, and the page ``name``, with the backbone where there are several.
    ``by_query`` has the value of each query, by metric. ``ranks`` are those of exact search; None where no query has
    anything to find, and for other ways of searching.
    """

    vectors: Vectors
    head: str
    name: str
    rows: Sequence[ScoreRow]
    by_query: Mapping[str, QueryScores]
    ranks: FirstRanks | None

    @property
    def raw(self) -> bool:
        """True for the feature itself."""
        return self.head == RAW

    @property
    def exact(self) -> bool:
        """False for another way of searching than comparing with every row."""
        return self.head == self.vectors.head

    def row(self, metric: str, domain: str) -> ScoreRow | None:
        """One of the scores."""
        return next((row for row in self.rows if (row.metric, row.domain) == (metric, domain)), None)

    def values(self, metric: str, keys: Sequence[str]) -> Values:
        """The value of ``metric`` for each query of ``keys`` (Q,); 0 for one that it was not scored for."""
        scored = self.by_query[metric]
        value = dict(zip(scored.query_keys, scored.per_query[metric].tolist(), strict=True))
        return np.array([value.get(key, 0.0) for key in keys])


def measure(run: Run, vectors: Sequence[Vectors]) -> list[Measured]:
    """Every one of ``vectors`` with its scores, best first by the first metric of the run file.

    The scores are those that ``permafrost score`` wrote for the run file where they are of these very
    embeddings, images and settings; otherwise they are computed, and written.
    """
    records, retrieval, display = run.records, run.config.retrieval, run.display
    rows, values = stored_scores(run, vectors)
    if values is None:
        display.say("scoring: there are no scores of these embeddings, images and settings yet")
        rows, values = score_run(run, vectors)
    several = len({part.backbone for part in vectors}) > 1
    by_name = {(part.backbone, part.head): part for part in vectors}
    queries, gallery = records.split("query"), records.split("gallery")
    measured = []
    with display.bar("searching", "heads") as update:
        scored = values.heads()
        for done, (backbone, head) in enumerate(scored):
            part = by_name.get((backbone, head.partition(_SEARCHED)[0]))
            if part is None or values.embeddings(backbone, head) != scored_numbers(part.store, run.records):
                continue  # of a head that the run file no longer names
            update(done, len(scored), head)
            by_query = {metric: one for one in values.of(backbone, head) for metric in one.per_query}
            own = [row for row in rows if (row.backbone, row.head) == (backbone, head)]
            title = f"{head} · {backbone}" if several else head
            ranks = first_ranks(part.store, queries, gallery, retrieval.ranked) if head == part.head else None
            measured.append(Measured(part, head, title, own, by_query, ranks))
    first = retrieval.metrics[0], overall(rows)
    return sorted(measured, key=lambda side: row.value if (row := side.row(*first)) else -np.inf, reverse=True)


def overall(rows: Sequence[ScoreRow]) -> str:
    """Where a score stands for the whole: the mean of the domains, or all queries where there are no domains."""
    return MEAN if any(row.domain == MEAN for row in rows) else ALL


def stored_scores(run: Run, vectors: Sequence[Vectors]) -> tuple[list[ScoreRow], QueryValues | None]:
    """The scores of the run, if they are of just these embeddings (of heads still named), images and settings."""
    try:
        values = read_query_values(run.storage, values_key(run))
        rows = stored_rows(run)
    except (MissingRowsError, OSError, ValueError, TypeError):
        return [], None
    scored, heads = {(row.backbone, row.head, row.embeddings, row.metric) for row in rows}, values.heads()
    fresh = values.data == scored_data(run)
    for part in vectors:
        name, numbers = (part.backbone, part.head), scored_numbers(part.store, run.records)
        fresh &= name in heads and values.embeddings(*name) == numbers
        fresh &= all((*name, numbers, metric) in scored for metric in run.config.retrieval.metrics)
    return (rows, values) if fresh else ([], None)


_ROWS = 14  # heads in a chart by domain


def report_leaderboard(
    measured: Sequence[Measured], metrics: Sequence[str], domain: str, looks: Mapping[str, str], records: Records
) -> Leaderboard:
    """``measured`` as rows, in their order; ``domain`` is where a score stands for the whole."""
    metric, queries = metrics[0], records.split("query")
    domains = dict(zip(queries.keys, queries.domains, strict=True))
    best, raws = measured[0], {side.vectors.backbone: side for side in measured if side.raw}

    def change(first: Measured | None, second: Measured) -> Change | None:
        if first is None or first is second or metric not in first.by_query or metric not in second.by_query:
            return None
        compared = changes([first.by_query[metric]], [second.by_query[metric]], domains)
        return next((one for one in compared.changes if one.domain == domain), None)

    rows = []
    for side in measured:
        raw = raws.get(side.vectors.backbone)
        scores: dict[str, Bounded | None] = {name: side.row(name, domain) for name in metrics}
        gains: dict[str, Bounded] = {} if (gain := change(raw, side)) is None else {metric: gain}
        group, dim = (side.vectors.backbone,), (side.vectors.store.dim,)
        rows.append(Row((side.name,), scores, group, dim, looks[side.name], gains, change(side, best)))
    bounds = {}
    top = best.row(metric, domain)
    if top is not None and top.floor is not None and top.ceiling is not None:
        bounds[metric] = top.floor, top.ceiling
    return Leaderboard(("head",), metrics, rows, ("dim",), ranked=True, bounds=bounds)


def domain_charts(
    measured: Sequence[Measured], metric: str, looks: Mapping[str, str]
) -> list[tuple[str, ScoreRow, Markup]]:
    """Each domain, the best score in it, and its chart: every head on the same axis; none where there is one domain."""
    shown = [*measured[:_ROWS], *(side for side in measured[_ROWS:] if side.raw)]
    names = list(dict.fromkeys(row.domain for side in shown for row in side.rows if row.domain not in (ALL, MEAN)))
    if not names:
        return []
    charts = []
    for domain in [*names, MEAN]:
        scores = [(side, row) for side in shown if (row := side.row(metric, domain)) is not None]
        low, high = min(row.low for _, row in scores), max(row.high for _, row in scores)
        room = 0.03 * (high - low) or 0.01
        best = max((row for _, row in scores), key=lambda row: row.value)
        label = f"{metric} in {domain}: " + "; ".join(f"{side.name} {row.value:.3f}" for side, row in scores)
        intervals = [Bar(side.name, row.value, row.low, row.high, looks[side.name]) for side, row in scores]
        charts.append((domain, best, interval_chart(intervals, label=label, low=low - room, high=high + room)))
    return charts
