"""The page of a table: its numbers, the learning curve as a drawing, and pictures of what is found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

import jinja2

from stages.retrieval.attributes import CEILING, FLOOR

if TYPE_CHECKING:
    from pipeline.table import Line

_PAGE = "presets/table.html"
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 320, 52, 170, 14, 40
_COLOURS = ("#0b6e99", "#c1552d", "#4a8f3c", "#8a4fa3", "#a9841f", "#5d646b")
_APART = 16  # pixels between the names of two curves


class Curve(NamedTuple):
    """A head's scores by training rows, as points in the drawing; ``band`` is the outline of its interval."""

    name: str
    colour: str
    points: list[tuple[float, float]]
    band: str
    label: float


class Drawing(NamedTuple):
    """The learning curve of one metric: axes with their ticks, in pixels, and the curves."""

    metric: str
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]
    raw: float | None
    curves: list[Curve]


def page(name: str, metrics: Sequence[str], lines: Sequence[Line], pictures: Mapping[str, str]) -> str:
    """The page as HTML; ``pictures`` are files beside it, by backbone."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files("pipeline").joinpath(_PAGE).read_text(encoding="utf-8"))
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
    return template.render(
        name=name,
        metrics=list(metrics),
        cells=cells,
        bounds=bounds,
        drawing=draw(lines, metrics[0]),
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        right=_WIDTH - _RIGHT,
        top=_TOP,
        bottom=_HEIGHT - _BOTTOM,
        pictures=dict(pictures),
    )


def draw(lines: Sequence[Line], metric: str) -> Drawing | None:
    """The learning curve of the first backbone; None where no head has more than one number of rows."""
    first = lines[0].backbone
    of_metric = [line for line in lines if line.backbone == first and line.metric == metric]
    curves = {line.head: sorted(of for of in of_metric if of.head == line.head) for line in of_metric if line.rows}
    curves = {head: sorted(of, key=lambda line: line.rows) for head, of in curves.items() if len(of) > 1}
    if not curves:
        return None
    shown = [line for of in curves.values() for line in of]
    raw = next((line.value for line in of_metric if not line.rows), None)
    low = min([line.low for line in shown] + ([raw] if raw is not None else []))
    high = max([line.high for line in shown] + ([raw] if raw is not None else []))
    least, most = math.log(min(line.rows for line in shown)), math.log(max(line.rows for line in shown))

    def x(rows: int) -> float:
        return round(_LEFT + (math.log(rows) - least) / (most - least) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        return round(_HEIGHT - _BOTTOM - (value - low) / ((high - low) or 1) * (_HEIGHT - _TOP - _BOTTOM), 1)

    ends = _apart({head: y(of[-1].value) for head, of in curves.items()})
    drawn = [
        Curve(
            head,
            _COLOURS[at % len(_COLOURS)],
            [(x(line.rows), y(line.value)) for line in of],
            " ".join(
                [f"{x(line.rows)},{y(line.high)}" for line in of]
                + [f"{x(line.rows)},{y(line.low)}" for line in reversed(of)]
            ),
            ends[head],
        )
        for at, (head, of) in enumerate(curves.items())
    ]
    across = [(x(rows), f"{rows:,}") for rows in sorted({line.rows for line in shown})]
    up = [(y(value), f"{value:.2f}") for value in _ticks(low, high)]
    return Drawing(metric, across, up, None if raw is None else y(raw), drawn)


def _of(lines: Sequence[Line], metric: str) -> float:
    return next(line.value for line in lines if line.metric == metric)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to ``high``, about five."""
    rough = (high - low or 1) / 5
    step = 10 ** math.floor(math.log10(rough))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= rough)
    return [round(at * step, 10) for at in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _apart(ends: Mapping[str, float]) -> dict[str, float]:
    """Where the name of each curve stands: at its end, or as far below the one above as names need."""
    placed: dict[str, float] = {}
    last = -math.inf
    for head, end in sorted(ends.items(), key=lambda of: of[1]):
        last = max(end, last + _APART)
        placed[head] = last
    return placed
