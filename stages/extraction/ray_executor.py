"""Many machines: a driver that makes the plan, and long-lived actors of a Ray cluster that compute and commit units.

Each actor has a process that computes, and two units in flight; when that ends, another actor follows. The driver keeps
the count of crashes: a unit that was the one in hand when three processes crashed is set aside, and the rest goes on;
what is killed from outside, or lost with its machine, is computed again.
"""

from __future__ import annotations

import math
import os
import pickle
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cache import digest_bytes
from cache.digest_list import joined_digests
from cache.errors import ClusterError, CrashedError
from cache.storage import Storage
from cache.writer import PLAN_KEY, for_commits
from stages.extraction.backbones import Backbone, place
from stages.extraction.embedder import limit_memory, memory_limit
from stages.extraction.executor import Advance, Job, Unit, images_in_order
from stages.extraction.flow import Clock, Pace
from stages.extraction.worker import Crash, State, Work, Worker
from stages.ray_cluster import RayCluster, alive_machines, check_versions, versions

_IN_FLIGHT = 2
_CRASHES = 3
_KILLS = 20  # from outside, of one unit that was in hand: a machine that is too small kills it every time
_BARREN = 12  # ends of workers that had no unit in hand yet, without a unit that was committed in between
_LOOK_SECONDS = 10.0  # for machines that have joined the cluster
_PLAN_BYTES = 1 << 20
_LOOKED_UP = 32  # units
_IMAGES_NAMED = 20
_BATCHES_READ_AHEAD = 8  # at most, of one that has not come through


@dataclass(frozen=True)
class RayExecutor:
    """The machines of a Ray cluster, each of which sees the images and the stores under the same paths.

    Args:
        cluster: which, and the processors of each worker: by default all of the smallest machine, or its share beside
            a card.
        workers: threads of each worker that read and decode; by default one for each of its processors.

    >>> list(RayExecutor().execute(Job([], [], 32, []), Clock()))
    []
    """

    cluster: RayCluster = RayCluster()
    workers: int | None = None

    def execute(self, job: Job, clock: Clock) -> Iterator[Advance]:
        """See :class:`Executor`. Raises ClusterError, and CrashedError once all other units are committed."""
        if not job.units:
            return
        with self.cluster.joined():
            driver = _Driver(self, job, clock)
            try:
                yield from driver.run()
            finally:
                driver.close()


class _Hello(NamedTuple):
    """What an actor says first: its name, its versions, and the beginning of each store's plan as it sees it."""

    name: str
    versions: dict[str, str]
    plans: list[bytes]


class _Actor(Worker):
    """Lives on a machine of the cluster: a worker, whose process can crash."""

    def __init__(self, job: bytes, storages: Sequence[Storage], workers: int | None, cpus: int, folder: str) -> None:
        if Path(folder).is_dir():  # of relative paths
            os.chdir(folder)
        self._storages = storages
        super().__init__(job, workers, cpus)

    def hello(self) -> _Hello:
        return _Hello(f"{socket.gethostname()}:{os.getpid()}", versions(), [_plan_of(s) for s in self._storages])


def _plan_of(storage: Storage) -> bytes:
    try:
        return digest_bytes(storage.read(PLAN_KEY, 0, _PLAN_BYTES))
    except FileNotFoundError:
        return b""


@dataclass
class _Task:
    """A unit, and what has happened to it."""

    number: int
    unit: Unit
    uris: dict[bytes, str]
    crashed_on: list[str] = field(default_factory=list)
    crash: Crash | None = None  # the last
    kills: int = 0
    alone: bool = False  # with nothing else in hand, so that the next crash is its own
    through: int = 0
    counted: tuple[int, int] = (0, 0)  # images and failed ones that the caller has been told of


def _tasks(job: Job) -> Iterator[_Task]:
    """The units of ``job``, with where their images are, looked up for many at once."""
    for low in range(0, len(job.units), _LOOKED_UP):
        units = job.units[low : low + _LOOKED_UP]
        listed = [joined_digests([chunk.digests for _, chunk in unit]).unique() for unit in units]
        images = joined_digests(listed)
        uris = dict(zip(images, job.uris(images), strict=True))
        for number, digests in enumerate(listed):
            yield _Task(low + number, units[number], {digest: uris[digest] for digest in digests})


@dataclass(eq=False)
class _Seat:
    """An actor, as the driver sees it."""

    actor: Any
    plans: list[bytes]
    name: str = ""  # "" until it has said who it is
    running: dict[int, _Task] = field(default_factory=dict)
    images: int = 0
    began: float = 0.0
    clock: Clock = field(default_factory=Clock)
    polled: bool = False


