"""Units of work, and what is committed of them when a run ends early."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cache import Chunk, ChunkPlan, FeatureStore, StoreWriter, verify
from stages.extraction import LocalExecutor, Progress, extract, extract_all
from stages.extraction.embedder import Features, Pixels
from stages.extraction.executor import units_of
from stages.extraction.extract import ON_CPU
from tests.pictures import draw, draw_folder
from tests.toys.extraction import never, records_of, toy_backbone
from tests.toys.stores import contents, names


@given(st.lists(st.lists(st.integers(0, 12), max_size=12, unique=True), max_size=3), st.integers(1, 4))
def test_units_share_no_image_and_hold_every_chunk_once(stores: list[list[int]], size: int) -> None:
    plans = [
        ChunkPlan(tuple(Chunk(n, tuple(names(*images[n * size :][:size]))) for n in range(-(-len(images) // size))))
        for images in stores
    ]
    units = units_of(plans)
    images = [{digest for _, chunk in unit for digest in chunk.digests} for unit in units]
    assert sum(map(len, images)) == len(set().union(*images))
    expected = [(store, chunk) for store, plan in enumerate(plans) for chunk in plan.chunks]
    assert sorted(item for unit in units for item in unit) == sorted(expected)


def test_chunks_of_the_same_images_are_one_unit_and_others_are_apart() -> None:
    one, two = Chunk(0, tuple(names(1, 2))), Chunk(1, tuple(names(3)))
    assert units_of([ChunkPlan((one, two)), ChunkPlan((one, two))]) == [((0, one), (1, one)), ((0, two), (1, two))]


def test_a_killed_run_is_finished_with_the_batch_size_that_it_began_with(tmp_path: Path) -> None:
    records = records_of(draw_folder(tmp_path / "images", {"a": 9}))
    with pytest.raises(AssertionError):
        extract(records, replace(toy_backbone(), forward=never), tmp_path / "f", batch_size=5)
    assert extract(records, toy_backbone(), tmp_path / "f").provenance(0).batch_size == 5 != ON_CPU


def test_images_that_are_listed_earlier_now_do_not_move_what_is_pending(tmp_path: Path) -> None:
    images = draw_folder(tmp_path / "images", {"b": 9})
    with pytest.raises(AssertionError):
        extract(records_of(images), replace(toy_backbone(), forward=never), tmp_path / "f", chunk_rows=4)
    first = records_of(images).digests
    draw(images / "a/0.png", 700)
    store = extract(records_of(images), toy_backbone(), tmp_path / "f", chunk_rows=4)
    assert store.digests() == [*first, records_of(images).digests[0]]


def test_a_size_that_fits_is_remembered_by_the_plan(tmp_path: Path) -> None:
    records = records_of(draw_folder(tmp_path / "images", {"a": 9, "b": 8}))
    ran: list[int] = []

    def small(batch: Pixels) -> Features:
        ran.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if len(ran) == 8:
            raise KeyboardInterrupt
        return toy_backbone().forward(batch)

    def again(batch: Pixels) -> Features:
        ran.append(len(batch))
        return toy_backbone().forward(batch)

    with pytest.raises(KeyboardInterrupt):
        extract(records, replace(toy_backbone(), forward=small), tmp_path / "f", batch_size=8)
    (path,) = (tmp_path / "f").glob("toy-????????")
    assert StoreWriter(FeatureStore.at(path)).pending().fits == 2
    ran.clear()
    extract(records, replace(toy_backbone(), forward=again), tmp_path / "f")
    assert max(ran) == 2


def test_what_is_computed_of_a_chunk_is_committed_by_time_and_the_rest_ends_with_the_bytes_of_one_run(
    tmp_path: Path,
) -> None:
    records = records_of(draw_folder(tmp_path / "images", {"a": 9, "b": 8, "c": 6}))
    alone = extract(records, toy_backbone(), tmp_path / "alone", batch_size=4, chunk_rows=16)
    ran: list[int] = []

    def interrupted(batch: Pixels) -> Features:
        if len(batch) == 4:  # of the images, not of the sample that knows a network again
            ran.append(4)
        if sum(ran) > 12:
            raise KeyboardInterrupt
        return toy_backbone().forward(batch)

    executor = LocalExecutor(workers=2, commit_seconds=0)  # after every batch
    stopped = replace(toy_backbone(), forward=interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract_all(records, [stopped], tmp_path / "f", batch_size=4, chunk_rows=16, executor=executor)
    (path,) = (tmp_path / "f").glob("toy-????????")
    assert len(FeatureStore.at(path)) == 12
    assert verify(FeatureStore.at(path)) == []
    seen: list[Progress] = []
    (filled,) = extract_all(
        records, [toy_backbone()], tmp_path / "f", batch_size=4, executor=executor, on_progress=seen.append
    )
    assert (filled.computed, seen[-1][:3]) == (11, (11, 11, 0))
    assert contents(path) == contents(alone.path)


def test_ten_images_more_make_no_chunk_more(tmp_path: Path) -> None:
    images = draw_folder(tmp_path / "images", {"a": 9})
    store = extract(records_of(images), toy_backbone(), tmp_path / "f")
    size = (store.path / "features/c/0/0").stat().st_size
    for number in range(10):
        draw(images / "b" / f"{number}.png", 5000 + number)
    extract(records_of(images), toy_backbone(), tmp_path / "f")
    assert [path.stat().st_size for path in store.path.glob("features/c/*/0")] == [size]
    assert len(FeatureStore.at(store.path)) == 19
