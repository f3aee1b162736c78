"""The command ``table``: the heads of a run with several seeds, between intervals, and a page to look at.

::

    cells (backbone, head, rows, seed) -> values of every query --mean over seeds--> lines --> table, JSON, page
"""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer

from cache.atomic import replace_text
from cache.errors import ConfigError
from cache.lock import writer_lock
from pipeline.commands.options import Json, Quiet, RunFile
from pipeline.progress import Display
from pipeline.run import RAW, Vectors
from pipeline.seed_grid import Cell, Ground, Scored, cells_of, compute, ground, head_of
from pipeline.views.nearest import draw_nearest
from pipeline.views.table_page import page
from pipeline.views.tables import aligned
from stages.analysis import Difference, paired_difference
from stages.ranking.metrics import Values
from stages.retrieval.attributes import CEILING, FLOOR
from stages.retrieval.scores import Resampling
from stages.training.embedded import Embedded

_NEAREST = 10


class Line(NamedTuple):
    """One number of the table, and a line of JSON.

    ``value`` is the mean over seeds and queries; ``low`` and ``high`` bound its 95 % interval over queries, and
    ``spread`` is the standard deviation over seeds. ``gain`` is how far it is above the raw feature, query by query,
    between its own bounds; None for the raw feature.
    """

    backbone: str
    head: str
    rows: int
    metric: str
    value: float
    low: float
    high: float
    spread: float
    seeds: int
    queries: int
    gain: float | None
    gain_low: float | None
    gain_high: float | None


