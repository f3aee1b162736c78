from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import MissingRowsError, NothingToScoreError, RecordsError
from stages.ranking import unit_length
from stages.ranking.intervals import estimate, mean_of, share_interval
from stages.records import Records
from stages.retrieval import GalleryIndex, evaluate, index_gallery, nearest
from stages.retrieval.evaluate import ScoringConfig
from stages.retrieval.scores import summarise
from tests.oracles import retrieval as oracle
from tests.toys.rankings import classes_of, digest_of, loop_scores, random_vectors, records_of, store_of

METRICS = ("mmp@5", "map@r", "hit@1", "map", "recall@3", "precision@2", "r_precision")


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), leave_one_out=st.booleans(), shallow=st.booleans())
def test_evaluate_is_the_mean_of_each_query_scored_by_itself(
    tmp_path_factory: pytest.TempPathFactory, seed: int, leave_one_out: bool, shallow: bool
) -> None:
    rng = np.random.default_rng(seed)
    keys = [f"k{i}" for i in range(40)]
    labels = {key: None if rng.random() < 0.1 else f"class {rng.integers(0, 8)}" for key in keys}
    domains = {key: f"domain {rng.integers(0, 2)}" for key in keys}
    vectors = dict(zip(keys, rng.integers(-1, 2, size=(40, 4)).astype(float), strict=True))  # many ties, some zeros
    everything = records_of(labels, domains=domains)
    queries = everything if leave_one_out else everything.take(np.arange(0, 40, 3))
    gallery = everything if leave_one_out else everything.take(np.setdiff1d(np.arange(40), np.arange(0, 40, 3)))
    store = store_of(tmp_path_factory.mktemp("store"), vectors)
    metrics = ("mmp@5", "hit@1") if shallow else METRICS
    scores = evaluate(store, queries=queries, gallery=gallery, metrics=metrics)
    for name in metrics:
        expected = loop_scores(vectors, queries, gallery, name)
        assert list(scores.query_keys) == list(expected)
        np.testing.assert_allclose(scores.per_query[name], list(expected.values()), atol=1e-12)
        assert scores.value(name) == pytest.approx(np.mean(list(expected.values())))
        for domain in {domains[key] for key in expected}:
            inside = [value for key, value in expected.items() if domains[key] == domain]
            assert scores.value(name, domain) == pytest.approx(np.mean(inside))
    assert scores.unanswerable == len(queries) - len(scores.query_keys)


def test_searching_and_ranking_everything_agree(tmp_path: Path) -> None:
    labels = classes_of(150, 6)
    store, records = store_of(tmp_path, random_vectors(list(labels), dim=24)), records_of(labels)
    searched = evaluate(store, queries=records, gallery=records, metrics=["map@r", "mmp@5", "hit@1"])
    ranked = evaluate(store, queries=records, gallery=records, metrics=["map@r", "mmp@5", "hit@1", "map"])
    for name in searched.per_query:
        np.testing.assert_array_equal(searched.per_query[name], ranked.per_query[name])


def test_a_perfect_store_scores_one_and_leave_one_out_does_not_find_itself(tmp_path: Path) -> None:
    labels = classes_of(4, 3)
    perfect = {key: np.eye(4)[int(key.split("-")[0])] * 7 for key in labels}
    records = records_of(labels)
    scores = evaluate(store_of(tmp_path, perfect), queries=records, gallery=records, metrics=METRICS)
    assert [scores.value(name) for name in METRICS] == [1.0] * len(METRICS)
    assert {(round(score.low, 2), score.high) for score in scores} == {(0.28, 1.0)}  # of four classes
    alone = records_of({"a": "x", "b": "y", "c": "x"})
    vectors = {"a": np.array([1.0, 0]), "b": np.array([1, 0.1]), "c": np.array([0, 1.0])}
    scores = evaluate(store_of(tmp_path / "alone", vectors), queries=alone, gallery=alone, metrics=["hit@1"])
    assert scores.query_keys == ("a", "c")
    assert scores.value("hit@1") == 0  # a finds b, c finds b: never itself


