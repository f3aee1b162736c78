"""The map of the embeddings as the page shows it: dots, a legend, and some of the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.views.charts import Point, cloud, look
from pipeline.views.report.measured import Measured
from stages.analysis.embedding_map import embedding_map

_GRID = 11  # pictures across


@dataclass(frozen=True)
class MappedImage:
    """An image on the map, ``x`` and ``y`` in [0, 1]; ``look`` is the class that colours its group."""

    x: float
    y: float
    look: str
    label: str
    domain: str
    key: str
    uri: str


@dataclass(frozen=True)
class MapView:
    """The images on the map, the groups by class, name and size, and how the map was made.

    ``by`` is what the groups are: ``domain`` or ``label``.
    """

    images: Sequence[MappedImage]
    groups: Sequence[tuple[str, str, int]]
    by: str
    made: str

    def dots(self) -> Markup:
        """The map as dots."""
        points = [
            Point(image.x, image.y, image.look, f"{image.domain}: {image.label}" if image.domain else image.label, at)
            for at, image in enumerate(self.images)
        ]
        order = sorted(points, key=lambda point: point.look != "rest")
        return cloud(order, label=f"map of {len(points):,} images by {self.by}: {self.made}")

    def pictured(self) -> list[int]:
        """Images to be shown as pictures: of each square of a grid the one nearest to its middle."""
        nearest: dict[tuple[int, int], tuple[float, int]] = {}
        for at, image in enumerate(self.images):
            square = min(int(image.x * _GRID), _GRID - 1), min(int(image.y * _GRID), _GRID - 1)
            off = abs(image.x * _GRID - square[0] - 0.5) + abs(image.y * _GRID - square[1] - 0.5)
            nearest[square] = min(nearest.get(square, (9.0, at)), (off, at))
        return [at for _, at in nearest.values()]


def map_view(side: Measured, seed: int) -> MapView | None:
    """The map of the gallery by ``side``; None where there are too few images."""
    if side.ranks is None:
        return None
    gallery = side.ranks.gallery
    mapped = embedding_map(side.vectors.store, gallery, seed)
    if mapped is None:
        return None
    records = mapped.images
    colours = ["rest" if group is None else look(group) for group in mapped.groups]
    columns = zip(
        mapped.places.tolist(), colours, records.labels, records.domains, records.keys, records.uris, strict=True
    )
    images = [
        MappedImage(x, y, colour, label or "no label", domain or "", key, uri)
        for (x, y), colour, label, domain, key, uri in columns
    ]
    counts = Counter(colours)
    groups = [(look(at), name, counts[look(at)]) for at, name in enumerate(mapped.names)]
    if counts["rest"]:
        groups.append(("rest", f"other {mapped.by}s", counts["rest"]))
    sample = f"{len(images):,} of {len(gallery):,} gallery images, sampled with a fixed seed"
    made = f"{sample}, by {side.name}: {mapped.method}"
    return MapView(images, groups, mapped.by, made)
