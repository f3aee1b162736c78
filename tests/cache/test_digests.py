import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import overload

import pytest

from cache import DigestCache, ImageSource, digest_bytes


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = []
    for number in range(5):
        path = tmp_path / f"é{number}\n.jpg"
        path.write_bytes(bytes([number]) * 100)
        paths.append(str(path))
    time.sleep(0.1)  # past a tick of the file system's clock: younger files are not remembered
    return paths


def test_unchanged_files_are_read_once_even_by_another_process_to_come(tmp_path: Path, files: list[str]) -> None:
    first, second = DigestCache(tmp_path / "d.sqlite"), DigestCache(tmp_path / "d.sqlite")
    wanted = [digest_bytes(bytes([number]) * 100) for number in range(5)]
    assert [digests.digest for digests in first.digests(files)] == wanted
    assert [digests.digest for digests in second.digests(files)] == wanted
    assert (first.files_read, second.files_read) == (5, 0)


def test_a_changed_file_is_read_again(tmp_path: Path, files: list[str]) -> None:
    cache = DigestCache(tmp_path / "d.sqlite")
    cache.digests(files)
    Path(files[2]).write_bytes(b"x" * 100)  # the same size, another mtime
    assert cache.digests(files)[2].digest == digest_bytes(b"x" * 100)
    assert cache.files_read == 6


def test_a_file_younger_than_a_tick_of_the_clock_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "young.jpg"
    path.write_bytes(b"a")
    os.utime(path, ns=(4 * 10**18, 4 * 10**18))  # the future: a clock that runs ahead
    cache = DigestCache(tmp_path / "d.sqlite")
    for _ in range(2):
        cache.digests([str(path)])
    assert cache.files_read == 2


def test_what_cannot_be_read_says_why_and_holds_nobody_up(tmp_path: Path, files: list[str]) -> None:
    digests = DigestCache().digests([str(tmp_path / "absent"), str(tmp_path), files[0]])
    assert [entry.digest is None for entry in digests] == [True, True, False]
    assert "No such file" in digests[0].error
    assert "it is a folder" in digests[1].error


def test_swapped_files_of_equal_size_and_time_are_told_apart(tmp_path: Path) -> None:
    one, other = tmp_path / "one.bmp", tmp_path / "other.bmp"
    for path, content in ((one, b"1"), (other, b"2")):
        path.write_bytes(content)
        os.utime(path, ns=(10**18, 10**18 + 1))
    time.sleep(0.1)  # past a tick of the file system's clock
    cache = DigestCache(tmp_path / "d.sqlite")
    cache.digests([str(one), str(other)])
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    again = cache.digests([str(one), str(other)])
    assert [entry.digest for entry in again] == [digest_bytes(b"2"), digest_bytes(b"1")]


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE files (name TEXT, size INTEGER)")


def torn(path: Path) -> None:
    """Pages past the first are overwritten: found only when they are read."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE files (path BLOB PRIMARY KEY, status TEXT, changed_ns INTEGER, digest BLOB)")
        rows = [(f"/{number}".encode(), "", 0, bytes(32)) for number in range(2000)]
        connection.executemany("INSERT INTO files VALUES (?, ?, ?, ?)", rows)
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


def text(path: Path) -> None:
    path.write_text("this is no database, and it is longer than its header would be")


@pytest.mark.parametrize("damage", [text, foreign, torn])
def test_a_file_that_is_damaged_or_of_others_is_begun_anew_with_a_note(
    tmp_path: Path, files: list[str], damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "d.sqlite"
    damage(path)
    time.sleep(0.1)  # past a tick of the file system's clock
    cache = DigestCache(path)
    digests = cache.digests(files)
    assert digests[0].digest == digest_bytes(bytes(100))
    assert [f"{path} is damaged or not a file of digests" in note for note in cache.notes] == [True]
    again = DigestCache(path)
    assert again.digests(files) == digests
    assert (again.files_read, again.notes) == (0, [])


def test_a_flipped_bit_of_what_is_remembered_is_noticed_and_the_file_read_again(
    tmp_path: Path, files: list[str]
) -> None:
    path, wanted = tmp_path / "d.sqlite", digest_bytes(bytes(100))
    DigestCache(path).digests(files[:1])
    whole = path.read_bytes()
    first = whole.index(wanted)
    for place in range(first, first + 32 + 4):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        cache = DigestCache(path)
        assert cache.digests(files[:1])[0].digest == wanted
        assert cache.files_read == 1


def test_what_an_image_was_is_known_when_it_is_gone(tmp_path: Path, files: list[str]) -> None:
    time.sleep(0.1)  # past a tick of the file system's clock
    cache = DigestCache(tmp_path / "d.sqlite")
    digest = cache.digests(files[:1])[0].digest
    Path(files[0]).unlink()
    assert cache.digests(files[:1])[0].digest is None
    assert cache.remembered([files[0], "never seen"]) == [digest, None]


def test_images_in_one_file_are_remembered_each_by_its_place_and_box(tmp_path: Path) -> None:
    shard = tmp_path / "s.tar"
    shard.write_bytes(bytes(range(100)))
    time.sleep(0.1)  # past a tick of the file system's clock
    uris = [ImageSource(str(shard), (at, 5), box=box).uri for at in (0, 7, 95, 97) for box in (None, (0, 0, at, 9))]
    cache = DigestCache(tmp_path / "d.sqlite")
    digests = cache.digests([*uris, str(shard)])
    assert digests[0].digest == digest_bytes(bytes(range(5)))
    assert digests[3].digest == digest_bytes(digest_bytes(bytes(range(7, 12))) + b"box (0, 0, 7, 9)")
    assert digests[8].digest == digest_bytes(bytes(range(100)))
    assert "ends 2 bytes too early" in digests[6].error
    assert cache.digests([*uris, str(shard)]) == digests
    assert cache.files_read == 7
    shard.write_bytes(bytes(range(1, 101)))
    assert cache.digests(uris[:1])[0].digest == digest_bytes(bytes(range(1, 6)))


def test_a_relative_and_an_absolute_uri_of_one_image_are_one_entry(
    tmp_path: Path, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DigestCache(tmp_path / "d.sqlite")
    cache.digests([ImageSource(files[0], (3, 9)).uri])
    monkeypatch.chdir(tmp_path)
    cache.digests([ImageSource(Path(files[0]).name, (3, 9)).uri])
    assert cache.files_read == 1


class Counted(Sequence[str]):
    """URIs of files that do not exist, and how many of them have been asked for."""

    given = 0

    def __len__(self) -> int:
        return 20_000

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        if isinstance(place, slice):
            uris = [f"no/{number}" for number in range(len(self))[place]]
            self.given += len(uris)
            return uris
        if place >= len(self):
            raise IndexError
        self.given += 1
        return f"no/{place}"


def test_uris_are_taken_a_few_thousand_at_a_time() -> None:
    uris, ahead = Counted(), list[int]()
    digests = DigestCache().digests(uris, on_progress=lambda done: ahead.append(uris.given - done))
    assert len(digests) == 20_000
    assert max(ahead) < 5_000
