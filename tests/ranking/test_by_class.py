from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.ranking import leave_one_out, mean_average_precision, unit_length, values_by_class
from stages.retrieval import evaluate
from tests.toys.training import classes_of, toy


@pytest.mark.parametrize("metric", ["mmp@5", "map@r", "hit@1", "map"])
def test_the_values_are_those_of_evaluate_with_the_gallery_as_queries(tmp_path: Path, metric: str) -> None:
    features, records = toy(tmp_path, classes_of(7, 5))
    names = sorted({str(name) for name in records.classes})
    labels = np.array([names.index(str(name)) for name in records.classes])
    expected = evaluate(features, queries=records, gallery=records, metrics=[metric])
    values = leave_one_out(features.read(records.digests), labels, metric)
    np.testing.assert_array_equal(values, expected.per_query[metric])


def test_a_row_that_is_alone_with_its_label_has_nothing_to_find() -> None:
    vectors = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    values = leave_one_out(vectors, np.array([0, 0, 1]), "mmp@5")
    assert values[:2].tolist() == [1.0, 1.0]
    assert np.isnan(values[2])
    assert leave_one_out(np.empty((0, 2)), np.empty(0, np.int64), "mmp@5").shape == (0,)


def test_labels_are_numbers_from_0_one_a_row() -> None:
    with pytest.raises(ValueError, match="got 1 for 2 vectors"):
        leave_one_out(np.eye(2), np.array([0]), "mmp@5")
    with pytest.raises(ValueError, match="numbers from 0"):
        leave_one_out(np.eye(2), np.array([0, -1]), "mmp@5")


def mmp5_by_loops(similarity: list[list[float]], queries: list[int], gallery: list[int], own: list[int]) -> list[float]:
    scores = []
    for row, label, itself in zip(similarity, queries, own, strict=True):
        others = [g for g in range(len(gallery)) if g != itself]
        relevant = sum(gallery[g] == label for g in others)
        ranked = sorted(others, key=lambda g: -row[g])[: min(relevant, 5)]
        scores.append(sum(gallery[g] == label for g in ranked) / min(relevant, 5) if relevant else float("nan"))
    return scores


@pytest.mark.parametrize("queries_in_gallery", [True, False])
@pytest.mark.parametrize(("size", "classes"), [(3, 2), (40, 25), (90, 5)])
def test_values_by_class_equal_a_loop(size: int, classes: int, queries_in_gallery: bool) -> None:
    rng = np.random.default_rng(size)
    gallery, labels = unit_length(rng.normal(size=(size, 3))), rng.integers(classes, size=size)
    queries, query_labels, own = unit_length(rng.normal(size=(20, 3))), rng.integers(classes + 1, size=20), None
    if queries_in_gallery:
        queries, query_labels, own = gallery, labels, np.arange(size)
    exact = (queries.astype(np.float64) @ gallery.T.astype(np.float64)).tolist()
    itself = [-1] * 20 if own is None else own.tolist()
    expected = mmp5_by_loops(exact, query_labels.tolist(), labels.tolist(), itself)
    result = values_by_class("mmp@5", queries, gallery, query_labels, labels, own)
    np.testing.assert_allclose(result, expected, atol=1e-12)


def test_a_query_never_finds_itself_though_its_twin_is_found() -> None:
    gallery = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    result = values_by_class("hit@1", gallery[:1], gallery, np.array([4]), np.array([4, 4, 5]), np.array([0]))
    assert result.tolist() == [1.0]


def test_mean_average_precision_of_a_table_is_that_of_a_ranking() -> None:
    rng = np.random.default_rng(3)
    vectors, labels = unit_length(rng.normal(size=(60, 4))), rng.integers(25, size=60)
    expected = np.nanmean(leave_one_out(vectors, labels, "map"))
    assert mean_average_precision(vectors @ vectors.T, labels) == pytest.approx(expected)
    assert mean_average_precision(np.eye(3), np.arange(3)) == 0.0
