from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from stages.analysis import Vote, hubs, spread, suspects, votes


def test_the_spread_is_that_of_the_eigenvalues_of_the_covariance() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5000, 6)) * [3, 2, 1, 0.5, 0.1, 0.1]
    result = spread(vectors.astype(np.float32))
    values = np.linalg.eigvalsh(np.cov(vectors.T, bias=True))[::-1]
    shares = values / values.sum()
    assert result.effective_rank == pytest.approx(np.exp(stats.entropy(shares)), rel=1e-4)
    assert result.participation == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-4)
    assert result.first == pytest.approx(shares[0], rel=1e-4)
    assert result.for_90 == 2
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    assert result.mean_similarity == pytest.approx(cosines[np.triu_indices(5000, 1)].mean(), abs=1e-6)


def test_dimensions_that_say_nothing_are_counted_and_have_no_variance() -> None:
    vectors = np.zeros((10, 5))
    vectors[:, 1] = 7
    vectors[:, 2:4] = np.eye(10)[:, :2]
    result = spread(vectors)
    assert (result.rows, result.dim, result.dead, result.constant) == (10, 5, 2, 1)
    assert result.effective_rank == pytest.approx(np.exp(stats.entropy([10 / 18, 8 / 18])))
    same = spread(np.ones((4, 3)))
    assert (same.effective_rank, same.participation, same.for_90, same.constant) == (0, 0, 0, 3)
    assert same.mean_similarity == pytest.approx(1)


def test_a_spread_of_one_row_or_of_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two rows"):
        spread(np.ones((1, 3)))
    with pytest.raises(ValueError, match="must be finite"):
        spread(np.array([[1.0, np.nan], [1, 1]]))


def test_hubs_are_the_rows_that_are_among_the_nearest_of_most() -> None:
    nearest = np.array([[0, 1], [0, 2], [0, -1], [0, 1]])
    result = hubs(nearest, 5)
    assert result.counts.tolist() == [4, 2, 1, 0, 0]
    assert result.skewness == pytest.approx(stats.skew([4, 2, 1, 0, 0]))
    assert (result.never, result.top(2), result.k) == (2, [0, 1], 2)
    assert result.top_share == pytest.approx(4 / 7)
    assert hubs(np.array([[0], [1]]), 2).skewness == 0


def test_neighbours_vote_with_how_much_nearer_they_are_than_the_last() -> None:
    voters = ["a", "b", "b", None, "a"]
    nearest = np.array([[1, 2, 3, 4]])
    similarity = np.array([[0.9, 0.8, 0.7, 0.6]], np.float32)
    (vote,) = votes(voters, ["a"], nearest, similarity)
    weights = {"b": 0.301 + 0.201, "a": 0.001}
    assert vote.name == "b"
    assert vote.other == pytest.approx(weights["b"] / sum(weights.values()), rel=1e-4)
    assert vote.own == pytest.approx(weights["a"] / sum(weights.values()), rel=1e-2)
    (alone,) = votes(voters, ["a"], np.array([[-1, -1]]), np.array([[-np.inf, -np.inf]], np.float32))
    assert alone == Vote(0.0, 0.0, None)


def test_suspects_are_those_that_every_ballot_gives_to_the_same_other_class_the_surest_first() -> None:
    classes = ["a", "a", "a", "a", "b", "c", None]
    raw = [
        Vote(0.2, 0.8, "b"), Vote(0.0, 1.0, "b"), Vote(0.1, 0.9, "b"), Vote(0.45, 0.45, "b"), Vote(1.0, 0.0, None),
        Vote(0.0, 1.0, "a"), Vote(0.0, 1.0, "a"),
    ]  # fmt: skip
    head = [
        Vote(0.2, 0.8, "b"), Vote(0.0, 1.0, "b"), Vote(0.1, 0.9, "c"), Vote(0.0, 1.0, "b"), Vote(1.0, 0.0, None),
        Vote(0.0, 1.0, "a"), Vote(0.0, 1.0, "a"),
    ]  # fmt: skip
    result = suspects(classes, [raw, head], Counter({"a": 4, "b": 5, "c": 2}))
    assert [(item.row, item.says) for item in result] == [(1, "b"), (0, "b")]  # 2: no agreement; 3: a tie; 5: too small
    assert [item.certainty for item in result] == pytest.approx([1.0, 0.6])
