"""Scores by attributes: what a grade is, which queries count, and what a mixture changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from cache import FeatureStore
from cache.errors import NothingToScoreError, RecordsError
from pipeline.config import RetrievalConfig
from stages.analysis import attribute_bounds
from stages.ranking import unit_length
from stages.records import Records
from stages.retrieval import evaluate_attributes, evaluate_legacy
from stages.retrieval.attribute_similarity import AttributeGrades
from tests.oracles import attributes as oracle
from tests.toys.training import make_records, make_store

RNG = np.random.default_rng(2)
NAMES = ("colour", "kind", "made of")
VALUES: dict[str, list[str | None]] = {
    "colour": ["red", "blue", "blue", None],
    "kind": ["shoe", "shirt", "belt", "shirt"],
    "made of": ["wool", "wool|silk", None, "silk|cotton|wool"],
}
WEIGHTS = {"colour": 1.0, "kind": 0.5, "made of": 2.0}


def with_attributes(keys: list[str], seed: int) -> tuple[Records, list[dict[str, str | None]]]:
    rng = np.random.default_rng(seed)
    rows = [{name: VALUES[name][rng.integers(4)] for name in NAMES} for _ in keys]
    table = make_records(dict.fromkeys(keys, "any")).table
    for name in NAMES:
        table = table.append_column(f"attributes.{name}", pa.array([row[name] for row in rows], pa.string()))
    return Records(table.append_column("tags", pa.array(["a shoe"] * len(keys))), {}), rows


@pytest.mark.parametrize("weights", [WEIGHTS, {"kind": 1.0}, {"colour": 0.0, "kind": 3.0, "made of": 1.0}])
def test_the_grade_is_the_share_by_weight_of_the_querys_attributes_that_are_equal(weights: Mapping[str, float]) -> None:
    (queries, asking), (gallery, rows) = with_attributes([*"abcdefgh"], 0), with_attributes([*"ijklmnopq"], 1)
    grades = AttributeGrades(queries, gallery, weights).grades(np.arange(8))
    expected = [[oracle.share_of_equal(query, row, weights) for row in rows] for query in asking]
    np.testing.assert_allclose(grades, expected)


Scored = tuple[FeatureStore, Records, list[dict[str, str | None]], npt.NDArray[np.float16]]


@pytest.fixture
def scored(tmp_path: Path) -> Scored:
    keys = [f"{at}" for at in range(30)]
    records, rows = with_attributes(keys, 3)
    vectors = RNG.normal(size=(30, 5)).astype(np.float16)
    return make_store(tmp_path, dict(zip(keys, vectors, strict=True))), records, rows, vectors


def test_every_record_searched_in_the_others_scores_what_loops_say(scored: Scored) -> None:
    store, records, rows, vectors = scored
    metrics = ["graded_map:mine", "graded_ndcg@4:mine", "graded_ndcg"]
    result = evaluate_attributes(store, queries=records, gallery=records, metrics=metrics, similar={"mine": WEIGHTS})
    unit = unit_length(vectors.astype(np.float32))
    equal = dict.fromkeys(NAMES, 1.0)
    for key in result.query_keys:
        query = int(key)
        others = sorted((row for row in range(30) if row != query), key=lambda row: -float(unit[query] @ unit[row]))
        mine = [oracle.share_of_equal(rows[query], rows[row], WEIGHTS) for row in others]
        plain = [oracle.share_of_equal(rows[query], rows[row], equal) for row in others]
        place = result.query_keys.index(key)
        assert result.per_query["graded_map:mine"][place] == pytest.approx(oracle.graded_ap(mine))
        assert result.per_query["graded_ndcg@4:mine"][place] == pytest.approx(oracle.ndcg(mine, 4))
        assert result.per_query["graded_ndcg"][place] == pytest.approx(oracle.ndcg(plain))
    assert result[0].low < result[0].value < result[0].high


def test_the_legacy_measure_comes_with_its_ceiling_and_its_floor(scored: Scored) -> None:
    store, records, _, _ = scored
    result = evaluate_legacy(store, records)
    names = [score.metric for score in result]
    assert names == ["legacy_map@10", "legacy_map@10.ceiling", "legacy_map@10.floor"]
    assert result.value(names[2]) < result.value(names[1])


def test_queries_without_the_attribute_or_with_nothing_alike_are_counted_and_left_out(tmp_path: Path) -> None:
    table = make_records(dict.fromkeys("abcd", "any")).table
    records = Records(table.append_column("attributes.colour", pa.array(["red", "red", None, "blue"])), {})
    store = make_store(tmp_path, dict(zip("abcd", RNG.normal(size=(4, 3)), strict=True)))
    result = evaluate_attributes(store, queries=records, gallery=records, metrics=["graded_map"])
    assert (result.query_keys, result.unanswerable) == (("a", "b"), 2)
    zero = evaluate_attributes(store, queries=records, gallery=records, metrics=["graded_map"], unanswerable="zero")
    assert zero.value("graded_map") == pytest.approx(result.value("graded_map") / 2)
    assert (len(zero.query_keys), zero.unanswerable) == (4, 2)
    with pytest.raises(NothingToScoreError, match="2 of 4 queries have nothing to find in the gallery, the first 'c'"):
        evaluate_attributes(store, queries=records, gallery=records, metrics=["graded_map"], unanswerable="error")
    lonely = records.take([0, 3])
    with pytest.raises(NothingToScoreError, match="none of the 2 queries is like any of the 2 gallery images"):
        evaluate_attributes(store, queries=lonely, gallery=lonely, metrics=["graded_map"])


def test_an_attribute_that_is_not_there_is_refused_with_the_nearest(scored: Scored) -> None:
    store, records, _, _ = scored
    wrong = {"mine": {"color": 1.0}}
    with pytest.raises(RecordsError, match=r"no attribute 'color'\. Did you mean 'colour'\?"):
        evaluate_attributes(store, queries=records, gallery=records, metrics=["graded_map:mine"], similar=wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ("graded_map:looks",)}, "names a definition of similar that is not there"),
        ({"metrics": ("graded_mop",)}, "metrics are"),
        ({"similar": {"looks": {"colour": -1.0}}}, r"similar\.looks: the weight of colour is a number of at least 0"),
        ({"similar": {"looks": {"colour": 0.0}}}, "needs an attribute with a weight above 0"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused_in_the_run_file(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetrievalConfig(**settings)  # type: ignore[arg-type]


def test_bounds_of_scores_by_attributes_are_the_mean_over_every_order_and_over_the_best_ones() -> None:
    records, rows = with_attributes([*"abcdef"], 5)
    bounds = attribute_bounds(records, records, ["graded_map:mine", "graded_ndcg@2"], {"mine": WEIGHTS})
    weights = {"graded_map:mine": WEIGHTS, "graded_ndcg@2": dict.fromkeys(NAMES, 1.0)}
    values = {"graded_map:mine": oracle.graded_ap, "graded_ndcg@2": lambda order: oracle.ndcg(order, 2)}
    for metric, value in values.items():
        floors, ceilings = [], []
        for query in range(6):
            others = [row for row in range(6) if row != query]
            grades = {
                name: [oracle.share_of_equal(rows[query], rows[row], mixture) for row in others]
                for name, mixture in weights.items()
            }
            if not all(any(of_metric) for of_metric in grades.values()):
                continue  # nothing is like it: it is left out of every mean
            floors.append(oracle.over_all_orders([0.0] * 5, grades[metric], value))
            ceilings.append(oracle.over_all_orders(grades[metric], grades[metric], value))
        assert floors
        assert bounds[metric, "all"] == pytest.approx((np.mean(floors), np.mean(ceilings)))
