"""Views: further squares of each image, whose features are averaged, or trained on as if the image were augmented."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cache.errors import SettingsError
from cache.fingerprint import JSON
from cache.settings import Settings
from cache.source import Box

_TRIES = 10


@dataclass(frozen=True)
class ViewsConfig(Settings):
    """Views of each image besides the plain one, which is always the first.

    Attributes:
        kind: ``flip``, the plain view mirrored left to right; or ``crops``, random parts of the image.
        count: of crops.
        area: the least and largest part of the image's area that a crop has.
        ratio: a crop's width over its height is between 1 / ``ratio`` and ``ratio``.
        seed: of the crops.
        average: store one feature an image, the mean of its views' features, each of unit length; otherwise all of
            them, the plain one first.

    >>> list(ViewsConfig("crops", count=1, area=(1, 1), ratio=1).boxes(64, 64, digest=bytes(32)))
    [(0, 0, 64, 64)]
    """

    kind: Literal["flip", "crops"]
    count: int = 4
    area: tuple[float, float] = (0.3, 1.0)
    ratio: float = 4 / 3
    seed: int = 0
    average: bool = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise SettingsError(f"count of views must be at least 1, got {self.count}")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise SettingsError(f"area is two parts of the image in (0, 1], the smaller first; got {self.area}")
        if self.ratio < 1:
            raise SettingsError(f"ratio is of the longer to the shorter side, at least 1; got {self.ratio}")

    @property
    def extra(self) -> int:
        """How many views there are besides the plain one."""
        return 1 if self.kind == "flip" else self.count

    def identity(self) -> dict[str, JSON]:
        """Everything here that changes a pixel, as plain JSON."""
        values: dict[str, JSON] = {"kind": self.kind} | ({"average": True} if self.average else {})
        if self.kind == "crops":
            values |= {"count": self.count, "seed": self.seed, "ratio": float(self.ratio)}
            values["area"] = [float(part) for part in self.area]
        return values

    def boxes(self, width: int, height: int, digest: bytes) -> Iterator[Box]:
        """``count`` random boxes in an image of ``width`` x ``height`` pixels, drawn from the seed and its digest."""
        rng = np.random.default_rng([self.seed, *np.frombuffer(digest, np.uint32)])
        for _ in range(self.count):
            across, down = self._sides(width, height, rng)
            left, top = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
            yield left, top, left + across, top + down

    def _sides(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int]:
        for _ in range(_TRIES):
            area = width * height * rng.uniform(*self.area)
            ratio = math.exp(rng.uniform(-math.log(self.ratio), math.log(self.ratio)))
            across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 1 <= across <= width and 1 <= down <= height:
                return across, down
        return width, height  # a strip: no part of it has such a shape
