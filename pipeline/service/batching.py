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
from concurrent.futures import Future
from typing import Generic, TypeVar

from pipeline.service.limits import Refused

Job = TypeVar("Job")
Answer = TypeVar("Answer")

_NEWEST = 0.2  # the share of the newest batch in the measured seconds an item


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
        self._queue: deque[tuple[Job, Future[Answer]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 0.0  # an item
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._queue)

    async def ask(self, job: Job) -> Answer:
        """The answer to ``job``. Raises Refused where the queue is full, and what ``compute`` gives for the job."""
        future: Future[Answer] = Future()
        with self._changed:
            if self._closed:
                raise Refused(503, "stopping", "the service is stopping", {"Retry-After": "5"})
            if len(self._queue) >= self._capacity:
                raise self._full()
            self._queue.append((job, future))
            self._changed.notify()
        return await asyncio.wrap_future(future)

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
            batch = [(job, future) for job, future in batch if future.set_running_or_notify_cancel()]
            if batch:  # without those whose client waits no more
                self._answer(batch)

    def _answer(self, batch: list[tuple[Job, Future[Answer]]]) -> None:
        began = time.perf_counter()
        answers = self._computed([job for job, _ in batch])
        seconds = (time.perf_counter() - began) / len(batch)
        self._seconds += (_NEWEST if self._seconds else 1.0) * (seconds - self._seconds)
        self.on_batch(len(batch))
        for (_, future), answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _computed(self, jobs: Sequence[Job]) -> Sequence[Answer | Exception]:
        try:
            return self._compute(jobs)
        except Exception as error:  # noqa: BLE001 - it belongs to one of the jobs, and the others are not to suffer
            if len(jobs) == 1:
                return [error]
            return [answer for job in jobs for answer in self._computed([job])]
