"""Whether the vectors are sound: how many dimensions they use, and whether a few images answer everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.views.report.measured import Measured
from stages.analysis import Hubs, Spread, hubs, spread
from stages.analysis.health import Hub

NEAREST = 10


class EmbeddingHealth(NamedTuple):
    """The spread and the hubs of the gallery by one head, with the images that are nearest most often."""

    name: str
    spread: Spread
    hubs: Hubs
    queries: int
    top: Sequence[Hub]


def embedding_health(shown: Sequence[Measured], top: int) -> list[EmbeddingHealth]:
    """The health of each of ``shown``, with its ``top`` hubs."""
    lines = []
    for side in shown:
        if side.ranks is None or len(side.ranks.gallery) < 2:
            continue
        gallery = side.ranks.gallery
        counted = hubs(side.ranks.rows[:, :NEAREST], len(gallery))
        keys, labels, uris = gallery.keys, gallery.labels, gallery.uris
        most = [Hub(keys[row], uris[row], labels[row] or "", int(counted.counts[row])) for row in counted.top(top)]
        measured = spread(side.vectors.store.read(gallery.digests))
        lines.append(EmbeddingHealth(side.name, measured, counted, len(side.ranks.rows), most))
    return lines
