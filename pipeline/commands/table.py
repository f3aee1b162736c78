"""``permafrost table``: train the heads of a run with several seeds, and print a table with intervals."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cache import fingerprint
from cache.atomic import replace_text
from cache.errors import ConfigError
from cache.lock import writer_lock
from cache.storage import absolute
from pipeline.commands.options import Address, Cpus, Executor, Json, Quiet, RunFile, emit, ray_cluster
from pipeline.config import RAW
from pipeline.progress import Display
from pipeline.scores import json_lines
from pipeline.seed_grid import Cell, SeedGrid, open_grid, refusals, score_cells, table_rows
from pipeline.trials import Arrays, run_once
from pipeline.vectors import Vectors
from pipeline.views.contact_sheet import draw_nearest
from pipeline.views.table import table_page, table_text
from stages.processes import processors

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
            local, remote = grid.scores, partial(score_cells, absolute(run_file))
            count = workers if cluster else workers or processors()
            for name, arrays, _ in run_once(wanted, finished, local, remote, workers=count, cluster=cluster):
                scored[name] = arrays
                update(len(scored), len(wanted), f"{wanted[name].head} on {wanted[name].backbone}")
        by_cell = {cell: scored[name] for cell, name in cells.items()}
        left_out = [
            f"{cell.head} on {cell.rows:,} images with {cell.backbone} is left out of the curve: {reason}"
            for cell, reason in refusals(by_cell).items()
        ]
        for reason in left_out:
            display.warn(reason)
        rows = table_rows(grid, by_cell)
        backbone, picture = draw_picture(grid, folder)
        replace_text(folder / "table.jsonl", json_lines(rows))
        replace_text(folder / "table.html", table_page(run.name, rows, {backbone: picture.name}, left_out))
    emit(json, table_text(rows), *(row._asdict() for row in rows))
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
