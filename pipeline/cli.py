"""The command ``permafrost``: results on stdout, everything else on stderr.

Exit status: 0 done, 1 a run failed (one message, a traceback with ``--debug``), 2 wrong usage or run file, 130 stopped
by Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from pipeline.cli_trust import COMMANDS as TRUST
from pipeline.commands.options import Json, Quiet, RunFile, RunFiles
from pipeline.import_guard import check_siblings

app = typer.Typer(
    name="permafrost",
    help="Image retrieval on frozen backbones: features once, heads in seconds, scores that name their bytes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Device = Annotated[str, typer.Option(help="Where backbones run, as PyTorch spells it: cpu, cuda, cuda:1.")]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Images in one forward; by default 32, on a GPU found by trial.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads that decode; by default one a processor.")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Compute images that failed before again.")]
MaxFailures = Annotated[
    float | None, typer.Option(min=0, max=1, help="Share of images that may fail; by default the run file's.")
]


_WRONG_USAGE, _INTERRUPTED = 2, 130
_STOPPED = "\nStopped. What was committed (1,024 images at a time) is kept: the same command goes on from there."
_GRACE_SECONDS = 0.5
_SHOW_CURSOR = "\x1b[?25h"


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. Works anywhere.")] = False,
) -> None:
    """Image retrieval on frozen backbones: features once, heads in seconds, scores that name their bytes."""


@app.command()
def plan(
    run_file: RunFile,
    device: Device = "cpu",
    batch_size: BatchSize = None,
    workers: Workers = None,
    retry_failed: Retry = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what `extract` would compute: images, bytes, and the time by a timed sample. Writes no feature."""
    from pipeline.commands import stages as commands
    from pipeline.extraction import Hardware

    commands.plan(run_file, Hardware(device, batch_size, workers, retry_failed), json=json, quiet=quiet)


