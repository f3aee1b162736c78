"""A process that computes units for another, which sees how it ends: by itself, or killed from outside.

The exit status of a process is known to its parent alone, so the actor, which holds no image, has a child to compute: a
status or a signal such as SIGSEGV is a crash by itself, SIGKILL and SIGTERM come from outside.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NamedTuple

from cache.errors import PermafrostError
from stages.extraction.executor import Job, Unit, compute_units, prepare_networks
from stages.extraction.flow import Clock
from stages.malloc import keep_freed_memory
from stages.processes import PROCESSORS, processors

_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_LAST_WORDS = 2000  # characters of stderr


class Work(NamedTuple):
    """A unit to compute, with the number that it has in the job, and where its images are."""

    number: int
    unit: Unit
    uris: dict[bytes, str]


class Crash(NamedTuple):
    """How a unit's process ended, with the units that it had begun, and the images of this one that were through."""

    how: str
    by_itself: bool
    in_hand: tuple[int, ...]
    through: int
    last_words: str


class Progressed(NamedTuple):
    """Images through and failed of each unit in hand, what took the time, and squares that the memory takes at once."""

    units: dict[int, tuple[int, int]]
    clock: Clock
    fits: tuple[int | None, ...]


class Computed(NamedTuple):
    """A unit that is committed, or whose process crashed."""

    images: int
    failed: int
    progress: Progressed
    crash: Crash | None = None


class _Report(NamedTuple):
    """What the process says after each batch, or as it begins a unit."""

    begun: int | None = None
    through: tuple[int, int, int] | None = None  # a unit, and its images that are through and failed by now
    committed: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()
    fits: tuple[int | None, ...] = ()


class Worker:
    """Computes units in a process of its own, which is started with the first, and again after a crash.

    The ``job`` is pickled, without units; ``workers`` threads read and decode, by default one for each of the ``cpus``.
    """

    def __init__(self, job: bytes, workers: int | None, cpus: int) -> None:
        self._setup = pickle.dumps((job, workers))
        self._cpus = cpus
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._clock = Clock()

    def compute(self, work: Work) -> Computed | BaseException:
        """Wait until ``work`` is committed or its process has ended; the error that it ended with."""
        with self._lock:
            if self._child is None or self._child.ended:
                self._child = _Child(self._setup, self._cpus, self._clock)
            future = self._child.take(work)
        return future.result()

    def progress(self) -> Progressed:
        """How far it is."""
        child = self._child
        return child.progress() if child else Progressed({}, self._clock, ())

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._child is not None:
                self._child.process.kill()


class _Child:
    """The process, its units, and a thread that listens to it."""

    def __init__(self, setup: bytes, cpus: int, clock: Clock) -> None:
        own, other = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        environment = os.environ | {PROCESSORS: str(cpus), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        begin = f"from {__name__} import main; main({other.fileno()})"
        command = [sys.executable, "-X", "faulthandler", "-c", begin]
        with other:
            self.process = subprocess.Popen(  # noqa: S603 (this very module)
                command, pass_fds=[other.fileno()], env=environment, stdin=subprocess.DEVNULL, stderr=self._stderr
            )
        self._connection = Connection(own.detach())
        self._clock = clock
        self._units: dict[int, Future[Computed | BaseException]] = {}
        self._counts: dict[int, tuple[int, int]] = {}  # of each unit in hand, in order
        self._fits: tuple[int | None, ...] = ()
        self._error: BaseException | None = None
        self._status = 0
        self._lock = threading.Lock()
        self.ended = False
        with suppress(OSError):  # it has ended already: the listener says how
            self._connection.send_bytes(setup)
        threading.Thread(target=self._listen, daemon=True).start()

    def take(self, work: Work) -> Future[Computed | BaseException]:
        future: Future[Computed | BaseException] = Future()
        with self._lock:
            self._units[work.number] = future
            with suppress(OSError):  # it is ending: the listener says how
                self._connection.send(work)
        return future

    def progress(self) -> Progressed:
        with self._lock:
            return Progressed(dict(self._counts), Clock(*self._clock.seconds), self._fits)

    def _listen(self) -> None:
        try:
            while self._error is None:
                message: _Report | BaseException = self._connection.recv()
                if isinstance(message, BaseException):
                    self._error = message
                else:
                    with self._lock:
                        self._note(message)
        except (EOFError, OSError):
            pass
        except Exception as error:  # noqa: BLE001 (raised where the job was asked for)
            self._error = error
            self.process.kill()
        self._status = self.process.wait()
        with self._lock:
            self.ended = True
            self._resolve()
        self._connection.close()

    def _note(self, report: _Report) -> None:
        if report.begun is not None:
            self._counts[report.begun] = 0, 0
            return
        self._clock.add(*report.seconds)
        self._fits = report.fits
        if report.through is not None:
            number, *counts = report.through
            self._counts[number] = counts[0], counts[1]
        for number in report.committed:
            images, failed = self._counts.pop(number)
            progress = Progressed(dict(self._counts), Clock(*self._clock.seconds), self._fits)
            self._units.pop(number).set_result(Computed(images, failed, progress))

    def _resolve(self) -> None:
        """Say of all units that are left how the process ended."""
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _LAST_WORDS))
        words = self._stderr.read().decode(errors="replace").strip()
        self._stderr.close()
        how = signal.Signals(-self._status).name if self._status < 0 else f"exit status {self._status}"
        by_itself = self._status >= 0 or -self._status not in _FROM_OUTSIDE
        progress = Progressed({}, Clock(*self._clock.seconds), self._fits)
        for number, future in self._units.items():
            images, failed = self._counts.get(number, (0, 0))
            crash = Crash(how, by_itself, tuple(self._counts), images, words)
            future.set_result(self._error or Computed(images, failed, progress, crash))
        self._units.clear()


