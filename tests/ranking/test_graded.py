"""Graded metrics against their definitions, rank by rank and order by order."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from stages.ranking.metrics import average_precision
from stages.ranking.ties import Ties, graded_average_precision, graded_ndcg
from stages.retrieval import AttributeMetric
from tests.oracles import attributes as oracle

RNG = np.random.default_rng(0)


def test_without_ties_graded_average_precision_is_its_definition() -> None:
    similarity, grades = RNG.normal(size=(20, 9)), RNG.integers(0, 4, (20, 9)) / 3
    grades[:, 0] = 1
    result = graded_average_precision(grades, Ties.of(similarity))
    for query in range(20):
        order = np.argsort(-similarity[query])
        assert result[query] == pytest.approx(oracle.graded_ap(grades[query, order].tolist()))


@pytest.mark.parametrize("k", [None, 1, 3])
def test_with_ties_the_value_is_the_mean_over_every_order_of_what_ties(k: int | None) -> None:
    similarity = RNG.integers(0, 3, (12, 6)).astype(float)
    grades = RNG.integers(0, 5, (12, 6)) / 4
    grades[:, 2] = 0.5
    ties = Ties.of(similarity)
    precision, gain = graded_average_precision(grades, ties), graded_ndcg(grades, ties, k)
    for query in range(12):
        given = similarity[query].tolist(), grades[query].tolist()
        assert precision[query] == pytest.approx(oracle.over_all_orders(*given, oracle.graded_ap))
        assert gain[query] == pytest.approx(oracle.over_all_orders(*given, lambda order: oracle.ndcg(order, k)))


def test_with_grades_of_0_and_1_it_is_mean_average_precision() -> None:
    similarity, relevant = RNG.normal(size=(8, 30)), RNG.random((8, 30)) < 0.3
    ranked = np.take_along_axis(relevant, np.argsort(-similarity, axis=1), axis=1)
    expected = average_precision(ranked, relevant.sum(1))
    np.testing.assert_allclose(graded_average_precision(relevant.astype(float), Ties.of(similarity)), expected)


@pytest.mark.parametrize("k", [None, 5])
def test_ndcg_is_that_of_scikit_learn_ties_included(k: int | None) -> None:
    similarity, grades = RNG.integers(0, 6, (10, 15)).astype(float), RNG.integers(0, 5, (10, 15)) / 4
    result = graded_ndcg(grades, Ties.of(similarity), k)
    for query in range(10):
        assert result[query] == pytest.approx(ndcg_score(grades[query : query + 1], similarity[query : query + 1], k=k))


def test_a_query_to_which_nothing_is_alike_has_no_value() -> None:
    ties = Ties.of(np.array([[3.0, 2.0, 1.0]]))
    assert np.isnan(graded_average_precision(np.zeros((1, 3)), ties)).all()
    assert np.isnan(graded_ndcg(np.zeros((1, 3)), ties)).all()


def test_the_order_of_the_gallery_changes_nothing() -> None:
    similarity, grades = RNG.integers(0, 3, (5, 12)).astype(float), RNG.random((5, 12))
    order = RNG.permutation(12)
    for metric in (graded_average_precision, graded_ndcg):
        moved = metric(grades[:, order], Ties.of(similarity[:, order]))
        np.testing.assert_allclose(moved, metric(grades, Ties.of(similarity)))


@pytest.mark.parametrize("k", [None, 4])
def test_the_exponential_gain_is_that_of_scikit_learn_over_two_to_the_grade_less_one(k: int | None) -> None:
    similarity, grades = RNG.integers(0, 6, (10, 15)).astype(float), RNG.integers(0, 5, (10, 15)).astype(float)
    result = graded_ndcg(grades, Ties.of(similarity), k, exponential=True)
    for query in range(10):
        gains = 2 ** grades[query : query + 1] - 1
        assert result[query] == pytest.approx(ndcg_score(gains, similarity[query : query + 1], k=k))


def test_metrics_by_attributes_have_both_gains() -> None:
    for name in ("graded_ndcg", "graded_ndcg@5", "graded_ndcg_exp", "graded_ndcg_exp@5", "graded_ndcg_exp:mine"):
        assert AttributeMetric.find(name) is not None
    for name in ("graded_ndcg_exponential", "graded_map_exp", "graded_ndcg_exp@0"):
        assert AttributeMetric.find(name) is None
