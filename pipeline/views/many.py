"""The leaderboard of a sweep and the table over seeds: for the terminal, CSV, JSON lines, and pages."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.score_rows import RAW
from pipeline.seed_grid import TableRow
from pipeline.sweep import Place
from pipeline.views import charts
from pipeline.views.leaderboard import Bounded, Interval, Leaderboard, Names, Row, leaderboard, own_bounds, text
from pipeline.views.pages import render

_PRINTED = 20


def sweep_rows(places: Sequence[Place], metric: str, keys: Sequence[str]) -> list[dict[str, Any]]:
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


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """A header and a line for each of ``rows``; lists and tables among the settings are JSON."""
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: json.dumps(v) if isinstance(v, (list, dict)) else v for key, v in row.items()})
    return content.getvalue()


def sweep_text(places: Sequence[Place], metric: str, keys: Sequence[str]) -> str:
    """The first places, the raw feature, and the best of each method, for the terminal."""
    shown = {at for at, place in enumerate(places) if at < _PRINTED or place.raw} | {*_leaders(places).values()}
    legend = [f"{hidden:,} more in leaderboard.csv"] if (hidden := len(places) - len(shown)) else []
    if verdict := raw_verdict(places):
        legend.append(verdict)
    queries = f"{len(places[0].queries.query_keys):,} queries"
    legend.append(
        f"± half of the 95 % t interval over {_trainings(places)}; behind: the mean over the same {queries} and its "
        "95 % interval over classes; ~ could be as good as the best"
    )
    return text(_leaderboard(places, metric, keys), legend, shown)


def sweep_page(places: Sequence[Place], metric: str, keys: Sequence[str], name: str) -> str:
    """The leaderboard as one HTML page that loads nothing."""
    board = _leaderboard(places, metric, keys)
    methods = [place.method for place in places]
    return render(
        "sweep.html",
        name=name,
        board=board,
        methods=[
            (method, methods.count(method), board.rows[at]) for method, at in _leaders(places).items() if method != RAW
        ],
        trainings=_trainings(places),
        verdict=raw_verdict(places),
        queries=len(places[0].queries.query_keys),
    )


def raw_verdict(places: Sequence[Place]) -> str:
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
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def table_text(rows: Sequence[TableRow]) -> str:
    """A line for each backbone, head and number of training rows."""
    legend = ["± half of the 95 % interval over classes of the mean over seeds; * the best of its backbone"]
    return text(_seeds_leaderboard(rows), legend)


def table_page(name: str, rows: Sequence[TableRow], pictures: Mapping[str, str], left_out: Sequence[str] = ()) -> str:
    """The page without the heads of fewer rows; ``left_out`` says which points the curve lacks, and why."""
    most: dict[tuple[str, str], int] = {}
    for row in rows:
        most[row.backbone, row.head] = max(row.rows, most.get((row.backbone, row.head), 0))
    board = _seeds_leaderboard([row for row in rows if row.rows == most[row.backbone, row.head]])
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


def _seeds_leaderboard(rows: Sequence[TableRow]) -> Leaderboard:
    scores: list[tuple[Names, Names, str, Bounded]] = []
    gains: dict[Names, dict[str, Bounded]] = {}
    for row in rows:
        names = (row.backbone, row.head, f"{row.rows:,}" if row.rows else "-")
        scores.append((names, (row.backbone,), row.metric, Interval(row.value, row.low, row.high)))
        if row.gain is not None and row.gain_low is not None and row.gain_high is not None:
            gains.setdefault(names, {})[row.metric] = Interval(row.gain, row.gain_low, row.gain_high)
    bounds = own_bounds({row.metric: row.value for row in rows})
    return leaderboard(scores, ("backbone", "head", "rows"), gains=gains, bounds=bounds)
