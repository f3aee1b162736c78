"""What stands beside the pixels of an image fails no image: the pixels are those of the plain file."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.extraction.decode import DecodeError, decode

_PIXELS = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)


def _bytes(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(_PIXELS).resize((24, 16)).save(file, kind, **options)
    return file.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def _described() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    return exif.tobytes()


def _chunk(name: bytes, content: bytes, crc: int = 0) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc or zlib.crc32(name + content))


def _png(*chunks: bytes) -> bytes:
    plain = _bytes("PNG")
    return plain[:33] + b"".join(chunks) + plain[33:]


def _jpeg(*segments: tuple[int, bytes]) -> bytes:
    plain = _bytes("JPEG")
    added = [bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content for marker, content in segments]
    return plain[:2] + b"".join(added) + plain[2:]


_LONG = zlib.compress(b"x" * 2_000_000)

BESIDE = {
    "PNG, a long comment": ("PNG", _png(_chunk(b"zTXt", b"c\0\0" + _LONG))),
    "PNG, a long international comment": ("PNG", _png(_chunk(b"iTXt", b"c\0\1\0\0\0" + _LONG))),
    "PNG, comments without end": ("PNG", _png(*[_chunk(b"tEXt", b"c\0" + b"x" * 1_000_000)] * 68)),
    "PNG, an unknown compression of a comment": ("PNG", _png(_chunk(b"zTXt", b"c\0\1abc"))),
    "PNG, a comment with a wrong checksum": ("PNG", _png(_chunk(b"tEXt", b"c\0abc", crc=1))),
    "PNG, a long profile": ("PNG", _png(_chunk(b"iCCP", b"c\0\0" + _LONG))),
    "PNG, an empty profile": ("PNG", _png(_chunk(b"iCCP", b""))),
    "PNG, a profile without its name": ("PNG", _png(_chunk(b"iCCP", b"abc"))),
    "PNG, short facts": ("PNG", _png(*(_chunk(name, b"") for name in (b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"acTL")))),
    "PNG, a frame out of turn": ("PNG", _png(_chunk(b"fcTL", b"\0\0\0\5" + bytes(22)))),
    "PNG, cut off in a comment after the pixels": ("PNG", _bytes("PNG")[:-12] + b"\0\0\x10\0tEXtabc"),
    "JPEG, a short JFIF": ("JPEG", _jpeg((0xE0, b"JFIF\0"))),
    "JPEG, a profile without number": ("JPEG", _jpeg((0xE2, b"ICC_PROFILE\0"))),
    "JPEG, a short Adobe": ("JPEG", _jpeg((0xEE, b"Adobe"))),
    "WEBP, damaged XMP": ("WEBP", _bytes("WEBP", xmp=b"<x/>").replace(b"XMP \4", b"XMP \xff")),
    "AVIF, damaged EXIF": ("AVIF", _bytes("AVIF", exif=_described()).replace(b"MM\0*\0\0\0\x08", b"XX\0*\0\0\0\xff")),
    "TIFF, a description of no type": (
        "TIFF",
        _bytes("TIFF", description="hello").replace(struct.pack("<HH", 270, 2), struct.pack("<HH", 270, 5)),
    ),
}


@pytest.mark.parametrize("case", BESIDE)
def test_what_stands_beside_the_pixels_fails_no_image(case: str) -> None:
    kind, data = BESIDE[case]
    assert np.array_equal(decode(data), decode(_bytes(kind)))


@pytest.mark.parametrize(
    ("turned", "plain"),
    [
        (_jpeg((0xE2, b"ICC_PROFILE\0"), (0xE1, _turned())), _bytes("JPEG")),
        (_png(_chunk(b"iCCP", b""), _chunk(b"eXIf", _turned()[6:])), _bytes("PNG")),
        (_bytes("WEBP", exif=_turned(), xmp=b"<x/>").replace(b"XMP \4", b"XMP \xff\xff\xff"), _bytes("WEBP")),
    ],
)
def test_an_image_with_a_damaged_profile_is_still_turned_as_its_exif_says(turned: bytes, plain: bytes) -> None:
    assert np.array_equal(decode(turned), np.rot90(decode(plain), -1))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
def test_pixels_that_are_cut_off_stay_a_failure(kind: str) -> None:
    data = _bytes(kind)
    with pytest.raises(DecodeError):
        decode(data[: len(data) * 3 // 5])


def test_damage_to_what_the_pixels_need_stays_a_failure() -> None:
    plain = _bytes("PNG")
    at = plain.index(b"IDAT") + 10
    for damaged in (
        plain[:at] + bytes([plain[at] ^ 1]) + plain[at + 1 :],
        _bytes("JPEG").replace(b"\xff\xc4", b"\xff\xcd"),
    ):
        with pytest.raises(DecodeError):
            decode(damaged)
