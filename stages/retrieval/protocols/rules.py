"""What a protocol is: who is relevant, who is junk, what is searched, and how scores are reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cache.errors import RecordsError
from stages.ranking.relevance import Judgement
from stages.records import Records
from stages.retrieval.relevance import by_class


def same_class(queries: Records, gallery: Records) -> Judgement:
    """Relevant are the gallery rows of the same label and, where records have domains, of the same domain."""
    return Judgement(by_class(queries, gallery))


def anything(queries: Records, gallery: Records) -> None:
    """Every set of records will do."""


@dataclass(frozen=True)
class Rules:
    """The rules of one protocol.

    Args:
        metrics: what is scored where nobody says otherwise.
        judge: what counts, given the queries and the gallery rows that have a vector.
        check: raises RecordsError where the queries and the gallery, all of them, are not those of the protocol.
        searched: ``merged``: every query searches the whole gallery; ``own``: that of its own domain.
        reported_by: ``domain``, or the attribute by whose values scores are reported.
    """

    metrics: tuple[str, ...]
    judge: Callable[[Records, Records], Judgement] = same_class
    check: Callable[[Records, Records], None] = anything
    searched: Literal["merged", "own"] = "merged"
    reported_by: str = "domain"

    def groups(self, records: Records) -> Sequence[str | None]:
        """The group of each record (N,) by which its score is reported."""
        return records.domains if self.reported_by == "domain" else records.attribute(self.reported_by)


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
