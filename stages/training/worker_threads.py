"""Worker threads that each compute whole blocks alone, rather than every small operation on all threads.

PyTorch shares each operation out to its threads and waits for all of them. Where an operation takes tens of
microseconds the waiting is a tenth of the time, and ten times the time where another process wants a processor, since
waiting threads spin. Workers compute whole blocks by themselves and are waited for once, at the end.
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
from threadpoolctl import threadpool_limits

T = TypeVar("T")

_FEW_FEATURES = 2**24
_WORKERS: ContextVar[int | None] = ContextVar("workers", default=None)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Inside, an operation of the caller takes one thread, and there are as many workers as PyTorch had threads.

    For a loop of small operations around work of worker threads: PyTorch's own threads then neither work nor spin.
    """
    threads = torch.get_num_threads()
    token = _WORKERS.set(_WORKERS.get() or threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _WORKERS.reset(token)


@contextmanager
def threads_for(features: int) -> Iterator[None]:
    """Inside, what is computed on so many ``features`` (rows x dimensions) takes one thread where they are few.

    A head of the default recipe on 1,500 x 1,952 took 16.4 s on two threads and 12.0 s on one, of half the processor
    time; beside a busy process 83.9 s and 15.4 s; on 14,000 x 1,280 113.9 s and 119.6 s. The size decides, not the
    load: a head has the same bits beside other work.
    """
    if features > _FEW_FEATURES:
        yield
        return
    with one_thread_each(), threadpool_limits(1, user_api="blas"):
        yield


def worker_count(device: torch.device) -> int:
    """As many workers as PyTorch has threads; one on a device that shares the work out by itself."""
    return _WORKERS.get() or torch.get_num_threads() if device.type == "cpu" else 1


def in_worker_threads(work: Callable[[int], T], workers: int) -> list[T]:
    """The results of ``work`` for each worker from 0, in their order; nothing in it is differentiated."""
    without_gradient = torch.no_grad()(work)  # in each call: it is a setting of the thread
    if workers == 1:
        return [without_gradient(0)]
    return list(_pool(workers).map(without_gradient, range(workers)))


@lru_cache(maxsize=1)
def _pool(workers: int) -> ThreadPoolExecutor:
    """Threads whose operations take one thread; those of the caller keep theirs."""
    threads, started = torch.get_num_threads(), threading.Barrier(workers + 1)

    def start() -> None:
        torch.get_num_threads()  # a thread takes over the number that was set last, once: here, not later
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="worker", initializer=start)
    for _ in range(workers):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(threads)  # the workers have set it to 1 for threads to come
    return pool
