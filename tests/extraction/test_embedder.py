"""An image's own vector equals its stored row, whatever a run file says about the backbone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cache import FeatureStore, RowOutcome, parse_source
from stages.extraction import (
    Backbone,
    Embedder,
    PcaConfig,
    PreprocessConfig,
    TimmConfig,
    ViewsConfig,
    decode,
    extract_all,
    fit_pca_basis,
    load_backbone,
    load_backbones,
)
from stages.records import Records, read_records
from stages.training import FusedFeatures
from tests.pictures import draw_folder, write_table

FLIP, CROPS = ViewsConfig("flip", average=True), ViewsConfig("crops", count=2, average=True)
RESNET = TimmConfig(name="test_resnet", weights="random", preprocess=PreprocessConfig(size=64))


def resnet(views: ViewsConfig | None) -> TimmConfig:
    return TimmConfig(name="test_resnet", weights="random", preprocess=PreprocessConfig(size=64, views=views))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    folder = draw_folder(tmp_path_factory.mktemp("images"), {"a": 5, "b": 4})
    rows = [{"path": str(path), "label": path.parent.name} for path in sorted(folder.rglob("*.png"))]
    rows[0]["path"] = f"box:3,2,30,28:{rows[1]['path']}"
    return read_records(write_table(folder / "table.csv", rows), label="label")


def stored(records: Records, backbones: Sequence[Backbone], folder: Path, dtype: str = "float16") -> list[FeatureStore]:
    return [filled.store for filled in extract_all(records, backbones, folder, dtype=dtype)]


def embed(embedder: Embedder, records: Records) -> npt.NDArray[np.generic]:
    sources = [parse_source(uri) for uri in records.uris]
    embedded = embedder.embed([source.read() for source in sources], boxes=[source.box for source in sources])
    assert embedded.problems == {}
    return embedded.vectors


def similarity(one: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    a, b = one.astype(np.float64), other.astype(np.float64)
    cosine: npt.NDArray[np.float64] = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return cosine


@pytest.mark.parametrize("views", [None, FLIP, CROPS, ViewsConfig("crops", count=2)], ids=str)
def test_an_image_is_embedded_as_it_is_stored(records: Records, tmp_path: Path, views: ViewsConfig | None) -> None:
    backbone = load_backbone(resnet(views))
    (store,) = stored(records, [backbone], tmp_path)
    rows = store.read(records.digests)
    vectors = embed(Embedder([backbone]), records)
    assert vectors.dtype == rows.dtype == np.float16
    assert similarity(vectors, rows).min() >= 0.9999
    if views is None or views.average:
        assert np.array_equal(vectors, rows), "the same batch gives the same bits"
        alone = embed(Embedder([backbone], batch_size=2), records)
        np.testing.assert_allclose(alone.astype(float), rows.astype(float), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("views", [FLIP, CROPS], ids=str)
def test_the_plain_view_alone_is_not_what_is_stored_of_averaged_views(
    records: Records, tmp_path: Path, views: ViewsConfig
) -> None:
    backbone = load_backbone(resnet(views))
    (store,) = stored(records, [backbone], tmp_path)
    sources = [parse_source(uri) for uri in records.uris]
    plain = np.stack([backbone.preprocess(decode(source.read(), box=source.box)) for source in sources])
    assert similarity(backbone.features(plain), store.read(records.digests)).min() < 0.9999


def test_blocks_poolings_sizes_and_pca_are_embedded_as_they_are_stored(records: Records, tmp_path: Path) -> None:
    blocks = load_backbones(TimmConfig(name="test_resnet", weights="random", blocks=(-1, -2)))
    pooled = load_backbones(TimmConfig(name="test_vit", weights="random", pooling=("cls", "gem"), image_size=96))
    pca = PcaConfig(dim=3, size=4)
    basis = fit_pca_basis(pca, [decode(Path(uri).read_bytes()) for uri in records.uris[1:]])
    backbones = [*blocks, *pooled, load_backbone(pca, basis=basis)]
    stores = stored(records, backbones, tmp_path, dtype="float32")
    for backbone, store in zip(backbones, stores, strict=True):
        vectors = embed(Embedder([backbone], dtype="float32"), records)
        assert similarity(vectors, store.read(records.digests)).min() >= 0.9999


@pytest.mark.parametrize("sizes", [False, True])
def test_fused_backbones_are_embedded_as_fused_stores_are_read(records: Records, tmp_path: Path, sizes: bool) -> None:
    backbones = [load_backbone(resnet(FLIP)), load_backbone(TimmConfig(name="test_vit", weights="random"))]
    fused = FusedFeatures(stored(records, backbones, tmp_path), sizes=sizes)
    assert np.array_equal(embed(Embedder(backbones, sizes=sizes), records), fused.read(records.digests))


def test_a_head_is_given_the_stored_features_and_its_output_is_the_vector(records: Records, tmp_path: Path) -> None:
    backbone = load_backbone(RESNET)
    (store,) = stored(records, [backbone], tmp_path)

    def head(features: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        assert features.dtype == np.float16
        return features[:, :5].astype(np.float32) * 2

    assert np.array_equal(embed(Embedder([backbone], head=head), records), head(store.read(records.digests)))


@pytest.mark.parametrize("with_head", [False, True])
def test_a_bad_image_is_named_by_position_and_the_others_are_embedded(records: Records, with_head: bool) -> None:
    embedder = Embedder([load_backbone(RESNET)], head=(lambda rows: rows.astype(np.float32)) if with_head else None)
    good = Path(records.uris[1]).read_bytes()
    embedded = embedder.embed([good, b"", good, good[:100]])
    assert sorted(embedded.problems) == [1, 3]
    assert embedded.problems[1] == "empty file"
    assert np.isnan(embedded.vectors[[1, 3]].astype(float)).all()
    assert np.array_equal(embedded.vectors[0], embedded.vectors[2])
    assert np.isfinite(embedded.vectors[0].astype(float)).all()
    nothing = embedder.embed([])
    assert nothing.vectors.shape == (0, embedded.vectors.shape[1])
    assert nothing.problems == {}


def test_a_feature_that_the_stored_dtype_cannot_hold_is_a_problem(records: Records) -> None:
    backbone = load_backbone(RESNET)
    loud = replace(backbone, forward=lambda batch: backbone.forward(batch) * 1e9)
    image = Path(records.uris[1]).read_bytes()
    assert "past the largest float16" in Embedder([loud]).embed([image]).problems[0]
    faint = replace(backbone, forward=lambda batch: backbone.forward(batch) * 1e-9)
    assert "too small for float16" in Embedder([faint]).embed([image]).problems[0]
    for other in (loud, faint):
        assert Embedder([other], dtype="float32").embed([image]).problems == {}


def test_a_size_that_the_stored_dtype_cannot_hold_is_a_problem() -> None:
    backbone = load_backbone(RESNET)
    embedder = Embedder([backbone], sizes=True)
    parts = [np.ones((2, 1, backbone.dim), np.float32)]
    embedded = embedder.finish(parts, [RowOutcome("ok", 1, 65_504), RowOutcome("ok", 1, 65_600)])
    assert embedded.problems == {1: "the size of the image gave 6.56e+04, past the largest float16"}


def test_a_batch_size_that_did_not_fit_is_not_tried_again(records: Records) -> None:
    backbone = load_backbone(RESNET)
    tried: list[int] = []

    def small(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        tried.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return backbone.forward(batch)

    image = Path(records.uris[1]).read_bytes()
    embedder = Embedder([replace(backbone, forward=small)])
    first = embedder.embed([image] * 8).vectors
    assert tried == [8, 4, 2, 2, 2, 2]
    assert np.array_equal(embedder.embed([image] * 8).vectors, first)
    assert tried[6:] == [2, 2, 2, 2]
