from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.retrieval import evaluate, leave_one_out
from tests.toys.training import classes_of, toy


@pytest.mark.parametrize("metric", ["mmp@5", "map@r", "hit@1", "map"])
def test_the_values_are_those_of_evaluate_with_the_gallery_as_queries(tmp_path: Path, metric: str) -> None:
    features, records = toy(tmp_path, classes_of(7, 5))
    names = sorted({str(name) for name in records.classes})
    labels = np.array([names.index(str(name)) for name in records.classes])
    expected = evaluate(features, queries=records, gallery=records, metrics=[metric], resamples=1)
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