@app.command()
def extract(
    run_file: RunFile,
    device: Device = "cpu",
    batch_size: BatchSize = None,
    workers: Workers = None,
    retry_failed: Retry = False,
    max_failures: MaxFailures = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stage 1: run the frozen backbones over the images that their stores lack."""
    from pipeline.commands import stages as commands
    from pipeline.extraction import Hardware

    commands.extract(
        run_file, Hardware(device, batch_size, workers, retry_failed), max_failures, json=json, quiet=quiet
    )


@app.command()
def train_heads(
    run_file: RunFile,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write loss, rate and score of every epoch as TensorBoard events.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stage 2: train the heads on stored features, and embed with them."""
    from pipeline.commands import stages as commands

    commands.train_heads(run_file, tensorboard=tensorboard, json=json, quiet=quiet)


@app.command()
def score(
    run_file: RunFile,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Scores by class_size (in the gallery) or training_class_size too. Can be given again."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stage 3: search the gallery for every query, and score raw features beside every head."""
    from pipeline.commands import stages as commands

    commands.score(run_file, by or [], json=json, quiet=quiet)


@app.command()
def run(
    run_file: RunFile,
    device: Device = "cpu",
    batch_size: BatchSize = None,
    workers: Workers = None,
    retry_failed: Retry = False,
    max_failures: MaxFailures = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """All three stages: extract, train-heads, score."""
    from pipeline.commands import stages as commands
    from pipeline.extraction import Hardware

    commands.run(run_file, Hardware(device, batch_size, workers, retry_failed), max_failures, json=json, quiet=quiet)


@app.command()
def demo(
    artifacts: Annotated[Path, typer.Option(help="Where the demo is kept.")] = Path("artifacts/demo"),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw a catalogue of products, extract, train, score, and show one picture. Needs no network and no data."""
    from pipeline.commands.demo import demo

    demo(artifacts, json=json, quiet=quiet)


@app.command()
def init(
    images: Annotated[Path, typer.Argument(metavar="FOLDER|TABLE", help="Images in a folder a class, or a table.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The run file to write.")] = Path("run.toml"),
    force: Annotated[bool, typer.Option("--force", help="Write over a run file that exists.")] = False,
) -> None:
    """Look at your images and write a commented run file that works as it is."""
    from pipeline.commands.init import init

    init(images, output, force=force)


@app.command()
def curate(
    run_file: RunFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="The table to write: .csv, .tsv, .parquet or .jsonl.")],
    force: Annotated[bool, typer.Option("--force", help="Write over a table that exists.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a compact table of training images without duplicates, and say what was dropped and why."""
    from pipeline.commands.curate import curate_table

    curate_table(run_file, output, force=force, json=json, quiet=quiet)


@app.command()
def sweep(
    run_file: RunFile,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="OUT.TOML", help="Write a run file with the best configuration.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a run file that exists.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Try many configurations of the heads, judged on held-out training classes, and rank them."""
    from pipeline.commands.sweep import sweep

    sweep(run_file, write, force=force, json=json, quiet=quiet)


@app.command()
def table(
    run_file: RunFile,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that train, each on one thread; by default one a processor.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the heads of a run with several seeds, and print a table with intervals; a page with a learning curve."""
    from pipeline.commands.table import table

    table(run_file, workers, json=json, quiet=quiet)


@app.command()
def report(
    run_file: RunFile,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; by default in the artifacts folder.")
    ] = None,
    queries: Annotated[int, typer.Option(min=0, help="How many queries to show with their nearest images.")] = 40,
    health: Annotated[
        bool, typer.Option("--health", help="Look for copies across splits and doubtful labels too (minutes).")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one HTML page about a run: leaderboard, curves, a map, and queries with right and wrong images."""
    from pipeline.commands.report import report

    report(run_file, output, queries, health=health, json=json, quiet=quiet)


@app.command()
def search(
    run_file: RunFile,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Images to search for: files or URIs.")],
    head: Annotated[str | None, typer.Option(help="A head of the run, or raw; by default its last head.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Search every record, not only the gallery.")] = False,
    k: Annotated[int, typer.Option("-k", min=1, help="How many images to print for each.")] = 10,
    fmr: Annotated[float | None, typer.Option(help="Only matches, by the threshold kept for this FMR.")] = None,
    fpir: Annotated[float | None, typer.Option(help="Only matches, by the threshold kept for this FPIR.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Only matches, from this similarity on.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print the images of the run's gallery that are nearest to yours, or that there is no match."""
    from pipeline.commands.search import search_images

    limits = {"fmr": fmr, "fpir": fpir, "threshold": threshold}
    search_images(run_file, images, head, k, everything=everything, limits=limits, json=json, quiet=quiet)


@app.command()
def inspect(
    what: Annotated[Path, typer.Argument(metavar="RUN.TOML|STORE", help="A run file, or the folder of a store.")],
    json: Json = False,
) -> None:
    """Print what a store holds: identity, provenance, rows, failures, bytes."""
    from pipeline.commands import stores

    stores.inspect(what, json=json)


@app.command()
def verify(
    what: Annotated[Path, typer.Argument(metavar="RUN.TOML|STORE", help="A run file, or the folder of a store.")],
    json: Json = False,
) -> None:
    """Check every checksum and every row of the stores."""
    from pipeline.commands import stores

    stores.verify(what, json=json)


@app.command()
def compact(
    run_files: RunFiles,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be dropped.")] = False,
) -> None:
    """Drop the rows that none of the run files lists, from the stores in their artifacts folders."""
    from pipeline.commands import stores

    stores.compact(run_files, yes=yes)


for command in TRUST:
    app.command()(command)


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    _leave_at_ctrl_c()
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        check_siblings()
        status = app(args=[a for a in arguments if a != "--debug"], standalone_mode=False) or 0
        if status == _INTERRUPTED:  # what Typer makes of Ctrl-C
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        _say(_STOPPED)
        status = _INTERRUPTED
    except typer.TyperException as error:
        if message := error.format_message().rstrip("."):  # none: no command was typed, and the help was printed
            _say(f"error: {message}. `permafrost --help` and `permafrost COMMAND --help` say what there is.")
        status = _WRONG_USAGE
    except Exception as error:
        if debug:
            raise
        text, status = _explain(error)
        _say(f"error: {text}")
    _exit(status)


def _leave_at_ctrl_c() -> None:
    """Leave soon after Ctrl-C even while the main thread is in a network, where Python does not hear it.

    What is committed stands whenever the process ends, so nothing has to be waited for.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    def leave() -> None:
        while os.read(heard, 1) != bytes([signal.SIGINT]):
            continue
        time.sleep(_GRACE_SECONDS)  # for the main thread, if it can
        if sys.stderr.isatty():  # a progress bar hides it
            sys.stderr.write(_SHOW_CURSOR)
        _say(_STOPPED)
        _exit(_INTERRUPTED)

    threading.Thread(target=leave, daemon=True).start()


def _explain(error: Exception) -> tuple[str, int]:
    """What to say of an error, and the exit status."""
    if isinstance(error, ImportError):  # perhaps a foreign package of our name: then nothing of ours can be imported
        return str(error), 1
    from cache.errors import ConfigError, PermafrostError

    if isinstance(error, (PermafrostError, ValueError, OSError)):
        return str(error), _WRONG_USAGE if isinstance(error, ConfigError) else 1
    return f"{type(error).__name__}: {error}. This should not happen; --debug shows where.", 1


def _say(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def _exit(status: int) -> NoReturn:
    """Leave at once: a forward that is still in the network is not waited for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
