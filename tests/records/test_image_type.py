"""What kind of image a file is, by its first bytes."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from stages.datasets.folder import image_type

_KINDS = {
    "JPEG": "jpeg",
    "PNG": "png",
    "GIF": "gif",
    "WEBP": "webp",
    "BMP": "bmp",
    "TIFF": "tiff",
    "JPEG2000": "jp2",
    "AVIF": "avif",
}


@pytest.mark.parametrize("kind", _KINDS)
def test_what_pillow_writes_is_recognised_by_its_first_64_bytes(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(file, kind)
    assert image_type(file.getvalue()[:64]) == _KINDS[kind]


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "heic"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "heic"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "avif"),
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "avif"),
        (b"MM\0*\0\0\0\x08", "tiff"),
        (b"MM\0+\0\x08\0\0", "tiff"),
        (b"\xff\x4f\xff\x51\0/", "jp2"),
    ],
)
def test_what_cameras_and_other_programs_write_is_recognised(head: bytes, kind: str) -> None:
    assert image_type(head.ljust(64, b"\0")) == kind


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"BM and so on, as a text may begin",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"\0\0\0\x18ftypisom\0\0\0\0isommp42",
        b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom",
        b"II*\0\x10\0\0\0CR\x02\0",
        b"FUJIFILMCCD-RAW 0201",
        b"<svg xmlns='http://www.w3.org/2000/svg'>",
        b"PK\x03\x04",
        b"%PDF-1.7",
    ],
)
def test_other_files_and_camera_raw_are_none(head: bytes) -> None:
    assert image_type(head) is None
    assert image_type(head.ljust(64, b"\0")) is None
