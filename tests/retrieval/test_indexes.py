from __future__ import annotations

import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pytest
from pydantic import TypeAdapter, ValidationError

from cache.errors import DamagedStoreError, StaleStoreError
from stages.ranking import unit_length
from stages.retrieval import (
    BinaryIndexConfig,
    FlatIndexConfig,
    GalleryIndex,
    HnswIndexConfig,
    IndexConfig,
    IvfFlatIndexConfig,
    IvfPqIndexConfig,
    OpqIndexConfig,
    RabitqIndexConfig,
    RefineConfig,
    ScalarIndexConfig,
)
from stages.retrieval.indexes.kinds import BuiltConfig
from tests.forks import Forks
from tests.retrieval.index_contract import IndexContract

Vectors = npt.NDArray[np.float32]

EXACT = "e" * 64
ROWS, DIM = 600, 16
AGAIN = RefineConfig(candidates=8, stored="float32")
KINDS: dict[str, BuiltConfig] = {
    "flat": FlatIndexConfig(),
    "ivf_flat": IvfFlatIndexConfig(lists=12, probes=4),
    "ivf_pq": IvfPqIndexConfig(bytes=4, lists=6, probes=6),
    "opq": OpqIndexConfig(bytes=4),
    "hnsw": HnswIndexConfig(links=8),
    "float16": ScalarIndexConfig(stored="float16"),
    "int8 in lists": ScalarIndexConfig(lists=6, probes=6),
    "binary": BinaryIndexConfig(bits=64),
    "rabitq": RabitqIndexConfig(bits=4),
    "rabitq in lists": RabitqIndexConfig(bits=2, lists=6, probes=6),
    "refined": IvfPqIndexConfig(bytes=4, lists=6, probes=6, refine=AGAIN),
}


def clustered(rows: int, seed: int, dim: int = DIM) -> Vectors:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, dim))
    return unit_length(centres[np.arange(rows) % 40] + 0.5 * rng.normal(size=(rows, dim)))


def keys_of(rows: int) -> tuple[str, ...]:
    return tuple(f"image {row}" for row in range(rows))


