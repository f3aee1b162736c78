"""Protocols, each on a handful of images whose scores follow by hand from how the protocol is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cache.errors import RecordsError
from stages.records import Records
from stages.retrieval import evaluate, evaluate_ranking
from stages.retrieval.protocols import (
    ByLabelConfig,
    Gldv2Config,
    IliasConfig,
    LeaveOneOutConfig,
    ListedConfig,
    Products10kConfig,
    QueryGalleryConfig,
    RankedConfig,
    RevisitedConfig,
    SmallDataConfig,
    UnedConfig,
)
from tests.toys.rankings import records_of, store_of


def listing(lists: Mapping[str, Mapping[str, Sequence[str] | None]], **columns: Sequence[str]) -> Records:
    """Queries, and the lists that each has in its attributes."""
    names = sorted({name for cells in lists.values() for name in cells})
    table = records_of(dict.fromkeys(lists, "unused")).table
    for name in names:
        cells = [None if cell.get(name) is None else json.dumps(cell[name]) for cell in lists.values()]
        table = table.append_column(f"attributes.{name}", pa.array(cells, pa.string()))
    for name, listed in columns.items():
        table = table.append_column(f"attributes.{name}", pa.array(listed, pa.string()))
    return Records(table, {})


def score(
    protocol: RankedConfig,
    queries: Records,
    gallery: Records,
    rankings: Sequence[str],
    metrics: Sequence[str] | None = None,
) -> dict[str, list[float]]:
    """The values of every query; a ranking is the keys of the gallery, one letter each."""
    keys = gallery.keys
    rows = np.array([[keys.index(key) for key in ranking] for ranking in rankings])
    scores = evaluate_ranking(rows, queries=queries, gallery=gallery, protocol=protocol, metrics=metrics)
    return {metric: values.tolist() for metric, values in scores.per_query.items()}


def gallery_of(keys: str) -> Records:
    return records_of(dict.fromkeys(keys))


def test_revisited_oxford_by_hand() -> None:
    # One query: a, b easy; c hard; x, y junk; d, e show something else. The ranking: x a d c y b e.
    queries = listing({"q": {"easy": ["a", "b"], "hard": ["c"], "junk": ["x", "y"]}})
    gallery, ranking = gallery_of("abcxyde"), ["xadcybe"]
    # Easy: without x, c, y the ranking is a d b e, and the relevant ranks are 1 and 3.
    easy = score(RevisitedConfig(level="easy"), queries, gallery, ranking)
    assert easy["map_trapezoid"] == pytest.approx([(1 / 1 + 1 / 1) / 2 / 2 + (1 / 2 + 2 / 3) / 2 / 2])
    assert easy["mp@1"] == [1.0]
    assert easy["mp@5"] == pytest.approx([2 / 3])  # the last one is at rank 3
    # Medium: without x and y it is a d c b e; relevant ranks 1, 3, 4.
    medium = score(RevisitedConfig(level="medium"), queries, gallery, ranking)
    assert medium["map_trapezoid"] == pytest.approx([(2 / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 3 + 3 / 4) / 2) / 3])
    assert medium["mp@5"] == medium["mp@10"] == [pytest.approx(3 / 4)]
    # Hard: without x, y, a, b it is d c e; relevant rank 2.
    hard = score(RevisitedConfig(level="hard"), queries, gallery, ranking)
    assert hard["map_trapezoid"] == pytest.approx([(0 / 1 + 1 / 2) / 2])
    assert (hard["mp@1"], hard["mp@5"]) == ([0.0], [0.5])


def revisited_loop(ranking: Sequence[int], positive: set[int], junk: set[int], ks: Sequence[int]) -> list[float]:
    """mAP and mP@k of one query as the protocol's evaluation goes through a ranking."""
    places, removed = [], 0
    for place, row in enumerate(ranking):
        if row in junk:
            removed += 1
        elif row in positive:
            places.append(place - removed)
    area = 0.0
    for seen, place in enumerate(places):
        before = 1.0 if place == 0 else seen / place
        area += (before + (seen + 1) / (place + 1)) / 2 / len(positive)
    ranks = [place + 1 for place in places]
    return [area, *(sum(rank <= min(max(ranks), k) for rank in ranks) / min(max(ranks), k) for k in ks)]


