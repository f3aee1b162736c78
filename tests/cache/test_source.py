"""URIs taken apart and put together; bytes from files, from stretches of files, from cells of Parquet tables."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cache import DigestCache, ImageSource, digest_bytes, parse_source
from cache import source as reading

PATHS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    st.builds(
        "".join,
        st.lists(
            st.sampled_from(["./", "box:", "bytes:", "parquet:", "1,2,3,4", "0/1", "3+4", ":", "\n", "é", " "]),
            min_size=1,
        ),
    ),
)
NUMBERS = st.integers(0, 10**18 - 1)
COLUMNS = st.text(st.characters(codec="utf-8"), min_size=1)
BOXES = st.tuples(*[st.integers(-(10**6), 10**6)] * 4)


@given(
    PATHS,
    st.one_of(
        st.just((None, None)),
        st.tuples(st.tuples(NUMBERS, NUMBERS), st.none()),
        st.tuples(st.none(), st.tuples(NUMBERS, NUMBERS, COLUMNS)),
    ),
    st.none() | BOXES,
)
@example("box:1,2,3,4:a.jpg", (None, None), None)
@example("./box:1,2,3,4:a.jpg", (None, None), (1, 2, 3, 4))
@example("a:b\nc.parquet", (None, (0, 1, "im:age%3A.bytes")), None)
def test_a_source_comes_back_from_its_uri(
    path: str,
    place: tuple[tuple[int, int] | None, tuple[int, int, str] | None],
    box: tuple[int, int, int, int] | None,
) -> None:
    source = ImageSource(path, *place, box)
    assert parse_source(source.uri) == source


@given(PATHS)
def test_every_text_but_the_empty_one_is_a_uri_and_has_one_spelling(text: str) -> None:
    assert parse_source(parse_source(text).uri) == parse_source(text)
    with pytest.raises(ValueError, match="must not be empty"):
        parse_source("")


def test_uris_are_written_as_the_page_says() -> None:
    assert ImageSource("photos/a.jpg").uri == "photos/a.jpg"
    assert ImageSource("shards/00000.tar", (512, 18230)).uri == "bytes:512+18230:shards/00000.tar"
    cell = ImageSource("data/train.parquet", cell=(3, 17, "image.bytes"), box=(10, 20, 110, 220))
    assert cell.uri == "box:10,20,110,220:parquet:3/17:image.bytes:data/train.parquet"


@pytest.mark.parametrize("text", ["box:1,2,3:a", "bytes:12:a", "bytes:-1+2:a", "parquet:1:c:a", "bytes:٣+٤:a"])
def test_what_only_looks_like_a_place_is_a_path(text: str) -> None:
    assert parse_source(text) == ImageSource(text)


def test_a_stretch_is_read_and_one_that_is_cut_off_says_by_how_much(tmp_path: Path) -> None:
    path = tmp_path / "odd: name\n.tar"
    path.write_bytes(bytes(range(200)))
    assert ImageSource(str(path), (10, 5)).read() == bytes([10, 11, 12, 13, 14])
    assert ImageSource(str(path), (10, 0)).read() == b""
    assert ImageSource(str(path)).read() == bytes(range(200))
    with pytest.raises(OSError, match="ends 50 bytes too early: it is cut off, or was changed"):
        ImageSource(str(path), (190, 60)).read()
    with pytest.raises(FileNotFoundError):
        ImageSource(str(tmp_path / "gone"), (0, 1)).read()


def test_a_digest_is_of_the_bytes_and_of_the_box_where_there_is_one() -> None:
    whole, box = ImageSource("a.jpg"), ImageSource("a.jpg", box=(1, 2, 30, 40))
    assert whole.digest(b"jpeg") == ImageSource("b.tar", (1, 4)).digest(b"jpeg") == digest_bytes(b"jpeg")
    assert box.digest(b"jpeg") == digest_bytes(digest_bytes(b"jpeg") + b"box (1, 2, 30, 40)")
    assert len({source.digest(b"jpeg") for source in (whole, box, box._replace(box=(1, 2, 30, 41)))}) == 3


def cells(count: int, size: int = 40) -> list[bytes]:
    rng = np.random.default_rng(0)
    return [rng.bytes(int(rng.integers(1, 2 * size))) for _ in range(count)]


def write(path: Path, contents: list[bytes | None], rows: int = 10, **options: object) -> str:
    """A table with the contents three times over: plain, as Hugging Face's struct, and a struct deeper."""
    structs = [{"bytes": content, "path": f"{at}.jpg"} for at, content in enumerate(contents)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "plain:column": pa.array(contents, pa.large_binary()),
            "image": pa.array(structs, kind),
            "deep": pa.array([{"inner": struct} for struct in structs], pa.struct([("inner", kind)])),
        }
    )
    pq.write_table(table, path, row_group_size=rows, **options)
    return str(path)


