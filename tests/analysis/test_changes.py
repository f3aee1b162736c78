from __future__ import annotations

import numpy as np
import pytest

from cache.errors import NothingToScoreError
from stages.analysis import changes, paired_difference
from stages.retrieval.scores import QueryScores
from tests.toys.rankings import scored

NOWHERE: dict[str, str | None] = dict.fromkeys([f"q{n}" for n in range(40)])


def test_each_metric_is_compared_over_the_queries_that_both_scored_and_the_others_are_named() -> None:
    first = scored({"a": 1.0, "b": 0.5, "c": 0.0, "gone": 1.0})
    second = scored({"c": 0.25, "a": 0.5, "b": 0.5, "new": 0.0})
    result = changes([first], [second], dict.fromkeys("abc"))
    (change,) = result.changes
    assert (change.first, change.second) == pytest.approx((0.5, 1.25 / 3))
    assert change.value == pytest.approx(change.second - change.first)
    assert (change.better, change.worse, change.same, change.queries) == (1, 1, 1, 3)
    assert (result.only_first, result.only_second) == ({"mmp@5": ("gone",)}, {"mmp@5": ("new",)})
    assert result.shared == {"mmp@5": ("a", "b", "c")}


def test_the_interval_is_that_of_the_paired_difference_the_other_way_round() -> None:
    rng = np.random.default_rng(0)
    one, other = (scored({f"q{n}": float(v) for n, v in enumerate(rng.random(40))}) for _ in range(2))
    (change,) = changes([one], [other], NOWHERE).changes
    (difference,) = paired_difference(other, one)
    assert (change.value, change.low, change.high) == pytest.approx((difference.value, difference.low, difference.high))
    assert change.p_value == pytest.approx(difference.p_value)


def test_domains_are_compared_by_themselves_and_their_mean_weighs_each_the_same() -> None:
    keys = [f"q{n}" for n in range(40)]
    domains: dict[str, str | None] = {key: "toys" if n < 4 else "cars" for n, key in enumerate(keys)}
    base = dict.fromkeys(keys, 0.5)
    better = {key: 0.9 if domains[key] == "toys" else 0.5 for key in keys}
    result = {entry.domain: entry for entry in changes([scored(base)], [scored(better)], domains).changes}
    assert list(result) == ["all", "cars", "toys", "mean"]
    assert [result[name].value for name in result] == pytest.approx([0.04, 0.0, 0.4, 0.2])
    assert (result["toys"].better, result["toys"].same, result["mean"].queries) == (4, 0, 40)
    assert (result["mean"].low, result["mean"].high) == pytest.approx((0.2, 0.2))  # nothing varies inside a domain


def test_the_queries_that_changed_most_come_first_the_worse_of_equals_before() -> None:
    first = scored({"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5, "e": 0.1})
    second = scored({"a": 0.75, "b": 0.25, "c": 0.5, "d": 1.0, "e": 0.1 + 1e-15})
    result = changes([first], [second], {**dict.fromkeys("abce", "toys"), "d": "cars"})
    assert [(entry.key, entry.value) for entry in result.moved("mmp@5", 9)] == [("d", 0.5), ("b", -0.25), ("a", 0.25)]
    assert [entry.key for entry in result.moved("mmp@5", 1)] == ["d"]
    assert [entry.key for entry in result.moved("mmp@5", 9, "toys")] == ["b", "a"]


def test_metrics_of_different_queries_are_compared_each_over_its_own() -> None:
    by_label = QueryScores(("a", "b"), ("x", "y"), {"map": np.array([1.0, 0.0])})
    graded = QueryScores(("a", "b", "c"), ("x", "y", "z"), {"graded_map": np.array([0.2, 0.4, 0.6])})
    result = changes([by_label, graded], [graded, by_label], dict.fromkeys("abc"))
    assert [(entry.metric, entry.queries, entry.value) for entry in result.changes] == [
        ("map", 2, 0),
        ("graded_map", 3, 0),
    ]


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(NothingToScoreError, match="none of the 1 queries of A is among the 1 of B"):
        changes([scored({"a": 1.0})], [scored({"x": 1.0})], {})
    with pytest.raises(ValueError, match=r"A and B have no metric in common: mmp@5 and map"):
        changes([scored({"a": 1.0})], [scored({"a": 1.0}, "map")], {})
    with pytest.raises(ValueError, match="the query 'a' is there twice"):
        changes([QueryScores(("a", "a"), ("x", "x"), {"map": np.zeros(2)})], [scored({"a": 1.0}, "map")], {})
