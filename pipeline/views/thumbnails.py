"""Pictures of images wherever they lie: opened for drawing, or small and as data URIs for a page that loads nothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from PIL import Image

from cache import parse_source
from stages.extraction import DecodeError, decode
from stages.processes import processors

_QUALITY = 70


class Picture(NamedTuple):
    """The bytes of a JPEG within a square, and its size in pixels; or the ``reason`` why there is none."""

    content: bytes
    width: int
    height: int
    reason: str = ""

    @property
    def data(self) -> str | None:
        """The picture as a data URI, for a page that loads nothing."""
        return None if self.reason else "data:image/jpeg;base64," + base64.b64encode(self.content).decode("ascii")


def thumbnails(
    uris: Iterable[str], side: int, on_progress: Callable[[int, int], None] | None = None
) -> Mapping[str, Picture]:
    """A picture of ``side`` pixels at most for each different one of ``uris``; a file that is none has its reason."""
    wanted, pictures = list(dict.fromkeys(uris)), {}
    with ThreadPoolExecutor(processors()) as threads:  # Pillow decodes outside the interpreter's lock
        made = threads.map(lambda uri: small_jpeg(uri, side), wanted)
        for done, (uri, picture) in enumerate(zip(wanted, made, strict=True), 1):
            pictures[uri] = picture
            if on_progress is not None:
                on_progress(done, len(wanted))
    return pictures


def open_picture(uri: str, side: int) -> Image.Image | str:
    """The image at ``uri``, of at least ``side`` pixels where it is as large; or the reason why there is none."""
    try:
        source = parse_source(uri)
        return Image.fromarray(decode(source.read(), box=source.box, at_least=side))
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except (ValueError, DecodeError) as error:
        return f"cannot be decoded: {error}"


def fitted(image: Image.Image, ratio: float, filter_: Image.Resampling) -> Image.Image:
    """``image`` scaled by ``ratio``, at least one pixel wide and high."""
    size = max(1, round(ratio * image.width)), max(1, round(ratio * image.height))
    return image.resize(size, filter_, reducing_gap=2.0)


def small_jpeg(uri: str, side: int) -> Picture:
    """The image at ``uri`` within a square of ``side`` pixels."""
    image = open_picture(uri, side)
    if isinstance(image, str):
        return Picture(b"", side, side, image)
    small = fitted(image, min(1.0, side / max(image.size)), Image.Resampling.BICUBIC)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=_QUALITY, optimize=True)
    return Picture(content.getvalue(), *small.size)