class _Driver:
    def __init__(self, settings: RayExecutor, job: Job, clock: Clock) -> None:
        import ray

        self._ray, self._settings, self._job, self._clock = ray, settings, job, clock
        self._storages = [store.storage for store in job.stores]
        self._lean = [for_commits(store) for store in job.stores]
        self._tasks = _tasks(job)
        self._left = len(job.units)
        self._again = deque[_Task]()
        self._aside: list[str] = []
        self._seats: list[_Seat] = []
        self._waiting: dict[Any, tuple[_Seat, int | str]] = {}
        self._barren = 0
        self._looked = -math.inf
        on_card = any(backbone.device != "cpu" for backbone in job.backbones)
        self._cpus, self._gpus, self._places = _share(alive_machines(), settings.cluster.cpus, on_card)
        self._on_card = on_card

    def run(self) -> Iterator[Advance]:
        polled = 0.0
        while self._left:
            now = time.monotonic()
            if now - self._looked > _LOOK_SECONDS:
                self._looked = now
                self._look()
            self._feed()
            pause = max(1.0, 0.02 * len(self._seats))
            if now - polled > pause:
                polled = now
                self._poll()
                yield Advance(0, 0)  # the clock has gone on
            if not self._waiting:  # no machine is left: others may join
                time.sleep(pause)
                continue
            done, _ = self._ray.wait(list(self._waiting), timeout=pause, fetch_local=False)
            for reference in done:
                if reference in self._waiting:  # and not of an actor that was lost just now
                    yield from self._hear(reference)
        if self._aside:
            raise CrashedError("\n".join(self._aside))

    def close(self) -> None:
        for seat in self._seats:
            self._ray.kill(seat.actor)

    # Actors

    def _look(self) -> None:
        """Ask for an actor for each place that the cluster has, and no more than there are units."""
        with suppress(ClusterError):  # all machines are lost, and others may join
            _, _, self._places = _share(alive_machines(), self._cpus, self._on_card)
        for _ in range(min(self._places, self._left) - len(self._seats)):
            options = {"num_cpus": self._cpus, "num_gpus": self._gpus, "enable_task_events": False}
            actor: Any = self._ray.remote(_Actor).options(max_concurrency=_IN_FLIGHT + 2, **options)
            actor = actor.remote(self._setup(), self._storages, self._settings.workers, self._cpus, str(Path.cwd()))
            seat = _Seat(actor, [_plan_of(storage) for storage in self._storages])
            self._seats.append(seat)
            self._waiting[actor.hello.remote()] = seat, "hello"

    def _setup(self) -> bytes:
        """The pickled job without units, with what the memory of a network has turned out to take."""
        from ray import cloudpickle

        job = self._job
        backbones: Sequence[Backbone] = place(job.backbones, "cuda") if self._on_card else job.backbones
        fits = [memory_limit(b.forward) or fit for b, fit in zip(job.backbones, job.fits, strict=True)]
        pickled: bytes = cloudpickle.dumps(  # type: ignore[no-untyped-call]
            Job(self._lean, backbones, job.batch_size, fits)
        )
        return pickled

    def _lose(self, seat: _Seat) -> Iterator[Advance]:
        """Take back what an actor had that is gone, or whose process is; another one follows."""
        self._seats.remove(seat)
        self._looked = -math.inf
        self._clock.workers.pop(seat.name, None)
        self._waiting = {reference: call for reference, call in self._waiting.items() if call[0] is not seat}
        self._ray.kill(seat.actor)  # it may only have been out of reach
        for task in reversed(seat.running.values()):
            yield Advance(-task.counted[0], -task.counted[1])
            task.counted = 0, 0
            if len(task.crashed_on) < _CRASHES and task.kills < _KILLS:
                self._again.appendleft(task)
            else:
                self._left -= 1
                self._aside.append(self._named(task))

    # Units

    def _feed(self) -> None:
        for seat in self._seats:
            while seat.name and len(seat.running) < _IN_FLIGHT and (task := self._next(seat)):
                work = Work(task.number, task.unit, task.uris)
                seat.began = seat.began or time.monotonic()
                seat.running[task.number] = task
                self._waiting[seat.actor.compute.remote(task.number, pickle.dumps(work))] = seat, task.number

    def _next(self, seat: _Seat) -> _Task | None:
        """What ``seat`` takes next. One that is to be alone waits for an actor that has nothing, and has its peace.

        Where a process crashed, another machine is to try, while there is one where none did.
        """
        if any(task.alone for task in seat.running.values()):
            return None
        machines = {_machine(other.name) for other in self._seats if other.name}
        for task in self._again:
            crashed = {*map(_machine, task.crashed_on)}
            if _machine(seat.name) in crashed and not machines <= crashed:
                continue
            if task.alone and seat.running:
                return None
            self._again.remove(task)
            return task
        return next(self._tasks, None)

    def _poll(self) -> None:
        for seat in self._seats:
            if seat.running and not seat.polled:
                seat.polled = True
                self._waiting[seat.actor.progress.remote()] = seat, "progress"

    def _hear(self, reference: Any) -> Iterator[Advance]:
        exceptions = self._ray.exceptions
        seat, what = self._waiting.pop(reference)
        try:
            answer = self._ray.get(reference)
        except exceptions.RayTaskError as error:
            raise ClusterError(f"a worker cannot begin: {str(error).strip().splitlines()[-1]}") from error
        except exceptions.RayError as error:
            self._note_death(seat, error)
            yield from self._lose(seat)
            return
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, _Hello):
            self._welcome(seat, answer)
        elif isinstance(answer, Crash):
            yield from self._note(seat, answer.state)
            self._note_crash(seat, answer)
            yield from self._lose(seat)
        else:
            yield from self._note(seat, answer)
            if isinstance(what, int):
                del seat.running[what]
                self._left -= 1
                self._barren = 0
            else:
                seat.polled = False

    def _note_death(self, seat: _Seat, error: Exception) -> None:
        if getattr(error, "_actor_init_failed", False):
            raise ClusterError(f"a worker cannot begin: {str(error).strip().splitlines()[-1]}") from error
        for task in list(seat.running.values())[:1]:  # the one that it had in hand
            task.kills += 1
        if not seat.name:
            self._note_barren(str(error))

    def _note_barren(self, reason: str) -> None:
        self._barren += 1
        if self._barren >= _BARREN:
            raise ClusterError(f"{_BARREN} workers, one after the other, ended before they began: {reason}")

    def _welcome(self, seat: _Seat, hello: _Hello) -> None:
        check_versions(hello.name, hello.versions)
        for store, seen, before in zip(self._job.stores, hello.plans, seat.plans, strict=True):
            if seen not in (before, _plan_of(store.storage)):
                raise ClusterError(
                    f"the worker {hello.name} does not see {store.address} as this process does: artifacts and images "
                    "lie on storage that every machine of the cluster has under the same paths."
                )
        seat.name = hello.name

    def _note(self, seat: _Seat, state: State) -> Iterator[Advance]:
        self._clock.add(*(now - then for now, then in zip(state.seconds, seat.clock.seconds, strict=True)))
        seat.clock = Clock(*state.seconds)
        for backbone, fits in zip(self._job.backbones, state.fits, strict=False):
            if fits is not None:
                limit_memory(backbone.forward, min(fits, memory_limit(backbone.forward) or fits))
        for number, counts in (state.in_hand | state.committed).items():
            if number in seat.running:
                yield self._count(seat, seat.running[number], counts)

    def _count(self, seat: _Seat, task: _Task, counts: tuple[int, int]) -> Advance:
        images, failed = (now - then for now, then in zip(counts, task.counted, strict=True))
        task.counted = counts
        seat.images += images
        self._clock.workers[seat.name] = Pace(seat.images, time.monotonic() - seat.began, seat.clock)
        return Advance(images, failed)

    # Crashes

    def _note_crash(self, seat: _Seat, crash: Crash) -> None:
        in_hand = crash.state.in_hand
        if not in_hand:
            self._note_barren(f"{crash.how}. {crash.last_words}")
        for number, (through, _) in in_hand.items():
            task = seat.running[number]
            task.crash = crash
            task.kills += not crash.by_itself
            task.alone |= crash.by_itself
            if crash.by_itself and len(in_hand) == 1:
                task.crashed_on.append(seat.name)
                task.through = max(task.through, through)

    def _named(self, task: _Task) -> str:
        chunks = ", ".join(f"chunk {chunk.number} of {self._job.stores[store].address}" for store, chunk in task.unit)
        order = images_in_order(task.unit, self._job.batch_size)
        how, words = (task.crash.how, task.crash.last_words) if task.crash else ("the actor ended", "")
        if len(task.crashed_on) >= _CRASHES:
            why = f"{_CRASHES} workers crashed with it in hand ({how}; {', '.join(task.crashed_on)})"
            order = order[task.through : task.through + _BATCHES_READ_AHEAD * self._job.batch_size]
        else:
            why = f"its workers were killed {task.kills} times ({how}), perhaps for want of memory"
        named = "\n  ".join(task.uris[digest] for digest in order[:_IMAGES_NAMED])
        more = f"\n  and {len(order) - _IMAGES_NAMED:,} more" if len(order) > _IMAGES_NAMED else ""
        last = f"\nThe process wrote:\n{words}" if words else ""
        return (
            f"{chunks} is set aside: {why}. All others are committed. It is one of these images, or several: mend them "
            f"or leave them out of the dataset, and give the command again.\n  {named}{more}{last}"
        )


def _machine(name: str) -> str:
    """The machine of an actor of that name."""
    return name.rpartition(":")[0]


def _share(machines: Sequence[dict[str, float]], cpus: int | None, on_card: bool) -> tuple[int, int, int]:
    """Processors and cards of each actor, and for how many the machines of the cluster have room."""
    kind = "GPU" if on_card else "CPU"
    machines = [machine for machine in machines if machine.get(kind, 0) >= 1]
    if not machines:
        raise ClusterError(f"no machine of the Ray cluster has a {'card' if on_card else 'processor'} to give")
    counts = [(int(machine.get("CPU", 0)), int(machine.get("GPU", 0))) for machine in machines]
    own = cpus or min(max(1, processors // cards) if on_card else processors for processors, cards in counts)
    places = sum(min(processors // own, cards) if on_card else processors // own for processors, cards in counts)
    if not places:
        raise ClusterError(f"no machine of the Ray cluster has {own} processors to give: name fewer for each worker")
    return own, int(on_card), places