def main(descriptor: int) -> None:
    """Compute what comes through the socket, until it closes."""
    connection = Connection(descriptor)
    try:
        job, workers = pickle.loads(connection.recv_bytes())  # noqa: S301 (of the parent)
        _compute(pickle.loads(job), workers or processors(), connection)  # noqa: S301
    except EOFError:
        return
    except BaseException as error:  # noqa: BLE001 (raised where the job was asked for)
        _send_error(connection, error)


def _compute(job: Job, workers: int, connection: Connection) -> None:
    from stages.extraction.embedder import memory_limit

    keep_freed_memory(one_arena=all(backbone.device == "cpu" for backbone in job.backbones))
    prepare_networks(job)
    uris: dict[bytes, str] = {}  # of the units in hand
    job = job._replace(uris=lambda digests: [uris[digest] for digest in digests])
    coming: queue.SimpleQueue[Work] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, coming), daemon=True).start()
    reading = deque[list[int]]()  # number, images that are not through, those that are, and failed ones
    chunks: dict[tuple[int, int], int] = {}  # the unit of each chunk that is not committed
    works: dict[int, Work] = {}
    clock, before = Clock(), Clock().seconds

    def units(work: Work) -> Iterator[Unit]:
        while True:
            connection.send(_Report(begun=work.number))
            works[work.number] = work
            uris.update(work.uris)
            chunks.update(((store, chunk.number), work.number) for store, chunk in work.unit)
            reading.append([work.number, len(work.uris), 0, 0])
            yield work.unit
            try:
                work = coming.get_nowait()
            except queue.Empty:  # finish what is begun, and then wait
                return

    while True:
        for advance in compute_units(job, units(coming.get()), workers, clock, float("inf")):
            through = None
            if advance.images:
                first = reading[0]
                first[1] -= advance.images
                first[2] += advance.images
                first[3] += advance.failed
                through = first[0], first[2], first[3]
                if not first[1]:
                    reading.popleft()
            done = {chunks.pop(chunk) for chunk in advance.committed} - set(chunks.values())
            for number in done:
                for digest in works.pop(number).uris:
                    del uris[digest]
            now = clock.seconds
            seconds, before = tuple(late - early for late, early in zip(now, before, strict=True)), now
            fits = tuple(memory_limit(backbone.forward) for backbone in job.backbones)
            connection.send(_Report(None, through, tuple(done), seconds, fits))


def _receive(connection: Connection, coming: queue.SimpleQueue[Work]) -> None:
    with suppress(EOFError, OSError):
        while True:
            coming.put(connection.recv())
    os._exit(1)  # the parent is gone


def _send_error(connection: Connection, error: BaseException) -> None:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:  # noqa: BLE001 (an exception of a library that cannot be pickled)
        error = PermafrostError(f"{type(error).__name__}: {error}")
    with suppress(OSError):
        connection.send(error)
