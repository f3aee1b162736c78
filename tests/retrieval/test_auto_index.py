from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import TypeAdapter, ValidationError

from cache.errors import NothingToScoreError
from stages.ranking import unit_length
from stages.ranking.metrics import find_metric
from stages.ranking.relevance import ByClass, ByGroups, Judgement
from stages.retrieval import (
    AutoIndexConfig,
    Evidence,
    GalleryIndex,
    IndexConfig,
    IvfFlatIndexConfig,
    choose_gallery_index,
    choose_index,
    index_gallery,
)
from stages.retrieval.indexes.auto import Choice, milliseconds, sample_of_classes, value_of
from tests.oracles import retrieval as oracle
from tests.toys.rankings import classes_of, random_vectors, records_of, store_of

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

MADE = "m" * 64
FOREVER = 1e9  # ms that no query takes: times are not what these tests are about
NO_TIME = 1e-9


def gallery_of(rows: int = 1500, classes: int = 150, dim: int = 16) -> tuple[Vectors, Rows]:
    rng = np.random.default_rng(0)
    labels = np.arange(rows) % classes
    return unit_length(rng.normal(size=(classes, dim))[labels] + 0.5 * rng.normal(size=(rows, dim))), labels


def chosen(config: AutoIndexConfig, evidence: Evidence | None = None) -> Choice:
    vectors, labels = gallery_of()
    keys = [str(row) for row in range(len(vectors))]
    return choose_index(vectors, keys, MADE, config, evidence=evidence or Evidence.from_gallery(vectors, labels))


def classes_in(evidence: Evidence) -> list[int]:
    assert isinstance(evidence.judged.relevant, ByClass)
    return list(evidence.judged.relevant.queries.tolist())


def test_exact_search_within_the_budgets_is_taken_and_nothing_else_is_built() -> None:
    choice = chosen(AutoIndexConfig(ms=FOREVER))
    assert choice.index.config.kind == "flat"
    assert [item.name for item in choice.tried] == ["flat"]
    assert choice.tried[0].loss == 0
    assert choice.tried[0].verdict == "chosen: exact, and within the budgets"


def test_a_budget_that_nothing_keeps_leaves_exact_search_and_says_so() -> None:
    choice = chosen(AutoIndexConfig(ms=NO_TIME))
    assert choice.index.config.kind == "flat"
    assert [item.name.split()[0] for item in choice.tried][:2] == ["flat", "ivf_flat"]
    assert choice.tried[-1].verdict.startswith("chosen: nothing else keeps the budgets, and exact search does not")
    assert "ms a query" in choice.tried[0].verdict


def test_what_is_chosen_keeps_every_budget_by_its_own_line_of_the_table() -> None:
    for config in (AutoIndexConfig(ms=FOREVER, bytes=50, loss=0.02), AutoIndexConfig(ms=FOREVER, bytes=10, loss=0.9)):
        choice = chosen(config)
        tried = choice.tried[-1]
        if choice.index.config.kind == "flat":  # a faster one was not measured on this machine
            assert tried.verdict.startswith("chosen: nothing else")
            continue
        assert (tried.rows, tried.verdict) == (1500, "chosen")
        assert tried.loss <= config.loss
        assert tried.bytes <= (config.bytes or np.inf)
        assert tried.ms < choice.tried[0].ms


def test_the_loss_is_counted_in_the_metric_of_the_task_by_hand() -> None:
    vectors, labels = gallery_of(300, 30)
    index = GalleryIndex.build(vectors, [str(row) for row in range(300)], MADE, IvfFlatIndexConfig(lists=9, probes=1))
    evidence = Evidence.from_gallery(vectors, labels).drawn(40, seed=3)
    ids, _ = index.search(evidence.vectors, 5, evidence.itself)
    by_hand = [
        oracle.metric("mmp@5", [row >= 0 and labels[row] == wanted for row in rows], 9)
        for rows, wanted in zip(ids.tolist(), classes_in(evidence), strict=True)
    ]
    assert value_of(index, evidence, find_metric("mmp@5")) == pytest.approx(np.mean(by_hand))


