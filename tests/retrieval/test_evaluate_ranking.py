"""Rankings that somebody else made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cache.errors import NothingToScoreError, RecordsError
from stages.retrieval import evaluate, evaluate_ranking, nearest
from stages.retrieval.protocols import LeaveOneOutConfig, MetConfig, UnedConfig
from tests.toys.rankings import classes_of, random_vectors, records_of, store_of

METRICS = ["mmp@5", "map@r", "hit@1", "map", "mrr", "ndcg@7", "map@10/min", "map_trapezoid"]


def test_a_whole_ranking_scores_as_evaluate_does(tmp_path: Path) -> None:
    labels = classes_of(6, 4)
    store, records = store_of(tmp_path, random_vectors(list(labels))), records_of(labels)
    rows, _ = nearest(store, records, records, 23)
    ours = evaluate_ranking(rows, queries=records, gallery=records, metrics=METRICS)
    scored = evaluate(store, queries=records, gallery=records, metrics=METRICS)
    assert ours.scores == scored.scores
    assert ours.query_keys == scored.query_keys


def test_the_query_itself_is_taken_out_where_it_is_listed_and_what_follows_moves_up() -> None:
    records = records_of({"a": "x", "b": "x", "c": "y", "d": "y"})
    rows = np.array([[0, 1, 2], [2, 1, 0], [2, 0, 3], [0, 1, 2]])
    scores = evaluate_ranking(rows, queries=records, gallery=records, metrics=["mrr"], beyond="not_relevant")
    # b lists c, (itself), a: a is at rank 2. c lists (itself), a, d. d, which does not list itself: a, b, c.
    assert scores.per_query["mrr"].tolist() == [1, 1 / 2, 1 / 2, 1 / 3]


def test_an_empty_place_is_not_relevant_and_keeps_its_rank() -> None:
    queries, gallery = records_of({"q": "x", "r": "x"}), records_of({"a": "y", "b": "x", "c": "x"})
    rows = np.array([[-1, 1, -1], [1, -1, -1]])
    scores = evaluate_ranking(rows, queries=queries, gallery=gallery, metrics=["map", "recall@3", "mmp@5"])
    assert scores.per_query["map"].tolist() == pytest.approx([(1 / 2) / 2, 1 / 2])
    assert scores.per_query["recall@3"].tolist() == [1 / 2, 1 / 2]
    assert scores.per_query["mmp@5"].tolist() == [1 / 2, 1 / 2]


def test_a_list_too_short_for_a_metric_is_refused_with_how_many_rows_to_search_for() -> None:
    labels = classes_of(3, 4)
    records = records_of(labels)
    rows = np.array([[row, *[other for other in range(12) if other != row][:4]] for row in range(12)])
    with pytest.raises(ValueError, match=r"query '0-0' has 4 rows once .* look at 5\. Search for at least 6 rows"):
        evaluate_ranking(rows, queries=records, gallery=records, metrics=["precision@5"])
    with pytest.raises(ValueError, match=r"look at 12\. Search for at least 13 rows"):
        evaluate_ranking(rows, queries=records, gallery=records, metrics=["map"])
    evaluate_ranking(rows, queries=records, gallery=records, metrics=["precision@4", "map@r"])
    scores = evaluate_ranking(rows, queries=records, gallery=records, metrics=["map"], beyond="not_relevant")
    assert scores.value("map") < 1


def test_a_query_without_anything_relevant_is_left_out_or_zero_or_refused() -> None:
    queries, gallery = records_of({"q": "x", "lone": "z"}), records_of({"a": "y", "b": "x"})
    rows = np.array([[1, 0], [0, 1]])
    left_out = evaluate_ranking(rows, queries=queries, gallery=gallery, metrics=["map"])
    assert (left_out.value("map"), left_out.query_keys, left_out.unanswerable) == (1, ("q",), 1)
    zero = evaluate_ranking(rows, queries=queries, gallery=gallery, metrics=["map"], unanswerable="zero")
    assert (zero.value("map"), zero.query_keys, zero.unanswerable) == (0.5, ("q", "lone"), 1)
    with pytest.raises(NothingToScoreError, match=r"1 of 2 queries have nothing to find .*, the first 'lone'"):
        evaluate_ranking(rows, queries=queries, gallery=gallery, metrics=["map"], unanswerable="error")


def test_what_ties_scores_the_mean_over_all_orders() -> None:
    queries, gallery = records_of({"q": "x"}), records_of({"a": "x", "b": "y", "c": "y"})
    rows, similarity = np.array([[0, 1, 2]]), np.array([[0.5, 0.5, 0.5]])
    scores = evaluate_ranking(
        rows,
        queries=queries,
        gallery=gallery,
        metrics=["mrr", "hit@1", "hit@2"],
        similarity=similarity,
        ties="expected",
    )
    assert scores.value("mrr") == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert scores.value("hit@1") == pytest.approx(1 / 3)
    assert scores.value("hit@2") == pytest.approx(2 / 3)


def test_an_empty_place_keeps_its_rank_whatever_ties() -> None:
    queries = records_of({"q": "x"})
    gallery = records_of({"a": "y", "b": "x", "c": "y", "d": "x"})
    rows, similarity = np.array([[-1, 0, 1, -1, 3]]), np.array([[9.0, 0.5, 0.5, 9.0, 0.1]])
    sides = {"queries": queries, "gallery": gallery, "metrics": ["mrr", "map", "hit@2", "hit@1", "recall@4"]}
    scores = evaluate_ranking(rows, similarity=similarity, ties="expected", **sides)  # type: ignore[arg-type]
    orders = [evaluate_ranking(np.array([[-1, *two, -1, 3]]), **sides) for two in ((0, 1), (1, 0))]  # type: ignore[arg-type]
    for metric in ("mrr", "map", "hit@2", "hit@1", "recall@4"):
        assert scores.value(metric) == pytest.approx(np.mean([one.value(metric) for one in orders]))
    inside = np.array([[0, -1, 1, 3, -1]])
    with pytest.raises(ValueError, match="'q' has an empty place, -1, at rank 2, between rows of one similarity"):
        evaluate_ranking(inside, similarity=np.array([[0.5, 0, 0.5, 0.1, 0]]), ties="expected", **sides)  # type: ignore[arg-type]


def test_a_list_that_ends_within_a_tie_has_no_expected_value() -> None:
    queries, gallery = records_of({"q": "x"}), records_of({"a": "x", "b": "y", "c": "y", "d": "y"})
    rows = np.array([[0, 1, 2]])
    for last, works in ((0.5, False), (0.4, True)):
        similarity = np.array([[0.9, 0.5, last]])

        def score(similarity: np.ndarray = similarity) -> float:
            return evaluate_ranking(
                rows, queries=queries, gallery=gallery, metrics=["hit@2"], similarity=similarity, ties="expected"
            ).value("hit@2")

        if works:
            assert score() == 1
        else:
            with pytest.raises(ValueError, match="'q' ends within rows of one similarity"):
                score()


def test_every_domain_can_search_its_own_gallery() -> None:
    domains = {"q": "cars", "r": "toys", "a": "cars", "b": "toys", "c": "cars"}
    queries = records_of({"q": "x", "r": "x"}, domains=domains)
    gallery = records_of({"a": "x", "b": "x", "c": "y"}, domains=domains)
    rows = np.array([[1, 2, 0], [0, 2, 1]])
    merged = evaluate_ranking(rows, queries=queries, gallery=gallery, metrics=["mrr"], protocol=UnedConfig())
    assert merged.per_query["mrr"].tolist() == [1 / 3, 1 / 3]
    own = evaluate_ranking(
        rows, queries=queries, gallery=gallery, metrics=["mrr"], protocol=UnedConfig("uned", "separate")
    )
    assert own.per_query["mrr"].tolist() == [1 / 2, 1]
    assert {score.domain: score.gallery for score in own} == {"all": 3, "cars": 2, "toys": 1, "mean": 3}
    assert own.value("mrr", "mean") == 0.75


def test_what_is_no_ranking_of_these_records_is_refused_by_cause() -> None:
    queries, gallery = records_of({"q": "x"}), records_of({"a": "x", "b": "y"})

    def refused(message: str, rows: list[list[int]], **more: object) -> None:
        with pytest.raises(ValueError, match=message):
            evaluate_ranking(np.array(rows), queries=queries, gallery=gallery, metrics=["hit@1"], **more)  # type: ignore[arg-type]

    refused("a line for each of the 1 queries", [[0], [1]])
    refused("query 'q' lists 2 at rank 1", [[2]])
    refused("lists -2 at rank 2", [[0, -2]])
    refused("'q' lists row 1 twice", [[1, 1]])
    refused("shape of rows", [[0, 1]], similarity=np.zeros((1, 1)))
    refused("rises at rank 2", [[0, 1]], similarity=np.array([[0.1, 0.2]]))
    refused("holds NaN", [[0, 1]], similarity=np.array([[0.1, np.nan]]))
    refused("needs the similarity of each row", [[0, 1]], ties="expected")
    refused("ties is one of 'row', 'expected', got 'mean'", [[0, 1]], ties="mean")
    refused("unanswerable is one of", [[0, 1]], unanswerable="drop")
    refused("beyond is one of", [[0, 1]], beyond="drop")
    refused("protocol met scores no rankings", [[0, 1]], protocol=MetConfig())
    with pytest.raises(NothingToScoreError, match="there is no gallery record"):
        evaluate_ranking(np.array([[0]]), queries=queries, gallery=gallery.take([]))


def test_leave_one_out_refuses_queries_that_are_not_in_the_gallery() -> None:
    queries, gallery = records_of({"q": "x"}), records_of({"a": "x", "b": "y"})
    with pytest.raises(RecordsError, match=r"1 of 1 queries are not in the gallery, the first 'q'.*query_gallery"):
        evaluate_ranking(np.array([[0, 1]]), queries=queries, gallery=gallery, protocol=LeaveOneOutConfig())
