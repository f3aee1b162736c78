"""What a protocol is: who is relevant to whom, what is searched, and how scores are reported; read from records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa

from cache.errors import RecordsError
from stages.ranking.relevance import ByClass, ByGroups, Judgement, Rows
from stages.records import Records
from stages.records.several import json_list, lists_nothing, several
from stages.retrieval.attribute_similarity import attribute_names

Names = tuple[str, ...]
Judge: TypeAlias = Callable[[Records, Records], Judgement]
"""What counts, given the queries and the gallery rows that have a vector."""


def same_class(queries: Records, gallery: Records) -> Judgement:
    """Relevant are the gallery rows of the same label and, where records have domains, of the same domain."""
    return Judgement(by_class(queries, gallery))


@dataclass(frozen=True)
class Rules:
    """The rules of one protocol.

    Args:
        metrics: what is scored where nobody says otherwise.
        judge: what counts.
        check: raises RecordsError where the queries and the gallery, all of them, are not those of the protocol.
        searched: ``merged``: every query searches the whole gallery; ``separate``: that of its own domain.
        reported_by: ``domain``, or the attribute by whose values scores are reported.
        columns: of the records, what the rules read beside labels and domains.
    """

    metrics: Names
    judge: Judge = same_class
    check: Callable[[Records, Records], None] = lambda queries, gallery: None  # noqa: ARG005
    searched: Literal["merged", "separate"] = "merged"
    reported_by: str = "domain"
    columns: Names = ()

    def groups(self, records: Records) -> Sequence[str | None]:
        """The group of each record (N,) by which its score is reported."""
        if self.reported_by == "domain":
            return records.domains
        if self.reported_by not in attribute_names(records):
            raise RecordsError(
                f"the protocol reports scores by the attribute {self.reported_by!r}, which the records have not: "
                "dataset.attributes = [...] lists the columns"
            )
        return records.attribute(self.reported_by)


def in_the_gallery(queries: Records, gallery: Records) -> None:
    """Leave-one-out: every query must be a row of the gallery, so that it is left out of its own ranking."""
    known = set(gallery.keys)
    if outside := [key for key in queries.keys if key not in known]:
        raise RecordsError(
            f"leave-one-out searches a set in itself, and {len(outside):,} of {len(queries):,} queries are not in the "
            f"gallery, the first {outside[0]!r}: let dataset.query and dataset.gallery name the same splits, or choose "
            'protocol = { kind = "query_gallery" }'
        )


def not_in_the_gallery(queries: Records, gallery: Records) -> None:
    """A query set and a gallery of their own must not share an image's key."""
    known = set(gallery.keys)
    if inside := [key for key in queries.keys if key in known]:
        raise RecordsError(
            f"the protocol has a gallery apart from the queries, and {len(inside):,} of {len(queries):,} queries are "
            f"in it, the first {inside[0]!r}: give each a split of its own, or choose "
            'protocol = { kind = "leave_one_out" }'
        )


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


def listing(metrics: Names, relevant: Names, junk: Names = (), reported_by: str = "domain") -> Rules:
    """Rules by the lists of keys in the attributes ``relevant`` and ``junk`` of the queries."""

    def judge(queries: Records, gallery: Records) -> Judgement:
        ignored = by_keys(queries, gallery.keys, junk) if junk else None
        return Judgement(by_keys(queries, gallery.keys, relevant), ignored)

    grouped = () if reported_by == "domain" else (reported_by,)
    columns = tuple(column_of(name) for name in (*relevant, *junk, *grouped))
    return Rules(metrics, judge, partial(_check_lists, relevant, junk), reported_by=reported_by, columns=columns)


def _check_lists(relevant: Names, junk: Names, queries: Records, gallery: Records) -> None:
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
