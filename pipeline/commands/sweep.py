"""``permafrost sweep``: try many configurations of the heads on held-out training classes, and rank them."""

from __future__ import annotations

import csv
import io
import json as json_module
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from cache.atomic import replace_text
from cache.errors import ConfigError
from cache.lock import writer_lock
from pipeline.commands.options import Address, Cpus, Executor, Json, Quiet, RunFile, emit, ray_cluster
from pipeline.config import RAW, read_config
from pipeline.dataset import run_of
from pipeline.progress import Display
from pipeline.sweep import Place, planned, remarks, run_sweep, sweep_folder, swept_sets, winner_run_file
from pipeline.views.leaderboard import Interval, Leaderboard, Row, text
from pipeline.views.pages import render
from stages.training.sweep.search_space import check_method

_PRINTED = 20


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
        board, rows = _leaderboard(places, metric, keys), _rows(places, metric, keys)
        replace_text(folder / "leaderboard.csv", _csv(rows))
        replace_text(folder / "leaderboard.html", _page(places, board, run.name))
    emit(json, _text(places, board), *rows)
    display.say(f"also in {folder}: leaderboard.csv, leaderboard.html")
    if write is not None:
        winner = next(place for place in places if not place.raw)
        replace_text(write, winner_run_file(winner, plan, run_file, settings, write.parent))
        below = f", though {verdict}" if (verdict := _raw_verdict(places)) else ""
        display.say(f"the best configuration{below}: {write}")


def _rows(places: Sequence[Place], metric: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    """A flat dictionary a place, best first: what CSV and JSON hold. Settings go by their dotted ``keys``."""
    rows = []
    for rank, place in enumerate(places, 1):
        behind = place.behind or Interval(0.0, 0.0, 0.0)
        row: dict[str, Any] = {"rank": rank, "backbone": place.backbone, "head": place.head, "method": place.method}
        row |= {key: place.settings.get(key) for key in keys}
        row |= {"metric": metric, "value": place.value, "low": place.low, "high": place.high}
        row |= {"trainings": place.trial.scores.size, "diverged": place.trial.diverged}
        row |= {"queries": len(place.queries.query_keys)}
        row |= {"behind": behind.value, "behind_low": behind.low, "behind_high": behind.high}
        rows.append(row | {"trial": place.fingerprint})
    return rows


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A header and a line for each of ``rows``; lists and tables among the settings are JSON."""
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: json_module.dumps(v) if isinstance(v, (list, dict)) else v for key, v in row.items()})
    return content.getvalue()


def _text(places: Sequence[Place], board: Leaderboard) -> str:
    """The first places, the raw feature, and the best of each method, for the terminal."""
    shown = {at for at, place in enumerate(places) if at < _PRINTED or place.raw} | {*_leaders(places).values()}
    legend = [f"{hidden:,} more in leaderboard.csv"] if (hidden := len(places) - len(shown)) else []
    if verdict := _raw_verdict(places):
        legend.append(verdict)
    queries = f"{len(places[0].queries.query_keys):,} queries"
    legend.append(
        f"± half of the 95 % t interval over {_trainings(places)}; behind: the mean over the same {queries} and its "
        "95 % interval over classes; ~ could be as good as the best"
    )
    return text(board, legend, shown)


def _page(places: Sequence[Place], board: Leaderboard, name: str) -> str:
    """The leaderboard as one HTML page that loads nothing."""
    methods = [place.method for place in places]
    return render(
        "sweep.html",
        name=name,
        board=board,
        methods=[
            (method, methods.count(method), board.rows[at]) for method, at in _leaders(places).items() if method != RAW
        ],
        trainings=_trainings(places),
        verdict=_raw_verdict(places),
        queries=len(places[0].queries.query_keys),
    )


def _raw_verdict(places: Sequence[Place]) -> str:
    """What to say where no configuration is above the raw feature of its backbone; empty where one is."""
    raws = {place.backbone: place.value for place in places if place.raw}
    if any(not place.raw and place.value > raws.get(place.backbone, -np.inf) for place in places):
        return ""
    return "no configuration is above the raw feature"


def _trainings(places: Sequence[Place]) -> str:
    """How often a configuration is trained; what draws nothing is scored once a fold."""
    folds, seeds = map(max, zip(*(place.trial.scores.shape for place in places), strict=True))
    once = any(place.trial.scores.shape[1] < seeds for place in places)
    return f"{folds} folds x {seeds} {'seeds' if seeds > 1 else 'seed'}{' (1 where nothing is drawn)' if once else ''}"


def _leaderboard(places: Sequence[Place], metric: str, keys: Sequence[str]) -> Leaderboard:
    several = len({place.backbone for place in places}) > 1
    raws = {place.backbone: place.value for place in places if place.raw}
    rows = []
    for place in places:
        alone = bool(np.isnan(place.low))  # a single training has no interval
        interval = Interval(place.value, *([place.value] * 2 if alone else [place.low, place.high]))
        rows.append(
            Row(
                (place.head, *([place.backbone] if several else []), *(_cell(place.settings.get(key)) for key in keys)),
                {metric: interval},
                best=() if place.behind else {metric},
                raw=place.raw,
                look=RAW if place.raw else "c1",
                behind=place.behind,
                reference=raws.get(place.backbone),
                note=f"{place.trial.diverged} diverged" if place.trial.diverged else "",
            )
        )
    columns = ("head", *(["backbone"] if several else []), *keys)
    return Leaderboard(columns, (metric,), rows, ranked=True, digits=4)


def _leaders(places: Sequence[Place]) -> dict[str, int]:
    first: dict[str, int] = {}
    for at, place in enumerate(places):
        first.setdefault(place.method, at)
    return first


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json_module.dumps(value)
