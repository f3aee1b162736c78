"""Preprocessing equals the transforms that timm and open_clip make themselves."""

from __future__ import annotations

import dataclasses
import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

from stages.extraction import Preprocess, PreprocessConfig, ViewsConfig

# (width, height): smaller and larger than the crop, odd, square, long
SIZES = [(1, 1), (1, 37), (50, 3), (224, 224), (256, 256), (257, 255), (333, 500), (500, 333), (160, 120), (1000, 701)]


def _image(width: int, height: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(width * 7919 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _ours(preprocess: Preprocess, image: npt.NDArray[np.uint8]) -> torch.Tensor:
    return preprocess.normalize(torch.from_numpy(preprocess(image))[None])[0]


def _own(settings: dict[str, Any]) -> Preprocess:
    return PreprocessConfig(decoder="exact").resolve(**settings)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize(
    ("size", "crop_pct", "interpolation"), [(224, 0.875, "bicubic"), (240, 0.9, "bilinear"), (96, 1.0, "bicubic")]
)
def test_equals_timm(crop_mode: str, size: int, crop_pct: float, interpolation: str) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = create_transform(
        input_size=(3, size, size),
        is_training=False,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        interpolation=interpolation,
        mean=mean,
        std=std,
    )
    resize = {"center": "shorter", "squash": "squash", "border": "longest"}[crop_mode]
    ours = _own(
        {
            "size": size,
            "crop_pct": crop_pct,
            "resize": resize,
            "interpolation": interpolation,
            "mean": mean,
            "std": std,
            "fill": None,
        }
    )
    for width, height in SIZES:
        if crop_mode == "border" and max(width, height) > 30 * min(width, height):
            continue  # timm makes a side of 0 pixels
        image = _image(width, height)
        wanted = theirs(Image.fromarray(image))
        assert torch.allclose(_ours(ours, image), wanted, rtol=0, atol=1e-6), (width, height)


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_equals_open_clip(resize_mode: str, interpolation: str) -> None:
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    theirs = open_clip.image_transform(
        224, is_train=False, mean=mean, std=std, resize_mode=resize_mode, interpolation=interpolation
    )
    resize = {"shortest": "shorter"}.get(resize_mode, resize_mode)
    ours = _own({"size": 224, "resize": resize, "interpolation": interpolation, "mean": mean, "std": std})
    for width, height in SIZES:
        image = _image(width, height)
        wanted = theirs(Image.fromarray(image))
        assert torch.allclose(_ours(ours, image), wanted, rtol=0, atol=1e-6), (width, height)


@pytest.mark.parametrize(("width", "height"), [(1, 5000), (5000, 1), (3, 4999)])
def test_a_strip_equals_resize_then_crop_within_a_level(width: int, height: int) -> None:
    ours = _own({"size": 64, "crop_pct": 0.875, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
    image = _image(width, height)
    shorter = 73
    longer = int(shorter * 5000 / 1) if 1 in (width, height) else int(shorter * height / width)
    resized = Image.fromarray(image).resize(
        (shorter, longer) if width < height else (longer, shorter), Image.Resampling.BICUBIC
    )
    left, top = round((resized.width - 64) / 2), round((resized.height - 64) / 2)
    wanted = np.asarray(resized.crop((left, top, left + 64, top + 64))).transpose(2, 0, 1)
    assert np.abs(ours(image).astype(int) - wanted.astype(int)).max() <= 1


def test_a_strip_does_not_fill_the_memory() -> None:
    ours = _own({"size": 224, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
    strip = np.zeros((200_000, 1, 3), np.uint8)  # resized whole it would be ten gigapixels
    tracemalloc.start()
    assert ours(strip).shape == (3, 224, 224)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


def test_output_is_contiguous_writable_uint8() -> None:
    ours = _own({"size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
    square = ours(_image(50, 40))
    assert square.shape == (3, 32, 32)
    assert square.dtype == np.uint8
    assert square.flags.c_contiguous
    assert square.flags.writeable


def test_what_is_not_an_rgb_image_is_refused() -> None:
    ours = _own({"size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
    for wrong in (np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)):
        with pytest.raises(ValueError, match=r"image must be \(H, W, 3\) uint8, got"):
            ours(wrong)  # type: ignore[arg-type]


def test_each_override_reaches_the_resolved_values() -> None:
    own: dict[str, Any] = {"size": 224, "crop_pct": 0.875, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    plain = PreprocessConfig().resolve(**own)
    assert (plain.resize_to, plain.resize, plain.interpolation) == (256, "shorter", "bicubic")
    assert PreprocessConfig(size=288).resolve(**own).resize_to == 329  # floor(288 / 0.875)
    assert PreprocessConfig(crop_pct=1.0).resolve(**own).resize_to == 224
    assert PreprocessConfig(resize_to=300).resolve(**own).resize_to == 300
    changed = PreprocessConfig(
        size=64, resize="squash", resize_to=70, interpolation="lanczos", mean=(0, 0, 0), std=(1, 1, 1)
    ).resolve(**own)
    assert dataclasses.astuple(changed) == (64, "squash", 70, "lanczos", (0, 0, 0), (1, 1, 1), (0, 0, 0), "fast", None)


def test_every_value_that_changes_pixels_changes_the_identity() -> None:
    plain = _own({"size": 64, "resize": "longest", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
    changes: list[dict[str, Any]] = [
        {"size": 60},
        {"resize": "squash"},
        {"resize_to": 80},
        {"interpolation": "bilinear"},
        {"mean": (0.5, 0.5, 0.4)},
        {"std": (0.5, 0.5, 0.4)},
        {"fill": (1, 0, 0)},
        {"views": ViewsConfig("flip")},
    ]
    fields = {field.name for field in dataclasses.fields(Preprocess)} - {"decoder"}  # a line of its own in identities
    assert {name for change in changes for name in change} == fields
    for change in changes:
        assert dataclasses.replace(plain, **change).identity() != plain.identity(), change


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ValueError, match=r"give crop_pct \(0.9\) or resize_to \(256\), not both"):
        PreprocessConfig(crop_pct=0.9, resize_to=256)
    with pytest.raises(ValueError, match=r"crop_pct is a part of the image in \(0, 1\], got 87.5"):
        PreprocessConfig(crop_pct=87.5)
    with pytest.raises(ValueError, match=r"resize_to must be at least size \(224\), got 200"):
        PreprocessConfig(resize_to=200).resolve(size=224, mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(ValueError, match="std must be positive"):
        PreprocessConfig(std=(1, 1, 0)).resolve(size=224, mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(ValueError, match="size is in pixels and must be at least 1, got -1"):
        PreprocessConfig(size=-1).resolve(size=224, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("resize", ["shorter", "squash", "longest"])
def test_fast_resizing_is_within_two_levels_of_exact(resize: str, interpolation: str) -> None:
    settings = {"size": 96, "resize": resize, "interpolation": interpolation, "mean": (0, 0, 0), "std": (1, 1, 1)}
    exact = _own(settings)
    fast = dataclasses.replace(exact, decoder="fast")
    for width, height in SIZES:
        image = _image(width, height)
        difference = np.abs(fast(image).astype(int) - exact(image))
        assert difference.max() <= 2, (width, height)
        assert difference.mean() < 0.2, (width, height)


def test_normalizing_equals_the_formula_bit_for_bit_whatever_the_strides() -> None:
    ours = _own({"size": 5, "mean": (0.48, 0.45, 0.4), "std": (0.22, 0.23, 0.24)})
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    for batch in (planes, planes.contiguous()):
        normal = ours.normalize(batch)
        for channel in range(3):
            wanted = (planes[:, channel].float() / 255 - ours.mean[channel]) / ours.std[channel]
            assert torch.equal(normal[:, channel], wanted)
