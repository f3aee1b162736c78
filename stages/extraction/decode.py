"""Bytes of an image file -> pixels, always the same way.

The policy, which ``DECODER`` names in every store's identity:

* the first frame or page, turned as its EXIF orientation says;
* 16-bit grey divided by 257 (Pillow's own conversion clips it to white); 32-bit integers and floats only where their
  range says what they mean;
* transparency, of a palette or of a channel, laid on white;
* colour profiles not applied, as in the training of the backbones.

Sizes are checked before pixels are decoded, so a decompression bomb costs nothing.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cache.errors import PermafrostError
from cache.source import Box

if TYPE_CHECKING:
    from PIL import Image

DECODER = "pillow/1"
"""The name of the policy above: it changes when the pixels of some image change."""

_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {"exif", "xmp"}  # where a JPEG may say that it is to be turned
_PILLOW = r"PIL\."
_QUIET = ("ignore", None, Warning, re.compile(_PILLOW), 0)  # as the warnings module writes down the filter
_STARTS = {b"\xff\xd8\xff": "a JPEG", b"\x89PNG": "a PNG", b"GIF8": "a GIF", b"RIFF": "a WebP", b"BM": "a BMP"}


class DecodeError(PermafrostError):
    """Bytes that are no usable image; ``reason`` is one short line, the same for the same bytes."""

    def __init__(self, reason: str) -> None:
        self.reason = " ".join(reason.split())[:200]
        super().__init__(self.reason)


def decode(data: bytes, *, box: Box | None = None, at_least: int | None = None) -> npt.NDArray[np.uint8]:
    """The pixels of an image file's bytes, or of a ``box`` in it: (H, W, 3) uint8 RGB.

    With ``at_least`` a JPEG without a box may be decoded at a half, a quarter or an eighth of its size, as long as no
    side falls below so many pixels: several times faster, for pictures to look at. Features never come from these.

    An image of more pixels than Pillow's limit, 178,956,970, is refused before it is decoded. Raises
    :class:`DecodeError` for whatever is wrong with the bytes, and MemoryError, which is not the image's fault, as it
    comes.

    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (3, 2), "red").save(file, "PNG")
    >>> decode(file.getvalue())[0, 0]
    array([255,   0,   0], dtype=uint8)
    """
    if not data:
        raise DecodeError("empty file")
    from PIL import Image, UnidentifiedImageError

    _hide_warnings_of_pillow()
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _cropped(_pixels(image, at_least if box is None else None), box)
    except (DecodeError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise DecodeError(_what_instead(data)) from None
    except Image.DecompressionBombError as error:
        raise DecodeError(f"too large: {str(error).partition(',')[0]}") from None
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

    if image.mode.startswith("I;16"):
        return _grey((np.asarray(image).astype(np.uint32) + 128) // 257)
    if image.mode in ("I", "F"):
        return _grey(_eight_bits(np.asarray(image)))
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode.replace("a", "A"))
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _grey(levels: npt.NDArray[np.generic]) -> Image.Image:
    from PIL import Image

    return Image.fromarray(levels.astype(np.uint8)).convert("RGB")


def _eight_bits(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Grey ``values`` (H, W) of 32 bits as levels in [0, 255], by the range they lie in."""
    low, high = float(values.min()), float(values.max())
    ranges = {1.0: 255.0, 255.0: 1.0} if values.dtype.kind == "f" else {65535.0: 1 / 257}
    for top, factor in ranges.items():
        if low >= 0 and high <= top:
            return np.rint(values.astype(np.float64) * factor)
    spans = " or ".join(f"0..{top:.0f}" for top in ranges)
    raise DecodeError(f"grey values from {low:g} to {high:g}: expected {spans}")


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
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


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
    """Put a filter of Pillow's own warnings before all others, once; safe in threads.

    ``warnings.catch_warnings`` is not: it puts the filters back that it saw, and takes away what another thread has set
    meanwhile. Nothing is put back here. What Pillow warns of is either refused (too many pixels) or decoded all the
    same, and with warnings turned into errors it must not make an image fail.
    """
    if not warnings.filters or warnings.filters[0] != _QUIET:
        warnings.filterwarnings("ignore", module=_PILLOW)
