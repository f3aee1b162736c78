"""The trials of a sweep, best first: a table for people, CSV, flat JSON lines, and a page for the browser."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.views.pages import render
from pipeline.views.tables import aligned
from stages.analysis import Difference, paired_difference, t_interval
from stages.training.sweep import Trial

_PRINTED = 20


@dataclass(frozen=True)
class Entry:
    """A trial as the leaderboard takes it. ``method`` is its loss or closed form, ``keys`` are its queries, (Q,).

    ``fingerprint`` is None for the raw feature.
    """

    backbone: str
    head: str
    method: str
    settings: Mapping[str, Any]
    trial: Trial
    keys: tuple[str, ...]
    fingerprint: str | None = None

    @property
    def raw(self) -> bool:
        """True for the feature itself, which nothing was trained on."""
        return self.fingerprint is None


@dataclass(frozen=True)
class Place:
    """A line of the leaderboard.

    ``low`` and ``high`` bound the 95 % t interval of ``value`` over folds and seeds. ``behind`` is how far the best
    is ahead, query by query; None for the best itself.
    """

    rank: int
    entry: Entry
    value: float
    low: float
    high: float
    behind: Difference | None


@dataclass(frozen=True)
class Leaderboard:
    """``places`` best first, scored by ``metric``; ``keys`` are the settings that differ, in the order to show them."""

    places: tuple[Place, ...]
    metric: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class _Queries:
    """What :func:`paired_difference` compares."""

    query_keys: tuple[str, ...]
    per_query: Mapping[str, np.ndarray[Any, np.dtype[np.float64]]]


def ranked(entries: Sequence[Entry], metric: str, keys: Sequence[str], seed: int) -> Leaderboard:
    """``entries`` best first, the first of equals before the others; the raw feature can be anywhere but first."""
    order = sorted(entries, key=lambda entry: (-entry.trial.scores.mean(), entry.raw))
    best = order[0]
    places = []
    for rank, entry in enumerate(order, 1):
        mean, low, high = t_interval(entry.trial.scores.ravel())
        behind = None
        if entry is not best:
            (behind,) = paired_difference(_queries(best, metric), _queries(entry, metric), seed=seed)
        places.append(Place(rank, entry, mean, low, high, behind))
    return Leaderboard(tuple(places), metric, tuple(keys))


def _queries(entry: Entry, metric: str) -> _Queries:
    return _Queries(entry.keys, {metric: entry.trial.values.astype(np.float64)})


def rows(board: Leaderboard) -> list[dict[str, Any]]:
    """A flat dictionary a place: what CSV and JSON hold. Settings go by their dotted keys."""
    return [
        {
            "rank": place.rank,
            "backbone": place.entry.backbone,
            "head": place.entry.head,
            "method": place.entry.method,
            **{key: place.entry.settings.get(key) for key in board.keys},
            "metric": board.metric,
            "value": place.value,
            "low": place.low,
            "high": place.high,
            "trainings": place.entry.trial.scores.size,
            "diverged": place.entry.trial.diverged,
            "queries": len(place.entry.keys),
            "behind": place.behind.value if place.behind else 0.0,
            "behind_low": place.behind.low if place.behind else 0.0,
            "behind_high": place.behind.high if place.behind else 0.0,
            "trial": place.entry.fingerprint,
        }
        for place in board.places
    ]


def json_text(board: Leaderboard) -> str:
    """A flat JSON object a line."""
    return "".join(json.dumps(row) + "\n" for row in rows(board))


def csv_text(board: Leaderboard) -> str:
    """A header and a line a place; lists and tables among the settings are JSON."""
    written = rows(board)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(written[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: json.dumps(v) if isinstance(v, (list, dict)) else v for key, v in row.items()} for row in written
    )
    return text.getvalue()


def table_text(board: Leaderboard) -> str:
    """The first places, the raw feature, and the best of each method, for the terminal."""
    places, keys = board.places, board.keys
    backbones = len({place.entry.backbone for place in places}) > 1
    heads = len({place.entry.head for place in places if not place.entry.raw}) > 1
    header = ["", *(["backbone"] if backbones else []), *(["head"] if heads else []), *(keys or ["head"])]
    table = [[*header, board.metric, "behind the best"]]
    shown = [place for place in places if place.rank <= _PRINTED or place.entry.raw or _leads(place, places)]
    for place in shown:
        entry = place.entry
        settings = [_cell(entry.settings.get(key)) for key in keys] or [entry.head]
        if entry.raw:
            settings[0] = "raw"
        names = [*([entry.backbone] if backbones else []), *([entry.head] if heads else [])]
        table.append([str(place.rank), *names, *settings, _value(place), _behind(place)])
    lines = aligned(table, texts=len(header))
    if hidden := len(places) - len(shown):
        lines.append(f"{hidden:,} more in leaderboard.csv")
    runs = places[0].entry.trial.scores.shape
    lines.append(
        f"± half of the 95 % t interval over {runs[0]} folds x {runs[1]} seeds; behind: the mean over the same "
        f"{len(places[0].entry.keys):,} queries and its 95 % interval; * could be as good as the best"
    )
    return "\n".join(lines)


def page(board: Leaderboard, name: str) -> str:
    """The leaderboard as one HTML page that loads nothing."""
    places = board.places
    ends = [end for place in places for end in (_low(place), _high(place))]
    least, span = min(ends), (max(ends) - min(ends)) or 1.0

    def across(value: float) -> float:
        return round(100 * (value - least) / span, 2)

    lines = [
        {
            "rank": place.rank,
            "backbone": place.entry.backbone,
            "head": place.entry.head,
            "raw": place.entry.raw,
            "settings": [_cell(place.entry.settings.get(key)) for key in board.keys],
            "value": _value(place),
            "low": across(_low(place)),
            "width": round(across(_high(place)) - across(_low(place)), 2),
            "at": across(place.value),
            "behind": _behind(place),
            "diverged": place.entry.trial.diverged,
        }
        for place in places
    ]
    first = places[0].entry
    return render(
        "leaderboard.html",
        name=name,
        metric=board.metric,
        keys=board.keys,
        lines=lines,
        methods=_by_method(places),
        backbones=len({place.entry.backbone for place in places}) > 1,
        folds=first.trial.scores.shape[0],
        seeds=first.trial.scores.shape[1],
        queries=len(first.keys),
        least=f"{least:.3f}",
        most=f"{least + span:.3f}",
    )


def _by_method(places: Sequence[Place]) -> list[dict[str, Any]]:
    """The best of each loss or closed form, and how many configurations it had."""
    found = []
    for method in dict.fromkeys(place.entry.method for place in places if not place.entry.raw):
        of_method = [place for place in places if place.entry.method == method]
        said = {"best": _value(of_method[0]), "behind": _behind(of_method[0])}
        found.append({"method": method, "tried": len(of_method)} | said)
    return found


def _leads(place: Place, places: Sequence[Place]) -> bool:
    """Whether ``place`` is the first of its method."""
    return place is next(other for other in places if other.entry.method == place.entry.method)


def _low(place: Place) -> float:
    return place.value if np.isnan(place.low) else place.low


def _high(place: Place) -> float:
    return place.value if np.isnan(place.high) else place.high


def _value(place: Place) -> str:
    return f"{place.value:.4f} ±{_high(place) - place.value:.4f}"


def _behind(place: Place) -> str:
    if place.behind is None:
        return "the best"
    star = " *" if place.behind.low <= 0 else ""
    return f"{place.behind.value:.4f} [{place.behind.low:.4f}, {place.behind.high:.4f}]{star}"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
