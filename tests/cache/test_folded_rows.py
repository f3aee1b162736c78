import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from cache import FeatureStore, StoreWriter, compact, folded_rows, reader, rows, verify
from cache.errors import DamagedStoreError
from cache.rows import fragment_key
from tests.toys.stores import contents, fill, names, open_store


@pytest.fixture(autouse=True)
def _of_small_stores_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folded_rows, "_LEAST_CHUNKS", 1)


def _file(store: FeatureStore) -> Path:
    return store.path.with_name(f"{store.path.name}.rows")


def _known(store: FeatureStore) -> list[object]:
    """Everything that a snapshot says, of some digests in another order too."""
    digests = names(*range(30))[::-1]
    good = [digest for digest, usable in zip(digests, store.usable(digests), strict=True) if usable]
    return [
        store.chunks(), store.chunks().lengths, [store.provenance(number) for number in store.chunks()], len(store),
        [*store.digests()], store.failures(), store.failures(digests), store.counts(), [*store.missing(digests)],
        [*store.missing(digests, retry_failed=True)], [*store.absent(digests)], store.row_numbers(digests).tolist(),
        store.checksums(digests).tolist(), store.read(good).tolist(), store.array_rows({}),
    ]  # fmt: skip


def _changed(store: FeatureStore) -> Iterator[str]:
    """A store that changes: after each step, what was done."""
    fill(store, names(*range(6)), bad=frozenset(names(2)))
    yield "begun, with a chunk that is not full and an image that failed"
    fill(store, names(*range(11)), bad=frozenset(names(9)))
    yield "grown, the short chunk too"
    fill(store, names(*range(11)), retry=True)
    yield "computed again what had failed: two rows of an image"
    compact(store, names(*range(3, 11)))
    yield "compacted"
    with StoreWriter(store) as writer:
        writer.remove(min(store.chunks()))
    yield "a chunk taken out"
    fill(store, names(*range(20, 26)))
    yield "filled its gap"


def test_a_store_says_the_same_with_its_file_and_without(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for done in _changed(store):
        with_file = FeatureStore.at(store.path)
        assert with_file.chunks().whole, done
        assert verify(with_file) == [], done
        known = _known(with_file)
        _file(store).unlink()
        assert _known(FeatureStore.at(store.path)) == _known(store) == known, done


def test_a_file_that_is_behind_is_taken_for_the_chunks_that_have_not_changed(tmp_path: Path) -> None:
    store, old = open_store(tmp_path), b""
    for done in _changed(store):
        expected = _known(store)
        if old:
            _file(store).write_bytes(old)
        assert _known(FeatureStore.at(store.path)) == expected, done
        store.reload()
        folded_rows.fold(store.storage, store.chunks())
        old = old or _file(store).read_bytes()


def test_a_finished_store_opens_without_reading_a_fragment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(open_store(tmp_path), names(*range(11)))

    def never(*_: object) -> None:
        raise AssertionError("a fragment was read")

    monkeypatch.setattr(reader, "read_fragment", never)
    assert open_store(tmp_path).missing(names(*range(12))) == names(11)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped"])
def test_a_damaged_file_is_as_none(tmp_path: Path, damage: str) -> None:
    store = open_store(tmp_path)
    fill(store, names(*range(11)))
    known, old = _known(store), _file(store).read_bytes()
    _file(store).write_bytes({"empty": b"", "cut": old[:-9], "flipped": old[:300] + b"?" + old[301:]}[damage])
    assert _known(FeatureStore.at(store.path)) == known
    fill(store, names(11))
    assert FeatureStore.at(store.path).chunks().whole


def test_a_fragment_that_is_damaged_is_an_error_still(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, names(*range(11)))
    path = store.path / fragment_key(1)
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedStoreError, match=r"1\.parquet"):
        FeatureStore.at(store.path)


def test_the_store_itself_has_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = open_store(tmp_path / "one")
    fill(one, names(*range(11)))
    monkeypatch.setattr(folded_rows, "_LEAST_CHUNKS", 1000)
    other = open_store(tmp_path / "other")
    fill(other, names(*range(11)))
    assert _file(one).exists()
    assert not _file(other).exists()
    assert contents(one.path) == contents(other.path)
    np.testing.assert_array_equal(one.read(names(*range(11))), other.read(names(*range(11))))


def test_a_fragment_that_goes_while_they_are_listed_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    fill(store, names(*range(40)))
    listed, scan = [], os.scandir

    def removing(folder: Path) -> object:
        listed.extend(sorted(Path(folder).iterdir()))
        entries = scan(folder)
        first = next(entries)
        Path(first.path).unlink()
        return nullcontext([first, *entries])

    monkeypatch.setattr("cache.rows.os.scandir", removing)
    assert len(rows.fragment_stamps(store.storage)) == len(listed) - 1 == 9