@pytest.mark.parametrize("column", ["plain:column", "image.bytes", "deep.inner.bytes"])
def test_a_cell_is_read_in_any_order_and_kind_of_column(tmp_path: Path, column: str) -> None:
    contents = cells(57)
    path = write(tmp_path / "t.parquet", [*contents])
    for at in np.random.default_rng(1).permutation(57):
        source = ImageSource(path, cell=(int(at) // 10, int(at) % 10, column))
        assert parse_source(source.uri).read() == contents[at]


def test_large_row_groups_are_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PIECE_BYTES", 200_000)
    monkeypatch.setattr(reading, "_KEPT_BYTES", 800_000)
    contents = cells(300, 20_000)
    path = write(tmp_path / "t.parquet", [*contents], rows=300, write_batch_size=8)
    rows = [*range(300), 299, 0, 150, 7, *range(140, 200)]
    for row in rows:
        assert ImageSource(path, cell=(0, row, "image.bytes")).read() == contents[row]
        column = reading._column(path, "image.bytes", ImageSource(path).version().text)
        assert sum(piece.nbytes for piece in column._pieces.values()) < 1_100_000


def test_one_row_group_is_gone_through_once_when_rows_come_in_order(tmp_path: Path) -> None:
    passes: list[object] = []
    path = write(tmp_path / "t.parquet", [*cells(900)], rows=300)
    for at in range(900):
        ImageSource(path, cell=(at // 300, at % 300, "image.bytes")).read()
        passes.append(reading._column(path, "image.bytes", ImageSource(path).version().text)._batches)
    assert sum(one is not other for one, other in pairwise(passes)) == 2


def test_many_threads_read_their_own_cells(tmp_path: Path) -> None:
    contents = cells(400, 3000)
    files = [write(tmp_path / f"{n}.parquet", [*contents[n::8]], rows=13) for n in range(8)]
    sources = [ImageSource(files[at % 8], cell=(at // 8 // 13, at // 8 % 13, "image.bytes")) for at in range(400)]
    drawn = np.random.default_rng(2).integers(0, 400, 3000)
    with ThreadPoolExecutor(16) as pool:
        for at, content in zip(drawn, pool.map(lambda at: sources[at].read(), drawn), strict=True):
            assert content == contents[at]


@pytest.mark.parametrize(
    ("group", "row", "column", "message"),
    [
        (0, 3, "image.bytes", "the cell is empty: column image.bytes has no bytes in this row"),
        (0, 10, "image.bytes", "has 10 rows in row group 0, and none numbered 10: it was changed"),
        (9, 0, "image.bytes", "cannot be read as Parquet: it has 2 row groups, and none numbered 9"),
        (0, 0, "photo", "it has no column photo, only plain:column, image.bytes, image.path"),
        (0, 0, "image.path", "column image.path holds str, not bytes"),
    ],
)
def test_a_cell_that_is_not_there_says_what_is(tmp_path: Path, group: int, row: int, column: str, message: str) -> None:
    contents: list[bytes | None] = [*cells(12)]
    contents[3] = None
    path = write(tmp_path / "t.parquet", contents)
    with pytest.raises(OSError, match=message):
        ImageSource(path, cell=(group, row, column)).read()
    assert ImageSource(path, cell=(0, 2, "image.bytes")).read() == contents[2]


def test_a_changed_or_cut_table_is_not_read_from_what_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    source = ImageSource(write(path, [b"one", b"two"]), cell=(0, 0, "image.bytes"))
    assert source.read() == b"one"
    write(path, [b"ONE", b"TWO"])
    os.utime(path, ns=(10**18, 10**18))
    assert source.read() == b"ONE"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(OSError, match="cannot be read as Parquet"):
        source.read()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        source.read()


def test_a_damaged_page_is_an_error_of_its_cell_alone(tmp_path: Path) -> None:
    contents = cells(20)
    path = write(tmp_path / "t.parquet", [*contents], rows=10, use_dictionary=False)
    first = pq.read_metadata(path).row_group(1).column(1).data_page_offset
    with open(path, "r+b") as file:
        file.seek(first)
        file.write(b"\xff" * 60)
    with pytest.raises(OSError, match="cannot be read as Parquet"):
        ImageSource(path, cell=(1, 5, "image.bytes")).read()
    assert ImageSource(path, cell=(0, 5, "image.bytes")).read() == contents[5]


def test_a_path_that_is_no_regular_file_is_an_error_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.jpg"))
        (tmp_path / "folder.jpg").mkdir()
        (tmp_path / "link.jpg").symlink_to("/dev/zero")
        kinds = {"pipe.jpg": "a pipe", "socket.jpg": "a socket", "folder.jpg": "a folder", "link.jpg": "a device"}
        for name, kind in kinds.items():
            path = str(tmp_path / name)
            for source in (
                ImageSource(path),
                ImageSource(path, stretch=(0, 9)),
                ImageSource(path, cell=(0, 0, "image")),
                ImageSource(path, box=(0, 0, 9, 9)),
            ):
                for call in (source.read, source.version):
                    with pytest.raises(OSError, match=f"it is {kind}, not a file"):
                        call()
                (digest,) = DigestCache().digests([source.uri])
                assert digest == (None, f"cannot be read: it is {kind}, not a file")
