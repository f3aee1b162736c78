"""Tables as people have them: other separators and encodings, quotes that do not close, rows that are too short."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import ImageSource
from cache.errors import RecordsError
from stages.datasets import TableConfig
from stages.datasets.table import WRITERS, write_table
from stages.datasets.table import _all_below as all_below
from stages.datasets.table import _below as below
from stages.records.guess import guess_dataset
from tests.pictures import draw

LINES = ["path,label", *(f"{number}.png,c{number % 7}" for number in range(48))]


def read(path: Path, content: str | bytes, **options: object) -> pa.Table:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return TableConfig(path=str(path), label="label", **options).read().table  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
@pytest.mark.parametrize("row", [1, 6, 48])
def test_a_quote_that_does_not_close_is_an_error_that_names_its_row(tmp_path: Path, name: str, row: int) -> None:
    lines = [*LINES]
    lines[row] = f'"{lines[row]}'
    content = "\n".join(lines).replace(",", "\t" if name.endswith("tsv") else ",")
    with pytest.raises(RecordsError, match=rf"{name}, row {row} \(line {row + 1}\): a quote opens .* quoted = false"):
        read(tmp_path / name, content)
    assert read(tmp_path / name, content, quoted=False)["key"][row - 1].as_py().startswith('"')


def test_a_quote_that_closes_in_another_quoted_cell_is_an_error_too(tmp_path: Path) -> None:
    lines = [*LINES]
    lines[6], lines[20] = f'"{lines[6]}', '"19.png",c5'
    with pytest.raises(RecordsError, match=r"row 6 \(line 7\): a quote opens"):
        read(tmp_path / "t.csv", "\n".join(lines))


def test_two_quotes_that_hide_rows_between_them_are_noted(tmp_path: Path) -> None:
    lines = [*LINES]
    lines[6], lines[9] = '5.png,"c5', '8.png,c1"'
    (tmp_path / "t.csv").write_text("\n".join(lines))
    source = TableConfig(path=str(tmp_path / "t.csv"), label="label").read()
    assert len(source.table) == 45  # as the file says, by its quotes
    assert "row 6 spans lines 7 to 10: a cell of it" in source.notes[0]


def test_quotes_within_cells_and_line_breaks_in_quotes_are_as_they_were(tmp_path: Path) -> None:
    table = read(tmp_path / "t.csv", 'path,label\na.png,5" screen\n\n"b.png","say ""hi"",\nplease"\r\nc.png,x')
    assert table["label"].to_pylist() == ['5" screen', 'say "hi",\nplease', "x"]


@pytest.mark.parametrize("cells", ["5.png", "5.png,c,d"])
def test_a_row_of_too_few_or_too_many_cells_is_named(tmp_path: Path, cells: str) -> None:
    lines = [*LINES]
    lines[30] = cells
    count = cells.count(",") + 1
    with pytest.raises(RecordsError, match=rf"row 30 \(line 31\) has {count} cells; the first line names 2 columns"):
        read(tmp_path / "t.csv", "\n".join(lines))


@pytest.mark.parametrize(("name", "separator"), [("t.csv", ";"), ("t.csv", "\t"), ("t.csv", "|"), ("t.tsv", ",")])
def test_another_separator_is_detected_and_said(tmp_path: Path, name: str, separator: str) -> None:
    content = "\n".join(LINES).replace(",", separator)
    assert read(tmp_path / name, content)["key"].to_pylist() == [f"{number}.png" for number in range(48)]
    assert f"separated by {separator!r}" in TableConfig(path=str(tmp_path / name), label="label").read().notes[0]


def test_the_usual_separator_wins_where_it_serves_and_another_can_be_named(tmp_path: Path) -> None:
    content = "path,label,note\na.png,x,1;2;3\n"
    assert read(tmp_path / "t.csv", content)["label"].to_pylist() == ["x"]
    assert read(tmp_path / "t.csv", "path~label\na,b;c.png~x\n", delimiter="~")["key"].to_pylist() == ["a,b;c.png"]
    with pytest.raises(ValueError, match="delimiter is one character"):
        TableConfig(path="t.csv", label="label", delimiter=";;")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_is_read_in_any_of_its_encodings(tmp_path: Path, name: str, encoding: str) -> None:
    rows = ["path,label", "ä.png,Ωmega"] if name == "t.csv" else ['{"path": "ä.png", "label": "Ωmega"}']
    table = read(tmp_path / name, ("\n".join(rows) + "\n").encode(encoding))
    assert table.select(["key", "label"]).to_pylist() == [{"key": "ä.png", "label": "Ωmega"}]


def test_another_encoding_is_an_error_that_names_the_row_and_the_option(tmp_path: Path) -> None:
    content = "path,label\na.png,x\nb.png,Müller\n".encode("latin-1")
    with pytest.raises(RecordsError, match=r"row 2 \(line 3\) is not utf-8: .* encoding = 'cp1252'"):
        read(tmp_path / "t.csv", content)
    assert read(tmp_path / "t.csv", content, encoding="latin-1")["label"].to_pylist() == ["x", "Müller"]
    with pytest.raises(ValueError, match=r"encoding names an encoding of Python, .* got 'latin-99'"):
        TableConfig(path="t.csv", label="label", encoding="latin-99")


def test_init_takes_a_table_that_is_not_utf8_for_windows_and_says_so(tmp_path: Path) -> None:
    lines = [
        "path;label",
        *(f"{draw(tmp_path / f'{number}.png', number).name};Müller{number // 4}" for number in range(8)),
    ]
    (tmp_path / "t.csv").write_bytes("\r\n".join(lines).encode("cp1252"))
    guess, records = guess_dataset(tmp_path / "t.csv")
    assert guess.keys["encoding"] == "cp1252"
    assert "'Müller0' reads as it should" in guess.remarks["encoding"]
    assert set(records.labels) == {"Müller0", "Müller1"}


def test_a_line_of_json_ends_with_a_line_feed_alone_and_a_bad_one_is_named(tmp_path: Path) -> None:
    label = "a\u2028b\u2029c\u0085d\u000be\u000cf"
    rows = [{"path": "a.png", "label": label}, {"path": "b.png", "label": "x"}]
    content = "\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert read(tmp_path / "t.jsonl", content)["label"].to_pylist() == [label, "x"]
    for line, problem in (
        ('{"path": "c.png"', "Expecting"),
        ("[1]", "must be an object"),
        ('{"a": 1, "a": 2}', "'a' more"),
    ):
        with pytest.raises(RecordsError, match=rf"line 3: .*{problem}"):
            read(tmp_path / "t.jsonl", f"{content}\n{line}\n")


def test_a_column_that_parquet_has_twice_is_refused(tmp_path: Path) -> None:
    pq.write_table(
        pa.Table.from_arrays([pa.array(["a"])] * 3, names=["path", "label", "label"]), tmp_path / "t.parquet"
    )
    with pytest.raises(RecordsError, match="the column 'label' more than once"):
        TableConfig(path=str(tmp_path / "t.parquet"), label="label").read()


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12) | st.text(
    st.sampled_from("\n\r\t\"',;\\ a\u2028\u0085\ufeff"), min_size=1, max_size=8
)


@settings(max_examples=60, deadline=None)
@given(names=st.lists(NAMES.filter(lambda name: name.strip("/.")), min_size=1, max_size=5, unique=True), label=NAMES)
def test_every_name_that_a_file_can_have_is_read_as_it_was_written(names: list[str], label: str) -> None:
    uris = [ImageSource(f"/x/{name.strip('/')}").uri for name in names]
    table = pa.table({"key": names, "path": uris, "label": [label] * len(names), "domain": [None, *names[1:]]})
    with tempfile.TemporaryDirectory() as folder:
        for suffix in WRITERS:
            write_table(Path(folder) / f"t{suffix}", table)
            config = TableConfig(path=f"{folder}/t{suffix}", label="label", strip=False)
            source = config.read().table
            assert source["key"].to_pylist() == names
            assert source["label"].to_pylist() == [label] * len(names)
            assert source["domain"].to_pylist() == [None, *names[1:]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=30), st.sampled_from(["\n", "\r\n", "\r"]))
def test_what_other_writers_of_csv_write_is_read_row_by_row(rows: list[tuple[str, str]], ending: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator=ending).writerows([("path", "label"), *rows])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "t.csv").write_bytes(text.getvalue().encode())
        table = TableConfig(path=f"{folder}/t.csv", label="label", strip=False).read().table
    assert list(zip(table["key"].to_pylist(), table["label"].to_pylist(), strict=True)) == rows


@given(
    st.sampled_from([".", "..", "/", "a", "a/b/../c", "./a//", "bytes:1+2:x", "./box:1,2,3,4:x", "/r:s"]),
    st.lists(
        st.one_of(
            st.text("ab./:\n é0", min_size=1),
            st.sampled_from(["bytes:0+12:s/0.tar", "bytes:007+5:s.tar", "parquet:0/1:c:d.pq", "box:1,2,3,4:a.jpg"]),
        ),
        max_size=5,
    ),
)  # fmt: skip
def test_the_paths_of_a_table_are_seen_from_the_root_whether_one_by_one_or_all_at_once(
    root: str, images: list[str]
) -> None:
    column = pa.chunked_array([pa.array(images, pa.string())])
    assert all_below(str(Path(root)), column).to_pylist() == [below(str(Path(root)), image) for image in images]
