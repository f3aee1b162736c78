"""Pixels from bytes: hostile files, odd modes, and what a reason says."""

from __future__ import annotations

import base64
import csv
import io
import os
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import GifImagePlugin, Image, ImageFile

from stages.extraction import PreprocessConfig
from stages.extraction.decode import DecodeError, NoDecoderError, _register_heic, decode, own_switches
from stages.extraction.embedder import ONE_COLOUR, prepare


def _hostile() -> Path:
    folder = Path(os.environ.get("PERMAFROST_DATA", "")) / "hostile"
    if "PERMAFROST_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("PERMAFROST_DATA does not name a folder with hostile/expected.csv")
    return folder


def _photo(width: int = 24, height: int = 16) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def _bytes(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_every_hostile_file_decodes_or_fails_as_listed() -> None:
    folder = _hostile()
    with (folder / "expected.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 30
    for row in rows:
        data = (folder / row["path"]).read_bytes()
        if row["expect"] == "ok":
            pixels = decode(data)
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
        else:
            with pytest.raises(DecodeError) as caught:
                decode(data)
            assert 0 < len(caught.value.reason) <= 200
            assert "\n" not in caught.value.reason


@pytest.mark.parametrize("twin", ["garbage_after_eoi.jpg", "jpeg_named.png", "no_extension", "UPPERCASE.JPG"])
def test_a_hostile_wrapping_leaves_the_pixels_of_the_plain_file(twin: str) -> None:
    folder = _hostile()
    assert np.array_equal(decode((folder / twin).read_bytes()), decode((folder / "plain.jpg").read_bytes()))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("photo.bmp", "plain.jpg"),
        ("photo.webp", "plain.jpg"),
        ("multipage.tif", "plain.jpg"),
        ("animated.gif", "plain.jpg"),
        ("gray16.png", "grayscale.jpg"),
        ("exif_orientation6.jpg", "exif_orientation6_upright.jpg"),
    ],
)
def test_hostile_twins_look_the_same(one: str, other: str) -> None:
    folder = _hostile()
    first, second = (decode((folder / name).read_bytes()).astype(int) for name in (one, other))
    assert np.abs(first - second).mean() < 4  # compressed in two ways


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied_once(orientation: int, kind: str) -> None:
    upright = np.asarray(_photo())
    # How a camera stores it, by the meaning of the tag: which side of the scene the first row and column are.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = _bytes(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    assert np.array_equal(decode(data), upright)


def test_damaged_exif_leaves_the_pixels_alone() -> None:
    photo = _photo()
    plain = _bytes(photo, "JPEG")
    damaged = _bytes(photo, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff broken")
    assert np.array_equal(decode(damaged), decode(plain))


def test_16_bit_grey_equals_its_8_bit_twin() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    wanted = np.repeat(grey[:, :, None], 3, axis=2)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode(_bytes(Image.fromarray(grey.astype(np.uint16) * 257), kind)), wanted)
    between = np.random.default_rng(1).integers(0, 65536, (16, 16), dtype=np.uint16)
    exact = between / 65535 * 255
    assert np.abs(decode(_bytes(Image.fromarray(between)))[:, :, 0] - exact).max() <= 0.5 + 1e-9


def test_grey_of_16_and_32_bits_is_read_by_its_range_whatever_its_type_or_refused() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for values in (
        grey.astype(np.uint16),
        grey.astype(np.uint16) * 257,
        grey.astype(np.int32),
        grey.astype(np.int32) * 257,
        (grey / 255).astype(np.float32),
        grey.astype(np.float32),
        grey.astype(np.float32) * 257,
    ):
        assert np.array_equal(decode(_bytes(Image.fromarray(values), "TIFF"))[:, :, 1], grey), values.dtype
    for hopeless in (grey.astype(np.int32) * 100_000, grey.astype(np.float32) - 1, np.full((4, 4), np.nan, np.float32)):
        with pytest.raises(DecodeError, match=r"grey values from .* expected 0\.\."):
            decode(_bytes(Image.fromarray(hopeless), "TIFF"))


def test_transparency_lies_on_white() -> None:
    colours = np.asarray(_photo()).astype(np.float64)
    alpha = np.linspace(0, 255, colours.shape[0] * colours.shape[1]).reshape(colours.shape[:2]).astype(np.uint8)
    share = alpha[:, :, None] / 255
    image = Image.fromarray(np.dstack([colours.astype(np.uint8), alpha]))
    assert np.abs(decode(_bytes(image)) - (share * colours + (1 - share) * 255)).max() <= 1

    grey = np.full((8, 8), 100, np.uint8)
    half = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(np.full((8, 8), 51, np.uint8))])
    assert np.abs(decode(_bytes(half)).astype(int) - (0.2 * 100 + 0.8 * 255)).max() <= 1

    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    palette.putpalette([200, 0, 0, 0, 0, 200])
    data = _bytes(palette, "PNG", transparency=0)
    assert decode(data).tolist() == [[[255, 255, 255], [0, 0, 200]], [[0, 0, 200], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "RGBX", "YCbCr"])
def test_other_modes_are_what_pillow_makes_of_them(mode: str) -> None:
    image = _photo().convert(mode)
    data = _bytes(image, "TIFF")
    assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


# 48 x 32 pixels: the left half red, the lower right quarter blue, the upper right one black.
_HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAAAERAAAEA"
    "AQAAAAABoQABAAAAAAAAADoAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmND"
    "AQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAA"
    "AAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAADAAAAABAAAAIAAAAAH////wAAAA"
    "Av///+AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAAEJtZGF0AAAANigBr1j5Et3/0Yv/XpIZ9ac77/QohNDPpaoWnlUq"
    "aPH4M2IS4fi/iUf2jJ61d6NW5ZYC4mM7fA=="
)


