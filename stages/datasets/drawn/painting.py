"""Made-up products, each painted once without light, and views of them: posed, lit, and put among clutter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from stages.datasets.drawn.families import FAMILIES, Part

Array = npt.NDArray[np.floating[Any]]
"""Of colours (3, S, S), of one value (S, S), in about [0, 1]."""

SHAPES = ("slim", "regular", "broad")
COLOURS = {
    "red": (196, 38, 44), "orange": (232, 120, 32), "yellow": (240, 200, 50), "green": (58, 140, 70),
    "teal": (28, 140, 145), "blue": (40, 88, 190), "navy": (34, 44, 92), "purple": (122, 62, 150),
    "pink": (236, 140, 170), "brown": (120, 76, 46), "black": (46, 46, 50), "grey": (142, 146, 152),
    "white": (238, 236, 230), "beige": (214, 190, 150), "dark": (43, 41, 42), "pale": (232, 227, 214),
}  # fmt: skip
MATERIALS = {
    "matt": (0.0, 2, 2), "glossy": (0.0, 2, 2), "metal": (0.1, 90, 3), "wood": (0.5, 60, 4), "fabric": (0.35, 80, 80),
}  # fmt: skip
"""The strength of the grain, and its knots across and down."""

PATTERNS: dict[str, Callable[[Array, Array], Array]] = {
    "plain": lambda a, _: np.zeros_like(a),
    "stripes": lambda a, _: _bars(a),
    "dots": lambda a, b: 8 * (0.3 - np.hypot(a % 1 - 0.5, b % 1 - 0.5)) + 0.5,
    "checks": lambda a, b: np.abs(_bars(a / 2) - _bars(b / 2)),
    "zigzag": lambda a, b: _bars(a + 0.9 * np.abs(b % 1 - 0.5)),
    "waves": lambda a, b: _bars(a + 0.2 * np.sin(2 * np.pi * b)),
    "plaid": lambda a, b: (_bars(a) + _bars(b)) / 2,
    "gradient": lambda a, _: a / 8 + 0.5,
    "roundel": lambda a, b: 2.5 - 8 * np.abs(np.hypot(a, b) - 0.75),
}
"""How much of a second colour shows, where one period is 1 along both axes; cut to [0, 1]."""

SURFACES = {
    "backdrop": (0.6, 2, 2), "cloth": (0.5, 90, 90), "plaster": (1.0, 25, 25), "planks": (0.9, 4, 60),
    "parquet": (0.9, 60, 4), "garden": (1.5, 7, 9),
}  # fmt: skip
"""The contrast of a background, and its knots across and down; others show a pattern."""


class Product(NamedTuple):
    """A painted product: its words, keys of the tables above, and its layers, S by S pixels.

    ``image`` is RGB and alpha, ``height`` how far the surface stands out, in product widths.
    """

    category: str
    shape: str
    colour: str
    pattern: str
    material: str
    image: Image.Image
    height: Image.Image


def invent(category: str, pixels: int, rng: np.random.Generator) -> Product:
    """Choose and paint a product of ``category``, a key of ``FAMILIES``, S = ``pixels``.

    >>> mug = invent("mug", 64, np.random.default_rng(0))
    >>> mug.category, mug.image.size
    ('mug', (64, 64))
    """
    breadth = rng.uniform(0.0, 1.0)
    main, second = (list(COLOURS)[k] for k in rng.choice(len(COLOURS) - 2, size=2, replace=False))
    names = {"main": main, "second": second, "dark": "dark", "pale": "pale"}
    # Two red products are not equally red.
    rgb = {paint: np.array(COLOURS[name]) / 255 + rng.uniform(-0.09, 0.09, 3) for paint, name in names.items()}
    colours = {paint: np.clip(colour, 0, 1).astype(np.float32)[:, None, None] for paint, colour in rgb.items()}
    kind, material = str(rng.choice(list(PATTERNS))), str(rng.choice(list(MATERIALS)))
    share = pattern(kind, pixels, rng.uniform(0.09, 0.22), int(rng.integers(4)) * math.pi / 4)
    strength, across, down = MATERIALS[material]
    grain = strength * (_noise(rng, pixels, across, down) - 0.5)
    colour, height, alpha, body = (np.zeros((n, pixels, pixels), np.float32) for n in (3, 1, 1, 1))
    for part in _reshaped(FAMILIES[category], breadth, rng):
        mask = _mask(part, pixels) * (body[0] if part.inside else 1)
        own = colours[part.paint]
        if part.paint == "main":
            body = np.maximum(body, mask)
            own = own + share * (colours["second"] - own)
        if part.paint in ("main", "second"):
            own = own * (1 + grain)
        colour += mask * (own - colour)
        alpha += mask * (1 - alpha)
        # Every part is a cushion: it falls off towards its edge, and quickest at the very edge.
        near = _soften(mask, 0.012)
        cushion = 0.02 * near + (0 if part.inside else 0.05 * _soften(mask, 0.035) + 0.12 * _soften(mask, 0.09))
        height += np.clip(4 * near, 0, 1) * (cushion + 0.004 * grain - height + (height if part.inside else 0))
    layers = np.concatenate([colour, alpha]).clip(0, 1) * 255
    image = Image.fromarray(np.ascontiguousarray(layers.transpose(1, 2, 0)).astype(np.uint8), "RGBA")
    shape = SHAPES[int(breadth * len(SHAPES))]
    return Product(category, shape, main, kind, material, image, Image.fromarray(height[0]))


def _reshaped(parts: list[Part], breadth: float, rng: np.random.Generator) -> list[Part]:
    """Give a product proportions of its own, slim (``breadth`` 0) to broad (1), and let it fill the unit square.

    Every height y has a width of its own, 1 + sum_k a_k cos(pi k y), and moves to y + sum_k b_k sin(pi k y) / k, both
    with k = 1, 2, 3; the b_k are small enough for heights to stay in order.
    """
    k, widths, heights = np.arange(1, 4), rng.uniform(-0.18, 0.18, 3), rng.uniform(-0.07, 0.07, 3)
    outlines, parts = [], [part for part in parts if not part.optional or rng.random() < 0.5]
    for part in parts:
        x, y = part.outline.T
        angles = np.pi * k * y[:, None]
        moved = (x - 0.5) * (1 + np.cos(angles) @ widths), y + (np.sin(angles) / k) @ heights
        outlines.append(np.stack(moved, axis=1) * [0.8 + 0.4 * breadth, 1.2 - 0.4 * breadth])
    points = np.concatenate([outline for part, outline in zip(parts, outlines, strict=True) if not part.inside])
    low, high = points.min(axis=0), points.max(axis=0)
    placed = [(outline - (low + high) / 2) * 0.86 / (high - low).max() + 0.5 for outline in outlines]
    return [part._replace(outline=outline) for part, outline in zip(parts, placed, strict=True)]


def _mask(part: Part, pixels: int) -> Array:
    """Where a part lies, (S, S) in [0, 1]: drawn twice as large and averaged."""
    canvas = Image.new("L", (2 * pixels, 2 * pixels))
    points = [(float(a), float(b)) for a, b in part.outline * (2 * pixels)]
    if part.stroke:
        ImageDraw.Draw(canvas).line(points, 255, width=max(2, round(part.stroke * 2 * pixels)), joint="curve")
    else:
        ImageDraw.Draw(canvas).polygon(points, 255)
    return np.asarray(canvas.reduce(2), np.float32) / 255


def pattern(kind: str, pixels: int, period: float, angle_rad: float) -> Array:
    """How much of a second colour shows at each pixel, (S, S) in [0, 1]."""
    (x, y), cos, sin = _grid(pixels), math.cos(angle_rad), math.sin(angle_rad)
    return np.asarray(PATTERNS[kind]((x * cos + y * sin) / period, (y * cos - x * sin) / period).clip(0, 1))


def _bars(t: Array) -> Array:
    """A square wave of period 1 with soft edges."""
    return np.asarray(np.clip(14 * (np.abs(t % 1 - 0.5) - 0.25) + 0.5, 0, 1))


def _grid(pixels: int) -> tuple[Array, Array]:
    """The x and y of every pixel, (S, S) each, seen from the middle of the unit square."""
    axis = (np.arange(pixels, dtype=np.float32) + np.float32(0.5)) / np.float32(pixels) - np.float32(0.5)
    return np.broadcast_to(axis, (pixels, pixels)), np.broadcast_to(axis[:, None], (pixels, pixels))


def _noise(rng: np.random.Generator, pixels: int, across: int, down: int) -> Array:
    """Smooth noise (S, S) between ``across`` by ``down`` random knots."""
    return _resized(rng.random((down, across), dtype=np.float32), pixels)


def _soften(values: Array, spread: float) -> Array:
    """Blur an (S, S) array with a Gaussian of sigma ``spread``, in widths; done at a quarter of the size."""
    from scipy.ndimage import gaussian_filter  # slow to import, and only drawing needs it

    cells = max(16, len(values) // 4)
    small = np.asarray(Image.fromarray(values).resize((cells, cells), Image.Resampling.BOX))
    return _resized(gaussian_filter(small, spread * cells, mode="constant"), len(values))


def _resized(values: Array, pixels: int) -> Array:
    return np.asarray(Image.fromarray(values).resize((pixels, pixels), Image.Resampling.BICUBIC))


def photograph(product: Product, clutter: Sequence[Product], size: int, rng: np.random.Generator) -> Image.Image:
    """One view of a product among up to three things of ``clutter``, RGB, ``size`` by ``size`` pixels."""
    scene = _surface(size, rng)
    x, y = _grid(size)
    if rng.random() < 0.5:  # a wall above a table
        edge = y - rng.uniform(-0.05, 0.3) - rng.normal(0, 0.05) * x
        scene = scene + np.clip(0.5 + edge * size / 2, 0, 1) * (_surface(size, rng) - scene)
    sun = rng.uniform(0, 2 * math.pi)
    toward = rng.uniform(0.5, 1.0) * np.array([math.cos(sun), math.sin(sun)])
    things = [clutter[k] for k in rng.integers(len(clutter), size=rng.integers(4))]
    behind = int(rng.integers(len(things) + 1))
    for at, thing in enumerate([*things[:behind], product, *things[behind:]]):
        if at == behind:
            scene = _laid(scene, thing, toward, rng.uniform(0.6, 1.0), rng.normal(0, 0.3), 0.12, rng)
        else:  # in front of the product it is small, and hides little
            scale = rng.uniform(0.2, 0.42 if at < behind else 0.3)
            scene = _laid(scene, thing, toward, scale, rng.uniform(-3, 3), 0.5, rng)
    # The camera: one side in shade, dim or bright, warm or cool, noisy, out of focus.
    side, warmth = rng.uniform(0, 2 * math.pi), rng.normal(0, 0.11)
    ramp = 1 + rng.uniform(0, 0.8) * (x * math.cos(side) + y * math.sin(side))
    cast = np.array([1 + warmth, 1 + rng.normal(0, 0.025), 1 - warmth], np.float32) * rng.uniform(0.65, 1.25)
    scene = scene * ramp * cast[:, None, None] + rng.standard_normal((size, size), np.float32) * rng.uniform(0, 0.04)
    pixels = (np.clip(scene, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    blur = ImageFilter.GaussianBlur(max(0.0, rng.normal(0.3, 0.4)) * size / 160)
    return Image.fromarray(np.ascontiguousarray(pixels)).filter(blur)


def _surface(size: int, rng: np.random.Generator) -> Array:
    """A background in two tints of a colour, (3, S, S)."""
    kind = str(rng.choice([*SURFACES, *PATTERNS]))
    contrast, across, down = SURFACES.get(kind, (0.5, 12, 12))
    share = 0.5 + contrast * (_noise(rng, size, across, down) - 0.5)
    if kind in PATTERNS:
        share = share * pattern(kind, size, rng.uniform(0.06, 0.3), rng.uniform(0, math.pi))
    tint = rng.uniform(0.45, 1, (3, 1, 1)).astype(np.float32)
    return np.asarray(tint * (1 - rng.uniform(0.3, 0.7) * np.clip(share, 0, 1)))


def _laid(
    scene: Array, product: Product, toward: Array, scale: float, turn_rad: float, drift: float, rng: np.random.Generator
) -> Array:
    """Put a product on the scene (3, S, S): posed, lit, and with a soft shadow on the side away from the light."""
    size = scene.shape[1]
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
    away = [round(-0.05 * size * float(way)) for way in toward[::-1]]
    shadow = np.roll(_soften(alpha, 0.025), away, axis=(0, 1))
    return np.asarray(scene * ((1 - 0.5 * np.clip(shadow, 0, 1)) * (1 - alpha)) + colour)
