"""No step keeps more than a bounded number of files open: 100 chunks, shards and tables, and room for 40."""

from __future__ import annotations

import io
import os
import resource
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cache import compact, verify
from stages.datasets import ParquetConfig, WebDatasetConfig
from stages.extraction import extract
from stages.records import Records, read_records
from stages.retrieval import evaluate
from stages.training import ArcFaceConfig, HeadRecipe, LinearHeadConfig, TrainingConfig, embed, train_head
from tests.toys.extraction import toy_backbone
from tests.toys.training import classes_of, make_records, make_store, toy_features

FILES, ROOM = 100, 40


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """This process can open so many files more than it has open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = max(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + ROOM, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def picture(number: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4), (number % 256, number // 256, 7)).save(content, "PNG")
    return content.getvalue()


@pytest.mark.slow
def test_many_chunks_are_trained_from_disk_embedded_scored_verified_and_compacted(
    tmp_path: Path, few_descriptors: None
) -> None:
    labels = classes_of(FILES // 5, 5)
    features = make_store(tmp_path / "f", dict(zip(labels, toy_features(labels), strict=True)), chunk_rows=1)
    records = make_records(labels)
    recipe = HeadRecipe(LinearHeadConfig(dim=4), ArcFaceConfig(), training=TrainingConfig(epochs=1, memory="map"))
    vectors = embed(train_head(features, records, recipe), features, tmp_path / "e")
    for store in (features, vectors):
        assert evaluate(store, queries=records, gallery=records, metrics=["hit@1"]).value("hit@1") >= 0
        assert verify(store) == []
    assert compact(features, records.digests[:-1]).chunks_after == FILES - 1


def shards(folder: Path) -> Records:
    folder.mkdir()
    for number in range(FILES):
        with tarfile.open(folder / f"{number:05}.tar", "w") as tar:
            entry = tarfile.TarInfo("a.png")
            entry.size = len(picture(number))
            tar.addfile(entry, io.BytesIO(picture(number)))
            entry = tarfile.TarInfo("a.cls")
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"0"))
    return read_records(WebDatasetConfig(path=str(folder), label="cls"))


def tables(folder: Path) -> Records:
    folder.mkdir()
    for number in range(FILES):
        columns = {"image": pa.array([picture(number)]), "label": ["a"]}
        pq.write_table(pa.table(columns), folder / f"{number:05}.parquet")
    return read_records(ParquetConfig(path=str(folder), image="image", label="label"))


@pytest.mark.slow
@pytest.mark.parametrize("written", [shards, tables])
def test_many_shards_and_tables_are_listed_and_extracted(
    tmp_path: Path, few_descriptors: None, written: Callable[[Path], Records]
) -> None:
    records = written(tmp_path / "images")
    assert len(records) == FILES
    store = extract(records, toy_backbone(), tmp_path / "f", batch_size=1, chunk_rows=1)
    assert len(store) == FILES
