"""Pages through codes, a graph or a database: each image is on one of them, once, and the nearest first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from pipeline.searcher import Searcher
from pipeline.service.gallery import Query, ServedHead, find
from stages.extraction import Embedder, PcaBasis, PcaConfig, load_backbone
from stages.ranking import unit_length
from stages.retrieval import GalleryIndex, MilvusIndex, MilvusIndexConfig
from stages.retrieval.gallery_rows import GalleryRows
from stages.retrieval.indexes import milvus
from stages.retrieval.indexes.kinds import (
    BinaryIndexConfig,
    BuiltConfig,
    FlatIndexConfig,
    HnswIndexConfig,
    OpqIndexConfig,
    RefineConfig,
    ScalarIndexConfig,
)

DIM = 16
KINDS: list[BuiltConfig] = [
    OpqIndexConfig(bytes=4),
    BinaryIndexConfig(),
    ScalarIndexConfig(stored="int4"),
    ScalarIndexConfig(stored="int4", refine=RefineConfig(candidates=2)),
    HnswIndexConfig(links=8, search_effort=8),
]


def vectors_of(rows: int) -> npt.NDArray[np.float32]:
    return unit_length(np.random.default_rng(0).normal(size=(rows, DIM)).astype(np.float32) + 0.5)


def searcher_of(vectors: npt.NDArray[np.float32], kind: BuiltConfig, thresholds: dict[str, float]) -> Searcher:
    basis = PcaBasis(np.zeros(12, np.float32), np.eye(12, dtype=np.float32)[:2])
    keys = [str(row) for row in range(len(vectors))]
    index = GalleryIndex.build(vectors, keys, "these vectors", kind)
    gallery = pa.table({"key": keys, "label": keys, "uri": keys, "digest": [b""] * len(keys)})
    embedder = Embedder([load_backbone(PcaConfig(dim=2, size=2), basis=basis)])
    return Searcher(embedder, index, gallery, lambda rows: vectors[rows], thresholds=thresholds)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.kind}{' refined' * bool(getattr(kind, 'refine', 0))}")
def test_every_image_is_on_one_page_and_no_page_depends_on_the_size_of_others(kind: BuiltConfig, exact: bool) -> None:
    vectors = vectors_of(1_500)
    searcher = searcher_of(vectors, kind, {})
    query = vectors[3:5]
    pages = [searcher.find(query, 70, offset=offset, exact=exact) for offset in range(0, 1_500, 70)]
    whole = searcher.find(query, 1_500, exact=exact)
    for row in (0, 1):
        assert [match for page in pages for match in page[row]] == whole[row]
        keys = [match.key for match in whole[row]]
        assert len(keys) == len({*keys})
        assert len(keys) == 1_500 or kind.kind == "hnsw"  # a graph may not reach all


@pytest.mark.parametrize("kind", KINDS[:3], ids=lambda kind: kind.kind)
def test_a_search_for_few_compares_the_vectors_of_more_than_the_first_codes(kind: BuiltConfig) -> None:
    vectors = vectors_of(600)
    searcher = searcher_of(vectors, kind, {})
    query = unit_length(np.random.default_rng(1).normal(size=(20, DIM)).astype(np.float32))
    nearest = [matches[0].key for matches in searcher.find(query, 1, exact=True)]
    assert nearest == [str(row) for row in np.argmax(query @ vectors.T, axis=1)]
    assert [matches[0].key for matches in searcher.find(query, 1)] != nearest


@pytest.mark.parametrize("kind", KINDS[:3], ids=lambda kind: kind.kind)
def test_the_pages_of_a_threshold_have_each_match_once(kind: BuiltConfig) -> None:
    vectors = vectors_of(3_000)
    least = float(np.sort(vectors @ vectors[7])[-1_301])  # more matches than are compared at first
    head = ServedHead("b", "h", searcher_of(vectors, kind, {"fmr 0.5": least}))
    keys: list[str] = []
    for offset in range(0, 3_000, 90):
        answer = find([Query(head, vectors[7], 90, offset, (), "7", least)])[0]
        assert isinstance(answer, dict)
        keys += [match["key"] for match in answer["matches"]]
        if not answer["more"]:
            break
    similar = vectors @ vectors[7]
    assert len(keys) == len({*keys})
    assert {*keys} == {str(row) for row in np.flatnonzero(similar >= least - 1e-7)} - {"7"}


def test_a_database_is_asked_for_few_rows_at_a_time_and_never_for_more_than_it_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pymilvus", reason="pymilvus is not installed")
    pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")
    vectors, read = vectors_of(300), list[int]()

    def stored(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        read.extend(rows.tolist())
        return vectors[rows]

    keys = [str(row) for row in range(300)]
    gallery = pa.table({"key": keys, "label": keys, "uri": keys, "digest": [b""] * 300})
    lite = MilvusIndexConfig(str(tmp_path / "index.db"))
    index = MilvusIndex.fill(lite, vectors, GalleryRows.from_table(gallery), "these vectors")
    flat = searcher_of(vectors, FlatIndexConfig(), {})
    searcher = Searcher(flat.embedder, index, gallery, stored)
    (matches,) = searcher.find(vectors[7:8], 5, exact=True)
    assert [match.key for match in matches] == [match.key for match in flat.find(vectors[7:8], 5)[0]]
    assert len(read) == 64
    monkeypatch.setattr(milvus, "MOST_ROWS", 100)
    index.config = MilvusIndexConfig("http://db.example:19530")
    least = float(np.sort(vectors @ vectors[7])[-81]) + 1e-6  # 80 matches, and 90 are asked for
    (matches,) = searcher.find(vectors[7:8], 90, least=least)
    assert [match.key for match in matches] == [match.key for match in flat.find(vectors[7:8], 80)[0]]
    index.drop()
