"""The families of made-up products: the parts of one kind of thing each, in a unit square, y downwards."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Outline = npt.NDArray[np.float64]


class Part(NamedTuple):
    """One painted outline (P, 2).

    ``paint`` is ``main`` or ``second``, the product's two colours, ``dark`` or ``pale``. ``stroke`` is the width of a
    line along the outline; 0 fills it. A part ``inside`` shows only on the parts painted ``main`` before it, and half
    of the products of the family lack an ``optional`` one.
    """

    paint: str
    outline: Outline
    stroke: float = 0.0
    inside: bool = False
    optional: bool = False


def _line(*points: tuple[float, float]) -> Outline:
    return np.array(points, dtype=np.float64)


def _both(*right: tuple[float, float]) -> Outline:
    """A symmetric outline from its right side, top to bottom, x counted from the middle."""
    return np.asarray(np.concatenate([_line(*right), _line(*right)[::-1] * (-1, 1)]) + np.array((0.5, 0)))


def _curve(knots: Outline) -> Outline:
    """The closed Catmull-Rom spline through ``knots`` (K, 2), eight points for each."""
    t = np.linspace(0, 1, 8, endpoint=False)[:, None]
    a, b, c, d = (np.roll(knots, shift, axis=0)[:, None] for shift in (1, 0, -1, -2))
    bend = 2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    return np.asarray(bend / 2).reshape(-1, 2)


def _disc(x: float, y: float, across: float, down: float) -> Outline:
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.stack([x + across * np.cos(turn), y + down * np.sin(turn)], axis=1)


def _slab(x: float, half: float, top: float, bottom: float) -> Outline:
    return _line((x - half, top), (x + half, top), (x + half, bottom), (x - half, bottom))


def _band(top: float, bottom: float) -> Part:
    """A stripe of the second colour across the body, which half of the products have."""
    return Part("second", _slab(0.5, 0.5, top, bottom), inside=True, optional=True)


# fmt: off
FAMILIES: dict[str, list[Part]] = {
    "bag": [
        Part("second", _curve(_both((0, 0.2), (0.14, 0.25), (0.18, 0.5))), 0.04),
        Part("main", _curve(_both((0, 0.43), (0.25, 0.44), (0.31, 0.8), (0.28, 0.9), (0, 0.91)))),
        Part("second", _curve(_both((0.5, 0.34), (0.4, 0.55), (0, 0.62))), inside=True, optional=True),
        Part("pale", _disc(0.5, 0.6, 0.03, 0.03))],
    "bottle": [
        Part("main", _curve(_both((0.05, 0.13), (0.05, 0.3), (0.17, 0.45), (0.165, 0.7), (0.12, 0.94)))),
        _band(0.64, 0.8),
        Part("second", _slab(0.5, 0.07, 0.06, 0.16))],
    "box": [
        Part("second", _line((0.68, 0.33), (0.85, 0.22), (0.85, 0.77), (0.68, 0.88))),
        Part("pale", _line((0.15, 0.33), (0.32, 0.22), (0.85, 0.22), (0.68, 0.33))),
        Part("main", _slab(0.415, 0.265, 0.33, 0.88)),
        Part("second", _line((0.345, 0.33), (0.515, 0.22), (0.655, 0.22), (0.485, 0.33))),
        Part("second", _slab(0.415, 0.07, 0.33, 0.45), optional=True)],
    "cap": [
        Part("main", _curve(_line((0.4, 0.69), (0.14, 0.66), (0.17, 0.45), (0.44, 0.36), (0.68, 0.47), (0.72, 0.66)))),
        _band(0.6, 0.76),
        Part("dark", _line((0.44, 0.36), (0.53, 0.51), (0.54, 0.66)), 0.008, inside=True),
        Part("second", _curve(_line((0.62, 0.71), (0.5, 0.63), (0.72, 0.62), (0.99, 0.73), (0.9, 0.77))))],
    "chair": [
        *(Part("second", _line((0.5 + x, 0.18), (0.5 + x, 0.55), (0.5 + 1.3 * x, 0.92)), 0.035) for x in (-0.18, 0.18)),
        Part("main", _slab(0.5, 0.22, 0.13, 0.41)),
        Part("main", _both((0.22, 0.51), (0.275, 0.61))),
        Part("second", _slab(0.5, 0.275, 0.61, 0.66)),
        Part("pale", _slab(0.5, 0.16, 0.24, 0.3), optional=True)],
    "guitar": [
        Part("main", _curve(_both((0.03, 0.5), (0.145, 0.56), (0.1, 0.66), (0.205, 0.82), (0.14, 0.94), (0.02, 0.96)))),
        Part("second", _disc(0.6, 0.77, 0.07, 0.09), inside=True, optional=True),
        Part("dark", _disc(0.5, 0.65, 0.05, 0.05)),
        Part("second", _both((0.055, 0.03), (0.055, 0.16), (0.03, 0.16), (0.03, 0.62))),
        *(Part("pale", _line((x, 0.1), (x, 0.81)), 0.006) for x in (0.49, 0.51))],
    "lamp": [
        Part("second", _disc(0.5, 0.92, 0.18, 0.04)),
        Part("dark", _line((0.5, 0.4), (0.5, 0.92)), 0.028),
        Part("second", _disc(0.5, 0.7, 0.07, 0.075), optional=True),
        Part("main", _both((0.14, 0.1), (0.3, 0.45))),
        Part("pale", _disc(0.5, 0.45, 0.3, 0.03))],
    "mug": [
        Part("second", _curve(_line((0.66, 0.37), (0.89, 0.4), (0.87, 0.63), (0.64, 0.69))), 0.055),
        Part("main", _curve(_both((0.24, 0.28), (0.245, 0.32), (0.23, 0.6), (0.213, 0.82), (0.15, 0.87)))),
        Part("dark", _disc(0.5, 0.29, 0.235, 0.055)),
        _band(0.72, 0.8)],
    "shirt": [
        Part("main", _both((0.085, 0.13), (0.21, 0.17), (0.384, 0.41), (0.294, 0.49), (0.2, 0.36), (0.21, 0.84))),
        Part("dark", _curve(_both((0.085, 0.13), (0.045, 0.22), (0, 0.247)))),
        *(Part("second", _line((0.5 + s * 0.384, 0.41), (0.5 + s * 0.294, 0.49)), 0.045, inside=True) for s in (-1, 1)),
        Part("pale", _line((0.5, 0.25), (0.5, 0.84)), 0.012, optional=True)],
    "shoe": [
        Part("main", _curve(_line((0.14, 0.72), (0.13, 0.45), (0.4, 0.39), (0.68, 0.57), (0.9, 0.65), (0.92, 0.72)))),
        Part("second", _curve(_line((0.76, 0.42), (0.72, 0.66), (0.78, 0.78), (1, 0.72))), inside=True, optional=True),
        Part("pale", _curve(_line((0.11, 0.7), (0.5, 0.705), (0.95, 0.69), (0.94, 0.785), (0.36, 0.82), (0.14, 0.82)))),
        *(Part("pale", _line((x, 0.7 * x + 0.2), (x + 0.1, 0.7 * x + 0.2)), 0.018, True) for x in (0.41, 0.48, 0.55))],
    "vase": [
        Part("main", _curve(_both((0.13, 0.1), (0.09, 0.3), (0.245, 0.61), (0.13, 0.88), (0.12, 0.92)))),
        _band(0.55, 0.63),
        Part("dark", _disc(0.5, 0.1, 0.13, 0.035))],
    "watch": [
        Part("main", _curve(_both((0.08, 0.06), (0.1, 0.3), (0.1, 0.7), (0.075, 0.94)))),
        Part("second", _slab(0.5, 0.185, 0.315, 0.685), optional=True),
        Part("second", _disc(0.5, 0.5, 0.185, 0.185)),
        Part("pale", _disc(0.5, 0.5, 0.145, 0.145)),
        *(Part("dark", _line((0.5, 0.5), end), 0.018) for end in ((0.5, 0.39), (0.58, 0.55)))],
}
# fmt: on
