"""Bytes of an image file -> pixels, always the same way.

The policy, which ``DECODER`` names in every store's identity:

* the first frame or page, turned as its EXIF orientation says;
* grey of 16 or 32 bits, whole numbers or floats, by the smallest of these ranges that holds all of its values: 0..1
  (floats only), 0..255, 0..65535. Other values are refused;
* transparency, of a palette or of a channel, laid on white;
* colour profiles not applied, as in the training of the backbones;
* whatever else stands beside the pixels (comments, profiles, EXIF, XMP) fails no image, however damaged.

Sizes are checked before pixels are decoded, so a decompression bomb costs nothing. Pillow's switches of the process
are set to what this policy wants while an image is decoded, and put back.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cache.errors import PermafrostError
from cache.source import Box
from stages.datasets.folder import image_type
from stages.device import Switches
from stages.extraction.without_metadata import without_metadata

if TYPE_CHECKING:
    from PIL import Image

DECODER = "pillow/1"  # the name of the policy above: it changes when the pixels of some image change

_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {"exif", "xmp"}  # where a JPEG may say that it is to be turned
_PILLOW = r"PIL\."
_QUIET = ("ignore", None, Warning, re.compile(_PILLOW), 0)  # as the warnings module writes down the filter
_STARTS = {b"\xff\xd8\xff": "a JPEG", b"\x89PNG": "a PNG", b"GIF8": "a GIF", b"RIFF": "a WebP", b"BM": "a BMP"}

MOST_PIXELS = 178_956_970  # an image of more pixels may be a bomb, and is refused by its header


class DecodeError(PermafrostError):
    """Bytes that are no usable image; ``reason`` is one short line, the same for the same bytes."""

    def __init__(self, reason: str) -> None:
        self.reason = " ".join(reason.split())[:200]
        super().__init__(self.reason)


class TooLargeError(DecodeError):
    """More pixels than are ever decoded: it may be a bomb."""


class NoDecoderError(DecodeError):
    """An image of a kind that an optional library reads, which is not installed: not the fault of the bytes."""


def decode(data: bytes, *, box: Box | None = None, at_least: int | None = None) -> npt.NDArray[np.uint8]:
    """The pixels of an image file's bytes, or of a ``box`` in it: (H, W, 3) uint8 RGB.

    With ``at_least`` a JPEG without a box may be decoded at a half, a quarter or an eighth of its size, as long as no
    side falls below so many pixels: for pictures to look at, never for features. An image of more than 178,956,970
    pixels is refused before it is decoded. Raises :class:`DecodeError` for whatever is wrong with the bytes, and
    MemoryError, which is not the image's fault, as it comes.

    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (3, 2), "red").save(file, "PNG")
    >>> decode(file.getvalue())[0, 0]
    array([255,   0,   0], dtype=uint8)
    """
    if not data:
        raise DecodeError("empty file")
    _hide_warnings_of_pillow()
    with own_switches():
        try:
            pixels = _decoded(data, at_least if box is None else None)
        except (TooLargeError, NoDecoderError):
            raise
        except DecodeError:
            for bare in without_metadata(data):
                with suppress(DecodeError):
                    pixels = _decoded(bare, at_least if box is None else None)
                    break
            else:
                raise
    return _cropped(pixels, box)


def decode_image(image: Image.Image) -> npt.NDArray[np.uint8]:
    """The pixels (H, W, 3) uint8 RGB of a Pillow image, by the same policy as those of a file.

    Of the frame that it stands at, turned as its EXIF says where it has one. Raises :class:`DecodeError`.

    >>> from PIL import Image
    >>> decode_image(Image.new("LA", (3, 2), (0, 0)))[0, 0]
    array([255, 255, 255], dtype=uint8)
    """
    _hide_warnings_of_pillow()
    with own_switches():
        try:
            return _pixels(image, None)
        except (DecodeError, MemoryError):
            raise
        except Exception as error:
            raise DecodeError(_why(error)) from error


def _decoded(data: bytes, at_least: int | None) -> npt.NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    if image_type(data[:64]) == "heic":
        _register_heic()
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _pixels(image, at_least)
    except (DecodeError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise DecodeError(_what_instead(data)) from None
    except Image.DecompressionBombError as error:
        raise TooLargeError(f"too large: {str(error).partition(',')[0]}") from None
    except Exception as error:
        # Pillow's readers raise OSError, SyntaxError, ValueError, EOFError, struct.error, KeyError, ...
        raise DecodeError(_why(error)) from error


def _pixels(image: Image.Image, at_least: int | None) -> npt.NDArray[np.uint8]:
    if image.format == "EPS":  # Pillow would start Ghostscript
        raise DecodeError("EPS is a program, not pixels")
    if at_least is not None:
        image.draft(None, (at_least, at_least))  # of a JPEG; it does nothing to others
    image.load()
    if image.format == "JPEG" and image.mode == "RGB" and not image.info.keys() & _TURNS:
        return np.asarray(image)
    return np.asarray(_upright(_as_rgb(image), _orientation(image)))


def _cropped(pixels: npt.NDArray[np.uint8], box: Box | None) -> npt.NDArray[np.uint8]:
    if box is None:
        return pixels
    left, top, right, bottom = box
    height, width = pixels.shape[:2]
    inside = pixels[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    if not inside.size or right <= left or bottom <= top:
        raise DecodeError(f"the box {left},{top},{right},{bottom} holds nothing of {width} x {height} pixels")
    return inside


def _as_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode.replace("a", "A"))
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Grey ``values`` (H, W) of 16 or 32 bits as levels in [0, 255], by the range they lie in."""
    low, high = float(values.min()), float(values.max())
    ranges = {1.0: 255.0} if values.dtype.kind == "f" else {}
    for top, factor in (ranges | {255.0: 1.0, 65535.0: 1 / 257}).items():
        if low >= 0 and high <= top:
            return np.rint(values.astype(np.float64) * factor).astype(np.uint8)
    raise DecodeError(f"grey values from {low:g} to {high:g}: expected 0..255 or 0..65535, or floats in 0..1")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - damaged metadata, of whatever kind, does not make the pixels worse
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
    }  # fmt: skip
    return image.transpose(turns[orientation]) if orientation in turns else image


