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
from pipeline.config import read_config
from pipeline.dataset import run_of
from pipeline.progress import Display
from pipeline.sweep import planned, remarks, run_sweep, sweep_folder, swept_sets, winner_run_file
from pipeline.views.many import csv_text, raw_verdict, sweep_page, sweep_rows, sweep_text
from stages.training.sweep.search_space import check_method


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
    cluster = ray_cluster(executor, address, cpus)
    config, display = read_config(run_file), Display(quiet=quiet)
    settings = config.sweep
    if settings is None:
        raise ConfigError(
            f'{run_file} has no [sweep]. Add one, such as:\n[sweep]\n[sweep.over]\n"loss.scale" = [8.0, 16.0, 32.0]'
        )
    if write is not None and write.exists() and not force:
        raise ConfigError(f"{write} exists. Name another file, or add --force to write over it.")
    plan = planned(config, settings)
    check_method(settings.method)
    for remark in remarks(settings, plan):
        display.warn(f"note: {remark}")
    run = run_of(config, display, run_file)
    sets = swept_sets(run, plan)
    trials = sweep_folder(run, settings, sets)
    folder = run.artifacts / trials
    metric, keys = settings.objective, tuple(settings.axes())
    with writer_lock(folder), cluster.joined() if cluster else nullcontext():
        places = run_sweep(run, settings, plan, sets, trials, cluster)
        rows = sweep_rows(places, metric, keys)
        replace_text(folder / "leaderboard.csv", csv_text(rows))
        replace_text(folder / "leaderboard.html", sweep_page(places, metric, keys, run.name))
    emit(json, sweep_text(places, metric, keys), *rows)
    display.say(f"also in {folder}: leaderboard.csv, leaderboard.html")
    if write is not None:
        winner = next(place for place in places if not place.raw)
        replace_text(write, winner_run_file(winner, plan, run_file, settings, write.parent))
        below = f", though {verdict}" if (verdict := raw_verdict(places)) else ""
        display.say(f"the best configuration{below}: {write}")
