import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import FeatureStore, Identity, RowOutcome, StoreWriter, digest_bytes, verify
from cache.errors import DamagedStoreError, MissingRowsError, StaleStoreError, StoreBusyError, StoreError
from tests.toys.stores import DIM, IDENTITY, PROVENANCE, contents, fill, names, open_store, value_of


def test_rows_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, names(*range(11)))
    wanted = names(10, 0, 3, 3, 7)
    expected = np.stack([value_of(digest) for digest in wanted]).astype(np.float16)
    again = FeatureStore.at(store.path)
    np.testing.assert_array_equal(again.read(wanted), expected)
    assert again.read([]).shape == (0, DIM)
    assert again.digests() == names(*range(11))
    assert len(again) == 11


def test_the_store_is_a_plain_zarr_group(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, names(*range(6)))
    group = zarr.open_group(store.path, mode="r")
    assert [name for name, _ in group.members()] == list(group) == ["features"]  # no warning of our other files
    array = group["features"]
    assert isinstance(array, zarr.Array)
    assert array.shape == (6, DIM)
    assert array.chunks == (4, DIM)
    assert group.attrs["fingerprint"] == store.fingerprint
    np.testing.assert_array_equal(np.asarray(array[:]), store.read(names(*range(6))))
    assert (store.path / "features/c/1/0").stat().st_size == 4 * DIM * 2 + 4


@pytest.mark.parametrize("bad", [frozenset(), frozenset(names(4))], ids=["all ok", "one failed"])
def test_the_order_of_asking_changes_neither_rows_nor_what_is_missing(tmp_path: Path, bad: frozenset[bytes]) -> None:
    store, stored = open_store(tmp_path), names(*range(9))
    fill(store, stored, bad)
    assert store.row_numbers(stored).tolist() == list(range(9))
    assert store.row_numbers([*stored[::-1], b"", *names(99)]).tolist() == [*range(8, -1, -1), -1, -1]
    assert store.missing(stored) == store.missing(stored[::-1]) == []
    assert store.missing([b"", *names(99, 3, 98, 99)]) == [b"", *names(99, 98)]
    assert store.missing(stored, retry_failed=True) == sorted(bad)


def test_only_what_is_missing_is_planned_and_each_image_once(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, names(1, 2, 3))
    assert store.missing(names(5, 2, 5, 4, 1)) == names(5, 4)
    assert fill(store, names(5, 2, 5, 4, 1)) == 2
    assert fill(store, names(1, 2, 3, 4, 5)) == 0


def test_the_folder_is_named_after_the_identity_with_dim_and_dtype(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    full = Identity({**IDENTITY.fields, "store": {"dim": DIM, "dtype": "float16", "format": 1}})
    assert store.path == tmp_path / f"toy-{full.fingerprint[:8]}"
    assert store.name == "toy"
    other = open_store(tmp_path, identity=Identity({"backbone": "toy", "preprocess": {"size": 225}}))
    assert other.path != store.path


def test_a_store_of_another_identity_is_refused_with_each_differing_key(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    wanted = Identity({"backbone": "toy", "preprocess": {"size": 384}})
    with pytest.raises(StaleStoreError, match=r"preprocess\.size: stored 224, wanted 384") as caught:
        FeatureStore.find(tmp_path, "toy", wanted, dim=DIM, remedy="Extract.")
    assert caught.value.differences == ["preprocess.size: stored 224, wanted 384"]
    (store.path / "identity.json").write_text(wanted.to_json())
    with pytest.raises(StaleStoreError, match=r"store\.dim"):
        open_store(tmp_path)


def test_finding_a_store_that_was_never_begun_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(MissingRowsError, match="Extract the images first"):
        FeatureStore.find(tmp_path, "toy", IDENTITY, dim=DIM, remedy="Extract the images first.")
    with pytest.raises(StoreError, match="not a store"):
        FeatureStore.at(tmp_path)


def test_a_failed_image_is_a_row_with_its_reason_and_never_moves_its_neighbours(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    bad = frozenset(names(2))
    fill(store, names(*range(5)), bad)
    assert store.usable(names(*range(6))).tolist() == [True, True, False, True, True, False]
    np.testing.assert_array_equal(store.read(names(3))[0], value_of(names(3)[0]).astype(np.float16))
    assert np.isnan(np.asarray(store.chunk(0)[2])).all()
    assert [(f.digest, f.outcome.error) for f in store.failures()] == [(names(2)[0], "bad")]
    with pytest.raises(MissingRowsError, match=r"no feature.*\(bad\)"):
        store.read(names(1, 2))
    with pytest.raises(MissingRowsError, match="no row"):
        store.read(names(9))


def test_an_image_without_a_digest_is_nowhere_in_a_store(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, names(0, 1))
    assert store.usable([b"", names(1)[0], b""]).tolist() == [False, True, False]
    assert store.failures([b""]) == []


def test_a_failed_image_is_tried_again_only_on_request_and_then_its_good_row_counts(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, names(*range(5)), frozenset(names(2)))
    assert store.missing(names(*range(5))) == []
    assert store.missing(names(*range(5)), retry_failed=True) == names(2)
    assert fill(store, names(*range(5)), retry=True) == 1
    again = FeatureStore.at(store.path)
    np.testing.assert_array_equal(again.read(names(2))[0], value_of(names(2)[0]).astype(np.float16))
    assert again.failures() == []
    assert again.digests() == names(0, 1, 3, 4, 2)
    assert verify(again) == []


def test_an_image_that_could_not_be_read_is_missing_again(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with StoreWriter(store) as writer:
        (chunk,) = writer.plan(names(1, 2)).chunks
        outcomes = [RowOutcome("unread", error="gone"), RowOutcome("ok")]
        writer.commit(chunk, np.zeros((2, DIM), np.float32), outcomes, PROVENANCE)
    assert store.missing(names(1, 2)) == names(1)


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "NaN or infinity"), (7e4, "7e.04, past the largest float16")])
def test_what_float16_cannot_hold_is_named_and_not_stored(tmp_path: Path, value: float, reason: str) -> None:
    store = open_store(tmp_path)
    with StoreWriter(store) as writer:
        (chunk,) = writer.plan(names(1, 2)).chunks
        features = np.ones((2, DIM), np.float32)
        features[1, 3] = value
        writer.commit(chunk, features, [RowOutcome("ok")] * 2, PROVENANCE)
    (failure,) = store.failures()
    assert failure.digest == names(2)[0]
    assert re.search(f"toy gave {reason}", failure.outcome.error)
    assert np.isnan(np.asarray(store.chunk(0)[1])).all()


def test_a_chunk_of_another_shape_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with StoreWriter(store) as writer:
        (chunk,) = writer.plan(names(1, 2)).chunks
        with pytest.raises(ValueError, match=r"2 rows of shape \(6,\); got features \(2, 5\)"):
            writer.commit(chunk, np.zeros((2, 5), np.float32), [RowOutcome()] * 2, PROVENANCE)
        writer.commit(chunk, np.zeros((2, DIM), np.float32), [RowOutcome()] * 2, PROVENANCE)


def test_a_second_writer_is_refused_by_a_message_that_names_the_first(tmp_path: Path) -> None:
    store, other = open_store(tmp_path), open_store(tmp_path)
    with StoreWriter(store), pytest.raises(StoreBusyError, match=f"process {os.getpid()} on "), StoreWriter(other):
        pass
    with StoreWriter(other):
        pass


def test_a_lock_left_by_a_dead_process_holds_nobody_up(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    lock = store.path.with_name(store.path.name + ".lock")
    script = (
        f"import fcntl, time; f = open({str(lock)!r}, 'a+'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(StoreBusyError), StoreWriter(store):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with StoreWriter(store):
        pass


def test_what_a_killed_writer_left_is_cleared_and_changes_no_byte(tmp_path: Path) -> None:
    whole, cut = open_store(tmp_path / "whole"), open_store(tmp_path / "cut")
    fill(whole, names(*range(10)))
    fill(cut, names(*range(10)))
    (cut.path / "rows/1.parquet").unlink()  # killed between the data of chunk 1 and its rows
    (cut.path / "features/c/1/0").write_bytes(b"half a chu")
    (cut.path / "rows/2.parquet").rename(cut.path / "rows/2.parquet.partial")
    cut = FeatureStore.at(cut.path)
    assert cut.usable(names(*range(10))).tolist() == [True] * 4 + [False] * 6
    fill(cut, names(*range(10)))
    assert contents(cut.path) == contents(whole.path)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(0, 30), max_size=12), st.integers(0, 3)), max_size=6), st.randoms())
