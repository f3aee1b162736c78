"""Pages of a gallery whose index holds codes, or a graph: each image is on one of them, once, and the nearest first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from pipeline.searcher import Searcher
from pipeline.service.gallery import Query, ServedHead, find
from stages.extraction import Embedder, PcaBasis, PcaConfig, load_backbone
from stages.ranking import unit_length
from stages.retrieval import GalleryIndex
from stages.retrieval.indexes.kinds import (
    BinaryIndexConfig,
    BuiltConfig,
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
