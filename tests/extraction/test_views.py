import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cache import digest_bytes
from stages.extraction import Preprocess, PreprocessConfig, ViewsConfig

SIZE = 16


def preprocess(views: ViewsConfig) -> Preprocess:
    config = PreprocessConfig(views=views, decoder="exact")
    return config.resolve(size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), resize="squash", interpolation="bilinear")


def picture(width: int = 40, height: int = 30, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def views_of(how: Preprocess, image: npt.NDArray[np.uint8], name: str = "a") -> npt.NDArray[np.uint8]:
    return np.stack(list(how.squares(image, digest_bytes(name.encode()))))


def test_without_views_there_is_the_plain_square() -> None:
    how = PreprocessConfig().resolve(size=SIZE, mean=(0, 0, 0), std=(1, 1, 1))
    image = picture()
    assert how.count == 1
    assert np.array_equal(views_of(how, image), how.square(image)[None])


def test_the_flip_is_the_plain_view_mirrored() -> None:
    how, image = preprocess(ViewsConfig("flip")), picture()
    views = views_of(how, image)
    assert how.count == len(views) == 2
    assert np.array_equal(views[0], how.square(image))
    assert np.array_equal(views[1], np.stack([row[::-1] for row in views[0]]))


def test_crops_follow_the_plain_view_and_are_those_boxes_resized() -> None:
    wanted = ViewsConfig("crops", count=3, area=(0.2, 0.5))
    how, image = preprocess(wanted), picture()
    views = views_of(how, image)
    assert how.count == len(views) == 4
    assert np.array_equal(views[0], how.square(image))
    for view, box in zip(views[1:], wanted.boxes(40, 30, digest_bytes(b"a")), strict=True):
        again = Image.fromarray(image).crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        assert np.array_equal(view, np.asarray(again))


def test_boxes_lie_inside_and_have_the_area_and_ratio_asked_for() -> None:
    wanted = ViewsConfig("crops", count=200, area=(0.2, 0.5), ratio=1.5)
    boxes = list(wanted.boxes(400, 300, digest_bytes(b"a")))
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 400
        assert 0 <= top < bottom <= 300
        assert 0.19 < (right - left) * (bottom - top) / (400 * 300) < 0.51
        assert 1 / 1.52 < (right - left) / (bottom - top) < 1.52
    assert len(set(boxes)) > 150


def test_a_strip_that_no_part_fits_is_taken_whole() -> None:
    assert list(ViewsConfig("crops", count=2).boxes(5000, 1, digest_bytes(b"a"))) == [(0, 0, 5000, 1)] * 2


def test_crops_depend_on_the_image_and_the_seed_and_on_nothing_else() -> None:
    def boxes(seed: int, name: str) -> list[tuple[int, int, int, int]]:
        return list(ViewsConfig("crops", seed=seed).boxes(64, 64, digest_bytes(name.encode())))

    assert boxes(0, "a") == boxes(0, "a")
    assert boxes(0, "a") != boxes(1, "a")
    assert boxes(0, "a") != boxes(0, "b")


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ValueError, match="count of views must be at least 1, got 0"):
        ViewsConfig("crops", count=0)
    with pytest.raises(ValueError, match="area is two parts of the image"):
        ViewsConfig("crops", area=(0.9, 0.3))
    with pytest.raises(ValueError, match="ratio is of the longer to the shorter side"):
        ViewsConfig("crops", ratio=0.5)
