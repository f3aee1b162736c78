"""What won: every backbone and head with intervals, its gain over the raw feature, and the same by domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.views.charts import Interval, interval_chart
from pipeline.views.report.measured import Measured
from pipeline.views.tables import ScoreRow
from stages.analysis import Change, changes
from stages.records import Records
from stages.retrieval.scores import ALL, MEAN, Resampling

_ROWS = 14  # heads in a chart by domain


@dataclass(frozen=True)
class Standing:
    """A line of the leaderboard; ``gain`` is over the raw feature of its backbone, query by query, None for that."""

    rank: int
    name: str
    head: str
    backbone: str
    raw: bool
    look: str
    dim: int
    cells: Sequence[ScoreRow | None]
    """A score for each metric."""
    gain: Change | None
    behind: Change | None
    """How far it is from the best; None for the best."""

    @property
    def level(self) -> bool:
        """Whether it could be as good as the best."""
        return self.behind is not None and self.behind.high >= 0


@dataclass(frozen=True)
class Board:
    """The leaderboard, by its first metric; ``low`` and ``high`` are the ends of the axis of its bars."""

    metrics: Sequence[str]
    domain: str
    standings: Sequence[Standing]
    low: float
    high: float
    floor: float | None
    ceiling: float | None

    def across(self, value: float) -> float:
        """Where ``value`` is on the axis, in percent."""
        return round(100 * (value - self.low) / ((self.high - self.low) or 1), 2)

    @property
    def best(self) -> Standing:
        """The first."""
        return self.standings[0]


def leaderboard(
    measured: Sequence[Measured],
    metrics: Sequence[str],
    domain: str,
    looks: Mapping[str, str],
    records: Records,
    resampling: Resampling,
) -> Board:
    """``measured`` as lines, in their order; ``domain`` is where a score stands for the whole."""
    metric = metrics[0]
    domains = dict(zip(records.split("query").keys, records.split("query").domains, strict=True))
    raws = {of.vectors.backbone: of for of in measured if of.raw}

    def change(first: Measured, second: Measured) -> Change | None:
        sides = first.kept.get(metric), second.kept.get(metric)
        if sides[0] is None or sides[1] is None:
            return None
        found = changes([sides[0]], [sides[1]], domains, resampling)
        return next((of for of in found.changes if of.domain == domain), None)

    best = measured[0]
    standings = []
    for rank, of in enumerate(measured, 1):
        raw = raws.get(of.vectors.backbone)
        standings.append(
            Standing(
                rank,
                of.name,
                of.head,
                of.vectors.backbone,
                of.raw,
                looks[of.name],
                of.vectors.store.dim,
                [of.row(name, domain) for name in metrics],
                None if raw is None or of.raw else change(raw, of),
                None if of is best else change(best, of),
            )
        )
    ends = [end for of in standings if (cell := of.cells[0]) is not None for end in (cell.low, cell.high)]
    first = best.row(metric, domain)
    room = 0.03 * (max(ends) - min(ends))
    return Board(
        metrics,
        domain,
        standings,
        min(ends) - room,
        max(ends) + room,
        None if first is None else first.floor,
        None if first is None else first.ceiling,
    )


def domain_charts(
    measured: Sequence[Measured], metric: str, looks: Mapping[str, str]
) -> list[tuple[str, ScoreRow, Markup]]:
    """Each domain, the best score in it, and its chart: every head on the same axis; none where there is one domain."""
    shown = [*measured[:_ROWS], *(of for of in measured[_ROWS:] if of.raw)]
    names = list(dict.fromkeys(row.domain for of in shown for row in of.rows if row.domain not in (ALL, MEAN)))
    if not names:
        return []
    charts = []
    for domain in [*names, MEAN]:
        found = [(of, row) for of in shown if (row := of.row(metric, domain)) is not None]
        low, high = min(row.low for _, row in found), max(row.high for _, row in found)
        room = 0.03 * (high - low) or 0.01
        best = max((row for _, row in found), key=lambda row: row.value)
        label = f"{metric} in {domain}: " + "; ".join(f"{of.name} {row.value:.3f}" for of, row in found)
        intervals = [Interval(of.name, row.value, row.low, row.high, looks[of.name]) for of, row in found]
        charts.append((domain, best, interval_chart(intervals, label=label, low=low - room, high=high + room)))
    return charts
