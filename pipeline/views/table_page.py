"""The page of a table: its numbers, the learning curve as a drawing, and pictures of what is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.views import charts
from pipeline.views.pages import render
from stages.retrieval.attributes import CEILING, FLOOR

if TYPE_CHECKING:
    from pipeline.commands.table import Line


def page(name: str, metrics: Sequence[str], lines: Sequence[Line], pictures: Mapping[str, str]) -> str:
    """The page as HTML; ``pictures`` are files beside it, by backbone."""
    most = max(line.rows for line in lines)
    cells: dict[tuple[str, str], dict[str, Line]] = {}
    for line in lines:
        if line.rows in (0, most):
            cells.setdefault((line.backbone, line.head), {})[line.metric] = line
    bounds = [
        (metric, _of(lines, metric + CEILING), _of(lines, metric + FLOOR))
        for metric in metrics
        if any(line.metric == metric + CEILING for line in lines)
    ]
    return render(
        "table.html",
        name=name,
        metrics=list(metrics),
        cells=cells,
        bounds=bounds,
        drawing=draw(lines, metrics[0]),
        pictures=dict(pictures),
    )


def draw(lines: Sequence[Line], metric: str) -> Markup | None:
    """The learning curve of the first backbone; None where no head has more than one number of rows."""
    first = lines[0].backbone
    of_metric = [line for line in lines if line.backbone == first and line.metric == metric]
    heads = dict.fromkeys(line.head for line in of_metric if line.rows)
    found = {head: sorted((of.rows, of.value, of) for of in of_metric if of.head == head) for head in heads}
    curves = [
        charts.Line(
            head,
            charts.look(at),
            [(rows, value) for rows, value, _ in of],
            [(rows, line.low, line.high) for rows, _, line in of],
        )
        for at, (head, of) in enumerate((head, of) for head, of in found.items() if len(of) > 1)
    ]
    if not curves:
        return None
    rows = sorted({at for curve in curves for at, _ in curve.points})
    raw = [line.value for line in of_metric if not line.rows][:1]
    curves += [charts.Line("raw", "raw", [(rows[0], value), (rows[-1], value)]) for value in raw]
    return charts.line_chart(
        curves, label=f"{metric} by training images", across="training images", ticks_at=rows, log=True, dots=True
    )


def _of(lines: Sequence[Line], metric: str) -> float:
    return next(line.value for line in lines if line.metric == metric)
