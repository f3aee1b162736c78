"""Who is relevant to whom, and what is scored of it from vectors: against sets and loops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import RecordsError
from stages.ranking import find_metric, unit_length
from stages.ranking.relevance import ByClass, ByGroups, Judgement, relevance_tables
from stages.records import Records
from stages.retrieval import evaluate
from stages.retrieval.protocols import ByLabelConfig, ListedConfig
from tests.oracles import retrieval as oracle
from tests.oracles.retrieval import orders
from tests.toys.rankings import records_of, store_of


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000))
def test_groups_are_relevant_where_sets_meet(seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries, gallery = (
        [[f"{name}" for name in rng.integers(0, 6, rng.integers(0, 4))] for _ in range(count)] for count in (7, 15)
    )
    result = ByGroups.of(queries, gallery)
    rows: npt.NDArray[np.int64] = rng.permuted(np.tile(np.arange(-1, 15), (7, 1)), axis=1)
    meets = [[bool({*wanted} & {*has}) for has in gallery] for wanted in queries]
    assert result.counts.tolist() == [sum(row) for row in meets]
    assert [result.rows(query).tolist() for query in range(7)] == [np.flatnonzero(row).tolist() for row in meets]
    expected = [[row >= 0 and meets[query][row] for row in rows[query]] for query in range(7)]
    assert result.among(np.arange(7), rows).tolist() == expected
    some = np.array([5, 0, 5])
    assert result.take(some).counts.tolist() == result.counts[some].tolist()
    assert result.take(some).among(np.array([1]), rows[[0]]).tolist() == [expected[0]]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000))
def test_classes_are_groups_of_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries, gallery = rng.integers(-1, 5, 8), rng.integers(-1, 5, 20)
    one = ByClass(queries, gallery)
    names = [[[f"{number}"] if number >= 0 else [] for number in side] for side in (queries, gallery)]
    other = ByGroups.of(*names)
    rows = rng.integers(-1, 20, (8, 9))
    assert one.counts.tolist() == other.counts.tolist()
    assert [one.rows(query).tolist() for query in range(8)] == [other.rows(query).tolist() for query in range(8)]
    np.testing.assert_array_equal(one.among(np.arange(8), rows), other.among(np.arange(8), rows))


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_labels_in_common_and_junk_are_scored_from_vectors_as_by_loops(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    keys = [f"k{row}" for row in range(30)]
    vectors = {key: rng.integers(-2, 3, 4).astype(float) for key in keys}  # many ties
    lists = {key: [keys[row] for row in rng.permutation(30)[: rng.integers(0, 9)]] for key in keys}
    junk = {key: [keys[row] for row in rng.permutation(30)[:8] if keys[row] not in lists[key]] for key in keys}
    table = records_of(dict.fromkeys(keys)).table
    for name, listed in (("relevant", lists), ("junk", junk)):
        table = table.append_column(f"attributes.{name}", pa.array([json.dumps(listed[key]) for key in keys]))
    records = Records(table, {})
    store = store_of(tmp_path_factory.mktemp("store"), vectors)
    unit = unit_length(np.stack([vectors[key] for key in keys]).astype(np.float16))
    protocol = ListedConfig(junk=("junk",))
    for metrics in (["mmp@5", "hit@1", "mp@3"], ["map", "map_trapezoid", "recall@4", "map@6/min", "ndcg"]):
        scores = evaluate(store, queries=records, gallery=records, protocol=protocol, metrics=metrics)
        for key, *values in zip(scores.query_keys, *scores.per_query.values(), strict=True):
            order = oracle.ranking(unit, unit[keys.index(key)], keys.index(key))
            hits = [keys[row] in lists[key] for row, _ in order if keys[row] not in junk[key]]
            assert values == pytest.approx([oracle.metric(name, hits, sum(hits)) for name in metrics])


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_expected_scores_from_vectors_are_means_over_the_orders(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    keys = [f"k{row}" for row in range(6)]
    vectors = {key: np.eye(3)[rng.integers(0, 3)] for key in keys}
    labels: dict[str, str | None] = {key: f"class {rng.integers(0, 2)}" for key in keys}
    records = records_of(labels)
    store = store_of(tmp_path_factory.mktemp("store"), vectors)
    metrics = ["map", "hit@2", "mrr", "mmp@5", "map@r"]
    scores = evaluate(store, queries=records, gallery=records, metrics=metrics, ties="expected")
    for key, *values in zip(scores.query_keys, *scores.per_query.values(), strict=True):
        others = [other for other in keys if other != key]
        similarity = [int(vectors[key] @ vectors[other]) for other in others]
        every = [[labels[others[row]] == labels[key] for row in order] for order in orders(similarity)]
        assert values == pytest.approx(
            [np.mean([oracle.metric(m, hits, sum(hits)) for hits in every]) for m in metrics]
        )


def labelled(cells: dict[str, str | None], labels: dict[str, str | None], column: str) -> Records:
    table = records_of(labels).table
    return Records(table.append_column(column, pa.array([cells.get(key) for key in labels], pa.string())), {})


@pytest.mark.parametrize("column", ["tags", "attributes.colours"])
def test_labels_are_a_json_list_or_have_bars_between_them_or_are_the_label(tmp_path: Path, column: str) -> None:
    cells = {"q": '["red", "blue"]', "a": "blue|green", "b": "green", "c": None, "d": "[]"}
    records = labelled(cells, {"q": "x", "a": "x", "b": "x", "c": "red", "d": "red"}, column)
    store = store_of(tmp_path, {key: np.eye(5)[at] + 1 for at, key in enumerate(cells)})
    scores = evaluate(
        store,
        queries=records.take([0]),
        gallery=records.take([1, 2, 3, 4]),
        metrics=["precision@4", "recall@4"],
        protocol=ByLabelConfig(labels=column.removeprefix("attributes.")),
    )
    assert (scores.value("precision@4"), scores.value("recall@4")) == (3 / 4, 1)  # a, and c and d by their label


def test_an_attribute_of_labels_that_is_not_there_or_no_list_is_refused(tmp_path: Path) -> None:
    records = labelled({"q": "[1, 2]"}, {"q": "x", "a": "x"}, "attributes.colours")
    store = store_of(tmp_path, {"q": np.ones(2), "a": np.ones(2)})
    with pytest.raises(RecordsError, match="the queries have no attribute 'colors' to compare labels by; there are"):
        evaluate(store, queries=records, gallery=records, protocol=ByLabelConfig(labels="colors"))
    with pytest.raises(RecordsError, match=r"attributes\.colours of 'q' must be a JSON list of text, got '\[1, 2\]'"):
        evaluate(store, queries=records, gallery=records, protocol=ByLabelConfig(labels="colours"))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("depth", [5, 200])
def test_vectors_that_cannot_be_compared_are_refused_by_cause(tied: bool, depth: int) -> None:
    gallery = unit_length(np.random.default_rng(0).normal(size=(300, 4)))
    judged = Judgement(ByClass(np.zeros(3, np.int64), np.zeros(300, np.int64)))
    itself = np.full(3, -1)
    with pytest.raises(ValueError, match="queries have 5 numbers a row and the gallery 4"):
        list(relevance_tables(gallery, np.ones((3, 5), np.float32), judged, itself, depth, tied=tied))
    broken = gallery.copy()
    broken[7, 2] = np.nan
    with pytest.raises(ValueError, match=r"gallery vectors must be finite numbers; 1 of 300 rows hold NaN .* is row 7"):
        list(relevance_tables(broken, gallery[:3], judged, itself, depth, tied=tied))
    with pytest.raises(ValueError, match="queries must be finite numbers; 1 of 3 rows"):
        list(relevance_tables(gallery, broken[6:9], judged, itself, depth, tied=tied))


def test_map_at_100_of_a_large_gallery_needs_100_ranks_and_no_more() -> None:
    metrics = [find_metric(name) for name in ("mmp@5", "map@100/min", "hit@1")]
    assert max(metric.depths(np.array([20_000]), 200_000)[0] for metric in metrics) == 100
