"""Recognition: classes with confidence, and one ranking of all queries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import FeatureStore
from cache.errors import NothingToScoreError, RecordsError
from stages.datasets import MetBenchmark
from stages.records import Records, read_records
from stages.retrieval import evaluate
from stages.retrieval.protocols import MetConfig
from stages.retrieval.recognition import (
    NEIGHBOURS,
    TEMPERATURES,
    Answers,
    Neighbours,
    accuracy,
    check_recognition,
    find_neighbours,
    global_average_precision,
    without_distractors,
)
from tests.benchmark_truths import met
from tests.toys.rankings import records_of, store_of


def answers(confidence: Sequence[float], right: Sequence[bool | None], keys: Sequence[str] | None = None) -> Answers:
    """``right`` is None for a query of no object."""
    has_object = np.array([value is not None for value in right])
    return Answers.of(
        np.array(confidence, float),
        np.array([bool(value) for value in right]),
        has_object,
        keys or [f"{at}" for at in range(len(right))],
    )


def test_global_average_precision_by_hand() -> None:
    # By confidence: right, distractor, wrong, right, distractor. Three queries show an object.
    result = answers([0.9, 0.1, 0.5, 0.8, 0.7], [True, None, True, None, False])
    assert global_average_precision(result).mean() == pytest.approx((1 / 1 + 2 / 4) / 3)
    assert without_distractors(result).mean() == pytest.approx((1 / 1 + 2 / 3) / 3)
    assert accuracy(result).mean() == pytest.approx(2 / 3)


def test_equal_confidence_is_ranked_by_key() -> None:
    assert global_average_precision(answers([0.5, 0.5], [True, None], ["b", "a"])).mean() == 1 / 2
    assert global_average_precision(answers([0.5, 0.5], [True, None], ["a", "b"])).mean() == 1


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000))
def test_gap_is_one_ranking_gone_through_in_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 40))
    confidence = rng.integers(0, 6, count) / 5
    kinds: list[bool | None] = [(True, False, None)[kind] for kind in rng.integers(0, 3, count)]
    kinds[0] = bool(kinds[0])
    keys = [str(name) for name in rng.permutation(count)]
    order = sorted(range(count), key=lambda at: (-confidence[at], keys[at]))
    for distractors, metric in ((True, global_average_precision), (False, without_distractors)):
        counted = [at for at in order if distractors or kinds[at] is not None]
        right, total = 0, 0.0
        for place, at in enumerate(counted, 1):
            if kinds[at]:
                right += 1
                total += right / place
        expected = total / sum(kind is not None for kind in kinds)
        assert metric(answers(confidence.tolist(), kinds, keys)).mean() == pytest.approx(expected)


def classified(
    classes: Sequence[int], similarity: Sequence[float], num_classes: int, neighbours: int, temperature: float
) -> tuple[int, float]:
    """The nearest-neighbour classifier of Met as a loop: the class, and its share of the softmax over all classes."""
    best: dict[int, float] = {}
    for name, value in list(zip(classes, similarity, strict=True))[:neighbours]:
        best[name] = max(best.get(name, 0.0), value)
    powers = {name: math.exp(temperature * value) for name, value in best.items()}
    total = sum(powers.values()) + (num_classes - len(best)) * math.exp(0)
    name = max(best, key=lambda name: best[name])
    return name, powers[name] / total


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), neighbours=st.integers(1, 6), temperature=st.sampled_from([0.01, 1.0, 10.0, 100.0]))
def test_the_confidence_is_a_softmax_over_all_classes(seed: int, neighbours: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 5, (8, 6))
    similarity: npt.NDArray[np.float64] = -np.sort(-rng.uniform(-0.3, 1, (8, 6)), axis=1)
    wanted = rng.integers(-1, 5, 8)
    result = Neighbours(classes, similarity, wanted, 9, tuple("abcdefgh")).answers(neighbours, temperature)
    for query in range(8):
        name, confidence = classified(classes[query], similarity[query], 9, neighbours, temperature)
        assert result.confidence[query] == pytest.approx(confidence)
        assert result.correct[query] == (name == wanted[query])
        assert result.has_object[query] == (wanted[query] >= 0)


def test_a_steep_softmax_does_not_overflow() -> None:
    result = Neighbours(np.array([[0, 1]]), np.array([[1.0, 0.5]]), np.array([0]), 2, ("a",)).answers(2, 5000.0)
    assert result.confidence.tolist() == [1.0]


def toy(folder: Path) -> tuple[FeatureStore, Records, Records]:
    """Two exhibits on the axes; queries near one, near the other but of the first, and a distractor in between."""
    vectors = {
        "a1": np.array([1.0, 0.0, 0.0]),
        "a2": np.array([0.9, 0.1, 0.0]),
        "b": np.array([0.0, 1.0, 0.0]),
        "sure": np.array([1.0, 0.05, 0.0]),
        "mistaken": np.array([0.3, 0.9, 0.2]),
        "other": np.array([0.5, 0.6, 0.9]),
    }
    store = store_of(folder, vectors, dtype="float32")
    return (
        store,
        records_of({"sure": "a", "mistaken": "a", "other": None}),
        records_of({"a1": "a", "a2": "a", "b": "b"}),
    )


def test_met_is_scored_with_the_queries_of_nothing(tmp_path: Path) -> None:
    store, queries, gallery = toy(tmp_path)
    protocol = MetConfig(neighbours=1, temperature=10)
    scores = evaluate(store, queries=queries, gallery=gallery, protocol=protocol)
    assert {score.metric: score.value for score in scores} == {"gap": 0.5, "gap-": 0.5, "acc": 0.5}
    assert (scores.unanswerable, scores[0].queries, len(scores.query_keys)) == (1, 3, 3)
    for score in scores:
        assert score.low <= score.value <= score.high
        assert np.mean(scores.per_query[score.metric]) == pytest.approx(score.value)


def test_numbers_that_are_not_given_are_the_best_on_validation(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    keys, query_keys = [f"g{row}" for row in range(30)], [f"q{row}" for row in range(20)]
    store = store_of(tmp_path, {key: rng.normal(size=3) for key in [*keys, *query_keys]})
    gallery = records_of({key: f"class {row % 5}" for row, key in enumerate(keys)})
    queries = records_of({key: f"class {row % 5}" if row % 3 else None for row, key in enumerate(query_keys)})

    def gap(protocol: MetConfig, validation: tuple[Records, Records] | None = None) -> float:
        result = evaluate(store, queries=queries, gallery=gallery, protocol=protocol, validation=validation)
        return result.value("gap")

    every = {(k, t): gap(MetConfig(neighbours=k, temperature=t)) for k in NEIGHBOURS for t in TEMPERATURES}
    assert len({*every.values()}) > 1
    assert gap(MetConfig(), (queries, gallery)) == max(every.values())
    own = max(value for (k, _), value in every.items() if k == 3)
    assert gap(MetConfig(neighbours=3), (queries, gallery)) == own
    with pytest.raises(ValueError, match="tuned on validation queries, and there are none: give both numbers"):
        gap(MetConfig(neighbours=1))


def test_what_recognition_cannot_score_is_refused_by_cause(tmp_path: Path) -> None:
    store, queries, gallery = toy(tmp_path)
    protocol = MetConfig(neighbours=1, temperature=10)
    with pytest.raises(NothingToScoreError, match="none of the 1 queries shows a class of the gallery"):
        evaluate(store, queries=queries.take([2]), gallery=gallery, protocol=protocol)
    with pytest.raises(ValueError, match=r"protocol met says itself what counts .* leave out ties and unanswerable"):
        evaluate(store, queries=queries, gallery=gallery, protocol=protocol, ties="expected")
    unnamed = records_of({"a1": "a", "b": None})
    with pytest.raises(RecordsError, match="the gallery image 'b' has no label"):
        evaluate(store, queries=queries, gallery=unnamed, protocol=protocol)
    with pytest.raises(ValueError, match="metrics of recognition are gap, gap-, acc, got 'map'"):
        check_recognition(["map"])
    with pytest.raises(ValueError, match="Did you mean 'gap'"):
        check_recognition(["GAP"])
    with pytest.raises(ValueError, match="metrics must name at least one"):
        check_recognition([])
    with pytest.raises(ValueError, match="got NaN for query '1'"):
        answers([0.1, float("nan")], [True, True])
    with pytest.raises(ValueError, match="neighbours is a number of images, at least 1, got 0"):
        MetConfig(neighbours=0)
    with pytest.raises(ValueError, match="temperature is above 0"):
        MetConfig(temperature=0)


def test_the_reader_of_met_hands_over_the_queries_of_nothing(tmp_path: Path) -> None:
    records = read_records(MetBenchmark(path=str(met(tmp_path))))
    assert records.split("query_distractor").keys == ["test_other/u.jpg"]
    assert records.split("query", "query_distractor").keys == ["test_met/t.jpg", "test_other/u.jpg"]
    validation = records.split("validation_query", "validation_query_distractor")
    assert validation.keys == ["test_met/v.jpg", "test_noart/w.jpg"]


def test_the_interval_of_gap_is_about_that_of_classes_drawn_anew(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys = [f"g{row}" for row in range(40)]
    searching = [f"q{row}" for row in range(160)]
    centres = rng.normal(size=(40, 4))
    vectors = {key: centres[row] for row, key in enumerate(keys)}
    names: dict[str, str | None] = {}
    for row, key in enumerate(searching):
        shown = int(rng.integers(0, 40))
        vectors[key] = centres[shown] + 0.4 * rng.normal(size=4)
        names[key] = f"class {shown}" if row % 4 else None
    gallery, queries = records_of({key: f"class {row}" for row, key in enumerate(keys)}), records_of(names)
    store, protocol = store_of(tmp_path, vectors), MetConfig(neighbours=3, temperature=10)
    scores = evaluate(store, queries=queries, gallery=gallery, protocol=protocol)
    members: dict[str, list[int]] = {}
    for row, (key, name) in enumerate(names.items()):
        members.setdefault(name or key, []).append(row)
    classes, drawn = [np.array(rows) for rows in members.values()], []
    answers = find_neighbours(store, queries, gallery, 3).answers(3, 10)
    for _ in range(1000):
        rows = np.concatenate([classes[at] for at in rng.integers(0, len(classes), len(classes))])
        some = Answers.of(
            answers.confidence[rows], answers.correct[rows], answers.has_object[rows], [f"{at:04}" for at in rows]
        )
        drawn.append(
            [float(metric(some).mean()) for metric in (global_average_precision, without_distractors, accuracy)]
        )
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    for score, least, most in zip(scores, low, high, strict=True):
        assert 0 <= score.low < score.value < score.high <= 1
        assert (score.high - score.low) == pytest.approx(most - least, rel=0.2), score.metric


def test_all_answers_right_is_not_certainty(tmp_path: Path) -> None:
    vectors = {f"{side}{row}": np.eye(9)[row] for side in "gq" for row in range(8)} | {"nothing": np.eye(9)[8]}
    gallery = records_of({f"g{row}": f"class {row}" for row in range(8)})
    queries = records_of({f"q{row}": f"class {row}" for row in range(8)} | {"nothing": None})
    scores = evaluate(
        store_of(tmp_path, vectors),
        queries=queries,
        gallery=gallery,
        protocol=MetConfig(neighbours=1, temperature=10),
    )
    for score in scores:
        assert (score.value, score.high) == (1, 1)
        assert 0.5 < score.low < 0.75  # of eight classes
