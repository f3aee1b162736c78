import math
import os
import signal
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from cache import FeatureStore, Identity, verify
from stages.extraction import (
    Backbone,
    PreprocessConfig,
    Progress,
    TimmConfig,
    ViewsConfig,
    extract,
    extract_all,
    load_backbone,
)
from tests.forks import Forks
from tests.pictures import draw, draw_folder
from tests.toys.extraction import SIZE, never, records_of, toy_backbone
from tests.toys.stores import contents


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return draw_folder(tmp_path / "images", {"a": 9, "b": 8, "c": 6})


def test_every_image_gets_the_feature_of_its_own_pixels(tmp_path: Path, images: Path) -> None:
    records, backbone = records_of(images), toy_backbone()
    store = extract(records, backbone, tmp_path / "features", batch_size=4)
    for uri, digest in zip(records.uris, records.digests, strict=True):
        squashed = np.asarray(Image.open(uri).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        expected = [
            squashed[4 * y : 4 * y + 4, 4 * x : 4 * x + 4, channel].mean() / 255
            for channel in range(3)
            for y in range(2)
            for x in range(2)
        ]
        np.testing.assert_allclose(store.read([digest])[0].astype(float), expected, atol=1e-3)


def test_a_second_extraction_opens_no_image_and_runs_no_backbone(tmp_path: Path, images: Path) -> None:
    records, backbone = records_of(images), toy_backbone()
    first = extract(records, backbone, tmp_path / "features")
    before = contents(first.path)
    for uri in records.uris:
        Path(uri).unlink()
    extract(records, replace(backbone, forward=never), tmp_path / "features")
    assert contents(first.path) == before


def test_renaming_relabelling_and_splitting_again_compute_nothing(tmp_path: Path, images: Path) -> None:
    extract(records_of(images), toy_backbone(), tmp_path / "features")
    (images / "a").rename(images / "z")
    (images / "b/0.png").rename(images / "c/moved.png")
    extract(records_of(images), replace(toy_backbone(), forward=never), tmp_path / "features")


def test_ten_more_images_compute_ten(tmp_path: Path, images: Path) -> None:
    extract(records_of(images), toy_backbone(), tmp_path / "features")
    for number in range(10):
        draw(images / f"new/{number}.png", 5000 + number)
    seen: list[Progress] = []
    store = extract(records_of(images), toy_backbone(), tmp_path / "features", on_progress=seen.append)
    assert seen[-1][:3] == (10, 10, 0)  # done, total, failed
    assert len(store) == 33


def test_a_changed_preprocessing_value_is_another_store(tmp_path: Path, images: Path) -> None:
    one = extract(records_of(images), toy_backbone(), tmp_path / "features")
    other = extract(records_of(images), toy_backbone(crop=0.9), tmp_path / "features")
    assert one.path != other.path
    assert one.identity.differences(other.identity) == ["crop: stored (absent), wanted 0.9"]


def test_batch_size_and_workers_change_no_bit_of_a_network_without_rounding(tmp_path: Path, images: Path) -> None:
    one = extract(records_of(images), toy_backbone(), tmp_path / "one", batch_size=1, workers=1)
    other = extract(records_of(images), toy_backbone(), tmp_path / "other", batch_size=7, workers=3)
    for name in ("features/c/0/0", "features/zarr.json", "identity.json"):
        assert contents(one.path)[name] == contents(other.path)[name]
    assert one.chunks()[0].equals(other.chunks()[0])


def test_bad_images_are_rows_with_a_reason_and_move_nobody(tmp_path: Path, images: Path) -> None:
    good = extract(records_of(images), toy_backbone(), tmp_path / "good")
    (images / "a/0text.jpg").write_text("not an image")
    whole = (images / "b/0.png").read_bytes()
    (images / "b/1cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "c/2empty.png").write_bytes(b"")
    records = records_of(images)
    seen: list[Progress] = []
    store = extract(records, toy_backbone(), tmp_path / "bad", batch_size=4, on_progress=seen.append)
    assert seen[-1][:3] == (26, 26, 3)  # done, total, failed
    reasons = {records.keys[records.digests.index(f.digest)]: f.outcome.error for f in store.failures()}
    assert set(reasons) == {"a/0text.jpg", "b/1cut.png", "c/2empty.png"}
    assert "empty" in reasons["c/2empty.png"]
    np.testing.assert_array_equal(store.read(good.digests()), good.read(good.digests()))
    extract(records, replace(toy_backbone(), forward=never), tmp_path / "bad")  # failed before: not tried again
    assert verify(store) == []


def test_an_image_that_changes_or_goes_after_it_was_listed_is_tried_again_next_time(
    tmp_path: Path, images: Path
) -> None:
    records = records_of(images)
    (images / "a/0.png").unlink()
    draw(images / "b/0.png", 777)
    store = extract(records, toy_backbone(), tmp_path / "features")
    assert sorted(failure.outcome.status for failure in store.failures()) == ["unread", "unread"]
    draw_folder(images, {"a": 1})
    again = extract(records_of(images), toy_backbone(), tmp_path / "features")
    assert again.missing(records_of(images).digests) == []
    assert again.usable(records.digests).sum() == 22


def test_a_feature_past_float16_is_named_and_fits_float32(tmp_path: Path, images: Path) -> None:
    backbone = toy_backbone()
    loud = replace(backbone, forward=lambda batch: backbone.forward(batch) * 1e6)
    store = extract(records_of(images), loud, tmp_path / "features")
    assert len(store) == 0
    assert "past the largest float16" in store.failures()[0].outcome.error
    assert len(extract(records_of(images), loud, tmp_path / "features", dtype="float32")) == 23


def test_a_real_network_gives_what_it_gives_alone(tmp_path: Path, images: Path) -> None:
    backbone = load_backbone(TimmConfig(name="resnet10t", weights="random", preprocess=PreprocessConfig(size=64)))
    records = records_of(images)
    store = extract(records, backbone, tmp_path / "features", batch_size=5)
    picture = np.asarray(Image.open(records.uris[3]).convert("RGB"))
    alone = backbone.forward(backbone.preprocess(picture)[None])[0]
    np.testing.assert_allclose(store.read(records.digests[3:4])[0].astype(np.float32), alone, atol=2e-3, rtol=2e-3)
    assert not torch.is_grad_enabled() or store.dim == 512


def variant(backbone: Backbone, name: str, **changes: object) -> Backbone:
    identity = Identity({**backbone.identity.fields, "name": name})
    return replace(backbone, name=name, identity=identity, **changes)  # type: ignore[arg-type]


def test_one_pass_fills_every_store_as_a_pass_of_its_own_would(tmp_path: Path, images: Path) -> None:
    (images / "b/bad.png").write_bytes(b"no image")
    small = PreprocessConfig().resolve(size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), resize="shorter", crop_pct=0.5)
    backbones = [toy_backbone(), variant(toy_backbone(), "other", preprocess=small)]
    done = extract_all(records_of(images), backbones, tmp_path / "both", batch_size=5, chunk_rows=7)
    assert [(filled.store.name, filled.computed) for filled in done] == [("toy", 24), ("other", 24)]
    for backbone, filled in zip(backbones, done, strict=True):
        alone = extract(records_of(images), backbone, tmp_path / "alone", batch_size=5, chunk_rows=7)
        assert contents(alone.path) == contents(filled.store.path)


def test_one_pass_computes_for_each_store_what_that_store_lacks(tmp_path: Path, images: Path) -> None:
    first, second = toy_backbone(), variant(toy_backbone(), "other")
    extract(records_of(images), first, tmp_path / "f", chunk_rows=7, batch_size=5)
    for number in range(10):
        draw(images / f"new/{number}.png", 5000 + number)
    computed: list[int] = []

    def counted(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        computed.append(len(batch))
        return toy_backbone().forward(batch)

    seen: list[Progress] = []
    done = extract_all(
        records_of(images),
        [replace(first, forward=counted), second],
        tmp_path / "f",
        chunk_rows=7,
        batch_size=5,
        on_progress=seen.append,
    )
    assert [filled.computed for filled in done] == [10, 33]
    assert (computed[0], sum(computed[1:])) == (1, 10), "the fixed image of the store's sample, and what is missing"
    assert seen[-1][:3] == (33, 33, 0)
    digests = records_of(images).digests
    assert np.array_equal(done[0].store.read(digests), done[1].store.read(digests))
    assert all(verify(filled.store) == [] for filled in done)


def test_two_backbones_of_one_identity_fill_one_store_once(tmp_path: Path, images: Path) -> None:
    one, two = extract_all(records_of(images), [toy_backbone(), toy_backbone()], tmp_path / "features")
    assert one.store.path == two.store.path
    assert verify(one.store) == []
    assert len(FeatureStore.at(two.store.path)) == 23


def test_an_image_is_read_once_for_all_backbones(tmp_path: Path, images: Path) -> None:
    opened: list[str] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open" and str(arguments[0]).endswith(".png"):
            opened.append(str(arguments[0]))

    records = records_of(images)
    watching = True
    sys.addaudithook(hook)
    extract_all(records, [toy_backbone(), variant(toy_backbone(), "other")], tmp_path / "features")
    watching = False
    assert sorted(opened) == sorted(records.uris)


def test_backbones_that_share_a_forward_run_it_once_and_take_their_columns(tmp_path: Path, images: Path) -> None:
    runs: list[int] = []

    def both(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        runs.append(len(batch))
        plain = toy_backbone().forward(batch)
        return np.concatenate([plain, 2 * plain], axis=1)

    first = variant(toy_backbone(), "first", forward=both, columns=slice(0, 12))
    second = variant(toy_backbone(), "second", forward=both, columns=slice(12, 24))
    one, two = extract_all(records_of(images), [first, second], tmp_path / "features", batch_size=23)
    digests = records_of(images).digests
    assert runs == [1, 1, 23], "the fixed image of each store's sample, and the images"
    assert np.allclose(two.store.read(digests).astype(float), 2 * one.store.read(digests).astype(float), rtol=1e-3)


def test_views_are_stored_with_the_plain_one_first(tmp_path: Path, images: Path) -> None:
    plain = extract(records_of(images), toy_backbone(), tmp_path / "plain")
    flip = replace(toy_backbone(views=2), preprocess=replace(toy_backbone().preprocess, views=ViewsConfig("flip")))
    store = extract(records_of(images), flip, tmp_path / "views")
    digests = records_of(images).digests
    views = store.read_views(digests)
    assert views.shape == (23, 2, 12)
    assert np.array_equal(store.read(digests), plain.read(digests))
    quarters = views.astype(float).reshape(23, 2, 3, 2, 2)
    assert np.allclose(quarters[:, 1], quarters[:, 0, :, :, ::-1], atol=1e-3)  # left and right change places


def test_averaged_views_are_one_feature_the_mean_of_those_of_unit_length(tmp_path: Path, images: Path) -> None:
    plain = toy_backbone(views=2)
    apart = replace(plain, preprocess=replace(plain.preprocess, views=ViewsConfig("flip")))
    together = replace(plain, preprocess=replace(plain.preprocess, views=ViewsConfig("flip", average=True)))
    assert apart.preprocess.identity() != together.preprocess.identity()
    digests = records_of(images).digests
    views = extract(records_of(images), apart, tmp_path / "views").read_views(digests).astype(float)
    store = extract(records_of(images), together, tmp_path / "mean")
    assert store.views == 1
    for mean, (first, second) in zip(store.read(digests), views, strict=True):
        expected = (first / math.sqrt(sum(first**2)) + second / math.sqrt(sum(second**2))) / 2
        np.testing.assert_allclose(mean, expected, atol=1e-3)


def test_a_batch_that_does_not_fit_into_memory_is_halved(tmp_path: Path, images: Path) -> None:
    ran: list[int] = []

    def small(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        ran.append(len(batch))
        return toy_backbone().forward(batch)

    store = extract(records_of(images), replace(toy_backbone(), forward=small), tmp_path / "small", batch_size=8)
    assert max(ran) <= 3
    assert sum(ran[1:]) == 23
    np.testing.assert_array_equal(
        store.read(store.digests()), extract(records_of(images), toy_backbone(), tmp_path / "l").read(store.digests())
    )


@pytest.mark.slow
def test_killed_at_any_instant_and_started_again_ends_with_the_same_bytes(tmp_path: Path) -> None:
    images = draw_folder(tmp_path / "images", dict.fromkeys("abcdef", 8))
    (images / "c/bad.png").write_bytes(b"no image")
    rng = np.random.default_rng(0)
    kills = 0
    with Forks("tests.toys.extraction:extract_slowly") as forks:

        def start(name: str) -> int:
            process = forks.start(str(images), str(tmp_path / name))
            assert forks.line() == "ready"
            return process

        start("whole")
        assert forks.status() == 0
        while kills < 20:
            process = start("cut")
            if not forks.prints_within(float(rng.uniform(0.0, 0.06))):
                os.kill(process, signal.SIGKILL)
            status = forks.status()
            assert status in (0, -signal.SIGKILL)
            if status == 0:
                break
            kills += 1
        start("cut")
        assert forks.status() == 0
    assert kills >= 3
    (whole,), (cut,) = ((tmp_path / name).glob("toy-????????") for name in ("whole", "cut"))
    assert len(FeatureStore.at(whole)) == 48
    assert contents(cut) == contents(whole)
    assert verify(FeatureStore.at(cut)) == []


@pytest.mark.slow
def test_killed_before_any_change_and_started_again_ends_with_the_same_bytes(tmp_path: Path) -> None:
    images = str(draw_folder(tmp_path / "images", dict.fromkeys("abc", 4)))
    with Forks("tests.toys.extraction:extract_until_killed") as forks:
        assert forks.run(images, str(tmp_path / "0"), 0) == 0
        (whole,) = (tmp_path / "0").glob("toy-????????")
        for change in count(1):
            folder = tmp_path / str(change)
            if forks.run(images, str(folder), change) == 0:
                break
            assert forks.run(images, str(folder), 0) == 0
            (cut,) = folder.glob("toy-????????")
            assert contents(cut) == contents(whole), change
    assert change > 10
