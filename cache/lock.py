"""One driver a store, so that two runs do not do the same work; what is committed is safe without it.

In a folder it is a lock that the kernel holds, of one machine or of one network file system that locks: a dead process
holds nobody up. Object storage has no locks: there it is a lease that is renewed, and that runs out with its holder::

    <store>.lock/00000001    who drives, or "free"; the one with the highest number counts

The next driver takes the next number by a create-only put, of several exactly one; nobody writes to another's number.
It may do so once the last lease is free, or was not renewed for a minute by the server's own clock, or its process is
seen to be dead, on the same machine. A driver that could not renew in time commits nothing any more.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cache.atomic import disk_errors
from cache.errors import StoreBusyError, StoreError
from cache.object_storage import ObjectStorage
from cache.storage import Storage

_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
_SWITCH = "PERMAFROST_LOCKS"
_RENEWED_EVERY, _SAFE_FOR, _RUNS_OUT_AFTER = 10.0, 40.0, 60.0  # seconds
_KEPT = 8  # numbers that stay, should a listing lag
_leases: dict[str, _Lease] = {}


@contextmanager
def writer_lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock ``<folder>.lock``, or raise :class:`StoreBusyError`, which names the holder; or ``wait`` for it.

    The file itself stays, so that two processes can never hold two files of one name. Raises StoreError on a file
    system without locks, unless the environment says ``PERMAFROST_LOCKS=off``.
    """
    path = folder.with_name(f"{folder.name}.lock")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise StoreBusyError(_busy(folder, file.read().strip())) from None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            if os.environ.get(_SWITCH) != "off":
                raise StoreError(
                    f"{path} cannot be locked: {error.strerror}. The lock keeps two runs from writing to one store at "
                    "once, and this file system has none. Put the artifacts on one that locks (a local disk, or a "
                    f"network share mounted with locks); or, where no other run writes, set {_SWITCH}=off."
                ) from error
        with suppress(OSError):  # who holds it is a courtesy, for which a full disk may have no room
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        try:
            yield
        finally:
            file.truncate(0)


def _busy(place: Path | str, holder: str | None) -> str:
    return (
        f"{place} is being written by {holder or 'another process'}. Wait for it (--wait does), or stop it: what it "
        "has committed is kept, and a second run goes on from there."
    )


class _Lease:
    """A lease that this process holds: renewed by a thread until it is released, or lost."""

    def __init__(self, locks: ObjectStorage, number: int, taken: float) -> None:
        self._locks, self._number, self._renewed = locks, number, taken
        self._ends, self._lost = threading.Event(), False
        self._thread = threading.Thread(target=self._renew_on_and_on, name="lease", daemon=True)
        self._thread.start()

    def holds(self) -> bool:
        """Whether no other driver can have taken over yet."""
        return not self._lost and _now() - self._renewed < _SAFE_FOR

    def _renew_on_and_on(self) -> None:
        while not self._ends.wait(_RENEWED_EVERY):
            began = _now()
            with suppress(StoreError, OSError):  # as long as it lasts; then holds() tells
                self._locks.put_soon(_key(self._number), _note("held"))
                self._lost |= bool(_latest(self._locks, self._number)[0] > self._number)
                self._renewed = began

    def release(self) -> None:
        """Let the next driver in at once."""
        self._ends.set()
        self._thread.join()
        with suppress(StoreError, OSError):  # it runs out
            self._locks.put_soon(_key(self._number), _note("free"))


@contextmanager
def driver_lease(store: ObjectStorage, *, wait: bool = False) -> Iterator[None]:
    """Be the driver of ``store``, or raise :class:`StoreBusyError`, which names the one that is; ``wait`` for it."""
    locks = ObjectStorage(f"{store.url}.lock")
    while True:
        number, holder = _latest(locks)
        if holder is None or _is_over(locks, number, holder):
            taken = _now()
            if locks.put_new(_key(number + 1), _note("held")):
                break
        elif wait:
            time.sleep(1.0)
        else:
            raise StoreBusyError(
                f"{_busy(store.url, holder.get('who'))} Where it was killed on another machine, its lease runs out "
                f"{_RUNS_OUT_AFTER:.0f} s later."
            )
    lease = _leases[store.url] = _Lease(locks, number + 1, taken)
    try:
        with suppress(StoreError, OSError):
            for key in locks.list():
                if key.isdecimal() and int(key) < number - _KEPT:
                    locks.delete(key)
        yield
    finally:
        del _leases[store.url]
        lease.release()


def confirm_driver(storage: Storage) -> None:
    """Raise StoreBusyError where this process drives ``storage`` and can no longer be sure that nobody else does."""
    lease = _leases.get(storage.address())
    if lease is not None and not lease.holds():
        raise StoreBusyError(
            f"{storage.address()} could not be reached for {_SAFE_FOR:.0f} s, and another process may write to it now. "
            "What is committed is kept; run the command again."
        )


def _key(number: int) -> str:
    return f"{number:08d}"


def _latest(locks: ObjectStorage, known: int | None = None) -> tuple[int, dict[str, Any] | None]:
    """The last number that was taken (from ``known`` on), and what it says; 0 and None where there is none."""
    number = max((int(key) for key in locks.list() if key.isdecimal()), default=0) if known is None else known
    note = _read(locks.read(_key(number))) if number and known is None else None
    with suppress(FileNotFoundError):
        while True:  # the listing may lag: the next number tells
            note = _read(locks.read(_key(number + 1)))
            number += 1
    return number, note


def _read(content: bytes) -> dict[str, Any]:
    with suppress(ValueError, TypeError):
        return dict(json.loads(content))
    return {}


def _is_over(locks: ObjectStorage, number: int, note: dict[str, Any]) -> bool:
    """Whether the lease was released, its process is dead, or it has run out by the server's clock."""
    if note.get("state") == "free":
        return True
    if note.get("machine") == _machine() is not None and note.get("started") != _started(note.get("process")):
        return True
    clock = f"now-{secrets.token_hex(8)}"
    locks.put(clock, b"")
    age = locks.modified(clock) - locks.modified(_key(number))
    locks.delete(clock)
    return age.total_seconds() > _RUNS_OUT_AFTER


def _note(state: str) -> bytes:
    who = f"process {os.getpid()} on {socket.gethostname()}"
    note = {"who": who, "machine": _machine(), "process": os.getpid(), "started": _started(os.getpid())}
    return json.dumps(note | {"state": state}).encode()


def _machine() -> str | None:
    """What two processes share that see each other's numbers; None where that cannot be told."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _started(process: object) -> str | None:
    """When a process of this machine started; None where there is none. Its number alone may be another's by now."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]  # killed, and not yet reaped
    except OSError:
        return None


def _now() -> float:
    """Seconds that go on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
