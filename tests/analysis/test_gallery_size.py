from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import NothingToScoreError, RecordsError
from stages.analysis import gallery_curve
from stages.ranking.relevance import ByGroups, Judgement
from stages.records import Records
from stages.retrieval import evaluate
from stages.retrieval.protocols import RankedProtocol, UnedConfig
from tests.toys.rankings import classes_of, loop_scores, random_vectors, records_of, store_of

METRICS = ("mmp@2", "map@r", "hit@1", "map")


def by_lot(keys: list[str], seed: int = 0) -> list[str]:
    return sorted(keys, key=lambda key: hashlib.sha256(f"{seed}\0gallery size\0{key}".encode()).digest())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_each_size_scores_what_a_gallery_of_those_rows_alone_would(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    keys = [f"k{i}" for i in range(36)]
    labels = {key: None if rng.random() < 0.2 else f"class {rng.integers(0, 6)}" for key in keys}
    vectors = dict(zip(keys, rng.integers(-1, 2, size=(36, 3)).astype(float), strict=True))  # many ties
    records = records_of(labels)
    queries = records.take([row for row, key in enumerate(keys) if labels[key] is not None][::3])
    store = store_of(tmp_path_factory.mktemp("store"), vectors)
    curve = gallery_curve(store, queries=queries, gallery=records, sizes=(0.1, 9, 1.0), metrics=METRICS)
    drawn = by_lot(keys)
    assert [at.sampled for at in curve.scores[:: len(METRICS)]] == [4, 9, 36]
    for count, values in curve.per_query.items():
        for at, key in enumerate(curve.query_keys):
            searched = {k for k in keys if labels[k] == labels[key]} | {*drawn[:count]}
            own = records.take([row for row, k in enumerate(keys) if k in searched])
            for name in METRICS:
                alone = loop_scores(vectors, records.take([keys.index(key)]), own, name)
                assert values[name][at] == pytest.approx(alone[key]), (count, key, name)


def test_the_whole_gallery_has_the_scores_of_evaluate_and_smaller_ones_are_easier(tmp_path: Path) -> None:
    labels = classes_of(30, 5)
    store, records = store_of(tmp_path, random_vectors(list(labels), dim=12)), records_of(labels)
    domains = records_of(labels, domains={key: "toys" if key < "2" else "cars" for key in labels})
    curve = gallery_curve(store, queries=domains, gallery=domains, sizes=(1.0, 0.1, 0.4), metrics=METRICS)
    whole = evaluate(store, queries=domains, gallery=domains, metrics=METRICS)
    assert {(at.searched, at.distractors) for at in curve.scores if at.sampled == 150} == {(149, 145)}
    last = [at.score for at in curve.scores if at.sampled == 150]
    assert [(score.metric, score.domain, score.value, score.low, score.high) for score in last] == [
        (score.metric, score.domain, score.value, score.low, score.high) for score in whole
    ]
    for name in METRICS:
        values = [at.score.value for at in curve.scores if (at.score.metric, at.score.domain) == (name, "mean")]
        assert values == sorted(values, reverse=True)
        floors = [at.floor for at in curve.scores if (at.score.metric, at.score.domain) == (name, "all")]
        assert floors == sorted(floors, reverse=True)
    assert {at.ceiling for at in curve.scores} == {1.0}
    del records


def test_further_distractors_join_the_lot_without_a_label_and_those_of_a_searching_class_are_left_out(
    tmp_path: Path,
) -> None:
    labels = {**classes_of(3, 3), "f0": "class 0", "f1": "other", "f2": "other", "f3": None}
    store, records = store_of(tmp_path, random_vectors(list(labels))), records_of(labels)
    gallery, further = records.take(np.arange(9)), records.take(np.arange(9, 13))
    curve = gallery_curve(store, queries=gallery, gallery=gallery, sizes=(1.0,), metrics=["map"], further=further)
    assert (curve.left_out, curve.scores[0].sampled) == (1, 12)
    hidden = records_of({key: None if key in ("f1", "f2") else label for key, label in labels.items() if key != "f0"})
    expected = evaluate(store, queries=gallery, gallery=hidden, metrics=["map"])
    np.testing.assert_allclose(curve.per_query[12]["map"], expected.per_query["map"])
    with pytest.raises(RecordsError, match="'0-0' is a further distractor, and a query or in the gallery"):
        gallery_curve(store, queries=gallery, gallery=gallery, further=gallery)


def test_sizes_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    labels = classes_of(3, 3)
    store, records = store_of(tmp_path, random_vectors(list(labels))), records_of(labels)
    for size in (0, -1, 2.5, 10, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="a gallery size is a share above 0 and up to 1, or a whole number of"):
            gallery_curve(store, queries=records, gallery=records, sizes=[size])
    with pytest.raises(ValueError, match="at least one"):
        gallery_curve(store, queries=records, gallery=records, sizes=[])
    with pytest.raises(NothingToScoreError, match="no query has another image of its label"):
        gallery_curve(store, queries=records.take([0]), gallery=records.take([1, 2]))


def test_junk_is_neither_found_nor_a_distractor_and_a_gallery_a_domain_has_no_curve(tmp_path: Path) -> None:
    labels = classes_of(4, 4)
    store, records = store_of(tmp_path, random_vectors(list(labels))), records_of(labels)

    class AllButTheFirstIsJunk(RankedProtocol):
        def judge(self, queries: Records, gallery: Records) -> Judgement:
            same = [[row for row, own in enumerate(gallery.labels) if own == label] for label in queries.labels]
            return Judgement(ByGroups.listed([rows[:2] for rows in same]), ByGroups.listed([rows[2:] for rows in same]))

    junk = AllButTheFirstIsJunk()
    curve = gallery_curve(store, queries=records, gallery=records, sizes=[1.0], metrics=["map"], protocol=junk)
    two_each = records.take(np.arange(8))  # the first two of each class
    first = gallery_curve(store, queries=two_each, gallery=two_each, sizes=[1.0], metrics=["hit@1"])
    assert curve.scores[0].searched == pytest.approx(16 - 2 - 0.5)  # two of its class are junk; half are relevant
    assert first.scores[0].searched == 7
    assert len(curve.query_keys) == 16
    with pytest.raises(ValueError, match="one gallery that all search"):
        gallery_curve(store, queries=records, gallery=records, protocol=UnedConfig(gallery="separate"))
