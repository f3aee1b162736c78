"""The outlines of made-up products, in percent of a square, y downwards."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Outline = npt.NDArray[np.float64]


class Part(NamedTuple):
    """One painted outline."""

    family: str
    paint: str  # main or second, the product's two colours, or dark or pale
    outline: Outline  # (P, 2)
    stroke: float = 0  # the width of a line along the outline; 0 fills it
    inside: bool = False  # shows only on the parts painted main before it
    optional: bool = False  # half of the products lack it


def _line(*numbers: float) -> Outline:
    return np.reshape(np.array(numbers, dtype=np.float64), (-1, 2))


def _both(*right: float) -> Outline:
    """A symmetric outline from its right side, top to bottom, x counted from the middle."""
    return np.asarray(np.concatenate([_line(*right), _line(*right)[::-1] * (-1, 1)]) + np.array((50, 0)))


def _curve(knots: Outline) -> Outline:
    """The closed Catmull-Rom spline through ``knots`` (K, 2), eight points for each."""
    t = np.linspace(0, 1, 8, endpoint=False)[:, None]
    a, b, c, d = (np.roll(knots, shift, axis=0)[:, None] for shift in (1, 0, -1, -2))
    bend = 2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    return np.asarray(bend / 2).reshape(-1, 2)


def _disc(x: float, y: float, across: float, down: float) -> Outline:
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.stack([x + across * np.cos(turn), y + down * np.sin(turn)], axis=1)


_PARTS = [
    Part("bag", "second", _curve(_both(0, 20, 14, 25, 18, 50)), 4),
    Part("bag", "main", _curve(_both(0, 43, 25, 44, 31, 80, 28, 90, 0, 91))),
    Part("bag", "second", _both(25, 43, 27, 54, 0, 62), inside=True, optional=True),
    Part("bag", "pale", _disc(50, 60, 3, 3)),
    Part("bottle", "main", _curve(_both(5, 13, 5, 30, 17, 45, 16.5, 70, 12, 94))),
    Part("bottle", "second", _both(18, 64, 18, 80), inside=True, optional=True),
    Part("bottle", "second", _curve(_both(7, 6, 7, 16))),
    Part("box", "second", _line(68, 33, 85, 22, 85, 77, 68, 88)),
    Part("box", "pale", _line(15, 33, 32, 22, 85, 22, 68, 33)),
    Part("box", "main", _line(15, 33, 68, 33, 68, 88, 15, 88)),
    Part("box", "second", _line(34.5, 45, 34.5, 33, 48.5, 22, 65.5, 22, 48.5, 33, 48.5, 45), optional=True),
    Part("cap", "main", _curve(_line(40, 69, 14, 66, 17, 45, 44, 36, 68, 47, 72, 66))),
    Part("cap", "second", _line(13, 60, 73, 60, 73, 70, 13, 70), inside=True, optional=True),
    Part("cap", "dark", _line(44, 36, 53, 51, 54, 66), 0.8, inside=True),
    Part("cap", "second", _curve(_line(62, 71, 50, 63, 72, 62, 99, 73, 90, 77))),
    *(Part("chair", "second", _line(50 + x, 18, 50 + x, 55, 50 + 1.3 * x, 92), 3.5) for x in (-18, 18)),
    Part("chair", "main", _both(22, 13, 22, 41)),
    Part("chair", "main", _both(22, 51, 27.5, 61)),
    Part("chair", "second", _both(27.5, 61, 27.5, 66)),
    Part("chair", "pale", _both(16, 24, 16, 30), optional=True),
    Part("guitar", "main", _curve(_both(3, 50, 14.5, 56, 10, 66, 20.5, 82, 14, 94, 2, 96))),
    Part("guitar", "second", _disc(60, 77, 7, 9), inside=True, optional=True),
    Part("guitar", "dark", _disc(50, 65, 5, 5)),
    Part("guitar", "second", _both(5.5, 3, 5.5, 16, 3, 16, 3, 62)),
    *(Part("guitar", "pale", _line(x, 10, x, 81), 0.6) for x in (49, 51)),
    Part("lamp", "second", _disc(50, 92, 18, 4)),
    Part("lamp", "dark", _line(50, 40, 50, 92), 2.8),
    Part("lamp", "second", _disc(50, 70, 7, 7.5), optional=True),
    Part("lamp", "main", _both(14, 10, 30, 45)),
    Part("lamp", "pale", _disc(50, 45, 30, 3)),
    Part("mug", "second", _curve(_line(66, 37, 89, 40, 87, 63, 64, 69)), 5.5),
    Part("mug", "main", _curve(_both(24, 28, 24.5, 32, 23, 60, 21.3, 82, 15, 87))),
    Part("mug", "dark", _disc(50, 29, 23.5, 5.5)),
    Part("mug", "second", _both(24, 72, 24, 80), inside=True, optional=True),
    Part("shirt", "main", _both(8.5, 13, 21, 17, 38.4, 41, 29.4, 49, 20, 36, 21, 84)),
    Part("shirt", "dark", _curve(_both(8.5, 13, 4.5, 22, 0, 24.7))),
    *(Part("shirt", "second", _line(50 + s * 38.4, 41, 50 + s * 29.4, 49), 4.5, inside=True) for s in (-1, 1)),
    Part("shirt", "pale", _line(50, 25, 50, 84), 1.2, optional=True),
    Part("shoe", "main", _curve(_line(14, 72, 13, 45, 40, 39, 68, 57, 90, 65, 92, 72))),
    Part("shoe", "second", _curve(_line(76, 45, 72, 66, 78, 78, 95, 72)), inside=True, optional=True),
    Part("shoe", "pale", _curve(_line(11, 70, 50, 70.5, 95, 69, 94, 78.5, 36, 82, 14, 82))),
    *(Part("shoe", "pale", _line(x, 0.7 * x + 20, x + 10, 0.7 * x + 20), 1.8, True) for x in (41, 48, 55)),
    Part("vase", "main", _curve(_both(13, 10, 9, 30, 24.5, 61, 13, 88, 12, 92))),
    Part("vase", "second", _both(26, 55, 26, 63), inside=True, optional=True),
    Part("vase", "dark", _disc(50, 10, 13, 3.5)),
    Part("watch", "main", _curve(_both(8, 6, 10, 30, 10, 70, 7.5, 94))),
    Part("watch", "second", _both(18.5, 31.5, 18.5, 68.5), optional=True),
    Part("watch", "second", _disc(50, 50, 18.5, 18.5)),
    Part("watch", "pale", _disc(50, 50, 14.5, 14.5)),
    Part("watch", "dark", _line(50, 39, 50, 50, 58, 55), 1.8),
]

FAMILIES = {part.family: [other for other in _PARTS if other.family == part.family] for part in _PARTS}
