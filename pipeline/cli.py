"""The command ``permafrost``: results on stdout, everything else on stderr.

Exit status: 0 done, 1 a run failed (one message, a traceback with ``--debug``), 2 wrong usage or run file, as a path
where nothing is, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from pipeline import progress
from pipeline.progress import LogFormat

COMMANDS = (
    "plan", "extract", "train-heads", "score", "run", "demo", "init", "keys", "curate", "sweep", "table", "report",
    "search", "features", "export", "serve", "encode", "add", "remove", "publish", "inspect", "verify", "compact",
    "compare", "gallery-sizes", "threshold", "health",
)  # fmt: skip
"""Every command, in a file of its own in ``pipeline/commands``, in the order of ``permafrost --help``."""

_WRONG_USAGE, _INTERRUPTED = 2, 130
_STOPPED = "Stopped. What is stored stays: the same command goes on from there."
_GRACE_SECONDS = 0.5
_SHOW_CURSOR = "\x1b[?25h"
_HOME = Path(__file__).resolve().parent.parent
_lost: dict[int, OSError] = {}  # why results did not reach a descriptor


class Commands(TyperGroup):
    """Imports a command when it is called, so that ``--help`` and a mistyped name need no PyTorch."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name, help=summary_of(name)) for name in COMMANDS}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that ``args`` names first, imported, and the arguments that are left for it."""
        if args[0] in COMMANDS:
            self.commands[args[0]] = load_command(args[0])
        return super().resolve_command(ctx, args)


def summary_of(name: str) -> str:
    """What the command does, by the first line of its file, which need not be imported."""
    with (_HOME / f"pipeline/commands/{name.replace('-', '_')}.py").open(encoding="utf-8") as file:
        summary = file.readline().partition("``: ")[2].rstrip('."\n')
    return f"{summary[:1].upper()}{summary[1:]}."


def load_command(name: str) -> TyperCommand:
    """The command ``name`` with its options."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    own = name.replace("-", "_")
    function = getattr(import_module(f"pipeline.commands.{own}"), own)
    app.command(name)(_in_folders(name, function))
    command = typer.main.get_command(app)
    assert isinstance(command, TyperCommand)
    return command


def _in_folders(name: str, function: Callable[..., None]) -> Callable[..., None]:
    """``function``, which is not called where one of its paths is an address in object storage."""
    from cache.errors import ConfigError
    from pipeline.commands.options import address_of

    @wraps(function)
    def called(**arguments: Any) -> None:
        for path in arguments.values():
            if isinstance(path, Path) and (address := address_of(path)):
                raise ConfigError(
                    f"{address} is in object storage, where `{name}` takes a file or folder of a "
                    "local disk: copy it here, or write here and copy it there."
                )
        function(**arguments)

    return called


app = typer.Typer(
    name="permafrost",
    cls=Commands,
    help="Image retrieval on frozen backbones: features once, heads in seconds, scores that name their bytes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(metadata.version("permafrost-retrieval"))
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. Works anywhere.")] = False,  # noqa: ARG001
    log_format: Annotated[
        LogFormat,
        typer.Option(
            envvar="PERMAFROST_LOG_FORMAT", help="Lines on stderr: with their time, or JSON. Before the command."
        ),
    ] = LogFormat.plain,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    progress.set_log_format(log_format)


def check_siblings() -> None:
    """Raise ImportError where ``cache`` or ``stages``, which are common names, would be another project's."""
    for name in ("cache", "stages"):
        spec = find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin != _HOME / name / "__init__.py":
            raise ImportError(
                f"'import {name}' finds {origin}, not {_HOME / name}: another file or distribution has the same name. "
                "Rename or uninstall it, run python with -P, or install Permafrost into an environment of its own."
            )


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    _open_streams()
    _exit(run_typed(sys.argv[1:], _leave_when_stopped()))


def run_typed(arguments: Sequence[str], stopped: Sequence[int] = ()) -> int:
    """Run a command as it is typed, and return its exit status; ``stopped`` holds the signal that ended it, if any."""
    debug = "--debug" in arguments
    try:
        check_siblings()
        status = app(args=[a for a in arguments if a != "--debug"], standalone_mode=False) or 0
        if status == _INTERRUPTED:  # what Typer makes of Ctrl-C
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        _say(_STOPPED, "warning")
        status = 128 + (stopped[0] if stopped else signal.SIGINT)
    except typer.TyperException as error:
        if message := error.format_message().rstrip("."):  # none: no command was typed, and the help was printed
            stop = "" if message.endswith("?") else "."
            _say(f"{message}{stop} `permafrost --help` and `permafrost COMMAND --help` say what there is.")
        status = _WRONG_USAGE
    except Exception as error:
        if debug:
            raise
        text, status = explain(error)
        _say(text)
    return int(status)


def _leave_when_stopped() -> list[int]:
    """Leave soon after Ctrl-C or SIGTERM even while the main thread is in a network, where Python handles no signals.

    What is committed stays, so nothing is waited for. Returns what will hold the number of the signal.
    """
    stopped: list[int] = []

    def stop(number: int, _: object) -> None:
        stopped.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # not nohup
            signal.signal(number, stop)
    signals, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)

    def leave() -> None:
        while (number := os.read(signals, 1)[0]) not in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            continue
        time.sleep(_GRACE_SECONDS)  # for the main thread, if it can
        if sys.stderr.isatty():  # a progress bar hides it
            sys.stderr.write(_SHOW_CURSOR)
        _say(_STOPPED, "warning")
        _exit(128 + number)

    threading.Thread(target=leave, daemon=True).start()
    return stopped


def explain(error: Exception) -> tuple[str, int]:
    """The message for an error, and the exit status."""
    if isinstance(error, ImportError):  # perhaps another package has our name, and nothing of ours can be imported
        return str(error), 1
    from cache.errors import ConfigError, PermafrostError

    if isinstance(error, (PermafrostError, OSError)):
        return str(error), _WRONG_USAGE if isinstance(error, ConfigError) else 1
    return f"{type(error).__name__}: {error}. This should not happen; --debug shows where.", 1


def _say(text: str, level: str = "error") -> None:
    line = progress.log_format.line(text, level)
    Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)


def _exit(status: int) -> NoReturn:
    """Leave at once: a forward that is still in the network is not waited for."""
    sys.stdout.flush()
    if not status and (error := _lost_output()):
        _say(f"stdout: {error.strerror}. All is done but for what was to be printed: give the command again.")
        status = 1
    sys.stderr.flush()
    os._exit(status)


def _open_streams() -> None:
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


def _lost_output() -> OSError | None:
    """Why results did not reach stdout; None where they did, or where their reader wants no more (``| head``)."""
    error = _lost.get(1)
    return None if error is None or error.errno == errno.EPIPE else error


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
