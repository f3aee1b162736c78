"""Batches: all that waits is answered at once, a full queue refuses, one bad job harms no other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from pipeline.service.batching import Batcher
from pipeline.service.limits import Refused


def test_what_came_during_a_batch_is_the_next_batch_up_to_the_cap() -> None:
    sizes, first_began, may_end = [], threading.Event(), threading.Event()

    def double(numbers: Sequence[int]) -> list[int]:
        sizes.append(len(numbers))
        first_began.set()
        may_end.wait(10)
        return [2 * number for number in numbers]

    async def all_of_them() -> list[int]:
        first = asyncio.ensure_future(batcher.ask(0))
        await asyncio.to_thread(first_began.wait, 10)
        others = [asyncio.ensure_future(batcher.ask(number)) for number in range(1, 8)]
        await asyncio.sleep(0)
        may_end.set()
        return await asyncio.gather(first, *others)

    batcher = Batcher(double, largest=5)
    assert asyncio.run(all_of_them()) == [2 * number for number in range(8)]
    assert sizes == [1, 5, 2]
    batcher.close()


def test_a_full_queue_refuses_with_a_time_to_come_again() -> None:
    began, may_end = threading.Event(), threading.Event()

    def hold(jobs: Sequence[int]) -> list[int]:
        began.set()
        may_end.wait(10)
        return list(jobs)

    async def fill() -> Refused:
        waiting = [asyncio.ensure_future(batcher.ask(0))]
        await asyncio.to_thread(began.wait, 10)
        waiting += [asyncio.ensure_future(batcher.ask(number)) for number in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(Refused) as refused:
            await batcher.ask(3)
        may_end.set()
        assert await asyncio.gather(*waiting) == [0, 1, 2]
        return refused.value

    batcher = Batcher(hold, capacity=2)
    refused = asyncio.run(fill())
    assert (refused.status, refused.code) == (503, "busy")
    assert int(refused.headers["Retry-After"]) >= 1
    batcher.close()


def test_a_job_that_breaks_its_batch_breaks_alone() -> None:
    began, may_begin = threading.Event(), threading.Event()

    def inverse(numbers: Sequence[int]) -> list[float]:
        began.set()
        may_begin.wait(10)
        return [1 / number for number in numbers]

    async def some() -> list[object]:
        first = asyncio.ensure_future(batcher.ask(1))
        await asyncio.to_thread(began.wait, 10)
        others = [asyncio.ensure_future(batcher.ask(number)) for number in (2, 0, 4)]
        await asyncio.sleep(0)
        may_begin.set()
        return list(await asyncio.gather(first, *others, return_exceptions=True))

    batcher = Batcher(inverse)
    one, half, broken, quarter = asyncio.run(some())
    assert (one, half, quarter) == (1, 0.5, 0.25)
    assert isinstance(broken, ZeroDivisionError)
    batcher.close()


def test_a_job_whose_client_left_is_not_computed() -> None:
    seen: list[int] = []
    began, may_end = threading.Event(), threading.Event()

    def note(jobs: Sequence[int]) -> list[int]:
        seen.extend(jobs)
        began.set()
        may_end.wait(10)
        return list(jobs)

    async def leave() -> None:
        first = asyncio.ensure_future(batcher.ask(0))
        await asyncio.to_thread(began.wait, 10)
        gone, stays = asyncio.ensure_future(batcher.ask(1)), asyncio.ensure_future(batcher.ask(2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        may_end.set()
        assert [*await asyncio.gather(first, stays)] == [0, 2]

    batcher = Batcher(note)
    asyncio.run(leave())
    assert seen == [0, 2]
    batcher.close()


def test_a_closed_queue_answers_what_waits_and_refuses_what_comes() -> None:
    batcher: Batcher[int, int] = Batcher(list)
    assert asyncio.run(batcher.ask(1)) == 1
    batcher.close()
    with pytest.raises(Refused, match="stopping"):
        asyncio.run(batcher.ask(2))
