"""What commands say while they work, and how: messages and bars on stderr, numbers and tables in words."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

Update = Callable[[int, int | None, str], None]

_LOG_SECONDS = 30


class LogFormat(StrEnum):
    """How the lines on stderr look: for a person, with the time before each, or as JSON objects."""

    plain = "plain"
    time = "time"
    json = "json"

    def line(self, text: str, level: str) -> str:
        """``text`` of the ``level`` info, warning or error, at this time.

        >>> LogFormat.plain.line("2 images failed", "warning")
        '2 images failed'
        """
        if self is LogFormat.plain:
            return f"error: {text}" if level == "error" else text
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        if self is LogFormat.json:
            return json.dumps({"time": now, "level": level, "message": text})
        return f"{now} {level}: {text}"


log_format = LogFormat.plain  # of this process: the command line sets it


def set_log_format(wanted: LogFormat) -> None:
    """Print lines on stderr in the format ``wanted`` from now on."""
    global log_format
    log_format = wanted


def stamped(text: str) -> str:
    """A result of a command that a nightly job writes, as a line of its log."""
    return log_format.line(text, "info")


def counted_text(count: int, thing: str) -> str:
    """So many of a ``thing``.

    >>> counted_text(1, "image"), counted_text(2000, "image")
    ('1 image', '2,000 images')
    """
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


class Display:
    """Messages and progress bars on stderr; with ``quiet`` only warnings, each once, and none without ``warnings``."""

    def __init__(self, *, quiet: bool = False, warnings: bool = True) -> None:
        self.quiet = quiet
        self._warnings, self._warned = warnings, set[str]()
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one line about what was done; nothing with ``quiet``."""
        if not self.quiet:
            self.console.print(log_format.line(text, "info"), markup=False)

    def warn(self, text: str) -> None:
        """Print one line that should be read, in yellow, unless it was printed before."""
        if not self._warnings or text in self._warned:
            return
        self._warned.add(text)
        style = "yellow" if log_format is LogFormat.plain else None
        self.console.print(log_format.line(text, "warning"), markup=False, style=style)

    def list_failed(self, reasons: Mapping[str, str], rest: str = "", *, shown: int = 20) -> None:
        """Warn of the first images that failed, by name; ``rest`` says where the others are."""
        for name, reason in list(reasons.items())[:shown]:
            self.warn(f"  failed: {name}: {reason}")
        if len(reasons) > shown:
            self.warn(f"  and {len(reasons) - shown:,} more{rest}")

    @contextmanager
    def bar(self, what: str, unit: str) -> Iterator[Update]:
        """A progress bar; call what it yields with (done, total, remark)."""
        left = TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TaskProgressColumn()
        right = TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[remark]}")
        bars = not self.quiet and self.console.is_terminal and log_format is LogFormat.plain
        started = logged = time.monotonic()
        with Progress(*left, *right, console=self.console, disable=not bars, transient=True) as progress:
            task = progress.add_task(what, total=None, rate="", remark="")

            def update(done: int, total: int | None, remark: str = "") -> None:
                nonlocal logged
                rate = f"{_number(done / max(1e-3, time.monotonic() - started))} {unit}/s"
                if progress.disable and time.monotonic() - logged > _LOG_SECONDS:  # a log file gets lines, not a bar
                    logged = time.monotonic()
                    whole = "" if total is None else f" of {total:,}"
                    self.say(f"{what}: {done:,}{whole}, {rate} {remark}")
                progress.update(task, completed=done, total=total, rate=rate, remark=remark)

            yield update


def _number(rate: float) -> str:
    """Two digits at least: a slow rate is not none."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def duration_text(seconds: float) -> str:
    """``seconds`` as a person reads them.

    >>> duration_text(1.44), duration_text(69), duration_text(10_000)
    ('1.4 s', '1 min', '2.8 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def aligned(table: Sequence[Sequence[str]], *, texts: int) -> list[str]:
    """A line for each row of cells, the first ``texts`` columns flush left and the others right."""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]