@pytest.fixture(scope="module", params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def index(kind: str) -> GalleryIndex:
    return GalleryIndex.build(clustered(ROWS, 0), keys_of(ROWS), EXACT, KINDS[kind])


def fresh(kind: str) -> GalleryIndex:
    return GalleryIndex.build(clustered(ROWS, 0), keys_of(ROWS), EXACT, KINDS[kind])


def brute(gallery: Vectors, queries: Vectors, k: int) -> npt.NDArray[np.int64]:
    similarity = queries.astype(np.float64) @ gallery.T.astype(np.float64)
    return np.array([np.lexsort((np.arange(len(gallery)), -row))[:k] for row in similarity])


LEAST_SHARED = {"ivf_pq": 0.5, "opq": 0.5, "binary": 0.3, "rabitq in lists": 0.7, "ivf_flat": 0.8}


def test_what_is_found_is_mostly_what_is_nearest(kind: str, index: GalleryIndex) -> None:
    queries = clustered(50, 1)
    ids, similarity = index.search(queries, 10)
    shared = np.mean([len({*a} & {*b}) / 10 for a, b in zip(ids, brute(clustered(ROWS, 0), queries, 10), strict=True)])
    assert shared >= LEAST_SHARED.get(kind, 0.9)
    assert (np.diff(similarity) <= 0).all()
    assert ((ids >= 0) & (ids < ROWS)).all()


@pytest.mark.parametrize("config", ["flat", "refined"])
def test_an_exact_comparison_gives_the_order_and_the_similarity_of_brute_force(config: str) -> None:
    gallery, queries = clustered(ROWS, 0), clustered(30, 2)
    every = RefineConfig(candidates=ROWS // 10, stored="float32")
    wanted = FlatIndexConfig() if config == "flat" else IvfPqIndexConfig(bytes=4, lists=6, probes=6, refine=every)
    ids, similarity = GalleryIndex.build(gallery, keys_of(ROWS), EXACT, wanted).search(queries, 10)
    expected = brute(gallery, queries, 10)
    np.testing.assert_array_equal(ids, expected)
    for query, rows, values in zip(queries, expected, similarity, strict=True):
        exact = [np.float32(sum(float(a) * float(b) for a, b in zip(gallery[row], query, strict=True))) for row in rows]
        np.testing.assert_allclose(values, exact, atol=1e-7)


def test_the_same_vectors_and_seed_give_the_same_bytes(kind: str, index: GalleryIndex) -> None:
    again = fresh(kind)
    np.testing.assert_array_equal(faiss.serialize_index(index.index), faiss.serialize_index(again.index))


def test_the_query_itself_is_left_out_by_id(index: GalleryIndex) -> None:
    own = np.array([5, 7, -1])
    ids, _ = index.search(clustered(ROWS, 0)[[5, 7, 9]], 8, own)
    assert 5 not in ids[0]
    assert 7 not in ids[1]
    assert ids.shape == (3, 8)


@pytest.mark.parametrize("share", [0.02, 0.6])
def test_only_allowed_rows_are_found_and_every_one_of_them_can_be(kind: str, index: GalleryIndex, share: float) -> None:
    gallery, queries = clustered(ROWS, 0), clustered(12, 6)
    removed = index.without(keys_of(ROWS)[::7])
    for searched in (index, removed):
        allowed = np.random.default_rng(5).random(len(searched)) < share
        own = np.where(np.arange(12) == 3, searched.ids[np.flatnonzero(allowed)[0]], -1)
        may = np.setdiff1d(searched.ids[allowed], [])
        ids, similarity = searched.search(queries, 8, own, allowed=allowed)
        if kind in ("flat", "hnsw", "ivf_flat") or (kind == "refined" and len(may) < 64):  # brute force
            expected = may[brute(gallery[may], queries, 9)]
        else:  # the whole ranking, without what may not be
            ranked, _ = searched.search(queries, ROWS)
            expected = np.array([[row for row in line if row in set(may.tolist())][:9] for line in ranked.tolist()])
            expected = expected if kind != "refined" else np.empty((0, 0))
        for row, line in enumerate(expected.tolist()):
            wanted = [each for each in line if each != own[row]][:8]
            assert ids[row].tolist() == wanted + [-1] * (8 - len(wanted))
        assert np.isin(ids[ids >= 0], may).all()
        assert ((ids >= 0).sum(axis=1) == np.minimum(8, len(may) - (own >= 0))).all()
        assert (np.diff(similarity[:, : (ids >= 0).sum(axis=1).min()]) <= 0).all()


def test_what_is_allowed_is_one_truth_value_a_row(index: GalleryIndex) -> None:
    wrong: list[Any] = [np.ones(5, np.bool_), np.ones(ROWS, np.int64)]
    for allowed in wrong:
        with pytest.raises(ValueError, match="allowed must be true or false for each of the 600 rows"):
            index.search(clustered(1, 6), 3, allowed=allowed)
    ids, similarity = index.search(clustered(2, 6), 3, allowed=np.zeros(ROWS, np.bool_))
    assert (ids == -1).all()
    assert np.isneginf(similarity).all()


def test_the_vectors_of_keys_are_those_that_were_added_where_they_are_held_whole() -> None:
    gallery = clustered(ROWS, 0)
    for name in ("flat", "hnsw", "opq"):
        index = fresh(name).without(["image 3"])
        vectors = index.vectors_at(index.rows_of(["image 9", "image 2"]))
        if name == "opq":
            assert vectors is None
        else:
            np.testing.assert_array_equal(vectors, gallery[[9, 2]])
        with pytest.raises(KeyError, match="no row of key 'image 3'"):
            index.rows_of(["image 2", "image 3"])


def test_a_list_that_is_short_ends_in_minus_one(kind: str, index: GalleryIndex) -> None:
    ids, similarity = index.search(clustered(4, 3), ROWS + 5)
    assert (ids[:, -5:] == -1).all()
    assert np.isneginf(similarity[ids == -1]).all()
    assert not np.isneginf(similarity[ids >= 0]).any()
    few = GalleryIndex.build(clustered(ROWS, 0), keys_of(ROWS), EXACT, IvfFlatIndexConfig(lists=40, probes=1))
    ids, _ = few.search(clustered(4, 3), 300)
    assert (ids[:, -1] == -1).all()
    assert (ids[:, 0] >= 0).all()


class TestEveryKind(IndexContract):
    @pytest.fixture
    def index(self, kind: str) -> GalleryIndex:
        return fresh(kind)

    @pytest.fixture
    def vectors(self) -> Vectors:
        return np.concatenate([clustered(ROWS, 0), clustered(100, 4)])


@pytest.mark.parametrize("config", ["flat", "float16"])
def test_adding_and_removing_is_building_from_scratch(config: str) -> None:
    before, more = clustered(ROWS, 0), clustered(30, 4)
    index = fresh(config)
    index = index.without(keys_of(ROWS)[10:400:3]).with_rows([f"later {row}" for row in range(30)], more)
    staying = np.setdiff1d(np.arange(ROWS), np.arange(10, 400, 3))
    scratch = GalleryIndex.build(np.concatenate([before[staying], more]), index.keys, EXACT, KINDS[config])
    ids, similarity = index.search(clustered(40, 5), 9)
    places, exact = scratch.search(clustered(40, 5), 9)
    np.testing.assert_array_equal(ids, index.ids[places])
    np.testing.assert_array_equal(similarity, exact)


def test_permuting_the_gallery_permutes_the_answer() -> None:
    order = np.random.default_rng(6).permutation(ROWS)
    for config in (FlatIndexConfig(), ScalarIndexConfig(stored="float16")):
        plain = GalleryIndex.build(clustered(ROWS, 0), keys_of(ROWS), EXACT, config)
        moved = GalleryIndex.build(clustered(ROWS, 0)[order], [keys_of(ROWS)[row] for row in order], EXACT, config)
        queries = clustered(30, 7)
        for one, other in zip(plain.search(queries, 6)[0], moved.search(queries, 6)[0], strict=True):
            assert plain.keys_of(one) == moved.keys_of(other)


def test_an_index_of_another_kind_or_dimension_is_stale(tmp_path: Path) -> None:
    fresh("ivf_flat").save(tmp_path)
    with pytest.raises(StaleStoreError, match=r"index: stored .*'ivf_flat'.*, wanted .*'flat'"):
        GalleryIndex.load(tmp_path, embeddings=EXACT, config=FlatIndexConfig())
    with pytest.raises(StaleStoreError, match="dim: stored 16, wanted 64"):
        GalleryIndex.load(tmp_path, embeddings=EXACT, dim=64)
    with pytest.raises(StaleStoreError, match="embeddings: stored"):
        GalleryIndex.load(tmp_path, embeddings="f" * 64)


@pytest.mark.parametrize("file", ["gallery.faiss", "gallery.npy", "keys.parquet"])
def test_a_truncated_file_is_named(file: str, tmp_path: Path) -> None:
    fresh("refined").save(tmp_path)
    (path,) = tmp_path.rglob(file)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DamagedStoreError, match=rf"{file} is not the file that gallery.json describes"):
        GalleryIndex.load(tmp_path, embeddings=EXACT)


@pytest.mark.slow
def test_killed_at_any_commit_of_a_save_there_is_the_old_index_or_the_new(tmp_path: Path) -> None:
    with Forks("tests.toys.dying:save_until_killed") as forks:
        for commit in (1, 2, 3, 4, 5, 6):  # two files, the one that names them, and two deleted
            GalleryIndex.build(clustered(20, 0), keys_of(20), EXACT).save(tmp_path)
            assert forks.run(str(tmp_path), commit) == (0 if commit == 6 else -signal.SIGKILL)
            if commit <= 3:
                assert len(GalleryIndex.load(tmp_path, embeddings=EXACT)) == 20
            else:
                assert len(GalleryIndex.load(tmp_path, embeddings="n" * 64)) == 60


def test_what_does_not_fit_is_refused_by_cause() -> None:
    index = fresh("flat")
    with pytest.raises(ValueError, match=r"'image 5' would be there twice\. Remove it first"):
        index.with_rows(["image 5"], clustered(1, 0))
    with pytest.raises(ValueError, match=r"vectors to add have shape \(1, 8\); 1 keys in an index of 16 numbers"):
        index.with_rows(["new"], clustered(1, 0, dim=8))
    with pytest.raises(KeyError, match="no row of key 'nobody'"):
        index.without(["image 1", "nobody"])
    with pytest.raises(ValueError, match="these are all it has"):
        index.without(index.keys)
    with pytest.raises(ValueError, match="queries have 8 numbers a row, the gallery has 16"):
        index.search(clustered(2, 0, dim=8), 3)
    with pytest.raises(ValueError, match=r"queries must be finite"):
        index.search(np.full((1, 16), np.nan, np.float32), 3)
    with pytest.raises(ValueError, match="keys must differ, got 'same' twice"):
        GalleryIndex.build(clustered(2, 0), ["same", "same"], EXACT)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (IvfPqIndexConfig(bytes=5), r"bytes must divide the 16 numbers of a vector \(1, 2, 4, 8, 16\), got 5"),
        (OpqIndexConfig(bytes=32), "bytes must divide"),
        (IvfFlatIndexConfig(lists=500), "500 lists needs as many rows, got 100"),
        (IvfPqIndexConfig(bytes=4), "ivf_pq learns 256 pieces and needs as many rows, got 100. A flat"),
    ],
)
def test_a_kind_that_does_not_fit_the_gallery_says_why(config: BuiltConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GalleryIndex.build(clustered(100, 0), keys_of(100), EXACT, config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ivf_flat", "lists": -1}, "lists is a number of cells"),
        ({"kind": "ivf_pq", "lists": 4, "probes": 9}, "from 1 to all 4, got 9"),
        ({"kind": "binary", "bits": 12}, "bits is a multiple of 8"),
        ({"kind": "rabitq", "bits": 10}, "bits is how many each number keeps"),
        ({"kind": "hnsw", "links": 1}, "links is how many neighbours"),
        ({"kind": "opq", "refine": {"candidates": 0}}, "candidates is how many times k"),
        ({"kind": "flat", "refine": {}}, "refine"),
        ({"kind": "scalar", "stored": "int5"}, "int4"),
    ],
)
def test_a_config_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    config: TypeAdapter[IndexConfig] = TypeAdapter(IndexConfig)
    with pytest.raises(ValidationError, match=message):
        config.validate_python(options)


