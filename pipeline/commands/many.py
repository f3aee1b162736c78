"""The commands that train many heads: ``sweep`` tries configurations, ``table`` seeds and sizes of training sets."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from cache import fingerprint
from cache.atomic import replace_text
from cache.errors import ConfigError
from cache.lock import writer_lock
from cache.storage import absolute
from pipeline.commands.options import Address, Cpus, Executor, Json, Quiet, RunFile, emit, ray_cluster
from pipeline.config import read_config
from pipeline.dataset import run_of
from pipeline.progress import Display
from pipeline.score_rows import RAW, json_lines
from pipeline.seed_grid import Cell, SeedGrid, open_grid, refusals, score_cells, table_rows
from pipeline.sweep import planned, remarks, run_sweep, sweep_folder, swept_sets, winner_run_file
from pipeline.trials import Arrays
from pipeline.vectors import Vectors
from pipeline.views.contact_sheet import draw_nearest
from pipeline.views.many import csv_text, raw_verdict, sweep_page, sweep_rows, sweep_text, table_page, table_text
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


_NEAREST, _QUERIES = 10, 8  # images of a ranking in the picture, and queries


def table(
    run_file: RunFile,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that train, each on one thread; by default one a processor.")
    ] = None,
    executor: Executor = "local",
    address: Address = None,
    cpus: Cpus = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the heads of a run with several seeds, and print a table with intervals; a page with a learning curve."""
    cluster = ray_cluster(executor, address, cpus)
    grid = open_grid(run_file, Display(quiet=quiet))
    run, display = grid.run, grid.run.display
    if run.config.repeat is None:
        raise ConfigError(f"{run_file} has no [repeat]. Add one, such as:\n[repeat]\nseeds = [0, 1, 2, 3, 4]")
    folder = run.artifacts / "tables" / run.name
    finished = run.storage.below(f"tables/{run.name}/cells")
    cells = {cell: grid.fingerprint(cell) for cell in grid.cells()}
    wanted = {name: cell for cell, name in cells.items()}
    scored: dict[str, Arrays] = {}
    with writer_lock(folder):
        with display.bar("table", "cells") as update:
            for name, arrays in score_cells(absolute(run_file), wanted, finished, workers, cluster):
                scored[name] = arrays
                update(len(scored), len(wanted), f"{wanted[name].head} on {wanted[name].backbone}")
        by_cell = {cell: scored[name] for cell, name in cells.items()}
        left_out = [
            f"{cell.head} on {cell.rows:,} images with {cell.backbone} is left out of the curve: {reason}"
            for cell, reason in refusals(by_cell).items()
        ]
        for text in left_out:
            display.warn(text)
        rows = table_rows(grid, by_cell)
        backbone, picture = draw_picture(grid, folder)
        replace_text(folder / "table.jsonl", json_lines(rows))
        replace_text(folder / "table.html", table_page(run.name, rows, {backbone: picture.name}, left_out))
    typer.echo(json_lines(rows) if json else table_text(rows) + "\n", nl=False)
    display.say(f"also in {folder}: table.html, table.jsonl, {picture.name}")


def draw_picture(grid: SeedGrid, folder: Path) -> tuple[str, Path]:
    """The first backbone, and a picture of some queries with their nearest by its raw feature and two heads.

    The name of the file holds the fingerprint of all that it shows: it is drawn anew when that changes.
    """
    assert grid.run.config.repeat is not None
    part, seed = next(iter(grid.sets.values())), grid.run.config.repeat.seeds[0]
    ends = [Cell(part.name, head.name, None, seed) for head in (part.heads[:1] + part.heads[-1:])]
    cells = [Cell(part.name, RAW, None, 0), *dict.fromkeys(ends)]
    shown = fingerprint([grid.fingerprint(cell) for cell in cells])
    path = folder / f"{part.name}-{shown[:8]}.png"
    if not path.exists():
        vectors = [Vectors(part.name, cell.head, grid.vectors(cell), part.features) for cell in cells]
        title = f"{part.name}: queries sampled with a fixed seed, before and after"
        draw_nearest(path, grid.run.records, vectors, title=title, queries=_QUERIES, neighbours=_NEAREST)
        for old in folder.glob("*.png"):
            if old != path:
                old.unlink()
    return part.name, path
