"""Made-up products, each painted once without light, and views of them: posed, lit, and put among clutter."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw, ImageFilter

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
