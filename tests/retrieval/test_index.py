from __future__ import annotations

import math
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from cache import fingerprint
from cache.errors import DamagedStoreError, StaleStoreError
from cache.sealed import read_json
from cache.storage import LocalStorage
from stages.ranking import search, unit_length
from stages.retrieval import FlatIndexConfig, GalleryIndex, IndexConfig, build_index
from stages.retrieval.indexes.faiss_search import stored_vectors
from tests.oracles import retrieval as oracle

KEYS = tuple(f"image {row}" for row in range(30))


def gallery_index() -> GalleryIndex:
    vectors = unit_length(np.random.default_rng(0).normal(size=(30, 6)))
    return GalleryIndex(build_index(vectors), KEYS, embeddings="a" * 64)


@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=16), min_size=3, max_size=3), min_size=1, max_size=8))
def test_unit_length_divides_each_row_by_its_length(rows: list[list[float]]) -> None:
    unit = unit_length(np.array(rows, np.float16))
    assert unit.dtype == np.dtype("float32")
    np.testing.assert_allclose(unit, np.array([oracle.unit(row) for row in rows]), atol=2**-23)


def test_a_zero_row_stays_zero_and_the_argument_is_not_changed() -> None:
    vectors = np.array([[0, 0], [3, 4]], np.float32)
    np.testing.assert_allclose(unit_length(vectors), [[0.0, 0.0], [0.6, 0.8]], atol=1e-7)
    assert vectors.tolist() == [[0, 0], [3, 4]]


def test_vectors_of_unit_length_are_returned_as_they_are() -> None:
    for dim in (3, 64, 768):
        unit = unit_length(np.random.default_rng(2).normal(size=(3000, dim)))
        assert unit_length(unit) is unit
        assert unit_length(unit * np.float32(1.001)) is not unit


def test_similarities_of_unit_rows_are_the_same_in_any_order_of_summation() -> None:
    rng = np.random.default_rng(1)
    one, other = unit_length(rng.normal(size=(2, 20, 700)).reshape(40, 700)).astype(np.float64).reshape(2, 20, 700)
    for a, b in zip(one, other, strict=True):
        exact = math.fsum(a * b)
        for _ in range(5):
            order = rng.permutation(700)
            assert float(np.dot(a[order], b[order])) == exact
            assert sum((a * b)[order].tolist()) == exact


def test_build_index_keeps_the_rows_in_order() -> None:
    vectors = unit_length(np.eye(4, dtype=np.float32)[[2, 0, 3, 1]])
    index = build_index(vectors, FlatIndexConfig())
    rows, _ = search(stored_vectors(index), vectors, 1)
    assert rows[:, 0].tolist() == [0, 1, 2, 3]
    assert (index.ntotal, index.d, index.metric_type) == (4, 4, faiss.METRIC_INNER_PRODUCT)


def test_vectors_that_cannot_be_indexed_are_refused_by_cause() -> None:
    good = unit_length(np.random.default_rng(0).normal(size=(4, 3)))
    failed = good.copy()
    failed[2] = np.nan
    with pytest.raises(
        ValueError, match=r"finite numbers; 1 of 4 rows hold NaN or infinity, the first is row 2. A failed"
    ):
        build_index(failed)
    long = good.copy()
    long[1] *= 2
    with pytest.raises(ValueError, match=r"length 1 \(or be zero\); row 1 has length 2. Pass them through unit_length"):
        build_index(long)
    with pytest.raises(ValueError, match="at least one gallery row"):
        build_index(good[:0])
    with pytest.raises(ValueError, match=r"must have shape \(rows, E\)"):
        build_index(good[0])


def test_the_index_config_is_parsed_by_kind_and_refuses_what_it_does_not_know() -> None:
    config = TypeAdapter(IndexConfig)
    assert config.validate_python({"kind": "flat"}) == FlatIndexConfig()
    with pytest.raises(ValidationError, match="kind"):
        config.validate_python({"kind": "tree"})
    with pytest.raises(ValidationError, match="lists"):
        config.validate_python({"kind": "flat", "lists": 3})


