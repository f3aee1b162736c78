"""What pages are made of: templates of ``presets``, with nothing loaded from elsewhere, and pictures in them."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from PIL import Image

from cache import parse_source
from stages.extraction import DecodeError, decode
from stages.processes import processors

_QUALITY = 70
_NONE: Mapping[str, bytes] = {}
_PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("pipeline", "presets"),
    autoescape=jinja2.select_autoescape(disabled_extensions=("txt",), default=True),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_BREAKS = re.compile(r"(?<=\w[_/\\·:])(?=\w)|(?<=\w[.-])(?=[^\W\d_])")


def render(template: str, **values: object) -> str:
    """What ``template``, a path below ``presets``, makes of ``values``; in a page every text in them is escaped."""
    return _PAGES.get_template(template).render(**values)


def pieces(text: str) -> list[str]:
    """The parts of ``text`` between which a page may break a line: behind the punctuation of a name.

    >>> pieces("red_dress/maxi-2 1e-3")
    ['red_', 'dress/', 'maxi-2 1e-3']
    """
    return _BREAKS.split(text)


def breakable(text: str) -> Markup:
    """``text``, escaped, with its places to break a line.

    >>> breakable("A&B_1")
    Markup('A&amp;B_<wbr>1')
    """
    return Markup("<wbr>").join(pieces(text))


_PAGES.filters["breakable"] = breakable


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
    uris: Iterable[str],
    side: int,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    digests: Mapping[str, bytes] = _NONE,
) -> Mapping[str, Picture]:
    """A picture of ``side`` pixels at most for each different one of ``uris``; a file that is none has its reason.

    So has one whose bytes are not those of its digest, for those that ``digests`` has.
    """
    wanted, pictures = list(dict.fromkeys(uris)), {}
    with ThreadPoolExecutor(processors()) as threads:  # Pillow decodes outside the interpreter's lock
        made = threads.map(lambda uri: small_jpeg(uri, side, digests.get(uri)), wanted)
        for done, (uri, picture) in enumerate(zip(wanted, made, strict=True), 1):
            pictures[uri] = picture
            if on_progress is not None:
                on_progress(done, len(wanted))
    return pictures


def digests_of(uris: Iterable[str], table: pa.Table) -> dict[str, bytes]:
    """The digest of each of ``uris`` that is among the rows of ``table``, by the columns uri and digest."""
    rows = table.select(["uri", "digest"]).filter(pc.is_in(table["uri"], pa.array([*{*uris}], table["uri"].type)))
    pairs = zip(rows["uri"].to_pylist(), rows["digest"].to_pylist(), strict=True)
    return {uri: digest for uri, digest in pairs if digest is not None}


def open_picture(uri: str, side: int, digest: bytes | None = None) -> Image.Image | str:
    """The image at ``uri``, of at least ``side`` pixels where it is as large; or the reason why there is none.

    With the ``digest`` of a row, bytes of another one are no picture of it.
    """
    try:
        source = parse_source(uri)
        content = source.read()
        if digest is not None and source.digest(content) != digest:
            return "has changed since it was embedded"
        return Image.fromarray(decode(content, box=source.box, at_least=side))
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except (ValueError, DecodeError) as error:
        return f"cannot be decoded: {error}"


def fitted(image: Image.Image, ratio: float, filter_: Image.Resampling) -> Image.Image:
    """``image`` scaled by ``ratio``, at least one pixel wide and high."""
    size = max(1, round(ratio * image.width)), max(1, round(ratio * image.height))
    return image.resize(size, filter_, reducing_gap=2.0)


def small_jpeg(uri: str, side: int, digest: bytes | None = None) -> Picture:
    """The image at ``uri`` within a square of ``side`` pixels; see :func:`open_picture`."""
    image = open_picture(uri, side, digest)
    if isinstance(image, str):
        return Picture(b"", side, side, image)
    small = fitted(image, min(1.0, side / max(image.size)), Image.Resampling.BICUBIC)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=_QUALITY, optimize=True)
    return Picture(content.getvalue(), *small.size)
