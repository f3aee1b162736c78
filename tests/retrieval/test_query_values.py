from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cache.errors import DamagedStoreError, MissingRowsError
from stages.retrieval import evaluate, query_values
from stages.retrieval.query_values import Scored, data_of, read_query_values, values_of
from tests.toys.rankings import classes_of, random_vectors, records_of, store_of


def test_what_is_written_is_read_head_by_head_and_metric_by_metric(tmp_path: Path) -> None:
    labels = classes_of(4, 3)
    store = store_of(tmp_path / "store", random_vectors(list(labels)))
    records = records_of(labels, domains={key: "toys" if key < "2" else "cars" for key in labels})
    scores = evaluate(store, queries=records, gallery=records, metrics=["map", "hit@1"])
    path, data = tmp_path / "scores/run.parquet", data_of(records, records, {"index": "flat"})
    scored = [Scored("net", "raw", "f" * 64, scores), Scored("net", "small", "e" * 64, scores)]
    values_of(path, scored, data).write()
    read = read_query_values(path)
    assert read.heads() == [("net", "raw"), ("net", "small")]
    assert read.embeddings("net", "small") == "e" * 64
    assert read.data == data
    for kept, metric in zip(read.of("net", "raw"), ("map", "hit@1"), strict=True):
        assert (kept.query_keys, kept.query_classes) == (scores.query_keys, scores.query_classes)
        np.testing.assert_array_equal(kept.per_query[metric], scores.per_query[metric])
    assert [p.name for p in path.parent.iterdir()] == ["run.parquet"]


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


def test_scores_of_another_version_of_the_code_are_of_other_data(monkeypatch: pytest.MonkeyPatch) -> None:
    records = records_of(classes_of(3, 3))
    now = data_of(records, records, {})
    monkeypatch.setattr(query_values, "VERSION", 10**6)
    later = data_of(records, records, {})
    assert {key for key in now if now[key] != later[key]} == {"scoring"}


def test_a_file_that_is_not_there_or_not_whole_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(MissingRowsError, match=r"There is no .*run\.parquet\. `permafrost score`"):
        read_query_values(tmp_path / "run.parquet")
    old = query_values.SCHEMA.remove(query_values.SCHEMA.get_field_index("class"))
    pq.write_table(old.empty_table().replace_schema_metadata({b"permafrost.data": "{}"}), tmp_path / "run.parquet")
    with pytest.raises(MissingRowsError, match=r"without the class of each query\. Score again"):
        read_query_values(tmp_path / "run.parquet")
    (tmp_path / "run.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DamagedStoreError, match=r"cannot be read: .*Score again"):
        read_query_values(tmp_path / "run.parquet")
