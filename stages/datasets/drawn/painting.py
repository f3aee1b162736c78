"""Made-up products, each painted once without light, and views of them: posed, lit, and put among clutter."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw, ImageFilter

from stages.datasets.drawn.families import FAMILIES, Part

Array = npt.NDArray[np.floating[Any]]

SHAPES = ("slim", "regular", "broad")
COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "navy", "purple", "pink", "brown", "grey", "white")
MATERIALS = {
    "matt": (0.0, 2, 2, 0.0, 0.0), "glossy": (0.0, 2, 2, 0.75, 0.0), "metal": (0.1, 90, 3, 0.75, 0.4),
    "wood": (0.5, 60, 4, 0.0, 0.0), "fabric": (0.35, 80, 80, 0.0, 0.0),
}  # fmt: skip
"""The strength of the grain and its knots across and down, the gloss, and how much the surroundings are reflected."""

PATTERNS: dict[str, Callable[[Array, Array], Array]] = {
    "plain": lambda a, _: 0 * a - 1,
    "stripes": lambda a, _: np.cos(a),
    "dots": lambda a, b: np.cos(a) + np.cos(b) - 0.9,
    "checks": lambda a, b: np.cos(a / 2) * np.cos(b / 2),
    "zigzag": lambda a, b: np.cos(a + 1.8 * np.arcsin(np.sin(b))),
    "waves": lambda a, b: np.cos(a + 1.3 * np.sin(b)),
    "plaid": lambda a, b: (np.tanh(4 * np.cos(a)) + np.tanh(4 * np.cos(b))) / 16,
    "gradient": lambda a, _: a / 200,
    "roundel": lambda a, b: 0.5 - np.abs(np.hypot(a, b) - 4.7) / 3.2,
}  # where a second colour shows, and does not where it is negative, with a period of 2 pi along both axes


class Product(NamedTuple):
    """A painted product of S by S pixels, without light."""

    words: tuple[str, ...]  # category, shape, colour, pattern, material
    image: Array  # (S, S, 4), RGB and alpha, up to 255
    slopes: Array  # (2, S, S), of the surface, down and across


def invent(category: str, pixels: int, rng: np.random.Generator) -> Product:
    """Choose and paint a product of ``category``, a key of ``FAMILIES``, S = ``pixels``.

    >>> mug = invent("mug", 64, np.random.default_rng(0))
    >>> mug.words[0], mug.image.shape
    ('mug', (64, 64, 4))
    """
    breadth = rng.random()
    main, second, *_ = rng.permutation(COLOURS).tolist()
    kind, material = (str(rng.choice(list(table))) for table in (PATTERNS, MATERIALS))
    # The colours of CSS, less loud; and two red products are not equally red.
    loud = np.array([ImageColor.getrgb(name) for name in (main, second, "black", "white")])
    rgba = np.insert(40 + 0.75 * loud + rng.uniform(-26, 26, (4, 3)), 3, 255, axis=1)
    paints: dict[str, Array] = dict(zip(("main", "second", "dark", "pale"), rgba, strict=True))
    share = pattern(kind, pixels, rng.uniform(0.09, 0.22), rng.integers(4) * math.pi / 4)[..., None]
    paints["main"] = rgba[0] + share * (rgba[1] - rgba[0])
    # Each part is a cushion: its mask blurred, with a spectrum that makes it steepest at the edge.
    waves = np.fft.fftfreq(pixels, 1 / pixels)[:, None] ** 2 + np.fft.rfftfreq(pixels, 1 / pixels) ** 2
    blur = 0.19 * pixels * (1 + 0.06 * waves) ** -1.5
    image, slopes, body = (np.zeros(shape, np.float32) for shape in ((pixels, pixels, 4), (2, pixels, pixels), ()))
    for part, mask in _masks(FAMILIES[category], breadth, pixels, rng):
        if part.inside:
            mask = mask * body
        elif part.paint == "main":
            body = np.maximum(body, mask)
        image += mask[..., None] * (paints[part.paint] - image)
        cushion = np.array(np.gradient(np.fft.irfft2(np.fft.rfft2(mask) * blur, mask.shape)))
        slopes += mask * (0.2 * cushion if part.inside else cushion - slopes)
    strength, across, down, *_ = MATERIALS[material]
    image[..., :3] *= 1 + strength * (_noise(rng, pixels, across, down)[..., None] - 0.5)
    return Product((category, SHAPES[int(3 * breadth)], main, kind, material), image, slopes)


def _masks(parts: list[Part], breadth: float, pixels: int, rng: np.random.Generator) -> Iterator[tuple[Part, Array]]:
    """The parts with their masks (S, S), in proportions of one product, slim to broad, so that they fill a square."""
    parts = [part for part in parts if not part.optional or rng.random() < 0.5]
    x, y = np.concatenate([part.outline for part in parts]).T / 100
    width = 0.8 + 0.4 * breadth + np.cos(np.pi * y[:, None] * (1, 2, 3)) @ rng.uniform(-0.18, 0.18, 3)
    points = np.stack([(x - 0.5) * width, (1.2 - 0.4 * breadth) * y ** rng.uniform(0.8, 1.25)], axis=1)
    middle, most = (points.min(axis=0) + points.max(axis=0)) / 2, np.ptp(points, axis=0).max()
    left = [(x, y) for x, y in ((points - middle) * 1.72 / most + 1) * pixels]
    for part in parts:
        outline, left = left[: len(part.outline)], left[len(part.outline) :]
        canvas = Image.new("L", (2 * pixels, 2 * pixels))  # twice as large, then averaged
        if not part.stroke:
            ImageDraw.Draw(canvas).polygon(outline, 255)
        ImageDraw.Draw(canvas).line(outline, 255, max(1, round(part.stroke * pixels / 50)), joint="curve")
        yield part, np.asarray(canvas.reduce(2)) / 255


def pattern(kind: str, pixels: int, period: float, angle_rad: float) -> Array:
    """How much of a second colour shows at each pixel, (S, S) in [0, 1]."""
    x = 2 * math.pi / period * (np.arange(pixels) / pixels - 0.5)
    y, cos, sin = x[:, None], math.cos(angle_rad), math.sin(angle_rad)
    return np.asarray(4 * PATTERNS[kind](x * cos + y * sin, y * cos - x * sin) + 0.5).clip(0, 1)


def _noise(rng: np.random.Generator, pixels: int, across: int, down: int) -> Array:
    knots = Image.fromarray(rng.random((down, across), dtype=np.float32))
    return np.asarray(knots.resize((pixels, pixels), Image.Resampling.BICUBIC))


def photograph(product: Product, clutter: Sequence[Product], size: int, rng: np.random.Generator) -> Image.Image:
    """One view of a product among ``clutter``, RGB, ``size`` by ``size`` pixels."""
    x = np.arange(size) / size - 0.5
    y = x[:, None]
    edge = rng.uniform(-0.1, 0.7) + rng.normal(0, 0.05) * x  # where a wall meets a table, if in view
    scene = Image.fromarray(np.where((y > edge)[..., None], _surface(size, rng), _surface(size, rng)))
    light = cmath.rect(rng.uniform(0.5, 1), rng.uniform(0, 2 * math.pi))
    behind = int(rng.integers(len(clutter) + 1))
    for thing in (*clutter[:behind], product, *clutter[behind:]):
        _lay(scene, thing, light, 1 if thing is product else 0.3, rng)
    # The camera: one side in shade, dim or bright, warm or cool, noisy, out of focus.
    shade = rng.uniform(0.65, 1.25) * (1 + rng.uniform(0, 0.8) * (x * light.real + y * light.imag))[..., None]
    cast = 1 + rng.normal(0, 0.11) * np.array([1, 0, -1])
    noise = rng.normal(0, rng.uniform(0, 10), (size, size, 1))
    blur = ImageFilter.GaussianBlur(max(0, rng.normal(0.3, 0.4)) * size / 160)
    view = np.asarray(scene) * (shade * cast) + noise
    return Image.fromarray(view.clip(0, 255).astype(np.uint8)).filter(blur)


def _surface(size: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A background (S, S, 3) in two tints of a colour: something between a pattern and cloth, planks or plaster."""
    share = pattern(str(rng.choice(list(PATTERNS))), size, rng.uniform(0.06, 0.3), rng.uniform(0, math.pi))
    share += rng.random() * (_noise(rng, size, *rng.choice((2, 6, 25, 90), 2)) - share)
    return (rng.uniform(110, 255, 3) * (1 - rng.uniform(0.3, 0.7) * share.clip(0, 1)[..., None])).astype(np.uint8)


