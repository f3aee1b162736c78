"""The first ranks of every query under a protocol, from one exact search: what curves and pictures are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cache import Features
from cache.errors import NothingToScoreError
from stages.ranking.relevance import moved_up, unwanted
from stages.records import Records
from stages.retrieval import nearest
from stages.retrieval.protocols import RankedProtocol
from stages.retrieval.query_set import QuerySet, with_row

DEPTH = 100
"""Ranks of each query."""


@dataclass(frozen=True, eq=False)
class FirstRanks:
    """The ``DEPTH`` gallery rows nearest to each of the Q queries that can be answered.

    ``rows`` (Q, DEPTH) are positions in ``gallery``, without the query itself and its junk, -1 past the end of a small
    one, with their ``similarity``, -inf there; ``relevant`` (Q, DEPTH) says which are, of ``num_relevant`` (Q,) in all.
    ``groups`` (Q,) are what scores are reported by beside those of all, and ``searches`` one for all, or one for each
    domain that is searched by itself.
    """

    queries: Records
    gallery: Records
    rows: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]
    relevant: npt.NDArray[np.bool_]
    num_relevant: npt.NDArray[np.int64]
    groups: Sequence[str | None]
    searches: Sequence[QuerySet]


def first_ranks(vectors: Features, queries: Records, gallery: Records, protocol: RankedProtocol) -> FirstRanks | None:
    """Search ``gallery`` for every query that has a row, as ``protocol`` says; None where none has anything to find."""
    try:
        queries, gallery = with_row(vectors, queries, "query"), with_row(vectors, gallery, "gallery")
    except NothingToScoreError:
        return None
    parts = [part.answerable() for part in protocol.query_sets(queries, gallery)]
    parts = [part for part in parts if len(part.queries)]
    if not parts:
        return None
    rows, similarity, relevant = [], [], []
    for part in parts:
        own, similar = _nearest(vectors, part)
        rows.append(np.append(part.gallery_rows, -1)[own])  # row -1 is the one appended
        similarity.append(similar)
        relevant.append(part.judged.relevant.among(np.arange(len(own)), own))
    answered = queries.take(np.concatenate([part.query_rows for part in parts]))
    num_relevant = np.concatenate([part.num_relevant for part in parts])
    ranks = np.concatenate(rows), np.concatenate(similarity), np.concatenate(relevant), num_relevant
    return FirstRanks(answered, gallery, *ranks, protocol.groups(answered), parts)


def _nearest(vectors: Features, part: QuerySet) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The first ``DEPTH`` rows (Q, DEPTH) that are neither the query nor its junk, and their similarity."""
    rows, similarity = nearest(vectors, part.queries, part.gallery, DEPTH + part.judged.most_junk())
    dropped = unwanted(part.judged, np.arange(len(rows)), rows)
    return moved_up(rows, dropped, -1)[:, :DEPTH], moved_up(similarity, dropped, -np.inf)[:, :DEPTH]
