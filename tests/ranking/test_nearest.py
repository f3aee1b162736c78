from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.ranking import search, unit_length
from stages.ranking.nearest import compare_all, query_blocks, ranks_by_similarity, search_among
from tests.oracles import retrieval as oracle

Vectors = npt.NDArray[np.float32]


def random_unit(rows: int, dim: int, seed: int) -> Vectors:
    return unit_length(np.random.default_rng(seed).normal(size=(rows, dim)))


def coarse_unit(rows: int, dim: int, seed: int) -> Vectors:
    """Vectors of few different values, so that many similarities are equal."""
    return unit_length(np.random.default_rng(seed).integers(-1, 2, size=(rows, dim)))


def expected(
    gallery: Vectors, queries: Vectors, k: int, exclude: npt.NDArray[np.int64]
) -> tuple[list[list[int]], list[list[float]]]:
    rows, similarities = [], []
    for query, itself in zip(queries, exclude, strict=True):
        first = oracle.ranking(gallery, query, int(itself))[:k]
        first += [(-1, -np.inf)] * (k - len(first))
        rows.append([row for row, _ in first])
        similarities.append([value for _, value in first])
    return rows, similarities


@settings(max_examples=60, deadline=None)
@given(
    gallery=st.integers(1, 300),
    dim=st.integers(1, 9),
    k=st.integers(1, 30),
    ties=st.booleans(),
    seed=st.integers(0, 99),
)
def test_search_is_the_sorted_list_of_all_similarities(gallery: int, dim: int, k: int, ties: bool, seed: int) -> None:
    make = coarse_unit if ties else random_unit
    vectors, queries = make(gallery, dim, seed), make(4, dim, seed + 1000)
    exclude = np.random.default_rng(seed).integers(-1, gallery, 4)
    rows, similarity = search(vectors, queries, k, exclude)
    expected_rows, expected_similarity = expected(vectors, queries, k, exclude)
    assert (rows.dtype, similarity.dtype) == (np.dtype("int64"), np.dtype("float32"))
    assert rows.tolist() == expected_rows
    assert similarity.tolist() == expected_similarity


@pytest.mark.parametrize("ties", [False, True])
def test_candidates_of_a_large_gallery_give_the_same_as_comparing_with_all(ties: bool) -> None:
    vectors = (coarse_unit if ties else random_unit)(4000, 8, 0)
    queries = vectors[::400]
    exclude = np.arange(0, 4000, 400)
    rows, similarity = search(vectors, queries, 20, exclude)
    expected_rows, expected_similarity = expected(vectors, queries, 20, exclude)
    assert rows.tolist() == expected_rows
    assert similarity.tolist() == expected_similarity


