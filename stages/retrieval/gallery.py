"""A gallery of records: its index, and what is nearest in it, for the images that have a row in a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cache import Features, fingerprint
from cache.errors import DamagedStoreError, NothingToScoreError, RecordsError, StaleStoreError
from stages.records import Records
from stages.retrieval.index import FlatIndexConfig, GalleryIndex, IndexConfig, build_index, unit_length
from stages.retrieval.search import Rows, Similarity, search


def nearest(vectors: Features, queries: Records, gallery: Records, k: int) -> tuple[Rows, Similarity]:
    """The positions in ``gallery`` of the ``k`` records nearest to each query, and their similarity, both (Q, k).

    The query itself (the same key) is left out. A query whose image failed, and the places past the end of a small
    gallery, have position -1 and similarity -inf. Raises as :func:`evaluate` does.
    """
    asked, searched = rows_of(vectors, queries, "query"), rows_of(vectors, gallery, "gallery")
    index = build_index(unit_length(vectors.read(gallery.take(searched).digests)))
    itself = positions_of(queries.take(asked).keys, gallery.take(searched).keys)
    found, similarity = search(index, unit_length(vectors.read(queries.take(asked).digests)), k, itself)
    positions = np.full((len(queries), k), -1, np.int64)
    similarities = np.full((len(queries), k), -np.inf, np.float32)
    positions[asked] = np.append(searched, -1)[found]  # row -1, past the end, is the one appended
    similarities[asked] = similarity
    return positions, similarities


def index_gallery(
    vectors: Features,
    gallery: Records,
    config: IndexConfig = FlatIndexConfig(),
    *,
    folder: Path | str | None = None,
) -> GalleryIndex:
    """The index of every gallery image with a row in ``vectors``, made unit length. Raises as :func:`evaluate` does.

    With a ``folder`` the index is kept there, and read from there when it is of these very keys and images.
    """
    searched = with_row(vectors, gallery, "gallery")
    keys, rows = tuple(searched.keys), fingerprint([vectors.fingerprint, *(d.hex() for d in searched.digests)])
    if folder is not None:
        try:
            return GalleryIndex.load(folder, embeddings=rows, keys=keys)
        except (StaleStoreError, DamagedStoreError):
            pass  # of other rows, or not there: built below
    index = GalleryIndex(build_index(unit_length(vectors.read(searched.digests)), config), keys, rows)
    if folder is not None:
        index.save(folder)
    return index


def rows_of(vectors: Features, records: Records, role: str) -> Rows:
    """Positions of the ``records`` that have a row; what failed is left out, what was never computed is refused."""
    rows = records.rows_in(vectors)
    if not len(rows):
        why = f"all {len(records):,} {role} images failed" if len(records) else f"there is no {role} record"
        raise NothingToScoreError(f"{why}. Name another split, or see the failures of {vectors.path}.")
    return rows


def with_row(vectors: Features, records: Records, role: str) -> Records:
    """The ``records`` that have a row. NothingToScoreError, which calls them by their ``role``, where none has."""
    return records.take(rows_of(vectors, records, role))


def positions_of(keys: Sequence[str], gallery_keys: Sequence[str]) -> Rows:
    """Where each query (Q,) is in the gallery itself, by key; -1 where it is not."""
    position = {key: row for row, key in enumerate(gallery_keys)}
    if len(position) < len(gallery_keys):
        twice = next(key for key, count in Counter(gallery_keys).items() if count > 1)
        raise RecordsError(f"the gallery has more than one record of key {twice!r}; keys must differ")
    return np.array([position.get(key, -1) for key in keys], dtype=np.int64)
