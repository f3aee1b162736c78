"""The map of the embeddings as the page shows it: dots, a legend, and some of the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from pipeline.views.charts import Point, cloud, look
from pipeline.views.report.measured import Measured
from stages.analysis.embedding_map import EmbeddingMap, MappedImage, embedding_map

_GRID = 11  # pictures across


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
    made = (
        f"{len(mapped.images):,} of {len(side.ranks.gallery):,} gallery images, sampled with a fixed seed, "
        f"by {side.name}: {mapped.method}"
    )
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