def _lay(scene: Image.Image, product: Product, light: complex, reach: float, rng: np.random.Generator) -> None:
    """Put a product on the scene: posed, lit, and with a soft shadow on the side away from the light."""
    pixels, size, (*_, gloss, mirror) = len(product.image), scene.width, MATERIALS[product.words[-1]]
    turn = cmath.rect(1, rng.normal(0, 0.3))
    toward, (down, across) = light / turn, product.slopes.clip(-1, 1)  # as the product sees it
    shade = (0.86 - 0.55 * (across * toward.real + down * toward.imag)).clip(0.25, 1.25)
    shade *= 1 + mirror * np.sin(6.5 * across + 4 * down + 5 * toward.real)
    shine = np.exp(-28 * ((across + 0.32 * toward.real) ** 2 + (down + 0.32 * toward.imag) ** 2))
    lit = product.image.copy()
    lit[..., :3] = lit[..., :3] * shade[..., None] + 255 * gloss * shine[..., None]
    # The corners of the frame as the product sees them: moved, turned, near or far, seen askew.
    frame = np.array([-1 - 1j, -1 + 1j, 1 + 1j, 1 - 1j]) / 2 - complex(*rng.uniform(-0.12, 0.12, 2)) / reach
    seen = (frame / turn / reach / rng.uniform(0.6, 1)).view(np.float64).reshape(4, 2)
    quad = pixels * (seen / rng.uniform(0.8, 1, 2) + rng.uniform(-0.09, 0.09, (4, 2)) + 0.5)
    corners, way = quad.ravel().tolist(), Image.Resampling.BILINEAR
    posed = Image.fromarray(lit.clip(0, 255).astype(np.uint8)).transform(scene.size, Image.Transform.QUAD, corners, way)
    alpha = posed.getchannel("A")
    shadow = alpha.filter(ImageFilter.GaussianBlur(0.025 * size)).point(lambda value: value // 2)
    scene.paste((0, 0, 0), (round(-0.05 * size * light.real), round(-0.05 * size * light.imag)), shadow)
    scene.paste(posed, mask=alpha)
