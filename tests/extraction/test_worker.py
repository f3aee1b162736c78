"""A process that computes for another: how it ended, and what it had in hand."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cache import StoreWriter
from cache.errors import DamagedStoreError, MissingExtraError, StaleStoreError, UnwritableError
from stages.extraction.backbones.frozen import Forward
from stages.extraction.executor import Job, units_of
from stages.extraction.extract import open_store
from stages.extraction.worker import Crash, State, Work, Worker
from tests.pictures import draw_folder
from tests.toys.extraction import never, records_of, toy_backbone


@contextmanager
def working(
    folder: Path, images: int, *, delay: float = 0.0, forward: Forward | None = None
) -> Iterator[tuple[Callable[[], Worker], list[Work]]]:
    """What begins a worker, and what it has to compute: chunks of four images in batches of two."""
    records = records_of(draw_folder(folder / "images", {"a": images}))
    backbone = toy_backbone(delay)
    backbone = replace(backbone, forward=forward or backbone.forward)
    store = open_store(backbone, folder, chunk_rows=4)
    with StoreWriter(store) as writer, ExitStack() as begun:
        units = units_of([writer.plan(records.digests, batch_size=2)])
        uris = dict(zip(records.digests, records.uris, strict=True))

        def begin() -> Worker:
            worker = Worker(pickle.dumps(Job([store], [backbone], 2, [None])), 1, 1)
            begun.callback(worker.close)
            return worker

        yield begin, [Work(n, unit, {d: uris[d] for _, c in unit for d in c.digests}) for n, unit in enumerate(units)]


@pytest.mark.parametrize(("number", "by_itself"), [(signal.SIGKILL, False), (signal.SIGSEGV, True)])
def test_a_kill_from_outside_is_told_from_a_crash_and_the_next_process_goes_on(
    tmp_path: Path, number: signal.Signals, by_itself: bool
) -> None:
    with working(tmp_path, 5, delay=0.3) as (begin, works), ThreadPoolExecutor(1) as pool:
        worker = begin()
        waiting = pool.submit(worker.compute, 0, pickle.dumps(works[0]))
        while worker.progress().in_hand.get(0) != (2, 0):
            time.sleep(0.01)
        os.kill(worker.process.pid, number)
        ended = waiting.result()
        assert isinstance(ended, Crash)
        assert (*ended[:2], ended.state.in_hand) == (number.name, by_itself, {0: (2, 0)})
        assert worker.compute(1, pickle.dumps(works[1])) == ended
        worker = begin()
        for work, images in zip(works, (4, 1), strict=True):
            done = worker.compute(work.number, pickle.dumps(work))
            assert isinstance(done, State)
            assert done.committed == {work.number: (images, 0)}


def test_an_error_is_handed_over(tmp_path: Path) -> None:
    with working(tmp_path, 2, forward=never) as (begin, works):
        error = begin().compute(0, pickle.dumps(works[0]))
    assert isinstance(error, AssertionError)
    assert "the backbone was run" in str(error)


@pytest.mark.parametrize(
    "error",
    [
        UnwritableError(Path("a"), OSError(28, "No space left on device")),
        MissingExtraError("ray", "ray"),
        StaleStoreError(Path("a"), ["size"], "Move it."),
        DamagedStoreError("rows/0"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_goes_from_process_to_process_with_all_that_it_says(error: Exception) -> None:
    other = pickle.loads(pickle.dumps(error))
    assert (type(other), str(other), vars(other)) == (type(error), str(error), vars(error))