def test_a_time_is_that_of_the_thread_and_not_of_waiting_and_indexes_take_turns() -> None:
    turns = []

    class Slow:
        def __init__(self, name: str) -> None:
            self.name = name

        def search(self, *_: object) -> None:
            turns.append(self.name)
            time.sleep(0.02)

    vectors, labels = gallery_of(3, 3)
    indexes: list[Any] = [Slow("a"), Slow("b")]
    for taken in milliseconds(indexes, Evidence.from_gallery(vectors, labels), 1, batch=1):
        assert 0 < taken < 10  # a search waits 20 ms, as where other programs run, and computes nothing
    order = [name for name, before in zip(turns, [None, *turns], strict=False) if name != before]
    assert order == ["a", "b"] * (len(order) // 2)
    assert len(order) >= 6


def test_what_is_relevant_is_what_the_protocol_says_and_junk_is_taken_out() -> None:
    vectors, _ = gallery_of(40, 10)
    index = GalleryIndex.build(vectors, [str(row) for row in range(40)], MADE)
    listed = [[(row + 1) % 40, (row + 7) % 40] for row in range(40)]
    ranked = np.argsort(-(vectors @ vectors.T), axis=1, kind="stable")
    ranked = ranked[ranked != np.arange(40)[:, None]].reshape(40, 39)
    junk = [[int(rows[0])] if int(rows[0]) not in own else [] for rows, own in zip(ranked, listed, strict=True)]
    evidence = Evidence(vectors, Judgement(ByGroups.listed(listed), ByGroups.listed(junk)), np.arange(40))
    by_hand = []
    for rows, own, ignored in zip(ranked.tolist(), listed, junk, strict=True):
        left = [row for row in rows if row not in ignored]
        by_hand.append(oracle.metric("mmp@5", [row in own for row in left], 2))
    assert value_of(index, evidence, find_metric("mmp@5")) == pytest.approx(np.mean(by_hand))
    part = evidence.within(np.arange(0, 40, 2))  # odd rows list even ones
    assert (len(part), part.itself.tolist()) == (20, [-1] * 20)
    assert [part.judged.relevant.rows(at).tolist() for at in range(2)] == [[1, 4], [2, 5]]


def test_evidence_without_anything_to_find_is_refused() -> None:
    vectors, _ = gallery_of()
    with pytest.raises(NothingToScoreError, match=r"at least 20 labelled queries .* there are 0\. Name a kind"):
        chosen(AutoIndexConfig(), Evidence.from_gallery(vectors, np.arange(len(vectors))))


def test_evidence_within_a_sample_keeps_a_query_with_its_own_row_or_without() -> None:
    vectors, labels = gallery_of(40, 10)
    evidence = Evidence.from_gallery(vectors, labels)
    rows = np.array([0, 1, 10, 12, 20])  # class 0 three times, classes 1 and 2 once
    part = evidence.within(rows)
    for query, itself, wanted in zip(part.vectors, part.itself, classes_in(part), strict=True):
        own = next(row for row in range(40) if (vectors[row] == query).all())
        assert labels[own] == wanted
        assert itself == (rows.tolist().index(own) if own in rows else -1)
    counts = {0: 3, 1: 1, 2: 1}
    assert len(part) == sum(counts.get(int(label), 0) - (row in rows) > 0 for row, label in enumerate(labels))


def test_a_sample_is_of_whole_classes() -> None:
    labels = np.concatenate([np.repeat(np.arange(400), 5), np.full(500, -1)])
    rows = sample_of_classes(labels, 1000, seed=1)
    sizes = np.bincount(labels[rows][labels[rows] >= 0], minlength=400)
    assert set(sizes.tolist()) == {0, 5}
    assert 700 < len(rows) < 1300
    np.testing.assert_array_equal(rows, sample_of_classes(labels, 1000, seed=1))
    assert len(sample_of_classes(labels, 5000, seed=1)) == 2500


def test_the_choice_is_kept_and_read_again_for_the_same_budgets_and_rows(tmp_path: Path) -> None:
    labels = classes_of(30, 4)
    records = records_of(labels)
    store = store_of(tmp_path / "store", random_vectors(list(labels)))
    config, folder = AutoIndexConfig(ms=FOREVER), tmp_path / "index"
    first = choose_gallery_index(store, records, config, folder=folder)
    again = choose_gallery_index(store, records, config, folder=folder)
    assert again.tried == first.tried  # times and all: it was not measured again
    assert again.index.keys == tuple(records.keys)
    (path,) = folder.rglob("gallery.faiss")
    path.write_bytes(b"cut off")
    assert index_gallery(store, records, config, folder=folder).keys == tuple(records.keys)
    other = choose_gallery_index(store, records.take(range(100)), config, folder=folder)
    assert len(other.index) == 100
    with_queries = choose_gallery_index(store, records, config, queries=records.take(range(60)))
    assert with_queries.index.config.kind == "flat"


def test_an_index_that_was_chosen_by_other_labels_or_queries_is_chosen_again(tmp_path: Path) -> None:
    labels = classes_of(30, 4)
    records = records_of(labels)
    store = store_of(tmp_path / "store", random_vectors(list(labels)))
    mended = records_of({key: f"class {place % 30}" for place, key in enumerate(labels)})
    config, folder = AutoIndexConfig(ms=FOREVER), tmp_path / "index"
    for gallery, queries in ((records, None), (mended, None), (mended, records.take(range(60)))):
        stored = choose_gallery_index(store, gallery, config, folder=folder, queries=queries)
        fresh = choose_gallery_index(store, gallery, config, queries=queries)
        assert [each.value for each in stored.tried] == [each.value for each in fresh.tried]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "map"}, "metric must look at the first ranks only, such as mmp@5 or map@r, got map"),
        ({"metric": "mpp@5"}, "Did you mean"),
        ({"ms": 0}, "ms is a budget, above 0"),
        ({"loss": 1}, r"loss is how much of the metric may be lost, in \[0, 1\), got 1"),
        ({"queries": 3}, "queries is at least 20"),
        ({"probes": 3}, "probes"),
    ],
)
def test_budgets_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    config: TypeAdapter[IndexConfig] = TypeAdapter(IndexConfig)
    with pytest.raises(ValidationError, match=message):
        config.validate_python({"kind": "auto", **options})