def test_bytes_a_row_are_those_of_the_files(tmp_path: Path, kind: str, index: GalleryIndex) -> None:
    index.save(tmp_path)
    files = [*tmp_path.rglob("gallery.faiss"), *tmp_path.rglob("gallery.npy")]
    assert index.bytes_a_row * ROWS == pytest.approx(sum(path.stat().st_size for path in files), abs=200)


def test_bytes_are_counted_without_a_copy_of_the_index() -> None:
    vectors = unit_length(np.random.default_rng(0).normal(size=(60_000, 32)))
    index = GalleryIndex.build(vectors, [f"{row}" for row in range(len(vectors))], "made by this store")
    tracemalloc.start()
    try:
        assert index.bytes_a_row == pytest.approx(4 * 32, rel=1e-3)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < vectors.nbytes / 2


def test_search_works_beside_a_library_that_replaces_that_of_faiss() -> None:
    code = """
import faiss.contrib.torch_utils
import numpy as np
from stages.ranking import unit_length
from stages.retrieval import IvfFlatIndexConfig, GalleryIndex
vectors = unit_length(np.random.default_rng(0).standard_normal((300, 8)))
index = GalleryIndex.build(vectors, [str(row) for row in range(300)], embeddings="e", config=IvfFlatIndexConfig())
assert (index.search(vectors, 1)[0][:, 0] == index.ids).all()
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
