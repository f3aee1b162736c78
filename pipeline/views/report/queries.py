"""Queries with their nearest images, by the raw feature and by the best head: what it gets wrong, and what it mended.

Four lists: the *worst* by the head, those that it *lost* and *gained* most against the raw feature, and some drawn *by
lot*, which were not chosen for looking well or badly. Each is drawn from the domains by turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cache import fingerprint
from pipeline.views.report.measured import Measured, Ranking
from stages.ranking.metrics import Values

NEAREST = 6
"""Images shown of each ranking."""

LISTS = {
    "worst": "worst first",
    "lost": "where the raw feature did better",
    "gained": "where the head did better",
    "lot": "drawn by lot",
}
_SHARES = {"worst": 0.4, "lost": 0.2, "gained": 0.2, "lot": 0.2}


class Shown(NamedTuple):
    """An image of a ranking: its place from 1, whether it is right, how similar, and what and where it is."""

    place: int
    right: bool
    similarity: float
    label: str
    key: str
    uri: str


@dataclass(frozen=True)
class Query:
    """A query with its first images by name of what ranked them, and its value there."""

    list: str
    key: str
    label: str
    domain: str
    uri: str
    relevant: int
    """R: how many gallery images are right."""
    rankings: Mapping[str, Sequence[Shown]]
    values: Mapping[str, float]


def shown_queries(best: Measured, raw: Measured | None, metric: str, count: int) -> list[Query]:
    """About ``count`` queries, list by list; each query is in the first list that takes it.

    The worst are those of the lowest value of ``metric``; of equals the one whose first right image comes latest, then
    the one that is surest of a wrong image. Without ``raw`` there is nothing to gain or lose.
    """
    if best.ranking is None:
        return []
    ranking = best.ranking
    values = _values(best, ranking, metric)
    orders = {"worst": _worst_first(ranking, values)}
    if raw is not None and raw.ranking is not None:
        change = values - _values(raw, ranking, metric)
        orders["lost"] = [at for at in np.argsort(change, kind="stable").tolist() if change[at] < 0]
        orders["gained"] = [at for at in np.argsort(-change, kind="stable").tolist() if change[at] > 0]
    keys = ranking.queries.keys
    orders["lot"] = sorted(range(len(keys)), key=lambda at: fingerprint(keys[at]))
    domains = ranking.queries.domains
    taken: dict[int, str] = {}
    for name, order in orders.items():
        wanted = (
            count - len(taken) if name == "lot" else round(count * _SHARES[name] / sum(_SHARES[of] for of in orders))
        )
        for at in _by_turns([at for at in order if at not in taken], domains)[:wanted]:
            taken[at] = name
    sides = [side for side in (raw, best) if side is not None and side.ranking is not None]
    readers = {side.name: _reader(side, metric) for side in sides}
    queries = ranking.queries
    labels, uris, relevant = queries.labels, queries.uris, ranking.num_relevant
    return [
        Query(
            name,
            keys[at],
            str(labels[at]),
            domains[at] or "",
            uris[at],
            int(relevant[at]),
            {side: reader(keys[at])[0] for side, reader in readers.items()},
            {side: reader(keys[at])[1] for side, reader in readers.items()},
        )
        for at, name in taken.items()
    ]


def _values(of: Measured, ranking: Ranking, metric: str) -> Values:
    """The value of ``metric`` for each query of ``ranking`` (Q,); 0 for one that it was not scored for."""
    kept = of.kept[metric]
    value = dict(zip(kept.query_keys, kept.per_query[metric].tolist(), strict=True))
    return np.array([value.get(key, 0.0) for key in ranking.queries.keys])


def _worst_first(ranking: Ranking, values: Values) -> list[int]:
    hit = ranking.relevant.any(axis=1)
    first_right = np.where(hit, ranking.relevant.argmax(axis=1), ranking.relevant.shape[1])
    return [int(at) for at in np.lexsort((-ranking.similarity[:, 0], -first_right, values))]


def _by_turns(order: Sequence[int], domains: Sequence[str | None]) -> list[int]:
    """The first of each domain, in the order in which they come, then the second of each, and so on."""
    turns: dict[str | None, int] = {}
    placed = []
    for place, at in enumerate(order):
        turns[domains[at]] = turn = turns.get(domains[at], -1) + 1
        placed.append((turn, place, at))
    return [at for _, _, at in sorted(placed)]


def _reader(of: Measured, metric: str) -> Callable[[str], tuple[list[Shown], float]]:
    """Reads what is shown of a query, by its key."""
    assert of.ranking is not None
    ranking, gallery = of.ranking, of.ranking.gallery
    place = {key: at for at, key in enumerate(ranking.queries.keys)}
    labels, keys, uris = gallery.labels, gallery.keys, gallery.uris
    values = _values(of, ranking, metric)

    def read(key: str) -> tuple[list[Shown], float]:
        if key not in place:
            return [], float("nan")
        at = place[key]
        first = zip(ranking.rows[at, :NEAREST], ranking.relevant[at], ranking.similarity[at], strict=False)
        shown = [
            Shown(rank, bool(right), float(similarity), labels[row] or "", keys[row], uris[row])
            for rank, (row, right, similarity) in enumerate(first, 1)
            if row >= 0
        ]
        return shown, float(values[at])

    return read
