"""Labels that are missing, or written in several ways."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache.errors import RecordsError
from stages.datasets import FolderConfig, ParquetConfig, TableConfig
from stages.records import read_records
from tests.pictures import draw, draw_folder, write_table


def table(folder: Path, name: str, labels: list[object], **columns: list[object]) -> TableConfig:
    """A table with a row for each of ``labels``, in Parquet or as lines of JSON; and its images."""
    paths = [str(draw(folder / f"{at}.png", at)) for at in range(len(labels))]
    frame = {"path": paths, "label": labels, **columns}
    if name.endswith(".parquet"):
        pq.write_table(pa.table(frame), folder / name)
    else:
        rows = [dict(zip(frame, row, strict=True)) for row in zip(*frame.values(), strict=True)]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TableConfig(path=str(folder / name), label="label")


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl"])
def test_nan_is_no_label_and_whole_floats_are_whole_numbers(tmp_path: Path, name: str) -> None:
    source = table(tmp_path, name, [1.0, float("nan"), 2.0, 2.5, 1e20]).read()
    assert source.table["label"].to_pylist() == ["1", None, "2", "2.5", "1e+20"]


def test_nan_beside_the_bytes_of_images_is_no_label(tmp_path: Path) -> None:
    picture = draw(tmp_path / "0.png", 0).read_bytes()
    labels = pa.array([1, float("nan"), 2], pa.float32())
    pq.write_table(pa.table({"image": [picture] * 3, "label": labels}), tmp_path / "p.parquet")
    source = ParquetConfig(path=str(tmp_path / "p.parquet"), label="label").read()
    assert source.table["label"].to_pylist() == ["1", None, "2"]


def test_an_image_whose_label_is_nan_is_a_distractor_and_relevant_to_nothing(tmp_path: Path) -> None:
    config = table(tmp_path, "t.parquet", [1.0, 1.0, float("nan"), float("nan"), float("nan")])
    counts = read_records(config).counts()
    assert (counts["classes"], counts["distractors"]) == (1, 3)


def test_texts_that_look_like_missing_values_are_labels_that_are_noted(tmp_path: Path) -> None:
    rows = [
        {"path": str(draw(tmp_path / f"{n}.png", n)), "label": ["nan", "nan", "NA", "x", "x", ""][n]} for n in range(6)
    ]
    notes = read_records(TableConfig(path=str(write_table(tmp_path / "t.csv", rows)), label="label")).notes
    assert [note.split(",")[0] for note in notes if "missing value" in note] == [
        "1 images have the label 'NA'",
        "2 images have the label 'nan'",
    ]


def test_spaces_and_unicode_forms_make_no_other_class_unless_they_shall(tmp_path: Path) -> None:
    composed, apart = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    config = table(tmp_path, "t.jsonl", ["cat", "cat ", "\u00a0cat", composed, apart, "cat"], domain=["a ", "a"] * 3)
    records = read_records(config)
    assert records.labels == ["cat", "cat", "cat", composed, composed, "cat"]
    assert set(records.domains) == {"a"}
    (note,) = [note for note in records.notes if "Unicode form" in note]
    assert "one class: 'cat' and 'cat ' and '\\xa0cat'; 'cafe\\u0301' and 'café'. strip = false" in note
    stored = TableConfig(path=config.path, label="label", strip=False).read().table["label"].to_pylist()
    assert len(set(stored)) == 5


def test_case_inner_spaces_and_forms_of_numbers_make_classes_apart_that_are_noted(tmp_path: Path) -> None:
    records = read_records(table(tmp_path, "t.jsonl", ["Cat", "cat", "dog  house", "dog house", "1", "1.0", "1.01"]))
    assert len(set(records.labels)) == 7
    (note,) = [note for note in records.notes if "classes apart" in note]
    assert "'Cat' (1) and 'cat' (1); 'dog  house' (1) and 'dog house' (1); '1' (1) and '1.0' (1)" in note


def test_columns_are_stripped_before_they_are_joined_and_two_classes_never_join_to_one(tmp_path: Path) -> None:
    config = table(tmp_path, "t.jsonl", ["a ", "a"], sort=["b", " b"])
    joined = TableConfig(path=config.path, label=("label", "sort"))
    assert joined.read().table["label"].to_pylist() == ["a/b", "a/b"]
    both = table(tmp_path, "u.jsonl", ["a/b", "a"], sort=["c", "b/c"])
    with pytest.raises(RecordsError, match=r"two classes have the label 'a/b/c': .*'a/b', 'c'.* tells them apart"):
        TableConfig(path=both.path, label=("label", "sort")).read()


def test_folders_whose_names_differ_in_spaces_are_one_class(tmp_path: Path) -> None:
    draw_folder(tmp_path, {"cat": 1, "cat ": 1})
    source = FolderConfig(path=str(tmp_path)).read()
    assert source.table["label"].to_pylist() == ["cat", "cat"]
    assert "'cat' and 'cat '" in source.notes[0]
    assert source.table["key"].to_pylist() == ["cat/0.png", "cat /0.png"]


def test_a_path_in_the_other_unicode_form_finds_its_file(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    for number, name in enumerate((composed, apart)):
        draw(tmp_path / f"{number}{name}.png", number)
    rows = [{"path": f"0{apart}.png", "label": "x"}, {"path": f"1{composed}.png", "label": "x"}]
    records = read_records(TableConfig(path=str(write_table(tmp_path / "t.csv", rows)), label="label"))
    assert all(records.digests)
    assert records.uris == [str(tmp_path / f"0{composed}.png"), str(tmp_path / f"1{apart}.png")]
    assert records.keys == [f"0{apart}.png", f"1{composed}.png"]
