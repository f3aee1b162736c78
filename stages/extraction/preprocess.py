"""An image's bytes -> the square of pixels that a backbone takes, as the library that trained it does.

Three ways to fill the square, then a centre crop or a border::

    shorter   the shorter side becomes resize_to, the aspect is kept, the centre is cut out      (most backbones)
    squash    both sides become resize_to, the aspect is lost                                    (SigLIP, PCA)
    longest   the longer side becomes resize_to, the aspect is kept, a border fills the square

With the ``exact`` decoder resizing is Pillow's, antialiased, and the rounding is torchvision's: the result equals
timm's and open_clip's own transforms bit for bit. With ``fast`` bilinear and bicubic resizing is PyTorch's own on
bytes, three times as fast. Only an image so long that its resized form would pass 16 million pixels is resized inside
the crop alone, which can differ by one level and does not fill the memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from cache.errors import SettingsError
from cache.fingerprint import JSON
from cache.settings import Settings
from cache.source import Box
from stages.extraction.decode import DECODER

if TYPE_CHECKING:
    import torch

Decoder = Literal["fast", "exact"]
DECODERS: dict[Decoder, str] = {"fast": f"{DECODER} torch/1", "exact": DECODER}
"""What decodes and resizes, as a store's identity names it."""

Resize = Literal["shorter", "squash", "longest"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
Colour = tuple[float, float, float]

LARGEST = 1 << 24  # pixels of a resized image before its crop


@dataclass(frozen=True)
class Preprocess:
    """Every value of the way from an image to a backbone's input. ``size`` and ``resize_to`` are pixels.

    ``mean`` and ``std`` are of values in [0, 1]; ``fill`` is the colour of the border, in [0, 255]; ``views`` adds
    further squares of each image.

    >>> preprocess = PreprocessConfig().resolve(size=2, mean=(0, 0, 0), std=(1, 1, 1))
    >>> preprocess(np.zeros((8, 6, 3), np.uint8)).shape
    (3, 2, 2)
    """

    size: int
    resize: Resize
    resize_to: int
    interpolation: Interpolation
    mean: Colour
    std: Colour
    fill: tuple[int, int, int] = (0, 0, 0)
    decoder: Decoder = "fast"
    views: ViewsConfig | None = None

    def __post_init__(self) -> None:
        for name in ("size", "resize_to"):
            if (value := getattr(self, name)) < 1:
                raise SettingsError(f"{name} is in pixels and must be at least 1, got {value}")
        if self.resize_to < self.size and self.resize != "longest":
            raise SettingsError(
                f"resize_to must be at least size ({self.size}), got {self.resize_to}: "
                "the crop would reach outside the image. Only resize = 'longest' adds a border."
            )
        if not all(deviation > 0 for deviation in self.std):
            raise SettingsError(f"std must be positive, got {self.std}")

    def identity(self) -> dict[str, JSON]:
        """Everything here that changes a pixel, as plain JSON; the decoder stands beside it."""
        values: dict[str, JSON] = {
            name: getattr(self, name) for name in ("size", "resize", "resize_to", "interpolation")
        }
        values |= {"mean": [float(value) for value in self.mean], "std": [float(value) for value in self.std]}
        values["fill"] = list(self.fill) if self.resize == "longest" else None
        return values | ({"views": self.views.identity()} if self.views else {})

    @classmethod
    def of_identity(cls, identity: Mapping[str, Any]) -> Preprocess:
        """The preprocessing whose values a backbone's ``identity`` holds."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in identity["preprocess"].items()
            if value is not None
        }
        views: dict[str, Any] | None = values.pop("views", None)
        if views and "area" in views:
            views = views | {"area": tuple(views["area"])}
        decoder = next(decoder for decoder, name in DECODERS.items() if name == identity["decoder"])
        return cls(**values, decoder=decoder, views=ViewsConfig(**views) if views else None)

    @property
    def count(self) -> int:
        """V, the number of squares that an image becomes."""
        return 1 + (self.views.extra if self.views else 0)

    @property
    def stored(self) -> int:
        """The number of features that are stored of each image: of each view, or of all of them one mean."""
        return 1 if self.views and self.views.average else self.count

    def __call__(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """``image`` (H, W, 3) uint8 as (3, S, S) uint8, S being ``size``: the plain view."""
        return np.ascontiguousarray(self.square(image).transpose(2, 0, 1))

    def squares(self, image: npt.NDArray[np.uint8], digest: bytes) -> Iterator[npt.NDArray[np.uint8]]:
        """The V views of ``image`` (H, W, 3), each (S, S, 3) uint8, the plain one first, others by its digest."""
        plain = self.square(image)
        yield plain
        if self.views is None:
            return
        if self.views.kind == "flip":
            yield plain[:, ::-1]
            return
        for left, top, right, bottom in self.views.boxes(image.shape[1], image.shape[0], digest):
            yield squash(image[top:bottom, left:right], self.size, self.size, self.interpolation, self.decoder)

    def square(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """``image`` (H, W, 3) uint8 as (S, S, 3) uint8, S being ``size``: the plain view."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise SettingsError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        width, height = self._resized(image.shape[1], image.shape[0])
        left, top = _offset(width, self.size), _offset(height, self.size)
        if width * height > LARGEST:
            # The same window, cut out before it is resized.
            x, y = image.shape[1] / width, image.shape[0] / height
            window = (left * x, top * y, (left + self.size) * x, (top + self.size) * y)
            return squash(image, self.size, self.size, self.interpolation, "exact", window)
        resized = squash(image, width, height, self.interpolation, self.decoder)
        if width >= self.size and height >= self.size:
            return resized[top : top + self.size, left : left + self.size]
        framed = np.empty((self.size, self.size, 3), np.uint8)
        framed[:] = self.fill
        inside = resized[max(top, 0) : top + self.size, max(left, 0) : left + self.size]
        framed[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]] = inside
        return framed

    def colours(self, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
        """``mean`` and ``std``, (3, 1, 1) each, on ``device``."""
        import torch

        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))
        return mean, std

    def normalize(self, batch: torch.Tensor, colours: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
        """``batch`` (B, 3, S, S) uint8 as float32, each channel less ``mean`` and divided by ``std``, on its device."""
        import torch

        mean, std = colours or self.colours(batch.device)
        if batch.device.type != "cpu":
            return batch.to(torch.float32).div_(255).sub_(mean).div_(std)
        count, _, height, width = batch.shape
        rows = batch.permute(0, 2, 3, 1)
        if rows.is_contiguous():  # rows of RGBRGB... are long enough to compute in vectors
            rows = rows.reshape(count, height, 3 * width)
            mean, std = (values.view(3).repeat(width) for values in (mean, std))
        else:
            rows = batch
        normal = torch.empty_like(rows, dtype=torch.float32)
        for image, pixels in zip(normal, rows, strict=True):  # one at a time stays in the processor's cache
            image.copy_(pixels).div_(255).sub_(mean).div_(std)
        return normal if rows is batch else normal.view(count, height, width, 3).permute(0, 3, 1, 2)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing, rounded as torchvision (shorter) and timm (longest) do."""
        if self.resize == "squash":
            return self.resize_to, self.resize_to
        if self.resize == "shorter":
            longer = int(self.resize_to * max(width, height) / min(width, height))
            return (self.resize_to, longer) if width <= height else (longer, self.resize_to)
        ratio = max(width / self.resize_to, height / self.resize_to)
        return max(1, round(width / ratio)), max(1, round(height / ratio))


def squash(
    image: npt.NDArray[np.uint8],
    width: int,
    height: int,
    interpolation: Interpolation,
    decoder: Decoder,
    window: tuple[float, float, float, float] | None = None,
) -> npt.NDArray[np.uint8]:
    """``image`` (H, W, 3), or a ``window`` (left, top, right, bottom), as (``height``, ``width``, 3), antialiased.

    By Pillow, or for the ``fast`` decoder by PyTorch on bytes where that does the same, three times as fast.
    """
    if decoder == "fast" and interpolation in ("bilinear", "bicubic") and window is None:
        import torch
        from torch.nn.functional import interpolate

        rows = torch.from_numpy(np.require(image, requirements=["C", "W"]))
        high, wide, _ = image.shape
        # Strides that PyTorch takes for channels last, and so leaves the pixels in place: twice as fast.
        pixels = torch.as_strided(rows, (1, 3, high, wide), (3 * high * wide, 1, 3 * wide, 3))
        resized = interpolate(pixels, (height, width), mode=interpolation, antialias=True, align_corners=False)
        return resized[0].permute(1, 2, 0).numpy()
    from PIL import Image

    filter_ = Image.Resampling[interpolation.upper()]
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((width, height), filter_, box=window))


def _offset(length: int, size: int) -> int:
    """Where a centred window starts; negative: the width of the border before it."""
    if length >= size:
        return round((length - size) / 2)
    return -((size - length) // 2)


@dataclass(frozen=True)
class PreprocessConfig(Settings):
    """What a run file may set of the preprocessing; None, the default, is the backbone's own value.

    Args:
        size: pixels of a side of the network's input.
        resize: to the shorter side and a crop, squashed to a square, or to the longer side and a border.
        crop_pct: the part of the resized side that the crop keeps.
        resize_to: pixels of the resized side, in place of ``crop_pct``.
        interpolation: the filter of the resizing.
        mean: of red, green and blue in [0, 1], taken away.
        std: of red, green and blue in [0, 1], divided by.
        decoder: ``fast``, or ``exact`` for Pillow and the library's own transform.
        views: further views of each image.
    """

    size: int | None = None
    resize: Resize | None = None
    crop_pct: float | None = None
    resize_to: int | None = None
    interpolation: Interpolation | None = None
    mean: Colour | None = None
    std: Colour | None = None
    decoder: Decoder = "fast"
    views: ViewsConfig | None = None

    def __post_init__(self) -> None:
        if self.crop_pct is not None and self.resize_to is not None:
            raise SettingsError(f"give crop_pct ({self.crop_pct}) or resize_to ({self.resize_to}), not both")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise SettingsError(f"crop_pct is a part of the image in (0, 1], got {self.crop_pct}")

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
        """The library's values, the arguments, unless this config has its own; ``fill`` None is the mean colour."""
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
            decoder=self.decoder,
            views=self.views,
        )


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
