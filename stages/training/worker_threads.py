"""Work in lanes: each on a thread that computes alone, rather than every small operation on all threads.

PyTorch shares each operation out to its threads and waits for all of them. Where an operation takes tens of
microseconds that costs a tenth of the time, and ten times the time where another process wants a processor: threads
that wait spin. A lane does whole blocks by itself, and all are waited for once, at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TypeVar

import torch

T = TypeVar("T")

_LANES: ContextVar[int | None] = ContextVar("lanes", default=None)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Inside, an operation of the caller takes one thread, and there are as many lanes as PyTorch had threads.

    For a loop of small operations around what is done in lanes: PyTorch's own threads then neither work nor spin.
    """
    threads = torch.get_num_threads()
    token = _LANES.set(threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _LANES.reset(token)


def lanes_on(device: torch.device) -> int:
    """How many lanes: as many as PyTorch has threads; one on a device that shares the work out by itself."""
    return _LANES.get() or torch.get_num_threads() if device.type == "cpu" else 1


def in_lanes(work: Callable[[int], T], lanes: int) -> list[T]:
    """What ``work`` gives for each lane, from 0, in their order; nothing in it is differentiated."""

    def alone(lane: int) -> T:
        with torch.no_grad():  # which is of the thread
            return work(lane)

    if lanes == 1:
        return [alone(0)]
    return list(_pool(lanes).map(alone, range(lanes)))


@lru_cache(maxsize=1)
def _pool(lanes: int) -> ThreadPoolExecutor:
    """Threads whose operations take one thread; those of the caller keep theirs."""
    threads, started = torch.get_num_threads(), threading.Barrier(lanes + 1)

    def start() -> None:
        torch.get_num_threads()  # a thread takes over the number that was set last, once: here, not later
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(lanes, thread_name_prefix="lane", initializer=start)
    for _ in range(lanes):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(threads)  # which the lanes have set to 1 for threads to come
    return pool
