"""The command ``permafrost``: results on stdout, everything else on stderr.

Exit status: 0 done, 1 a run failed (one message, a traceback with ``--debug``), 2 wrong usage or run file, as a path
where nothing is, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

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
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from pipeline import progress
from pipeline.progress import LogFormat, lost_output, open_streams

COMMANDS = {
    "plan": "Say what `extract` would compute: images, bytes, time. Writes no feature.",
    "extract": "Stage 1: run the frozen backbones over the images that their stores lack.",
    "train-heads": "Stage 2: train the heads on stored features, and embed with them.",
    "score": "Stage 3: search the gallery for every query, and score raw features beside every head.",
    "run": "All three stages: extract, train-heads, score.",
    "demo": "Draw a catalogue of products, extract, train, score, and show one picture.",
    "init": "Look at your images and write a commented run file that works as it is.",
    "keys": "Print every key of a run file: its type, its default, what it means.",
    "curate": "Write a compact table of training images without duplicates.",
    "sweep": "Try many configurations of the heads on held-out training classes, and rank them.",
    "table": "Train the heads of a run with several seeds, and print a table with intervals.",
    "report": "Write one HTML page about a run.",
    "search": "Print the images of the run's gallery that are nearest to yours, or that there is no match.",
    "features": "Write features or embeddings to one file, for other programs.",
    "export": "Write a head with its networks and gallery as one folder that opens on another machine.",
    "serve": "Serve search over HTTP: a page for people, answers in JSON for programs.",
    "encode": "Write the vectors of a folder as a Parquet file; killed and started again, it goes on.",
    "add": "Write a new snapshot of a bundle with more images; `publish` has it searched.",
    "remove": "Write a new snapshot of a bundle without some images; `publish` has it searched.",
    "publish": "Have the newest snapshot of a bundle searched, by one rename, also while it is served.",
    "inspect": "Print what a store holds: identity, provenance, rows, failures, bytes.",
    "verify": "Check every checksum and every row of the stores.",
    "compact": "Drop the rows that none of the run files lists, and heads and scores that none names.",
    "compare": "Say how much better one run or head is than another, and which queries changed most.",
    "gallery-sizes": "Score the same queries in galleries of several sizes.",
    "threshold": "Choose the similarity below which there is no match, and say how often that is wrong.",
    "health": "Look for what makes scores wrong: copies across splits, labels, hubs, dead dimensions.",
}
"""Every command, in a file of its own in ``pipeline/commands``, with its line in ``permafrost --help``."""

_WRONG_USAGE, _INTERRUPTED = 2, 130
_STOPPED = "Stopped. What is stored stays: the same command goes on from there."
_GRACE_SECONDS = 0.5
_SHOW_CURSOR = "\x1b[?25h"
_HOME = Path(__file__).resolve().parent.parent


class Commands(TyperGroup):
    """Imports a command when it is called, so that ``--help`` and a mistyped name need no PyTorch."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name, help=summary) for name, summary in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that ``args`` names first, imported, and the arguments that are left for it."""
        if args[0] in COMMANDS:
            self.commands[args[0]] = load_command(args[0])
        return super().resolve_command(ctx, args)


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
    open_streams()
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
    if not status and (error := lost_output()):
        _say(f"stdout: {error.strerror}. All is done but for what was to be printed: give the command again.")
        status = 1
    sys.stderr.flush()
    os._exit(status)
