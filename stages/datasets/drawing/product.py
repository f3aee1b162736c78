"""One made-up product: everything that all views of an instance share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stages.datasets.drawing.families import FAMILIES, Paint, Part

SHAPES = ("slim", "regular", "broad")
PATTERNS = ("plain", "stripes", "dots", "checks", "zigzag", "waves", "plaid", "gradient", "badge")
MATERIALS = ("matt", "glossy", "metal", "wood", "fabric")
COLOURS = {
    "red": (196, 38, 44),
    "orange": (232, 120, 32),
    "yellow": (240, 200, 50),
    "green": (58, 140, 70),
    "teal": (28, 140, 145),
    "blue": (40, 88, 190),
    "navy": (34, 44, 92),
    "purple": (122, 62, 150),
    "pink": (236, 140, 170),
    "brown": (120, 76, 46),
    "black": (46, 46, 50),
    "grey": (142, 146, 152),
    "white": (238, 236, 230),
    "beige": (214, 190, 150),
}


@dataclass(frozen=True)
class Product:
    """What a product is; ``shape``, ``colour``, ``pattern`` and ``material`` are words of the tables above."""

    category: str
    shape: str
    colour: str
    pattern: str
    material: str
    parts: tuple[Part, ...]
    """Back to front, within the unit square."""
    rgb: dict[Paint, tuple[float, float, float]]
    """The colour of each paint, in [0, 1]."""
    period: float
    """Of the pattern, in product widths."""
    angle_rad: float
    """Of the pattern."""
    letters: str
    """On the badge, if the pattern is one."""
    grain: int
    """Seed of the material's texture."""


def invent(category: str, rng: np.random.Generator) -> Product:
    """Choose a product of ``category``, a key of ``FAMILIES``."""
    parts = FAMILIES[category](rng.uniform)
    breadth = rng.uniform(0.0, 1.0)
    main, second = (list(COLOURS)[k] for k in rng.choice(len(COLOURS), size=2, replace=False))
    return Product(
        category=category,
        shape=SHAPES[int(breadth * len(SHAPES))],
        colour=main,
        pattern=str(rng.choice(PATTERNS)),
        material=str(rng.choice(MATERIALS)),
        parts=_fit(parts, breadth),
        rgb={
            "main": _shade(main, rng),
            "second": _shade(second, rng),
            "dark": (0.17, 0.16, 0.165),
            "pale": (0.91, 0.89, 0.84),
        },
        period=rng.uniform(0.09, 0.22),
        angle_rad=int(rng.integers(4)) * math.pi / 4,
        letters="".join(rng.choice(list("ABCDEFGHKLMNPRSTVWXYZ"), size=rng.integers(1, 4))),
        grain=int(rng.integers(2**31)),
    )


def _fit(parts: list[Part], breadth: float) -> tuple[Part, ...]:
    """Make the parts slim (``breadth`` 0) to broad (1), and let them fill the unit square but for a margin."""
    points = np.concatenate([part.outline for part in parts])
    low, high = points.min(axis=0), points.max(axis=0)
    stretch = np.array([0.8 + 0.4 * breadth, 1.2 - 0.4 * breadth])
    stretch *= 0.86 / ((high - low) * stretch).max()
    return tuple(
        part._replace(outline=(part.outline - (low + high) / 2) * stretch + 0.5, stroke=part.stroke * stretch.mean())
        for part in parts
    )


def _shade(colour: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """A shade of a named colour: two red products are not equally red."""
    red, green, blue = (float(np.clip(c / 255 + rng.uniform(-0.09, 0.09), 0.03, 0.97)) for c in COLOURS[colour])
    return red, green, blue