def test_a_byte_identical_image_under_another_key_stays_in_the_gallery(tmp_path: Path) -> None:
    labels = {"copy": "x", "query": "x", "other": "y"}
    records = records_of(labels, same_bytes={"copy": "query"})
    store = store_of(tmp_path, random_vectors(["query", "other"]))
    scores = evaluate(store, queries=records.take([1]), gallery=records, metrics=["hit@1", "map"])
    assert (scores.value("hit@1"), scores.value("map")) == (1, 1)
    positions, similarity = nearest(store, records.take([1]), records, 2)
    assert positions.tolist() == [[0, 2]]
    assert similarity[0, 0] == pytest.approx(1, abs=1e-6)


def test_permuting_the_gallery_changes_no_score(tmp_path: Path) -> None:
    labels = classes_of(12, 5)
    store, records = store_of(tmp_path, random_vectors(list(labels))), records_of(labels)
    moved = records.take(np.random.default_rng(0).permutation(len(records)))
    one = evaluate(store, queries=records, gallery=records, metrics=METRICS)
    other = evaluate(store, queries=records, gallery=moved, metrics=METRICS)
    assert one.scores == other.scores


def test_the_same_label_in_another_domain_is_not_relevant(tmp_path: Path) -> None:
    labels = {"q": "7", "near": "7", "far": "7"}
    vectors = {"q": np.array([1.0, 0]), "near": np.array([1, 0.1]), "far": np.array([0.0, 1])}
    store, domains = store_of(tmp_path, vectors), {"q": "cars", "near": "toys", "far": "cars"}
    with_domains = records_of(labels, domains=domains)
    one = evaluate(store, queries=with_domains.take([0]), gallery=with_domains.take([1, 2]), metrics=["hit@1", "map"])
    assert (one.value("hit@1"), one.value("map")) == (0, 0.5)
    without = records_of(labels)
    scores = evaluate(store, queries=without.take([0]), gallery=without.take([1, 2]), metrics=["hit@1", "map"])
    assert (scores.value("hit@1"), scores.value("map")) == (1, 1)


def test_each_domain_and_the_unweighted_mean_of_the_domains_are_scored(tmp_path: Path) -> None:
    labels = classes_of(10, 6)
    domains = {key: "toys" if key < "3" else "cars" for key in labels}
    store, records = store_of(tmp_path, random_vectors(list(labels))), records_of(labels, domains=domains)
    scores = evaluate(store, queries=records, gallery=records, metrics=["mmp@5", "map"])
    rows = [(score.metric, score.domain, score.queries, score.gallery) for score in scores]
    assert rows == [
        (metric, domain, queries, 60)
        for domain, queries in [("all", 60), ("cars", 42), ("toys", 18), ("mean", 60)]
        for metric in ("mmp@5", "map")
    ]
    for metric in ("mmp@5", "map"):
        values, query_domains = scores.per_query[metric], np.array(scores.query_domains)
        by_domain = [values[query_domains == domain].mean() for domain in ("cars", "toys")]
        assert [scores.value(metric, domain) for domain in ("cars", "toys")] == pytest.approx(by_domain)
        assert scores.value(metric, "mean") == pytest.approx(sum(by_domain) / 2)
        assert scores.value(metric) == pytest.approx(values.mean())
    assert len(scores) == 8
    assert scores[0] is next(iter(scores))
    assert scores.classes == 10


def test_one_domain_alone_gets_no_rows_of_its_own(tmp_path: Path) -> None:
    labels = classes_of(3, 3)
    records = records_of(labels, domains=dict.fromkeys(labels, "toys"))
    scores = evaluate(store_of(tmp_path, random_vectors(list(labels))), queries=records, gallery=records)
    assert [(score.metric, score.domain) for score in scores] == [(m, "all") for m in ScoringConfig().metrics]


