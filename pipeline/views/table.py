"""What is shown of a table of several seeds: text, a page, a learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from pipeline.config import RAW
from pipeline.seed_grid import TableRow
from pipeline.views import charts
from pipeline.views.leaderboard import Interval, Leaderboard, Names, Row, is_bound, metrics_of, own_bounds, text
from pipeline.views.pages import render


def table_text(rows: Sequence[TableRow]) -> str:
    """A line for each backbone, head and number of training rows."""
    legend = ["± half of the 95 % interval over classes of the mean over seeds; * the best of its backbone"]
    return text(_leaderboard(rows), legend)


def table_page(name: str, rows: Sequence[TableRow], pictures: Mapping[str, str], left_out: Sequence[str] = ()) -> str:
    """The page without the heads of fewer rows; ``left_out`` says which points the curve lacks, and why."""
    most: dict[tuple[str, str], int] = {}
    for row in rows:
        most[row.backbone, row.head] = max(row.rows, most.get((row.backbone, row.head), 0))
    board = _leaderboard([row for row in rows if row.rows == most[row.backbone, row.head]])
    curve = learning_curve(rows, board.metric)
    return render("table.html", name=name, board=board, curve=curve, pictures=dict(pictures), left_out=left_out)


def learning_curve(rows: Sequence[TableRow], metric: str) -> Markup | None:
    """``metric`` by training rows on the first backbone; None where no head has more than one number of rows."""
    shown = [row for row in rows if row.backbone == rows[0].backbone and row.metric == metric]
    lines: list[charts.Line] = []
    for head in dict.fromkeys(row.head for row in shown if row.rows):
        curve = sorted((row for row in shown if row.head == head), key=lambda row: row.rows)
        if len(curve) > 1:
            points = [(row.rows, row.value) for row in curve]
            band = [(row.rows, row.low, row.high) for row in curve]
            lines.append(charts.Line(head, charts.look(len(lines)), points, band))
    if not lines:
        return None
    counts = sorted({at for line in lines for at, _ in line.points})
    raw = [row.value for row in shown if not row.rows][:1]
    lines += [charts.Line(RAW, RAW, [(counts[0], value), (counts[-1], value)]) for value in raw]
    label, across = f"{metric} by training images", "training images"
    return charts.line_chart(lines, label=label, across=across, ticks_at=counts, log=True, dots=True)


def _leaderboard(scores: Sequence[TableRow]) -> Leaderboard:
    rows: dict[Names, Row] = {}
    for score in scores:
        if not is_bound(score.metric):
            names = score.backbone, score.head, f"{score.rows:,}" if score.rows else "-"
            look = RAW if score.head == RAW else "c1"
            row = rows.setdefault(names, Row(names, {}, (score.backbone,), look=look))
            row.scores[score.metric] = Interval(score.value, score.low, score.high)
            if score.gain is not None and score.gain_low is not None and score.gain_high is not None:
                row.gains[score.metric] = Interval(score.gain, score.gain_low, score.gain_high)
    shown, bounds = list(rows.values()), own_bounds({score.metric: score.value for score in scores})
    return Leaderboard(("backbone", "head", "rows"), metrics_of(shown), shown, bounds=bounds)
