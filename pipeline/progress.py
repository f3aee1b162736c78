"""Progress bars and messages on stderr, nothing on stdout."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

Update = Callable[[int, int | None, str], None]

_LOG_SECONDS = 30  # seconds


class Display:
    """Messages and progress bars on stderr; with ``quiet``, warnings alone."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one line about what was done; nothing with ``quiet``."""
        if not self.quiet:
            self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print one line that should be read, in yellow."""
        self.console.print(text, markup=False, style="yellow")

    @contextmanager
    def bar(self, what: str, unit: str) -> Iterator[Update]:
        """A progress bar; call what it yields with (done, total, remark)."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[remark]}"),
        )
        started = logged = time.monotonic()
        with Progress(
            *columns, console=self.console, disable=self.quiet or not self.console.is_terminal, transient=True
        ) as progress:
            task = progress.add_task(what, total=None, rate="", remark="")

            def update(done: int, total: int | None, remark: str = "") -> None:
                nonlocal logged
                rate = done / max(1e-3, time.monotonic() - started)
                if progress.disable and time.monotonic() - logged > _LOG_SECONDS:  # a log file gets lines, not a bar
                    logged = time.monotonic()
                    whole = "" if total is None else f" of {total:,}"
                    self.say(f"{what}: {done:,}{whole}, {rate:,.0f} {unit}/s {remark}")
                progress.update(task, completed=done, total=total, rate=f"{rate:,.0f} {unit}/s", remark=remark)

            yield update
