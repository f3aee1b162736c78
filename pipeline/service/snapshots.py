"""The snapshot that is served, and the watcher that puts a newer one in its place.

::

    current.json changes -> the snapshot it names is opened beside the old one -> one reference is swapped

A request keeps the snapshot that it began with to its end. A snapshot that cannot be opened (damaged, half written,
deleted) is refused: the old one serves on, and is tried again later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from cache.errors import PermafrostError
from pipeline.service.gallery import Gallery

_FIRST_RETRY, _LAST_RETRY = 1.0, 30.0  # seconds until a refused snapshot is tried again, doubled each time


class Snapshots:
    """Serves ``current``, and another one when ``version`` is another.

    Args:
        open_gallery: opens what is to be served now.
        version: gives what differs when there is another snapshot; None where there is never another.
        on_change: called with ``opened`` or ``refused`` when there was another.
        seconds: how long to wait between two calls of ``version``.

    Raises what ``open_gallery`` raises for the first one.
    """

    def __init__(
        self,
        open_gallery: Callable[[], Gallery],
        version: Callable[[], object] | None = None,
        *,
        on_change: Callable[[str], object],
        seconds: float = 1.0,
    ) -> None:
        self._open, self._ask, self._on_change, self._seconds = open_gallery, version, on_change, seconds
        self._seen = self._version()
        self.current = open_gallery()
        self.refused: str | None = None
        """Why the snapshot that the file names is not served; None where it is."""
        self._retry_at, self._retry_after = 0.0, _FIRST_RETRY
        self._closed = threading.Event()
        if version is not None:
            threading.Thread(target=self._watch, daemon=True).start()

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()

    def look(self) -> None:
        """Look at the file once; put the snapshot that it names in place where it is another one."""
        version = self._version()
        if version == self._seen and (self.refused is None or time.monotonic() < self._retry_at):
            return
        if version != self._seen:
            self._retry_after = _FIRST_RETRY
        try:
            opened = self._open()
        except (PermafrostError, OSError, ValueError, KeyError) as error:
            self.refused = f"{type(error).__name__}: {error}"
            self._retry_at = time.monotonic() + self._retry_after
            self._retry_after = min(2 * self._retry_after, _LAST_RETRY)
            self._seen = version
            self._on_change("refused")
            return
        self._seen, self.current, self.refused = version, opened, None
        self._on_change("opened")

    def _watch(self) -> None:
        while not self._closed.wait(self._seconds):
            self.look()

    def _version(self) -> object:
        """What differs when there is another snapshot; None where that cannot be told."""
        try:
            return None if self._ask is None else self._ask()
        except (PermafrostError, OSError):
            return None


def file_version(path: Path) -> tuple[int, ...]:
    """What differs when the file ``path`` was replaced. Raises OSError."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
