"""The leaderboard of the report: every backbone and head, its gain over the raw feature, and the same by domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from pipeline.score_rows import ScoreRow
from pipeline.views.charts import Bar, interval_chart
from pipeline.views.leaderboard import Leaderboard, Row
from pipeline.views.report.measured import Measured
from stages.analysis import Change, changes
from stages.records import Records
from stages.retrieval.scores import ALL, MEAN

_ROWS = 14  # heads in a chart by domain


def report_leaderboard(
    measured: Sequence[Measured], metrics: Sequence[str], domain: str, looks: Mapping[str, str], records: Records
) -> Leaderboard:
    """``measured`` as rows, in their order; ``domain`` is where a score stands for the whole."""
    metric = metrics[0]
    queries = records.split("query")
    domains = dict(zip(queries.keys, queries.domains, strict=True))
    best, raws = measured[0], {side.vectors.backbone: side for side in measured if side.raw}

    def change(first: Measured, second: Measured) -> Change | None:
        sides = first.by_query.get(metric), second.by_query.get(metric)
        if sides[0] is None or sides[1] is None:
            return None
        compared = changes([sides[0]], [sides[1]], domains)
        return next((one for one in compared.changes if one.domain == domain), None)

    rows = []
    for side in measured:
        raw = raws.get(side.vectors.backbone)
        gain = None if raw is None or side.raw else change(raw, side)
        raw_score = None if raw is None else raw.row(metric, domain)
        scores, dim = {name: side.row(name, domain) for name in metrics}, side.vectors.store.dim
        gains, behind = {} if gain is None else {metric: gain}, None if side is best else change(side, best)
        reference, marked = None if raw_score is None else raw_score.value, {metric} if side is best else set[str]()
        rows.append(Row((side.name,), scores, (dim,), marked, side.raw, looks[side.name], gains, behind, reference))
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
