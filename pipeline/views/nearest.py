"""Looking at results: one picture of some queries with their nearest images, by raw feature and by each head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cache import fingerprint
from pipeline.run import Vectors
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

    The queries are drawn by lot, the lot being the hash of their key: the same for every head and backbone, and not
    chosen for looking well. Those with nothing to find are passed over.
    """
    gallery = records.split("gallery")
    drawn = _by_lot(records.split("query"), gallery, vectors, queries)
    found = {of.head: nearest(of.store, drawn, gallery, neighbours) for of in vectors}
    uris, classes = gallery.uris, gallery.classes
    rows = []
    for at, (uri, label, wanted) in enumerate(zip(drawn.uris, drawn.labels, drawn.classes, strict=True)):
        rankings = {
            name: [
                Neighbour(uris[position], classes[position] == wanted, float(similarity))
                for position, similarity in zip(positions[at], similarities[at], strict=True)
                if position >= 0
            ]
            for name, (positions, similarities) in found.items()
        }
        rows.append(SheetRow(uri, str(label), rankings))
    return draw_contact_sheet(path, rows, title=title)


def _by_lot(queries: Records, gallery: Records, vectors: Sequence[Vectors], count: int) -> Records:
    itself, sizes = set(gallery.keys), Counter(gallery.classes)
    usable = vectors[0].store.usable(queries.digests)
    for of in vectors[1:]:
        usable &= of.store.usable(queries.digests)
    answerable = [
        row
        for row, (key, name) in enumerate(zip(queries.keys, queries.classes, strict=True))
        if usable[row] and sizes[name] > (key in itself)
    ]
    keys = queries.keys
    return queries.take(sorted(answerable, key=lambda row: fingerprint(keys[row]))[:count])