def test_any_order_of_writing_dying_and_reopening_loses_and_doubles_nothing(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[list[int], int]], random: object
) -> None:
    parent = tmp_path_factory.mktemp("store")
    wanted: list[bytes] = []
    for numbers, survives in runs:
        store = open_store(parent, chunk_rows=3)
        wanted += names(*numbers)
        with StoreWriter(store) as writer:
            for chunk in writer.plan(wanted).chunks[:survives]:
                features = np.stack([value_of(digest) for digest in chunk.digests])
                writer.commit(chunk, features, [RowOutcome()] * len(chunk.digests), PROVENANCE)
    store = open_store(parent, chunk_rows=3)
    fill(store, wanted)
    store = FeatureStore.at(store.path)
    assert sorted(store.digests()) == sorted(set(wanted))
    assert sum(rows.num_rows for rows in store.chunks().values()) == len(set(wanted))
    if wanted:
        np.testing.assert_array_equal(store.read(wanted), np.stack([value_of(d) for d in wanted]).astype(np.float16))
    assert verify(store) == []


def test_a_damaged_store_says_which_file_and_how_to_mend_it(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, names(*range(6)))
    (store.path / "features/c/0/0").write_bytes(b"short")
    with pytest.raises(DamagedStoreError, match=r"c/0/0 should have 52 bytes and has 5.*Delete .*rows/0"):
        store.read(names(1))
    (store.path / "rows/1.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(DamagedStoreError, match=r"rows/1\.parquet cannot be read"):
        FeatureStore.at(store.path)


def test_views_are_an_axis_of_the_array_and_the_first_is_what_is_read(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path, "n", Identity({"a": 1}), dim=3, views=2, chunk_rows=4, provenance=PROVENANCE)
    digests = [digest_bytes(bytes([number])) for number in range(6)]
    features = np.arange(36, dtype=np.float32).reshape(6, 2, 3)
    with StoreWriter(store) as writer:
        for chunk in writer.plan(digests).chunks:
            rows = [digests.index(digest) for digest in chunk.digests]
            writer.commit(chunk, features[rows], [RowOutcome("ok")] * len(rows), PROVENANCE)
    again = FeatureStore.at(store.path)
    assert (again.views, again.dim) == (2, 3)
    assert np.array_equal(again.read([digests[5], digests[0]]), features[[5, 0], 0])
    assert np.array_equal(again.read_views([digests[5], digests[0]]), features[[5, 0]])
    assert np.array_equal(np.asarray(zarr.open_array(store.path / "features")), features)
    assert verify(again) == []
    assert (
        store.fingerprint
        != FeatureStore.open(tmp_path, "n", Identity({"a": 1}), dim=3, provenance=PROVENANCE).fingerprint
    )
