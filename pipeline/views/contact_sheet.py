"""One picture of some queries and of what each ranking put nearest: the quickest way to see what a head changed.

::

    title                                            legend
    +-------+   raw         [v .71] [x .70] [x .66] ...
    | query |
    +-------+   arcface64   [v .93] [v .90] [v .88] ...
    caption
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from cache import parse_source
from cache.atomic import replace_bytes
from cache.errors import SettingsError
from cache.fingerprint import fingerprint
from pipeline.vectors import Vectors
from pipeline.views.pages import digests_of, fitted, open_picture
from stages.records import Records
from stages.retrieval import nearest

RIGHT_COLOUR, WRONG_COLOUR, MISSING_COLOUR = (22, 135, 76), (200, 48, 44), (200, 203, 208)
_PAPER, _INK, _FAINT, _RULE = (255, 255, 255), (28, 30, 34), (110, 116, 124), (226, 228, 232)

QUERY, TILE, FRAME, MARK = 148, 112, 4, 16
"""Sides of the tiles of a query and of a neighbour, its frame included, the frame's width, and a mark's, in pixels."""

_SHOWN = "shown"  # the text of the PNG file that has the fingerprint of what it shows
_DRAWING = 3  # to be raised when a sheet of the same images is to look otherwise
_MARGIN, _GAP, _HEAD, _FOOT, _NAME = 28, 10, 76, 22, 132


class Neighbour(NamedTuple):
    """One image of a ranking; ``uri`` is as :func:`cache.parse_source` takes it."""

    uri: str
    right: bool
    similarity: float


@dataclass(frozen=True)
class SheetRow:
    """One query and, for each named ranking, the images nearest to it, nearest first."""

    uri: str
    caption: str
    rankings: Mapping[str, Sequence[Neighbour]]


def draw_contact_sheet(
    path: Path, rows: Sequence[SheetRow], *, title: str, digests: Mapping[str, bytes] | None = None
) -> Path:
    """Draw ``rows``, a band each, to the PNG file ``path``, and return it.

    A right neighbour has a green frame and a tick, a wrong one a red frame and a cross. An image that cannot be
    opened, or whose bytes are not those of its digest (by URI), is a grey tile. The file appears whole or not at all;
    one that shows the same already is left as it is.
    Raises ValueError when there is nothing to draw.
    """
    if not rows or not all(row.rankings for row in rows):
        raise SettingsError("a contact sheet needs at least one query, and at least one ranking for each; give it some")
    digests = digests or {}
    shown = _what_is_shown(rows, title, digests)
    if _shown_in(path) == shown:
        return path
    most = max(len(ranking) for row in rows for ranking in row.rankings.values())
    width = 2 * _MARGIN + QUERY + _GAP + _NAME + max(most, 4) * (TILE + _GAP)
    sheet = Image.new("RGB", (width, _HEAD + sum(map(_band_height, rows)) + _MARGIN // 2), _PAPER)
    pen = ImageDraw.Draw(sheet)
    _draw_head(sheet, pen, title)
    top = _HEAD
    for row in rows:
        pen.line((_MARGIN, top, width - _MARGIN, top), fill=_RULE)
        _draw_band(sheet, pen, row, digests, top + _MARGIN // 2)
        top += _band_height(row)
    content, text = io.BytesIO(), PngInfo()
    text.add_text(_SHOWN, shown)
    # This level takes a quarter of the time of the smallest file, which saves 7 %.
    sheet.save(content, format="PNG", compress_level=2, pnginfo=text)
    replace_bytes(path, content.getbuffer())
    return path


def _what_is_shown(rows: Sequence[SheetRow], title: str, digests: Mapping[str, bytes]) -> str:
    """A fingerprint of all that decides the pixels: the rankings, and the version and digest of each image's file."""
    uris = {row.uri for row in rows} | {one.uri for row in rows for ranking in row.rankings.values() for one in ranking}
    return fingerprint(
        [_DRAWING, title, *map(repr, rows), {uri: [_version(uri), digests.get(uri, b"").hex()] for uri in uris}]
    )


def _version(uri: str) -> str:
    try:
        return parse_source(uri).version().text
    except (OSError, ValueError):
        return ""


def _shown_in(path: Path) -> str | None:
    try:
        with Image.open(path) as image:
            return str(image.info.get(_SHOWN))
    except OSError:  # there is none, or it is no picture
        return None


def _band_height(row: SheetRow) -> int:
    return _MARGIN + max(QUERY + _FOOT, len(row.rankings) * (TILE + _FOOT + _GAP) - _GAP)


