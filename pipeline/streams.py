"""What a command prints on: a stream that is closed, broken or on a full disk does not end work that goes well."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO


def open_streams() -> None:
    """Replace ``sys.stdout`` and ``sys.stderr`` by streams whose writes do not fail.

    A descriptor that is closed, as daemons and schedulers leave it, is opened on ``/dev/null`` first: the next file
    that is opened would get its number, and what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    sys.stdout, sys.stderr = _text(sys.stdout, 1), _text(sys.stderr, 2)


def lost_output() -> OSError | None:
    """Why results did not reach stdout; None where they did, or where their reader wants no more (``| head``)."""
    error = _lost.get(1)
    return None if error is None or error.errno == errno.EPIPE else error


_lost: dict[int, OSError] = {}  # by descriptor


class _Unfailing(io.RawIOBase):
    """Writes to a descriptor; after the first failure it discards everything."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        if self._number not in _lost:
            try:
                return os.write(self._number, content)
            except OSError as error:
                _lost[self._number] = error
        return len(content)


def _text(stream: TextIO | None, number: int) -> TextIO:
    """A stream like ``stream``, which is None where the descriptor ``number`` was closed."""
    encoding, errors = ("utf-8", None) if stream is None else (stream.encoding, stream.errors)
    raw = _Unfailing(number)
    lines = number == 2 or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=lines)
