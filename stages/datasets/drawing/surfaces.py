"""What things are made of and stand on: patterns, textures and backgrounds, as arrays.

Arrays of colours have shape (3, S, S), of one value (S, S); values lie in about [0, 1].
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.floating[Any]]


def pattern(kind: str, x: Array, y: Array, period: float, angle_rad: float) -> Array:
    """How much of a second colour shows at each point, in [0, 1] and of the shape of ``x`` and ``y``."""
    a = (x * math.cos(angle_rad) + y * math.sin(angle_rad)) / period
    b = (y * math.cos(angle_rad) - x * math.sin(angle_rad)) / period
    match kind:
        case "stripes":
            return _bars(a)
        case "dots":
            return unit(0.5 + 8 * (0.3 - np.hypot(a - np.floor(a) - 0.5, b - np.floor(b) - 0.5)))
        case "checks":
            return np.abs(_bars(a / 2) - _bars(b / 2))
        case "zigzag":
            return _bars(a + 0.9 * np.abs(b - np.floor(b) - 0.5))
        case "waves":
            return _bars(a + 0.2 * np.sin(2 * np.pi * b))
        case "plaid":
            return (_bars(a) + _bars(b)) / 2
        case "gradient":
            return unit(1.3 * y - 0.15)
        case _:
            return np.zeros_like(x)


def _bars(t: Array) -> Array:
    """A square wave of period 1 with soft edges, in [0, 1]."""
    return unit(0.5 + 14 * (np.abs(t - np.floor(t) - 0.5) - 0.25))


def unit(values: Array) -> Array:
    """Values cut to [0, 1]."""
    cut: Array = np.clip(values, 0, 1)
    return cut


def texture(material: str, x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """What a material does to its colour, (S, S) around 1, and to the slope of its surface, (2, S, S)."""
    pixels = len(x)
    if material == "wood":
        rings = x + 0.05 * noise(rng, pixels, 4, 3) + 0.01 * noise(rng, pixels, 40, 4)
        veins = 0.2 * np.sin(rings * 90) * noise(rng, pixels, 3, 3)
        return 0.78 + veins + 0.15 * noise(rng, pixels, 80, 5), np.zeros((2, *x.shape))
    if material == "fabric":
        weave = np.sin(x * 300) * np.sin(y * 300) + noise(rng, pixels, 90, 90) - 0.5
        return 0.94 + 0.12 * weave, np.stack([weave, -weave]) * 0.12
    return np.ones_like(x), np.zeros((2, *x.shape))


def noise(rng: np.random.Generator, pixels: int, across: int, down: int) -> Array:
    """Smooth noise (S, S), S = ``pixels``, between ``across`` by ``down`` random knots."""
    knots = Image.fromarray(rng.random((down, across), dtype=np.float32))
    return np.asarray(knots.resize((pixels, pixels), Image.Resampling.BICUBIC))


def background(size: int, rng: np.random.Generator) -> Array:
    """One surface, or a wall above a table, (3, S, S) with S = ``size``."""
    scene = _surface(size, rng)
    if rng.random() < 0.5:
        x, y = grid(size)
        edge = y - rng.uniform(0.45, 0.8) - rng.normal(0, 0.05) * (x - 0.5)
        scene = scene + unit(0.5 + edge * size / 2) * (_surface(size, rng) - scene)
    return scene


def grid(pixels: int) -> tuple[Array, Array]:
    """The x and y of every pixel's middle in the unit square, (S, S) each."""
    axis = (np.arange(pixels, dtype=np.float32) + np.float32(0.5)) / np.float32(pixels)
    return np.broadcast_to(axis, (pixels, pixels)), np.broadcast_to(axis[:, None], (pixels, pixels))


def _surface(size: int, rng: np.random.Generator) -> Array:
    x, y = grid(size)
    hue = rng.uniform(0, 1)
    light = _tint(hue, rng.uniform(0.05, 0.5), rng.uniform(0.55, 0.95))
    dark = _tint(hue + rng.normal(0, 0.1), 0.4, rng.uniform(0.2, 0.6))
    match rng.choice(["backdrop", "planks", "cloth", "garden", "tiles", "plaster", "wallpaper"]):
        case "backdrop":
            light = _tint(hue, rng.uniform(0, 0.12), rng.uniform(0.85, 1.0))
            share = unit(0.75 * np.hypot(x - rng.uniform(0.2, 0.8), y - rng.uniform(0.2, 0.8)))
        case "planks":
            light = _tint(rng.uniform(0.05, 0.1), 0.45, rng.uniform(0.5, 0.9))
            dark = _tint(0.06, 0.6, rng.uniform(0.2, 0.4))
            boards = y * rng.uniform(2, 6)
            tone = rng.random(8, dtype=np.float32)[boards.astype(np.int64)]
            share = 0.3 * tone + 0.6 * noise(rng, size, 5, 70) + unit(0.5 - 10 * (boards - np.floor(boards)))
            share = share if rng.random() < 0.5 else share.T
        case "cloth":
            share = 0.6 * noise(rng, size, 5, 5) + 0.3 * (np.sin(x * 170) * np.sin(y * 170) + 0.5)
        case "garden":
            return _garden(size, rng)
        case "tiles":
            lines = pattern("checks", x, y, rng.uniform(0.1, 0.3), rng.uniform(0, 1.6))
            share = rng.uniform(0.4, 1.0) * lines + 0.15 * noise(rng, size, 30, 30)
        case "plaster":
            share = 0.5 * noise(rng, size, 6, 6) + 0.3 * noise(rng, size, 25, 25) + 0.25 * noise(rng, size, 100, 100)
        case _:
            kind = str(rng.choice(["stripes", "dots", "zigzag", "waves", "plaid"]))
            share = rng.uniform(0.3, 0.9) * pattern(kind, x, y, rng.uniform(0.06, 0.3), rng.uniform(0, 3.1))
    return light + share * (dark - light)


def _garden(size: int, rng: np.random.Generator) -> Array:
    """Leaves, earth and sky, out of focus."""
    leaf = _tint(rng.uniform(0.2, 0.38), 0.6, rng.uniform(0.3, 0.7))
    earth, sky = _tint(0.08, 0.4, 0.45), _tint(0.57, 0.15, 0.95)
    ground = leaf + unit(2 * noise(rng, size, 6, 6) - 0.8) * (earth - leaf)
    ground = ground * (0.7 + 0.6 * noise(rng, size, 12, 12))
    higher = rng.uniform(0, 2) * (0.4 - grid(size)[1])
    return ground + unit(2 * noise(rng, size, 9, 9) - 0.9 + higher) * (sky - ground)


def _tint(hue: float, saturation: float, value: float) -> Array:
    """A colour (3, 1, 1) from hue, saturation and value in [0, 1]."""
    wheel = np.abs((np.array([0.0, 4.0, 2.0]) + hue * 6) % 6 - 3) - 1
    colour: Array = (value * (1 - saturation + saturation * unit(wheel))).astype(np.float32)
    return colour[:, None, None]