def table(
    run_file: RunFile,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that train, each on one thread; by default one a processor.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the heads of a run with several seeds, and print a table with intervals; a page with a learning curve."""
    display = Display(quiet=quiet)
    on = ground(run_file, display)
    if on.config.repeat is None:
        raise ConfigError(f"{run_file} has no [repeat]. Add one, such as:\n[repeat]\nseeds = [0, 1, 2, 3, 4]")
    folder = Path(on.config.artifacts) / "tables" / run_file.stem
    folder.mkdir(parents=True, exist_ok=True)
    cells = cells_of(on)
    scored: dict[Cell, Scored] = {}
    with writer_lock(folder.with_name(f"{folder.name}.lock")), display.bar("table", "cells") as update:
        for cell, found in compute(run_file.resolve(), cells, (folder / "cells").resolve(), workers):
            scored[cell] = found
            update(len(scored), len(cells), f"{cell.head} on {cell.backbone}")
    lines = lines_of(on, {cell: scored[cell] for cell in cells})
    _pictures(on, folder)
    replace_text(folder / "table.jsonl", json_lines(lines))
    replace_text(folder / "table.html", page(run_file.stem, on.config.retrieval.metrics, lines, _file_names(on)))
    typer.echo(json_lines(lines) if json else table_text(lines) + "\n", nl=False)
    display.say(f"also in {folder}: table.html, table.jsonl and pictures")


@dataclass(frozen=True)
class _Queries:
    """What :func:`paired_difference` compares."""

    query_keys: tuple[str, ...]
    per_query: Mapping[str, Values]


def lines_of(on: Ground, scored: Mapping[Cell, Scored]) -> list[Line]:
    """The lines of every metric, in the order of the cells."""
    groups: dict[tuple[str, str, int | None], list[Scored]] = {}
    for cell, found in scored.items():
        groups.setdefault((cell.backbone, cell.head, cell.rows), []).append(found)
    trained = len(on.records.split("train"))
    lines = []
    for (backbone, head, rows), several in groups.items():
        raw = groups.get((backbone, RAW, None))
        bounds = _bounds(several, on.config.seed)
        gains = {} if raw is None or head == RAW else _gains(several, raw[0], on.config.seed)
        for metric in several[0].values:
            values = np.stack([of.values[metric] for of in several])  # (S, Q)
            gain = gains.get(metric)
            lines.append(
                Line(
                    backbone,
                    head,
                    0 if head == RAW else rows or trained,
                    metric,
                    float(values.mean()),
                    *bounds[metric],
                    float(values.mean(1).std(ddof=1)) if len(values) > 1 else 0.0,
                    len(values),
                    values.shape[1],
                    *((None, None, None) if gain is None else (gain.value, gain.low, gain.high)),
                )
            )
    return lines


def _bounds(several: Sequence[Scored], seed: int) -> dict[str, tuple[float, float]]:
    """The interval of each metric's mean over seeds."""
    resampling, found = Resampling(seed=seed), dict[str, tuple[float, float]]()
    for metrics in _of_same_queries(several[0]):
        means = np.stack([_mean(several, metric) for metric in metrics])  # (M, Q)
        low, high = resampling.interval(resampling.means(means, 0))
        found |= dict(zip(metrics, zip(low.tolist(), high.tolist(), strict=True), strict=True))
    return found


def _gains(several: Sequence[Scored], raw: Scored, seed: int) -> dict[str, Difference]:
    """How far each metric is above that of the raw feature."""
    found = dict[str, Difference]()
    for metrics in _of_same_queries(several[0], raw):
        one = _Queries(several[0].keys[metrics[0]], {metric: _mean(several, metric) for metric in metrics})
        other = _Queries(raw.keys[metrics[0]], {metric: raw.values[metric] for metric in metrics})
        found |= {difference.metric: difference for difference in paired_difference(one, other, seed=seed)}
    return found


def _of_same_queries(*scored: Scored) -> list[list[str]]:
    """The metrics, those together that are of the same queries: they are drawn once for all of these."""
    groups: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for metric in scored[0].values:
        groups.setdefault(tuple(of.keys[metric] for of in scored), []).append(metric)
    return list(groups.values())


def _mean(several: Sequence[Scored], metric: str) -> Values:
    """Of each query (Q,), over the seeds."""
    mean: Values = np.stack([of.values[metric] for of in several]).mean(0)
    return mean


def json_lines(lines: Sequence[Line]) -> str:
    """A flat JSON object a line."""
    return "".join(json_module.dumps(line._asdict()) + "\n" for line in lines)


def table_text(lines: Sequence[Line]) -> str:
    """A line for each backbone, head and number of training rows; a column for each metric, the bounds below."""
    bounds = {line.metric: line.value for line in lines if line.metric.endswith((CEILING, FLOOR))}
    metrics = [metric for metric in dict.fromkeys(line.metric for line in lines) if metric not in bounds]
    cells: dict[tuple[str, str, int], dict[str, Line]] = {}
    for line in lines:
        cells.setdefault((line.backbone, line.head, line.rows), {})[line.metric] = line
    text = [["backbone", "head", "rows", *metrics]]
    for (backbone, head, rows), of in cells.items():
        numbers = [f"{of[metric].value:.3f} [{of[metric].low:.3f}, {of[metric].high:.3f}]" for metric in metrics]
        text.append([backbone, head, f"{rows:,}" if rows else "-", *numbers])
    legend = ["[95 % interval over queries] of the mean over seeds"]
    legend += [
        f"{metric}: a perfect ranking has {bounds[metric + CEILING]:.3f}, one by chance {bounds[metric + FLOOR]:.3f}"
        for metric in metrics
        if metric + CEILING in bounds
    ]
    return "\n".join([*aligned(text, texts=2), *legend])


def _pictures(on: Ground, folder: Path) -> None:
    """A picture for each backbone: some queries with their nearest, raw and with each head of the first seed."""
    assert on.config.repeat is not None
    for backbone, file in _file_names(on).items():
        features, heads, raw = on.features[backbone]
        shown = [Vectors(backbone, RAW, features, features)] if raw else []
        if len(heads) and not (folder / file).exists():
            cells = [Cell(backbone, heads[at].name, None, on.config.repeat.seeds[0]) for at in (0, len(heads) - 1)]
            shown += [
                Vectors(backbone, cell.head, Embedded(head_of(on, cell), features), features)
                for cell in dict.fromkeys(cells)
            ]
            draw_nearest(
                folder / file,
                on.records,
                shown,
                title=f"{backbone}: queries drawn by lot, before and after",
                queries=on.config.repeat.queries,
                neighbours=_NEAREST,
            )


def _file_names(on: Ground) -> dict[str, str]:
    """The picture of each backbone whose page shows one: the first."""
    first = next(iter(on.features))
    return {first: f"{first}.png"}
