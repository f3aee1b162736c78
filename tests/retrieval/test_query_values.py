from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache import LocalStorage
from cache.errors import DamagedStoreError, MissingRowsError
from stages.analysis.comparison import outdated
from stages.records import Records
from stages.retrieval import evaluate, query_values
from stages.retrieval.evaluate import ScoringConfig
from stages.retrieval.protocols import ByLabelConfig, Gldv2Config, ListedConfig, RevisitedConfig, UnedConfig
from stages.retrieval.query_values import Scored, data_of, read_query_values, values_of
from tests.toys.rankings import classes_of, random_vectors, records_of, store_of

ATTRIBUTES = ("relevant", "landmarks", "usage", "easy", "hard", "junk")


def test_what_is_written_is_read_head_by_head_and_metric_by_metric(tmp_path: Path) -> None:
    labels = classes_of(4, 3)
    store = store_of(tmp_path / "store", random_vectors(list(labels)))
    records = records_of(labels, domains={key: "toys" if key < "2" else "cars" for key in labels})
    scores = evaluate(store, queries=records, gallery=records, metrics=["map", "hit@1"])
    storage, data = LocalStorage(tmp_path), data_of(records, records, {"index": "flat"})
    scored = [Scored("net", "raw", "f" * 64, scores), Scored("net", "small", "e" * 64, scores)]
    values_of(scored, data).write(storage, "scores/run.parquet")
    read = read_query_values(storage, "scores/run.parquet")
    assert read.heads() == [("net", "raw"), ("net", "small")]
    assert read.embeddings("net", "small") == "e" * 64
    assert read.data == data
    for stored, metric in zip(read.of("net", "raw"), ("map", "hit@1"), strict=True):
        assert (stored.query_keys, stored.query_classes) == (scores.query_keys, scores.query_classes)
        np.testing.assert_array_equal(stored.per_query[metric], scores.per_query[metric])
    assert storage.list("scores/") == ["scores/run.parquet"]


def test_the_fingerprint_of_the_data_follows_bytes_and_labels_and_not_the_order() -> None:
    labels = classes_of(3, 3)
    records = records_of(labels)
    same = records.take(np.arange(9)[::-1])
    assert data_of(records, same, {}) == data_of(same, records, {})
    relabelled = records_of({**labels, "0-0": "class 1"})
    other_bytes = records_of(labels, same_bytes={"0-0": "1-1"})
    for changed in (relabelled, other_bytes, records.take(np.arange(8))):
        assert data_of(records, changed, {})["gallery"] != data_of(records, records, {})["gallery"]
        assert data_of(records, changed, {})["queries"] == data_of(records, records, {})["queries"]


TRUTHS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "by_label": ({}, set()),
    "labels": ({"protocol": ByLabelConfig(labels="relevant")}, {"attributes.relevant"}),
    "tags": ({"protocol": ByLabelConfig(labels="tags")}, {"tags"}),
    "uned": ({"protocol": UnedConfig()}, {"attributes.landmarks"}),
    "gldv2": ({"protocol": Gldv2Config()}, {"attributes.relevant", "attributes.usage"}),
    "listed": ({"protocol": ListedConfig(junk=("junk",))}, {"attributes.relevant", "attributes.junk"}),
    "revisited": ({"protocol": RevisitedConfig()}, {"attributes.easy", "attributes.hard", "attributes.junk"}),
    "a mixture": ({"metrics": ("graded_map:a",), "similar": {"a": {"easy": 1, "hard": 0}}}, {"attributes.easy"}),
    "graded": ({"metrics": ("graded_map",)}, {f"attributes.{name}" for name in ATTRIBUTES}),
    "legacy": ({"metrics": ("legacy_map@10",)}, {"tags", *(f"attributes.{name}" for name in ATTRIBUTES)}),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_scores_follow_from_the_columns_that_say_what_is_relevant_and_from_no_others(name: str) -> None:
    settings, expected = TRUTHS[name]
    table = records_of(classes_of(2, 2)).table
    for column in ("tags", *(f"attributes.{attribute}" for attribute in ATTRIBUTES)):
        table = table.append_column(column, pa.array(["[]", None, "[]", "[]"]))
    columns = ScoringConfig(**settings).columns(Records(table, {}))

    def data(table: pa.Table) -> dict[str, str]:
        records = Records(table, {})
        return data_of(records, records, {}, columns)

    changed = set()
    for place, column in enumerate(table.column_names):
        if column in ("key", "digest", "label", "domain"):
            continue
        after = data(table.set_column(place, column, pa.array(["[]", "[]", "[]", "[]"])))
        if after != data(table):
            assert {key for key in after if after[key] != data(table)[key]} == {"ground truth"}
            changed.add(column)
    assert changed == expected


