"""Local copies of objects whose bytes are known by their checksum: read once from far away, then mapped.

They lie in ``$PERMAFROST_CACHE/copies``, by default ``~/.cache/permafrost/copies``, and can be deleted at any moment. A
copy is verified when it is opened, so a damaged one is read again; one that would leave less than a gigabyte of the
disk free is not made. Those of bundles, which open by them alone, lie in ``bundles`` beside, and are made in any case.
"""

from __future__ import annotations

import mmap
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

import google_crc32c
import numpy as np

from cache.atomic import PARTIAL, disk_errors, replace_bytes
from cache.errors import UnwritableError
from cache.fingerprint import digest_bytes
from cache.storage import Storage

_LEAST_FREE_BYTES = 1_000_000_000
_PART_BYTES = 1 << 26


def cache_folder() -> Path:
    """Where this machine keeps what only saves time: ``$PERMAFROST_CACHE``, or ``~/.cache/permafrost``."""
    folder = os.environ.get("PERMAFROST_CACHE")
    return Path(folder) if folder else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "permafrost"


def copy_path(storage: Storage, key: str, checksum: int) -> Path:
    """Where the copy of the object at ``key`` is whose bytes before the last four have the crc32c ``checksum``."""
    return cache_folder() / "copies" / f"{digest_bytes(storage.address(key).encode()).hex()[:32]}-{checksum:08x}"


def read_through(storage: Storage, key: str, checksum: int) -> memoryview:
    """The bytes at ``key``, which end with their crc32c: from the copy, which is made where there is none.

    What does not have the ``checksum`` is returned as it was read, without a copy: who asked finds what is wrong.
    """
    path = copy_path(storage, key, checksum)
    with suppress(OSError, ValueError):
        with path.open("rb") as file:
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if _is_right(mapped, checksum):
            return mapped
    content = memoryview(storage.read(key))
    if _is_right(content, checksum):
        with suppress(OSError, UnwritableError):  # it only saves time
            path.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(path.parent).free - len(content) > _LEAST_FREE_BYTES:
                replace_bytes(path, content)
    return content


def copy_object(storage: Storage, key: str, path: Path) -> None:
    """Make the file ``path`` a copy of the object at ``key``, whole or not at all; a part at a time is in memory."""
    size = storage.size(key)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}{PARTIAL}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = partial.open("wb")
    try:
        with file:
            for start in range(0, size, _PART_BYTES):
                content = storage.read(key, start, min(size, start + _PART_BYTES))
                with disk_errors(path):
                    file.write(content)
        with disk_errors(path):
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _is_right(content: memoryview, checksum: int) -> bool:
    whole = np.frombuffer(content, np.uint8)
    return content[-4:] == checksum.to_bytes(4, "little") and google_crc32c.value(whole[:-4]) == checksum