@cache
def _register_heic() -> None:
    try:
        from pi_heif import register_heif_opener
    except ImportError:
        raise NoDecoderError("HEIC is read with pip install 'permafrost-retrieval[heic]'; then extract again") from None
    register_heif_opener(decode_threads=1)


def _what_instead(data: bytes) -> str:
    for start, name in _STARTS.items():
        if data.startswith(start):
            return f"not an image that Pillow can read: it starts like {name}, but is truncated or damaged"
    if data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "not an image that Pillow can read: it looks like HTML, SVG or XML"
    return "not an image that Pillow can read"


def _why(error: Exception) -> str:
    message = str(error) or type(error).__name__
    cut_short = isinstance(error, EOFError) or "truncat" in message.lower()
    return f"{'truncated' if cut_short else 'damaged'}: {message}"


def _hide_warnings_of_pillow() -> None:
    """Put a filter of Pillow's own warnings before all others, once; safe in threads, as ``catch_warnings`` is not.

    What Pillow warns of is either refused (too many pixels) or decoded all the same.
    """
    if not warnings.filters or warnings.filters[0] != _QUIET:
        warnings.filterwarnings("ignore", module=_PILLOW)


_of_pillow = Switches()


def own_switches() -> AbstractContextManager[None]:
    """Around a decode with Pillow, in any thread: the same pixels in any process. What is set meanwhile stays."""
    return _of_pillow.hold("pillow", _set_those_of_pillow)


def _set_those_of_pillow() -> Callable[[], object]:
    from PIL import GifImagePlugin, Image, ImageFile

    ours = [
        (ImageFile, "LOAD_TRUNCATED_IMAGES", False),  # a cut file is a failed image, not a grey one
        (Image, "MAX_IMAGE_PIXELS", MOST_PIXELS // 2),  # Pillow refuses twice as many
        (GifImagePlugin, "LOADING_STRATEGY", GifImagePlugin.LoadingStrategy.RGB_AFTER_FIRST),
    ]
    theirs = [getattr(module, name) for module, name, _ in ours]
    for module, name, wanted in ours:
        setattr(module, name, wanted)

    def restore() -> None:
        for (module, name, wanted), value in zip(ours, theirs, strict=True):
            if getattr(module, name) == wanted:
                setattr(module, name, value)

    return restore
