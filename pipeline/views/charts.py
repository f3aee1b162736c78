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
from collections.abc import Mapping, Sequence
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
    show: Sequence[float] = (),
) -> Markup:
    """``lines`` over one another, the last on top, each that has a name named at its end; ``across`` says what x is.

    The y axis spans the lines, their bands and the values ``show``.
    """
    shown = [point for line in lines for point in line.points]
    ends = [y for line in lines for _, *low_high in line.band for y in low_high]
    xs, ys = [x for x, _ in shown], [y for _, y in shown] + ends + [*show]
    longest = max(len(_cut(line.name)) for line in lines)
    right = WIDTH - 10 - longest * _LETTER
    x = Scale(min(xs), max(xs), 40, right, log)
    y = Scale(*_widened(min(ys), max(ys)), height - 34, 8)
    at = list(ticks_at) if ticks_at is not None else ticks(min(xs), max(xs))
    at = [value for value in at if min(xs) <= value <= max(xs)]
    drawn = [_frame(x, y, at, across, height)]
    for line in lines:
        if line.band:
            outline = [f"{x(k)},{y(high)}" for k, _, high in line.band]
            outline += [f"{x(k)},{y(low)}" for k, low, _ in reversed(line.band)]
            drawn.append(Markup('<polygon class="band {}" points="{}"/>').format(line.look, " ".join(outline)))
    for line in lines:
        points = " ".join(f"{x(at)},{y(value)}" for at, value in line.points)
        if len(line.points) > 1:
            drawn.append(Markup('<polyline class="line {}" points="{}"/>').format(line.look, points))
        if dots or len(line.points) == 1:
            drawn += [
                Markup('<circle class="dot {}" cx="{}" cy="{}" r="2.5"/>').format(line.look, x(at), y(value))
                for at, value in line.points
            ]
    named = [line for line in lines if line.name]
    places = apart([y(line.points[-1][1]) for line in named], _LINE, 10, height - 34)
    drawn += [
        Markup('<text class="name {}" x="{}" y="{}">{}</text>').format(line.look, right + 6, place + 4, _cut(line.name))
        for line, place in zip(named, places, strict=True)
    ]
    return _svg(label, height, drawn)


def interval_chart(rows: Sequence[Bar], *, label: str, low: float, high: float) -> Markup:
    """A line for each of ``rows``: its name, its interval as a bar with the value on it, and the value in digits."""
    x = Scale(low, high, 12 + max(len(_cut(row.name)) for row in rows) * _LETTER, WIDTH - 40)
    height = 20 + len(rows) * 18
    drawn = []
    for tick in ticks(low, high):
        drawn.append(
            Markup('<line class="grid" x1="{0}" y1="2" x2="{0}" y2="{1}"/>').format(x(tick), height - 18)
            + _text(x(tick), height - 4, f"{tick:g}", "middle")
        )
    for at, row in enumerate(rows):
        y = 11 + at * 18
        drawn.append(
            Markup('<text class="name {}" x="{}" y="{}" text-anchor="end">{}</text>').format(
                row.look, x.start - 8, y + 4, _cut(row.name)
            )
            + Markup('<rect class="bar {}" x="{}" y="{}" width="{}" height="8" rx="2"/>').format(
                row.look, x(row.low), y - 4, round(max(1.0, x(row.high) - x(row.low)), 1)
            )
            + Markup('<circle class="dot {}" cx="{}" cy="{}" r="3.5"/>').format(row.look, x(row.value), y)
            + _text(WIDTH, y + 4, f"{row.value:.3f}", "end")
        )
    return _svg(label, height, drawn)


