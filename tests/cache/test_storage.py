import errno
import os
from pathlib import Path

import pytest

from cache import LocalStorage
from cache.atomic import clear_partials
from cache.storage import Storage
from tests.cache.storage_contract import SharedStorageContract, StorageContract
from tests.toys.storage import MemoryStorage


class TestLocalStorage(SharedStorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return LocalStorage(tmp_path / "root")


class TestMemoryStorage(StorageContract):
    @pytest.fixture
    def storage(self) -> Storage:
        return MemoryStorage()


def test_without_hard_links_put_new_still_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    storage = LocalStorage(tmp_path)
    assert storage.put_new("a", b"1")
    assert not storage.put_new("a", b"2")
    assert storage.read("a") == b"1"


def test_temporary_files_are_no_keys_and_leave_with_their_writer(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("a/b", b"1")
    left = tmp_path / "a/b.1.ff.partial"
    left.write_bytes(b"half")
    assert storage.list() == ["a/b"]
    clear_partials(tmp_path)
    assert not left.exists()


def test_a_live_writer_keeps_its_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def cleared_meanwhile(source: Path, target: Path) -> None:
        clear_partials(tmp_path)
        link(source, target)

    monkeypatch.setattr(os, "link", cleared_meanwhile)
    assert LocalStorage(tmp_path).put_new("a", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_deleting_the_last_key_of_a_folder_deletes_the_folder(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("a/b/c", b"1")
    storage.put("a/d", b"1")
    storage.delete("a/b/c")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["d"]
