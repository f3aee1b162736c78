from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import TypeAdapter, ValidationError

from stages.ranking import unit_length
from stages.retrieval import (
    DatabaseAugmentationConfig,
    KReciprocalConfig,
    QueryExpansionConfig,
    RerankConfig,
    WhiteningConfig,
)
from tests.oracles import retrieval as oracle

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

NOTHING = np.empty((0, 8), np.float32)


def clustered(rows: int, seed: int, dim: int = 8) -> Vectors:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(9, dim))
    return unit_length(centres[np.arange(rows) % 9] + 0.6 * rng.normal(size=(rows, dim)))


def averaged(vector: Vectors, gallery: Vectors, itself: int, n: int, alpha: float) -> list[float]:
    """The vector and its n nearest rows but ``itself``, by loops from the definition."""
    total = [float(x) for x in vector]
    for row, similarity in oracle.ranking(gallery, vector, itself)[:n]:
        for at in range(len(total)):
            total[at] += max(similarity, 0.0) ** alpha * float(gallery[row, at])
    return oracle.unit(total)


def ranked(gallery: list[list[float]], query: list[float], itself: int) -> list[int]:
    pairs = [(row, math.fsum(a * b for a, b in zip(query, vector, strict=True))) for row, vector in enumerate(gallery)]
    return [row for row, _ in sorted(pairs, key=lambda pair: (-pair[1], pair[0])) if row != itself]


@pytest.mark.parametrize(("n", "alpha"), [(1, 3.0), (4, 0.0), (6, 3.0)])
def test_alpha_query_expansion_is_the_paper_written_as_loops(n: int, alpha: float) -> None:
    gallery, queries = clustered(70, 0), clustered(70, 0)[:12]
    itself = np.where(np.arange(12) % 3 == 0, -1, np.arange(12))
    rankings = QueryExpansionConfig(n=n, alpha=alpha).ranked(gallery, queries, itself, 15, NOTHING)
    for query, own, rows in zip(queries, itself.tolist(), rankings, strict=True):
        expanded = averaged(query, gallery, own, n, alpha)
        assert rows.tolist() == ranked([[float(x) for x in row] for row in gallery], expanded, own)[:15]


def test_a_query_in_the_gallery_has_no_part_in_its_own_expansion() -> None:
    """With its own row among its neighbours it would stand still; the copy under another key is another image."""
    gallery = clustered(40, 1)
    alone = QueryExpansionConfig(n=5).ranked(np.delete(gallery, 3, axis=0), gallery[[3]], np.array([-1]), 20, NOTHING)
    inside = QueryExpansionConfig(n=5).ranked(gallery, gallery[[3]], np.array([3]), 20, NOTHING)
    np.testing.assert_array_equal(inside, alone + (alone >= 3))


def test_database_augmentation_is_the_paper_written_as_loops() -> None:
    gallery, queries = clustered(60, 2), clustered(10, 3)
    rankings = DatabaseAugmentationConfig(n=4, alpha=2.0).ranked(gallery, queries, np.full(10, -1), 12, NOTHING)
    augmented = [averaged(vector, gallery, row, 4, 2.0) for row, vector in enumerate(gallery)]
    for query, rows in zip(queries, rankings, strict=True):
        assert rows.tolist() == ranked(augmented, [float(x) for x in query], -1)[:12]


@pytest.mark.parametrize("n", [1, 3, 10])
def test_a_query_in_the_gallery_augments_nothing_that_it_searches(n: int) -> None:
    """Leave-one-out is what one gets by taking the query out of the gallery before anything is augmented."""
    gallery = clustered(50, 4)
    config = DatabaseAugmentationConfig(n=n)
    rankings = config.ranked(gallery, gallery, np.arange(50), 14, NOTHING)
    for row in range(50):
        alone = config.ranked(np.delete(gallery, row, axis=0), gallery[[row]], np.array([-1]), 14, NOTHING)[0]
        assert rankings[row].tolist() == (alone + (alone >= row)).tolist()


def zhong(squared: npt.NDArray[np.float64], k1: int, k2: int, share: float) -> list[float]:
    """The distances of row 0 to the others by the paper, as loops over sets."""
    n = len(squared)
    far = [max(row) for row in squared]
    distance = [[squared[i][j] / far[i] for j in range(n)] for i in range(n)]
    order = [[i, *sorted((j for j in range(n) if j != i), key=lambda j: (squared[i][j], j))] for i in range(n)]

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    encoded = []
    for i in range(n):
        first = reciprocal(i, k1)
        expanded = set(first)
        for candidate in first:
            half = reciprocal(candidate, round(k1 / 2))
            if len(half & first) > 2 / 3 * len(half):
                expanded |= half
        total = sum(math.exp(-distance[i][j]) for j in expanded)
        encoded.append([math.exp(-distance[i][j]) / total if j in expanded else 0.0 for j in range(n)])
    local = [[sum(encoded[m][j] for m in order[i][:k2]) / k2 for j in range(n)] for i in range(n)]
    result = []
    for m in range(1, n):
        least = sum(min(a, b) for a, b in zip(local[0], local[m], strict=True))
        most = sum(max(a, b) for a, b in zip(local[0], local[m], strict=True))
        result.append((1 - share) * (1 - least / most) + share * distance[0][m])
    return result


