"""The legacy measure against the paper's way of computing it, pair by pair, and its bounds against chance."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cache.errors import RecordsError
from stages.records import Records
from stages.retrieval.attributes import label_similarity, legacy_map
from tests.oracles import attributes as oracle

RNG = np.random.default_rng(1)
WORDS = ["Red", "blue", "shirt", "SHIRT", "&", "men", "women", "sport"]
N = 40
PROPERTIES = [[str(value) for value in row] for row in RNG.integers(0, 2, (N, 2))]
NAMES = [" ".join(RNG.choice(WORDS, RNG.integers(1, 5)).tolist()) for _ in range(N)]


def records_of(names: list[str | None]) -> Records:
    columns = {"key": [str(at) for at in range(N)], "tags": pa.array(names, pa.string())}
    for at in range(2):
        columns[f"attributes.{at}"] = [row[at] for row in PROPERTIES]
    return Records(pa.table(columns), {})


def test_it_is_the_papers_number_bit_for_bit() -> None:
    vectors = RNG.normal(size=(N, 6)).astype(np.float32)
    result = legacy_map(vectors, records_of([*NAMES]), ["0", "1"]).value
    assert result.tolist() == papers(vectors)
    assert 0 < result.mean() < 1


def papers(vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> list[float]:
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    labels, pictures = oracle.paper_similarity(PROPERTIES, NAMES), unit.dot(unit.T).round(5)
    return [
        oracle.paper_ap(oracle.paper_first(labels, query), oracle.paper_first(pictures, query)) for query in range(N)
    ]


def test_of_equal_records_and_photographs_the_last_comes_first() -> None:
    """N is more than a small sort takes, which is stable by itself."""
    vectors = RNG.normal(size=(4, 6)).astype(np.float32)[RNG.integers(0, 4, N)]  # ten copies of each
    assert legacy_map(vectors, records_of([*NAMES]), ["0", "1"]).value.tolist() == papers(vectors)


def test_the_similarity_of_labels_is_the_papers_which_is_not_symmetric() -> None:
    result = label_similarity(NAMES, [[row[at] for row in PROPERTIES] for at in range(2)])
    assert np.array_equal(result, oracle.paper_similarity(PROPERTIES, NAMES))
    assert not np.array_equal(result, result.T)


def test_the_ceiling_and_the_floor_are_what_a_perfect_ranking_and_a_random_one_score_over_many_draws() -> None:
    records = records_of([*NAMES])
    result = legacy_map(RNG.normal(size=(N, 6)), records, ["0", "1"])
    labels = oracle.paper_similarity(PROPERTIES, NAMES)
    truth = [oracle.paper_first(labels, query) for query in range(N)]
    draws = 400
    for bound, table in ((result.ceiling, labels), (result.floor, np.zeros((N, N)))):
        drawn = np.zeros((draws, N))
        for draw in range(draws):
            by_lot = table + 1e-6 * RNG.random((N, N))
            drawn[draw] = [oracle.paper_ap(truth[query], oracle.paper_first(by_lot, query)) for query in range(N)]
        np.testing.assert_allclose(bound, drawn.mean(0), atol=5 * drawn.std(0).max() / draws**0.5)
    assert result.floor.mean() < result.ceiling.mean() < 1


def test_a_missing_value_is_a_value_like_any_other() -> None:
    texts: list[str | None] = ["a b", "a b", "a b"]
    assert label_similarity(texts, [[None, "", "x"]])[0].tolist() == [1, 1, 0]


def test_records_without_tags_or_too_few_are_refused_with_the_count() -> None:
    with pytest.raises(RecordsError, match=r"no record has any: name their column, dataset\.tags"):
        legacy_map(RNG.normal(size=(N, 6)), records_of([None] * N), ["0"])
    few = records_of([*NAMES]).take(range(10))
    with pytest.raises(RecordsError, match=r"takes 11 to 20,000 records, got 10"):
        legacy_map(RNG.normal(size=(10, 6)), few, ["0"])
