"""Views of a product: posed, lit from some side, and put on a background among clutter."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from stages.datasets.drawn.product import PATTERNS, Array, Product, grid, noise, pattern, soften

MOST_HIDDEN = 0.2
"""Clutter hides no more of a product than this fraction of its area."""

SURFACES = {
    "backdrop": (0.6, 2, 2, None), "cloth": (0.5, 90, 90, None), "plaster": (1.0, 25, 25, None),
    "planks": (0.9, 4, 60, 0.07), "parquet": (0.9, 60, 4, 0.07), "garden": (1.5, 7, 9, 0.3),
}  # fmt: skip
"""The contrast of a surface, its knots across and down, and its hue, or None for any. Others show a pattern."""


def photograph(product: Product, clutter: Sequence[Product], size: int, rng: np.random.Generator) -> Image.Image:
    """One view of a product among up to three things of ``clutter``, RGB, ``size`` by ``size`` pixels."""
    scene, sun = background(size, rng), rng.uniform(0, 2 * math.pi)
    toward = rng.uniform(0.5, 1.0) * np.array([math.cos(sun), math.sin(sun)])
    pose = rng.uniform(0.6, 1.0), rng.normal(0, 0.3), 0.12
    front = [_posed(product, size, toward, *pose, rng)]
    for _ in range(rng.integers(4)):
        thing = clutter[int(rng.integers(len(clutter)))]
        lit = _posed(thing, size, toward, rng.uniform(0.2, 0.42), rng.uniform(-3, 3), 0.5, rng)
        if rng.random() < 0.5 and hidden(front[0][1], [alpha for _, alpha in (*front[1:], lit)]) <= MOST_HIDDEN:
            front.append(lit)
        else:
            scene = _lay(scene, *lit, toward)
    for colour, alpha in front:
        scene = _lay(scene, colour, alpha, toward)
    return _expose(scene, rng)


def hidden(alpha: Array, covers: Sequence[Array]) -> float:
    """The fraction of a product with this ``alpha`` (S, S) that ``covers``, (S, S) each, hide."""
    uncovered = alpha * math.prod((1 - cover for cover in covers), start=np.float32(1))
    return 1 - float(uncovered.sum()) / max(float(alpha.sum()), 1e-6)


def background(size: int, rng: np.random.Generator) -> Array:
    """One surface, or a wall above a table, (3, S, S) with S = ``size``."""
    scene = _surface(size, rng)
    if rng.random() < 0.5:
        x, y = grid(size)
        edge = y - rng.uniform(0.45, 0.8) - rng.normal(0, 0.05) * (x - 0.5)
        scene = scene + np.clip(0.5 + edge * size / 2, 0, 1) * (_surface(size, rng) - scene)
    return scene


def _surface(size: int, rng: np.random.Generator) -> Array:
    kind = str(rng.choice([*SURFACES, *PATTERNS]))
    contrast, across, down, hue = SURFACES.get(kind, (0.5, 12, 12, None))
    hue = rng.uniform() if hue is None else hue + rng.uniform(-0.03, 0.03)
    share = 0.5 + contrast * (
        0.75 * noise(rng, size, across, down) + 0.25 * noise(rng, size, 2 * across, 2 * down) - 0.5
    )
    if kind in PATTERNS:
        share = share * pattern(kind, size, rng.uniform(0.06, 0.3), rng.uniform(0, math.pi))
    tints = (hue, rng.uniform(0.05, 0.5), rng.uniform(0.55, 1)), (hue + rng.normal(0, 0.1), 0.4, rng.uniform(0.2, 0.6))
    light, dark = (np.array(colorsys.hsv_to_rgb(h % 1, s, v), np.float32)[:, None, None] for h, s, v in tints)
    return light + np.clip(share, 0, 1) * (dark - light)


def _posed(
    product: Product, size: int, toward: Array, scale: float, turn_rad: float, drift: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Pose and light a product: its colour (3, S, S), multiplied by its alpha, and the alpha (S, S)."""
    # The corners of the frame as the product sees them: turned, seen askew, moved.
    corners = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.5, -0.5]]) - rng.uniform(-drift, drift, 2)
    turn = np.array([[math.cos(turn_rad), -math.sin(turn_rad)], [math.sin(turn_rad), math.cos(turn_rad)]])
    seen = corners @ turn / scale / rng.uniform(0.8, 1, 2) + rng.uniform(-0.09, 0.09, (4, 2)) + 0.5
    quad = (seen * product.image.width).ravel().tolist()
    image, height = (
        np.asarray(layer.transform((size, size), Image.Transform.QUAD, quad, Image.Resampling.BILINEAR), np.float32)
        for layer in (product.image, product.height)
    )
    *_, alpha = rgba = image.transpose(2, 0, 1) / np.float32(255)
    down, across = (np.clip(slope * size / scale, -1, 1) for slope in np.gradient(height))
    shade = np.clip(0.86 - 0.55 * (across * toward[0] + down * toward[1]), 0.25, 1.25)
    if product.material == "metal":
        shade *= 0.85 + 0.35 * np.sin(6.5 * across + 4 * down + 5 * toward[0])
    colour = rgba[:3] * alpha * shade
    if product.material in ("glossy", "metal"):
        colour += 0.75 * alpha * np.exp(-28 * ((across + 0.32 * toward[0]) ** 2 + (down + 0.32 * toward[1]) ** 2))
    return colour, alpha


def _lay(scene: Array, colour: Array, alpha: Array, toward: Array) -> Array:
    """Put a lit thing, and its soft shadow on the side away from the light, on the scene (3, S, S)."""
    across, down = (round(-0.05 * len(alpha) * float(way)) for way in toward)
    shadow = np.roll(soften(alpha, 0.025), (down, across), axis=(0, 1))
    return scene * ((1 - 0.5 * np.clip(shadow, 0, 1)) * (1 - alpha)) + colour


def _expose(scene: Array, rng: np.random.Generator) -> Image.Image:
    """Shade one side, dim or brighten, warm or cool, add noise, and blur."""
    size = scene.shape[1]
    (x, y), side, warmth = grid(size), rng.uniform(0, 2 * math.pi), rng.normal(0, 0.11)
    ramp = 1 + rng.uniform(0, 0.8) * ((x - 0.5) * math.cos(side) + (y - 0.5) * math.sin(side))
    cast = np.array([1 + warmth, 1 + rng.normal(0, 0.025), 1 - warmth], np.float32) * rng.uniform(0.65, 1.25)
    scene = scene * ramp * cast[:, None, None] + rng.standard_normal((size, size), np.float32) * rng.uniform(0, 0.04)
    pixels = (np.clip(scene, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    blur = ImageFilter.GaussianBlur(max(0.0, rng.normal(0.3, 0.4)) * size / 160)
    return Image.fromarray(np.ascontiguousarray(pixels)).filter(blur)