@pytest.mark.parametrize("ties", [False, True])
def test_a_search_among_some_rows_is_the_search_of_a_gallery_of_them(
    ties: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, queries = ((coarse_unit if ties else random_unit)(rows, 8, rows) for rows in (900, 20))
    monkeypatch.setattr(sys.modules["stages.ranking.nearest"], "_NUMBERS", 8 * 64)  # blocks of 64 rows
    for share, k in ((0.01, 30), (0.3, 7), (1, 5)):
        among = np.flatnonzero(np.random.default_rng(1).random(900) < share)
        exclude = np.where(np.arange(20) % 2, among[np.arange(20) % len(among)], -1)
        rows, similarity = search_among(vectors, among, queries, k, exclude)
        places = np.where(exclude < 0, -1, np.searchsorted(among, exclude))
        expected_rows, expected_similarity = expected(vectors[among], queries, k, places)
        assert rows.tolist() == [[int(among[row]) if row >= 0 else -1 for row in line] for line in expected_rows]
        assert similarity.tolist() == expected_similarity


@pytest.mark.parametrize("dim", [3, 40])
def test_asking_the_index_for_more_and_more_candidates_gives_the_same(
    dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, queries = coarse_unit(2500, dim, 0), coarse_unit(30, dim, 1)
    exclude = np.arange(30)
    expected_rows, expected_similarity = expected(vectors[:2500], queries[:6], 4, exclude[:6])
    monkeypatch.setattr(sys.modules["stages.ranking.nearest"], "_SPARE", 0)
    monkeypatch.setattr(sys.modules["stages.ranking.nearest"], "_SCAN_COSTS", 1)
    rows, similarity = search(vectors, queries, 4, exclude)
    assert rows[:6].tolist() == expected_rows
    assert similarity[:6].tolist() == expected_similarity


def test_the_query_is_left_out_by_identity_though_a_copy_of_it_comes_first() -> None:
    vectors = random_unit(50, 6, 1)
    vectors[3] = vectors[7]  # row 3 is a byte-identical copy of the query and, being earlier, outranks it
    rows, similarity = search(vectors, vectors[[7]], 5, np.array([7]))
    assert rows[0, 0] == 3
    assert similarity[0, 0] == pytest.approx(1, abs=1e-6)
    assert 7 not in rows
    with_itself, _ = search(vectors, vectors[[7]], 5)
    assert with_itself[0, :2].tolist() == [3, 7]


@pytest.mark.parametrize("gallery", [100, 3000])
def test_equal_rows_come_in_gallery_order_also_where_the_list_is_cut(gallery: int) -> None:
    vectors = random_unit(gallery, 5, 2)
    copies = np.random.default_rng(0).choice(gallery, 60, replace=False)
    vectors[copies] = vectors[0]
    for k in (1, 7, 59):
        rows, _ = search(vectors, vectors[[0]], k, np.array([0]))
        assert rows[0].tolist() == sorted(set(copies.tolist()) - {0})[:k]


def test_permuting_the_gallery_permutes_the_rows_and_nothing_else() -> None:
    vectors, queries = random_unit(2000, 16, 3), random_unit(20, 16, 4)
    order = np.random.default_rng(5).permutation(2000)
    rows, similarity = search(vectors, queries, 12)
    moved, moved_similarity = search(vectors[order], queries, 12)
    np.testing.assert_array_equal(order[moved], rows)
    np.testing.assert_array_equal(moved_similarity, similarity)


def test_a_query_alone_finds_what_it_finds_among_others() -> None:
    vectors, queries = random_unit(1500, 40, 6), random_unit(64, 40, 7)
    together = search(vectors, queries, 9)
    for position in range(0, 64, 7):
        alone = search(vectors, queries[[position]], 9)
        np.testing.assert_array_equal(alone[0][0], together[0][position])
        np.testing.assert_array_equal(alone[1][0], together[1][position])


def test_past_the_end_of_a_short_gallery_there_is_no_row() -> None:
    vectors = random_unit(3, 4, 8)
    rows, similarity = search(vectors, vectors[[1]], 5, np.array([1]))
    assert sorted(rows[0, :2].tolist()) == [0, 2]
    assert rows[0, 2:].tolist() == [-1, -1, -1]
    assert np.isneginf(similarity[0, 2:]).all()
    rows, _ = search(vectors[[1]], vectors[[1]], 2, np.array([0]))
    assert rows.tolist() == [[-1, -1]]


def test_no_queries_give_an_empty_answer() -> None:
    rows, similarity = search(random_unit(5, 4, 0), np.empty((0, 4), np.float32), 3)
    assert rows.shape == similarity.shape == (0, 3)


def test_a_zero_vector_is_equally_near_to_everything() -> None:
    vectors = np.concatenate([np.zeros((1, 4), np.float32), random_unit(400, 4, 9)])
    rows, similarity = search(vectors, np.zeros((1, 4), np.float32), 4)
    assert rows.tolist() == [[0, 1, 2, 3]]
    assert similarity.tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("depth", [1, 7, 200])
def test_relevant_ranks_are_those_of_the_sorted_list(ties: bool, depth: int) -> None:
    make = coarse_unit if ties else random_unit
    vectors, queries = make(200, 5, 10), make(30, 5, 11)
    rng = np.random.default_rng(12)
    classes, wanted = rng.integers(0, 9, 200), rng.integers(0, 9, 30)
    exclude = np.where(rng.random(30) < 0.5, rng.integers(0, 200, 30), -1)
    relevant_rows = [np.setdiff1d(np.flatnonzero(classes == c), e) for c, e in zip(wanted, exclude, strict=True)]
    table = ranks_by_similarity(compare_all(vectors, queries, exclude), relevant_rows, depth)
    assert table.shape == (30, depth)
    for position, query in enumerate(queries):
        order = [row for row, _ in oracle.ranking(vectors, query, int(exclude[position]))]
        hits = [bool(classes[row] == wanted[position]) for row in order][:depth]
        assert table[position].tolist() == hits + [False] * (depth - len(hits))


def test_blocks_cover_every_query_once_in_order() -> None:
    for queries, numbers in [(0, 10), (1, 10), (1000, 2**14), (5, 2**30)]:
        blocks = list(query_blocks(queries, numbers))
        assert np.concatenate([np.empty(0, np.int64), *blocks]).tolist() == list(range(queries))
        assert all(len(block) * numbers <= 2**22 or len(block) == 1 for block in blocks)


def test_what_does_not_fit_the_index_is_refused() -> None:
    gallery, queries = random_unit(10, 4, 0), random_unit(2, 4, 1)
    with pytest.raises(ValueError, match="queries have 5 numbers a row, the gallery has 4"):
        search(gallery, random_unit(2, 5, 1), 3)
    with pytest.raises(ValueError, match="queries must be finite numbers; 1 of 2 rows hold NaN"):
        search(gallery, np.array([[np.nan] * 4, [1, 0, 0, 0]], np.float32), 3)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        search(gallery, queries, 0)
    with pytest.raises(ValueError, match="exclude must give each of the 2 queries a gallery row below 10"):
        search(gallery, queries, 3, np.array([1, 10]))
    with pytest.raises(ValueError, match="exclude must give each of the 2 queries"):
        search(gallery, queries, 3, np.array([1]))
