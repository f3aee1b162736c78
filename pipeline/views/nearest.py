"""One picture of some queries with their nearest images, by the raw feature and by each head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cache import fingerprint
from pipeline.vectors import Vectors
from pipeline.views.contact_sheet import Neighbour, SheetRow, draw_contact_sheet
from stages.records import Records
from stages.retrieval import nearest

QUERIES = 6
NEAREST = 5


def draw_nearest(
    path: Path,
    records: Records,
    vectors: Sequence[Vectors],
    *,
    title: str,
    queries: int = QUERIES,
    neighbours: int = NEAREST,
) -> Path:
    """Draw some ``queries``, each with its nearest ``neighbours`` by each of ``vectors`` (of one backbone).

    The queries are those of the smallest hash of their key: the same for every head and backbone, and not chosen for
    looking well. Those with nothing to find are passed over.
    """
    gallery = records.split("gallery")
    sample = _sample(records.split("query"), gallery, vectors, queries)
    results = {one.head: nearest(one.store, sample, gallery, neighbours) for one in vectors}
    uris, classes, wanted = gallery.uris, gallery.classes, sample.classes

    def ranking(name: str, query: int) -> list[Neighbour]:
        pairs = zip(*(part[query].tolist() for part in results[name]), strict=True)
        return [Neighbour(uris[row], classes[row] == wanted[query], similar) for row, similar in pairs if row >= 0]

    rows = [
        SheetRow(uri, str(label), {name: ranking(name, query) for name in results})
        for query, (uri, label) in enumerate(zip(sample.uris, sample.labels, strict=True))
    ]
    return draw_contact_sheet(path, rows, title=title)


def _sample(queries: Records, gallery: Records, vectors: Sequence[Vectors], count: int) -> Records:
    """Queries that all of ``vectors`` have a row of, and that have something to find."""
    usable = np.logical_and.reduce([one.store.usable(queries.digests) for one in vectors])
    gallery_keys, sizes, keys = set(gallery.keys), Counter(gallery.classes), queries.keys
    answerable = [
        row
        for row, (key, name) in enumerate(zip(keys, queries.classes, strict=True))
        if usable[row] and sizes[name] > (key in gallery_keys)
    ]
    return queries.take(sorted(answerable, key=lambda row: fingerprint(keys[row]))[:count])