def test_a_saved_index_is_loaded_with_the_same_answers(tmp_path: Path) -> None:
    index = gallery_index()
    index.save(tmp_path / "index")
    loaded = GalleryIndex.load(tmp_path / "index", embeddings="a" * 64, keys=KEYS)
    queries = unit_length(np.random.default_rng(1).normal(size=(5, 6)))
    for ours, theirs in zip(index.search(queries, 4), loaded.search(queries, 4), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (loaded.keys, loaded.embeddings) == (KEYS, "a" * 64)
    names = sorted(path.name for path in (tmp_path / "index").rglob("*.*"))
    assert names == ["gallery.faiss", "gallery.json", "keys.parquet"]


def test_the_sidecar_says_what_the_index_was_made_from(tmp_path: Path) -> None:
    gallery_index().save(tmp_path)
    sidecar = read_json((tmp_path / "gallery.json").read_bytes())
    snapshot = sidecar.pop("snapshot")
    assert sorted(sidecar.pop("sha256")) == sorted(path.name for path in (tmp_path / snapshot).iterdir())
    made_from = {"embeddings": "a" * 64, "keys": fingerprint(list(KEYS)), "rows": 30, "dim": 6}
    assert sidecar == made_from | {"next": 30, "index": {"kind": "flat"}, "choice": None, "version": 3}


def test_an_index_of_other_embeddings_or_another_gallery_is_stale(tmp_path: Path) -> None:
    gallery_index().save(tmp_path)
    with pytest.raises(StaleStoreError, match=r"embeddings: stored 'a{64}', wanted 'b{64}'") as caught:
        GalleryIndex.load(tmp_path, embeddings="b" * 64, keys=KEYS)
    assert len(caught.value.differences) == 1
    with pytest.raises(StaleStoreError, match="rows: stored 30, wanted 29"):
        GalleryIndex.load(tmp_path, embeddings="a" * 64, keys=KEYS[:-1])
    with pytest.raises(StaleStoreError, match="keys: stored"):
        GalleryIndex.load(tmp_path, embeddings="a" * 64, keys=KEYS[::-1])


def test_a_truncated_or_changed_index_is_damaged(tmp_path: Path) -> None:
    index = gallery_index()
    index.save(tmp_path)
    (path,) = tmp_path.rglob("gallery.faiss")
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(content)
        with pytest.raises(DamagedStoreError, match=r"gallery.faiss is not the file that gallery.json describes"):
            GalleryIndex.load(tmp_path, embeddings="a" * 64, keys=KEYS)
    path.unlink()
    with pytest.raises(DamagedStoreError, match=r"gallery.faiss"):
        GalleryIndex.load(tmp_path, embeddings="a" * 64, keys=KEYS)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not as it was written"), ("[]", "must hold an object, got list")]
)
def test_a_damaged_sidecar_is_named(tmp_path: Path, text: str, message: str) -> None:
    gallery_index().save(tmp_path)
    (tmp_path / "gallery.json").write_text(text)
    with pytest.raises(DamagedStoreError, match=message):
        GalleryIndex.load(tmp_path, embeddings="a" * 64, keys=KEYS)


def test_a_flipped_bit_at_any_byte_of_the_sidecar_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    index = gallery_index()
    index.save(tmp_path)
    path = tmp_path / "gallery.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            read = GalleryIndex.load(tmp_path, embeddings="a" * 64)
        except (DamagedStoreError, StaleStoreError):
            continue
        assert (read.keys, read.config, read.next_id, read.ids.tolist()) == (
            index.keys,
            index.config,
            index.next_id,
            index.ids.tolist(),
        ), place


def test_an_index_without_its_sidecar_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DamagedStoreError, match="holds no finished index"):
        GalleryIndex.load(tmp_path, embeddings="a" * 64, keys=KEYS)


def test_an_index_of_the_old_layout_is_built_again_and_leaves_nothing_behind(tmp_path: Path) -> None:
    for name in ("gallery.faiss", "keys.parquet", "notes.txt"):
        (tmp_path / name).write_bytes(b"old")
    (tmp_path / "gallery.json").write_text('{"embeddings": "a", "sha256": {}}')
    with pytest.raises(DamagedStoreError, match="is not what save\\(\\) of this version writes"):
        GalleryIndex.load(tmp_path, embeddings="a" * 64, keys=KEYS)
    gallery_index().save(tmp_path)
    assert GalleryIndex.load(tmp_path, embeddings="a" * 64, keys=KEYS).keys == KEYS
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["gallery.json", "notes.txt"]


def test_a_reader_that_meets_a_deleted_snapshot_reads_the_new_one(tmp_path: Path) -> None:
    index = gallery_index()
    later = [index.without(KEYS[:2])]

    class Swapped(LocalStorage):
        def map(self, key: str) -> memoryview | None:
            while later:
                later.pop().save(tmp_path)
            return super().map(key)

    index.save(tmp_path)
    assert GalleryIndex.load(Swapped(tmp_path), embeddings="a" * 64).keys == KEYS[2:]


def test_an_index_takes_one_key_per_row() -> None:
    with pytest.raises(ValueError, match="it has 30 rows, got 29 keys"):
        GalleryIndex(gallery_index().index, KEYS[:-1], "a" * 64)
