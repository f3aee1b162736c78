"""The first ranks of every query under a protocol, from one exact search: what curves and pictures are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cache import Features
from cache.errors import NothingToScoreError
from stages.records import Records
from stages.retrieval import nearest
from stages.retrieval.protocols import Rules
from stages.retrieval.query_set import QuerySet, with_row

DEPTH = 100
"""Ranks of each query."""


@dataclass(frozen=True, eq=False)
class FirstRanks:
    """The ``DEPTH`` gallery rows nearest to each of the Q queries that can be answered.

    Attributes:
        queries: the Q queries.
        gallery: what they search.
        rows: (Q, DEPTH) positions in ``gallery``, -1 past the end of a small one. The query itself and its junk are
            not among them.
        similarity: (Q, DEPTH), -inf where there is no row.
        relevant: which of ``rows`` are relevant to the query, (Q, DEPTH).
        num_relevant: R, how many gallery rows are relevant, (Q,).
        groups: what scores are reported by beside those of all: the domain of each query, (Q,).
        searches: one for all, or one for each domain that is searched by itself.
    """

    queries: Records
    gallery: Records
    rows: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]
    relevant: npt.NDArray[np.bool_]
    num_relevant: npt.NDArray[np.int64]
    groups: Sequence[str | None]
    searches: Sequence[QuerySet]


def first_ranks(vectors: Features, queries: Records, gallery: Records, rules: Rules) -> FirstRanks | None:
    """Search ``gallery`` for every query as ``rules`` say; None where no query has anything to find.

    Records without a row in ``vectors`` are left out.
    """
    try:
        queries, gallery = with_row(vectors, queries, "query"), with_row(vectors, gallery, "gallery")
    except NothingToScoreError:
        return None
    parts = [part.answerable() for part in QuerySet.by_rules(rules, queries, gallery)]
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
    return FirstRanks(
        answered,
        gallery,
        np.concatenate(rows),
        np.concatenate(similarity),
        np.concatenate(relevant),
        np.concatenate([part.num_relevant for part in parts]),
        rules.groups(answered),
        parts,
    )


def _nearest(vectors: Features, part: QuerySet) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The first ``DEPTH`` rows (Q, DEPTH) that are neither the query nor its junk, and their similarity."""
    junk = part.judged.junk
    spare = 0 if junk is None else int(junk.counts.max(initial=0))
    rows, similarity = nearest(vectors, part.queries, part.gallery, DEPTH + spare)
    if junk is None:
        return rows, similarity
    dropped = junk.among(np.arange(len(rows)), rows)
    order = np.argsort(dropped, axis=1, kind="stable")[:, :DEPTH]
    rows, similarity = np.where(dropped, -1, rows), np.where(dropped, np.float32(-np.inf), similarity)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(similarity, order, axis=1)