@pytest.mark.parametrize(("k1", "k2", "share"), [(20, 6, 0.3), (5, 1, 0.0), (7, 3, 1.0), (3, 2, 0.5)])
def test_k_reciprocal_distances_are_the_paper_written_as_loops(k1: int, k2: int, share: float) -> None:
    pool = clustered(40, 5).astype(np.float64)
    squared = 2 - 2 * (pool @ pool.T)
    config = KReciprocalConfig(k1=k1, k2=k2, original=share)
    np.testing.assert_allclose(config.distances(squared.copy()), zhong(squared, k1, k2, share), atol=1e-6)


def test_k_reciprocal_orders_the_first_candidates_and_leaves_the_rest() -> None:
    gallery, queries = clustered(90, 6), clustered(90, 6)[:5]
    plain = [[row for row, _ in oracle.ranking(gallery, query, at)] for at, query in enumerate(queries)]
    rankings = KReciprocalConfig(k1=6, k2=2, candidates=30).ranked(gallery, queries, np.arange(5), 50, NOTHING)
    for first, rows in zip(plain, rankings.tolist(), strict=True):
        assert sorted(rows[:30]) == sorted(first[:30])
        assert rows[30:] == first[30:50]
        pool = np.concatenate([queries[[rankings.tolist().index(rows)]], gallery[first[:30]]]).astype(np.float64)
        again = zhong(2 - 2 * (pool @ pool.T), 6, 2, 0.3)
        values = [again[first.index(row)] for row in rows[:30]]
        assert all(a <= b + 1e-7 for a, b in pairwise(values))


def test_whitened_training_vectors_vary_alike_along_every_axis() -> None:
    rng = np.random.default_rng(8)
    skewed = unit_length(rng.normal(size=(4000, 8)) * np.array([9, 5, 3, 2, 1, 0.5, 0.3, 0.1]) + 1)
    mean, covariance = skewed.mean(0, dtype=np.float64), np.cov(skewed.astype(np.float64), rowvar=False)
    queries = skewed[:20]
    rankings = WhiteningConfig().ranked(skewed, queries, np.arange(20), 9, skewed)
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))  # another root of the same inverse: the same angles
    white = (skewed - mean) @ whiten.T
    white /= np.linalg.norm(white, axis=1, keepdims=True)
    for at, rows in enumerate(rankings.tolist()):
        similarity = white @ white[at]
        similarity[at] = -np.inf
        expected = np.sort(similarity)[::-1][:9]
        np.testing.assert_allclose(similarity[rows], expected, atol=1e-4)


def test_whitening_without_power_and_with_all_axes_only_takes_the_mean_away() -> None:
    train, gallery = clustered(200, 9), clustered(60, 10)
    rankings = WhiteningConfig(power=0.0).ranked(gallery, gallery[:7], np.arange(7), 5, train)
    centred = gallery.astype(np.float64) - train.mean(0, dtype=np.float64)
    moved = [oracle.unit([float(x) for x in row]) for row in centred]
    for at, rows in enumerate(rankings.tolist()):
        assert rows == ranked(moved, moved[at], at)[:5]
    with pytest.raises(ValueError, match="learned from training images, at least 2, got 0"):
        WhiteningConfig().ranked(gallery, gallery[:1], np.array([0]), 5, NOTHING)


@pytest.mark.parametrize("config", [QueryExpansionConfig(), DatabaseAugmentationConfig(), KReciprocalConfig()])
def test_a_gallery_smaller_than_the_neighbours_asked_for_is_ranked_whole(config: RerankConfig) -> None:
    gallery = clustered(4, 11)
    rankings = config.ranked(gallery, gallery, np.arange(4), 6, NOTHING)
    for row, rows in enumerate(rankings.tolist()):
        assert sorted(rows[:3]) == [other for other in range(4) if other != row]
        assert rows[3:] == [-1, -1, -1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "query_expansion", "n": 0}, "n is a number of neighbours"),
        ({"kind": "database_augmentation", "alpha": -1}, "alpha is a power"),
        ({"kind": "k_reciprocal", "k1": 300}, "1 <= k2 <= k1 <= candidates"),
        ({"kind": "k_reciprocal", "original": 2}, "original is the share"),
        ({"kind": "whitening", "power": 2}, "power is how much"),
        ({"kind": "whitening", "alpha": 2}, "alpha"),
    ],
)
def test_a_config_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    config: TypeAdapter[RerankConfig] = TypeAdapter(RerankConfig)
    with pytest.raises(ValidationError, match=message):
        config.validate_python(options)
