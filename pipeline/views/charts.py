"""Charts as inline SVG: lines, intervals, histograms and clouds of points.

No plotting library: one that writes SVG without scripts fixes its colours (leather, matplotlib) or brings a stylesheet
and links of its own (pygal), writes three to six times the bytes, and has no bands, names at the ends of curves, or
labels for those who do not see.

Every chart is drawn for a column 400 units wide, so that its writing stays readable on a telephone, and takes its
colours from the page's stylesheet (classes ``c1`` to ``c7``, ``raw`` and ``rest``), so that it follows a dark page and
paper. Each has a label that says what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

COLOURS = 7
"""Of the classes ``c1`` to ``c7``; people who do not see some colours can tell these apart."""

WIDTH = 400
_LINE = 13  # from one line of writing to the next
_LETTER = 6.1  # the width of a letter, about
_LONGEST = 24  # letters of a name; more are cut


class Scale(NamedTuple):
    """From values to pixels. ``log`` makes equal factors equally far."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of ``value``."""
        low, high, at = map(math.log, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return round(self.start + (at - low) / ((high - low) or 1) * (self.end - self.start), 1)


@dataclass(frozen=True)
class Line:
    """A curve: its name, its class, its points (x, y), and where it is known the interval (x, low, high) of each."""

    name: str
    look: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()


class Bar(NamedTuple):
    """A value between the ends of its interval, with the class that colours it."""

    name: str
    value: float
    low: float
    high: float
    look: str = "c1"


class Point(NamedTuple):
    """A point of a cloud; ``x`` and ``y`` in [0, 1], ``look`` its class, ``title`` its text under the pointer."""

    x: float
    y: float
    look: str
    title: str
    at: int


def line_chart(
    lines: Sequence[Line],
    *,
    label: str,
    across: str,
    ticks_at: Sequence[float] | None = None,
    log: bool = False,
    height: int = 230,
    dots: bool = False,
) -> Markup:
    """``lines`` over one another, the last on top, each that has a name named at its end; ``across`` says what x is."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + [y for line in lines for _, *ends in line.band for y in ends]
    right = WIDTH - 10 - max(len(_cut(line.name)) for line in lines) * _LETTER
    room = 0.04 * (max(ys) - min(ys)) or 0.5
    x, y = Scale(min(xs), max(xs), 40, right, log), Scale(min(ys) - room, max(ys) + room, height - 34, 8)
    at = ticks(min(xs), max(xs)) if ticks_at is None else ticks_at
    drawn = [_frame(x, y, [value for value in at if min(xs) <= value <= max(xs)], across, height)]
    for line in lines:
        outline = [(k, high) for k, _, high in line.band] + [(k, low) for k, low, _ in reversed(line.band)]
        if outline:
            drawn.append(_tag("polygon", class_=f"band {line.look}", points=_points(outline, x, y)))
    for line in lines:
        if len(line.points) > 1:
            drawn.append(_tag("polyline", class_=f"line {line.look}", points=_points(line.points, x, y)))
        if dots or len(line.points) == 1:
            drawn += [_dot(line.look, x(k), y(value), 2.5) for k, value in line.points]
    named = [line for line in lines if line.name]
    places = apart([y(line.points[-1][1]) for line in named], _LINE, 10, height - 34)
    for line, place in zip(named, places, strict=True):
        drawn.append(_tag("text", _cut(line.name), class_=f"name {line.look}", x=right + 6, y=place + 4))
    return _svg(label, height, drawn)


def interval_chart(rows: Sequence[Bar], *, label: str, low: float, high: float) -> Markup:
    """A line for each of ``rows``: its name, its interval as a bar with the value on it, and the value in digits."""
    x = Scale(low, high, 12 + max(len(_cut(row.name)) for row in rows) * _LETTER, WIDTH - 40)
    height = 20 + len(rows) * 18
    drawn = []
    for tick in ticks(low, high):
        drawn.append(_tag("line", class_="grid", x1=x(tick), y1=2, x2=x(tick), y2=height - 18))
        drawn.append(_text(x(tick), height - 4, f"{tick:g}", "middle"))
    for at, row in enumerate(rows):
        y, width = 11 + at * 18, round(max(1.0, x(row.high) - x(row.low)), 1)
        drawn += [
            _tag("text", _cut(row.name), class_=f"name {row.look}", x=x.start - 8, y=y + 4, text_anchor="end"),
            _tag("rect", class_=f"bar {row.look}", x=x(row.low), y=y - 4, width=width, height=8, rx=2),
            _dot(row.look, x(row.value), y, 3.5),
            _text(WIDTH, y + 4, f"{row.value:.3f}", "end"),
        ]
    return _svg(label, height, drawn)


def histogram(
    groups: Sequence[Sequence[float]],
    *,
    label: str,
    across: str,
    low: float,
    high: float,
    mark: tuple[float, str] | None = None,
) -> Markup:
    """The share of each bin from ``low`` to ``high``, a group over the other: ``c1`` and ``c2``; ``mark`` is a line."""
    height = 190
    x = Scale(low, high, 40, WIDTH - 8)
    y = Scale(0, max(share for shares in groups for share in shares) or 1.0, height - 34, 8)
    drawn = [_frame(x, y, ticks(low, high), across, height, percent=True)]
    for number, shares in enumerate(groups, 1):
        step = (high - low) / len(shares)
        steps = [(low + (at + end) * step, share) for at, share in enumerate(shares) for end in (0, 1)]
        outline = _points([(low, 0.0), *steps, (high, 0.0)], x, y)
        drawn.append(_tag("polygon", class_=f"area c{number}", points=outline))
    if mark is not None:
        value, title = mark
        aside, anchor = (-5, "end") if x(value) > WIDTH / 2 else (5, "start")
        drawn.append(_tag("line", class_="mark", x1=x(value), y1=8, x2=x(value), y2=height - 34))
        drawn.append(_text(x(value) + aside, 18, title, anchor))
    return _svg(label, height, drawn)


def cloud(points: Sequence[Point], *, label: str) -> Markup:
    """``points`` as dots with their titles, in a square."""
    x, y = Scale(0, 1, 8, WIDTH - 8), Scale(0, 1, WIDTH - 8, 8)
    drawn = [
        _tag("circle", _tag("title", point.title), class_=f"dot {point.look}", cx=x(point.x), cy=y(point.y), r=2.6,
             data_at=point.at)
        for point in points
    ]  # fmt: skip
    return _svg(label, WIDTH, drawn, "chart cloud")


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to ``high``, about six."""
    rough = ((high - low) or 1) / 6
    step: float = 10.0 ** math.floor(math.log10(rough))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(at * step, 10) for at in range(first, last + 1)]


