from pathlib import Path

import numpy as np
import pytest

from cache import Compaction, FeatureStore, StoreWriter, compact, verify
from cache.fingerprint import Identity, Provenance
from cache.layout import chunk_bytes
from cache.rows import RowOutcome, fragment_bytes, row_checksums, rows_table
from tests.toys.stores import DIM, PROVENANCE, contents, features_of, fill, names, open_store, value_of


def test_a_sound_store_has_no_problems(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, names(*range(9)), frozenset(names(3)))
    assert verify(store) == []


@pytest.mark.parametrize("offset", [0, 17, 47, 49])
def test_one_flipped_bit_anywhere_in_a_chunk_is_found(tmp_path: Path, offset: int) -> None:
    store = open_store(tmp_path)
    fill(store, names(*range(9)))
    path = store.path / "features/c/1/0"
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    (problem,) = verify(store)
    assert "features/c/1/0 does not hold the bytes that were committed: wrong crc32c. Delete " in problem
    assert "rows/1.parquet, and run `permafrost extract` again" in problem


def test_missing_data_uncommitted_data_and_a_renamed_folder_are_found(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, names(*range(9)))
    (store.path / "features/c/0/0").unlink()
    (store.path / "rows/2.parquet").unlink()
    moved = store.path.with_name("toy-00000000")
    store.path.rename(moved)
    problems = "\n".join(verify(FeatureStore.at(moved)))
    assert "chunk 0 has rows and no data" in problems
    assert "chunk 2 has data and no rows" in problems
    assert "the folder is called toy-00000000" in problems


def test_a_row_said_to_be_ok_that_is_not_finite_is_found(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, names(*range(4)), frozenset(names(1)))
    block = np.array(store.chunk(0))
    block[2, 0], block[1, :] = np.inf, 1
    data, checksum = chunk_bytes(block)
    (store.path / "features/c/0/0").write_bytes(data)
    digests, outcomes = names(*range(4)), [RowOutcome("failed" if row == 1 else "ok") for row in range(4)]
    (store.path / "rows/0.parquet").write_bytes(
        fragment_bytes(rows_table(digests, outcomes, row_checksums(block)), PROVENANCE, checksum)
    )
    problems = verify(FeatureStore.at(store.path))
    assert any("row 2: recorded as ok and not finite" in problem for problem in problems)
    assert any("row 1: recorded without a feature and holds numbers" in problem for problem in problems)


def test_compacting_drops_what_no_dataset_lists_and_keeps_every_other_number(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, names(*range(10)))
    fill(store, names(20, 21, 22))
    keep = names(0, 1, 2, 3, 5, 9, 21)
    assert compact(store, keep) == Compaction(dropped=6, chunks_before=4, chunks_after=2)
    store = FeatureStore.at(store.path)
    assert sorted(store.digests()) == sorted(keep)
    np.testing.assert_array_equal(store.read(keep), np.stack([value_of(d) for d in keep]).astype(np.float16))
    assert verify(store) == []
    assert compact(store, keep).dropped == 0


def test_compacting_a_store_that_is_tight_changes_no_byte(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, names(*range(10)))
    before = contents(store.path)
    compact(store, names(*range(10)))
    assert contents(store.path) == before


def test_compacting_after_a_kill_in_the_middle_finishes_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    fill(store, names(*range(10)))
    keep = names(1, 4, 5, 6, 8, 9)
    monkeypatch.setattr(StoreWriter, "remove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        compact(store, keep)
    monkeypatch.undo()
    store = FeatureStore.at(store.path)
    assert set(keep) <= set(store.digests())
    compact(store, keep)
    assert sorted(FeatureStore.at(store.path).digests()) == sorted(keep)
    assert sum(rows.num_rows for rows in FeatureStore.at(store.path).chunks().values()) == len(keep)
    assert verify(FeatureStore.at(store.path)) == []


def test_an_empty_store_can_be_verified_and_compacted(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path, "toy", Identity({}), dim=DIM, provenance=PROVENANCE)
    assert verify(store) == []
    assert compact(store, []) == Compaction(0, 0, 0)


def test_compacting_keeps_the_good_row_of_an_image_that_failed_first(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, names(*range(4)), frozenset(names(2)))  # a full chunk with a failed row
    fill(store, names(*range(4)), retry=True)  # its good row, in a short chunk
    fill(store, names(7))  # and another short chunk
    compact(store, names(0, 1, 2, 3, 7))
    store = FeatureStore.at(store.path)
    assert store.usable(names(0, 1, 2, 3, 7)).all()
    assert store.counts() == {"ok": 5}
    assert sum(rows.num_rows for rows in store.chunks().values()) == 5
    assert verify(store) == []


def test_compacting_keeps_where_the_rows_were_computed(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    origins = [Provenance("cpu", {"numpy": "2"}, 32), Provenance("cuda", {"numpy": "2", "torch": "3"}, 32)]
    for origin, digests in zip(origins, (names(0, 1), names(2)), strict=True):
        with StoreWriter(store) as writer:
            (chunk,) = writer.plan(digests).chunks
            writer.commit(chunk, features_of(chunk), [RowOutcome()] * len(digests), origin)
    compact(store, names(0, 2))
    (number,) = store.chunks()
    assert store.provenance(number) == Provenance("cpu, cuda", {"numpy": "2", "torch": "3"}, 32)
    compact(store, names(2))
    (number,) = store.chunks()
    assert store.provenance(number) == Provenance("cpu, cuda", {"numpy": "2", "torch": "3"}, 32)
