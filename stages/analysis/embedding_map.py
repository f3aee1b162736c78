"""A map of the embeddings: a place in two dimensions for each of some images.

PCA first (it keeps the large directions and drops noise), then t-SNE, which keeps neighbours together. Only who is
beside whom means something: neither the distances between groups nor their sizes do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cache import Features
from stages.ranking import unit_length
from stages.records import Records
from stages.records.splits import seeded_order

IMAGES = 1200
"""On the map, at most."""
GROUPS = 7
"""Labels or domains with a colour of their own."""
COMPONENTS, PERPLEXITY, ITERATIONS = 50, 30, 500
_LEAST = 8  # images; fewer are no map


class MappedImage(NamedTuple):
    """An image on the map, ``x`` and ``y`` in [0, 1]; ``group`` is the place of its group, None for the rest."""

    x: float
    y: float
    group: int | None
    label: str
    domain: str
    key: str
    uri: str


class EmbeddingMap(NamedTuple):
    """Some images and their places, by a ``method``. ``groups`` are the largest by ``by`` (``domain`` or ``label``)."""

    images: Sequence[MappedImage]
    groups: Sequence[str]
    by: str
    method: str


def embedding_map(vectors: Features, gallery: Records, seed: int) -> EmbeddingMap | None:
    """Map images of ``gallery``, sampled from ``seed``; None where there are too few. Same vectors, same map.

    Groups are the domains where there are several, largest first, else the labels of most images. Of many labels, half
    of the map are images of the largest, so that a group can be seen.
    """
    keys, domains = gallery.keys, gallery.domains
    by = "domain" if len({*domains} - {None}) > 1 else "label"
    group_of = domains if by == "domain" else gallery.labels
    order = sorted(range(len(keys)), key=lambda row: seeded_order(seed, "map", keys[row]))
    names = _largest(group_of, seed)
    if by == "label":
        coloured = [row for row in order if group_of[row] in names][: IMAGES // 2]
        inside = set(coloured)
        order = coloured + [row for row in order if row not in inside][: IMAGES - len(coloured)]
    rows = sorted(order[:IMAGES])
    if len(rows) < _LEAST:
        return None
    sample = gallery.take(rows)
    places, method = _places(unit_length(vectors.read(sample.digests)))
    position: dict[str | None, int] = {name: at for at, name in enumerate(names)}
    columns = places.tolist(), rows, sample.labels, sample.domains, sample.keys, sample.uris
    images = [
        MappedImage(x, y, position.get(group_of[row]), label or "no label", domain or "", key, uri)
        for (x, y), row, label, domain, key, uri in zip(*columns, strict=True)
    ]
    return EmbeddingMap(images, names, by, method)


def _largest(names: Sequence[str | None], seed: int) -> tuple[str, ...]:
    counts = Counter(name for name in names if name is not None)
    return tuple(sorted(counts, key=lambda name: (-counts[name], seeded_order(seed, name)))[:GROUPS])


def _places(vectors: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], str]:
    """Places (N, 2) in [0, 1], and how they were computed."""
    if not np.ptp(vectors, axis=0).any():
        return np.full((len(vectors), 2), 0.5), "one place: the images do not differ"
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
        places = TSNE(init=start, perplexity=perplexity, max_iter=ITERATIONS, random_state=0).fit_transform(reduced)
    method = f"PCA to {components} dimensions, then t-SNE (perplexity {perplexity:g}, {ITERATIONS} steps, from PCA)"
    return _within(places), method


def _within(places: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """``places`` (N, 2) moved and scaled to fill [0, 1] both ways; in the middle where they do not differ."""
    low, span = places.min(axis=0).astype(np.float64), np.ptp(places, axis=0).astype(np.float64)
    return np.where(span > 0, (places - low) / np.where(span > 0, span, 1), 0.5)
