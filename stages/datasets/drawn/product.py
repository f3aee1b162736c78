"""A made-up product, painted without light: everything that all of its views share."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

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
PATTERNS = ("plain", "stripes", "dots", "checks", "zigzag", "waves", "plaid", "gradient", "roundel")
MATERIALS = {
    "matt": (0.0, 2, 2), "glossy": (0.0, 2, 2), "metal": (0.1, 90, 3), "wood": (0.5, 60, 4), "fabric": (0.35, 80, 80),
}  # fmt: skip
"""The strength of the grain, and its knots across and down."""


class Product(NamedTuple):
    """A painted product: its words, keys of the tables above, and its layers, S by S pixels."""

    category: str
    shape: str
    colour: str
    pattern: str
    material: str
    image: Image.Image
    """RGB and alpha."""
    height: Image.Image
    """How far the surface stands out, in product widths."""


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
    kind, material = str(rng.choice(PATTERNS)), str(rng.choice(list(MATERIALS)))
    share = pattern(kind, pixels, rng.uniform(0.09, 0.22), int(rng.integers(4)) * math.pi / 4)
    strength, across, down = MATERIALS[material]
    grain = strength * (noise(rng, pixels, across, down) - 0.5)
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
        near = soften(mask, 0.012)
        cushion = 0.02 * near + (0 if part.inside else 0.05 * soften(mask, 0.035) + 0.12 * soften(mask, 0.09))
        height += np.clip(4 * near, 0, 1) * (cushion + 0.004 * grain - height + (height if part.inside else 0))
    layers = np.concatenate([colour, alpha]).clip(0, 1) * 255
    image = Image.fromarray(np.ascontiguousarray(layers.transpose(1, 2, 0)).astype(np.uint8), "RGBA")
    shape = SHAPES[int(breadth * len(SHAPES))]
    return Product(category, shape, main, kind, material, image, Image.fromarray(height[0]))


def _reshaped(parts: list[Part], breadth: float, rng: np.random.Generator) -> list[Part]:
    """Give a product of the family proportions of its own, and let it fill the unit square but for a margin.

    Every height y has a width of its own, 1 + sum_k a_k cos(pi k y), and moves to y + sum_k b_k sin(pi k y) / k, both
    with k = 1, 2, 3; the b_k are small enough for heights to stay in order. Then all is made slim (``breadth`` 0) to
    broad (1).
    """
    k, widths, heights = np.arange(1, 4), rng.uniform(-0.18, 0.18, 3), rng.uniform(-0.07, 0.07, 3)
    parts = [part for part in parts if not part.optional or rng.random() < 0.5]
    outlines = []
    for part in parts:
        angles = np.pi * k * part.outline[:, 1:]
        x = (part.outline[:, 0] - 0.5) * (1 + np.cos(angles) @ widths)
        outlines.append(np.stack([x, part.outline[:, 1] + (np.sin(angles) / k) @ heights], axis=1))
    points = np.concatenate([outline for part, outline in zip(parts, outlines, strict=True) if not part.inside])
    low, high = points.min(axis=0), points.max(axis=0)
    stretch = np.array([0.8 + 0.4 * breadth, 1.2 - 0.4 * breadth])
    stretch *= 0.86 / ((high - low) * stretch).max()
    placed = [(outline - (low + high) / 2) * stretch + 0.5 for outline in outlines]
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

    def edge(distance: Array) -> Array:
        cut: Array = np.clip(0.5 + distance, 0, 1)
        return cut

    def bars(t: Array) -> Array:  # a square wave of period 1 with soft edges
        return edge(14 * (np.abs(t % 1 - 0.5) - 0.25))

    x, y = grid(pixels)
    a = ((x - 0.5) * math.cos(angle_rad) + (y - 0.5) * math.sin(angle_rad)) / period
    b = ((y - 0.5) * math.cos(angle_rad) - (x - 0.5) * math.sin(angle_rad)) / period
    match kind:
        case "stripes":
            return bars(a)
        case "dots":
            return edge(8 * (0.3 - np.hypot(a % 1 - 0.5, b % 1 - 0.5)))
        case "checks":
            return np.abs(bars(a / 2) - bars(b / 2))
        case "zigzag":
            return bars(a + 0.9 * np.abs(b % 1 - 0.5))
        case "waves":
            return bars(a + 0.2 * np.sin(2 * np.pi * b))
        case "plaid":
            return (bars(a) + bars(b)) / 2
        case "gradient":
            return edge(a / 8)
        case "roundel":
            return edge(8 * (1 - np.hypot(a, b))) * edge(8 * (np.hypot(a, b) - 0.5))
        case _:
            return np.zeros_like(a)


def grid(pixels: int) -> tuple[Array, Array]:
    """The x and y of every pixel's middle in the unit square, (S, S) each."""
    axis = (np.arange(pixels, dtype=np.float32) + np.float32(0.5)) / np.float32(pixels)
    return np.broadcast_to(axis, (pixels, pixels)), np.broadcast_to(axis[:, None], (pixels, pixels))


def noise(rng: np.random.Generator, pixels: int, across: int, down: int) -> Array:
    """Smooth noise (S, S) between ``across`` by ``down`` random knots."""
    return _resized(rng.random((down, across), dtype=np.float32), pixels)


def soften(values: Array, spread: float) -> Array:
    """Blur an (S, S) array with a Gaussian of sigma ``spread``, in widths; done at a quarter of the size."""
    from scipy.ndimage import gaussian_filter  # slow to import, and only drawing needs it

    cells = max(16, len(values) // 4)
    small = np.asarray(Image.fromarray(values).resize((cells, cells), Image.Resampling.BOX))
    return _resized(gaussian_filter(small, spread * cells, mode="constant"), len(values))


def _resized(values: Array, pixels: int) -> Array:
    return np.asarray(Image.fromarray(values).resize((pixels, pixels), Image.Resampling.BICUBIC))