def apart(ends: Sequence[float], gap: float, least: float = 0.0, most: float = math.inf) -> list[float]:
    """Where the name of each of ``ends`` stands: there, or moved so that no two are nearer than ``gap``.

    All stay between ``least`` and ``most`` as far as there is room; the order from top to bottom is that of the ends.
    """
    order = sorted(range(len(ends)), key=lambda at: ends[at])
    places, above, room = [0.0] * len(ends), least - gap, most
    for at in order:
        places[at] = above = max(ends[at], above + gap)
    for at in reversed(order):  # those pushed past the bottom move up again
        places[at] = min(places[at], room)
        room = places[at] - gap
    return [round(place, 1) for place in places]


def look(rank: int) -> str:
    """The class of what is at ``rank`` from 0: a colour of its own, or that of the rest."""
    return f"c{rank + 1}" if rank < COLOURS else "rest"


def _cut(name: str) -> str:
    """``name`` without its middle where it is too long: names that begin alike end differently."""
    half = (_LONGEST - 1) // 2
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1 - half]}…{name[-half:]}"


def _frame(x: Scale, y: Scale, at: Sequence[float], across: str, height: int, *, percent: bool = False) -> Markup:
    drawn = Markup("")
    for value in ticks(y.low, y.high):
        drawn += _tag("line", class_="grid", x1=x.start, y1=y(value), x2=x.end, y2=y(value))
        drawn += _text(x.start - 6, y(value) + 4, f"{100 * value:g} %" if percent else f"{value:g}", "end")
    for value in at:
        drawn += _text(
            x(value),
            height - 18,
            f"{value:,g}" if value < 1e6 and float(value).is_integer() else f"{value:.3g}",
            "middle",
        )
    return drawn + _text((x.start + x.end) / 2, height - 4, across, "middle")


def _points(points: Iterable[tuple[float, float]], x: Scale, y: Scale) -> str:
    return " ".join(f"{x(across)},{y(up)}" for across, up in points)


def _dot(look: str, x: float, y: float, radius: float) -> Markup:
    return _tag("circle", class_=f"dot {look}", cx=x, cy=y, r=radius)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return _tag("text", text, x=round(x, 1), y=round(y, 1), text_anchor=anchor)


def _svg(label: str, height: int, drawn: Sequence[Markup], kind: str = "chart") -> Markup:
    inside = Markup("").join(drawn)
    return _tag("svg", inside, class_=kind, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=label)


def _tag(name: str, inside: str = "", **attributes: object) -> Markup:
    """An element; text ``inside`` and attributes are escaped. ``text_anchor`` is text-anchor, ``class_`` is class."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, inside)