def test_a_domain_without_an_answerable_query_is_named_and_not_averaged(tmp_path: Path) -> None:
    labels = {**classes_of(3, 3), "lone": "nobody else"}
    domains = {key: "memes" if key == "lone" else ("toys" if key < "1" else "cars") for key in labels}
    store, records = store_of(tmp_path, random_vectors(list(labels))), records_of(labels, domains=domains)
    scores = evaluate(store, queries=records, gallery=records, metrics=["hit@1"])
    assert scores.unscored_domains == ("memes",)
    assert [score.domain for score in scores] == ["all", "cars", "toys", "mean"]
    assert scores.value("hit@1", "mean") == pytest.approx(
        (scores.value("hit@1", "cars") + scores.value("hit@1", "toys")) / 2
    )
    assert scores.scores[0].unanswerable == scores.unanswerable == 1


def test_unanswerable_queries_are_left_out_of_every_mean_and_counted_by_domain(tmp_path: Path) -> None:
    labels = {**classes_of(4, 3), "lone": "nobody else", "unknown": None}
    domains = {key: "cars" if key in ("lone", "0-0", "0-1", "0-2") else "toys" for key in labels}
    store, records = store_of(tmp_path, random_vectors(list(labels))), records_of(labels, domains=domains)
    scores = evaluate(store, queries=records, gallery=records, metrics=("precision@2", "hit@1", "mmp@5"))
    counts = {score.domain: (score.queries, score.unanswerable) for score in scores}
    assert counts == {"all": (12, 2), "cars": (3, 1), "toys": (9, 1), "mean": (12, 2)}
    assert not {"lone", "unknown"} & set(scores.query_keys)
    assert (scores.unanswerable, scores.classes) == (2, 4)


def test_distractors_take_ranks_and_are_relevant_to_nobody(tmp_path: Path) -> None:
    labels = {"q": "x", "right": "x", "distractor": None, "unlabelled query": None}
    vectors = {
        "q": np.array([1.0, 0]),
        "right": np.array([1.0, 0.5]),
        "distractor": np.array([1.0, 0.1]),
        "unlabelled query": np.array([1.0, 0.2]),
    }
    records = records_of(labels)
    scores = evaluate(
        store_of(tmp_path, vectors), queries=records.take([0, 3]), gallery=records.take([1, 2]), metrics=["map"]
    )
    assert scores.query_keys == ("q",)
    assert scores.value("map") == 0.5


def test_failed_and_unreadable_images_are_left_out_and_counted(tmp_path: Path) -> None:
    labels = classes_of(5, 6)
    good = [key for key in labels if key not in ("0-0", "1-1", "2-2")]
    vectors = random_vectors(good)
    store = store_of(tmp_path, vectors, failed=["0-0", "1-1"])
    records = records_of(labels, unreadable=["2-2"])
    queries, gallery = records.take(np.arange(10)), records.take(np.arange(5, 30))
    scores = evaluate(store, queries=queries, gallery=gallery, metrics=METRICS)
    assert (scores.failed_queries, scores.failed_gallery) == (2, 2)
    assert {score.gallery for score in scores} == {23}
    readable = records_of({key: labels[key] for key in good})
    alone = evaluate(
        store,
        queries=readable.take([row for row, key in enumerate(good) if key in queries.keys]),
        gallery=readable.take([row for row, key in enumerate(good) if key in gallery.keys]),
        metrics=METRICS,
    )
    assert alone.scores == scores.scores


def test_an_image_that_was_never_computed_is_an_error_and_not_a_failure(tmp_path: Path) -> None:
    labels = classes_of(3, 3)
    store = store_of(tmp_path, random_vectors(list(labels)[:-2]))
    with pytest.raises(MissingRowsError, match="has no row for 2 of 9 images, the first of key '1-2'"):
        evaluate(store, queries=records_of(labels), gallery=records_of(labels))


