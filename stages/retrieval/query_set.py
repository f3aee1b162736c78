"""Queries beside the gallery rows that all of them search, with what counts for each: what is scored and studied.

Who is relevant to whom the records say: by label and domain, by any of several labels, or by lists of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from cache import Features
from cache.errors import NothingToScoreError, RecordsError
from stages.ranking.nearest import Similarity, compare_all, query_blocks
from stages.ranking.normalize import unit_length
from stages.ranking.relevance import ELSEWHERE, ByClass, ByGroups, Judgement, Mask, Relevance, Rows, own_rows
from stages.records import Records
from stages.records.several import json_list, lists_nothing, several
from stages.retrieval.attribute_similarity import attribute_names

Names = tuple[str, ...]
Judge: TypeAlias = Callable[[Records, Records], Judgement]
"""What counts, given the queries and the gallery rows that have a vector."""


def same_class(queries: Records, gallery: Records) -> Judgement:
    """Relevant are the gallery rows of the same label and, where records have domains, of the same domain."""
    return Judgement(by_class(queries, gallery))


def has_attribute(name: str, queries: Records, gallery: Records) -> None:
    """Queries and gallery must have the attribute by which labels are compared."""
    for role, records in (("queries", queries), ("gallery", gallery)):
        if column_of(name) not in records.table.column_names:
            known = ", ".join(attribute_names(records)) or "none"
            raise RecordsError(
                f"the {role} have no attribute {name!r} to compare labels by; there are {known}: "
                "dataset.attributes = [...] lists the columns"
            )
    if not any(any(several(records, column_of(name))) for records in (queries, gallery)):
        raise RecordsError(
            f"none of {len(queries):,} queries and {len(gallery):,} gallery images has a value of {name!r}, by which "
            "labels are compared: fill the column in, or judge by the label alone, protocol = "
            '{ kind = "by_label" }'
        )


def check_lists(relevant: Names, junk: Names, queries: Records, gallery: Records) -> None:
    """Raise RecordsError where the lists are not there, or not of this gallery."""
    lists = [json_lists(queries, name) for name in relevant]
    if not any(values for column in lists for values in column):
        raise RecordsError(
            f"none of the {len(queries):,} queries lists anything in attributes.{' or attributes.'.join(relevant)}, a "
            "JSON list of keys of the gallery, by which this protocol judges. By labels judges protocol = "
            '{ kind = "by_label" }.'
        )
    known = set(gallery.keys)
    ignored = [json_lists(queries, name) for name in junk]
    for at, key in enumerate(queries.keys):
        names = [name for column in lists for name in column[at]]
        if unknown := [name for name in names if name not in known]:
            raise RecordsError(
                f"query {key!r} lists {unknown[0]!r} as relevant, which is no key of the gallery ({len(known):,} "
                "images). Score against all of the benchmark's gallery, as the one dataset of a run: where several are "
                "joined, keys are others."
            )
        if both := {*names}.intersection(name for column in ignored for name in column[at]):
            raise RecordsError(f"query {key!r} lists {min(both)!r} both as relevant and as junk")


def by_class(queries: Records, gallery: Records) -> ByClass:
    """Relevant are the rows of the same label and, where records have domains, of the same domain."""
    labels, domains = (_numbers(queries, gallery, column) for column in ("label", "domain"))
    names = labels * (domains.max(initial=-1) + 2) + domains  # a pair has a number of its own
    classes = np.where(labels < 0, -1, np.unique(names, return_inverse=True)[1])
    return ByClass(classes[: len(queries)], classes[len(queries) :])


def _numbers(queries: Records, gallery: Records, column: str) -> Rows:
    """A whole number for each text of a column, of the queries and then of the gallery (Q + G,); -1 for none."""
    chunks = [chunk.cast(pa.string()) for side in (queries, gallery) for chunk in side.table[column].chunks]
    numbered = pa.chunked_array(chunks, pa.string()).combine_chunks().dictionary_encode().indices
    codes: Rows = numbered.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def sharing(names: str, queries: Records, gallery: Records) -> Judgement:
    """Relevant are the rows with at least one label in common, of the same domain where records have domains.

    The labels of a record are those that the attribute ``names`` lists (``tags``: its tags), as a JSON list or with
    ``|`` between them; where it lists none, the label alone.
    """
    searching, searched = _labels(queries, names), _labels(gallery, names)
    if all(len(labels) <= 1 for labels in (*searching, *searched)):
        numbers: dict[str, int] = {}
        sides = (
            [numbers.setdefault(labels[0], len(numbers)) if labels else -1 for labels in side]
            for side in (searching, searched)
        )
        return Judgement(ByClass(*(np.array(codes, np.int64) for codes in sides)))
    return Judgement(ByGroups.of(searching, searched))


def by_keys(queries: Records, keys: Sequence[str], attributes: Sequence[str]) -> ByGroups:
    """Relevant are the rows whose ``keys`` (G,) the ``attributes`` of a query list as JSON.

    A listed key that the gallery has not is nobody's: its image failed, or it is junk that is not there.
    """
    position = {key: row for row, key in enumerate(keys)}
    listed = [json_lists(queries, name) for name in attributes]
    together = zip(*listed, strict=True)
    return ByGroups.listed([[position[n] for rows in lists for n in rows if n in position] for lists in together])


def json_lists(records: Records, attribute: str) -> list[list[str]]:
    """The lists that an attribute holds as JSON, (N,), empty where a record has none or the attribute is not there."""
    column = f"attributes.{attribute}"
    if column not in records.table.column_names:
        return [[] for _ in range(len(records))]
    texts = zip(records.keys, records.table[column].to_pylist(), strict=True)
    return [[] if lists_nothing(text) else json_list(text, column, key) for key, text in texts]


def column_of(names: str) -> str:
    """The column of the records that an attribute, or ``tags``, is in."""
    return names if names == "tags" else f"attributes.{names}"


def _labels(records: Records, names: str) -> list[list[str]]:
    """The labels of each record, (N,), within its domain."""
    own = zip(several(records, column_of(names)), records.labels, records.domains, strict=True)
    return [
        [name if domain is None else f"{domain}\0{name}" for name in listed or ([] if label is None else [label])]
        for listed, label, domain in own
    ]


def rows_of(vectors: Features, records: Records, role: str) -> Rows:
    """Positions of the ``records`` that have a row; what failed is left out, what was never computed is refused."""
    rows = records.rows_in(vectors)
    if not len(rows):
        why = f"all {len(records):,} {role} images failed" if len(records) else f"there is no {role} record"
        raise NothingToScoreError(f"{why}. Name another split, or see the failures of {vectors.address}.")
    return rows


def with_row(vectors: Features, records: Records, role: str) -> Records:
    """The ``records`` that have a row. NothingToScoreError, which calls them by their ``role``, where none has."""
    return records.take(rows_of(vectors, records, role))


class Sides(NamedTuple):
    """The queries and the gallery, all of them, and those that have a row: ``searching`` (Q,) and ``searched`` (G,)."""

    queries: Records
    gallery: Records
    searching: Records
    searched: Records

    @classmethod
    def in_store(cls, vectors: Features, queries: Records, gallery: Records) -> Sides:
        """Raises NothingToScoreError where one side has no row."""
        return cls(queries, gallery, with_row(vectors, queries, "query"), with_row(vectors, gallery, "gallery"))


@dataclass(frozen=True, eq=False)
class QuerySet:
    """Q queries, the G gallery rows that all of them search, and what counts for each.

    A merged gallery makes one set; where every domain has a gallery of its own there is a set for each.

    ``itself`` (Q,) is the gallery row that is the query, which it does not search, or -1. ``query_rows`` (Q,) and
    ``gallery_rows`` (G,) are positions among all that the set was made from.
    """

    queries: Records
    gallery: Records
    judged: Judgement
    itself: Rows
    query_rows: Rows
    gallery_rows: Rows

    @classmethod
    def of(cls, queries: Records, gallery: Records, judge: Judge = same_class) -> QuerySet:
        """By label, within the domain, or as ``judge`` says. Raises RecordsError for a gallery key that is there twice.

        >>> from stages.retrieval.example import IMAGES
        >>> QuerySet.of(IMAGES, IMAGES).num_relevant.tolist()[:4]
        [3, 3, 3, 3]
        """
        itself, everything = own_rows(queries.keys, gallery.keys), (np.arange(len(queries)), np.arange(len(gallery)))
        return cls(queries, gallery, judge(queries, gallery), itself, *everything)

    @classmethod
    def in_store(cls, vectors: Features, queries: Records, gallery: Records) -> QuerySet:
        """By label, those that have a row in ``vectors``. Raises as :func:`stages.retrieval.evaluate` does."""
        return cls.of(with_row(vectors, queries, "query"), with_row(vectors, gallery, "gallery"))

    def __len__(self) -> int:
        return len(self.query_rows)

    @cached_property
    def num_relevant(self) -> Rows:
        """R: how many gallery rows are relevant to each query, (Q,)."""
        return self.judged.num_relevant(self.itself)

    @cached_property
    def num_searched(self) -> Rows:
        """How many gallery rows each query searches, (Q,): all but itself and its junk."""
        left = len(self.gallery) - (self.itself >= 0).astype(np.int64)
        if self.judged.junk is None:
            return left
        own = self.judged.junk.among(np.arange(len(self.itself)), self.itself[:, None])[:, 0]
        return left - self.judged.junk.counts + own

    def places(self, gallery: int) -> Rows:
        """The place here of each of the ``gallery`` rows it was made from (rows + 1,), or ELSEWHERE; -1 for row -1."""
        place = np.full(gallery + 1, ELSEWHERE, np.int64)
        place[self.gallery_rows], place[-1] = np.arange(len(self.gallery)), -1
        return place

    def take(self, rows: Rows) -> QuerySet:
        """The queries at ``rows`` (n,), the gallery as it is."""
        queries, judged = self.queries.take(rows), self.judged.take(rows)
        return QuerySet(queries, self.gallery, judged, self.itself[rows], self.query_rows[rows], self.gallery_rows)

    def answerable(self) -> QuerySet:
        """The queries to which something is relevant."""
        return self.take(np.flatnonzero(self.num_relevant > 0))

    def compared(self, vectors: Features, arrays: int) -> Iterator[tuple[Rows, Similarity, Mask, Mask]]:
        """Blocks of queries (n,), exact similarity (n, G), and :meth:`masks`: so many ``arrays`` in memory."""
        gallery, queries = (unit_length(vectors.read(side.digests)) for side in (self.gallery, self.queries))
        for block in query_blocks(len(queries), arrays * len(gallery)):
            yield block, compare_all(gallery, queries[block], self.itself[block]), *self.masks(block)

    def masks(self, block: Rows) -> tuple[Mask, Mask]:
        """Which gallery rows are relevant to the queries at ``block`` (n,), and which are the others; both (n, G).

        The query itself and its junk are neither.
        """
        relevant = _mask(self.judged.relevant, block, len(self.gallery))
        others = ~relevant
        if self.judged.junk is not None:
            others &= ~_mask(self.judged.junk, block, len(self.gallery))
        (place,) = np.nonzero(self.itself[block] >= 0)
        for mask in (relevant, others):
            mask[place, self.itself[block][place]] = False
        return relevant, others


def _mask(relevance: Relevance, block: Rows, gallery: int) -> Mask:
    mask = np.zeros((len(block), gallery), np.bool_)
    for row, query in zip(mask, block, strict=True):
        row[relevance.rows(int(query))] = True
    return mask
