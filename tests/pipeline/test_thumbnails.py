"""Pictures inside a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from cache import LocalStorage, parse_source
from pipeline.bundle.layout import write_thumbnails
from pipeline.views.pages import digests_of, thumbnails
from stages.extraction import decode


def opened(data: str | None) -> Image.Image:
    assert data is not None
    start = "data:image/jpeg;base64,"
    assert data.startswith(start)
    return Image.open(io.BytesIO(base64.b64decode(data.removeprefix(start))))


def test_a_picture_keeps_its_proportions_within_a_square_and_is_never_enlarged(tmp_path: Path) -> None:
    sizes = {"wide.jpg": (400, 100), "tall.png": (30, 300), "small.png": (20, 10)}
    for name, size in sizes.items():
        Image.new("RGB", size, (10, 120, 200)).save(tmp_path / name)
    pictures = thumbnails([str(tmp_path / name) for name in sizes], 100)
    assert [(picture.width, picture.height) for picture in pictures.values()] == [(100, 25), (10, 100), (20, 10)]
    for picture in pictures.values():
        with opened(picture.data) as image:
            assert image.size == (picture.width, picture.height)
            assert np.abs(np.asarray(image).astype(int) - (10, 120, 200)).max() < 8


def test_each_image_is_made_once_however_often_it_is_wanted(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    progress: list[tuple[int, int]] = []
    pictures = thumbnails([str(tmp_path / "a.png")] * 5, 64, lambda done, total: progress.append((done, total)))
    assert len(pictures) == 1
    assert progress == [(1, 1)]


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), (b"words", "not an image"), (b"", "empty file")]
)
def test_a_file_that_is_no_image_has_its_reason_instead(content: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jpg"
    if content is not None:
        path.write_bytes(content)
    (picture,) = thumbnails([str(path)], 64).values()
    assert picture.data is None
    assert reason in picture.reason


def test_a_picture_is_of_the_bytes_of_its_digest(tmp_path: Path) -> None:
    path, storage = tmp_path / "a.png", LocalStorage(tmp_path / "bundle")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(path)
    box = f"box:0,0,4,8:{path}"
    table = pa.table(
        {"uri": [str(path), box], "digest": [parse_source(u).digest(path.read_bytes()) for u in (str(path), box)]}
    )
    digests = digests_of([str(path), box], table)
    assert all(one.data for one in thumbnails(digests, 64, digests=digests).values())
    Image.new("RGB", (8, 8), (0, 0, 255)).save(path)
    for one in thumbnails(digests, 64, digests=digests).values():
        assert (one.data, one.reason) == (None, "has changed since it was embedded")
    assert thumbnails([str(path)], 64)[str(path)].data is not None
    problems = write_thumbnails(storage, table)
    assert problems == [f"{uri}: has changed since it was embedded" for uri in (str(path), box)]
    assert [*storage.list("thumbnails/")] == []


def test_a_large_jpeg_is_decoded_at_a_fraction_that_is_still_large_enough() -> None:
    content, png = io.BytesIO(), io.BytesIO()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 800, 3), dtype=np.uint8))
    image.save(content, "JPEG")
    image.save(png, "PNG")
    assert decode(content.getvalue()).shape == (300, 800, 3)
    assert decode(content.getvalue(), at_least=70).shape == (75, 200, 3)
    assert decode(content.getvalue(), at_least=200).shape == (300, 800, 3)
    assert decode(content.getvalue(), at_least=70, box=(0, 0, 400, 300)).shape == (300, 400, 3)  # a box is in pixels
    assert decode(png.getvalue(), at_least=70).shape == (300, 800, 3)