def test_revisited_scores_are_those_of_decremented_ranks_from_vectors_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys = [f"g{row}" for row in range(60)]
    lists = {}
    for query in range(12):
        drawn = rng.permutation(60)[:20].tolist()
        parts = {"easy": drawn[:6], "hard": drawn[6:11], "junk": drawn[11:]}
        lists[f"q{query}"] = {name: [keys[row] for row in rows] for name, rows in parts.items()}
    lists["nothing"] = {"easy": [], "hard": [], "junk": ["g1"]}
    queries, gallery = listing(lists), records_of(dict.fromkeys(keys))
    vectors = {key: rng.normal(size=8) for key in [*lists, *keys]}
    store = store_of(tmp_path, vectors, dtype="float32")
    unit = {key: vector / np.linalg.norm(vector) for key, vector in vectors.items()}
    for level, positive, junk in (
        ("easy", ["easy"], ["junk", "hard"]),
        ("medium", ["easy", "hard"], ["junk"]),
        ("hard", ["hard"], ["junk", "easy"]),
    ):
        protocol = RevisitedConfig(level=level)  # type: ignore[arg-type]
        deep = evaluate(store, queries=queries, gallery=gallery, protocol=protocol)
        shallow = evaluate(
            store, queries=queries, gallery=gallery, protocol=protocol, metrics=["mp@1", "mp@5", "mp@10"]
        )
        assert deep.query_keys == tuple(key for key in lists if key != "nothing")
        assert deep.unanswerable == 1
        for at, key in enumerate(deep.query_keys):
            ranking = sorted(range(60), key=lambda row: -float(unit[key] @ unit[keys[row]]))
            wanted = [{keys.index(name) for part in parts for name in lists[key][part]} for parts in (positive, junk)]
            expected = revisited_loop(ranking, wanted[0], wanted[1], [1, 5, 10])
            measured = [deep.per_query[name][at] for name in ("map_trapezoid", "mp@1", "mp@5", "mp@10")]
            assert measured == pytest.approx(expected)
            assert [shallow.per_query[name][at] for name in ("mp@1", "mp@5", "mp@10")] == pytest.approx(expected[1:])


def test_google_landmarks_by_hand() -> None:
    # Three relevant, found at 1 and 3; and 2 of 2 at 2 and 3. Divided by min(R, 100) = R here.
    queries = listing({"q": {"relevant": ["a", "b", "c"]}, "r": {"relevant": ["d", "e"]}}, usage=["Public", "Private"])
    gallery = gallery_of("abcdefgh")
    scores = score(Gldv2Config(), queries, gallery, ["afbghdec", "cdefghab"])
    assert scores["map@100/min"] == pytest.approx([(1 + 2 / 3 + 3 / 8) / 3, (1 / 2 + 2 / 3) / 2])
    # With three ranks only: min(3, 2) = 2 of the first query's count.
    assert score(Gldv2Config(), queries, gallery, ["afbghdec", "cdefghab"], ["map@2/min"])[
        "map@2/min"
    ] == pytest.approx([1 / 2, (1 / 2) / 2])


def test_google_landmarks_are_told_by_the_part_of_the_solution() -> None:
    queries = listing({"q": {"relevant": ["a"]}, "r": {"relevant": ["b"]}}, usage=["Public", "Private"])
    scores = evaluate_ranking(
        np.array([[0, 1], [0, 1]]), queries=queries, gallery=gallery_of("ab"), protocol=Gldv2Config()
    )
    assert scores.value("map@100/min", "Public") == 1
    assert scores.value("map@100/min", "Private") == 0.5
    assert scores.value("map@100/min") == 0.75


