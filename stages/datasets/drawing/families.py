"""The families of made-up products: each draws the outlines of one kind of thing, in proportions of its own.

A family is a function from ``u(low, high)``, a uniform draw, to its parts, back to front.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Uniform = Callable[[float, float], float]
Point = tuple[float, float]
Outline = npt.NDArray[np.float64]
"""Points (P, 2) in a unit square, x to the right and y downwards."""

Paint = Literal["main", "second", "dark", "pale"]


class Part(NamedTuple):
    """One painted outline."""

    paint: Paint
    outline: Outline
    stroke: float = 0.0
    """Width of a line along the outline; 0 fills it."""
    inside: bool = False
    """Keep only what lies on the parts painted "main" before it."""


def _bag(u: Uniform) -> list[Part]:
    half, mouth, top, rise = u(0.26, 0.36), u(0.62, 1.05), u(0.38, 0.5), u(0.14, 0.34)
    grip, flap = half * u(0.4, 0.75), u(0.06, 0.3)
    handle = _both((0.0, top - rise), (grip * 0.8, top - rise * 0.8), (grip, top + 0.06))
    sack = _both((0.0, top - 0.01), (half * mouth, top), (half, 0.8), (half * 0.9, 0.9), (0.0, 0.91))
    front = _both((0.5, top - 0.1), (0.4, top + flap * 0.6), (0.0, top + flap))
    return [
        Part("second", _curve(*handle), stroke=u(0.025, 0.05)),
        Part("main", _curve(*sack)),
        Part("second", _curve(*front), inside=True),
        Part("pale", _disc(0.5, top + flap, u(0.018, 0.045))),
    ]


def _bottle(u: Uniform) -> list[Part]:
    half, neck, shoulder, top = u(0.13, 0.22), u(0.04, 0.075), u(0.36, 0.55), u(0.08, 0.18)
    waist, low = half * u(0.8, 1.08), u(0.64, 0.72)
    side = ((neck, top), (neck, shoulder - 0.14), (half, shoulder), (waist, 0.7), (half, 0.9), (half * 0.86, 0.95))
    return [
        Part("main", _lathe(*side)),
        Part("second", _slab(0, low, 1, low + u(0.08, 0.2)), inside=True),
        Part("second", _slab(0.5 - neck * 1.3, top - 0.07, 0.5 + neck * 1.3, top + u(0, 0.06), 0.012)),
    ]


def _box(u: Uniform) -> list[Part]:
    left, top, right, deep, rise = u(0.1, 0.2), u(0.25, 0.42), u(0.62, 0.75), u(0.1, 0.25), u(0.06, 0.16)
    tape = u(0.08, 0.2)
    start, end = (left + right - tape) / 2, (left + right + tape) / 2
    back = top - rise
    return [
        Part("second", _straight((right, top), (right + deep, back), (right + deep, 0.88 - rise), (right, 0.88))),
        Part("pale", _straight((left, top), (left + deep, back), (right + deep, back), (right, top))),
        Part("main", _straight((left, top), (right, top), (right, 0.88), (left, 0.88))),
        Part("second", _straight((start, top), (start + deep, back), (end + deep, back), (end, top))),
        Part("second", _slab(start, 0, end, top + u(0.06, 0.2)), inside=True),
    ]


def _cap(u: Uniform) -> list[Part]:
    crown, left, peak, brim = u(0.22, 0.38), u(0.1, 0.18), u(0.38, 0.5), u(0.18, 0.32)
    base = 0.66
    top = base - crown
    back = ((0.4, base + 0.03), (left, base), (left + 0.03, base - crown * 0.7), (peak, top))
    visor = ((0.62, base + 0.05), (0.5, base - 0.03), (0.72, base - 0.04), (0.74 + brim, base + 0.07))
    return [
        Part("main", _curve(*back, (0.68, base - crown * 0.62), (0.72, base))),
        Part("dark", _straight((peak, top), (peak + 0.09, base - crown * 0.5), (peak + 0.1, base)), 0.008, inside=True),
        Part("second", _slab(0, base - u(0.03, 0.09), 1, base + 0.1), inside=True),
        Part("second", _curve(*visor, (0.7 + brim * 0.8, base + 0.11))),
        Part("second", _disc(peak, top, u(0.015, 0.035), 0.018)),
    ]


def _chair(u: Uniform) -> list[Part]:
    half, top, seat, splay, thick = u(0.18, 0.26), u(0.06, 0.2), u(0.5, 0.6), u(0.0, 0.08), u(0.022, 0.05)
    legs = [
        Part("second", _straight((0.5 + side * half * 0.9, seat), (0.5 + side * (half + splay), foot)), thick)
        for side, foot in ((-0.86, 0.86), (0.86, 0.86), (-1.1, 0.95), (1.1, 0.95))
    ]
    posts = [
        Part("second", _straight((0.5 + side * half, top + 0.05), (0.5 + side * half, seat)), thick)
        for side in (-0.8, 0.8)
    ]
    return [
        *legs,
        *posts,
        Part("main", _slab(0.5 - half, top, 0.5 + half, u(0.34, 0.48), u(0.01, 0.12))),
        Part("main", _straight(*_both((half, seat - 0.04), (half * 1.25, seat + 0.06)))),
        Part("second", _slab(0.5 - half * 1.25, seat + 0.06, 0.5 + half * 1.25, seat + u(0.08, 0.14), 0.01)),
    ]


def _guitar(u: Uniform) -> list[Part]:
    upper, waist, lower, hole = u(0.12, 0.17), u(0.08, 0.12), u(0.17, 0.24), u(0.04, 0.065)
    cut, head = u(0.46, 0.54), u(0.04, 0.07)
    side = ((0.03, cut), (upper, cut + 0.06), (waist, 0.66), (lower, 0.82), (lower * 0.7, 0.94), (0.02, 0.96))
    strings = [Part("pale", _straight((x, 0.1), (x, 0.81)), 0.006) for x in (0.49, 0.51)]
    return [
        Part("main", _lathe(*side)),
        Part("dark", _disc(0.5, u(0.62, 0.68), hole)),
        Part("second", _slab(0.47, 0.14, 0.53, 0.62)),
        Part("second", _slab(0.5 - head, 0.03, 0.5 + head, 0.16, 0.02)),
        Part("dark", _slab(0.5 - lower * 0.45, 0.8, 0.5 + lower * 0.45, 0.825)),
        *strings,
    ]


def _lamp(u: Uniform) -> list[Part]:
    crown, brim, bottom, lean = u(0.08, 0.2), u(0.24, 0.36), u(0.38, 0.52), u(-0.06, 0.06)
    knob, foot = u(0.02, 0.12), u(0.13, 0.24)
    left, right = 0.5 + lean - crown, 0.5 + lean + crown
    return [
        Part("second", _disc(0.5, 0.92, foot, foot * 0.22)),
        Part("dark", _straight((0.5, 0.4), (0.5, 0.92)), u(0.018, 0.04)),
        Part("second", _disc(0.5, u(0.64, 0.76), knob, knob * u(0.8, 1.4))),
        Part("main", _straight((left, 0.1), (right, 0.1), (0.5 + brim, bottom), (0.5 - brim, bottom))),
        Part("pale", _disc(0.5, bottom, brim, brim * 0.1)),
    ]


def _mug(u: Uniform) -> list[Part]:
    half, foot, top = u(0.2, 0.29), u(0.7, 1.05), u(0.22, 0.36)
    reach, drop, x = u(0.12, 0.22), u(0.26, 0.42), 0.5 + half * 0.9
    loop = ((x, top + 0.1), (x + reach, top + 0.11), (x + reach * 0.9, top + drop), (x - 0.04, top + drop + 0.06))
    side = ((half, top), (half * (1 + foot) / 2, 0.6), (half * foot, 0.82), (half * foot * 0.8, 0.87))
    return [
        Part("second", _curve(*loop, closed=False), stroke=u(0.04, 0.075)),
        Part("main", _lathe(*side)),
        Part("pale", _disc(0.5, top, half, half * 0.24)),
        Part("dark", _disc(0.5, top + 0.006, half * 0.9, half * 0.19)),
    ]


def _shirt(u: Uniform) -> list[Part]:
    half, sleeve, hem, neck, dip = u(0.18, 0.24), u(0.12, 0.3), u(0.75, 0.92), u(0.07, 0.1), u(0.04, 0.14)
    x, y = half + sleeve * 0.62, 0.24 + sleeve
    cuff = ((x + 0.05, y - 0.03), (x - 0.04, y + 0.05))
    collar = _curve(
        *((0.5 + s * neck, 0.13 + d * dip) for s, d in ((-1, 0), (-0.5, 1), (0, 1.3), (0.5, 1), (1, 0))), closed=False
    )
    buttons = [Part("pale", _straight((0.5, 0.16 + dip), (0.5, hem)), 0.012)]
    return [
        Part("main", _straight(*_both((neck, 0.13), (half, 0.17), *cuff, (half - 0.01, 0.36), (half, hem)))),
        Part("dark", collar),
        Part("second", collar, stroke=u(0.02, 0.04)),
        *(Part("second", _straight(*((0.5 + s * a, b) for a, b in cuff)), u(0.03, 0.06), inside=True) for s in (-1, 1)),
        *(buttons if u(0, 1) < 0.4 else []),
    ]


def _shoe(u: Uniform) -> list[Part]:
    ankle, toe, heel, sole = u(0.18, 0.5), u(0.1, 0.2), u(0.0, 0.07), u(0.04, 0.09)
    back, base = 0.14, 0.72
    cuff = ((back - 0.01, base - ankle * 0.6), (back + 0.02, base - ankle), (0.38, base - ankle))
    tip = ((0.46, base - max(ankle * 0.75, toe + 0.04)), (0.68, base - toe), (0.88, base - toe * 0.55), (0.92, base))
    counter = ((back - 0.1, base - 0.04), (back + 0.06, base - ankle * 0.5), (back + 0.16, base), (back, base + 0.1))
    guard = ((0.76, base - 0.3), (0.72, base - 0.06), (0.78, base + 0.06), (1.0, base), (1.0, base - 0.2))
    tread = ((back - 0.03, base - 0.02), (0.5, base - 0.015), (0.95, base - 0.03), (0.94, base + sole))
    block = ((0.45, base + sole), (0.36, base + sole + heel), (back, base + sole + heel))
    lace = _straight((0.41, base - ankle * 0.8), (0.5, base - ankle * 0.62))
    return [
        Part("main", _curve((back, base), *cuff, *tip)),
        Part("second", _curve(*counter), inside=True),
        Part("second", _curve(*guard), inside=True),
        Part("pale", _curve(*tread, *block)),
        *(Part("pale", lace + k * np.array([0.07, 0.05]), 0.018, inside=True) for k in range(3)),
    ]


def _vase(u: Uniform) -> list[Part]:
    mouth, neck, belly, foot = u(0.07, 0.2), u(0.05, 0.13), u(0.17, 0.32), u(0.08, 0.18)
    high, low, band = u(0.26, 0.36), u(0.5, 0.72), u(0.4, 0.7)
    return [
        Part("main", _lathe((mouth, 0.1), (neck, high), (belly, low), (foot, 0.88), (foot * 1.12, 0.93))),
        Part("second", _slab(0, band, 1, band + u(0.03, 0.12)), inside=True),
        Part("dark", _disc(0.5, 0.1, mouth, mouth * 0.22)),
    ]


def _watch(u: Uniform) -> list[Part]:
    strap, case, square = u(0.07, 0.13), u(0.15, 0.22), u(0, 1) < 0.4
    hands = [(length * case, u(0, 2 * math.pi), width) for length, width in ((0.4, 0.022), (0.6, 0.014))]

    def dial(r: float) -> Outline:
        return _slab(0.5 - r, 0.5 - r, 0.5 + r, 0.5 + r, 0.05) if square else _disc(0.5, 0.5, r)

    return [
        Part("main", _lathe((strap * 0.8, 0.06), (strap, 0.3), (strap, 0.7), (strap * 0.75, 0.94))),
        Part("dark", _slab(0.5 + case, 0.48, 0.5 + case + u(0.02, 0.05), 0.52, 0.008)),
        Part("second", dial(case)),
        Part("pale" if u(0, 1) < 0.6 else "dark", dial(case * u(0.72, 0.86))),
        *(
            Part("second", _straight((0.5, 0.5), (0.5 + long * math.cos(turn), 0.5 + long * math.sin(turn))), width)
            for long, turn, width in hands
        ),
    ]


FAMILIES: dict[str, Callable[[Uniform], list[Part]]] = {
    "bag": _bag,
    "bottle": _bottle,
    "box": _box,
    "cap": _cap,
    "chair": _chair,
    "guitar": _guitar,
    "lamp": _lamp,
    "mug": _mug,
    "shirt": _shirt,
    "shoe": _shoe,
    "vase": _vase,
    "watch": _watch,
}


def _straight(*points: Point) -> Outline:
    return np.array(points, dtype=np.float64)


def _curve(*points: Point, closed: bool = True) -> Outline:
    """The Catmull-Rom spline through ``points``, eight points for each."""
    knots = _straight(*points)
    before, after = (knots[-1:], knots[:2]) if closed else (knots[:1], knots[-1:])
    ring = np.concatenate([before, knots, after])
    t = np.linspace(0, 1, 9)[None, :-1, None]
    a, b, c, d = (ring[k : len(ring) - 3 + k, None] for k in range(4))
    bend = 2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    path: Outline = (bend / 2).reshape(-1, 2)
    return path if closed else np.concatenate([path, knots[-1:]])


def _both(*right: Point) -> list[Point]:
    """A symmetric shape from its right side, top to bottom, x counted from the middle; a point on the axis once."""
    left = [(0.5 - x, y) for x, y in reversed(right) if x > 0]
    return [(0.5 + x, y) for x, y in right] + left


def _lathe(*side: Point) -> Outline:
    """A turned body from its side, ((half width, y), ...) from top to bottom."""
    right = _curve(*side, closed=False)
    left = right[::-1] * np.array([-1.0, 1.0])
    outline: Outline = np.concatenate([right, left]) + np.array([0.5, 0.0])
    return outline


def _disc(x: float, y: float, rx: float, ry: float | None = None) -> Outline:
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.stack([x + rx * np.cos(turn), y + (rx if ry is None else ry) * np.sin(turn)], axis=1)


def _slab(left: float, top: float, right: float, bottom: float, corner: float = 0.004) -> Outline:
    """A rectangle whose corners are rounded with radius ``corner``."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False) + np.pi / 24
    x = np.where(np.cos(turn) > 0, right - corner, left + corner) + corner * np.cos(turn)
    y = np.where(np.sin(turn) > 0, bottom - corner, top + corner) + corner * np.sin(turn)
    return np.stack([x, y], axis=1)
