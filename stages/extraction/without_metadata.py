"""An image file less what its pixels do not need: comments, colour profiles, EXIF, XMP, thumbnails, animation.

Readers refuse whole images for a comment that is too long or a profile that is cut off. Such a file is tried again:
first with what may say how it is to be turned, then without that too. What the pixels need stays byte for byte.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from stages.datasets.folder import image_type

_PNG_HEAD, _PNG_END = 8, b"\0\0\0\0IEND\xae\x42\x60\x82"
_PNG_TURNS = re.compile(rb"eXIf|[tzi][ET]Xt(?:XML:com\.adobe\.xmp|Raw profile type)")
_JFIF, _EXIF, _ADOBE, _COMMENT, _START_OF_SCAN = 0xE0, 0xE1, 0xEE, 0xFE, 0xDA
_JPEG_LEAST = {_JFIF: 14, _ADOBE: 12}  # the bytes of a segment that says how colours are stored
_WEBP_FLAGS = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}
_ITEMS = re.compile(rb"(infe.{8})(?:Exif|mime)", re.DOTALL)  # of AVIF: the types of items that are no pictures
_TIFF_NEEDED = {*range(254, 260), 262, 263, 266, 273, 274, 277, 278, 279, 284, 292, 293, 297, 317, 320}
_TIFF_NEEDED |= {*range(322, 326), 332, 338, 339, 347, *range(512, 522), *range(529, 533)}


class _Part(NamedTuple):
    """A piece of a file, and what it is for."""

    content: bytes
    pixels: bool
    turns: bool = False


def without_metadata(data: bytes) -> Iterator[bytes]:
    r"""Image files with the pixels of ``data`` and less beside them, in the order in which to try them.

    >>> list(without_metadata(b"\xff\xd8\xff\xfe\0\x0ba comment\xff\xda..."))
    [b'\xff\xd8\xff\xda...']
    """
    match image_type(data[:64]):
        case "png":
            head, parts, tail = data[:_PNG_HEAD], list(_png_chunks(data)), _PNG_END
        case "jpeg":
            head, parts, tail = data[:2], list(_jpeg_segments(data)), b""
        case "webp":
            yield from _webp(data)
            return
        case "avif":
            yield _ITEMS.sub(rb"\1none", data)
            return
        case "tiff":
            yield from _tiff(data)
            return
        case _:
            return
    if any(part.turns for part in parts):
        yield head + b"".join(part.content for part in parts if part.pixels or part.turns) + tail
    yield head + b"".join(part.content for part in parts if part.pixels) + tail


def _png_chunks(data: bytes) -> Iterator[_Part]:
    """The chunks before IEND that are there to their end."""
    at = _PNG_HEAD
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        if name == b"IEND" or end > len(data):
            return
        critical = not name[0] & 0x20
        yield _Part(data[at:end], critical or name == b"tRNS", bool(_PNG_TURNS.match(data, at + 4, end)))
        at = end


def _jpeg_segments(data: bytes) -> Iterator[_Part]:
    """The segments before the first scan, then all the rest as one part."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a byte that fills
            at += 1
            continue
        if marker == _START_OF_SCAN:
            break
        end = at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
        application = 0xE0 <= marker < 0xF0
        colours = marker in _JPEG_LEAST and end - at - 4 >= _JPEG_LEAST[marker]
        yield _Part(data[at:end], colours or not (application or marker == _COMMENT), marker == _EXIF)
        at = end
    yield _Part(data[at:], pixels=True)


def _webp(data: bytes) -> Iterator[bytes]:
    for dropped in ((b"ICCP", b"XMP "), tuple(_WEBP_FLAGS)):
        parts, at = [], 12
        while at + 8 <= len(data):
            name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
            end = at + 8 + size + size % 2
            part = bytearray(data[at:end])
            if name == b"VP8X" and len(part) > 8:
                part[8] &= ~sum(_WEBP_FLAGS[name] for name in dropped)
            if name not in dropped and end <= len(data) + size % 2:
                parts.append(bytes(part))
            at = end
        content = b"WEBP" + b"".join(parts)
        yield b"RIFF" + len(content).to_bytes(4, "little") + content


def _tiff(data: bytes) -> Iterator[bytes]:
    """With the tags of the first image that its pixels need, in the place where all of them were."""
    order = "<" if data[:2] == b"II" else ">"
    if struct.unpack_from(f"{order}H", data, 2) != (42,):  # BigTIFF
        return
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    if at + 2 > len(data):
        return
    (count,) = struct.unpack_from(f"{order}H", data, at)
    entries = [data[low : low + 12] for low in range(at + 2, min(at + 2 + 12 * count, len(data) - 11), 12)]
    needed = [entry for entry in entries if struct.unpack(f"{order}H", entry[:2])[0] in _TIFF_NEEDED]
    directory = struct.pack(f"{order}H", len(needed)) + b"".join(needed) + bytes(4)  # and no next image
    if len(needed) < len(entries):  # so that it fits
        yield data[:at] + directory + data[at + len(directory) :]