def histogram(
    groups: Mapping[str, Sequence[float]],
    *,
    label: str,
    across: str,
    low: float,
    high: float,
    mark: tuple[float, str] | None = None,
    height: int = 190,
) -> Markup:
    """The share of each bin from ``low`` to ``high``, a group over the other: ``c1`` and ``c2``; ``mark`` is a line."""
    highest = max(share for shares in groups.values() for share in shares) or 1.0
    x, y = Scale(low, high, 40, WIDTH - 8), Scale(0, highest, height - 34, 8)
    drawn = [_frame(x, y, ticks(low, high), across, height, percent=True)]
    for number, shares in enumerate(groups.values(), 1):
        step = (high - low) / len(shares)
        corners = [(low, 0.0)]
        for at, share in enumerate(shares):
            corners += [(low + at * step, share), (low + (at + 1) * step, share)]
        outline = " ".join(f"{x(at)},{y(share)}" for at, share in [*corners, (high, 0.0)])
        drawn.append(Markup('<polygon class="area c{}" points="{}"/>').format(number, outline))
    if mark is not None:
        value, title = mark
        left = x(value) > WIDTH / 2
        drawn.append(
            Markup('<line class="mark" x1="{0}" y1="8" x2="{0}" y2="{1}"/>').format(x(value), height - 34)
            + _text(x(value) + (-5 if left else 5), 18, title, "end" if left else "start")
        )
    return _svg(label, height, drawn)


def cloud(points: Sequence[Point], *, label: str, height: int = WIDTH) -> Markup:
    """``points`` as dots with their titles."""
    x, y = Scale(0, 1, 8, WIDTH - 8), Scale(0, 1, height - 8, 8)
    drawn = [
        Markup('<circle class="dot {}" cx="{}" cy="{}" r="2.6" data-at="{}"><title>{}</title></circle>').format(
            point.look, x(point.x), y(point.y), point.at, point.title
        )
        for point in points
    ]
    return _svg(label, height, drawn, "chart cloud")


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers from ``low`` to ``high``, about so many."""
    rough = ((high - low) or 1) / about
    step: float = 10.0 ** math.floor(math.log10(rough))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(at * step, 10) for at in range(first, last + 1)]


def apart(ends: Sequence[float], gap: float, least: float = 0.0, most: float = math.inf) -> list[float]:
    """Where the name of each of ``ends`` stands: there, or moved so that no two are nearer than ``gap``.

    All stay between ``least`` and ``most`` as far as there is room; the order from top to bottom is that of the ends.
    """
    order = sorted(range(len(ends)), key=lambda at: ends[at])
    placed: list[float] = []
    for at in order:
        placed.append(max(ends[at], placed[-1] + gap if placed else least))
    room = most
    for at in reversed(range(len(placed))):  # those pushed past the bottom move up again
        placed[at] = min(placed[at], room)
        room = placed[at] - gap
    places = [0.0] * len(ends)
    for at, place in zip(order, placed, strict=True):
        places[at] = round(place, 1)
    return places


def look(rank: int) -> str:
    """The class of what is at ``rank`` from 0: a colour of its own, or that of the rest."""
    return f"c{rank + 1}" if rank < COLOURS else "rest"


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _widened(low: float, high: float) -> tuple[float, float]:
    room = 0.04 * (high - low) or 0.5
    return low - room, high + room


def _frame(x: Scale, y: Scale, at: Sequence[float], across: str, height: int, *, percent: bool = False) -> Markup:
    """Lines and numbers of both axes."""
    drawn = Markup("")
    for value in ticks(y.low, y.high):
        drawn += Markup('<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
            x.start, y(value), x.end, y(value)
        )
        drawn += _text(x.start - 6, y(value) + 4, f"{value:.3g}" if not percent else f"{100 * value:.3g} %", "end")
    for value in at:
        drawn += _text(x(value), height - 18, f"{value:,g}" if value < 1e6 else f"{value:.3g}", "middle")
    drawn += _text((x.start + x.end) / 2, height - 4, across, "middle")
    return drawn


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(round(x, 1), round(y, 1), anchor, text)


def _svg(label: str, height: int, drawn: Sequence[Markup], kind: str = "chart") -> Markup:
    return (
        Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(kind, WIDTH, height, label)
        + Markup("").join(drawn)
        + Markup("</svg>")
    )
