import time
from pathlib import Path

import pyarrow as pa
import pytest

from cache import DigestCache, digest_file
from cache.errors import RecordsError
from stages.datasets import FolderConfig, SourceConfig, TableConfig
from stages.records import read_records, records
from tests.pictures import draw, draw_folder, write_table

ROWS = [
    {"path": "0.png", "key": "a", "label": "x", "split": "train"},
    {"path": "1.png", "key": "b", "label": "x", "split": "train"},
    {"path": "2.png", "key": "c", "label": "y", "split": "query"},
    {"path": "3.png", "key": "d", "label": "y", "split": "gallery"},
    {"path": "4.png", "key": "e", "label": "", "split": "gallery"},
    {"path": "5.png", "key": "f", "label": "z", "split": "spare"},
]


def table(folder: Path, changes: dict[int, dict[str, str]] | None = None) -> SourceConfig:
    for number in range(len(ROWS)):
        draw(folder / f"{number}.png", number)
    rows = [row | (changes or {}).get(at, {}) for at, row in enumerate(ROWS)]
    path = write_table(folder / "t.csv", rows)
    return TableConfig(path=str(path), label="label", train="train", query="query", gallery="gallery")


def test_records_carry_the_digest_of_their_bytes(tmp_path: Path) -> None:
    records = read_records(table(tmp_path))
    assert records.digests == [digest_file(tmp_path / f"{number}.png") for number in range(6)]
    assert records.split("train").keys == ["a", "b"]
    assert records.split("gallery").labels == ["y", None]
    assert records.take([3, 0]).keys == ["d", "a"]


def test_counts_say_what_a_person_wants_to_know_before_a_run(tmp_path: Path) -> None:
    draw(tmp_path / "5.png", 0)
    config = table(tmp_path, {2: {"label": "w"}})
    draw(tmp_path / "5.png", 0)  # the same picture as 0.png
    counts = {name: count for name, count in read_records(config).counts().items() if count}
    assert counts == {
        "records": 6,
        "classes": 4,
        "train": 2,
        "query": 1,
        "gallery": 2,
        "classes of one image": 3,
        "distractors": 2,
        "queries with nothing in the gallery": 1,
        "records of no role": 1,
        "byte-identical copies": 1,
    }


def test_leave_one_out_counts_a_query_alone_in_its_class_as_having_nothing_to_find(tmp_path: Path) -> None:
    config = table(tmp_path, {at: {"split": "all", "label": label} for at, label in enumerate("xxyyzz"[:5] + "w")})
    config = TableConfig(path=config.path, label="label", query="all", gallery="all")
    counts = read_records(config).counts()
    assert counts["query"] == counts["gallery"] == 6
    assert counts["queries with nothing in the gallery"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({1: {"key": "a"}}, "row 1 and row 2 have the same key 'a'"),
        ({1: {"key": ""}}, "row 2: the key is empty"),
        ({1: {"label": ""}}, r"row 2 \(key 'b'\) is in train \(split 'train'\) and has no label"),
        ({2: {"label": ""}}, r"row 3 \(key 'c'\) is in query"),
        ({3: {"path": "gone.png"}}, r"row 4 \(key 'd'\) names .*gone\.png, which does not exist\. Correct"),
        ({2: {"split": "qeury"}}, "query names the split 'query', which no row has"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, changes: dict[int, dict[str, str]], message: str) -> None:
    with pytest.raises(RecordsError, match=message):
        read_records(table(tmp_path, changes))


def test_missing_images_can_be_recorded_instead_of_refused(tmp_path: Path) -> None:
    config = table(tmp_path, {3: {"path": "gone.png"}})
    config = TableConfig(path=config.path, label="label", query="query", gallery="gallery", missing_images="record")
    records = read_records(config)
    assert records.unreadable().keys == ["d"]
    assert records.digests[3] == b""


def test_roles_need_a_split_column(tmp_path: Path) -> None:
    draw_folder(tmp_path, {"a": 2})
    with pytest.raises(RecordsError, match="has no split column"):
        read_records(FolderConfig(path=str(tmp_path), query="test", gallery="test"))


def test_a_path_is_enough(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "images", dict.fromkeys("abcdefghij", 3))
    records = read_records(root)
    assert len(records.split("train")) == 15
    assert len(records.split("query")) == 4
    assert not set(records.split("train").labels) & set(records.split("query").labels)


def test_a_second_reading_reads_no_file(tmp_path: Path) -> None:
    config = table(tmp_path)
    time.sleep(0.1)  # past a tick of the file system's clock
    read_records(config, digests=DigestCache(tmp_path / "d.sqlite"))
    again = DigestCache(tmp_path / "d.sqlite")
    assert len(read_records(config, digests=again)) == 6
    assert again.files_read == 0


def test_renaming_and_relabelling_keep_every_digest(tmp_path: Path) -> None:
    before = read_records(table(tmp_path))
    (tmp_path / "0.png").rename(tmp_path / "renamed.png")
    rows = [row | {"label": "q" + row["label"], "key": "k" + row["key"]} for row in ROWS]
    rows[0] |= {"path": "renamed.png"}
    config = TableConfig(path=str(write_table(tmp_path / "t.csv", rows)), label="label", query="query", gallery="spare")
    assert read_records(config).digests == before.digests


def test_one_label_in_two_domains_is_two_classes(tmp_path: Path) -> None:
    rows = [row | {"label": "x", "domain": domain} for row, domain in zip(ROWS, "abaabb", strict=True)]
    for number in range(6):
        draw(tmp_path / f"{number}.png", number)
    config = TableConfig(
        path=str(write_table(tmp_path / "t.csv", rows)), label="label", query="query", gallery="gallery"
    )
    records = read_records(config)
    assert len(set(records.classes)) == records.counts()["classes"] == 2
    assert records.counts()["distractors"] == 1  # the gallery image of domain b: the one query is of domain a


def test_a_table_that_is_mapped_is_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = FolderConfig(path=str(draw_folder(tmp_path / "images", {"a": 3, "b": 2})))
    plain = read_records(config, digests=DigestCache(tmp_path / "d.sqlite"))
    monkeypatch.setattr(records, "_MANY", 1)
    large = read_records(config, digests=DigestCache(tmp_path / "d.sqlite"))
    assert large.table.equals(plain.table)
    assert large.digests == plain.digests
    assert large.split("query").keys == plain.split("query").keys
    before = pa.total_allocated_bytes()
    again = records._mapped(plain.table, tmp_path)
    assert pa.total_allocated_bytes() == before
    assert again.equals(records._mapped(plain.table, tmp_path / "none"))
