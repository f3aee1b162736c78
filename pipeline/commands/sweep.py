"""``permafrost sweep``: try many configurations of the heads on held-out training classes, and rank them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from cache.atomic import replace_text
from cache.errors import ConfigError
from cache.lock import writer_lock
from pipeline.commands.options import Address, Cpus, Executor, Json, Quiet, RunFile, emit, ray_cluster
from pipeline.progress import Display
from pipeline.sweep import open_sweep
from pipeline.views.sweep import raw_verdict, sweep_csv, sweep_leaderboard, sweep_page, sweep_rows, sweep_text


def sweep(
    run_file: RunFile,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="OUT.TOML", help="Write a run file with the best configuration.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a run file that exists.")] = False,
    executor: Executor = "local",
    address: Address = None,
    cpus: Cpus = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Try many configurations of the heads, judged on held-out training classes, and rank them."""
    cluster, display = ray_cluster(executor, address, cpus), Display(quiet=quiet)
    if write is not None and write.exists() and not force:
        raise ConfigError(f"{write} exists. Name another file, or add --force to write over it.")
    opened = open_sweep(run_file, display)
    folder = opened.run.artifacts / opened.folder
    metric, keys = opened.config.objective, tuple(opened.config.axes())
    with writer_lock(folder), cluster.joined() if cluster else nullcontext():
        places = opened.places(cluster)
        board, rows = sweep_leaderboard(places, metric, keys), sweep_rows(places, metric, keys)
        replace_text(folder / "leaderboard.csv", sweep_csv(rows))
        replace_text(folder / "leaderboard.html", sweep_page(places, board, opened.run.name))
    emit(json, sweep_text(places, board), *rows)
    display.say(f"also in {folder}: leaderboard.csv, leaderboard.html")
    if write is not None:
        winner = next(place for place in places if not place.raw)
        replace_text(write, opened.winner_run_file(winner, write.parent))
        below = f", though {verdict}" if (verdict := raw_verdict(places)) else ""
        display.say(f"the best configuration{below}: {write}")
