import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.errors import RecordsError
from stages.datasets import drawn as catalogue
from stages.datasets.drawn import COLUMNS, draw_catalogue
from stages.datasets.drawn.painting import COLOURS, FAMILIES, MATERIALS, PATTERNS, SHAPES, invent, pattern

TINY = {"instances": 3, "views": 2, "size": 48}


def bytes_of(folder: Path) -> dict[str, str]:
    """The sha256 of every file under ``folder``, by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def lines_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogue")
    assert draw_catalogue(folder, **TINY, workers=1) == folder / "labels.csv"
    return folder


def test_two_processes_draw_the_same_bytes_as_one(drawn: Path, tmp_path: Path) -> None:
    draw_catalogue(tmp_path, **TINY, workers=2)
    assert bytes_of(tmp_path) == bytes_of(drawn)


def test_a_larger_catalogue_begins_with_the_images_of_a_smaller_one(drawn: Path, tmp_path: Path) -> None:
    draw_catalogue(tmp_path, instances=4, views=3, size=48, workers=1)
    larger, smaller = bytes_of(tmp_path), bytes_of(drawn)
    images = [path for path in smaller if path.endswith(".jpg")]
    assert len(images) == 6
    assert [larger[path] for path in images] == [smaller[path] for path in images]


def test_every_image_differs_and_another_seed_draws_others(drawn: Path, tmp_path: Path) -> None:
    draw_catalogue(tmp_path, **TINY, seed=1, workers=1)
    images = [digest for folder in (drawn, tmp_path) for path, digest in bytes_of(folder).items() if ".jpg" in path]
    assert len(images) == len(set(images)) == 12


def test_the_table_lists_every_image_once_and_nothing_else(drawn: Path) -> None:
    lines = lines_of(drawn / "labels.csv")
    assert ",".join(lines[0]) == ",".join(COLUMNS) == "path,key,label,category,shape,colour,pattern,material"
    assert {line["path"] for line in lines} == {path for path in bytes_of(drawn) if path.endswith(".jpg")}
    assert len({line["key"] for line in lines}) == len(lines) == 6
    for line in lines:
        with Image.open(drawn / line["path"]) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (48, 48))


def test_the_views_of_a_label_share_its_attributes(drawn: Path) -> None:
    lines = lines_of(drawn / "labels.csv")
    looks = {(line["label"], *(line[name] for name in COLUMNS[3:])) for line in lines}
    assert len(looks) == len({line["label"] for line in lines}) == 3
    for line in lines:
        assert line["label"].startswith(line["category"])
        assert line["category"] in FAMILIES
        assert line["shape"] in SHAPES
        assert line["colour"] in COLOURS
        assert line["pattern"] in PATTERNS
        assert line["material"] in MATERIALS


def test_a_second_call_draws_nothing(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(catalogue, "_draw_instance", refuse)
    assert draw_catalogue(drawn, **TINY, workers=1) == drawn / "labels.csv"


def test_an_interrupted_catalogue_is_drawn_again_to_the_same_bytes(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_one = catalogue._draw_instance

    def stop_at_the_last(folder: Path, views: int, size: int, seed: int, instance: int) -> list[tuple[str, ...]]:
        if instance == 2:
            raise KeyboardInterrupt
        return draw_one(folder, views, size, seed, instance)

    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "_draw_instance", stop_at_the_last)
        with pytest.raises(KeyboardInterrupt):
            draw_catalogue(tmp_path, **TINY, workers=1)
    assert not (tmp_path / "labels.csv").exists()
    assert 0 < len(list(tmp_path.rglob("*.jpg"))) < 6
    draw_catalogue(tmp_path, **TINY, workers=1)
    assert bytes_of(tmp_path) == bytes_of(drawn)


def test_other_arguments_draw_anew(tmp_path: Path) -> None:
    draw_catalogue(tmp_path, instances=1, views=1, size=32, workers=1)
    assert len(lines_of(draw_catalogue(tmp_path, instances=1, views=2, size=32, workers=1))) == 2
    assert json.loads((tmp_path / "catalogue.json").read_text())["views"] == 2


def test_a_table_that_was_not_drawn_here_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\nmine.jpg,mine\n")
    with pytest.raises(RecordsError, match=r"left alone\. Name another folder"):
        draw_catalogue(tmp_path, **TINY, workers=1)
    assert bytes_of(tmp_path).keys() == {"labels.csv"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"instances": 0}, "instances must be at least 1, got 0"),
        ({"views": 0}, "views must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"size": 8}, "size must be at least 32, got 8"),
    ],
)
def test_a_bad_argument_is_named_with_its_bound(tmp_path: Path, wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_catalogue(tmp_path / "none", **wrong)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("category", FAMILIES)
def test_every_family_fills_its_square_without_leaving_it(category: str) -> None:
    for seed in range(5):
        alpha = np.asarray(invent(category, 100, np.random.default_rng(seed)).image)[:, :, 3] > 128
        rows, columns = (np.flatnonzero(alpha.any(axis=axis)) for axis in (1, 0))
        for places in (rows, columns):
            assert places[0] >= 3
            assert places[-1] <= 96
        assert max(np.ptp(rows), np.ptp(columns)) == pytest.approx(85, abs=6)


@pytest.mark.parametrize("category", FAMILIES)
def test_two_products_of_a_family_look_different(category: str) -> None:
    one, other = (np.asarray(invent(category, 48, np.random.default_rng(seed)).image) for seed in (0, 1))
    assert np.abs(one[:, :, :3].astype(int) - other[:, :, :3]).mean() > 3


@pytest.mark.parametrize("kind", PATTERNS)
def test_a_pattern_is_a_share_between_none_and_all(kind: str) -> None:
    share = pattern(kind, 60, 0.2, 0.7)
    assert share.shape == (60, 60)
    assert share.min() >= 0
    assert share.max() <= 1
    assert (np.ptp(share) == 0) == (kind == "plain")


def test_stripes_repeat_after_one_period_across_and_never_change_along() -> None:
    share = pattern("stripes", 100, 0.25, 0.0)
    np.testing.assert_allclose(share[:, 25:], share[:, :-25], atol=1e-4)
    np.testing.assert_array_equal(share[10:], share[:-10])
