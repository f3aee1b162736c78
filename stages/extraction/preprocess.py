"""Pixels -> the square that a backbone takes, as the library that trained it does.

Three ways to fill the square, then a centre crop or a border::

    shorter   the shorter side becomes resize_to, the aspect is kept, the centre is cut out      (most backbones)
    squash    both sides become resize_to, the aspect is lost                                    (SigLIP, PCA)
    longest   the longer side becomes resize_to, the aspect is kept, a border fills the square

Resizing is Pillow's, antialiased, and the rounding is torchvision's: the result equals timm's and open_clip's own
transforms bit for bit. Only an image so long that its resized form would pass 16 million pixels (a strip of 1 x 5,000)
is resized inside the crop alone, which can differ by one level and does not fill the memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from cache.fingerprint import JSON

Resize = Literal["shorter", "squash", "longest"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]

Colour = tuple[float, float, float]

_LARGEST = 1 << 24  # pixels of a resized image before its crop


@dataclass(frozen=True)
class Preprocess:
    """Every value of the way from an image to a backbone's input. ``size`` and ``resize_to`` are pixels.

    ``mean`` and ``std`` are of values in [0, 1]; ``fill`` is the colour of the border, in [0, 255].
    """

    size: int
    resize: Resize
    resize_to: int
    interpolation: Interpolation
    mean: Colour
    std: Colour
    fill: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is in pixels and must be at least 1, got {self.size}")
        if self.resize_to < self.size and self.resize != "longest":
            raise ValueError(
                f"resize_to must be at least size ({self.size}), got {self.resize_to}: "
                "the crop would reach outside the image. Only resize = 'longest' adds a border."
            )
        if self.resize_to < 1:
            raise ValueError(f"resize_to is in pixels and must be at least 1, got {self.resize_to}")
        if not all(deviation > 0 for deviation in self.std):
            raise ValueError(f"std must be positive, got {self.std}")

    def identity(self) -> dict[str, JSON]:
        """Everything here that changes a pixel, as plain JSON."""
        return {
            "size": self.size,
            "resize": self.resize,
            "resize_to": self.resize_to,
            "interpolation": self.interpolation,
            "mean": [float(value) for value in self.mean],
            "std": [float(value) for value in self.std],
            "fill": list(self.fill) if self.resize == "longest" else None,
        }

    def __call__(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """``image`` (H, W, 3) uint8 as (3, S, S) uint8, S being ``size``."""
        from PIL import Image

        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        square = self._square(Image.fromarray(image))
        return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))

    def normalize(self, batch: torch.Tensor) -> torch.Tensor:
        """``batch`` (B, 3, S, S) uint8 as float32, each channel less ``mean`` and divided by ``std``, on its device."""
        import torch

        mean = torch.tensor(self.mean, device=batch.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=batch.device).view(3, 1, 1)
        return batch.to(torch.float32).div_(255).sub_(mean).div_(std)

    def _square(self, image: Image.Image) -> Image.Image:
        from PIL import Image

        width, height = self._resized(image.width, image.height)
        filter_ = Image.Resampling[self.interpolation.upper()]
        left, top = _offset(width, self.size), _offset(height, self.size)
        if width * height > _LARGEST:
            # The same window, cut out before it is resized.
            x, y = image.width / width, image.height / height
            window = (left * x, top * y, (left + self.size) * x, (top + self.size) * y)
            return image.resize((self.size, self.size), filter_, box=window)
        resized = image.resize((width, height), filter_)
        if width >= self.size and height >= self.size:
            return resized.crop((left, top, left + self.size, top + self.size))
        framed = Image.new("RGB", (self.size, self.size), self.fill)
        framed.paste(resized, (-left, -top))
        return framed

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing, rounded as torchvision (shorter) and timm (longest) do."""
        if self.resize == "squash":
            return self.resize_to, self.resize_to
        if self.resize == "shorter":
            longer = int(self.resize_to * max(width, height) / min(width, height))
            return (self.resize_to, longer) if width <= height else (longer, self.resize_to)
        ratio = max(width / self.resize_to, height / self.resize_to)
        return max(1, round(width / ratio)), max(1, round(height / ratio))


def _offset(length: int, size: int) -> int:
    """Where a centred window of ``size`` starts in ``length``; negative: the width of the border before it."""
    if length >= size:
        return round((length - size) / 2)
    return -((size - length) // 2)


@dataclass(frozen=True)
class PreprocessConfig:
    """What a run file may say about preprocessing; None, the default, is the backbone's own value.

    ``crop_pct`` is the part of the resized side that the crop keeps: ``resize_to`` is floor(size / crop_pct). Give one
    of the two or none.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    size: int | None = None
    resize: Resize | None = None
    crop_pct: float | None = None
    resize_to: int | None = None
    interpolation: Interpolation | None = None
    mean: Colour | None = None
    std: Colour | None = None

    def __post_init__(self) -> None:
        if self.crop_pct is not None and self.resize_to is not None:
            raise ValueError(f"give crop_pct ({self.crop_pct}) or resize_to ({self.resize_to}), not both")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct is a part of the image in (0, 1], got {self.crop_pct}")

    def resolve(
        self,
        *,
        size: int,
        mean: Colour,
        std: Colour,
        crop_pct: float = 1.0,
        resize: Resize = "shorter",
        interpolation: Interpolation = "bicubic",
        fill: tuple[int, int, int] | None = (0, 0, 0),
    ) -> Preprocess:
        """The given values, which are the library's own, but for those that this config overrides.

        ``fill`` None is the mean colour.
        """
        size = self.size or size
        mean = self.mean or mean
        red, green, blue = fill or (round(255 * value) for value in mean)
        return Preprocess(
            size=size,
            resize=self.resize or resize,
            resize_to=self.resize_to or math.floor(size / (self.crop_pct or crop_pct)),
            interpolation=self.interpolation or interpolation,
            mean=mean,
            std=self.std or std,
            fill=(red, green, blue),
        )
