"""Whether the vectors are sound: how many dimensions they use, and whether a few images answer everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.views.report.measured import Measured
from stages.analysis.embedding_health import Hubs, Spread, hubs, spread

NEAREST = 10


class Hub(NamedTuple):
    """A gallery image, and for how many of the queries it is among the nearest."""

    key: str
    label: str
    uri: str
    found: int


class Soundness(NamedTuple):
    """The spread and the hubs of the gallery by one head."""

    name: str
    spread: Spread
    hubs: Hubs
    queries: int
    top: Sequence[Hub]


def soundness(shown: Sequence[Measured], top: int) -> list[Soundness]:
    """Of each of ``shown``, with the ``top`` images that are found most."""
    found = []
    for of in shown:
        if of.ranking is None or len(of.ranking.gallery) < 2:
            continue
        gallery = of.ranking.gallery
        counted = hubs(of.ranking.rows[:, :NEAREST], len(gallery))
        keys, labels, uris = gallery.keys, gallery.labels, gallery.uris
        most = [Hub(keys[row], labels[row] or "", uris[row], int(counted.counts[row])) for row in counted.top(top)]
        vectors = of.vectors.store.read(gallery.digests)
        found.append(Soundness(of.name, spread(vectors), counted, len(of.ranking.rows), most))
    return found
