"""Encoding: paths, bytes, Pillow images, arrays and folders become the vectors that a store holds for them."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from cache.errors import MissingRowsError, RecordsError, SettingsError
from pipeline.bundle.export import export_bundle
from pipeline.config import parse_config
from pipeline.dataset import Run, run_of
from pipeline.encoder import Encoder, Picture
from pipeline.extraction import Hardware, extract_features
from pipeline.progress import Display
from pipeline.searcher import Searcher
from pipeline.transformer import ImageEncoder
from pipeline.vectors import Vectors, find_vectors
from stages.extraction.decode import decode, decode_image
from tests.pictures import draw, draw_folder

RUN = """
[[backbones]]
kind = "timm"
name = "test_resnet"
weights = "random"
preprocess = { size = 64, views = { kind = "crops", count = 2, average = true } }
[[heads]]
name = "lda"
kind = "lda"
dim = 4
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[Vectors], Path]:
    """A run, its raw feature and head, and the folder with a bundle of each."""
    folder = tmp_path_factory.mktemp("run")
    images = draw_folder(folder / "images", {f"class {number}": 5 for number in range(10)})
    dataset = f'[dataset]\nkind = "folder"\npath = "{images}"\nqueries_per_class = 2\n'
    run = run_of(parse_config(f'artifacts = "{folder}/artifacts"\n{dataset}{RUN}'), Display(quiet=True))
    extract_features(run, Hardware())
    vectors = find_vectors(run, train=True)
    for entry in vectors:
        export_bundle(run, entry, folder / entry.head)
    return run, vectors, folder


def test_a_folder_is_encoded_to_the_bits_of_the_store(exported: tuple[Run, list[Vectors], Path]) -> None:
    run, vectors, folder = exported
    by_key = dict(zip(run.records.keys, run.records.digests, strict=True))
    for entry in vectors:
        encoded = Encoder.load(folder / entry.head).encode(folder / "images", unit=False)
        assert encoded.digests == [by_key[key] for key in sorted(by_key)]
        np.testing.assert_array_equal(encoded.vectors, entry.store.read(encoded.digests))
        assert encoded.failed == []


def test_bytes_paths_images_and_arrays_of_one_picture_are_one_vector(
    exported: tuple[Run, list[Vectors], Path], tmp_path: Path
) -> None:
    encoder = Encoder.load(exported[2] / "lda")
    path = draw(tmp_path / "photo.png", 7)
    vectors = [encoder.encode(one).vectors for one in (path, str(path), path.read_bytes())]
    with Image.open(path) as image:
        pixels = np.asarray(image)
        held = encoder.encode([image, pixels]).vectors  # random crops are drawn by the pixels, not by a file's bytes
    assert {vector.tobytes() for vector in vectors} == {vectors[0].tobytes()}
    np.testing.assert_allclose(held[0], held[1], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([vectors[0], held]), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "CMYK", "1", "turned"])
def test_a_pillow_image_is_taken_as_its_file_is(mode: str, tmp_path: Path) -> None:
    with Image.open(draw(tmp_path / "photo.png", 3)) as drawn:
        drawn.load()
    exif, kind = Image.Exif(), "TIFF" if mode == "CMYK" else "PNG"
    if mode == "turned":
        exif[0x0112] = 6
    if mode == "I;16":
        image = Image.fromarray(np.arange(30 * 40, dtype=np.uint16).reshape(30, 40) * 40)
    else:
        grey = drawn.convert("L") if mode in ("LA", "1") else drawn
        image = drawn if mode == "turned" else grey.convert(mode)
    file = io.BytesIO()
    image.save(file, kind, exif=exif)
    with Image.open(io.BytesIO(file.getvalue())) as opened:
        pixels = decode_image(opened)
    np.testing.assert_array_equal(pixels, decode(file.getvalue()))
    assert (pixels.shape[0] > pixels.shape[1]) == (mode == "turned")


