"""Pictures of a made-up product: ``paint`` it once, ``photograph`` it many times.

A painted product has a colour, an alpha and the slope of its surface at every pixel, but no light. A photograph
poses it, lights it from some side, and puts it on a background among clutter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from stages.datasets.drawing.families import Paint, Part
from stages.datasets.drawing.product import Product
from stages.datasets.drawing.surfaces import Array, background, grid, pattern, texture, unit

MOST_HIDDEN = 0.2
"""Clutter hides no more of a product than this fraction of its area."""


class Layers(NamedTuple):
    """A painted product, S by S pixels."""

    colour: Image.Image
    """RGB, multiplied by the alpha."""
    surface: Image.Image
    """Slope in x and in y, both around 128, and the alpha, in place of R, G and B."""
    material: str


def paint(product: Product, pixels: int) -> Layers:
    """Draw a product without light, S = ``pixels``."""
    x, y = grid(pixels)
    grain, bumps = texture(product.material, x, y, np.random.default_rng(product.grain))
    colour, alpha, slope, body = (np.zeros((n, pixels, pixels), np.float32) for n in (3, 1, 2, 1))
    for part in product.parts:
        mask = _mask(part, pixels)
        if part.inside:
            mask = mask * body[0]
        own = _rgb(product, part.paint)
        fall, grown = _bulge(mask, deep=not part.inside)
        if part.paint == "main":
            np.maximum(body, mask, out=body)
            own = own + _ornament(product, mask, x, y) * (_rgb(product, "second") - own)
            fall = fall + bumps
        if part.paint in ("main", "second"):
            own = own * grain
        colour += mask * (own - colour)
        alpha += mask * (1 - alpha)
        slope += (0.5 * grown if part.inside else grown) * (fall - slope)
    return Layers(_image(colour), _image(np.concatenate([0.5 + slope * 0.498, alpha])), product.material)


def _mask(part: Part, pixels: int) -> Array:
    """Where a part lies, (S, S) in [0, 1]: drawn twice as large and averaged."""
    canvas = Image.new("L", (2 * pixels, 2 * pixels))
    pen = ImageDraw.Draw(canvas)
    points = [(float(a), float(b)) for a, b in part.outline * (2 * pixels)]
    if part.stroke:
        pen.line(points, fill=255, width=max(2, round(part.stroke * 2 * pixels)), joint="curve")
    else:
        pen.polygon(points, fill=255)
    return np.asarray(canvas.reduce(2), np.float32) / 255


def _rgb(product: Product, paint: Paint) -> Array:
    return np.array(product.rgb[paint], np.float32)[:, None, None]


def _ornament(product: Product, mask: Array, x: Array, y: Array) -> Array:
    """How much of the second colour the pattern, or the badge, shows on the part at ``mask``, (S, S)."""
    if product.pattern != "badge":
        return pattern(product.pattern, x, y, product.period, product.angle_rad)
    pixels = len(mask)
    area = mask.sum() + 1e-6
    middle = (float((mask * x).sum() / area) * pixels, float((mask * y).sum() / area) * pixels)
    radius = 0.13 * pixels
    stamp = Image.new("L", (pixels, pixels))
    pen = ImageDraw.Draw(stamp)
    pen.circle(middle, radius, fill=255)
    font = ImageFont.load_default(size=radius * (1.5, 1.15, 0.85)[len(product.letters) - 1])
    pen.text(middle, product.letters, fill=0, font=font, anchor="mm")
    return np.asarray(stamp, np.float32) / 255


def _bulge(mask: Array, *, deep: bool) -> tuple[Array, Array]:
    """The slope (2, S, S) of a surface that falls off towards the edge of ``mask``, and the mask grown, (S, S)."""
    near = _soften(mask, 0.012)
    height = 0.02 * near
    if deep:
        height = height + 0.05 * _soften(mask, 0.035) + 0.12 * _soften(mask, 0.09)
    across, down = np.gradient(height, axis=1), np.gradient(height, axis=0)
    return np.clip(np.stack([across, down]) * len(mask), -1, 1), unit(4 * near)


def _soften(values: Array, spread: float, shift: tuple[float, float] = (0.0, 0.0)) -> Array:
    """Blur an (S, S) array with a Gaussian of sigma ``spread`` and move it by ``shift``, both in widths."""
    cells = max(16, len(values) // 4)
    small = np.asarray(Image.fromarray(values).resize((cells, cells), Image.Resampling.BOX))
    place = np.arange(cells, dtype=np.float32) / cells
    across, down = (np.exp(-0.5 * ((place[:, None] - place - move) / spread) ** 2) for move in shift)
    weight = 2 * math.pi * (spread * cells) ** 2
    blurred = (down @ small @ across.T / weight).astype(np.float32)
    return np.asarray(Image.fromarray(blurred).resize(values.shape[::-1], Image.Resampling.BICUBIC))


def photograph(product: Layers, clutter: Sequence[Layers], size: int, rng: np.random.Generator) -> Image.Image:
    """One view of a painted product among up to three things of ``clutter``, RGB, ``size`` by ``size`` pixels."""
    scene = background(size, rng)
    sun = rng.uniform(0, 2 * math.pi)
    toward = rng.uniform(0.5, 1.0) * np.array([math.cos(sun), math.sin(sun)])
    pose = _pose(
        rng,
        scale=rng.uniform(0.7, 1.0),
        stretch=(rng.uniform(0.82, 1.0), rng.uniform(0.92, 1.0)),
        turn_rad=rng.normal(0, 0.22),
        drift=0.1,
    )
    shown = _light(product, pose, size, toward)
    in_front: list[tuple[Array, Array]] = []
    for _ in range(rng.integers(4)):
        thing = clutter[int(rng.integers(len(clutter)))]
        pose = _pose(rng, scale=rng.uniform(0.2, 0.42), stretch=(1, 1), turn_rad=rng.uniform(-3, 3), drift=0.5)
        lit = _light(thing, pose, size, toward)
        if rng.random() < 0.5 and hidden(shown[1], [alpha for _, alpha in (*in_front, lit)]) <= MOST_HIDDEN:
            in_front.append(lit)
        else:
            scene = _lay(scene, *lit, toward)
    for colour, alpha in (shown, *in_front):
        scene = _lay(scene, colour, alpha, toward)
    return _expose(scene, rng)


def hidden(alpha: Array, covers: Sequence[Array]) -> float:
    """The fraction of a product with this ``alpha`` (S, S) that ``covers``, (S, S) each, hide."""
    seen = alpha
    for cover in covers:
        seen = seen * (1 - cover)
    return 1 - float(seen.sum()) / max(float(alpha.sum()), 1e-6)


def _pose(
    rng: np.random.Generator, *, scale: float, stretch: tuple[float, float], turn_rad: float, drift: float
) -> Array:
    """A perspective map (8,), in Pillow's order, from the unit square of the frame to that of the product."""
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    turn = np.array([[math.cos(turn_rad), math.sin(turn_rad)], [-math.sin(turn_rad), math.cos(turn_rad)]])
    seen = (corners * stretch + rng.uniform(-0.05, 0.05, (4, 2))) @ turn * scale + 0.5 + rng.uniform(-drift, drift, 2)
    rows, wanted = [], []
    for (u, v), (a, b) in zip(seen, corners + 0.5, strict=True):
        rows += [[u, v, 1, 0, 0, 0, -u * a, -v * a], [0, 0, 0, u, v, 1, -u * b, -v * b]]
        wanted += [a, b]
    return np.linalg.solve(np.array(rows), np.array(wanted))


