"""Cells with several values: what a reader makes of lists, and what judges and learns from them sees."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache.errors import RecordsError
from stages.datasets import ParquetConfig, SourceConfig, TableConfig, WebDatasetConfig
from stages.records import Records
from stages.retrieval.attribute_similarity import AttributeGrades
from stages.retrieval.protocols import ByLabelConfig
from stages.training.multilabel.kinds import AttributesConfig
from stages.training.multilabel.labels import attributes_digest, read_attributes, words_of
from stages.training.text.sentences import sentences_of
from tests.toys.attributes import with_columns
from tests.toys.training import make_records

READERS = ("jsonl", "table of parquet", "parquet", "webdataset")
LISTS = [["red", "mug"], ["café | bar"], None, []]


def written(folder: Path, reader: str, cells: Sequence[object], **names: object) -> SourceConfig:
    rows = [{"path": f"{at}.png", "label": f"of {at}", "cell": cell} for at, cell in enumerate(cells)]
    settings = {"label": "label"} | names
    if reader == "jsonl":
        (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return TableConfig(path=str(folder / "t.jsonl"), **settings)  # type: ignore[arg-type]
    if reader == "webdataset":
        with tarfile.open(folder / "s-0.tar", "w") as shard:
            for at, row in enumerate(rows):
                for name, content in ((f"{at}.png", b"image"), (f"{at}.json", json.dumps(row).encode())):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    shard.addfile(entry, io.BytesIO(content))
        return WebDatasetConfig(path=str(folder), **settings)  # type: ignore[arg-type]
    pq.write_table(pa.Table.from_pylist([row | {"image": b"image"} for row in rows]), folder / "t.parquet")
    kind = ParquetConfig if reader == "parquet" else TableConfig
    return kind(path=str(folder / "t.parquet"), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("reader", READERS)
def test_a_list_of_text_is_the_several_values_that_it_says(tmp_path: Path, reader: str) -> None:
    table = written(tmp_path, reader, LISTS, attributes=("cell",), tags="cell").read().table
    for column in ("attributes.cell", "tags"):
        cells = table[column].to_pylist()
        assert [None if cell is None else json.loads(cell) for cell in cells] == LISTS


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("cells", [[None, [1, 2]], [None, {"a": "b"}], [None, [["b"]]], [["a"], ["b", None]]])
def test_what_is_nested_otherwise_is_an_error_that_names_the_row(
    tmp_path: Path, reader: str, cells: list[object]
) -> None:
    place = {"parquet": "row 1", "webdataset": "member '1.json'"}.get(reader, "row 2")
    with pytest.raises(RecordsError, match=f"{place}: the column 'cell' holds .*a value must be text, a number or"):
        written(tmp_path, reader, cells, attributes=("cell",)).read()
    written(tmp_path, reader, cells).read()  # of no use to anybody


@pytest.mark.parametrize("reader", READERS)
def test_a_label_is_one_value(tmp_path: Path, reader: str) -> None:
    with pytest.raises(RecordsError, match=r"the column 'cell' holds .*a value must be text or a number.* attributes"):
        written(tmp_path, reader, LISTS, label="cell", attributes=("cell",)).read()


@pytest.mark.parametrize("reader", READERS)
def test_an_attribute_that_is_empty_everywhere_is_noted(tmp_path: Path, reader: str) -> None:
    assert written(tmp_path, reader, [None, ""], attributes=("cell",)).read().notes == (
        "attributes.cell is empty in all 2 rows",
    )


SAID = ["red | mug", '["mug", "red"]', ' ["red"]', "cup", "[]", None]
SETS = [{"red", "mug"}, {"red", "mug"}, {"red"}, {"cup"}, set(), set()]


def records(cells: Sequence[str | None], column: str = "attributes.c") -> Records:
    return with_columns(make_records({f"key {at}": f"of {at}" for at in range(len(cells))}), {column: cells})


def test_by_label_graded_metrics_and_heads_take_cells_apart_alike() -> None:
    given = records(SAID)
    judgement = ByLabelConfig(labels="c").judge(given, given)
    grades = AttributeGrades(given, given, {"c": 1.0})
    (attribute,) = read_attributes(
        given, AttributesConfig(several=("c",), minimum_count=1, unusable="leave_out")
    ).learned
    learned = attribute.targets(given).numpy()
    assert attribute.values == ("cup", "mug", "red")
    for row, own in enumerate(SETS):
        if own:
            assert set(judgement.relevant.rows(row).tolist()) == {at for at, other in enumerate(SETS) if own & other}
            expected = [len(own & other) / len(own | other) for other in SETS]
            np.testing.assert_allclose(grades.grades(np.array([row]))[0], expected)
            assert learned[row].tolist() == [value in own for value in attribute.values]
    assert grades.answerable.tolist() == [bool(own) for own in SETS]


def test_an_attribute_that_nobody_has_is_refused_where_labels_are_compared_by_it() -> None:
    nothing = records([None, "[]", " | "])
    with pytest.raises(RecordsError, match=r"none of 3 queries and 3 gallery images has a value of 'c'"):
        ByLabelConfig(labels="c").check(nothing, nothing)


def test_a_list_in_an_attribute_of_one_value_is_refused() -> None:
    with pytest.raises(RecordsError, match=r"'c' of 'key 1' must be one value, got the list .* attributes.several"):
        read_attributes(records(SAID), AttributesConfig())


def test_words_and_sentences_are_those_of_the_values_of_a_list() -> None:
    assert words_of(' ["Red mug", "cup"]') == ["red", "mug", "cup"]
    assert words_of("Red|mug [new]") == ["red", "mug", "[new]"]
    assert sentences_of(records(['["red", "big mug"]', "red|mug"])) == ["red big mug", "red|mug"]


def test_the_identity_of_what_is_learned_changes_where_it_is_taken_apart_otherwise_than_it_was() -> None:
    plain = records(["Red mug", None], "tags")
    described = json.dumps({"tags": ["Red mug", None]})
    assert attributes_digest(plain) == hashlib.sha256(described.encode()).hexdigest()  # as in 0.1.0
    digests = {attributes_digest(records([cell], "tags")) for cell in ('["a", "b"]', "a|b", "a b", '["a","b"]')}
    assert len(digests) == 2  # of the list of words, and of the text