def test_what_fails_is_listed_and_the_others_are_not_affected(
    exported: tuple[Run, list[Vectors], Path], tmp_path: Path
) -> None:
    encoder = Encoder.load(exported[2] / "lda", batch_size=3)
    good = [draw(tmp_path / f"{number}.png", number) for number in range(5)]
    (tmp_path / "text.jpg").write_text("no image")
    cut = Image.open(io.BytesIO(good[0].read_bytes()[:-30]))
    given: list[Picture] = [
        good[0],
        b"",
        good[1],
        tmp_path / "gone.png",
        good[2],
        tmp_path / "text.jpg",
        cut,
        good[3],
        good[4],
    ]
    encoded = encoder.encode(given)
    assert [(failed.place, Path(failed.name).name) for failed in encoded.failed] == [
        (1, "image 1"),
        (3, "gone.png"),
        (5, "text.jpg"),
        (6, "image 6"),
    ]
    reasons = [failed.reason for failed in encoded.failed]
    assert reasons[:2] == ["empty file", "cannot be read: No such file or directory"]
    assert np.isnan(encoded.vectors[[1, 3, 5, 6]]).all()
    np.testing.assert_allclose(
        encoded.vectors[[0, 2, 4, 7, 8]], np.concatenate([encoder.encode(one).vectors for one in good]), atol=1e-3
    )


def test_one_image_alone_that_has_no_vector_is_an_error_and_a_folder_names_its_images(
    exported: tuple[Run, list[Vectors], Path], tmp_path: Path
) -> None:
    encoder = Encoder.load(exported[2] / "raw")
    (tmp_path / "photos.csv").write_text("path\n1.png\n")
    for one in (tmp_path / "no folder", str(tmp_path / "photos.csv"), b"no image"):
        with pytest.raises(RecordsError, match="is neither a folder nor an image that can be read"):
            encoder.encode(one)
    for name in ("b/2.png", "a/1.png"):
        draw(tmp_path / "photos" / name, 1)
    assert encoder.encode(tmp_path / "photos").names == ["a/1.png", "b/2.png"]


def test_what_is_no_image_is_refused_before_anything_is_computed(exported: tuple[Run, list[Vectors], Path]) -> None:
    encoder = Encoder.load(exported[2] / "raw")
    for image in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(SettingsError, match="got"):
            encoder.encode([image])  # type: ignore[list-item]
    with pytest.raises(SettingsError, match="got int"):
        encoder.encode([3])  # type: ignore[list-item]
    assert encoder.encode([]).vectors.shape == (0, encoder.dim)


def test_a_folder_without_images_and_one_without_a_bundle_are_named(
    exported: tuple[Run, list[Vectors], Path], tmp_path: Path
) -> None:
    with pytest.raises(RecordsError, match="holds no image"):
        Encoder.load(exported[2] / "raw").encode(tmp_path)
    with pytest.raises(MissingRowsError, match="holds no bundle"):
        Encoder.load(tmp_path)


def test_a_searcher_of_a_run_encodes_as_its_bundle_does(exported: tuple[Run, list[Vectors], Path]) -> None:
    run, vectors, folder = exported
    encoders = Encoder(Searcher.of_run(run, vectors[-1]).embedder), Encoder.load(folder / "lda")
    one, other = (encoder.encode(folder / "images/class 1") for encoder in encoders)
    np.testing.assert_array_equal(one.vectors, other.vectors)


def test_it_is_a_step_of_scikit_learn(exported: tuple[Run, list[Vectors], Path]) -> None:
    folder = exported[2]
    step = ImageEncoder(folder / "lda", batch_size=5)
    assert clone(step).get_params() == step.get_params()
    assert pickle.loads(pickle.dumps(step)).get_params() == step.get_params()
    images = sorted((folder / "images").rglob("*.png"))
    labels = [path.parent.name for path in images]
    pipeline = make_pipeline(step, KNeighborsClassifier(1)).fit(images, labels)
    assert list(pipeline.predict(images)) == labels
    assert list(pipeline[0].get_feature_names_out()) == [f"imageencoder{number}" for number in range(4)]
    with pytest.raises(RecordsError, match="1 of 2 images cannot be encoded, first image 1: empty file"):
        pipeline[0].transform([images[0], b""])
    assert np.isnan(ImageEncoder(folder / "lda", on_failure="nan").fit().transform([b""])).all()
