"""Whole files or none: write beside, flush to disk, rename."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

PARTIAL = ".partial"


def replace_bytes(path: Path, content: bytes | memoryview) -> None:
    """Make ``path`` hold ``content``: after a crash at any instant it holds the old bytes or the new, never a mix."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}{PARTIAL}")
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
