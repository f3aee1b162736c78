"""``permafrost table``: train the heads of a run with several seeds, and print a table with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from markupsafe import Markup

from cache import fingerprint
from cache.atomic import replace_text
from cache.errors import ConfigError
from cache.lock import writer_lock
from cache.storage import absolute
from pipeline.commands.options import Address, Cpus, Executor, Json, Quiet, RunFile, emit, ray_cluster
from pipeline.config import RAW
from pipeline.progress import Display
from pipeline.scores import json_lines
from pipeline.seed_grid import Cell, SeedGrid, TableRow, open_grid, refusals, score_cells, table_rows
from pipeline.trials import Arrays, run_once
from pipeline.vectors import Vectors
from pipeline.views import charts
from pipeline.views.contact_sheet import draw_nearest
from pipeline.views.leaderboard import Interval, Leaderboard, Names, Row, is_bound, metrics_of, own_bounds, text
from pipeline.views.pages import render
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
    emit(json, _text(rows), *(row._asdict() for row in rows))
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


def _text(rows: Sequence[TableRow]) -> str:
    """A line for each backbone, head and number of training rows."""
    legend = ["± half of the 95 % interval over classes of the mean over seeds; * the best of its backbone"]
    return text(_leaderboard(rows), legend)


def table_page(name: str, rows: Sequence[TableRow], pictures: Mapping[str, str], left_out: Sequence[str] = ()) -> str:
    """The page without the heads of fewer rows; ``left_out`` says which points the curve lacks, and why."""
    most: dict[tuple[str, str], int] = {}
    for row in rows:
        most[row.backbone, row.head] = max(row.rows, most.get((row.backbone, row.head), 0))
    board = _leaderboard([row for row in rows if row.rows == most[row.backbone, row.head]])
    curve = learning_curve(rows, board.metric)
    return render("table.html", name=name, board=board, curve=curve, pictures=dict(pictures), left_out=left_out)


def learning_curve(rows: Sequence[TableRow], metric: str) -> Markup | None:
    """``metric`` by training rows on the first backbone; None where no head has more than one number of rows."""
    shown = [row for row in rows if row.backbone == rows[0].backbone and row.metric == metric]
    lines: list[charts.Line] = []
    for head in dict.fromkeys(row.head for row in shown if row.rows):
        curve = sorted((row for row in shown if row.head == head), key=lambda row: row.rows)
        if len(curve) > 1:
            points = [(row.rows, row.value) for row in curve]
            band = [(row.rows, row.low, row.high) for row in curve]
            lines.append(charts.Line(head, charts.look(len(lines)), points, band))
    if not lines:
        return None
    counts = sorted({at for line in lines for at, _ in line.points})
    raw = [row.value for row in shown if not row.rows][:1]
    lines += [charts.Line(RAW, RAW, [(counts[0], value), (counts[-1], value)]) for value in raw]
    label, across = f"{metric} by training images", "training images"
    return charts.line_chart(lines, label=label, across=across, ticks_at=counts, log=True, dots=True)


def _leaderboard(scores: Sequence[TableRow]) -> Leaderboard:
    rows: dict[Names, Row] = {}
    for score in scores:
        if not is_bound(score.metric):
            names = score.backbone, score.head, f"{score.rows:,}" if score.rows else "-"
            look = RAW if score.head == RAW else "c1"
            row = rows.setdefault(names, Row(names, {}, (score.backbone,), look=look))
            row.scores[score.metric] = Interval(score.value, score.low, score.high)
            if score.gain is not None and score.gain_low is not None and score.gain_high is not None:
                row.gains[score.metric] = Interval(score.gain, score.gain_low, score.gain_high)
    shown, bounds = list(rows.values()), own_bounds({score.metric: score.value for score in scores})
    return Leaderboard(("backbone", "head", "rows"), metrics_of(shown), shown, bounds=bounds)
