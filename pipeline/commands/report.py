"""``permafrost report``: what a run measured, gathered, drawn and written as one page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from cache.atomic import replace_text
from cache.errors import ConfigError, UnwritableError
from pipeline.commands.options import Json, Quiet, RunFile, emit
from pipeline.dataset import Run, open_run
from pipeline.vectors import find_vectors, with_rows
from pipeline.views.report.contents import Contents, contents_of, report_page

_LARGE = 10_000_000


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
    started = time.monotonic()
    if output is not None and output.is_dir():
        raise ConfigError(f"--output names the file to write, got the folder {output}")
    run = open_run(run_file, quiet=quiet)
    display = run.display
    contents, text = build_report(run, queries, health=health)
    path = _write(run, text, output)
    size, seconds = len(text.encode()), time.monotonic() - started
    line = {
        "report": path, "bytes": size, "best": contents.best.head, "backbone": contents.best.vectors.backbone,
        "queries_shown": len(contents.queries), "seconds": round(seconds, 1),
    }  # fmt: skip
    emit(json, path, line)
    display.say(f"{size / 1e6:.1f} MB, {len(contents.pictures):,} pictures, {seconds:.0f} s")
    if size > _LARGE:
        display.warn(f"note: {size / 1e6:.0f} MB is much for one page; --queries {queries // 2} shows fewer pictures")


def _write(run: Run, text: str, output: Path | None) -> str:
    """Write the page, and return where it is."""
    if output is not None:
        replace_text(output, text)
        return str(output)
    key = f"reports/{run.name}.html"
    try:
        run.storage.put(key, text.encode())
    except UnwritableError as error:
        if not error.read_only:
            raise
        path, there = Path(f"{run.name}.html"), run.storage.address(key)
        run.display.warn(f"note: {there} is read-only, so the page is here; --output names another place")
        replace_text(path, text)
        return str(path)
    return run.storage.address(key)


def build_report(run: Run, queries: int, *, health: bool) -> tuple[Contents, str]:
    """The contents and the page of the run as it is on disk. Raises MissingRowsError where something is missing."""
    vectors = find_vectors(run)
    contents = contents_of(with_rows(run, vectors), vectors, queries, health=health)
    return contents, report_page(contents)
