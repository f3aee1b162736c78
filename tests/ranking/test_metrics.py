from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.metrics import average_precision_score

from stages.ranking import find_metric, metric_names
from tests.oracles import retrieval as oracle

NAMES = (
    *("mmp@1", "mmp@5", "hit@1", "hit@3", "recall@1", "recall@10", "precision@5", "map@r", "map", "r_precision"),
    *("cmc@3", "mp@1", "mp@4", "map_trapezoid", "map@4/r", "map@4/min", "map@4/hits", "map@4/k"),
    *("mrr", "mrr@3", "ndcg", "ndcg@4"),
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Full rankings (Q, G), some without a single relevant row, and how many are relevant."""
    queries, gallery = draw(st.integers(0, 6)), draw(st.integers(1, 14))
    rows = st.lists(st.booleans(), min_size=gallery, max_size=gallery) | st.just([False] * gallery)
    table = np.array(draw(st.lists(rows, min_size=queries, max_size=queries)), dtype=np.bool_).reshape(-1, gallery)
    return table, table.sum(axis=1)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(table=tables())
def test_each_metric_is_its_definition_written_as_a_loop(
    name: str, table: tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]
) -> None:
    relevant, num_relevant = table
    values = find_metric(name).function(relevant, num_relevant)
    assert values.dtype == np.float64
    expected = [oracle.metric(name, list(row), int(count)) for row, count in zip(relevant, num_relevant, strict=True)]
    np.testing.assert_allclose(values, np.array(expected).reshape(-1), atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(table=tables())
def test_a_metric_needs_no_more_ranks_than_its_depth(
    name: str, table: tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]
) -> None:
    relevant, num_relevant = table
    metric = find_metric(name)
    depth = int(metric.depths(num_relevant, relevant.shape[1]).max(initial=0))
    cut = metric.function(relevant[:, :depth], num_relevant)
    np.testing.assert_array_equal(cut, metric.function(relevant, num_relevant))


def test_hits_at_ranks_2_4_8_of_10_with_three_relevant() -> None:
    relevant = np.isin(np.arange(1, 11), [2, 4, 8])[None]
    by_hand = {
        "map": (1 / 2 + 2 / 4 + 3 / 8) / 3,
        "map@r": (1 / 2) / 3,
        "r_precision": 1 / 3,
        "precision@5": 2 / 5,
        "recall@5": 2 / 3,
        "hit@1": 0.0,
        "hit@2": 1.0,
        "mmp@5": 1 / 3,  # only the first three ranks count, for there are three to find
        "mmp@2": 1 / 2,
        "map@5/r": 1 / 3,
        "map@5/min": 1 / 3,
        "map@5/hits": 1 / 2,
        "map@5/k": 1 / 5,
        "mrr": 1 / 2,
        "mrr@1": 0.0,
        "map_trapezoid": ((0 / 1 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2 + (2 / 7 + 3 / 8) / 2) / 3,
        "mp@1": 0.0,
        "mp@5": 2 / 5,
        "mp@10": 3 / 8,  # the last one is at rank 8
    }
    for name, value in by_hand.items():
        assert find_metric(name).function(relevant, np.array([3])) == pytest.approx([value]), name


def test_mmp_asks_for_k_when_more_than_k_are_relevant() -> None:
    relevant = np.array([[True, False, True, True, True, True]])
    assert find_metric("mmp@5").function(relevant, np.array([80])) == pytest.approx([4 / 5])


def test_a_query_with_nothing_relevant_gets_zero_from_every_metric() -> None:
    for name in NAMES:
        assert find_metric(name).function(np.zeros((1, 6), np.bool_), np.array([0])).tolist() == [0.0]


def test_recall_is_the_fraction_found_and_hit_is_at_least_one() -> None:
    relevant = np.array([[True, False, False, True]])
    assert find_metric("recall@1").function(relevant, np.array([4])) == pytest.approx([1 / 4])
    assert find_metric("hit@1").function(relevant, np.array([4])) == pytest.approx([1.0])


def test_map_equals_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    relevant = rng.random((50, 40)) < 0.15
    relevant[:, 0] |= ~relevant.any(axis=1)
    ranks_as_scores = -np.arange(40)
    expected = [average_precision_score(row, ranks_as_scores) for row in relevant]
    np.testing.assert_allclose(find_metric("map").function(relevant, relevant.sum(axis=1)), expected, atol=1e-12)


def test_map_at_r_r_precision_and_precision_at_1_equal_pytorch_metric_learning() -> None:
    rng = np.random.default_rng(4)
    vectors, labels = rng.normal(size=(90, 6)).astype(np.float32), rng.integers(0, 12, 90)
    expected = AccuracyCalculator(
        include=("mean_average_precision_at_r", "r_precision", "precision_at_1"),
        k="max_bin_count",
        device=torch.device("cpu"),
    ).get_accuracy(torch.from_numpy(vectors), torch.from_numpy(labels))
    distance = ((vectors[:, None].astype(np.float64) - vectors[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distance, np.inf)
    relevant = (labels[np.argsort(distance, axis=1)] == labels[:, None])[:, :-1]
    num_relevant = np.bincount(labels)[labels] - 1
    answerable = num_relevant > 0
    for ours, theirs in {
        "map@r": "mean_average_precision_at_r",
        "r_precision": "r_precision",
        "precision@1": "precision_at_1",
    }.items():
        values = find_metric(ours).function(relevant[answerable], num_relevant[answerable])
        assert values.mean() == pytest.approx(expected[theirs], abs=1e-6), ours


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mMP@5", "Did you mean 'mmp@k'?"),
        ("mAP@R", "Did you mean 'map@r'?"),
        ("mpp@5", "Did you mean 'mmp@k'?"),
        ("recal@10", "Did you mean 'recall@k'?"),
        ("R-precision", "Did you mean 'r_precision'?"),
    ],
)
def test_an_unknown_metric_is_refused_with_the_list_and_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(
        ValueError, match="metrics are mmp@k, hit@k, recall@k, precision@k, map@r, map, r_prec"
    ) as caught:
        find_metric(name)
    assert repr(name) in str(caught.value)
    assert hint in str(caught.value)


def test_average_precision_at_k_must_say_what_it_is_divided_by() -> None:
    with pytest.raises(ValueError, match=r"map@100 does not say what it is divided by") as caught:
        find_metric("map@100")
    for choice in ("map@100/r (by R)", "map@100/min (by min(R, k))", "map@100/hits", "map@100/k"):
        assert choice in str(caught.value)


def test_a_ranking_without_columns_is_zero_in_every_metric() -> None:
    for name in NAMES:
        assert find_metric(name).function(np.zeros((2, 0), np.bool_), np.array([0, 3])).tolist() == [0.0, 0.0], name


@pytest.mark.parametrize("name", ["mmp@0", "mmp@", "mmp@-1", "hit@1.5", "hit", "map@", "", "recall@01", "recall@5 "])
def test_k_is_a_whole_number_from_1(name: str) -> None:
    with pytest.raises(ValueError, match="k a whole number from 1"):
        find_metric(name)


def test_every_listed_name_can_be_found() -> None:
    for name in metric_names():
        metric = find_metric(name.replace("@k", "@7"))
        assert metric.name == name.replace("@k", "@7")
