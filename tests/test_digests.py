import os
from pathlib import Path

import pytest

from cache import DigestCache, digest_bytes


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = []
    for number in range(5):
        path = tmp_path / f"é{number}\n.jpg"
        path.write_bytes(bytes([number]) * 100)
        os.utime(path, ns=(10**18, 10**18 + 1))  # long ago
        paths.append(str(path))
    return paths


def test_unchanged_files_are_read_once_even_by_another_process_to_come(tmp_path: Path, files: list[str]) -> None:
    first, second = DigestCache(tmp_path / "d.sqlite"), DigestCache(tmp_path / "d.sqlite")
    wanted = [digest_bytes(bytes([number]) * 100) for number in range(5)]
    assert [found.digest for found in first.digests(files)] == wanted
    assert [found.digest for found in second.digests(files)] == wanted
    assert (first.files_read, second.files_read) == (5, 0)


def test_a_changed_file_is_read_again(tmp_path: Path, files: list[str]) -> None:
    cache = DigestCache(tmp_path / "d.sqlite")
    cache.digests(files)
    Path(files[2]).write_bytes(b"x" * 100)  # the same size, another mtime
    assert cache.digests(files)[2].digest == digest_bytes(b"x" * 100)
    assert cache.files_read == 6


def test_a_file_younger_than_a_tick_of_the_clock_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "young.jpg"
    path.write_bytes(b"a")
    stamp = 4 * 10**18  # the future: a clock that runs ahead
    os.utime(path, ns=(stamp, stamp))
    cache = DigestCache(tmp_path / "d.sqlite")
    cache.digests([str(path)])
    path.write_bytes(b"b")
    os.utime(path, ns=(stamp, stamp))
    assert cache.digests([str(path)])[0].digest == digest_bytes(b"b")


def test_what_cannot_be_read_says_why_and_holds_nobody_up(tmp_path: Path, files: list[str]) -> None:
    found = DigestCache().digests([str(tmp_path / "absent"), str(tmp_path), files[0]])
    assert [entry.digest is None for entry in found] == [True, True, False]
    assert "No such file" in found[0].error
    assert "directory" in found[1].error
