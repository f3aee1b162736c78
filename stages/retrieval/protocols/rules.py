"""What a protocol is: who is relevant, who is junk, what is searched, and how scores are reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

from cache.errors import RecordsError
from stages.ranking.relevance import Judgement
from stages.records import Records
from stages.retrieval.attribute_similarity import attribute_names
from stages.retrieval.relevance import by_class, by_keys, by_labels, column_of, has_labels, json_lists

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
        searched: ``merged``: every query searches the whole gallery; ``own``: that of its own domain.
        reported_by: ``domain``, or the attribute by whose values scores are reported.
        columns: of the records, what the rules read beside labels and domains.
    """

    metrics: Names
    judge: Judge = same_class
    check: Callable[[Records, Records], None] = lambda queries, gallery: None  # noqa: ARG005
    searched: Literal["merged", "own"] = "merged"
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
        if not has_labels(records, name):
            known = ", ".join(attribute_names(records)) or "none"
            raise RecordsError(
                f"the {role} have no attribute {name!r} to compare labels by; there are {known}: "
                "dataset.attributes = [...] lists the columns"
            )


def sharing(attribute: str, queries: Records, gallery: Records) -> Judgement:
    """Relevant are the gallery rows with at least one label of the ``attribute`` in common."""
    return Judgement(by_labels(queries, gallery, attribute))


def listing(metrics: Names, relevant: Names, junk: Names = (), reported_by: str = "domain") -> Rules:
    """Rules by the lists of keys in the attributes ``relevant`` and ``junk`` of the queries."""
    judge, check = partial(_judge_lists, relevant, junk), partial(_check_lists, relevant, junk)
    grouped = () if reported_by == "domain" else (reported_by,)
    columns = tuple(column_of(name) for name in (*relevant, *junk, *grouped))
    return Rules(metrics, judge=judge, check=check, reported_by=reported_by, columns=columns)


def _judge_lists(relevant: Names, junk: Names, queries: Records, gallery: Records) -> Judgement:
    ignored = by_keys(queries, gallery.keys, junk) if junk else None
    return Judgement(by_keys(queries, gallery.keys, relevant), ignored)


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
