"""A map of the embeddings: where images lie when 64 or 512 numbers are pressed into two.

PCA first (it keeps the large directions and drops noise), then t-SNE, which keeps neighbours together. Only who is
beside whom means something: neither the distances between groups nor their sizes do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from pipeline.views.charts import COLOURS, Point, cloud
from pipeline.views.report.measured import Measured
from stages.ranking import unit_length
from stages.records.seeded_order import seeded_order

MOST = 1200
"""Images on the map."""
COMPONENTS = 50
PERPLEXITY = 30
ITERATIONS = 500
_LEAST = 8  # images; fewer are no map
_GRID = 11  # pictures across


@dataclass(frozen=True)
class Placed:
    """An image on the map, ``x`` and ``y`` in [0, 1], and the group whose colour it has; None for the rest."""

    x: float
    y: float
    group: int | None
    label: str
    domain: str
    key: str
    uri: str


@dataclass(frozen=True)
class EmbeddingMap:
    """The images on the map, the groups by name and size, and in words how it was made."""

    images: Sequence[Placed]
    groups: Sequence[tuple[str, int]]
    by: str
    """``domain`` or ``label``."""
    made: str

    def dots(self) -> Markup:
        """The map as dots."""
        points = [
            Point(
                of.x,
                of.y,
                "rest" if of.group is None else f"c{of.group + 1}",
                f"{of.domain}: {of.label}" if of.domain else of.label,
                at,
            )
            for at, of in enumerate(self.images)
        ]
        order = sorted(points, key=lambda point: point.look != "rest")
        return cloud(order, label=f"map of {len(points):,} images by {self.by}: {self.made}")

    def spread(self) -> list[int]:
        """Images to be shown as pictures: of each square of a grid the one nearest to its middle."""
        found: dict[tuple[int, int], tuple[float, int]] = {}
        for at, of in enumerate(self.images):
            square = min(int(of.x * _GRID), _GRID - 1), min(int(of.y * _GRID), _GRID - 1)
            off = abs(of.x * _GRID - square[0] - 0.5) + abs(of.y * _GRID - square[1] - 0.5)
            found[square] = min(found.get(square, (9.0, at)), (off, at))
        return [at for _, at in found.values()]


def embedding_map(of: Measured, seed: int) -> EmbeddingMap | None:
    """The map of the gallery by ``of``, drawn by lot; None where there are too few images.

    Coloured are the domains where there are several, largest first, else the labels of most images. Of many labels
    only those that are coloured, and some others, are drawn. The same vectors give the same map.
    """
    if of.ranking is None:
        return None
    gallery = of.ranking.gallery
    keys, labels, domains = gallery.keys, gallery.labels, gallery.domains
    by = "domain" if len({*domains} - {None}) > 1 else "label"
    names = domains if by == "domain" else labels
    order = sorted(range(len(keys)), key=lambda row: seeded_order(seed, "map", keys[row]))
    largest = _largest(names, seed)
    if by == "label":  # all images of the coloured labels, so that a group can be seen, and as many others
        coloured = [row for row in order if names[row] in largest][: MOST // 2]
        inside = set(coloured)
        order = coloured + [row for row in order if row not in inside][: MOST - len(coloured)]
    rows = sorted(order[:MOST])
    if len(rows) < _LEAST:
        return None
    sample = gallery.take(rows)
    placed, made = _placed(unit_length(of.vectors.store.read(sample.digests)))
    images = [
        Placed(
            float(x),
            float(y),
            largest.index(name) if name in largest else None,
            labels[row] or "no label",
            domains[row] or "",
            keys[row],
            uri,
        )
        for (x, y), row, name, uri in zip(placed, rows, [names[row] for row in rows], sample.uris, strict=True)
    ]
    counts = Counter(image.group for image in images)
    groups = [(str(name), counts[at]) for at, name in enumerate(largest)]
    if counts[None]:
        groups.append((f"other {by}s", counts[None]))
    made = f"{len(images):,} of {len(gallery):,} gallery images drawn by lot, by {of.name}: {made}"
    return EmbeddingMap(images, groups, by, made)


def _largest(names: Sequence[str | None], seed: int) -> list[str | None]:
    counts = Counter(name for name in names if name is not None)
    return sorted(counts, key=lambda name: (-counts[name], seeded_order(seed, str(name))))[:COLOURS]  # type: ignore[return-value]


def _placed(vectors: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], str]:
    """Places (n, 2) in [0, 1], and how they were found."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    components = min(COMPONENTS, *vectors.shape)
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    # One thread: the same sums in the same order, and t-SNE's threads wait for one another on a busy machine.
    with threadpool_limits(1):
        reduced = PCA(components, svd_solver="full").fit_transform(vectors.astype(np.float64))
        reduced *= np.where(np.abs(reduced).max(0) == reduced.max(0), 1, -1)  # signs are free: the far end is positive
        if components < 2 or not np.ptp(reduced, axis=0)[:2].all():
            flat = np.zeros((len(vectors), 2))
            flat[:, : min(2, components)] = reduced[:, :2]
            return _within(flat), "the first two principal components"
        start = reduced[:, :2] / reduced[:, 0].std() * 1e-4
        made = TSNE(init=start, perplexity=perplexity, max_iter=ITERATIONS, random_state=0).fit_transform(reduced)
    return _within(made), (
        f"PCA to {components} numbers, then t-SNE (perplexity {perplexity:g}, {ITERATIONS} steps, started at PCA)"
    )


def _within(places: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """``places`` (n, 2) moved and scaled into [0, 1], both ways alike."""
    low, span = places.min(axis=0), float(np.ptp(places, axis=0).max()) or 1.0
    room = (1 - np.ptp(places, axis=0) / span) / 2
    within: npt.NDArray[np.float64] = (places.astype(np.float64) - low) / span + room
    return within
