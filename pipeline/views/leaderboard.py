"""The one model of a result that is shown: rows of scores between their 95 % intervals, the best marked.

::

    scores of a run, table over seeds, trials of a sweep, report --> Leaderboard --> text, or a page by leaderboard.html
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

from pipeline.config import RAW
from pipeline.progress import aligned
from pipeline.scores import ScoreRow
from pipeline.views.pages import pieces
from stages.analysis import Change, Difference
from stages.retrieval.attributes import CEILING, FLOOR
from stages.retrieval.scores import ALL

GAIN, BEHIND = "gain over raw", "behind the best"
"""The titles of the column of paired differences."""

_LETTER, _SMALL, _PADDING, _BAR = 0.52, 0.43, 0.8, 7.0
"""Widths on a page, in rem: of a letter, a small one, the room between columns, and the axis of the intervals."""


class Interval(NamedTuple):
    """A value between the ends of its 95 % interval."""

    value: float
    low: float
    high: float


Bounded: TypeAlias = Interval | ScoreRow | Change | Difference
"""A score or a paired difference: all have ``value``, ``low`` and ``high``."""

Names: TypeAlias = tuple[str, ...]
"""The texts that name a row, one for each column."""


@dataclass(frozen=True)
class Row:
    """One line of a leaderboard: ``names`` and ``counts`` for its columns, and ``scores`` by metric, or None.

    ``group`` is what it is compared within, as that of a backbone. ``gains`` are how far each metric is above the raw
    feature of the group, and ``behind`` how far the best row is above this one, query by query. ``look`` is the class
    of the stylesheet that colours the row, and ``note`` stands after the first score.
    """

    names: Names
    scores: dict[str, Bounded | None]
    group: Names = ()
    counts: Sequence[int | None] = ()
    look: str = "c1"
    gains: dict[str, Bounded] = field(default_factory=dict)
    behind: Bounded | None = None
    note: str = ""

    @property
    def raw(self) -> bool:
        """Whether it is of a raw feature."""
        return self.look == RAW

    @property
    def tied(self) -> bool:
        """Whether it could be as good as the best."""
        return self.behind is not None and self.behind.low <= 0


@dataclass(frozen=True)
class Leaderboard:
    """Rows in the order in which they are shown; ``ranked`` where that is best first, by the first metric."""

    columns: Sequence[str]
    metrics: Sequence[str]
    rows: Sequence[Row]
    counts: Sequence[str] = ()
    ranked: bool = False
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    digits: int = 3

    @property
    def metric(self) -> str:
        """The first metric, by which rows are ranked and drawn."""
        return self.metrics[0]

    @cached_property
    def change(self) -> str:
        """The title of the column of paired differences: gains where there are any, or how far a row is behind."""
        if any(self.metric in row.gains for row in self.rows):
            return GAIN
        return BEHIND if any(row.behind for row in self.rows) else ""

    def change_of(self, row: Row) -> Bounded | None:
        """The paired difference of ``row`` in that column."""
        return row.gains.get(self.metric) if self.change == GAIN else row.behind

    def is_best(self, row: Row, metric: str = "") -> bool:
        """Whether no row of its group is better, by the first metric or by ``metric``; a row that is alone is not."""
        if self.ranked:
            return row is self.rows[0]
        rivals = [other.scores.get(metric or self.metric) for other in self.rows if other.group == row.group]
        score, values = row.scores.get(metric or self.metric), [rival.value for rival in rivals if rival is not None]
        return len(rivals) > 1 and score is not None and score.value == max(values)

    def reference(self, row: Row) -> float | None:
        """The first metric of the raw feature of the group of ``row``."""
        raws = (other.scores.get(self.metric) for other in self.rows if other.raw and other.group == row.group)
        return next((raw.value for raw in raws if raw is not None), None)

    @cached_property
    def axis(self) -> tuple[float, float]:
        """The ends of the axis on which the intervals of the first metric are drawn."""
        scores = [score for row in self.rows if (score := row.scores.get(self.metric)) is not None]
        ends = [end for score in scores for end in (score.low, score.high)] or [0.0, 1.0]
        room = 0.03 * (max(ends) - min(ends))
        return min(ends) - room, max(ends) + room

    @cached_property
    def width(self) -> int:
        """How wide the table is on a page, about, in rem: where there is less room, each row is a card."""
        names = zip(self.columns, *(row.names for row in self.rows), strict=True)
        widths = [_LETTER * max(len(part) for name in column for part in pieces(name)) for column in names]
        score = _LETTER * (2 * self.digits + 8)  # "0.123 ±0.012"
        ends = _SMALL * (2 * self.digits + 10)  # "[-0.012, -0.001]"
        gains = any(metric in row.gains for row in self.rows for metric in self.metrics[1:])
        widths += [_LETTER * max(len(title), 6) for title in (*self.counts, *(["#"] if self.ranked else []))]
        widths += [score, _BAR, *([max(_LETTER * len(self.change), ends)] if self.change else [])]
        least = ends if gains else score
        widths += [max(least, *(_LETTER * len(part) for part in pieces(metric))) for metric in self.metrics[1:]]
        return round(sum(widths) + _PADDING * len(widths))

    def across(self, value: float) -> float:
        """Where ``value`` is on the axis, in percent."""
        low, high = self.axis
        return round(100 * (value - low) / ((high - low) or 1), 2)

    def number(self, value: float) -> str:
        """``value`` with the digits of this leaderboard; what rounds to zero has no minus."""
        return f"{round(value, self.digits) + 0.0:.{self.digits}f}"

    def half(self, score: Bounded) -> str:
        """Half of an interval."""
        return self.number((score.high - score.low) / 2)


def is_bound(metric: str) -> bool:
    """Whether ``metric`` is the floor or the ceiling of another, and no column."""
    return metric.endswith((FLOOR, CEILING))


def metrics_of(rows: Iterable[Row]) -> list[str]:
    """The metrics of all ``rows``, in their order."""
    return list(dict.fromkeys(metric for row in rows for metric in row.scores))


def text(board: Leaderboard, legend: Sequence[str], most: Collection[int] | None = None) -> str:
    """``board`` for the terminal, with ``legend`` below; only the rows at the places ``most``, or all."""
    change, header = board.change, [*([""] if board.ranked else []), *board.columns]
    table = [[*header, board.metric, *([change] if change else []), *board.metrics[1:], *board.counts]]
    for place, row in enumerate(board.rows):
        if most is None or place in most:
            first, *others = (_cell(board, row, metric) for metric in board.metrics)
            names = [*([str(place + 1)] if board.ranked else []), *row.names]
            counts = ["-" if count is None else f"{count:,}" for count in row.counts]
            table.append([*names, first, *([_change(board, row)] if change else []), *others, *counts])
    ends = [
        f"{metric}: a perfect ranking has {board.number(ceiling)}, one by chance {board.number(floor)}"
        for metric, (floor, ceiling) in board.bounds.items()
    ]
    return "\n".join([*aligned(table, texts=len(header)), *legend, *ends])


def score_table(scores: Sequence[ScoreRow]) -> str:
    """The scores of a run for the terminal, in their order."""
    by_domain = len({score.domain for score in scores}) > 1
    rows: dict[Names, Row] = {}
    for score in scores:
        if not is_bound(score.metric):
            names = score.backbone, score.head, *([score.domain] if by_domain else [])
            group, counts = (score.backbone, score.domain), (score.queries, score.gallery)
            rows.setdefault(names, Row(names, {}, group, counts)).scores[score.metric] = score
    columns = ["backbone", "head", *(["domain"] if by_domain else [])]
    shown, bounds = list(rows.values()), _overall_bounds(scores)
    board = Leaderboard(columns, metrics_of(shown), shown, ["queries", "gallery"], bounds=bounds)
    return text(board, ["± half of the 95 % interval over classes; * the best of its backbone"])


def table_by_metric(lines: Sequence[Mapping[str, Any]], columns: Mapping[str, str], counts: Sequence[str]) -> list[str]:
    """A row for each place, which the keys ``columns`` of the ``lines`` name by title, and a column for each metric.

    A score has both ends of its interval: they need not be as far from it. The ``counts`` come last.
    """

    def cell(value: Any) -> str:
        return value if isinstance(value, str) else f"{value:,.0f}"

    rows: dict[tuple[str, ...], dict[str, str]] = {}
    last: dict[tuple[str, ...], list[str]] = {}
    for line in lines:
        place = tuple(cell(line[key]) for key in columns.values())
        rows.setdefault(place, {})[line["metric"]] = f"{line['value']:.3f} [{line['low']:.3f}, {line['high']:.3f}]"
        last.setdefault(place, [cell(line[key]) for key in counts])
    metrics = list(dict.fromkeys(line["metric"] for line in lines))
    table = [[*columns, *metrics, *counts]]
    table += [[*place, *(scores.get(name, "-") for name in metrics), *last[place]] for place, scores in rows.items()]
    return aligned(table, texts=3)


def own_bounds(values: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Floor and ceiling of the metrics that have both among ``values``, which are by metric."""
    return {stem: (values[stem + FLOOR], values[stem + CEILING]) for stem in values if stem + CEILING in values}


def _overall_bounds(rows: Sequence[ScoreRow]) -> dict[str, tuple[float, float]]:
    """Floor and ceiling of each metric over all queries, by the first row that has them."""
    overall = [row for row in rows if row.domain == ALL]
    bounds = own_bounds({row.metric: row.value for row in reversed(overall)})
    for row in overall:
        if row.floor is not None and row.ceiling is not None:
            bounds.setdefault(row.metric, (row.floor, row.ceiling))
    return {row.metric: bounds[row.metric] for row in overall if row.metric in bounds}


def _cell(board: Leaderboard, row: Row, metric: str) -> str:
    score = row.scores.get(metric)
    if score is None:
        return "-"
    star = "*" if not board.ranked and board.is_best(row, metric) else " "
    return f"{board.number(score.value)} ±{board.half(score)}{star}"


def _change(board: Leaderboard, row: Row) -> str:
    change = board.change_of(row)
    if change is None:
        return "the best" if board.change == BEHIND and board.is_best(row) else "-"
    ends = f"[{board.number(change.low)}, {board.number(change.high)}]"
    return f"{board.number(change.value)} {ends}{' ~' if row.tied else ''}"
