"""Images in Parquet files: as Hugging Face writes them, or as plain bytes in a column."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache import digest_bytes
from cache.errors import RecordsError
from stages.datasets import ParquetConfig
from stages.records import read_records

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def images(*contents: bytes | None, paths: Sequence[str | None] | None = None) -> pa.Array:
    names = [f"{content!r}.jpg" for content in contents] if paths is None else paths
    return pa.array([{"bytes": c, "path": p} for c, p in zip(contents, names, strict=True)], STRUCT)


def write(
    path: Path, columns: Mapping[str, Any], classes: Mapping[str, Sequence[str]] | None = None, rows: int = 2
) -> Path:
    """A Parquet file as ``Dataset.to_parquet`` of Hugging Face leaves it: names of classes in the metadata."""
    table = pa.table(dict(columns))
    if classes is not None:
        features: dict[str, Any] = {"image": {"_type": "Image"}}
        features |= {name: {"names": list(names), "_type": "ClassLabel"} for name, names in classes.items()}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows)
    return path


def config(path: Path, **changes: object) -> ParquetConfig:
    return ParquetConfig(**{"path": str(path), "label": "label"} | changes)  # type: ignore[arg-type]


def columns(path: Path, **changes: object) -> dict[str, list[str | None]]:
    table: dict[str, list[str | None]] = config(path, **changes).read().table.to_pydict()
    return table


def test_classes_of_hugging_face_have_their_names(tmp_path: Path) -> None:
    labels = {"label": [2, 0, -1, None, 1], "kind": [0, 0, 0, 0, 0], "size": [7, 8, 9, 10, 11]}
    classes = {"label": ["apple", "pear", "nut"], "kind": ["fruit"]}
    write(tmp_path / "t.parquet", {"image": images(b"a", b"b", b"c", b"d", b"e"), **labels}, classes)
    rows = columns(tmp_path / "t.parquet", label=("kind", "label"), attributes=("size", "label"))
    assert rows["label"] == ["fruit/nut", "fruit/apple", None, None, "fruit/pear"]
    assert rows["attributes.label"] == ["nut", "apple", None, None, "pear"]
    assert rows["attributes.size"] == ["7", "8", "9", "10", "11"]
    records = read_records(config(tmp_path / "t.parquet"))
    assert records.digests == [digest_bytes(content) for content in (b"a", b"b", b"c", b"d", b"e")]


def test_without_metadata_a_class_is_its_number(tmp_path: Path) -> None:
    write(tmp_path / "t.parquet", {"photo": pa.array([b"a", b"b"], pa.large_binary()), "label": [2, 0]})
    rows = columns(tmp_path, image="photo")
    assert rows["label"] == ["2", "0"]
    assert rows["key"] == ["t/0", "t/1"]
    assert read_records(config(tmp_path, image="photo")).digests == [digest_bytes(b"a"), digest_bytes(b"b")]


@pytest.mark.parametrize("metadata", ["{", "[]", '{"info": 1}', '{"info": {"features": {"label": 3}}}'])
def test_metadata_that_is_not_hugging_faces_is_passed_over(tmp_path: Path, metadata: str) -> None:
    table = pa.table({"image": images(b"a"), "label": [1]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "t.parquet")
    assert columns(tmp_path)["label"] == ["1"]


@pytest.mark.parametrize(
    ("paths", "keys"),
    [
        (["x.jpg", "y.jpg", "z.jpg"], ["x.jpg", "y.jpg", "z.jpg"]),
        (["x.jpg", "y.jpg", "x.jpg"], ["a/0", "a/1", "b/c/0"]),
        (["x.jpg", None, "z.jpg"], ["a/0", "a/1", "b/c/0"]),
        (["x.jpg", "", "z.jpg"], ["a/0", "a/1", "b/c/0"]),
    ],
)
def test_the_key_is_the_path_of_the_image_where_each_has_its_own(
    tmp_path: Path, paths: list[str | None], keys: list[str]
) -> None:
    write(tmp_path / "a.parquet", {"image": images(b"1", b"2", paths=paths[:2]), "label": ["p", "q"], "id": [7, 8]})
    write(tmp_path / "b/c.parquet", {"image": images(b"3", paths=paths[2:]), "label": ["r"], "id": [7]})
    rows = columns(tmp_path)
    assert rows["key"] == keys
    assert rows["label"] == ["p", "q", "r"]
    message = r"a\.parquet, row 0 and .*b/c\.parquet, row 0 have the same key '7'"
    with pytest.raises(RecordsError, match=message):
        read_records(config(tmp_path, key="id"))


def test_the_split_is_a_column_or_the_name_of_the_file(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002-2a1df75c6bce91ab", "validation-00000-of-00001", "test"):
        write(tmp_path / f"data/{name}.parquet", {"image": images(b"a"), "label": ["x"], "split": ["s"]})
    assert columns(tmp_path)["split"] == ["s"] * 4
    by_file = columns(tmp_path, split="file")
    assert by_file["split"] == ["test", "train", "train", "validation"]
    assert columns(Path(f"{tmp_path}/**/train-*.parquet"), split="file")["uri"] == by_file["uri"][1:3]
    assert "split" not in columns(tmp_path, split="class-disjoint")
    plain = write(tmp_path / "other/train.parquet", {"image": images(b"a"), "label": ["x"]})
    with pytest.raises(RecordsError, match=r"has no split column; name it: .*'file' for the names of the files"):
        read_records(config(plain, query="train", gallery="train"))


def test_rows_without_bytes_are_refused_or_recorded(tmp_path: Path) -> None:
    contents = (b"a", None, b"c", None, b"e")
    write(tmp_path / "t.parquet", {"image": images(*contents), "label": list("xxxxx")})
    message = r"t\.parquet, row 1 \(key .*\) has no image: cannot be read: the cell is empty.*; nor have 1 rows more"
    with pytest.raises(RecordsError, match=message):
        read_records(config(tmp_path))
    records = read_records(config(tmp_path, missing_images="record"))
    assert records.digests == [digest_bytes(content) if content else b"" for content in contents]
    assert "has no bytes in this row" in records.table["problem"][3].as_py()


def test_a_row_without_a_label_is_refused_where_it_is_needed(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", {"image": images(b"a"), "label": [None]}, {"label": ["x"]})
    write(tmp_path / "test.parquet", {"image": images(b"b", b"c"), "label": [0, -1]}, {"label": ["x"]})
    with pytest.raises(RecordsError, match=r"test\.parquet, row 1 \(key .*\) is in query .* and has no label"):
        read_records(config(tmp_path, split="file", query="test", gallery="test"))


def test_reading_the_rows_reads_no_byte_of_an_image(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.parquet", {"image": images(*[b"%03d" % n * 99 for n in range(9)]), "label": list("abcabcabc")}
    )
    before = columns(path)
    described = pq.read_metadata(path)
    for group in range(described.num_row_groups):
        chunk = described.row_group(group).column(0)
        assert chunk.path_in_schema == "image.bytes"
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        with open(path, "r+b") as file:
            file.seek(start)
            file.write(b"\xff" * chunk.total_compressed_size)
    assert columns(path) == before
    with pytest.raises(RecordsError, match=r"row 0 .* has no image: cannot be read: .* cannot be read as Parquet"):
        read_records(config(path))


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        ({"image": images(), "label": pa.array([], pa.string())}, {}, "has no rows"),
        ({"photo": images(b"a"), "label": ["x"]}, {"image": "foto"}, "no column 'foto'. Did you mean 'photo'"),
        ({"photo": images(b"a"), "label": ["x"]}, {}, r"t\.parquet has no column 'image'"),
        ({"image": images(b"a"), "label": ["x"]}, {"attributes": ("lable",)}, "Did you mean 'label'"),
        ({"image": ["a.jpg"], "label": ["x"]}, {}, "holds string, not the bytes of images. .* kind = 'table'"),
        ({"image": [{"path": "a.jpg"}], "label": ["x"]}, {}, "without a field 'bytes' of bytes"),
        (
            {"image": images(b"a"), "label": [["x"]]},
            {},
            "row 0: the column 'label' holds .'x'.; a value must be text or a number. Several",
        ),
        ({"image": images(b"a"), "label": [b"x"]}, {}, "the column 'label' holds binary"),
    ],
)
def test_a_wrong_table_says_what_is_wrong(
    tmp_path: Path, table: dict[str, Any], changes: dict[str, object], message: str
) -> None:
    write(tmp_path / "t.parquet", table)
    with pytest.raises(RecordsError, match=message):
        config(tmp_path, **changes).read()


def test_a_class_past_the_names_is_refused_by_its_row(tmp_path: Path) -> None:
    write(tmp_path / "t.parquet", {"image": images(b"a", b"b"), "label": [1, 2]}, {"label": ["x", "y"]})
    with pytest.raises(RecordsError, match=r"row 1: the column 'label' has class 2, but its metadata names 2 classes"):
        config(tmp_path).read()


@pytest.mark.parametrize("length", [0, 3, 50, -1, -9])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "t.parquet", {"image": images(b"a"), "label": ["x"]})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RecordsError, match=r"t\.parquet cannot be read as Parquet \(is it cut off\?\)"):
        config(tmp_path).read()


def test_files_that_differ_in_their_columns_are_refused_by_the_file(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"image": images(b"a"), "label": ["x"]})
    write(tmp_path / "b.parquet", {"image": images(b"b"), "name": ["x"]})
    with pytest.raises(RecordsError, match=r"b\.parquet has no column 'label'"):
        config(tmp_path).read()
    write(tmp_path / "b.parquet", {"image": images(b"b"), "label": [0]}, {"label": ["y"]})
    assert columns(tmp_path)["label"] == ["x", "y"]
