"""Requests share batches: a thread takes all that is waiting, answers it at once, and takes what has come meanwhile.

There is no timer: an idle service answers one request at once, a busy one makes larger batches by itself. A full queue
refuses with the seconds after which it will have emptied, by the rate that was measured.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, NamedTuple, TypeVar

from pipeline.service.refused import Refused

Job = TypeVar("Job")
Answer = TypeVar("Answer")

_NEWEST = 0.2  # the share of the newest batch in the measured seconds an item


class _Waiting(NamedTuple, Generic[Job, Answer]):
    job: Job
    future: asyncio.Future[Answer]


class Batcher(Generic[Job, Answer]):
    """Answers jobs in batches, in a thread of its own.

    ``compute`` gives the answer of each of several jobs, ``largest`` at most, or the exception that it gets instead. Of
    more than ``capacity`` jobs that wait, one is refused. ``on_batch`` is called with the size of each batch.

    >>> batcher = Batcher(lambda numbers: [2 * number for number in numbers])
    >>> asyncio.run(batcher.ask(21))
    42
    >>> batcher.close()
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Job]], Sequence[Answer | Exception]],
        *,
        capacity: int = 128,
        largest: int = 32,
    ) -> None:
        self._compute, self._capacity, self._largest = compute, capacity, largest
        self.on_batch: Callable[[int], object] = lambda _: None
        self._queue: deque[_Waiting[Job, Answer]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 0.0  # an item
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._queue)

    async def ask(self, job: Job) -> Answer:
        """The answer to ``job``. Raises Refused where the queue is full, and what ``compute`` gives for the job."""
        waiting = _Waiting[Job, Answer](job, asyncio.get_running_loop().create_future())
        with self._changed:
            if self._closed:
                raise Refused(503, "stopping", "the service is stopping", {"Retry-After": "5"})
            if len(self._queue) >= self._capacity:
                raise self._full()
            self._queue.append(waiting)
            self._changed.notify()
        return await waiting.future

    def close(self) -> None:
        """Answer what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _full(self) -> Refused:
        seconds = max(1, math.ceil(len(self._queue) * self._seconds))
        message = f"{len(self._queue)} requests are waiting, as many as may. Ask again in {seconds} s."
        return Refused(503, "busy", message, {"Retry-After": str(seconds)})

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if not self._queue:
                    return
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._largest))]
            batch = [waiting for waiting in batch if not waiting.future.cancelled()]  # its client waits no more
            if batch:
                self._answer(batch)

    def _answer(self, batch: list[_Waiting[Job, Answer]]) -> None:
        began = time.perf_counter()
        answers = self._computed([waiting.job for waiting in batch])
        seconds = (time.perf_counter() - began) / len(batch)
        self._seconds += (_NEWEST if self._seconds else 1.0) * (seconds - self._seconds)
        self.on_batch(len(batch))
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Answer], Answer | Exception]]] = {}
        for waiting, answer in zip(batch, answers, strict=True):
            by_loop.setdefault(waiting.future.get_loop(), []).append((waiting.future, answer))
        for loop, answered in by_loop.items():
            with suppress(RuntimeError):  # a loop that has ended waits no more
                loop.call_soon_threadsafe(_deliver, answered)

    def _computed(self, jobs: Sequence[Job]) -> Sequence[Answer | Exception]:
        try:
            return self._compute(jobs)
        except Exception as error:  # noqa: BLE001 - it belongs to one of the jobs, and the others are not to suffer
            if len(jobs) == 1:
                return [error]
            return [answer for job in jobs for answer in self._computed([job])]


def _deliver(answered: Sequence[tuple[asyncio.Future[Answer], Answer | Exception]]) -> None:
    for future, answer in answered:
        if future.done():  # its client waits no more
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
