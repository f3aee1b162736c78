"""Whole files or none: write beside, flush to disk, rename."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.errors import UnwritableError

PARTIAL = ".partial"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Make an OSError inside an :class:`UnwritableError`, which names ``path`` and says how to go on."""
    try:
        yield
    except OSError as error:
        raise UnwritableError(path, error) from error


def replace_bytes(path: Path, content: bytes | memoryview) -> None:
    """Make ``path`` hold ``content``: after a crash at any instant it holds the old bytes or the new, never a mix.

    Makes the folder of ``path`` where there is none. Raises :class:`UnwritableError`, as on a full disk.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}{PARTIAL}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(path.parent)


def replace_text(path: Path, text: str) -> None:
    """:func:`replace_bytes` for UTF-8 text."""
    replace_bytes(path, text.encode("utf-8"))


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable: a rename is on disk only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
