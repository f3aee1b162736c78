import time
from pathlib import Path

import pyarrow as pa
import pytest

from cache import DigestCache, ImageSource, digests


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_MANY", 1)
    monkeypatch.setattr(digests, "GROUP_ROWS", 4)


@pytest.fixture
def uris(tmp_path: Path) -> list[str]:
    """Images of their own and images in one file, one of them past its end, and one that does not exist."""
    shard = tmp_path / "shard: 100%.tar"
    shard.write_bytes(bytes(range(100)))
    paths = [tmp_path / f"é{number}\n.jpg" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 100)
    time.sleep(0.1)  # past a tick of the file system's clock: younger files are not remembered
    stretches = [ImageSource(str(shard), (at, 5), box=box).uri for at in (0, 7, 97) for box in (None, (0, 0, at, 9))]
    return [*map(str, paths), *stretches, str(tmp_path / "none.jpg")]


def _column(cache: DigestCache, uris: list[str]) -> list[tuple[bytes | None, str]]:
    digest, error = cache.column(pa.chunked_array([uris[:3], uris[3:]]))
    return list(zip(digest.to_pylist(), error.to_pylist(), strict=True))


def _parquet(folder: Path) -> Path:
    (path,) = folder.glob("d-*.parquet")
    return path


def test_a_column_has_the_digests_of_a_list_however_often_it_is_asked(tmp_path: Path, uris: list[str]) -> None:
    expected = [tuple(one) for one in DigestCache().digests(uris)]
    for _ in range(3):
        assert _column(DigestCache(tmp_path / "d.sqlite"), uris) == expected


def test_what_the_file_has_is_neither_read_nor_looked_up(tmp_path: Path, uris: list[str]) -> None:
    whole, path = uris[:9], tmp_path / "d.sqlite"
    expected, calls = _column(DigestCache(path), whole), list[int]()
    path.unlink()
    written = _parquet(tmp_path).stat().st_mtime_ns
    again = DigestCache(path)
    again.column(pa.chunked_array([whole]), on_progress=calls.append)
    assert _column(again, whole) == expected
    assert again.files_read == 0
    assert _parquet(tmp_path).stat().st_mtime_ns == written
    assert calls == [4, 8, 9]


def test_a_changed_file_is_read_again_and_so_is_every_image_in_it(tmp_path: Path, uris: list[str]) -> None:
    path = tmp_path / "d.sqlite"
    DigestCache(path).column(pa.chunked_array([uris]))
    Path(uris[2]).write_bytes(b"x" * 100)  # the same size, another mtime
    (tmp_path / "shard: 100%.tar").write_bytes(bytes(range(1, 101)))
    time.sleep(0.1)
    cache = DigestCache(path)
    assert _column(cache, uris) == [tuple(one) for one in DigestCache().digests(uris)]
    assert cache.files_read == 1 + 4
    path.unlink()
    again = DigestCache(path)
    again.column(pa.chunked_array([uris]))
    assert again.files_read == 0


def test_other_rows_are_taken_from_the_other_file(tmp_path: Path, uris: list[str]) -> None:
    path = tmp_path / "d.sqlite"
    DigestCache(path).column(pa.chunked_array([uris]))
    for other in (uris[:6], [*uris, uris[0]], [uris[0], *uris[2:]], uris):
        cache = DigestCache(path)
        assert _column(cache, other) == [tuple(one) for one in DigestCache().digests(other)]
        assert cache.files_read == 0


@pytest.mark.parametrize("damage", ["cut", "flipped", "text"])
def test_a_damaged_file_is_as_none(tmp_path: Path, uris: list[str], damage: str) -> None:
    cache = DigestCache(tmp_path / "d.sqlite")
    expected = _column(cache, uris)
    old = _parquet(tmp_path).read_bytes()
    place = old.index(expected[0][0] or b"")
    changed = {"cut": old[:-9], "flipped": old[:place] + bytes([old[place] ^ 1]) + old[place + 1 :], "text": b"no"}
    _parquet(tmp_path).write_bytes(changed[damage])
    assert _column(cache, uris) == expected


def test_the_same_names_in_another_folder_are_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(name.encode())
    time.sleep(0.1)
    for name in ("one", "other"):
        monkeypatch.chdir(tmp_path / name)
        assert _column(DigestCache(tmp_path / "d.sqlite"), ["a.jpg"]) == [
            tuple(one) for one in DigestCache().digests(["a.jpg"])
        ]