def test_more_than_a_hundred_relevant_divide_by_a_hundred() -> None:
    keys = [f"g{row}" for row in range(150)]
    queries, gallery = listing({"q": {"relevant": keys[:120]}}, usage=["Public"]), records_of(dict.fromkeys(keys))
    first = np.array([[*range(50), *range(120, 150), *range(50, 120)]])
    by_hand = (50 + sum((50 + i) / (80 + i) for i in range(1, 21))) / 100
    scores = evaluate_ranking(first, queries=queries, gallery=gallery, protocol=Gldv2Config())
    assert scores.value("map@100/min") == pytest.approx(by_hand)


def test_uned_merged_and_separate_by_hand() -> None:
    domains = {"q": "cars", "r": "toys", "a": "cars", "b": "cars", "c": "toys", "d": "toys"}
    queries = records_of({"q": "1", "r": "1"}, domains=domains)
    gallery = records_of({"a": "1", "b": "2", "c": "1", "d": "1"}, domains=domains)
    # Class 1 of cars is another than class 1 of toys. q finds c, a, b, d; r finds b, c, a, d.
    merged = score(UnedConfig(), queries, gallery, ["cabd", "bcad"])
    assert merged == {"hit@1": [0, 0], "mmp@5": [0, 1 / 2]}
    separate = score(UnedConfig(gallery="separate"), queries, gallery, ["cabd", "bcad"])
    assert separate == {"hit@1": [1, 1], "mmp@5": [1, 1]}


