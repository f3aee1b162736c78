"""Score a store of features or embeddings on a set of queries and a gallery.

::

    rows by digest -> unit length -> ranks of the relevant rows, block of queries by block -> metrics -> Scores

What is relevant to a query, a protocol says; without one: the gallery rows of the same label. Where records have
domains the domain must be the same too, while the gallery stays one, merged over the domains. Gallery rows without a
label are relevant to nobody: distractors. A query that is itself in the gallery (the same record key) is taken out of
its own ranking; a byte-identical image under another key is another record, and stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cache import Features, fingerprint
from cache.errors import DamagedStoreError, NothingToScoreError, StaleStoreError
from stages.records import Records
from stages.retrieval.index import FlatIndexConfig, GalleryIndex, IndexConfig, build_index, unit_length
from stages.retrieval.protocols import ByLabelConfig, ProtocolConfig
from stages.retrieval.scores import Resampling, Scores, domain_names
from stages.retrieval.search import Rows, Similarity, search
from stages.retrieval.tables import Table, relevance_tables
from stages.retrieval.trial import Marking, TiePolicy, Trial, UnanswerablePolicy, positions_of


def evaluate(
    vectors: Features,
    *,
    queries: Records,
    gallery: Records,
    metrics: Sequence[str] | None = None,
    protocol: ProtocolConfig = ByLabelConfig(),
    ties: TiePolicy = "row",
    unanswerable: UnanswerablePolicy = "leave_out",
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Scores:
    """Score ``vectors``, made unit length, on every query against the whole gallery, exactly.

    Images that failed are left out and counted (``failed_queries``, ``failed_gallery``).

    Args:
        vectors: features or embeddings of the images in both.
        queries: what searches.
        gallery: what is searched; with leave-one-out the same records.
        metrics: names as :func:`find_metric` takes them; by default those of the protocol.
        protocol: who is relevant, what is searched, and by what groups scores are told.
        ties: equal similarities by gallery row, or ``expected``: the mean over all of their orders.
        unanswerable: queries to which nothing is relevant: left out of every mean, ``zero`` in it, or an ``error``.
        confidence: the share of resampled means between ``low`` and ``high``.
        resamples: how many times the queries are drawn anew for that.
        seed: of those draws.

    Raises:
        ValueError: an unknown metric, one that has no ``expected`` value, or a number out of range.
        RecordsError: two gallery records of one key, a domain named ``all`` or ``mean``, or records that are not what
            the protocol is for.
        MissingRowsError: an image that has no row in ``vectors`` at all.
        NothingToScoreError: no gallery image or no query is left.
    """
    rules = protocol.rules()
    marking = Marking.of(metrics, rules, ties, unanswerable, Resampling(confidence, resamples, seed))
    domain_names(rules.groups(queries))
    rules.check(queries, gallery)
    asked, searched = with_row(vectors, queries, "query"), with_row(vectors, gallery, "gallery")

    def tables(trial: Trial, depth: int) -> Iterator[Table]:
        return relevance_tables(
            unit_length(vectors.read(searched.take(trial.searched).digests)),
            unit_length(vectors.read(asked.take(trial.asked).digests)),
            trial.judged,
            trial.itself,
            depth,
            tied=ties == "expected",
        )

    return marking.score(tables, queries=queries, gallery=gallery, asked=asked, searched=searched)


def nearest(vectors: Features, queries: Records, gallery: Records, k: int) -> tuple[Rows, Similarity]:
    """The positions in ``gallery`` of the ``k`` records nearest to each query, and their similarity, both (Q, k).

    The query itself (the same key) is left out. A query whose image failed, and the places past the end of a small
    gallery, have position -1 and similarity -inf. Raises as :func:`evaluate` does.
    """
    asked, searched = _rows_of(vectors, queries, "query"), _rows_of(vectors, gallery, "gallery")
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


def _rows_of(vectors: Features, records: Records, role: str) -> Rows:
    """Positions of the ``records`` that have a row; what failed is left out, what was never computed is refused."""
    rows = records.rows_in(vectors)
    if not len(rows):
        why = f"all {len(records):,} {role} images failed" if len(records) else f"there is no {role} record"
        raise NothingToScoreError(f"{why}. Name another split, or see the failures of {vectors.path}.")
    return rows


def with_row(vectors: Features, records: Records, role: str) -> Records:
    """The ``records`` that have a row. NothingToScoreError, which calls them by their ``role``, where none has."""
    return records.take(_rows_of(vectors, records, role))
