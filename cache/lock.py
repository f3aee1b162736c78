"""One driver a folder, held by the kernel: a lock of a dead process holds nobody up.

The lock is a local thing, of one machine (or of one network file system that locks). It keeps two runs from the same
work; what is committed is safe without it (:meth:`cache.Storage.put_new`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.atomic import disk_errors
from cache.errors import StoreBusyError, StoreError

_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
_SWITCH = "PERMAFROST_LOCKS"


@contextmanager
def writer_lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock ``<folder>.lock``, or raise :class:`StoreBusyError`, which names the holder (host, process).

    With ``wait`` it waits for the holder instead. The lock is an ``flock``: it ends with the process that took it,
    however that ends. The file itself stays, so that two processes can never hold two files of one name. Raises
    StoreError on a file system without locks, unless the environment says ``PERMAFROST_LOCKS=off``.
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
            holder = file.read().strip() or "another process"
            raise StoreBusyError(
                f"{folder} is being written by {holder}. Wait for it (--wait does), or stop it: what it has "
                "committed is kept, and a second run goes on from there."
            ) from None
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