def _draw_head(sheet: Image.Image, pen: ImageDraw.ImageDraw, title: str) -> None:
    _write(pen, (_MARGIN, 16), title, size=22, room=sheet.width - 2 * _MARGIN)
    x, y = _MARGIN, 60
    for right, word in ((True, "same label as the query"), (False, "another label")):
        sheet.paste(_mark(right=right), (x, y - MARK // 2))
        x += 22 + _write(pen, (x + 22, y), word, size=13, room=sheet.width, colour=_FAINT, anchor="lm") + 24
    legend = "number: similarity to the query"
    _write(pen, (x, y), legend, size=13, room=sheet.width - x - _MARGIN, colour=_FAINT, anchor="lm")


def _draw_band(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, row: SheetRow, digests: Mapping[str, bytes], top: int
) -> None:
    sheet.paste(_tile(row.uri, QUERY, digests), (_MARGIN, top))
    _write(pen, (_MARGIN, top + QUERY + 6), row.caption, size=14, room=QUERY)
    left = _MARGIN + QUERY + _GAP
    for name, ranking in row.rankings.items():
        _write(pen, (left + _NAME - _GAP, top + TILE // 2), name, size=15, room=_NAME - 2 * _GAP, anchor="rm")
        for place, neighbour in enumerate(ranking):
            x = left + _NAME + place * (TILE + _GAP)
            _draw_neighbour(sheet, pen, neighbour, _tile(neighbour.uri, TILE - 2 * FRAME, digests), x, top)
        top += TILE + _FOOT + _GAP


def _draw_neighbour(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, neighbour: Neighbour, tile: Image.Image, x: int, y: int
) -> None:
    colour = RIGHT_COLOUR if neighbour.right else WRONG_COLOUR
    pen.rectangle((x, y, x + TILE - 1, y + TILE - 1), fill=colour)
    sheet.paste(tile, (x + FRAME, y + FRAME))
    sheet.paste(_mark(right=neighbour.right), (x, y + TILE + 11 - MARK // 2))
    _write(pen, (x + 22, y + TILE + 11), f"{neighbour.similarity:.3f}", size=13, room=TILE, colour=_FAINT, anchor="lm")


def _mark(*, right: bool) -> Image.Image:
    """A white tick on a green disc, or a white cross on a red square: they differ in shape too."""
    fine = Image.new("RGB", (4 * MARK, 4 * MARK), _PAPER)
    pen = ImageDraw.Draw(fine)
    if right:
        pen.ellipse((0, 0, 63, 63), fill=RIGHT_COLOUR)
        pen.line(((17, 33), (28, 45), (47, 20)), fill=_PAPER, width=8, joint="curve")
    else:
        pen.rounded_rectangle((3, 3, 60, 60), radius=8, fill=WRONG_COLOUR)
        pen.line(((18, 18), (45, 45)), fill=_PAPER, width=8)
        pen.line(((18, 45), (45, 18)), fill=_PAPER, width=8)
    return fine.reduce(4)


def _tile(uri: str, side: int, digests: Mapping[str, bytes]) -> Image.Image:
    """The image at ``uri`` within a square of ``side`` pixels, its aspect ratio kept; grey if it cannot be opened."""
    image = open_picture(uri, side, digests.get(uri))
    if isinstance(image, str):
        blank, middle = Image.new("RGB", (side, side), MISSING_COLOUR), (side // 2, side // 2)
        _write(ImageDraw.Draw(blank), middle, "no image", size=13, room=side, colour=_FAINT, anchor="mm")
        return blank
    image = fitted(image, side / max(image.size), Image.Resampling.LANCZOS)
    tile = Image.new("RGB", (side, side), _PAPER)
    tile.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return tile


def _write(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    *,
    size: int,
    room: int,
    colour: tuple[int, int, int] = _INK,
    anchor: str = "la",
) -> int:
    """Write one line, cut to ``room`` pixels with an ellipsis; return its width."""
    font = ImageFont.load_default(size=size)
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:200]).split())
    shown = line
    while line and font.getlength(shown) > room:
        line = line[:-1]
        shown = line.rstrip() + "…"
    pen.text(at, shown, font=font, fill=colour, anchor=anchor)
    return round(font.getlength(shown))


QUERIES = 6
NEAREST = 5


def draw_nearest(
    path: Path,
    records: Records,
    vectors: Sequence[Vectors],
    *,
    title: str,
    queries: int = QUERIES,
    neighbours: int = NEAREST,
) -> Path:
    """Draw some ``queries``, each with its nearest ``neighbours`` by each of ``vectors`` (of one backbone).

    The queries are those of the smallest hash of their key: the same for every head and backbone, and not chosen for
    looking well. Those with nothing to find are passed over.
    """
    gallery = records.split("gallery")
    sample = _sample(records.split("query"), gallery, vectors, queries)
    results = {one.head: nearest(one.store, sample, gallery, neighbours) for one in vectors}
    uris, classes, wanted = gallery.uris, gallery.classes, sample.classes

    def ranking(name: str, query: int) -> list[Neighbour]:
        pairs = zip(*(part[query].tolist() for part in results[name]), strict=True)
        return [Neighbour(uris[row], classes[row] == wanted[query], similar) for row, similar in pairs if row >= 0]

    rows = [
        SheetRow(uri, str(label), {name: ranking(name, query) for name in results})
        for query, (uri, label) in enumerate(zip(sample.uris, sample.labels, strict=True))
    ]
    shown = [row.uri for row in rows] + [one.uri for row in rows for each in row.rankings.values() for one in each]
    return draw_contact_sheet(path, rows, title=title, digests=digests_of(shown, records.table))


def _sample(queries: Records, gallery: Records, vectors: Sequence[Vectors], count: int) -> Records:
    """Queries that all of ``vectors`` have a row of, and that have something to find."""
    usable = np.logical_and.reduce([one.store.usable(queries.digests) for one in vectors])
    gallery_keys, sizes, keys = set(gallery.keys), Counter(gallery.classes), queries.keys
    answerable = [
        row
        for row, (key, name) in enumerate(zip(keys, queries.classes, strict=True))
        if usable[row] and sizes[name] > (key in gallery_keys)
    ]
    return queries.take(sorted(answerable, key=lambda row: fingerprint(keys[row]))[:count])
