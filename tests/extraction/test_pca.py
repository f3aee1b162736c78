"""The PCA backbone: the components of the training images, kept in a file."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cache.errors import RecordsError, WeightsError
from cache.storage import LocalStorage
from stages.extraction.backbones import PcaBasis, PcaConfig, fit_pca_basis, load_backbone, pca
from stages.extraction.known import known_backbones
from stages.records import read_records

CONFIG = PcaConfig(dim=5, size=4)


def _images(count: int = 30, side: int = 4, seed: int = 0) -> list[npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    scales = rng.uniform(5, 100, (side, side, 3))
    return [np.clip(128 + scales * rng.standard_normal((side, side, 3)), 0, 255).astype(np.uint8) for _ in range(count)]


def test_features_equal_the_singular_value_decomposition() -> None:
    images = _images()
    backbone = load_backbone(CONFIG, basis=fit_pca_basis(CONFIG, images))
    values = np.stack([image.transpose(2, 0, 1).reshape(-1) for image in images]) / 255
    centred = values - values.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    wanted = left[:, :5] * singular[:5]
    features = backbone.forward(np.stack([backbone.preprocess(image) for image in images]))
    assert features.dtype == np.float32
    signs = np.sign((features * wanted).sum(axis=0))
    np.testing.assert_allclose(features * signs, wanted, atol=1e-4)


def test_a_set_too_large_for_memory_is_summed_by_blocks_to_the_same_components(monkeypatch: pytest.MonkeyPatch) -> None:
    images = _images(100)
    at_once = fit_pca_basis(CONFIG, images)
    monkeypatch.setattr(pca, "_BLOCK", 7)
    monkeypatch.setattr(pca, "_IN_MEMORY", 4 * 48 * 20)
    by_blocks = fit_pca_basis(CONFIG, iter(images))
    np.testing.assert_allclose(by_blocks.mean, at_once.mean, atol=1e-6)
    cosines = (by_blocks.components * at_once.components).sum(axis=1)
    np.testing.assert_allclose(cosines, 1, atol=1e-5)  # the signs too


def test_the_pixels_of_a_large_set_are_not_all_in_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pca, "_IN_MEMORY", 1 << 20)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    tracemalloc.start()
    try:
        fit_pca_basis(PcaConfig(dim=2, size=8), (image ^ np.uint8(number % 251) for number in range(12_000)))
        assert tracemalloc.get_traced_memory()[1] < 6 << 20  # as float32 their pixels are 8.8 MiB
    finally:
        tracemalloc.stop()


def test_images_of_any_size_are_squashed() -> None:
    config = PcaConfig(dim=3, size=8)
    images = _images(10, 23) + [image[:11] for image in _images(10, 40, seed=1)]
    backbone = load_backbone(config, basis=fit_pca_basis(config, images))
    assert backbone.forward(np.stack([backbone.preprocess(image) for image in images])).shape == (20, 3)
    assert (backbone.name, backbone.dim, backbone.preprocess.resize) == ("pca", 3, "squash")


def test_a_large_fit_repeats_bit_for_bit_and_its_components_are_orthonormal() -> None:
    config = PcaConfig(dim=8, size=16)
    first, again = (fit_pca_basis(config, _images(600, 16)) for _ in range(2))
    assert first.digest == again.digest
    np.testing.assert_allclose(first.components @ first.components.T, np.eye(8), atol=1e-4)


def test_the_order_of_the_rows_and_their_names_change_no_basis(tmp_path: Path) -> None:
    images = [Image.fromarray(image) for image in _images(12, 8)]
    identities = []
    for folder, order in (("one", range(12)), ("other", reversed(range(12)))):
        (tmp_path / folder).mkdir()
        for place, number in enumerate(order):
            images[number].save(tmp_path / folder / f"{place:02}.png")
        table = tmp_path / folder / "labels.csv"
        rows = [f"{place:02}.png,{place % 3},train" for place in range(12)]
        table.write_text("\n".join(["path,label,split", *rows]))
        records = read_records(table, label="label")
        (backbone,) = known_backbones(CONFIG, records, tmp_path / folder / "features")
        identities.append(backbone.identity)
    assert identities[0] == identities[1]


def test_a_saved_basis_comes_back_as_it_was(tmp_path: Path) -> None:
    basis = fit_pca_basis(CONFIG, _images())
    basis.write(LocalStorage(tmp_path), "basis.safetensors")
    back = PcaBasis.read(LocalStorage(tmp_path), "basis.safetensors")
    assert back.digest == basis.digest
    assert np.array_equal(back.components, basis.components)
    one, other = load_backbone(CONFIG, basis=basis), load_backbone(CONFIG, basis=back)
    assert one.identity == other.identity
    assert [path.name for path in tmp_path.iterdir()] == ["basis.safetensors"]


def test_another_basis_is_another_identity() -> None:
    one, other = (load_backbone(CONFIG, basis=fit_pca_basis(CONFIG, _images(seed=seed))) for seed in (0, 1))
    assert [line.partition(":")[0] for line in one.identity.differences(other.identity)] == ["weights"]


def test_too_few_images_and_wrong_bases_are_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="PCA with dim = 5 needs as many training images, got 4"):
        fit_pca_basis(CONFIG, _images(4))
    with pytest.raises(WeightsError, match="got 0"):
        fit_pca_basis(CONFIG, [])
    basis = fit_pca_basis(CONFIG, _images())
    with pytest.raises(WeightsError, match=r"components of shape \(4, 48\), got \(5, 48\)"):
        load_backbone(dataclasses.replace(CONFIG, dim=4), basis=basis)
    with pytest.raises(ValueError, match="a PCA backbone needs its basis"):
        load_backbone(CONFIG)
    (tmp_path / "basis.safetensors").write_text("no")
    with pytest.raises(WeightsError, match="cannot be read as a PCA basis"):
        PcaBasis.read(LocalStorage(tmp_path), "basis.safetensors")
    with pytest.raises(ValueError, match=r"a batch must be \(B, 3, 4, 4\) uint8, got \(1, 3, 5, 5\)"):
        load_backbone(CONFIG, basis=basis).forward(np.zeros((1, 3, 5, 5), np.uint8))


@pytest.mark.parametrize(("dim", "size"), [(0, 4), (49, 4), (3, 0)])
def test_sizes_that_cannot_be_are_refused(dim: int, size: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        PcaConfig(dim=dim, size=size)


def test_an_image_that_cannot_be_read_at_this_moment_is_an_error_and_no_other_basis(tmp_path: Path) -> None:
    for number, image in enumerate(_images(12, 8)):
        Image.fromarray(image).save(tmp_path / f"{number:02}.png")
    (tmp_path / "03.png").write_bytes(b"no image, and never one")
    (tmp_path / "copy.png").write_bytes((tmp_path / "05.png").read_bytes())
    rows = [f"{path.name},{path.name},train" for path in sorted(tmp_path.glob("*.png"))]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    records = read_records(tmp_path / "labels.csv", label="label")
    (fitted,) = known_backbones(CONFIG, records, tmp_path / "features")
    (tmp_path / "05.png").unlink()  # another file has the same bytes
    (tmp_path / "04.png").rename(tmp_path / "away")
    with pytest.raises(RecordsError, match=r"'04\.png' .* cannot be read: .*No such file"):
        known_backbones(CONFIG, records, tmp_path / "other")
    (tmp_path / "04.png").write_bytes(b"other bytes")
    with pytest.raises(RecordsError, match=r"'04\.png' .* has changed since it was listed"):
        known_backbones(CONFIG, records, tmp_path / "other")
    (tmp_path / "away").rename(tmp_path / "04.png")
    (again,) = known_backbones(CONFIG, records, tmp_path / "other")
    assert again.identity == fitted.identity