def test_the_domain_of_a_row_without_a_label_is_part_of_the_data() -> None:
    one, other = (records_of({"a": "x", "b": None}, domains={"a": "cars", "b": where}) for where in ("cars", "toys"))
    assert data_of(one, one, {})["gallery"] != data_of(one, other, {})["gallery"]


def test_what_changed_since_scores_were_made_is_named(tmp_path: Path) -> None:
    records = records_of(classes_of(3, 3))
    storage = LocalStorage(tmp_path)
    values_of([], data_of(records, records, {}, ["tags"], [records])).write(storage, "run.parquet")
    values = read_query_values(storage, "run.parquet")
    assert outdated(values, values.data, {}) == []
    truth, tuned = outdated(values, data_of(records, records, {}), {})
    assert re.fullmatch("ground truth: scored tags: [0-9a-f]{64}, now .absent.", truth)
    assert re.fullmatch("tuned on: scored [0-9a-f]{8}, now .absent.", tuned)


def test_scores_are_of_the_head_whose_row_they_are_and_not_of_another_with_its_embeddings(tmp_path: Path) -> None:
    records = records_of(classes_of(3, 3))
    store = store_of(tmp_path, random_vectors(records.keys))
    scores = evaluate(store, queries=records, gallery=records, metrics=["map"])
    rows = ["a", "a (ivf_pq)", "a (text)", "a + alpha_qe", "a (b)"]
    scored = [Scored("net", row, "f" * 64, scores) for row in rows]
    values = values_of(scored, {})
    now = {("net", "a"): "f" * 64, ("net", "b"): "e" * 64, ("net", "a (b)"): "f" * 64}
    assert outdated(values, {}, now) == []
    swapped = outdated(values, {}, {**now, ("net", "a"): "e" * 64, ("net", "b"): "f" * 64})
    assert [text.partition(":")[0] for text in swapped] == [f"embeddings of net {row}" for row in rows[:-1]]
    assert len(outdated(values, {}, {("net", "b"): "f" * 64})) == len(rows)


def test_the_order_of_images_of_equal_bytes_which_tie_is_part_of_the_data() -> None:
    labels = {"a": "x", "b": "y", "c": "z"}
    records = records_of(labels, same_bytes={"b": "a"})
    others, copies = records.take([2, 0, 1]), records.take([1, 0, 2])
    assert data_of(records, others, {}) == data_of(records, records, {})
    changed = data_of(records, copies, {})
    assert {key for key, value in data_of(records, records, {}).items() if changed[key] != value} == {"order of copies"}


def test_scores_of_another_version_of_the_code_are_of_other_data(monkeypatch: pytest.MonkeyPatch) -> None:
    records = records_of(classes_of(3, 3))
    now = data_of(records, records, {})
    monkeypatch.setattr(query_values, "VERSION", 10**6)
    later = data_of(records, records, {})
    assert {key for key in now if now[key] != later[key]} == {"scoring"}


def test_a_file_that_is_not_there_or_not_whole_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(MissingRowsError, match=r"There is no .*run\.parquet\. `permafrost score`"):
        read_query_values(LocalStorage(tmp_path), "run.parquet")
    old = query_values.SCHEMA.remove(query_values.SCHEMA.get_field_index("class"))
    pq.write_table(old.empty_table().replace_schema_metadata({b"permafrost.data": "{}"}), tmp_path / "run.parquet")
    with pytest.raises(MissingRowsError, match=r"without the class of each query\. Score again"):
        read_query_values(LocalStorage(tmp_path), "run.parquet")
    (tmp_path / "run.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DamagedStoreError, match=r"cannot be read: .*Score again"):
        read_query_values(LocalStorage(tmp_path), "run.parquet")
