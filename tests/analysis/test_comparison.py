from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from cache.errors import NothingToScoreError
from stages.analysis import paired_difference, t_interval
from stages.retrieval.scores import QueryScores
from tests.toys.rankings import scored


def test_queries_are_matched_by_key_whatever_their_order() -> None:
    first = scored({"a": 1.0, "b": 0.5, "c": 0.0, "only here": 1.0})
    second = scored({"c": 0.25, "a": 0.5, "b": 0.5})
    (result,) = paired_difference(first, second)
    assert (result.metric, result.queries, result.unmatched) == ("mmp@5", 3, 1)
    assert result.value == pytest.approx((0.5 + 0.0 - 0.25) / 3)
    assert result.low <= result.value <= result.high


def test_without_classes_the_interval_and_p_value_are_those_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((2, 40))
    one, other = (scored({f"q{at}": float(value) for at, value in enumerate(row)}) for row in values)
    (difference,) = paired_difference(one, other)
    test = stats.ttest_rel(values[0], values[1])
    low, high = test.confidence_interval(0.95)
    # The degrees of freedom follow from the kurtosis: at most those of the test.
    assert [difference.low, difference.high] == pytest.approx([low, high], rel=0.1)
    assert difference.p_value == pytest.approx(test.pvalue, rel=0.1)


def test_queries_of_one_class_err_together_so_the_interval_is_over_classes() -> None:
    rng = np.random.default_rng(0)
    keys = [f"q{at}" for at in range(60)]
    classes = {key: f"class {at // 6}" for at, key in enumerate(keys)}
    shift = np.repeat(rng.normal(size=10), 6) / 10
    values = dict(zip(keys, 0.5 + shift + rng.normal(size=60) / 100, strict=True))
    zeros = scored(dict.fromkeys(keys, 0.0))
    (apart,), (together,) = (paired_difference(scored(values, classes=own), zeros) for own in ({}, classes))
    assert together.value == apart.value
    assert together.high - together.low > 2 * (apart.high - apart.low)
    of_classes = np.array(list(values.values())).reshape(10, 6).mean(axis=1)
    half = stats.t.ppf(0.975, 9) * stats.sem(of_classes)
    assert (together.high - together.low) / 2 == pytest.approx(half, rel=0.1)


def test_the_other_way_round_everything_changes_sign() -> None:
    rng = np.random.default_rng(1)
    one, two = (scored({f"q{n}": float(v) for n, v in enumerate(rng.random(30))}) for _ in range(2))
    (there,), (back,) = paired_difference(one, two), paired_difference(two, one)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))
    assert back.p_value == there.p_value


def test_a_constant_gain_has_no_spread_and_equal_runs_no_difference() -> None:
    base = {f"q{n}": n / 20 for n in range(20)}
    (gain,) = paired_difference(scored({key: value + 0.1 for key, value in base.items()}), scored(base))
    assert [gain.low, gain.high] == pytest.approx([0.1, 0.1])
    assert gain.p_value < 1e-5
    (same,) = paired_difference(scored(base), scored(base))
    assert (same.value, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_every_metric_that_both_have_is_compared() -> None:
    first = QueryScores(("a", "b"), ("x", "y"), {"mmp@5": np.array([1.0, 0.0]), "map": np.array([1.0, 1.0])})
    second = QueryScores(("a", "b"), ("x", "y"), {"map": np.array([0.5, 0.5]), "hit@1": np.array([1.0, 1.0])})
    assert [result.metric for result in paired_difference(first, second)] == ["map"]


@pytest.mark.parametrize(
    ("second", "error", "message"),
    [
        (scored({"x": 1.0}), NothingToScoreError, "none of the 2 queries of one is among the 1 of the other"),
        (scored({"a": 1.0}, "map"), ValueError, "no metric in common: mmp@5 and map"),
        (QueryScores(("a", "a"), ("x", "x"), {"mmp@5": np.zeros(2)}), ValueError, "the query 'a' is there twice"),
    ],
)
def test_what_cannot_be_compared_is_refused(second: QueryScores, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        paired_difference(scored({"a": 1.0, "b": 0.0}), second)


@pytest.mark.parametrize("values", [[0.1, 0.4], [0.3, 0.31, 0.29, 0.5, 0.2]])
def test_the_t_interval_is_scipys(values: list[float]) -> None:
    mean, low, high = t_interval(np.array(values))
    expected: Any = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (mean, low, high) == pytest.approx((np.mean(values), *expected))


def test_a_single_run_has_no_interval() -> None:
    mean, low, high = t_interval(np.array([0.25]))
    assert mean == 0.25
    assert np.isnan(low)
    assert np.isnan(high)
    with pytest.raises(ValueError, match="at least one run"):
        t_interval(np.array([]))
