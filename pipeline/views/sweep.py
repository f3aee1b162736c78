"""What is shown of a sweep: text, CSV, a page."""

from __future__ import annotations

import csv
import io
import json as json_module
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.config import RAW
from pipeline.sweep import Place
from pipeline.views.leaderboard import Interval, Leaderboard, Row, text
from pipeline.views.pages import render

_PRINTED = 20


def sweep_rows(places: Sequence[Place], metric: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    """A flat dictionary a place, best first: what CSV and JSON hold. Settings go by their dotted ``keys``."""
    rows = []
    for rank, place in enumerate(places, 1):
        behind = place.behind or Interval(0.0, 0.0, 0.0)
        rows.append(
            {"rank": rank, "backbone": place.backbone, "head": place.head, "method": place.method}
            | {key: place.settings.get(key) for key in keys}
            | {"metric": metric, "value": place.value, "low": place.low, "high": place.high}
            | {"trainings": place.trial.scores.size, "diverged": place.trial.diverged}
            | {"queries": len(place.queries.query_keys), "behind": behind.value}
            | {"behind_low": behind.low, "behind_high": behind.high, "trial": place.fingerprint}
        )
    return rows


def sweep_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A header and a line for each of ``rows``; lists and tables among the settings are JSON."""
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: json_module.dumps(v) if isinstance(v, (list, dict)) else v for key, v in row.items()})
    return content.getvalue()


def sweep_text(places: Sequence[Place], board: Leaderboard) -> str:
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
    return text(board, legend, shown)


def sweep_page(places: Sequence[Place], board: Leaderboard, name: str) -> str:
    """The leaderboard as one HTML page that loads nothing."""
    counts = Counter(place.method for place in places if not place.raw)
    leaders = _leaders(places)
    return render(
        "sweep.html",
        name=name,
        board=board,
        methods=[(method, count, board.rows[leaders[method]]) for method, count in counts.items()],
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


def sweep_leaderboard(places: Sequence[Place], metric: str, keys: Sequence[str]) -> Leaderboard:
    """The ``places`` in their order, with a column for each of the settings ``keys``."""
    several = len({place.backbone for place in places}) > 1
    rows = []
    for place in places:
        alone = bool(np.isnan(place.low))  # a single training has no interval
        interval = Interval(place.value, *([place.value] * 2 if alone else [place.low, place.high]))
        rows.append(
            Row(
                (place.head, *([place.backbone] if several else []), *(_cell(place.settings.get(key)) for key in keys)),
                {metric: interval},
                (place.backbone,),
                look=RAW if place.raw else "c1",
                behind=place.behind,
                note=f"{place.trial.diverged} diverged" if place.trial.diverged else "",
            )
        )
    columns = ("head", *(["backbone"] if several else []), *keys)
    return Leaderboard(columns, (metric,), rows, ranked=True, digits=4)


def _leaders(places: Sequence[Place]) -> dict[str, int]:
    """The place of the first of each method."""
    return {places[at].method: at for at in reversed(range(len(places)))}


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json_module.dumps(value)