def test_heic_is_read_where_the_extra_is_installed() -> None:
    pytest.importorskip("pi_heif", reason="the extra 'heic' is not installed")
    pixels = decode(_HEIC).astype(int)
    assert pixels.shape == (32, 48, 3)
    for (row, column), colour in {(16, 10): (200, 30, 30), (8, 36): (0, 0, 0), (24, 36): (30, 30, 200)}.items():
        assert np.abs(pixels[row, column] - colour).max() < 12
    with pytest.raises(DecodeError, match=r"damaged|not an image"):
        decode(_HEIC[:-40])


def test_heic_without_the_extra_names_it_and_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    _register_heic.cache_clear()
    with pytest.raises(NoDecoderError, match=r"pip install 'permafrost-retrieval\[heic\]'"):
        decode(_HEIC)
    assert prepare(_HEIC, bytes(32), None, 0, {}).status == "unread"
    _register_heic.cache_clear()


def test_an_image_of_one_colour_is_noted() -> None:
    preprocess = PreprocessConfig().resolve(size=8, mean=(0, 0, 0), std=(1, 1, 1))
    dot = Image.new("RGB", (24, 16), "white")
    dot.putpixel((12, 8), (0, 0, 0))
    notes = [
        prepare(_bytes(image), bytes(32), None, 0, {preprocess: np.empty((1, 1, 8, 8, 3), np.uint8)})
        for image in (_photo(), dot, Image.new("RGB", (24, 16), "white"), Image.new("I;16", (9, 9)))
    ]
    assert [outcome.status for outcome in notes] == ["ok"] * 4
    assert [outcome.error for outcome in notes] == ["", "", ONE_COLOUR, ONE_COLOUR]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"just words", "not an image that Pillow can read"),
        (b"\n<!DOCTYPE html><html>not found</html>", "HTML"),
        (b'<?xml version="1.0"?><svg/>', "SVG"),
        (_bytes(_photo(), "JPEG")[:20], "starts like a JPEG, but is truncated or damaged"),
        (_bytes(_photo(), "JPEG")[:-300], "truncated: "),
        (_bytes(_photo(), "PNG")[:-200], "truncated: "),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "EPS is a program"),
    ],
)
def test_a_reason_names_the_cause(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(data)
    assert reason in caught.value.reason
    assert "0x" not in caught.value.reason, "an address would make two runs differ"


def test_a_bomb_is_refused_by_its_size_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    monkeypatch.setattr(sys.modules[decode.__module__], "MOST_PIXELS", 200)
    with pytest.raises(DecodeError, match=r"too large: Image size \(384 pixels\) exceeds limit of 200 pixels$"):
        decode(_bytes(_photo()))


def test_an_image_at_the_limit_is_decoded_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[decode.__module__], "MOST_PIXELS", 24 * 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(_bytes(_photo())).shape == (16, 24, 3)


@pytest.mark.parametrize("limit", [None, 10])
def test_what_others_set_of_pillow_changes_no_pixel_and_no_failure(
    limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gif = _bytes(_photo(), "GIF")
    cut, whole, palette = _bytes(_photo(), "JPEG")[:-300], decode(_bytes(_photo())), decode(gif)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(GifImagePlugin, "LOADING_STRATEGY", GifImagePlugin.LoadingStrategy.RGB_ALWAYS)
    with pytest.raises(DecodeError, match="truncated: "):
        decode(cut)
    assert np.array_equal(decode(_bytes(_photo())), whole)
    assert np.array_equal(decode(gif), palette)
    assert ImageFile.LOAD_TRUNCATED_IMAGES
    assert vars(Image)["MAX_IMAGE_PIXELS"] == limit
    assert GifImagePlugin.LOADING_STRATEGY == GifImagePlugin.LoadingStrategy.RGB_ALWAYS


def test_switches_are_ours_until_the_last_thread_has_decoded_and_what_is_set_meanwhile_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    first, second = own_switches(), own_switches()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    meanwhile = vars(ImageFile)["LOAD_TRUNCATED_IMAGES"]
    Image.MAX_IMAGE_PIXELS = 8
    second.__exit__(None, None, None)
    assert (meanwhile, vars(ImageFile)["LOAD_TRUNCATED_IMAGES"], vars(Image)["MAX_IMAGE_PIXELS"]) == (False, True, 8)


def test_filters_that_another_thread_sets_while_images_are_decoded_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, may_go_on = threading.Event(), threading.Event()

    def slow(*_: object, **__: object) -> None:
        opened.set()
        may_go_on.wait()
        raise OSError("no")

    def work() -> None:
        with pytest.raises(DecodeError, match="damaged: no"):
            decode(b"x")

    monkeypatch.setattr(Image, "open", slow)
    thread = threading.Thread(target=work)
    with warnings.catch_warnings():
        thread.start()
        opened.wait()
        warnings.filterwarnings("ignore", message="set meanwhile")
        before = list(warnings.filters)
        may_go_on.set()
        thread.join()
        assert list(warnings.filters) == before


def test_any_damage_is_a_decode_error_or_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[decode.__module__], "MOST_PIXELS", 1_000_000)
    rng = np.random.default_rng(2)
    outcomes: set[str] = set()
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        whole = np.frombuffer(_bytes(_photo(), kind), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            damaged[rng.integers(0, len(whole), 4)] = rng.integers(0, 256, 4)
            data = damaged[: rng.integers(1, len(whole) + 1)].tobytes()
            try:
                outcomes.add(f"{decode(data).ndim} axes")
            except DecodeError as error:
                outcomes.add(error.reason.partition(":")[0])
    assert {"3 axes", "truncated", "damaged"} <= outcomes
