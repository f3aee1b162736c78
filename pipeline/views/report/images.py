"""The images that are shown: queries with their nearest, by the raw feature and the best head; a map of the gallery.

Four lists of queries: the *worst* by what won, those that the head *lost* and *gained* most against the raw feature,
and a *sample*, which was not chosen for looking well or badly. Each takes the domains by turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from cache import fingerprint
from pipeline.views.charts import Point, cloud, look
from pipeline.views.report.measured import Measured
from stages.analysis.embedding_map import EmbeddingMap, MappedImage, embedding_map
from stages.analysis.first_ranks import FirstRanks
from stages.ranking.metrics import Values

NEAREST = 6
"""Images shown of each ranking."""

LISTS = {
    "worst": "worst first",
    "lost": "where the raw feature did better",
    "gained": "where the head did better",
    "sample": "a sample",
}
_SHARES = {"worst": 0.4, "lost": 0.2, "gained": 0.2, "sample": 0.2}
_GRID = 11  # pictures across the map


class RankedImage(NamedTuple):
    """An image of a ranking: its rank from 1, whether it is right, how similar, and what and where it is."""

    rank: int
    right: bool
    similarity: float
    label: str
    key: str
    uri: str


class Result(NamedTuple):
    """The first images of one ranking of a query, and the query's value of the metric there."""

    value: float
    images: Sequence[RankedImage]


class Query(NamedTuple):
    """A query with its results by name of what ranked them; ``relevant`` gallery images are right."""

    list: str
    key: str
    label: str
    domain: str
    uri: str
    relevant: int
    results: Mapping[str, Result]


def shown_queries(best: Measured, head: Measured | None, raw: Measured | None, metric: str, count: int) -> list[Query]:
    """About ``count`` queries, list by list; each query is in the first list that takes it.

    The worst are those of the lowest value of ``metric`` by ``best``; of equals the one whose first right image comes
    latest, then the one that is surest of a wrong image. Without ``head`` and ``raw`` there is nothing to gain or lose.
    """
    if best.ranks is None:
        return []
    queries = best.ranks.queries
    keys, domains = queries.keys, queries.domains
    values = best.values(metric, keys)
    orders = {"worst": _worst_first(best.ranks, values)}
    if head is not None and raw is not None:
        change = head.values(metric, keys) - raw.values(metric, keys)
        orders["lost"] = [at for at in np.argsort(change, kind="stable").tolist() if change[at] < 0]
        orders["gained"] = [at for at in np.argsort(-change, kind="stable").tolist() if change[at] > 0]
    orders["sample"] = sorted(range(len(keys)), key=lambda at: fingerprint(keys[at]))
    total = sum(_SHARES[name] for name in orders)
    list_of: dict[int, str] = {}
    for name, order in orders.items():
        share = count - len(list_of) if name == "sample" else round(count * _SHARES[name] / total)
        for at in _by_turns([at for at in order if at not in list_of], domains)[:share]:
            list_of[at] = name
    shown = dict.fromkeys(side for side in (raw, best, head) if side)
    results = {side.name: _results(side, metric, [keys[at] for at in list_of]) for side in shown}
    labels, uris, relevant = queries.labels, queries.uris, best.ranks.num_relevant
    shown_in_lists = []
    for at, name in list_of.items():
        of_query = {side: by_key[keys[at]] for side, by_key in results.items()}
        facts = keys[at], str(labels[at]), domains[at] or "", uris[at], int(relevant[at])
        shown_in_lists.append(Query(name, *facts, of_query))
    return shown_in_lists


def _worst_first(ranks: FirstRanks, values: Values) -> list[int]:
    hit = ranks.relevant.any(axis=1)
    first_right = np.where(hit, ranks.relevant.argmax(axis=1), ranks.relevant.shape[1])
    return [int(at) for at in np.lexsort((-ranks.similarity[:, 0], -first_right, values))]


def _by_turns(order: Sequence[int], domains: Sequence[str | None]) -> list[int]:
    """The first of each domain, in the order in which they come, then the second of each, and so on."""
    turns: dict[str | None, int] = {}
    placed = []
    for place, at in enumerate(order):
        turns[domains[at]] = turn = turns.get(domains[at], -1) + 1
        placed.append((turn, place, at))
    return [at for _, _, at in sorted(placed)]


def _results(side: Measured, metric: str, keys: Sequence[str]) -> dict[str, Result]:
    """What is shown of the queries ``keys``; nothing of one that ``side`` cannot answer."""
    if side.ranks is None:
        return dict.fromkeys(keys, Result(float("nan"), []))
    ranks, gallery = side.ranks, side.ranks.gallery
    place = {key: at for at, key in enumerate(ranks.queries.keys)}
    labels, gallery_keys, uris = gallery.labels, gallery.keys, gallery.uris
    results = {}
    for key, value in zip(keys, side.values(metric, keys), strict=True):
        at = place.get(key)
        if at is None:
            results[key] = Result(float("nan"), [])
            continue
        first = zip(ranks.rows[at, :NEAREST], ranks.relevant[at], ranks.similarity[at], strict=False)
        images = [
            RankedImage(rank, bool(right), float(similarity), labels[row] or "", gallery_keys[row], uris[row])
            for rank, (row, right, similarity) in enumerate(first, 1)
            if row >= 0
        ]
        results[key] = Result(float(value), images)
    return results


class MapView(NamedTuple):
    """The map as dots, the groups by class, name and size, and the places of the images shown as pictures."""

    images: Sequence[MappedImage]
    by: str
    made: str
    dots: Markup
    groups: Sequence[tuple[str, str, int]]
    pictured: Sequence[int]


def map_view(side: Measured, seed: int) -> MapView | None:
    """The map of the gallery by ``side``; None where there are too few images."""
    mapped = None if side.ranks is None else embedding_map(side.vectors.store, side.ranks.gallery, seed)
    if mapped is None or side.ranks is None:
        return None
    shown = f"{len(mapped.images):,} of {len(side.ranks.gallery):,} gallery images, sampled with a fixed seed"
    made = f"{shown}, by {side.name}: {mapped.method}"
    looks = ["rest" if image.group is None else look(image.group) for image in mapped.images]
    points = [
        Point(image.x, image.y, colour, f"{image.domain}: {image.label}" if image.domain else image.label, at)
        for at, (image, colour) in enumerate(zip(mapped.images, looks, strict=True))
    ]
    on_top = sorted(points, key=lambda point: point.look != "rest")
    dots = cloud(on_top, label=f"map of {len(points):,} images by {mapped.by}: {made}")
    counts = Counter(looks)
    groups = [(look(at), name, counts[look(at)]) for at, name in enumerate(mapped.groups)]
    if counts["rest"]:
        groups.append(("rest", f"other {mapped.by}s", counts["rest"]))
    return MapView(mapped.images, mapped.by, made, dots, groups, _pictured(mapped))


def _pictured(mapped: EmbeddingMap) -> list[int]:
    """Of each square of a grid the image nearest to its middle."""
    nearest: dict[tuple[int, int], tuple[float, int]] = {}
    for at, image in enumerate(mapped.images):
        square = min(int(image.x * _GRID), _GRID - 1), min(int(image.y * _GRID), _GRID - 1)
        off = abs(image.x * _GRID - square[0] - 0.5) + abs(image.y * _GRID - square[1] - 0.5)
        nearest[square] = min(nearest.get(square, (9.0, at)), (off, at))
    return [at for _, at in nearest.values()]