def test_nothing_to_score_says_why(tmp_path: Path) -> None:
    labels = classes_of(3, 3)
    store = store_of(tmp_path, random_vectors(list(labels)), failed=["bad"])
    records, failed = records_of(labels), records_of({"bad": "class 0"})
    with pytest.raises(NothingToScoreError, match="there is no query record"):
        evaluate(store, queries=records.take([]), gallery=records)
    with pytest.raises(NothingToScoreError, match="there is no gallery record"):
        evaluate(store, queries=records, gallery=records.take([]))
    with pytest.raises(NothingToScoreError, match="all 1 gallery images failed"):
        evaluate(store, queries=records, gallery=failed)
    with pytest.raises(NothingToScoreError, match="all 1 query images failed"):
        nearest(store, failed, records, 3)
    with pytest.raises(
        NothingToScoreError, match="none of the 1 queries has another image of its label in the gallery"
    ):
        evaluate(store, queries=records.take([0]), gallery=records.take([1, 2]))


def test_bad_arguments_are_refused_before_a_row_is_read(tmp_path: Path) -> None:
    labels = classes_of(2, 2)
    store, records = store_of(tmp_path, random_vectors(list(labels))), records_of(labels)
    with pytest.raises(ValueError, match="Did you mean 'mmp@k'"):
        evaluate(store, queries=records, gallery=records, metrics=["mpp@5"])
    with pytest.raises(ValueError, match="metrics must name at least one"):
        evaluate(store, queries=records, gallery=records, metrics=[])
    with pytest.raises(RecordsError, match="more than one record of key '0-0'"):
        evaluate(store, queries=records, gallery=records.take([0, 1, 0]))
    for taken in ("all", "mean"):
        domains = {key: taken if key < "1" else "toys" for key in labels}
        with pytest.raises(RecordsError, match=f"a domain cannot be called '{taken}'"):
            evaluate(store, queries=records_of(labels, domains=domains), gallery=records)


def test_a_value_that_was_not_scored_is_a_key_error_that_lists_what_was(tmp_path: Path) -> None:
    labels = classes_of(2, 2)
    records = records_of(labels)
    scores = evaluate(
        store_of(tmp_path, random_vectors(list(labels))), queries=records, gallery=records, metrics=["map"]
    )
    with pytest.raises(KeyError, match=r"hit@1 \(all\) was not scored; there are map \(all\)"):
        scores.value("hit@1")


def test_the_interval_is_repeatable_contains_the_value_and_narrows_with_more_queries(tmp_path: Path) -> None:
    labels = classes_of(60, 6)
    store, records = store_of(tmp_path, random_vectors(list(labels))), records_of(labels)

    def interval(queries: int) -> tuple[float, float, float]:
        scores = evaluate(store, queries=records.take(np.arange(queries)), gallery=records, metrics=["map"])
        return scores[0].low, scores[0].value, scores[0].high

    few, many = interval(20), interval(360)
    for low, value, high in (few, many):
        assert low < value < high
    assert many[2] - many[0] < (few[2] - few[0]) / 2
    assert interval(20) == few


def test_the_interval_is_over_the_classes_of_the_queries(tmp_path: Path) -> None:
    labels = {**classes_of(12, 5), "nobody": None}
    domains = {key: "toys" if key < "6" else "cars" for key in labels}
    records = records_of(labels, domains=domains)
    scores = evaluate(
        store_of(tmp_path, random_vectors(list(labels))),
        queries=records,
        gallery=records,
        metrics=["map", "hit@1"],
        unanswerable="zero",
    )
    assert scores.query_classes == tuple(records.classes)
    for metric in ("map", "hit@1"):
        values, query_domains = scores.per_query[metric], np.array(scores.query_domains)
        units = np.unique([name or "nobody" for name in scores.query_classes], return_inverse=True)[1]
        known = {
            name: estimate(values[None, query_domains == name], units[query_domains == name])
            for name in ("cars", "toys")
        }
        known |= {"all": estimate(values[None], units), "mean": mean_of([known["cars"], known["toys"]])}
        for score in scores:
            if score.metric == metric:
                ends = share_interval(known[score.domain])
                assert (score.low, score.high) == pytest.approx([float(end[0]) for end in ends])


