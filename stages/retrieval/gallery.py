"""The gallery of a store of features: its index, what is nearest to a query, and queries of several terms."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias, overload

import numpy as np
import numpy.typing as npt

from cache import Features, digest_bytes, fingerprint
from cache.digest_list import Digests
from cache.errors import DamagedStoreError, SettingsError, StaleStoreError
from cache.features import numbers_fingerprint
from cache.storage import Where
from stages.ranking.nearest import Rows, Similarity, search
from stages.ranking.normalize import Vectors, check_unit, unit_length
from stages.ranking.relevance import own_rows
from stages.records import Records
from stages.retrieval.gallery_rows import GalleryRows
from stages.retrieval.indexes.auto import FEWEST_QUERIES, AutoIndexConfig, Choice, Evidence, IndexConfig, choose_index
from stages.retrieval.indexes.gallery_index import GalleryIndex
from stages.retrieval.indexes.kinds import BuiltConfig, FlatIndexConfig, IvfPqIndexConfig
from stages.retrieval.indexes.milvus import MilvusIndex, MilvusIndexConfig
from stages.retrieval.indexes.on_disk import build_on_disk, check_folder
from stages.retrieval.query_set import Judge, rows_of, same_class, with_row
from stages.retrieval.query_values import records_fingerprint

Index: TypeAlias = GalleryIndex | MilvusIndex


def nearest(vectors: Features, queries: Records, gallery: Records, k: int) -> tuple[Rows, Similarity]:
    """The positions in ``gallery`` of the ``k`` records nearest to each query, and their similarity, both (Q, k).

    The query itself (the same key) is left out. A query whose image failed, and the places past the end of a small
    gallery, have position -1 and similarity -inf. Raises as :func:`evaluate` does.

    >>> from stages.retrieval.example import IMAGES, VECTORS
    >>> rows, similarity = nearest(VECTORS, IMAGES.take([0]), IMAGES, k=2)
    >>> [IMAGES.keys[row] for row in rows[0]], bool(similarity[0, 0] > 0.99)
    (['bag/1', 'bag/2'], True)
    """
    searching, searched = rows_of(vectors, queries, "query"), rows_of(vectors, gallery, "gallery")
    rows = unit_length(vectors.read(gallery.take(searched).digests))
    itself = own_rows(queries.take(searching).keys, gallery.take(searched).keys)
    asking = unit_length(vectors.read(queries.take(searching).digests))
    nearest_rows, similarity = search(rows, asking, k, itself)
    positions = np.full((len(queries), k), -1, np.int64)
    similar = np.full((len(queries), k), -np.inf, np.float32)
    positions[searching] = np.append(searched, -1)[nearest_rows]  # row -1, past the end, is the one appended
    similar[searching] = similarity
    return positions, similar


@overload
def index_gallery(
    vectors: Features, gallery: Records, config: MilvusIndexConfig, *, folder: Where | None = None
) -> MilvusIndex: ...
@overload
def index_gallery(
    vectors: Features,
    gallery: Records,
    config: BuiltConfig | AutoIndexConfig = FlatIndexConfig(),
    *,
    folder: Where | None = None,
) -> GalleryIndex: ...
def index_gallery(
    vectors: Features, gallery: Records, config: IndexConfig = FlatIndexConfig(), *, folder: Where | None = None
) -> Index:
    """The index of every gallery image with a row in ``vectors``, made unit length. Raises as :func:`evaluate` does.

    With a ``folder`` the index is kept there, and read from there when it is of these very keys and images; one with
    ``on_disk`` takes a folder. Rows are read from ``vectors`` a block at a time. With budgets (``auto``) it is what
    :func:`choose_gallery_index` chooses by the gallery alone, of rows in memory. With ``milvus`` the rows are in a
    database, with their labels and attributes, and the folder has their keys.

    >>> from stages.retrieval.example import IMAGES, VECTORS
    >>> index = index_gallery(VECTORS, IMAGES)
    >>> ids, _ = index.search(np.array([[1, 0]], np.float32), 2)
    >>> index.keys_of(ids[0])
    ['bag/0', 'bag/1']
    """
    if isinstance(config, AutoIndexConfig):
        return choose_gallery_index(vectors, gallery, config, folder=folder).index
    searched = with_row(vectors, gallery, "gallery")
    keys, embeddings = tuple(searched.keys), _fingerprint(vectors, searched)
    rows = StoredRows(vectors, searched.digests)
    if isinstance(config, MilvusIndexConfig):
        filled = MilvusIndex.fill(config, rows, GalleryRows.from_table(searched.table), embeddings)
        if folder is not None:
            filled.save(folder)
        return filled
    if folder is not None:
        with suppress(StaleStoreError, DamagedStoreError):  # of other rows, or not there: built below
            return GalleryIndex.load(folder, embeddings=embeddings, keys=keys, config=config, dim=vectors.dim)
    if isinstance(config, IvfPqIndexConfig) and config.on_disk:
        return build_on_disk(check_folder(folder), rows, keys, embeddings, config)
    index = GalleryIndex.build(rows, keys, embeddings, config)
    if folder is not None:
        index.save(folder)
    return index


def choose_gallery_index(
    vectors: Features,
    gallery: Records,
    config: AutoIndexConfig,
    *,
    folder: Where | None = None,
    queries: Records | None = None,
    judge: Judge = same_class,
) -> Choice:
    """The index that keeps the budgets of ``config``, by ``queries``, and what was tried.

    What is relevant ``judge`` says, by default the label and the domain. Without queries, or where too few of them have
    something to find, gallery rows search the others. Raises as :func:`evaluate` and :func:`choose_index` do.

    >>> from stages.retrieval.example import IMAGES, VECTORS
    >>> choose_gallery_index(VECTORS, IMAGES, AutoIndexConfig(ms=1000)).tried[0].verdict
    'chosen: exact, and within the budgets'
    """
    searched = with_row(vectors, gallery, "gallery")
    keys, embeddings = tuple(searched.keys), _fingerprint(vectors, searched)
    judged = evidence_fingerprint(gallery, queries)
    if folder is not None:
        with suppress(StaleStoreError, DamagedStoreError):
            if (stored := Choice.load(folder, config, judged, embeddings=embeddings, keys=keys)) is not None:
                return stored
    rows = unit_length(vectors.read(searched.digests))
    evidence = Evidence(rows, judge(searched, searched), np.arange(len(searched)))
    if queries is not None and len(usable := queries.take(queries.rows_in(vectors))):
        itself = own_rows(usable.keys, keys)
        given = Evidence(unit_length(vectors.read(usable.digests)), judge(usable, searched), itself)
        if np.count_nonzero(given.num_relevant) >= FEWEST_QUERIES:
            evidence = given
    choice = choose_index(rows, keys, embeddings, config, evidence=evidence)
    if folder is not None:
        choice.save(folder, config, judged)
    return choice


def evidence_fingerprint(gallery: Records, queries: Records | None) -> str:
    """The fingerprint of what an index is chosen by: the images with their labels, domains, attributes and tags."""
    sides = [side for side in (gallery, queries) if side is not None]
    columns = [name for name in gallery.table.column_names if name.startswith("attributes.") or name == "tags"]
    return fingerprint([records_fingerprint(side, columns) for side in sides])


@dataclass(frozen=True)
class StoredRows:
    """The rows of ``vectors`` for ``digests`` (G,), made unit length as they are read."""

    vectors: Features
    digests: Digests

    @property
    def shape(self) -> tuple[int, int]:
        """(G, E)."""
        return len(self.digests), self.vectors.dim

    def __len__(self) -> int:
        return len(self.digests)

    def __getitem__(self, rows: Rows) -> Vectors:
        return check_unit(unit_length(self.vectors.read(self.digests.take(rows))), "gallery vectors")


def _fingerprint(vectors: Features, searched: Records) -> str:
    """Of the rows: of the store they are read from, and of the images they belong to."""
    numbers = numbers_fingerprint(vectors, searched.digests)
    return fingerprint([vectors.fingerprint, numbers, digest_bytes(searched.digests.words.tobytes()).hex()])


LIKE, UNLIKE = 1.0, -0.5
"""The weights of terms: what a query is to be unlike counts half, as two like pictures differ in little but noise."""


def combined(terms: npt.NDArray[np.generic], weights: Sequence[float]) -> Vectors:
    """The vector (1, E) of unit length in the direction of the weighed sum of ``terms`` (n, E), each of unit length.

    Raises SettingsError where no term has a weight above 0, and where they cancel out.

    >>> combined(np.array([[2.0, 0.0], [0.0, 5.0]]), [LIKE, LIKE]).round(3).tolist()
    [[0.7070000171661377, 0.7070000171661377]]
    """
    if not any(weight > 0 for weight in weights):
        raise SettingsError("a search needs something to be like: an image, text or the key of a gallery image")
    summed = np.asarray(weights, np.float64) @ unit_length(terms).astype(np.float64)
    if np.linalg.norm(summed) < 1e-6:
        raise SettingsError("the terms of the search cancel out: leave one out")
    return unit_length(summed[None])
