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
from stages.device import keep_freed_memory
from stages.extraction.embedder import memory_limit
from stages.extraction.executor import Job, Unit, compute_units, prepare_networks
from stages.extraction.flow import Clock
from stages.processes import PROCESSORS, processors

_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_LAST_WORDS = 2000  # characters of stderr

Counts = dict[int, tuple[int, int]]  # images through, and failed ones, of units by their number in the job


class Work(NamedTuple):
    """A unit to compute, with the number that it has in the job, and where its images are."""

    number: int
    unit: Unit
    uris: dict[bytes, str]


class State(NamedTuple):
    """How far a process is: units in hand, those that it has just committed, seconds, and squares that memory takes."""

    in_hand: Counts
    committed: Counts
    seconds: tuple[float, float, float, float]
    fits: tuple[int | None, ...]


class Crash(NamedTuple):
    """How a process ended that did not say why, how far it was, and what it wrote last."""

    how: str
    by_itself: bool
    state: State
    last_words: str


class Worker:
    """Computes units in a process of its own, until that ends or is closed.

    The ``job`` is pickled, without units; ``workers`` threads read and decode, by default one for each of the ``cpus``.
    """

    def __init__(self, job: bytes, workers: int | None, cpus: int) -> None:
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
        self._waiting: dict[int, Future[State | Crash | BaseException]] = {}
        self._state = State({}, {}, Clock().seconds, ())
        self._ended: Crash | BaseException | None = None
        self._lock = threading.Lock()
        with suppress(OSError):  # it has ended already: the listener says how
            self._connection.send_bytes(pickle.dumps((job, workers)))
        threading.Thread(target=self._listen, daemon=True).start()

    def compute(self, number: int, work: bytes) -> State | Crash | BaseException:
        """Wait until the pickled ``work`` of this number is committed, or the process has ended: then how it did."""
        future: Future[State | Crash | BaseException] = Future()
        with self._lock:
            if self._ended is not None:
                return self._ended
            self._waiting[number] = future
            with suppress(OSError):  # it is ending: the listener says how
                self._connection.send_bytes(work)
        return future.result()

    def progress(self) -> State:
        """How far it is."""
        return self._state

    def close(self) -> None:
        """End the process."""
        self.process.kill()

    def _listen(self) -> None:
        error: BaseException | None = None
        try:
            while error is None:
                message: State | BaseException = self._connection.recv()
                if isinstance(message, BaseException):
                    error = message
                    continue
                self._state = message
                with self._lock:
                    for number in message.committed:
                        self._waiting.pop(number).set_result(message)
        except (EOFError, OSError):
            pass
        except Exception as unreadable:  # noqa: BLE001 (raised where the job was asked for)
            error = unreadable
            self.process.kill()
        status = self.process.wait()
        with self._lock, self._connection, self._stderr:
            self._ended = error or self._crash(status)
            for future in self._waiting.values():
                future.set_result(self._ended)

    def _crash(self, status: int) -> Crash:
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _LAST_WORDS))
        words = self._stderr.read().decode(errors="replace").strip()
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return Crash(how, status >= 0 or -status not in _FROM_OUTSIDE, self._state, words)


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
    keep_freed_memory(one_arena=all(backbone.device == "cpu" for backbone in job.backbones))
    prepare_networks(job)
    uris: dict[bytes, str] = {}  # of the units in hand
    job = job._replace(uris=lambda digests: [uris[digest] for digest in digests])
    coming: queue.SimpleQueue[Work] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, coming), daemon=True).start()
    works: dict[int, Work] = {}
    reading = deque[Work]()  # those whose images are not all through
    chunks: dict[tuple[int, int], int] = {}  # the unit of each chunk that is not committed
    in_hand: Counts = {}
    clock = Clock()

    def say(committed: Counts) -> None:
        limits = tuple(memory_limit(backbone.forward) for backbone in job.backbones)
        connection.send(State(in_hand, committed, clock.seconds, limits))

    def units(work: Work) -> Iterator[Unit]:
        while True:
            works[work.number] = work
            in_hand[work.number] = 0, 0
            uris.update(work.uris)
            chunks.update(((store, chunk.number), work.number) for store, chunk in work.unit)
            reading.append(work)
            say({})
            yield work.unit
            try:
                work = coming.get_nowait()
            except queue.Empty:  # finish what is begun, and then wait
                return

    while True:
        for advance in compute_units(job, units(coming.get()), workers, clock, float("inf")):
            first = reading[0]
            through, failed = in_hand[first.number]
            in_hand[first.number] = through + advance.images, failed + advance.failed
            if through + advance.images == len(first.uris):
                reading.popleft()
            committed: Counts = {}
            for number in {chunks.pop(chunk) for chunk in advance.committed}.difference(chunks.values()):
                committed[number] = in_hand.pop(number)
                for digest in works.pop(number).uris:
                    del uris[digest]
            say(committed)


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