def test_uned_separate_is_each_domain_scored_by_itself(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    keys = [f"k{row}" for row in range(60)]
    labels: dict[str, str | None] = {key: f"class {rng.integers(0, 6)}" for key in keys}
    domains = {key: f"domain {rng.integers(0, 3)}" for key in keys}
    store = store_of(tmp_path, {key: rng.normal(size=5) for key in keys})
    records = records_of(labels, domains=domains)
    scores = evaluate(
        store, queries=records, gallery=records, protocol=UnedConfig(gallery="separate"), metrics=["mmp@5", "map"]
    )
    means = []
    for domain in sorted({*domains.values()}):
        own = records.take([row for row, key in enumerate(keys) if domains[key] == domain])
        alone = evaluate(store, queries=own, gallery=own, metrics=["mmp@5", "map"])
        for metric in ("mmp@5", "map"):
            assert scores.value(metric, domain) == pytest.approx(alone.value(metric))
        assert next(score for score in scores if score.domain == domain).gallery == len(own)
        means.append(alone.value("map"))
    assert scores.value("map", "mean") == pytest.approx(np.mean(means))


def test_an_image_of_several_landmarks_is_relevant_to_each() -> None:
    def many_labelled(labels: Mapping[str, Sequence[str]]) -> Records:
        table = records_of({key: names[0] for key, names in labels.items()}).table
        cells = [json.dumps(list(names)) if len(names) > 1 else None for names in labels.values()]
        return Records(table.append_column("attributes.landmarks", pa.array(cells, pa.string())), {})

    queries = many_labelled({"q": ["1", "2"], "r": ["3"], "s": ["9"]})
    gallery = many_labelled({"a": ["2"], "b": ["4", "1"], "c": ["3", "5"], "d": ["6"]})
    rankings = ["cabd", "dcab", "abcd"]
    for protocol in (UnedConfig(), ByLabelConfig(labels="landmarks")):
        scores = score(protocol, queries, gallery, rankings, ["map", "recall@2"])
        assert scores == {"map": [pytest.approx((1 / 2 + 2 / 3) / 2), 1 / 2], "recall@2": [1 / 2, 1]}  # s: left out


def test_ilias_leaves_distractors_without_a_label_irrelevant() -> None:
    queries, gallery = records_of({"q": "o1"}), records_of({"a": "o1", "b": None, "c": None, "d": "o1"})
    assert score(IliasConfig(), queries, gallery, ["badc"])["map@1000/min"] == [pytest.approx((1 / 2 + 2 / 3) / 2)]


def test_leave_one_out_and_query_and_gallery_take_their_usual_ranks() -> None:
    records = records_of({"a": "x", "b": "x", "c": "y", "d": "y"})
    result = score(LeaveOneOutConfig(ks=(1, 2)), records, records, ["bcd", "cad", "dab", "abc"])
    assert result == {"hit@1": [1, 0, 1, 0], "hit@2": [1, 1, 1, 0], "map@r": [1, 0, 1, 0]}
    queries = records.take([0])
    gallery = records.take([1, 2, 3])
    assert list(score(QueryGalleryConfig(), queries, gallery, ["bcd"])) == [
        "mmp@5",
        "hit@1",
        "hit@10",
        "hit@20",
        "hit@30",
    ]
    assert score(Products10kConfig(), queries, gallery, ["cbd"]) == {"hit@1": [0]}
    with pytest.raises(RecordsError, match=r"4 of 4 queries are in it, the first 'a'"):
        score(QueryGalleryConfig(), records, records, ["bcd", "cad", "dab", "abc"])
    with pytest.raises(ValueError, match=r"ks is one or more ranks, different whole numbers, at least 1, got \[\]"):
        LeaveOneOutConfig(ks=())


def test_lists_that_are_not_those_of_the_gallery_are_refused() -> None:
    gallery = gallery_of("ab")

    def refused(message: str, lists: Mapping[str, Mapping[str, Sequence[str] | None]], protocol: RankedConfig) -> None:
        with pytest.raises(RecordsError, match=message):
            score(protocol, listing(lists), gallery, ["ab"])

    refused(
        "query 'q' lists 'z' as relevant, which is no key of the gallery", {"q": {"relevant": ["z"]}}, ListedConfig()
    )
    refused("none of the 1 queries lists anything in attributes.relevant", {"q": {"other": ["a"]}}, ListedConfig())
    refused(
        "lists 'a' both as relevant and as junk",
        {"q": {"easy": ["a"], "hard": ["b"], "junk": ["a"]}},
        RevisitedConfig(level="easy"),
    )
    listed = listing({"q": {"relevant": ["a"]}}).table
    at = listed.column_names.index("attributes.relevant")
    broken = Records(listed.set_column(at, "attributes.relevant", pa.array(["a b"])), {})
    with pytest.raises(RecordsError, match=r"attributes\.relevant of 'q' must be a JSON list of text, got 'a b'"):
        score(ListedConfig(), broken, gallery, ["ab"])


def test_junk_that_the_gallery_has_not_is_no_matter() -> None:
    queries = listing({"q": {"relevant": ["b"], "bad": ["zz", "a"]}})
    assert score(ListedConfig(junk=("bad",)), queries, gallery_of("ab"), ["ab"], ["mrr"]) == {"mrr": [1]}


def test_a_relevant_image_that_failed_is_not_asked_for(tmp_path: Path) -> None:
    queries = listing({"q": {"relevant": ["a", "b"]}})
    gallery = gallery_of("abc")
    vectors = {"q": np.array([1.0, 0]), "a": np.array([1.0, 0]), "c": np.array([0, 1.0])}
    store = store_of(tmp_path, vectors, failed=["b"])
    scores = evaluate(store, queries=queries, gallery=gallery, protocol=ListedConfig(), metrics=["recall@1", "map"])
    assert (scores.value("recall@1"), scores.value("map"), scores.failed_gallery) == (1, 1, 1)


def test_the_small_data_measure_takes_one_set(tmp_path: Path) -> None:
    records = records_of({"a": "x", "b": "x"})
    store = store_of(tmp_path, {"a": np.ones(2), "b": np.ones(2)})
    with pytest.raises(RecordsError, match="searches a set in itself"):
        evaluate(store, queries=records.take([0]), gallery=records, protocol=SmallDataConfig())