def _light(layers: Layers, pose: Array, size: int, toward: Array) -> tuple[Array, Array]:
    """Pose and light a product: its colour (3, S, S), multiplied by its alpha, and the alpha (S, S)."""
    colour = _warp(layers.colour, pose, size, outside=(0, 0, 0))
    across, down, alpha = _warp(layers.surface, pose, size, outside=(128, 128, 0))
    across, down = 2 * across - 1, 2 * down - 1
    shade = np.clip(0.86 - 0.55 * (across * toward[0] + down * toward[1]), 0.25, 1.25)
    if layers.material == "metal":
        shade *= 0.85 + 0.35 * np.sin(6.5 * across + 4 * down + 5 * toward[0])
    colour *= shade
    if layers.material in ("glossy", "metal"):
        glance = (across + 0.32 * toward[0]) ** 2 + (down + 0.32 * toward[1]) ** 2
        colour += 0.75 * alpha * np.exp(-28 * glance)
    return colour, alpha


def _warp(image: Image.Image, pose: Array, size: int, outside: tuple[int, int, int]) -> Array:
    """Pose an RGB image: (3, S, S) in [0, 1]."""
    a, b, c, d, e, f, g, h = (float(value) for value in pose)
    ratio = image.width / size
    pixels = (a * ratio, b * ratio, c * image.width, d * ratio, e * ratio, f * image.width, g / size, h / size)
    posed = image.transform(
        (size, size), Image.Transform.PERSPECTIVE, pixels, Image.Resampling.BILINEAR, fillcolor=outside
    )
    return _array(posed)


def _lay(scene: Array, colour: Array, alpha: Array, toward: Array) -> Array:
    """Put a lit thing, and its soft shadow on the side away from the light, on the scene (3, S, S)."""
    shadow = _soften(alpha, 0.025, shift=(-0.05 * float(toward[0]), -0.05 * float(toward[1])))
    return scene * ((1 - 0.5 * unit(shadow)) * (1 - alpha)) + colour


def _expose(scene: Array, rng: np.random.Generator) -> Image.Image:
    """Shade one side, dim or brighten, warm or cool, blur, and add noise."""
    size = scene.shape[1]
    x, y = grid(size)
    side = rng.uniform(0, 2 * math.pi)
    ramp = 1 + rng.uniform(0, 0.8) * ((x - 0.5) * math.cos(side) + (y - 0.5) * math.sin(side))
    warmth = rng.normal(0, 0.09)
    cast = np.array([1 + warmth, 1 + rng.normal(0, 0.025), 1 - warmth]) * rng.uniform(0.65, 1.25)
    image = _image(scene * (ramp * cast.astype(np.float32)[:, None, None]))
    image = image.filter(ImageFilter.GaussianBlur(max(0.0, rng.normal(0.3, 0.4)) * size / 160))
    grain = rng.standard_normal((size, size), np.float32) * np.float32(rng.uniform(0, 0.03))
    return _image(_array(image) + grain)


def _array(image: Image.Image) -> Array:
    """An RGB image as (3, S, S) in [0, 1]."""
    return np.asarray(image).transpose(2, 0, 1).astype(np.float32) / np.float32(255)


def _image(values: Array) -> Image.Image:
    """The inverse of ``_array``."""
    return Image.fromarray(np.ascontiguousarray((unit(values) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)))
