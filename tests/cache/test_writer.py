"""The plan of chunks, and commits that need no lock."""

import errno
import fcntl
import multiprocessing
import os
import pickle
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier as BarrierType
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import Chunk, ChunkPlan, FeatureStore, LocalStorage, Provenance, RowOutcome, StoreWriter, verify
from cache.errors import StoreBusyError, StoreError
from cache.writer import for_commits, make_plan, read_plan
from tests.forks import Forks
from tests.toys.stores import DIM, PROVENANCE, contents, features_of, fill, names, open_store

_SPAWN = multiprocessing.get_context("spawn")


def commit(writer: StoreWriter, chunk: Chunk) -> None:
    writer.commit(chunk, features_of(chunk), [RowOutcome("ok", 3, 4)] * len(chunk.digests), PROVENANCE)


def test_a_plan_that_is_pending_keeps_its_chunks_and_its_batch_size(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with StoreWriter(store) as writer:
        plan = writer.plan(names(*range(10)), batch_size=7)
        commit(writer, plan.chunks[1])
    with StoreWriter(FeatureStore.at(store.path)) as writer:
        again = writer.plan(names(20, *range(10), 21))
    assert again.batch_size == 7
    assert again.chunks == (
        Chunk(0, tuple(names(0, 1, 2, 3))),
        Chunk(2, tuple(names(8, 9))),
        Chunk(3, tuple(names(20, 21))),
    )


def test_what_can_no_longer_be_computed_is_planned_anew(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with StoreWriter(store) as writer:
        writer.plan(names(*range(10)), batch_size=7)
    with StoreWriter(store) as writer:  # image 5 is gone
        plan = writer.plan(names(*range(5), *range(6, 10)))
    assert plan.chunks == (
        Chunk(0, tuple(names(0, 1, 2, 3))),
        Chunk(1, tuple(names(4, 6, 7))),
        Chunk(2, tuple(names(8, 9))),
    )


def test_what_a_worker_that_outlived_its_driver_left_is_cleared_by_the_next_driver(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    left = store.path / "rows/0.parquet.1.ff.partial"
    with StoreWriter(store) as writer:
        commit(writer, writer.plan(names(0)).chunks[0])
        left.write_bytes(b"PAR1")  # begun after this driver has looked, by a process that is dead now
    assert not left.exists()


@given(
    st.lists(st.integers(0, 30), unique=True),
    st.lists(st.integers(0, 30), unique=True),
    st.dictionaries(st.integers(0, 5), st.integers(1, 4)),
)
def test_a_plan_holds_each_missing_image_once_in_places_that_are_free(
    before: list[int], missing: list[int], rows: dict[int, int]
) -> None:
    old = make_plan(ChunkPlan(), names(*before), rows={}, chunk_rows=4, batch_size=8)
    plan = make_plan(old, names(*missing), rows=rows, chunk_rows=4, batch_size=None)
    planned = [digest for chunk in plan.chunks for digest in chunk.digests]
    assert sorted(planned) == sorted(names(*missing))
    numbers = [chunk.number for chunk in plan.chunks]
    assert numbers == sorted(set(numbers))
    for chunk in plan.chunks:
        assert chunk.start == rows.get(chunk.number, 0)
        assert chunk.start + len(chunk.digests) <= 4


def test_a_plan_is_read_as_it_was_written_and_gone_when_all_is_committed(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with StoreWriter(store) as writer:
        plan = writer.plan(names(*range(10)), batch_size=7)
        writer.remember_fits(3)
        assert read_plan(store.storage) == plan._replace(fits=3)
        for chunk in plan.chunks:
            commit(writer, chunk)
    assert read_plan(store.storage) == ChunkPlan()
    assert not (store.path / "plan.parquet").exists()


def test_a_plan_that_cannot_be_read_is_made_again(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    (store.path / "plan.parquet").write_bytes(b"PAR1 not")
    assert fill(store, names(*range(6))) == 6
    assert verify(store) == []


def test_the_second_commit_of_a_chunk_changes_nothing_and_hears_what_the_first_said(tmp_path: Path) -> None:
    store, other = open_store(tmp_path), open_store(tmp_path)
    with StoreWriter(store) as writer:
        (chunk,) = writer.plan(names(1, 2)).chunks
        commit(writer, chunk)
        before = contents(store.path)
        late = StoreWriter(other).commit(
            chunk, np.ones((2, DIM)), [RowOutcome("unread", error="gone")] * 2, Provenance("cuda", {})
        )
        assert late == [RowOutcome("ok", 3, 4)] * 2
        assert contents(store.path) == before


def test_data_of_another_process_without_rows_are_not_taken_for_ones_own(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with StoreWriter(store) as writer:
        (chunk,) = writer.plan(names(1, 2)).chunks
        commit(writer, chunk)
        (store.path / "rows/0.parquet").unlink()  # killed between its data and its rows
        with pytest.raises(StoreBusyError, match="the next extraction clears it"):
            StoreWriter(store).commit(chunk, np.ones((2, DIM)), [RowOutcome()] * 2, PROVENANCE)
        commit(StoreWriter(store), chunk)  # the same bytes: committed
    assert verify(store) == []


def test_data_that_another_driver_cleared_before_their_rows_were_there_are_written_again(tmp_path: Path) -> None:
    store, outlived = open_store(tmp_path), names(1, 2)
    with StoreWriter(store) as writer:
        (chunk,) = writer.plan(outlived).chunks

    class Cleared(LocalStorage):
        def put_new(self, key: str, content: bytes | memoryview) -> bool:
            if key.startswith("rows/"):
                StoreWriter(FeatureStore.at(store.path)).__enter__().__exit__(None, None, None)
            return super().put_new(key, content)

    store.storage = Cleared(store.path)
    commit(StoreWriter(store), chunk)
    again = FeatureStore.at(store.path)
    assert again.read(outlived).tolist() == features_of(chunk).astype(again.dtype).tolist()


def test_rows_of_another_plan_are_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, names(1, 2))
    with pytest.raises(StoreBusyError, match="holds other images"):
        commit(StoreWriter(store), Chunk(0, tuple(names(3, 4))))


def test_provenance_is_there_after_a_write(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, names(1, 2))
    assert store.provenance(0) == PROVENANCE


def test_a_reader_needs_no_lock_and_keeps_its_snapshot(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, names(1, 2))
    with StoreWriter(store) as writer:
        reader = FeatureStore.at(store.path)
        (chunk,) = writer.plan(names(3)).chunks
        commit(writer, chunk)
        assert reader.read(names(1, 2)).shape == (2, DIM)
        assert not reader.usable(names(3)).any()
        reader.reload()
        assert reader.usable(names(3)).all()


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_images_that_come_in_any_portions_end_with_the_bytes_of_all_at_once(
    tmp_path_factory: pytest.TempPathFactory, portions: list[int]
) -> None:
    parent, total = tmp_path_factory.mktemp("stores"), sum(portions)
    whole, grown = open_store(parent / "whole"), open_store(parent / "grown")
    fill(whole, names(*range(total)))
    for place in range(1, len(portions) + 1):
        fill(grown, names(*range(sum(portions[:place]))))
        assert verify(grown) == []
    assert contents(grown.path) == contents(whole.path)


def test_a_chunk_that_is_killed_while_it_grows_keeps_its_rows_and_ends_the_same(tmp_path: Path) -> None:
    whole, cut = open_store(tmp_path / "whole"), open_store(tmp_path / "cut")
    fill(cut, names(0, 1))
    reader = FeatureStore.at(cut.path)
    before = reader.read(names(0, 1))
    fill(whole, names(0, 1, 2))
    shutil.copy(whole.path / "features/c/0/0", cut.path / "features/c/0/0")  # its rows are not written yet
    for store in (reader, FeatureStore.at(cut.path)):
        np.testing.assert_array_equal(store.read(names(0, 1)), before)
        assert not store.usable(names(2)).any()
    assert "They are not committed, and the next extraction writes over them" in verify(cut)[0]
    fill(cut, names(0, 1, 2))
    assert contents(cut.path) == contents(whole.path)


def test_a_reader_of_an_earlier_snapshot_reads_the_rows_it_knows_of_a_chunk_that_has_grown(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, names(0, 1))
    reader = FeatureStore.at(store.path)
    fill(store, names(2, 3, 4))
    assert reader.read(names(1)).shape == (1, DIM)
    assert not reader.usable(names(2)).any()


@pytest.mark.slow
def test_processes_that_race_for_every_chunk_write_the_store_of_one(tmp_path: Path) -> None:
    alone, raced = open_store(tmp_path / "alone"), open_store(tmp_path / "raced")
    fill(alone, names(*range(40)))
    with StoreWriter(raced) as writer:
        writer.plan(names(*range(40)))
        barrier = _SPAWN.Barrier(2)
        processes = [_SPAWN.Process(target=_commit_all, args=(raced.path, barrier)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
    assert contents(raced.path) == contents(alone.path)


def _commit_all(path: Path, barrier: BarrierType) -> None:
    store = FeatureStore.at(path)
    for chunk in StoreWriter(store).pending().chunks:
        barrier.wait()
        commit(StoreWriter(store), chunk)


@pytest.mark.slow
def test_killed_before_any_write_and_started_again_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = open_store(tmp_path / "whole")
    fill(whole, names(*range(10)))
    with Forks("tests.toys.dying:fill_until_killed") as forks:
        statuses = [forks.run(str(tmp_path / f"cut{after}"), after) for after in range(8)]
    assert statuses == [-signal.SIGKILL] * 7 + [0]  # the plan, then the data and the rows of three chunks
    for after in range(8):
        cut = open_store(tmp_path / f"cut{after}")
        assert os.path.exists(cut.path / "plan.parquet") == (0 < after < 7)  # noqa: PTH110
        assert len(cut.chunks()) == max(0, after - 1) // 2
        fill(cut, names(*range(10)))
        assert contents(cut.path) == contents(whole.path)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 20), max_size=9), st.lists(st.integers(0, 3), max_size=3)), max_size=5)
)
def test_any_order_of_planning_and_committing_loses_and_doubles_nothing(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[list[int], list[int]]]
) -> None:
    parent = tmp_path_factory.mktemp("store")
    for numbers, committed in runs:
        with StoreWriter(open_store(parent, chunk_rows=3)) as writer:
            chunks = writer.plan(names(*numbers)).chunks
            for place in committed:
                if place < len(chunks):
                    commit(writer, chunks[place])
    wanted = names(*range(21))
    store = open_store(parent, chunk_rows=3)
    fill(store, wanted)
    assert sorted(store.digests()) == sorted(wanted)
    assert sum(rows.num_rows for rows in store.chunks().values()) == len(wanted)
    assert verify(store) == []


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_with_the_way_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuses(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuses)
    store = open_store(tmp_path)
    with pytest.raises(StoreError, match=rf"{store.path}\.lock cannot be locked: .*PERMAFROST_LOCKS=off"):
        fill(store, names(1, 2))
    monkeypatch.setenv("PERMAFROST_LOCKS", "off")
    assert fill(store, names(1, 2)) == 2


def test_a_writer_that_waits_goes_on_when_the_first_has_ended(tmp_path: Path) -> None:
    store, other = open_store(tmp_path), open_store(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        with StoreWriter(store) as writer:
            waiting = pool.submit(_fill_after_waiting, other)
            with pytest.raises(StoreBusyError, match="--wait does"), StoreWriter(open_store(tmp_path)):
                pass
            commit(writer, *writer.plan(names(1)).chunks)
        assert waiting.result() == names(1, 2)


def _fill_after_waiting(store: FeatureStore) -> list[bytes]:
    with StoreWriter(store, wait=True) as writer:
        commit(writer, *writer.plan(names(1, 2)).chunks)
    return [*store.digests()]


def test_a_store_to_commit_to_is_sent_without_its_rows_and_opened_without_reading_them(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with StoreWriter(store) as writer:
        for chunk in writer.plan(names(*range(9))).chunks:
            outcome = RowOutcome("failed", error="cut off") if chunk.number == 1 else RowOutcome("ok", 3, 4)
            writer.commit(chunk, features_of(chunk), [outcome] * len(chunk.digests), PROVENANCE)
    sent = pickle.dumps(for_commits(store))
    for fragment in (store.path / "rows").iterdir():
        fragment.unlink()
    there = pickle.loads(sent)
    assert (there.fingerprint, there.row_shape, there.chunk_rows) == (store.fingerprint, store.row_shape, 4)
    assert list(there.chunks()) == [1], "what a commit asks is which images have failed before"
    assert list(there.absent(names(*range(9)))) == names(0, 1, 2, 3, 8)
