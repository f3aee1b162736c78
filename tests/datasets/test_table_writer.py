"""Tables as they are written, read again."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from cache.errors import RecordsError
from stages.datasets import TableConfig
from stages.datasets.table import write_table

ODD = {
    "key": ["a,b", 'say "hi"', "two\nlines", "ä\u2028"],
    "path": ["/x/a.jpg", "bytes:512+9:/x/a.tar", "box:1,2,3,4:/x/a b.jpg", "parquet:0/3:image.bytes:/x/a.parquet"],
    "label": ["007", "None", " x ", "nan"],
    "domain": [None, "d", None, "d"],
}


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet", "t.jsonl"])
def test_a_table_that_was_written_is_read_as_it_was(tmp_path: Path, name: str) -> None:
    write_table(tmp_path / name, pa.table({key: pa.array(values, pa.string()) for key, values in ODD.items()}))
    source = TableConfig(path=str(tmp_path / name), label="label", strip=False).read()
    for column, written in (("key", "key"), ("uri", "path"), ("label", "label"), ("domain", "domain")):
        assert source.table[column].to_pylist() == ODD[written]


def test_a_uri_in_a_table_is_relative_to_the_tables_folder_by_its_path(tmp_path: Path) -> None:
    paths = ["box:1,2,3,4:a/../b.jpg", "bytes:0+9:shards/0.tar", "./box:odd.jpg"]
    write_table(tmp_path / "t.csv", pa.table({"path": paths, "label": ["x"] * 3}))
    uris = TableConfig(path=str(tmp_path / "t.csv"), label="label").read().table["uri"].to_pylist()
    assert uris == [f"box:1,2,3,4:{tmp_path}/b.jpg", f"bytes:0+9:{tmp_path}/shards/0.tar", f"{tmp_path}/box:odd.jpg"]


def test_a_table_of_no_known_kind_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match=r"must end in \.csv, \.tsv, \.parquet, \.jsonl"):
        write_table(tmp_path / "t.xls", pa.table({"key": ["a"]}))