def test_nearest_gives_positions_in_the_gallery_as_passed(tmp_path: Path) -> None:
    labels = classes_of(4, 4)
    vectors = random_vectors([key for key in labels if key not in ("0-0", "1-3")])
    store, records = store_of(tmp_path, vectors, failed=["0-0", "1-3"]), records_of(labels)
    positions, similarity = nearest(store, records, records, 16)
    unit = dict(zip(vectors, unit_length(np.stack(list(vectors.values())).astype(np.float16)), strict=True))
    for row, key in enumerate(labels):
        result = [p for p in positions[row].tolist() if p >= 0]
        if key not in vectors:
            assert result == []
            assert np.isneginf(similarity[row]).all()
            continue
        others = [p for p, other in enumerate(labels) if other in vectors and other != key]
        near = {p: oracle.similarity(unit[key], unit[list(labels)[p]]) for p in others}
        assert result == sorted(others, key=lambda p: (-near[p], p))
        assert similarity[row, : len(result)].tolist() == [near[p] for p in result]


def test_the_index_of_a_gallery_holds_its_images_and_their_keys(tmp_path: Path) -> None:
    labels = classes_of(3, 4)
    good = [key for key in labels if key != "1-1"]
    store, records = store_of(tmp_path, random_vectors(good), failed=["1-1"]), records_of(labels)
    index = index_gallery(store, records)
    assert index.keys == tuple(good)
    index.save(tmp_path / "index")
    loaded = GalleryIndex.load(tmp_path / "index", embeddings=index.embeddings, keys=good)
    rows, _ = loaded.search(unit_length(store.read([digest_of(good[5])])), 1)
    assert loaded.keys[rows[0, 0]] == good[5]


def test_a_kept_index_is_built_again_when_an_image_has_other_bytes(tmp_path: Path) -> None:
    labels = classes_of(3, 4)
    store, records = store_of(tmp_path, random_vectors([*labels, "new"])), records_of(labels)
    stored = index_gallery(store, records, folder=tmp_path / "index")
    assert index_gallery(store, records, folder=tmp_path / "index").embeddings == stored.embeddings
    changed = records_of({"new" if key == "1-1" else key: label for key, label in labels.items()})
    renamed = changed.table.set_column(0, "key", records.table["key"])
    again = index_gallery(store, Records(renamed, changed.roles), folder=tmp_path / "index")
    assert again.keys == stored.keys
    vector = unit_length(store.read([digest_of("new")]))
    rows, similarity = again.search(vector, 1)
    assert again.keys[rows[0, 0]] == "1-1"
    assert similarity[0, 0] == pytest.approx(1, abs=1e-3)


def test_retrieval_loads_without_torch() -> None:
    code = "import sys, stages.retrieval; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_interval_of_the_mean_of_domains_is_about_that_mean() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([0.8 + 0.1 * rng.random(190), 0.1 * rng.random(10)])
    members = {"cars": np.arange(190), "toys": np.arange(190, 200)}
    scores = summarise(
        {"map": values},
        [None] * 200,
        members,
        {"all": 0, "cars": 0, "toys": 0},
        dict.fromkeys(("all", "mean", "cars", "toys"), 50),
    )
    for score, centre, spread in zip(scores, (0.81, 0.85, 0.05, 0.45), (0.025, 0.005, 0.02, 0.01), strict=True):
        assert score.low < score.value < score.high
        assert score.value == pytest.approx(centre, abs=0.02), score.domain
        assert (score.high - score.low) / 2 == pytest.approx(spread, rel=0.4), score.domain
