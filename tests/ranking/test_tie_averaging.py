"""What ties, scored as the mean over all orders: against every order, one by one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from stages.ranking import find_metric
from stages.ranking.ties import averaged, check_averaged, tied_order
from tests.oracles import retrieval as oracle
from tests.oracles.retrieval import orders

NAMES = (
    *("precision@1", "precision@3", "recall@2", "recall@9", "hit@1", "hit@2", "hit@4", "cmc@3", "mmp@1", "mmp@3"),
    *("r_precision", "map@r", "map", "map_trapezoid", "map@3/r", "map@3/min", "map@3/k", "mrr", "mrr@2", "ndcg"),
    *("ndcg@3",),
)


@st.composite
def tied(draw: st.DrawFn) -> tuple[list[int], list[bool]]:
    rows = draw(st.integers(1, 6))
    few = draw(st.integers(0, 3))
    numbers = st.lists(st.integers(0, few), min_size=rows, max_size=rows)
    return draw(numbers), draw(st.lists(st.booleans(), min_size=rows, max_size=rows))


@settings(deadline=None, max_examples=150)
@given(ranking=tied())
def test_the_expected_value_is_the_mean_over_every_order(ranking: tuple[list[int], list[bool]]) -> None:
    similarity, relevant = ranking
    every = orders(similarity)
    table = tied_order(np.array([similarity], np.float32), np.array([relevant]), np.array([sum(relevant)]))
    for name in NAMES:
        values = [oracle.metric(name, [relevant[row] for row in order], sum(relevant)) for order in every]
        assert averaged(find_metric(name), table) == pytest.approx([np.mean(values)], abs=1e-12), name


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_without_ties_the_expected_value_is_the_value(seed: int) -> None:
    rng = np.random.default_rng(seed)
    similarity: npt.NDArray[np.float64] = rng.permuted(np.tile(np.arange(20.0), (7, 1)), axis=1)
    relevant = rng.random((7, 20)) < 0.3
    counts = relevant.sum(axis=1)
    table = tied_order(similarity, relevant, counts)
    ranked = np.take_along_axis(relevant, np.argsort(-similarity, axis=1), axis=1)
    for name in NAMES:
        metric = find_metric(name)
        np.testing.assert_allclose(averaged(metric, table), metric.function(ranked, counts), atol=1e-12)


def test_ndcg_over_ties_equals_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    similarity = rng.integers(0, 4, (40, 12)).astype(float)
    relevant = rng.random((40, 12)) < 0.3
    relevant[:, 0] |= ~relevant.any(axis=1)
    table = tied_order(similarity, relevant, relevant.sum(axis=1))
    for name, k in (("ndcg", None), ("ndcg@5", 5)):
        theirs = [ndcg_score([row], [scores], k=k) for row, scores in zip(relevant, similarity, strict=True)]
        np.testing.assert_allclose(averaged(find_metric(name), table), theirs, atol=1e-12)


@pytest.mark.parametrize("name", ["mp@5", "map@5/hits"])
def test_a_metric_whose_divisor_depends_on_the_order_has_no_expected_value(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} divides by what depends on the order"):
        check_averaged(find_metric(name))
