import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache.errors import RecordsError
from stages.datasets import FolderConfig, TableConfig
from tests.pictures import draw, draw_folder, write_table

ROWS = [
    {"path": "a.jpg", "key": "007", "kind": "fruit", "sort": "apple", "split": "train", "colour": "red"},
    {"path": "b.jpg", "key": "008", "kind": "fruit", "sort": "", "split": "query", "colour": ""},
    {
        "path": "sub/c.jpg",
        "key": "1e3",
        "kind": "nut",
        "sort": "line\nfeed, and comma",
        "split": "gallery",
        "colour": "1",
    },
]


def written(folder: Path, form: str) -> Path:
    path = folder / f"table.{form}"
    if form == "csv":
        return write_table(path, ROWS)
    if form == "jsonl":
        path.write_text("".join(json.dumps({k: v or None for k, v in row.items()}) + "\n" for row in ROWS))
    else:
        pq.write_table(pa.Table.from_pylist([{k: v or None for k, v in row.items()} for row in ROWS]), path)
    return path


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_table_reads_the_same_in_every_form_and_all_of_it_as_text(tmp_path: Path, form: str) -> None:
    config = TableConfig(path=str(written(tmp_path, form)), label=("kind", "sort"), attributes=("colour",))
    source = config.read()
    assert "split" in source.table.column_names
    assert source.table.select(["key", "label", "split", "attributes.colour"]).to_pydict() == {
        "key": ["007", "008", "1e3"],
        "label": ["fruit/apple", None, "nut/line\nfeed, and comma"],
        "split": ["train", "query", "gallery"],
        "attributes.colour": ["red", None, "1"],
    }
    assert source.table["uri"].to_pylist() == [str(tmp_path / name) for name in ("a.jpg", "b.jpg", "sub/c.jpg")]


def test_numbers_and_dictionaries_in_parquet_are_text_too(tmp_path: Path) -> None:
    table = pa.table({"path": ["a", "b"], "label": pa.array(["x", "x"]).dictionary_encode(), "key": [7, 8]})
    pq.write_table(table, tmp_path / "t.parquet")
    source = TableConfig(path=str(tmp_path / "t.parquet"), label="label").read()
    assert source.table["key"].to_pylist() == ["7", "8"]
    assert source.table["label"].to_pylist() == ["x", "x"]


def test_image_paths_are_relative_to_root_where_it_is_said(tmp_path: Path) -> None:
    path = written(tmp_path, "csv")
    source = TableConfig(path=str(path), label="kind", root=str(tmp_path / "elsewhere")).read()
    assert source.table["uri"][0].as_py() == str(tmp_path / "elsewhere/a.jpg")


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = written(tmp_path, "csv")
    with pytest.raises(RecordsError, match=r"no column 'colur'. Did you mean 'colour'\? It has: path, key, kind"):
        TableConfig(path=str(path), label="colur").read()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "path,label\n", "has no rows"),
        ("t.csv", "path,label,label\na,b,c\n", "column 'label' more than once"),
        ("t.csv", "path,label\na\n", "row 1 .line 2. has 1 cells"),
        ("t.csv", "path,label\n,x\n", "row 1: the column 'path', which names the image, is empty"),
        ("t.jsonl", "{not json\n", "cannot be read as jsonl"),
        ("t.parquet", "PAR1", "cannot be read as parquet"),
        ("t.xls", "", r"must end in \.csv, \.tsv, \.parquet, \.jsonl"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RecordsError, match=message):
        TableConfig(path=str(tmp_path / name), label="label").read()


@pytest.mark.parametrize("name", ["t.csv", "a folder"])
def test_a_table_that_does_not_exist_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordsError, match="does not exist"):
        TableConfig(path=str(tmp_path / name), label="label").read()


def test_the_folder_of_an_image_is_its_class(tmp_path: Path) -> None:
    draw_folder(tmp_path, {"nut": 1, "fruit/apple": 2})
    draw(tmp_path / ".hidden/x.png", 0)
    (tmp_path / "nut/notes.txt").write_text("no image")
    source = FolderConfig(path=str(tmp_path)).read()
    assert source.table["key"].to_pylist() == ["fruit/apple/0.png", "fruit/apple/1.png", "nut/0.png"]
    assert source.table["label"].to_pylist() == ["fruit/apple", "fruit/apple", "nut"]
    assert "split" not in source.table.column_names


def test_the_first_level_of_folders_can_be_the_split(tmp_path: Path) -> None:
    draw_folder(tmp_path, {"train/a": 1, "test/a": 1})
    source = FolderConfig(path=str(tmp_path), split="folder").read()
    assert source.table["split"].to_pylist() == ["test", "train"]
    assert source.table["label"].to_pylist() == ["a", "a"]


def test_a_link_to_a_parent_folder_lists_nothing_twice(tmp_path: Path) -> None:
    draw_folder(tmp_path, {"a": 2, "b": 1})
    (tmp_path / "b/loop").symlink_to(tmp_path)
    source = FolderConfig(path=str(tmp_path)).read()
    assert source.table["key"].to_pylist() == ["a/0.png", "a/1.png", "b/0.png"]


def test_a_file_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    draw_folder(tmp_path, {"a": 2})
    (tmp_path / "a/0.png").rename(tmp_path / os.fsdecode(b"a/\xff.png"))
    with pytest.raises(RecordsError, match=r"xff\.png.*is not UTF-8: rename it"):
        FolderConfig(path=str(tmp_path)).read()


def test_a_folder_without_classes_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="holds no image"):
        FolderConfig(path=str(tmp_path)).read()
    draw(tmp_path / "loose.png", 0)
    draw(tmp_path / "class/1.png", 1)
    with pytest.raises(RecordsError, match=r"1 images lie directly in .* kind = 'table'"):
        FolderConfig(path=str(tmp_path)).read()
    with pytest.raises(RecordsError, match="is not a folder"):
        FolderConfig(path=str(tmp_path / "loose.png")).read()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": "test"}, "query and gallery are named together"),
        ({"train": "train"}, "query and gallery must too"),
        ({"label": None}, "a table needs label"),
        ({"queries_per_class": 0}, "at least 1, got 0"),
        ({"test_share": 0.9, "validation_share": 0.2}, "together at most 1"),
        ({"split": "class-disjoint", "query": "a", "gallery": "b"}, "leave out train, query and gallery"),
    ],
)
def test_a_dataset_that_contradicts_itself_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TableConfig(**{"path": "t.csv", "label": "x", **arguments})  # type: ignore[arg-type]
