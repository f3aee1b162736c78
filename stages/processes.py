"""Processes that compute: as many as there are processors to use, and none that outlives the one that began it.

::

    parent, holds one end of a pipe --spawn--> workers, each with a thread that waits for the other end to close

The pipe closes when the parent ends, however it ends, and when it has no more use for what the workers compute.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path
from typing import Any

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
PROCESSORS = "PERMAFROST_PROCESSORS"
"""The variable of the environment that says how many processors a process may use, where that is not all."""


def processors() -> int:
    """The processors that this process may use: of its affinity mask, its container's share, and PERMAFROST_PROCESSORS.

    >>> processors() >= 1
    True
    """
    if (limit := os.environ.get(PROCESSORS, "")).isdecimal():
        return max(1, int(limit))
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        return min(allowed, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return allowed


@contextmanager
def worker_processes(count: int, start: Callable[[], object] | None = None) -> Iterator[Executor]:
    """``count`` processes, each of which calls ``start`` first; an exception in the block ends them at once.

    They are new interpreters, so a script calls this under ``if __name__ == "__main__"``. Ctrl-C goes to the parent
    alone.

    >>> with worker_processes(1) as pool:
    ...     pool.submit(abs, -3).result()
    3
    """
    context = get_context("spawn")
    leash, held = context.Pipe(duplex=False)
    pool = _Pool(count, context, initializer=_begin, initargs=(leash, start))
    try:
        yield pool
        pool.shutdown()
    finally:
        held.close()
        pool.shutdown(cancel_futures=True)
        leash.close()


class _Pool(ProcessPoolExecutor):
    """Starts its workers with SIGINT blocked, from their first instruction on."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        ensure_running()  # it unblocks SIGINT when it starts
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(leash: Connection, start: Callable[[], object] | None) -> None:
    threading.Thread(target=_end_with_parent, args=(leash,), daemon=True).start()
    if start is not None:
        start()


def _end_with_parent(leash: Connection) -> None:
    with suppress(EOFError, OSError):
        leash.recv_bytes()
    os._exit(1)
