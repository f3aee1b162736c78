"""Whole files or none, on a local disk: write beside, flush to disk, then rename or link."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.errors import UnwritableError

PARTIAL = ".partial"
_TICK_NS, _COARSE_TICK_NS = 50_000_000, 2_000_000_000
_ATTEMPTS = 8


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Make an OSError inside an :class:`UnwritableError`, which names ``path`` and says how to go on."""
    try:
        yield
    except OSError as error:
        raise UnwritableError(path, error) from error


@contextmanager
def unless_read_only(on_note: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Go on, with a note, where what only spares work lies in a folder that is to be read alone.

    A full disk is an :class:`UnwritableError` still.
    """
    try:
        yield
    except UnwritableError as error:
        if not error.read_only:
            raise
        on_note(f"note: {error.path} is read-only, so it is not written")


def replace_bytes(path: Path, content: bytes | memoryview) -> None:
    """Make ``path`` hold ``content``, whole: after a crash the old bytes or the new. Raises UnwritableError."""
    _write_whole(path, content, Path.replace)


def create_bytes(path: Path, content: bytes | memoryview) -> bool:
    """As durably make ``path`` hold ``content`` if there is no such file; False where there is: one writer succeeds."""
    return _write_whole(path, content, _link)


def replace_text(path: Path, text: str) -> None:
    """:func:`replace_bytes` for UTF-8 text."""
    replace_bytes(path, text.encode("utf-8"))


def clear_partials(folder: Path) -> None:
    """Delete the temporary files that dead writers left below ``folder``; a live writer holds a lock on its own."""
    for partial in folder.rglob(f"*{PARTIAL}"):
        with suppress(OSError), partial.open("rb") as file:  # gone, locked, or on a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()


def tick_of(changed_ns: int) -> int:
    """For how many ns a file that is written again may keep its time: a tick of its file system's clock."""
    return _TICK_NS if changed_ns % 1_000_000_000 else _COARSE_TICK_NS


def wait_for_tick(changed_ns: int) -> None:
    """Wait until a file that changed at ``changed_ns`` cannot be written again and keep that time."""
    tick = tick_of(changed_ns)
    if (left := changed_ns + tick - time.time_ns()) > 0:
        time.sleep(min(left, tick) / 1e9)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable: a rename is on disk only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_whole(path: Path, content: bytes | memoryview, publish: Callable[[Path, Path], object]) -> bool:
    """Write a temporary file beside ``path`` and ``publish`` it; False where ``publish`` finds ``path`` taken.

    Between two steps another process may delete it or its empty folder (:func:`clear_partials`): then it is begun
    again.
    """
    published = True
    with disk_errors(path):
        for attempt in range(_ATTEMPTS):
            partial = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}{PARTIAL}")
            _make_folder(path.parent)
            try:
                with partial.open("wb") as file:
                    with suppress(OSError):  # a file system without locks
                        fcntl.flock(file, fcntl.LOCK_EX)
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                    publish(partial, path)
                break
            except FileExistsError:
                published = False
                break
            except FileNotFoundError:
                if attempt == _ATTEMPTS - 1:
                    raise
            finally:
                partial.unlink(missing_ok=True)
        sync_folder(path.parent)
    return published


def _link(partial: Path, path: Path) -> None:
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: check and rename under a lock on the folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if path.exists():
                raise FileExistsError(path) from None
            partial.replace(path)
        finally:
            os.close(folder)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
